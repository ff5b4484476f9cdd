"""The way to a Ray cluster, one that runs or one of our own, and what is said where there is none."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from bnsweep.errors import EngineError
from bnsweep.sweep.retries import first_line

__all__ = ["connect"]

PATIENCE_S = 10.0  # with a host that does not answer
FRAME_HEAD, SETTINGS = 9, 4  # bytes of an HTTP/2 frame's head; the type of the frame that a server begins with


def connect(address: str | None, cpus: int | None) -> None:
    """To an existing cluster by its address, else to one that is started here. Raises EngineError."""
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "CRITICAL"}
    where = f"the Ray cluster at {address}" if address else "a Ray cluster on this machine"
    why = _refusal(address) if address else ""
    if not why:
        try:
            if address:
                with _silent():
                    ray.init(address=address, **quiet)
            else:
                _start(num_cpus=cpus, include_dashboard=False, **quiet)
            return
        except Exception as error:  # noqa: BLE001 - Ray raises OSErrors and bare Exceptions as well as its own
            why = first_line(error).rstrip(".") + (". Is it up, and of the same version of Ray?" if address else "")
    raise EngineError(f"cannot reach {where}: {why} (--engine inline needs no cluster)")


def _refusal(address: str) -> str:
    """Why the cluster at host:port will not have us, if that can be told at once; `ray.init` tries for 20 s."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:
        return ""  # auto, ray://...: Ray knows
    try:
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as line:
            if not _speaks_grpc(line):
                return "what listens there does not speak Ray's protocol. Is the port the head's own (6379 by default)?"
    except OSError as error:
        return f"{error.strerror or error}. Is it up?"
    try:
        from ray._raylet import GcsClient  # type: ignore[attr-defined]

        with _silent():
            GcsClient(address=address, cluster_id=None)
    except AuthenticationError:
        return (
            "it wants a token that we do not have: set RAY_AUTH_MODE=token, and the cluster's token as RAY_AUTH_TOKEN "
            "or in a file named by RAY_AUTH_TOKEN_PATH"
        )
    except Exception:  # noqa: BLE001 - not a public interface: without it, `ray.init` says what is wrong
        return ""
    return ""


def _speaks_grpc(line: socket.socket) -> bool:
    """Whether a server greets as HTTP/2 does (RFC 9113, 3.4): `ray.init` waits for ever for one that does not."""
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return True  # it greets under encryption; Ray knows
    line.settimeout(PATIENCE_S)
    greeting = b""
    try:
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, SETTINGS, 0, 0, 0, 0, 0)))
        while len(greeting) < FRAME_HEAD and (more := line.recv(FRAME_HEAD - len(greeting))):
            greeting += more
    except OSError:
        return False
    return len(greeting) == FRAME_HEAD and greeting[3] == SETTINGS


def _start(**options: Any) -> None:
    """A cluster of our own. Ray gives a node 30 s to come up, which a busy machine may not keep: then once more."""
    for last in (False, True):
        try:
            ray.init(address="local", **options)
            return
        except Exception as error:
            if last or "timed out during startup" not in str(error):
                raise
            ray.shutdown()


@contextmanager
def _silent() -> Iterator[None]:
    """Ray's library warns, past Python and all its settings, of what we say in one line."""
    sys.stderr.flush()
    before = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
