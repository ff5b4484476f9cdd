"""The log: numbered entries that say which parts are live.

Entry n is made with create-if-absent, so it is written once, by a process that has seen all entries before it: that
alone makes commits atomic, in order, and safe against any number of writers. Snapshots repeat the sum of all entries
up to theirs, so that opening reads one file and a short tail; entries before them can go.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from uuid import uuid4

from bnsweep.errors import StoreDamagedError, StoreError, StoreUnreadableError, StoreUnwritableError
from bnsweep.store.filesystem import Files

__all__ = ["Log", "LogEntry", "Part", "State"]

FOLDER = "log"
ENTRY_NAME = re.compile(r"log/(\d{12})(\.snapshot)?\.json")
PART_PATH = re.compile(r"parts/([a-z_]{1,32})/[0-9a-f]{8,64}(-\d{1,9})?\.parquet")
SNAPSHOT_EVERY = 64  # entries; more in a store of many parts, so that writing snapshots stays cheap
STALE_S = 60.0  # look at the log again before publishing, after this long
PRUNE_AGE_S = 3600.0  # entries that a snapshot covers go after this long: far longer than any publication takes


@dataclass(frozen=True, slots=True)
class Part:
    """One live Parquet file."""

    path: str  # relative to the store
    table: str
    rows: int
    bytes: int
    sha256: str
    version: int = 1  # schema version of its columns


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One step of the store: the parts it adds and those it removes."""

    kind: str  # claim, commit, compact, collect, set-aside, repair or upgrade
    add: tuple[Part, ...] = ()
    remove: tuple[str, ...] = ()
    forget: tuple[str, ...] = ()  # removed parts whose files are gone now
    epoch: int = 0  # of the writer's claim; 0: written without one, as compaction may
    by: str = ""
    at: float = 0.0
    seq: int = 0
    id: str = ""  # tells a writer whether the entry that is there is its own


@dataclass(frozen=True)
class State:
    """The sum of all entries up to `seq`."""

    seq: int = 0
    epoch: int = 0  # of the newest claim seen
    parts: dict[str, Part] = field(default_factory=dict)  # live, by path, in the order of their commits
    retired: dict[str, float] = field(default_factory=dict)  # replaced by compaction, when; readers may still use them

    def after(self, entries: Sequence[LogEntry]) -> State:
        """The state once these entries are applied, in order."""
        if not entries:
            return self
        parts, retired, epoch = dict(self.parts), dict(self.retired), self.epoch
        for entry in entries:
            for path in entry.remove:
                if parts.pop(path, None) is not None and entry.kind != "repair":
                    retired[path] = entry.at
            for path in entry.forget:
                retired.pop(path, None)
            for part in entry.add:
                parts[part.path] = part
                retired.pop(part.path, None)
            epoch = max(epoch, entry.epoch)
        return State(entries[-1].seq, epoch, parts, retired)


