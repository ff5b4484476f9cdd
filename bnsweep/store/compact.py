"""Compaction: many small parts become few large ones, each key once, while others read and write.

The rewritten parts and the ones they replace change places in one log entry, which is only made if all of the replaced
ones are live still; so it needs no claim. Replaced files stay for a grace period, for readers that listed them before.
Deleting files does need the claim: a driver could be about to publish a file of the same name.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bnsweep.errors import StoreClaimedError, StoreError
from bnsweep.store import parts as part_files
from bnsweep.store import schema
from bnsweep.store.log import LogEntry, Part
from bnsweep.store.store import Store

__all__ = ["Compaction", "Tidier", "collect", "compact", "orphans"]

TARGET_ROWS = 1_000_000
SMALL_ROWS = TARGET_ROWS // 2  # parts with fewer are rewritten
GRACE_S = 3600.0
MANY_PARTS = 1000  # of one table: half an hour of commits, or so
TIDY_ROWS = 10_000_000  # whose keys are looked through in seconds
ORPHAN_AGE_S = 3600.0  # files that nothing lists may belong to a compaction under way, however short the grace period


@dataclass(frozen=True, slots=True)
class Compaction:
    """What a compaction did."""

    parts_before: int
    parts_after: int
    rows: int  # rewritten
    duplicates: int  # rows dropped because their key was there already
    files_deleted: int
    deletion_postponed: bool  # another process holds the claim

    def __str__(self) -> str:
        repeated = f", {self.duplicates:,} repeated ones dropped" if self.duplicates else ""
        files = f"{self.files_deleted:,} files deleted"
        if self.deletion_postponed:
            files = "no file is deleted while another process writes to the store: compact again when it is done"
        return f"{self.parts_before} parts became {self.parts_after}: {self.rows:,} rows rewritten{repeated}; {files}"


def compact(
    store: Store, *, tables: Iterable[str] | None = None, target_rows: int = TARGET_ROWS, grace_s: float = GRACE_S
) -> Compaction:
    """Rewrite parts of fewer than half of `target_rows` rows, and those with rows that another part has too.

    Of rows with the same key the one committed first is kept. Files replaced more than `grace_s` seconds ago are
    deleted. Raises StoreDamagedError for a part that is not what was committed, StoreUnwritableError.
    """
    names = list(schema.SCHEMAS) if tables is None else list(tables)
    before = len(store.refresh().parts())
    rows, duplicates = 0, 0
    with _pages_kept():
        for name in names:
            rewritten, dropped = _compact_table(store, name, target_rows)
            rows, duplicates = rows + rewritten, duplicates + dropped
    deleted, postponed = collect(store, grace_s=grace_s)
    return Compaction(before, len(store.parts()), rows, duplicates, deleted, postponed)


class Tidier:
    """Compacts what a long run leaves, between a driver's commits.

    Tables of `many` small parts (by default as many as half an hour of a run leaves), but not of so many rows that it
    would hold the driver up: `bnsweep store compact` does those.
    """

    def __init__(self, store: Store, *, many: int | None = None) -> None:
        self._store = store
        self._many = MANY_PARTS if many is None else many

    def tidy(self) -> None:
        """Compact if it is time to. Raises StoreClaimedError, and nothing else for what is wrong with the store."""
        small = Counter(part.table for part in self._store.parts() if part.rows < SMALL_ROWS)
        wanted = [
            table for table, parts in small.items() if parts >= self._many and self._store.rows(table) <= TIDY_ROWS
        ]
        if wanted:
            try:
                compact(self._store, tables=wanted)
            except StoreClaimedError:
                raise
            except StoreError:  # whatever is wrong is said where it matters: rows have landed
                self._many += MANY_PARTS


@contextmanager
def _pages_kept() -> Iterator[None]:
    """Let Arrow take memory from jemalloc where it has it.

    Arrow's default, mimalloc, gives pages back after each part and has the kernel clear them again for the next one:
    more than half of a compaction's time.
    """
    before = pa.default_memory_pool()
    with suppress(NotImplementedError):
        pa.set_memory_pool(pa.jemalloc_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def _compact_table(store: Store, name: str, target_rows: int) -> tuple[int, int]:
    """(rows read, rows dropped) of one table."""
    parts = store.parts(name)
    if not parts:
        return 0, 0
    loaded = _load(store, parts) if sum(part.rows for part in parts) <= 2 * target_rows else {}
    keep = _first_of_each_key(store, name, parts, loaded)
    groups = _groups(parts, set(keep), target_rows)
    if not groups:
        return 0, 0
    old = [part for group in groups for part in group]
    replacing = [part.path for part in old]  # of all groups: what one of them drops, another may hold
    with ThreadPoolExecutor(2) as pool:
        written = list(pool.map(lambda group: _rewrite(store, name, group, keep, loaded, replacing), groups))
    new = [part for part in written if part is not None]
    if not store.swap("compact", old, new):  # somebody else replaced one of these first
        return 0, 0
    return sum(part.rows for part in old), sum(part.rows for part in old) - sum(part.rows for part in new)


def _load(store: Store, parts: Sequence[Part], **options: Any) -> dict[str, pa.Table]:
    """Rows by part, strings as dictionaries."""
    tables = part_files.load_each(store.files, parts, dictionaries=True, **options)
    return {part.path: table for part, table in zip(parts, tables, strict=True)}


def _groups(parts: Sequence[Part], with_duplicates: set[str], target_rows: int) -> list[list[Part]]:
    """Parts to be rewritten together."""
    groups: list[list[Part]] = []
    rows = target_rows
    for part in parts:
        if part.rows * 2 >= target_rows and part.path not in with_duplicates:
            continue
        if rows + part.rows > target_rows:
            groups.append([])
            rows = 0
        groups[-1].append(part)
        rows += part.rows
    return [group for group in groups if len(group) > 1 or group[0].path in with_duplicates]


def _first_of_each_key(
    store: Store, name: str, parts: Sequence[Part], loaded: dict[str, pa.Table]
) -> dict[str, np.ndarray]:
    """For each part with rows to drop: which of its rows to keep."""
    columns = [*schema.KEYS[name], "committed_at"]
    loaded = loaded or _load(store, parts, columns=columns)
    tables = [loaded[part.path].select(columns) for part in parts]
    together = pa.concat_tables(tables)
    codes = part_files.row_codes(together, schema.KEYS[name])
    order, again = part_files.in_key_order(codes, together["committed_at"])
    if not again.any():
        return {}
    keep = np.empty(len(order), dtype=bool)
    keep[order] = ~again
    ends = np.cumsum([table.num_rows for table in tables])
    masks = np.split(keep, ends[:-1])
    return {part.path: mask for part, mask in zip(parts, masks, strict=True) if not mask.all()}


def _rewrite(
    store: Store,
    name: str,
    group: Sequence[Part],
    keep: dict[str, np.ndarray],
    loaded: dict[str, pa.Table],
    replacing: Sequence[str],
) -> Part | None:
    """One part with the rows of several; None if no row is left or a part that stays holds exactly these."""
    tables = loaded or _load(store, group)
    kept = [
        tables[part.path].filter(pa.array(keep[part.path])) if part.path in keep else tables[part.path]
        for part in group
    ]
    rows = part_files.sort_by_key(name, pa.concat_tables(kept))
    return store.write_part(name, rows, replacing=replacing) if rows.num_rows else None


def collect(store: Store, *, grace_s: float = GRACE_S) -> tuple[int, bool]:
    """Delete files that are no longer needed: (how many, whether that must wait for another process's claim)."""
    if not _waste(store, grace_s) and not store.log.wants_pruning():
        return 0, False
    try:
        with store.claim() as claim:
            waste = _waste(store, grace_s)
            for path in waste:
                claim.check()
                store.files.delete(path)
            forget = tuple(path for path in waste if path in store.state.retired)
            if forget:
                store.log.publish(lambda _: LogEntry("collect", forget=forget, epoch=store.epoch))
            tidied = store.files.sweep(time.time() - ORPHAN_AGE_S)
            store.log.snapshot()
            return len(waste) + tidied + store.log.prune(), False
    except StoreClaimedError:
        return 0, True


def _waste(store: Store, grace_s: float) -> list[str]:
    """Files replaced long enough ago, and old ones that no entry lists."""
    now = time.time()
    retired = [path for path, since in store.state.retired.items() if since <= now - grace_s]
    return retired + [entry.name for entry in orphans(store) if entry.modified < now - ORPHAN_AGE_S]


def orphans(store: Store) -> list[Any]:
    """Files among the parts that the log does not know: left by a crash before publication, or not published yet."""
    state = store.state
    return [e for e in store.files.list("parts") if e.name not in state.parts and e.name not in state.retired]
