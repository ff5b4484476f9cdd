"""The claim: one driver writes to a store at a time.

Claims are numbered (epochs), and each is a file made with create-if-absent: taking over is making the next number, so
of any number of takers one wins. The holder renews a heartbeat beside it. A holder that was believed dead and was not
finds out before it publishes: its epoch is no longer the last, and the new holder's first log entry takes the number
that the old one's next entry would have had.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from bnsweep.errors import StoreClaimedError, StoreDamagedError, StoreError
from bnsweep.store.filesystem import Files

__all__ = ["EXPIRY_S", "HEARTBEAT_S", "UNHEARD_S", "Claim", "Holder", "is_dead", "newest_epoch", "read_holder"]

FOLDER = "claims"
NAME = re.compile(r"claims/(\d{9})\.json")
OWN = re.compile(r"claims/(\d{9})\.(json|beat)")
HEARTBEAT_S = 10.0
EXPIRY_S = 60.0  # a holder on another machine is taken for dead after this long without a heartbeat
UNHEARD_S = 600.0  # the same for those who only look: by their own clock, since they may not be allowed to write


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a claim."""

    host: str
    pid: int
    user: str
    since: str  # ISO 8601, UTC
    machine: str  # boot and process namespace: whether `pid` means anything here
    started: str  # the process's start time, as a number may be used again by another process
    id: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (user {self.user}) since {self.since}"

    @classmethod
    def me(cls) -> Holder:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), _user(), now, _machine(), _started(os.getpid()), uuid4().hex)

    def gone(self) -> bool | None:
        """Whether the process has ended; None if it cannot be seen from here."""
        if self.machine != _machine():
            return None
        return _started(self.pid) != self.started


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container whose user has no name
        return str(os.getuid())


def _machine() -> str:
    """Equal for processes that see each other's numbers."""
    marks = [socket.gethostname()]
    with suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        marks.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(marks)


def _started(pid: int) -> str:
    """When a process started, in the system's own words; empty if there is no such process."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        command = ["ps", "-o", "lstart=", "-p", str(pid)]  # macOS
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603
    fields = status.rpartition(")")[2].split()  # the command's name before it may hold anything
    return "" if fields[0] in "ZX" else fields[19]  # a zombie writes nothing any more


class Claim:
    """The right to write to a store, held until `release` or the end of the `with` block."""

    def __init__(
        self,
        files: Files,
        *,
        heartbeat_s: float = HEARTBEAT_S,
        expiry_s: float = EXPIRY_S,
        take_over: bool = False,
        after: int = 0,
    ) -> None:
        self._files = files
        self._heartbeat_s, self._expiry_s = heartbeat_s, expiry_s
        self._stop = threading.Event()
        self._lost: str | None = None
        self.holder = Holder.me()
        self.epoch = self._acquire(after, take_over=take_over)
        self._thread = threading.Thread(target=self._beat_on, name="bnsweep-claim", daemon=True)
        self._thread.start()

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _acquire(self, after: int, *, take_over: bool) -> int:
        newest = newest_epoch(self._files)
        holder = read_holder(self._files, newest)
        clock = partial(_clock, self._files)
        if not (
            holder is None or take_over or is_dead(self._files, newest, holder, expiry_s=self._expiry_s, clock=clock)
        ):
            raise StoreClaimedError(
                f"{self._files.location} is being written to by {holder}. Wait for it or stop it; if you know that it "
                f"is dead, take over with `bnsweep run --take-over`."
            )
        epoch = max(newest, after) + 1
        made = self._files.create(_name(epoch), json.dumps(asdict(self.holder)).encode())
        # A number that was used and tidied away could be made again: only the newest counts.
        if not made or newest_epoch(self._files) != epoch:
            winner = read_holder(self._files, newest_epoch(self._files)) or "another process"
            raise StoreClaimedError(f"{self._files.location} was claimed at the same moment by {winner}")
        self._beat(epoch)
        self._tidy(epoch)
        return epoch

    def _tidy(self, epoch: int) -> None:
        for entry in self._files.list(FOLDER):
            own = OWN.fullmatch(entry.name)
            if own and int(own[1]) < epoch:
                self._files.delete(entry.name)

    def _beat(self, epoch: int) -> None:
        self._files.write(_beat_name(epoch), b"alive\n")

    def _beat_on(self) -> None:
        while not self._stop.wait(self._heartbeat_s):
            # A full disk or a cut link must not end the heartbeat: fencing protects the store, not this thread.
            with suppress(StoreError):
                self.check()
                self._beat(self.epoch)

    def check(self) -> None:
        """Raise StoreClaimedError unless this is still the claim."""
        if self._lost is None:
            newest = newest_epoch(self._files)
            if newest != self.epoch:
                self.lose(newest)
        if self._lost is not None:
            raise StoreClaimedError(self._lost)

    def lose(self, epoch: int) -> None:
        """Another process has taken over."""
        winner = read_holder(self._files, epoch) or "another process"
        self._lost = (
            f"{self._files.location} was taken over by {winner}: this process no longer writes to it. "
            f"What it had committed before is kept."
        )

    def release(self) -> None:
        """Give the claim back. Doing it twice is harmless."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(timeout=self._heartbeat_s)
        with suppress(StoreError):  # a full disk must not hide why the work ended; the process's end is seen too
            self.check()
            self._files.write(_beat_name(self.epoch), b"released\n")


def _name(epoch: int) -> str:
    return f"{FOLDER}/{epoch:09d}.json"


def _beat_name(epoch: int) -> str:
    return f"{FOLDER}/{epoch:09d}.beat"


def newest_epoch(files: Files) -> int:
    """The number of the last claim ever made; 0 if there was none."""
    matches = (NAME.fullmatch(entry.name) for entry in files.list(FOLDER))
    return max((int(match[1]) for match in matches if match), default=0)


def is_dead(files: Files, epoch: int, holder: Holder, *, expiry_s: float, clock: Callable[[], float]) -> bool:
    """Whether a claim's process has ended, or, where that cannot be seen, has not been heard of for so long."""
    gone = holder.gone()
    if gone is not None:
        return gone
    beat = files.stat(_beat_name(epoch)) or files.stat(_name(epoch))
    return beat is None or clock() - beat.modified > expiry_s


def forget(files: Files) -> None:
    """Remove what claims have left in a folder that nobody writes to, and nothing else."""
    for entry in files.list(FOLDER):
        if OWN.fullmatch(entry.name):
            files.delete(entry.name)
    with suppress(OSError):  # of a folder with other files in it, which are not ours
        Path(files.url(FOLDER)).rmdir()


def _clock(files: Files) -> float:
    """The time by the clock that stamps the store's files: other machines' clocks may differ."""
    probe = f"{FOLDER}/probe-{uuid4().hex}"
    files.write(probe, b"")
    entry = files.stat(probe)
    files.delete(probe)
    if entry is None:
        raise StoreError(f"{files.location}: a file that was just written cannot be seen")
    return entry.modified


def read_holder(files: Files, epoch: int) -> Holder | None:
    """Who holds this claim; None if it was released, or never made."""
    if epoch == 0:
        return None
    with suppress(FileNotFoundError):
        if files.read(_beat_name(epoch)).strip() == b"released":
            return None
    try:
        return Holder(**json.loads(files.read(_name(epoch))))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise StoreDamagedError(
            f"{files.url(_name(epoch))} is damaged: delete it if no driver is writing to the store"
        ) from error
