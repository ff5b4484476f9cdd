"""Verification: is every committed row still there, once, and the same as when it was computed?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bnsweep.errors import StoreDamagedError, StoreUnreadableError, StoreUnwritableError
from bnsweep.store import parts as part_files
from bnsweep.store import schema
from bnsweep.store.attempts import set_aside_older, trained_runs
from bnsweep.store.checkpoints import network_name
from bnsweep.store.claim import Claim
from bnsweep.store.compact import compact, orphans
from bnsweep.store.filesystem import one_line, quarantine_name
from bnsweep.store.head import HEAD, head_version, write_head
from bnsweep.store.location import open_files
from bnsweep.store.log import Log, Part
from bnsweep.store.store import Store

__all__ = ["Damage", "Verification", "verify", "verify_location"]

SHOWN = 5  # examples in a message


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is wrong with a store."""

    kind: str  # head, log, part, duplicates, disagreement or network
    where: str  # a file or a table
    message: str
    repaired: str = ""  # what was done about it


@dataclass
class Verification:
    """What was checked and what was found."""

    parts: int = 0
    rows: int = 0
    networks: int = 0
    planned: int = 0  # points
    done: int = 0
    failed: int = 0
    missing: int = 0
    orphans: list[str] = field(default_factory=list)  # files that readers never see; harmless
    problems: list[Damage] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Nothing is wrong, or all that was is repaired; points may be missing."""
        return all(problem.repaired for problem in self.problems)

    @property
    def complete(self) -> bool:
        """Every planned point is done or failed."""
        return self.missing == 0

    def to_dict(self) -> dict[str, Any]:
        return {"ok": self.ok, "complete": self.complete, **asdict(self)}

    def __str__(self) -> str:
        lines = [
            f"{self.parts} parts with {self.rows} rows, {self.networks} networks",
            f"{self.planned} points planned = {self.done} done + {self.failed} failed + {self.missing} missing",
        ]
        if self.orphans:
            lines.append(f"{len(self.orphans)} files of unfinished commits, which readers never see")
        lines += [f"{p.kind}: {p.message}" + (f" [{p.repaired}]" if p.repaired else "") for p in self.problems]
        return "\n".join([*lines, "ok" if self.ok else f"{len(self.problems)} problems"])


def verify_location(location: str | Path, *, repair: bool = False) -> Verification:
    """`verify` for a store that may be too damaged to be opened: a log entry that was changed or lost is a problem too.

    Raises StoreError if there is no store, SchemaError for one of a newer bnsweep, StoreClaimedError if it is to repair
    while a driver writes.
    """
    found: list[Damage] = []
    try:
        store = Store.open(location)
    except (StoreDamagedError, StoreUnreadableError) as error:
        if not repair:
            return Verification(problems=[Damage("log", str(location), str(error))])
        found = _repair_files(location)
        store = Store.open(location)
    result = verify(store, repair=repair)
    result.problems[:0] = found
    return result


def _repair_files(location: str | Path) -> list[Damage]:
    """Put right what keeps a store from being opened: entries of the log, and the head."""
    files = open_files(location)
    log = Log(files)
    done = "set aside; run again to compute what it listed"
    with Claim(files):
        found = [Damage("log", name, f"{name} was damaged", done) for name in log.repair()]
        try:
            head_version(files)
        except (StoreDamagedError, StoreUnreadableError) as error:
            # All that the head says is the version, and the log knows that of every part.
            version = max((part.version for part in log.refresh().parts.values()), default=schema.SCHEMA_VERSION)
            files.set_aside(HEAD)
            write_head(files, version)
            anew = f"written anew, with the version {version} of the log's parts"
            found.append(Damage("head", HEAD, str(error), anew))
    return found


def verify(store: Store, *, repair: bool = False) -> Verification:
    """Check every part's and network's digest, keys that repeat, and what is planned against what is there.

    `repair` takes the claim, moves bad parts and networks to quarantine/ so that the next run computes them again (all
    but the tables of `part_files.LOST`), and keeps the first of rows with the same key. Raises StoreClaimedError if it
    is to repair while a driver writes.
    """
    if repair:
        with store.claim():
            return _verify(store, repair=True)
    store.refresh()
    return _verify(store, repair=False)


def _verify(store: Store, *, repair: bool) -> Verification:
    result = Verification(orphans=[entry.name for entry in orphans(store)])
    bad = _check_parts(store, result)
    if bad and repair:
        result.problems = _quarantine(store, bad, result.problems)
        repair = result.ok  # tables are rewritten only if all of their parts can be read
    readable = [part for part in store.parts() if part not in bad]
    for name in schema.SCHEMAS:
        _check_keys(store, name, [part for part in readable if part.table == name], result, repair=repair)
    result.parts, result.rows = len(readable), sum(part.rows for part in readable)
    _check_networks(store, [part for part in readable if part.table == "runs"], result, repair=repair)
    _count_points(store, [part for part in store.parts() if part not in bad], result)
    return result


def _check_parts(store: Store, result: Verification) -> list[Part]:
    """Parts that cannot be used."""
    parts = store.parts()
    with ThreadPoolExecutor(4) as pool:
        reasons = list(pool.map(lambda part: _wrong_with(store, part), parts))
    bad = []
    for part, reason in zip(parts, reasons, strict=True):
        if reason:
            bad.append(part)
            result.problems.append(Damage("part", part.path, reason))
    return bad


def _wrong_with(store: Store, part: Part) -> str:
    try:
        data = part_files.read_part(store.files, part)
        metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    except (StoreDamagedError, StoreUnreadableError) as error:
        return str(error)
    except (OSError, pa.ArrowException) as error:
        return f"{part.path} is no Parquet file: {one_line(error)}"
    if metadata.num_rows != part.rows:
        return f"{part.path} has {metadata.num_rows} rows, but {part.rows} were committed"
    table = (metadata.metadata or {}).get(b"bnsweep:table", part.table.encode()).decode()
    return "" if table == part.table else f"{part.path} holds rows of {table}, not of {part.table}"


def _quarantine(store: Store, bad: Sequence[Part], problems: Sequence[Damage]) -> list[Damage]:
    """Keep the files of bad parts for inspection and take the parts out of the store; what was done about each.

    Files first: if this is cut short, the log names files that are gone, and the next repair sees to that. The other
    way round, files of which the log knows nothing would go with the next compaction.
    """
    with store.claim() as claim:
        claim.check()
        told = [_set_aside(store, problem, part.path, _then(part)) for part, problem in zip(bad, problems, strict=True)]
        moved = {problem.where for problem in told if problem.repaired}
        while gone := [part for part in store.refresh().parts() if part.path in moved]:
            if store.swap("repair", gone, []):
                break
    return told


def _then(part: Part) -> str:
    return "set aside" if part.table in part_files.LOST else "set aside; run again to compute its rows"


def _set_aside(store: Store, problem: Damage, name: str, done: str) -> Damage:
    """Move a bad file to quarantine/. Where that cannot be done it stays a problem."""
    try:
        store.files.set_aside(name)
    except StoreUnreadableError:  # of a bucket, which may answer another time
        return problem
    except StoreUnwritableError as error:
        return replace(problem, message=f"{problem.message} It stays where it is: {error}")
    return replace(problem, repaired=done)


def _check_keys(store: Store, name: str, parts: list[Part], result: Verification, *, repair: bool) -> None:
    if len(parts) < 2:  # a commit refuses repeated keys
        return
    keys = schema.KEYS[name]
    together = pa.concat_tables(part_files.load_each(store.files, parts, columns=keys, dictionaries=True))
    codes = part_files.row_codes(together, keys)
    order, again = part_files.in_key_order(codes)
    if not again.any():
        return
    rows = np.sort(order[again | np.append(again[1:], False)])  # with the first of each key
    repeated = _rows_at(store, parts, rows)
    differing = _disagreeing(repeated, codes[rows])
    done = ""
    if repair:
        if differing.num_rows:
            store.files.write(quarantine_name(f"{name}.parquet"), part_files.encode(name, differing))
        compact(store, tables=[name])
        done = "the row committed first was kept"
    message = f"{np.count_nonzero(again)} rows of {name} have the key of another row"
    result.problems.append(Damage("duplicates", name, message, done))
    if differing.num_rows:
        examples = differing.select(keys).group_by(list(keys)).aggregate([]).slice(0, SHOWN).to_pylist()
        result.problems.append(
            Damage(
                "disagreement",
                name,
                f"{differing.num_rows} rows of {name} have equal keys but different results, so the work was not "
                f"deterministic: {examples}",
                done and f"{done}; all are in quarantine/",
            )
        )


def _rows_at(store: Store, parts: list[Part], rows: np.ndarray) -> pa.Table:
    """The rows at these places of the parts taken one after the other."""
    starts = np.cumsum([0, *(part.rows for part in parts)])
    pieces = []
    for start, part in zip(starts, parts, strict=False):
        inside = rows[(rows >= start) & (rows < start + part.rows)] - start
        if len(inside):
            pieces.append(part_files.load(store.files, part).take(pa.array(inside)))
    return pa.concat_tables(pieces).cast(schema.SCHEMAS[parts[0].table])


def _disagreeing(rows: pa.Table, codes: np.ndarray) -> pa.Table:
    """Of rows whose codes say which have the same key: those whose results differ from another's."""
    columns = [name for name in rows.column_names if name not in schema.VOLATILE]
    first: dict[int, str] = {}
    different: set[int] = set()
    for code, row in zip(codes.tolist(), rows.select(columns).to_pylist(), strict=True):
        if first.setdefault(code, repr(row)) != repr(row):  # as text, so that NaN equals NaN
            different.add(code)
    return rows.filter(pa.array([code in different for code in codes.tolist()], pa.bool_()))


