"""A store: the tables of all sweeps in one place, and the only way to them.

    bnsweep-store.json   schema version
    log/                 which parts are live (log.py)
    parts/TABLE/         Parquet files (parts.py)
    claims/              who may write (claim.py)
    networks/, weights/, resume/   trained networks, what they began with, runs in flight (checkpoints.py)
    quarantine/          what `verify --repair` set aside

A commit writes its parts, then one log entry: all of its rows are there, or none. Readers open the parts that the log
lists and never look at folders, so unfinished, orphaned and replaced files cannot be seen.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from pyarrow import fs

from bnsweep.errors import SchemaError, StoreError, UnknownNameError
from bnsweep.store import parts as part_files
from bnsweep.store import schema
from bnsweep.store.checkpoints import Checkpoints, Slot
from bnsweep.store.claim import EXPIRY_S, HEARTBEAT_S, UNHEARD_S, Claim, Holder, is_dead, newest_epoch, read_holder
from bnsweep.store.filesystem import Files, one_line
from bnsweep.store.head import HEAD, check_place, create_head, head_version, write_head
from bnsweep.store.location import open_files
from bnsweep.store.log import Log, LogEntry, Part, State

__all__ = ["Store"]


class Store:
    """The rows, networks and slots at one location. Readers see the state of their last `refresh`."""

    def __init__(self, files: Files, version: int) -> None:
        self.files = files
        self.version = version  # schema version of the store as a whole
        self.checkpoints = Checkpoints(files)
        self._log = Log(files)
        self._claim: Claim | None = None
        self.refresh()

    @classmethod
    def create(cls, location: str | Path) -> Store:
        """A new, empty store.

        Raises StoreError if there is one already, InputError for a place that is taken, StoreUnwritableError.
        """
        files = open_files(location)
        if files.size(HEAD) is None:
            check_place(files)
        if not create_head(files):
            raise StoreError(f"{files.location} is a store already: open it, or choose another place")
        return cls(files, schema.SCHEMA_VERSION)

    @classmethod
    def open(cls, location: str | Path, *, writable: bool = False) -> Store:
        """The store at a location.

        Raises StoreError if there is none, SchemaError if a newer bnsweep wrote it, or an older one and `writable`.
        """
        files = open_files(location)
        version = head_version(files)
        part_files.check_version(files.location, version)
        if writable and version < schema.SCHEMA_VERSION:
            raise SchemaError(
                f"{files.location} has schema version {version} and can be read, but this bnsweep writes version "
                f"{schema.SCHEMA_VERSION}: `bnsweep store upgrade` rewrites it"
            )
        return cls(files, version)

    @staticmethod
    def exists(location: str | Path) -> bool:
        """Whether there is a store at a location."""
        return open_files(location).size(HEAD) is not None

    @classmethod
    def open_existing(cls, location: str | Path) -> Store | None:
        """The store at a location, or None where one can be made; InputError for a place that is taken."""
        if cls.exists(location):
            return cls.open(location)
        check_place(open_files(location))
        return None

    @classmethod
    def open_or_create(cls, location: str | Path) -> Store:
        """The store at a location, to write to, made if there is none; InputError for a place that is taken."""
        files = open_files(location)
        if files.size(HEAD) is None:
            check_place(files)
            create_head(files)
        return cls.open(location, writable=True)

    @property
    def location(self) -> str:
        """Where it is, as it was asked for."""
        return self.files.location

    @property
    def filesystem(self) -> fs.FileSystem:
        """The pyarrow file system that `part_names` belong to."""
        return self.files.arrow

    @property
    def state(self) -> State:
        """The log's state that this object works with."""
        return self._log.state

    @property
    def epoch(self) -> int:
        """Of the claim that this object holds; 0 without one."""
        return 0 if self._claim is None else self._claim.epoch

    @property
    def log(self) -> Log:
        """For compaction, verification and repair."""
        return self._log

    def refresh(self) -> Store:
        """See what others have committed since; returns itself."""
        state = self._log.refresh()
        newest = max((part.version for part in state.parts.values()), default=self.version)
        part_files.check_version(self.location, newest)
        return self

    # reading

    def parts(self, table: str | None = None) -> list[Part]:
        """The live parts, of one table or of all, in the order of their commits."""
        if table is not None:
            part_files.check_table(table)
        return [part for part in self.state.parts.values() if table in (None, part.table)]

    def part_paths(self, table: str) -> list[str]:
        """Addresses of the live parts for other programs: absolute paths, or s3://bucket/key."""
        return [self.files.url(part.path) for part in self.parts(table)]

    def part_names(self, table: str) -> list[str]:
        """Paths of the live parts on `filesystem`."""
        return [self.files.path(part.path) for part in self.parts(table)]

    def rows(self, table: str) -> int:
        """How many rows are committed, from the log alone."""
        return sum(part.rows for part in self.parts(table))

    def summary(self) -> list[dict[str, Any]]:
        """Per table: live parts, rows and bytes, from the log alone."""
        return [
            {
                "table": name,
                "parts": len(self.parts(name)),
                "rows": self.rows(name),
                "bytes": sum(part.bytes for part in self.parts(name)),
            }
            for name in schema.SCHEMAS
        ]

    def holder(self) -> Holder | None:
        """Who writes to the store at the moment, as far as its claim says; on another machine: who was heard of."""
        epoch = newest_epoch(self.files)
        holder = read_holder(self.files, epoch)
        if holder is None or is_dead(self.files, epoch, holder, expiry_s=UNHEARD_S, clock=time.time):
            return None
        return holder

    def dataset(self, table: str) -> ds.Dataset:
        """The live parts as a pyarrow dataset with the table's schema; parts of older schema versions are in memory."""
        wanted = part_files.check_table(table)
        current = [part for part in self.parts(table) if part.version == schema.SCHEMA_VERSION]
        older = [part for part in self.parts(table) if part.version != schema.SCHEMA_VERSION]
        scan = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
        lazy: ds.Dataset = ds.FileSystemDataset.from_paths(
            [self.files.path(part.path) for part in current],
            schema=wanted,
            format=ds.ParquetFileFormat(default_fragment_scan_options=scan),
            filesystem=self.files.arrow,
        )
        if not older:
            return lazy
        rows = pa.concat_tables(part_files.load_each(self.files, older)).cast(wanted)
        return ds.dataset([lazy, ds.InMemoryDataset(rows)])

    def read(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,  # noqa: A002
        unique: bool = False,
    ) -> pa.Table:
        """Rows of a table, of the named columns and where the expression holds.

        `unique` sorts them by key and keeps the first committed of each: only drivers that did not ask `keys` before
        they worked leave rows to drop, until the next compaction drops them.

        Raises UnknownNameError for the table or a column, StoreDamagedError naming the part that is lost or changed.
        """
        wanted = part_files.check_table(table)
        for column in columns or ():
            if column not in wanted.names:
                raise UnknownNameError(f"column of {table}", column, wanted.names)
        if unique:
            rows = part_files.first_of_each_key(table, self.read(table, filter=filter))
            return rows if columns is None else rows.select(list(columns))
        chosen = None if columns is None else list(columns)
        try:
            rows = self.dataset(table).to_table(columns=chosen, filter=filter)
            if filter is not None or rows.num_rows == self.rows(table):
                return rows
            reason = f"{rows.num_rows} rows were read where {self.rows(table)} were committed"
        except (OSError, pa.ArrowException) as error:
            reason = one_line(error)
        # Either compaction replaced and, after its grace period, deleted what this reader had listed, or a part is
        # damaged: the log and the digests tell.
        before = self.state.parts
        if self.refresh().state.parts.keys() != before.keys():
            return self.read(table, columns=columns, filter=filter)
        for part in self.parts(table):
            part_files.read_part(self.files, part)
        raise StoreError(f"cannot read {table} of {self.location}: {reason}")

    def keys(self, table: str) -> pa.Table:
        """The key columns of all live rows: what need not be computed again."""
        part_files.check_table(table)
        return self.read(table, columns=schema.KEYS[table])

    # writing

    @contextmanager
    def claim(
        self, *, take_over: bool = False, heartbeat_s: float = HEARTBEAT_S, expiry_s: float = EXPIRY_S
    ) -> Iterator[Claim]:
        """Be the one driver that writes. Raises StoreClaimedError, which says who is, and since when.

        A holder whose process has ended is replaced at once if it ran on this machine, otherwise after `expiry_s`
        without a heartbeat; `take_over` replaces it in any case. Within the block, further claims of this object join.
        """
        if self._claim is not None:
            yield self._claim
            return
        after = self._log.refresh().epoch  # the claims' own files may have been lost, or not copied
        with Claim(self.files, heartbeat_s=heartbeat_s, expiry_s=expiry_s, take_over=take_over, after=after) as claim:
            # The fence: takes the log's next number, so that an entry under way from the previous holder cannot land.
            self._log.refresh()
            self._log.publish(lambda _: LogEntry("claim", epoch=claim.epoch, by=str(claim.holder)))
            self._claim = claim
            try:
                yield claim
            finally:
                self._claim = None

    def commit(self, tables: Mapping[str, pa.Table]) -> list[Part]:
        """Make rows part of the store: all of them, or on any error none. The parts that were added.

        Rows need every column of their table but `committed_at`. A part with the same keys and the same values (apart
        from volatile columns) that is live already is not added again. Raises StoreError for rows that do not fit or
        repeat a key, StoreClaimedError, StoreUnwritableError.
        """
        now = datetime.now(UTC)
        sorted_tables = {name: _checked(name, rows, now) for name, rows in tables.items()}
        with self.claim() as claim:
            claim.check()
            added = [part for name, rows in sorted_tables.items() if rows.num_rows for part in self._write(name, rows)]
            if added:
                self._log.publish(lambda state: self._fenced(state, LogEntry("commit", add=tuple(added))))
        return added

    def swap(self, kind: str, old: Iterable[Part], new: Iterable[Part]) -> bool:
        """Let written parts take the place of live ones, in one entry of the log.

        False, and nothing is changed, if an old one is not live any more, or a new one is live or has no file: look at
        what is live now, and try again. Raises StoreClaimedError if this object's claim was lost.
        """
        added, removed = tuple(new), tuple(old)
        done = False

        def entry(state: State) -> LogEntry | None:
            nonlocal done
            swap = self._fenced(state, LogEntry(kind, add=added, remove=tuple(part.path for part in removed)))
            live = all(state.parts.get(part.path) == part for part in removed)
            free = not any(part.path in state.parts or part.path in state.retired for part in added)
            done = live and free and all(self.files.size(part.path) == part.bytes for part in added)
            return swap if done else None

        self._log.publish(entry)
        return done

    def _write(self, name: str, rows: pa.Table) -> list[Part]:
        """Write rows as a part; none if it is live already."""
        part = self.write_part(name, rows)
        return [] if part is None else [part]

    def write_part(self, name: str, rows: pa.Table, *, replacing: Iterable[str] = ()) -> Part | None:
        """Write sorted rows as a file that is not live yet; None if a live part, not of those replaced, holds the same.

        The name has the digest of the bytes: whoever writes it again, a driver that lost its claim in the middle or
        one whose entry's answer was lost, can only write what is there.
        """
        start, leaving = f"parts/{name}/{part_files.content_id(name, rows)}", set(replacing)
        for path, live in self.state.parts.items():
            if path.startswith(start) and path not in leaving and self._same(live, rows):
                return None
        data = part_files.encode(name, rows)
        part = part_files.describe_part(name, "", rows, data)
        names = (f"{start}{part.sha256[:16]}{f'-{number}' if number > 1 else ''}.parquet" for number in count(1))
        path = next(each for each in names if each not in self.state.parts and each not in self.state.retired)
        self.files.write(path, data)
        return replace(part, path=path)

    def _same(self, part: Part, rows: pa.Table) -> bool:
        columns = [column for column in rows.column_names if column not in schema.VOLATILE]
        live = part_files.load(self.files, part, columns=columns)
        return bool(live.cast(rows.select(columns).schema).equals(rows.select(columns)))

    def _fenced(self, state: State, entry: LogEntry) -> LogEntry:
        """The entry in the name of this object's claim, if it has one; StoreClaimedError if that was lost."""
        claim = self._claim
        if claim is None:
            return entry
        if state.epoch > claim.epoch:
            claim.lose(state.epoch)
            claim.check()
        return replace(entry, epoch=claim.epoch, by=str(claim.holder))

    def upgrade(self) -> int:
        """Rewrite parts of older schema versions in today's; how many. The store then needs this bnsweep."""
        rewritten = 0
        with self.claim():
            while older := [part for part in self.refresh().parts() if part.version < schema.SCHEMA_VERSION]:
                added = self._rewritten(older)
                if self.swap("upgrade", older, added):  # otherwise a compaction came first, maybe an older bnsweep's
                    rewritten += len(older)
            write_head(self.files, schema.SCHEMA_VERSION)
            self.version = schema.SCHEMA_VERSION
        return rewritten

    def _rewritten(self, older: Sequence[Part]) -> list[Part]:
        replacing, added = [part.path for part in older], {}
        for old in older:
            rows = _checked(old.table, part_files.load(self.files, old), datetime.now(UTC))
            part = self.write_part(old.table, rows, replacing=replacing)
            if part is not None:
                added[part.path] = part  # two older parts may hold the same rows
        return list(added.values())

    # networks and runs in flight

    def put_network(self, run_id: str, data: bytes) -> str:
        """Keep a trained network; its SHA-256."""
        return self.checkpoints.put_network(run_id, data)

    def get_network(self, run_id: str, sha256: str) -> bytes:
        """The bytes of a trained network; StoreDamagedError if lost or changed."""
        return self.checkpoints.get_network(run_id, sha256)

    def slot(self, run_id: str) -> Slot:
        """Where this run keeps what it needs to go on after an interruption."""
        return self.checkpoints.slot(run_id)


def _checked(name: str, rows: pa.Table, now: datetime) -> pa.Table:
    """Rows that conform, in the order of their key, each key once."""
    table = part_files.conform(name, rows, now=now)
    repeated = part_files.repeated_key(name, table)
    if repeated is not None:
        raise StoreError(f"rows of one commit have different keys, but in {name} two have {repeated}")
    return part_files.sort_by_key(name, table)