class Log:
    """Reads and extends the log of one store. Not for several threads at once."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._since_snapshot = 0
        self._seen_at = 0.0
        self.state = State()

    def refresh(self) -> State:
        """The newest state; readers in the middle of work keep the one they have."""
        for attempt in range(5):  # pruning may take away a snapshot between listing and reading
            try:
                self.state = self._load()
            except FileNotFoundError:
                time.sleep(0.05 * attempt)  # a shared folder may list a new file late
                continue
            return self.state
        raise StoreDamagedError(
            f"the log of {self._files.location} has a gap after entry {self.state.seq}: files were deleted or not all "
            f"copied. Copy the store again, or `bnsweep store verify --repair`."
        )

    def _load(self) -> State:
        seen_at = time.time()
        entries, snapshots = self._listed()
        state = self.state
        if snapshots and snapshots[-1] > state.seq:
            state = self._read_snapshot(snapshots[-1])
        last = max(entries, default=state.seq)
        state = state.after(self._read_entries(range(state.seq + 1, last + 1)))
        self._since_snapshot = state.seq - (snapshots[-1] if snapshots else 0)
        self._seen_at = seen_at
        return state

    def _listed(self) -> tuple[list[int], list[int]]:
        entries: list[int] = []
        snapshots: list[int] = []
        for listed in self._files.list(FOLDER):
            match = ENTRY_NAME.fullmatch(listed.name)
            if match:
                (snapshots if match[2] else entries).append(int(match[1]))
        return sorted(entries), sorted(snapshots)

    def _read_entries(self, numbers: range) -> list[LogEntry]:
        if len(numbers) < 4:
            return [self._read_entry(seq) for seq in numbers]
        with ThreadPoolExecutor(8) as pool:  # on an object store each one is a round trip
            return list(pool.map(self._read_entry, numbers))

    def _read_entry(self, seq: int) -> LogEntry:
        name = entry_name(seq)
        fields = unseal(name, self._files.read(name))
        add = tuple(part_from(name, part) for part in fields["add"])
        known = {key: fields[key] for key in ("kind", "epoch", "by", "at", "seq", "id")}
        return LogEntry(**known, add=add, remove=tuple(fields["remove"]), forget=tuple(fields["forget"]))

    def _read_snapshot(self, seq: int) -> State:
        name = snapshot_name(seq)
        fields = unseal(name, self._files.read(name))
        parts = [part_from(name, part) for part in fields["parts"]]
        return State(fields["seq"], fields["epoch"], {part.path: part for part in parts}, fields["retired"])

    def publish(self, make: Callable[[State], LogEntry | None]) -> State:
        """Append the entry that `make` derives from the newest state; on a conflict it is asked again.

        `make` raises to give up, for instance because the claim was lost, and returns None if nothing is to be done.
        """
        if time.time() - self._seen_at > STALE_S:
            self.refresh()
        for _ in range(10_000):
            wanted = make(self.state)
            if wanted is None:
                return self.state
            entry = replace(wanted, seq=self.state.seq + 1, id=uuid4().hex, at=wanted.at or time.time())
            if self._files.create(entry_name(entry.seq), seal(_fields(entry))) or self._is_mine(entry):
                self._confirm(entry)
                self.state = self.state.after([entry])
                self._since_snapshot += 1
                self._snapshot_if_due()
                return self.state
            self.refresh()
        raise StoreError(f"{self._files.location} is too busy: 10,000 attempts to publish a log entry met another's")

    def _is_mine(self, entry: LogEntry) -> bool:
        try:
            return self._read_entry(entry.seq).id == entry.id
        except FileNotFoundError:
            return False

    def _confirm(self, entry: LogEntry) -> None:
        """After a long stall (a suspended laptop) the number may be one that was used and pruned meanwhile."""
        if time.time() - self._seen_at < PRUNE_AGE_S / 2:
            return
        entries, snapshots = self._listed()
        if max([*entries, *snapshots]) > entry.seq:
            self._files.delete(entry_name(entry.seq))
            raise StoreError(
                f"this process stood still for {time.time() - self._seen_at:.0f} s while others went on writing to "
                f"{self._files.location}; its last commit was not made. Run again."
            )
        self._seen_at = time.time()

    def _snapshot_if_due(self) -> None:
        if self._since_snapshot >= max(SNAPSHOT_EVERY, len(self.state.parts) // SNAPSHOT_EVERY):
            with suppress(StoreUnwritableError):  # it only saves time
                self.snapshot()

    def snapshot(self) -> None:
        """Write the state as one file, so that opening need not read what came before."""
        state = self.state
        fields = {
            "seq": state.seq,
            "epoch": state.epoch,
            "parts": [_compact(part) for part in state.parts.values()],
            "retired": state.retired,
        }
        self._files.write(snapshot_name(state.seq), seal(fields))
        self._since_snapshot = 0

    def wants_pruning(self) -> bool:
        """Whether there are more files than opening needs."""
        entries, snapshots = self._listed()
        return len(entries) + len(snapshots) > 2 * SNAPSHOT_EVERY

    def prune(self, *, age_s: float = PRUNE_AGE_S) -> int:
        """Delete entries and snapshots that the last snapshot but one covers and that are old enough; how many."""
        _, snapshots = self._listed()
        if len(snapshots) < 2:
            return 0
        horizon, before, removed = snapshots[-2], time.time() - age_s, 0
        for listed in self._files.list(FOLDER):
            match = ENTRY_NAME.fullmatch(listed.name)
            covered = match and (int(match[1]) < horizon or (int(match[1]) == horizon and not match[2]))
            if covered and listed.modified <= before:
                self._files.delete(listed.name)
                removed += 1
        return removed

    def repair(self) -> list[str]:
        """Move damaged entries and snapshots to quarantine/; an empty entry takes an entry's place. Which ones.

        Needs the claim. The rows of a lost commit are then missing, and computed again by the next run.
        """
        bad = []
        entries, snapshots = self._listed()
        last_good = 0
        for seq in snapshots:
            if _readable(self._read_snapshot, seq):
                last_good = seq
            else:
                bad.append(snapshot_name(seq))
                self._files.set_aside(bad[-1])
        for seq in range(last_good + 1, max(entries, default=0) + 1):
            if not _readable(self._read_entry, seq):
                bad.append(entry_name(seq))
                self._files.set_aside(bad[-1])
                blank = LogEntry("repair", seq=seq, id=uuid4().hex, at=time.time(), by="repair")
                self._files.write(bad[-1], seal(_fields(blank)))
        return bad


def _readable(read: Callable[[int], object], seq: int) -> bool:
    try:
        read(seq)
    except (StoreDamagedError, StoreUnreadableError, FileNotFoundError):
        return False
    return True


def entry_name(seq: int) -> str:
    return f"{FOLDER}/{seq:012d}.json"


def snapshot_name(seq: int) -> str:
    return f"{FOLDER}/{seq:012d}.snapshot.json"


def _fields(entry: LogEntry) -> dict[str, Any]:
    return {**asdict(entry), "add": [_compact(part) for part in entry.add]}


def _compact(part: Part) -> list[Any]:
    return [part.path, part.table, part.rows, part.bytes, part.sha256, part.version]


def part_from(source: str, fields: Sequence[Any]) -> Part:
    """A part as the log wrote it; its path must lie in the folder of its table."""
    try:
        part = Part(*fields)
        match = PART_PATH.fullmatch(part.path)
    except TypeError as error:
        raise StoreDamagedError(f"{source} lists a part that is none: {fields!r}") from error
    if match is None or match[1] != part.table:
        raise StoreDamagedError(f"{source} lists a part outside parts/TABLE/: {part.path!r}")
    return part


def seal(fields: dict[str, Any]) -> bytes:
    """JSON on one line, and its digest on the next, so that damage shows."""
    body = json.dumps(fields, separators=(",", ":")).encode()
    return body + b"\n" + hashlib.sha256(body).hexdigest().encode() + b"\n"


def unseal(name: str, data: bytes) -> dict[str, Any]:
    """What `seal` wrote; StoreDamagedError if it is not that any more."""
    body, _, digest = data.rstrip(b"\n").rpartition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise StoreDamagedError(
            f"{name} does not match its digest: the file was changed or cut short. "
            f"`bnsweep store verify --repair` sets it aside; the next run computes what it listed again."
        )
    fields: dict[str, Any] = json.loads(body)
    return fields