def _check_networks(store: Store, parts: list[Part], result: Verification, *, repair: bool) -> None:
    """The network that counts for each run: its last attempt's."""
    for run in trained_runs(store, parts):
        result.networks += 1
        if run.others:
            done = ""
            if repair:
                set_aside_older(store, [run])
                done = "the newest network was kept; rows of the others are in quarantine/; run again"
            attempts = ", ".join(map(str, (*run.others, run.attempt)))
            message = (
                f"attempts {attempts} at run {run.run_id} gave different networks, so training was not deterministic "
                "(another processor, other versions?), and its trials are of different networks"
            )
            result.problems.append(Damage("disagreement", run.run_id, message, done))
        _check_network(store, run.run_id, run.sha256, result, repair=repair)


def _check_network(store: Store, run_id: str, sha256: str, result: Verification, *, repair: bool) -> None:
    try:
        store.get_network(run_id, sha256)
    except (StoreDamagedError, StoreUnreadableError) as error:
        problem = Damage("network", run_id, str(error))
        if repair:
            name = network_name(run_id, sha256)
            problem = _set_aside(store, problem, name, "set aside; run again to train it again")
        result.problems.append(problem)


def _count_points(store: Store, parts: list[Part], result: Verification) -> None:
    """Points planned, done (as many trials as the plan wants at least), failed (given up) and missing (the others)."""

    def read(name: str, columns: list[str]) -> pa.Table:
        pieces = [part_files.load(store.files, p, columns=columns) for p in parts if p.table == name]
        empty = schema.SCHEMAS[name].empty_table().select(columns).replace_schema_metadata(None)
        return pa.concat_tables([empty, *pieces], promote_options="permissive")

    version = ["sweep", "spec_sha256"]
    sweeps = read("sweeps", ["sweep", "revision", "spec_sha256"])
    dated = sweeps.join(sweeps.group_by("sweep").aggregate([("revision", "max")]), "sweep")
    newest = dated.filter(pc.field("revision") == pc.field("revision_max")).select(version)
    points = read("points", [*version, "point_id", "run_id", "min_trials"])
    # What older versions planned may hold no more, whether or not their own rows of `sweeps` are still there.
    unknown = points.join(newest.select(["sweep"]), "sweep", join_type="left anti")
    points = pa.concat_tables([points.join(newest, version, join_type="left semi"), unknown])
    points = points.group_by(["point_id", "run_id"]).aggregate([("min_trials", "max")])
    trials = read("trials", ["point_id", "trial"]).group_by("point_id").aggregate([("trial", "count_distinct")])
    counted = points.join(trials, "point_id")
    done = pc.greater_equal(pc.fill_null(counted["trial_count_distinct"], 0), counted["min_trials_max"])
    failed = _failed(counted, read)
    result.planned = counted.num_rows
    result.done = pc.sum(done).as_py() or 0
    result.failed = pc.sum(pc.and_(failed, pc.invert(done))).as_py() or 0
    result.missing = result.planned - result.done - result.failed


def _failed(points: pa.Table, read: Callable[[str, list[str]], pa.Table]) -> pa.ChunkedArray:
    """Whether each point was given up, or its training run ended without a network."""
    failures = read("failures", ["run_id", "point_id"])
    runs = read("runs", ["run_id", "checkpoint_sha256"])
    trained = set(runs.filter(pc.is_valid(runs["checkpoint_sha256"]))["run_id"].to_pylist())  # in some attempt
    given_up = failures.filter(pc.is_null(failures["point_id"]))["run_id"].to_pylist()
    lost = pa.array(sorted({*given_up, *runs["run_id"].to_pylist()} - trained), pa.string())
    blocks = failures["point_id"].drop_null().combine_chunks()
    return pc.or_(pc.is_in(points["run_id"], value_set=lost), pc.is_in(points["point_id"], value_set=blocks))
