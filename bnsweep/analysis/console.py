"""One SQL question of a stranger's, answered by a process that knows and may do nothing else.

    python -m bnsweep.analysis.console

Standard input is one line of JSON, the arguments of `answer` by name. Standard output is one line of JSON,
{"ok": true, "truncated": ..} or {"ok": false, "error": ..}, and behind the former the rows as an Arrow stream. The
process imports DuckDB and Arrow, waits for its one question, answers and ends.

Walls, from the inside out: the statement is one SELECT whose plan changes nothing; the database is a snapshot opened
read-only by a connection that reaches no file, network, extension or Python variable and cannot be reconfigured; the
process can write no file, has no network where the kernel allows to give it up, is nobody where it was root, holds an
empty environment, and has limits on memory and time. The parent kills it if it stays too long.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import resource
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa

from bnsweep.analysis.locked import LOCKED, SESSION, asked, why_not

__all__ = ["answer", "main"]

CAGE = {**LOCKED, "enable_external_access": "false", "temp_directory": "", "threads": "1"}
BATCH_ROWS = 1024
GRACE_S = 2  # after the time limit, until the kernel ends a process that does not listen
OVERHEAD_MB = 1024  # of address space: libraries, Arrow's pools, stacks
NOBODY = 65534
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
NO_NEW_PRIVILEGES = 38


class RefusedError(Exception):
    """The question is not answered; the text says why."""


def main() -> None:
    """Answer the question on standard input."""
    line = sys.stdin.buffer.readline()
    if not line:  # the service has gone without a question
        return
    question = json.loads(line)
    out = sys.stdout.buffer
    try:
        rows, truncated = answer(**question)
    except RefusedError as error:
        out.write(json.dumps({"ok": False, "error": str(error)}).encode() + b"\n")
    else:
        out.write(json.dumps({"ok": True, "truncated": truncated}).encode() + b"\n" + rows)
    out.flush()
    os._exit(0)  # at once: nothing is to be tidied up


def answer(*, snapshot: str, sql: str, rows: int, bytes: int, seconds: float, memory_mb: int) -> tuple[bytes, bool]:  # noqa: A002
    """The rows as an Arrow stream, and whether there were more. Raises RefusedError."""
    connection = duckdb.connect(snapshot, read_only=True, config={**CAGE, "memory_limit": f"{memory_mb}MB"})
    connection.execute(SESSION)
    names = [name for (name,) in connection.execute("SELECT DISTINCT table_name FROM described ORDER BY 1").fetchall()]
    connection.execute("SET lock_configuration = true")
    _renounce(seconds=seconds, memory_mb=memory_mb)
    timer = threading.Timer(seconds, connection.interrupt)
    timer.daemon = True
    timer.start()
    try:
        if reason := why_not(connection, sql):
            raise RefusedError(reason)
        return _fetch(connection, sql, rows=rows, limit=bytes)
    except duckdb.InterruptException:
        raise RefusedError(f"the time limit of {seconds:g} s was reached; ask for less") from None
    except duckdb.CatalogException as error:
        raise RefusedError(f"{_message(error)}\nTables and views: {', '.join(names)}") from None
    except (duckdb.OutOfMemoryException, MemoryError, pa.ArrowMemoryError) as error:
        raise RefusedError(
            f"the memory limit of {memory_mb} MB was reached; ask for less ({_message(error)})"
        ) from None
    except duckdb.PermissionException as error:
        raise RefusedError(f"a question reads the store's tables and nothing else: {_message(error)}") from None
    except (duckdb.Error, pa.ArrowException, RuntimeError, ValueError, UnicodeError) as error:
        raise RefusedError(_message(error)) from None


def _fetch(connection: duckdb.DuckDBPyConnection, sql: str, *, rows: int, limit: int) -> tuple[bytes, bool]:
    connection.execute("BEGIN TRANSACTION READ ONLY")
    reader = asked(connection, sql).to_arrow_reader(BATCH_ROWS)
    sink, count, truncated = io.BytesIO(), 0, False
    with pa.ipc.new_stream(sink, reader.schema) as stream:
        for batch in reader:
            room = rows - count
            if batch.num_rows > room:
                batch, truncated = batch.slice(0, room), True  # noqa: PLW2901
            stream.write_batch(batch)
            count += batch.num_rows
            if sink.tell() > limit:
                raise RefusedError(f"the answer is larger than {limit:,} bytes; ask for fewer rows or columns")
            if truncated:
                break
    return sink.getvalue(), truncated


def _renounce(*, seconds: float, memory_mb: int) -> None:
    """Give up what a question never needs. What the system does not offer is left out: the walls within hold."""
    space = _address_space() + (memory_mb + OVERHEAD_MB) * 2**20
    limits = {
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_AS: space,
        resource.RLIMIT_CPU: int(seconds) + GRACE_S,
    }
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)  # noqa: PLW2901
        resource.setrlimit(kind, (value, value))
    signal.alarm(int(seconds) + GRACE_S)
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "unshare"):
        root = os.geteuid() == 0
        libc.unshare(CLONE_NEWNET if root else CLONE_NEWUSER | CLONE_NEWNET)
    if os.geteuid() == 0:
        with suppress(OSError):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
    if hasattr(libc, "prctl"):
        libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)


def _address_space() -> int:
    """Bytes of address space that the process has by now."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return 2**32


def _message(error: BaseException) -> str:
    return str(error).strip()[:4000] or type(error).__name__


if __name__ == "__main__":
    main()
