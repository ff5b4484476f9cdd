"""SQL of a user's own: one process per question (analysis/console.py), which is killed when it takes too long.

The next question's process is started ahead, with its libraries loaded, so that a question need not wait for that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pyarrow as pa

from bnsweep.analysis.queries import Column
from bnsweep.analysis.result import Result
from bnsweep.errors import QueryError
from bnsweep.service.rows import Snapshot
from bnsweep.service.settings import Settings

__all__ = ["BusyError", "Console"]

LATE_S = 20.0  # past the time limit, which the process keeps itself: for starting and handing over on a busy machine
LISTEN_S = 0.5  # between looks whether who asked is still there

Newest = Callable[[], Awaitable[Snapshot]]

logger = logging.getLogger("bnsweep.service")


class BusyError(QueryError):
    """Too many questions at once."""


class Console:
    """Asks questions in processes of their own, a few at a time. For one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._turns = asyncio.Semaphore(settings.count("sql_at_once"))
        self._spare: Process | None = None
        self._taking = asyncio.Lock()  # two who take at once would start a spare each, and one would be forgotten
        self._folder = tempfile.TemporaryDirectory(prefix="bnsweep-console-")

    async def ask(self, newest: Newest, sql: str, *, gone: Callable[[], Awaitable[bool]] | None = None) -> Result:
        """The rows of one SELECT over the snapshot that is the newest when its turn comes: those before are deleted.

        `gone` tells that nobody waits for the rows any more.

        Raises QueryError with the reason, BusyError, what `newest` raises.
        """
        waiting_s = self._settings["sql_waiting_s"] if self._turns.locked() else None  # 0 would refuse a free turn too
        try:
            await asyncio.wait_for(self._turns.acquire(), waiting_s)
        except TimeoutError:
            raise BusyError("too many questions are asked at the moment; try again in a little while") from None
        try:
            return await self._ask(newest, sql, gone)
        finally:
            self._turns.release()

    async def _ask(self, newest: Newest, sql: str, gone: Callable[[], Awaitable[bool]] | None) -> Result:
        seconds = self._settings["sql_seconds"]
        process = await self._take()
        try:
            told = asyncio.ensure_future(process.communicate(self._question(await newest(), sql)))
            out, _ = await asyncio.wait_for(_unless_gone(told, gone), seconds + LATE_S)
        except TimeoutError:
            raise QueryError(f"the time limit of {seconds:g} s was reached; ask for less") from None
        finally:
            await _ended(process)
        return _result(out, sql, process.returncode)

    def _question(self, snapshot: Snapshot, sql: str) -> bytes:
        question = {
            "snapshot": snapshot.path,
            "sql": sql,
            "rows": self._settings.count("sql_rows"),
            "bytes": self._settings.count("sql_bytes"),
            "seconds": self._settings["sql_seconds"],
            "memory_mb": self._settings.count("sql_memory_mb"),
        }
        return json.dumps(question).encode() + b"\n"

    async def _take(self) -> Process:
        """A process that waits for its question, and another one started for the next."""
        async with self._taking:
            process, self._spare = self._spare, None
            if process is None or process.returncode is not None:
                process = await self._start()
            try:
                self._spare = await self._start()
            except OSError as error:  # no memory for one more, perhaps: this question has its own
                logger.warning("no process for the next question can be started yet: %s", error)
            except BaseException:  # who asked is gone: the next question takes it
                self._spare = process
                raise
            return process

    async def _start(self) -> Process:
        # -P: nothing is imported from the folder it stands in; no environment: nothing in it can be learnt.
        command = (sys.executable, "-P", "-m", "bnsweep.analysis.console")
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, stderr=asyncio.subprocess.DEVNULL, env={}, cwd=self._folder.name
        )

    async def close(self) -> None:
        if self._spare is not None:
            await _ended(self._spare)
        self._folder.cleanup()


async def _ended(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _unless_gone(
    told: asyncio.Future[tuple[bytes, bytes]], gone: Callable[[], Awaitable[bool]] | None
) -> tuple[bytes, bytes]:
    while gone is not None and not told.done():
        await asyncio.wait([told], timeout=LISTEN_S)
        if not told.done() and await gone():
            told.cancel()
            raise QueryError("nobody waits for the answer any more")
    return await told


def _result(out: bytes, sql: str, returncode: int | None) -> Result:
    head, _, rows = out.partition(b"\n")
    try:
        said = json.loads(head)
    except ValueError:
        raise QueryError(
            f"the question's process ended without an answer (code {returncode}): it took too much memory or time"
        ) from None
    if not said["ok"]:
        raise QueryError(said["error"])
    with pa.ipc.open_stream(rows) as stream:
        table = stream.read_all()
    return Result(tuple(Column(name) for name in table.column_names), table, bool(said["truncated"]), sql)
