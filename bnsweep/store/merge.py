"""Merge: take the rows and networks of another store, such as one part of a sweep that ran elsewhere (`run --part`).

Ids are digests of what rows are about, so that the rows of two stores fit together. Three things are seen to:

- A network trained twice may differ in its last bits from machine to machine, and trials belong to the network that
  they were made of. Rows of a run are taken only if all attempts at it, here and there, gave one network at most.
- What a sweep asks for is said by its newest spec. A sweep that both stores know keeps the plan that it has here; the
  other's specs are put before it, so that rows beyond the plan are known for what they are.
- Networks come before the rows that name them, and the rows of a run in one commit: a merge that is cut short has
  taken some runs whole, and the same command does the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bnsweep.errors import StoreDamagedError
from bnsweep.store import parts as part_files
from bnsweep.store import schema
from bnsweep.store.checkpoints import network_name
from bnsweep.store.store import Store

__all__ = ["Merged", "merge"]

TRIALS_AT_ONCE = 500_000  # of whole runs, in one commit: half a gigabyte of memory
RUN_COLUMNS = ["run_id", "attempt", "status", "checkpoint_sha256"]
RANKS = {"failed": 0, "pruned": 1}  # of ends: a failure says nothing, a search's early stop less than any other end


@dataclass(slots=True)
class Merged:
    """What was taken from another store, and what was not."""

    source: str
    runs: int = 0  # that had no end here, or had failed, or had been stopped early
    trials: int = 0
    networks: int = 0
    lost: int = 0  # networks of those runs that the other store does not hold whole
    apart: int = 0  # runs of which there are several networks
    unowned: int = 0  # trials there of runs that no row speaks of
    kept: tuple[str, ...] = ()  # sweeps that are planned otherwise there, searches that went another way

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.source}: {self.runs:,} runs, {self.trials:,} trials and {self.networks:,} networks are new"]
        if self.lost:
            lines.append(f"  {self.lost:,} networks are not there: the next `run` of their sweep trains them again")
        if self.apart:
            lines.append(
                f"  {self.apart:,} runs were trained apart, to other networks: their rows there were not taken"
            )
        if self.unowned:
            lines.append(f"  {self.unowned:,} trials there belong to no run and were not taken; try `store verify`")
        if self.kept:
            lines.append(f"  asked for otherwise there, kept as it is here: {', '.join(self.kept)}")
        return lines


@dataclass(slots=True)
class _Run:
    """All attempts at one run in one store."""

    attempt: int = 0
    status: str = ""
    networks: set[str] = field(default_factory=set)

    @property
    def rank(self) -> int:
        return RANKS.get(self.status, 2)


@dataclass(slots=True)
class _Choice:
    """Which runs of the other store are news."""

    new: dict[str, int] = field(default_factory=dict)  # run -> attempts made here before
    same: set[str] = field(default_factory=set)  # of which both have the one network: trials may be news
    apart: int = 0

    def take(self, run_id: str, here: _Run, there: _Run) -> None:
        networks = here.networks | there.networks
        if len(networks) > 1:
            self.apart += bool(there.networks)
        elif here.networks:
            if there.networks:
                self.same.add(run_id)
        elif here.rank < there.rank or not here.attempt:
            self.new[run_id] = here.attempt
        elif there.networks:
            self.apart += 1  # it diverged here


def merge(store: Store, source: Store) -> Merged:
    """Take from `source` what `store` lacks.

    Raises StoreDamagedError for rows of the source that cannot be read, StoreClaimedError, StoreUnwritableError.
    """
    merged = Merged(source.location)
    with store.claim():
        here, there, trials = _attempts(store), _attempts(source), _trials_of_runs(source)
        choice = _Choice()
        for run_id, run in there.items():
            choice.take(run_id, here.get(run_id, _Run()), run)
        for run_id in _trials_of_runs(store, choice.new):  # of a network whose row was lost
            del choice.new[run_id]
            choice.apart += 1
        merged.apart, merged.runs = choice.apart, len(choice.new)
        merged.unowned = sum(count for run_id, count in trials.items() if run_id not in there)
        plans, merged.kept = _plans(store, source)
        store.commit(plans)
        for runs in _in_groups([*choice.new, *choice.same], trials):
            wanted = [(run_id, digest) for run_id in runs for digest in there[run_id].networks]
            copied, absent = _copy_networks(store, source, wanted)
            merged.networks += copied
            merged.lost += sum(run_id in choice.new for run_id in absent)
            tables = dict(_rows_of(store, source, runs, choice))
            merged.trials += tables["trials"].num_rows
            store.commit(tables)
    return merged


def _attempts(store: Store) -> dict[str, _Run]:
    runs: dict[str, _Run] = {}
    for row in store.read("runs", columns=RUN_COLUMNS).sort_by("attempt").to_pylist():
        run = runs.setdefault(row["run_id"], _Run())
        run.attempt, run.status = row["attempt"], row["status"]
        if row["checkpoint_sha256"] is not None:
            run.networks.add(row["checkpoint_sha256"])
    return runs


def _trials_of_runs(store: Store, runs: Iterable[str] | None = None) -> Counter[str]:
    only = None if runs is None else _of(runs)
    counts = store.read("trials", columns=["run_id"], filter=only).group_by("run_id").aggregate([([], "count_all")])
    return Counter(dict(zip(counts["run_id"].to_pylist(), counts["count_all"].to_pylist(), strict=True)))


def _of(runs: Iterable[str]) -> pc.Expression:
    return pc.field("run_id").isin(pa.array(list(runs), pa.string()))


def _in_groups(runs: Sequence[str], trials: Mapping[str, int]) -> Iterator[list[str]]:
    """Runs whose trials fit into memory together."""
    group: list[str] = []
    held = 0
    for run_id in runs:
        if group and held + trials.get(run_id, 0) > TRIALS_AT_ONCE:
            yield group
            group, held = [], 0
        group.append(run_id)
        held += trials.get(run_id, 0)
    if group:
        yield group


def _rows_of(store: Store, source: Store, runs: list[str], choice: _Choice) -> Iterator[tuple[str, pa.Table]]:
    """The rows of these runs that are not here.

    Of a run that is here whole, trials, probes and blocks can be news; and epochs, where theirs were lost.
    """
    new = [run_id for run_id in runs if run_id in choice.new]
    for name in ("runs", "failures"):
        rows = source.read(name, unique=True, filter=_of(runs))
        wanted = pc.is_in(rows["run_id"], pa.array(new, pa.string()))
        if name == "failures":
            wanted = pc.or_(wanted, pc.is_valid(rows["point_id"]))
        rows = rows.filter(pc.and_(wanted, pc.invert(_came_before(store, name, rows, runs))))
        yield name, _lacking(store, name, _renumbered(rows, choice.new), runs=runs)
    for name in ("epochs", "trials", "probes"):
        yield name, _lacking(store, name, source.read(name, unique=True, filter=_of(runs)), runs=runs)


def _came_before(store: Store, name: str, rows: pa.Table, runs: Iterable[str]) -> pa.BooleanArray:
    """Whether an earlier merge has taken a row already: attempts have other numbers here, and the same end."""
    told = ["committed_at", "run_id", "status" if name == "runs" else "point_id"]

    def comparable(some: pa.Table) -> pa.Table:
        return some.select(told).set_column(0, "committed_at", some["committed_at"].cast(pa.int64()))

    return pa.array(_in(comparable(rows), comparable(store.read(name, columns=told, filter=_of(runs)))))


def _renumbered(rows: pa.Table, new: Mapping[str, int]) -> pa.Table:
    """Attempts at a run follow those that were made here; the tries of a block stay as they are."""
    of_run = [True] * rows.num_rows
    if "point_id" in rows.column_names:
        of_run = pc.is_null(rows["point_id"]).to_pylist()
    before = [new[run_id] if whole else 0 for run_id, whole in zip(rows["run_id"].to_pylist(), of_run, strict=True)]
    index, kind = rows.schema.get_field_index("attempt"), rows.schema.field("attempt")
    return rows.set_column(index, kind, pc.add(rows["attempt"], pa.array(before, kind.type)))


def _lacking(store: Store, name: str, rows: pa.Table, *, runs: Iterable[str]) -> pa.Table:
    """Rows of some runs whose keys the store does not have."""
    keys = list(schema.KEYS[name])
    have = store.read(name, columns=keys, filter=_of(runs))
    return rows.filter(pa.array(~_in(rows.select(keys), have)))


def _in(rows: pa.Table, others: pa.Table) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether each row is one of the others."""
    codes = part_files.row_codes(pa.concat_tables([others, rows]), rows.column_names)
    found: np.ndarray[Any, np.dtype[np.bool_]] = np.isin(codes[others.num_rows :], codes[: others.num_rows])
    return found


def _copy_networks(store: Store, source: Store, networks: Sequence[tuple[str, str]]) -> tuple[int, list[str]]:
    """Copy the networks that are not here; how many were copied, and of which runs there is none to copy."""
    here = store.checkpoints.networks()

    def copy(network: tuple[str, str]) -> bool:
        try:
            store.put_network(network[0], source.get_network(*network))
        except StoreDamagedError:
            return False
        return True

    wanted = [network for network in networks if network_name(*network) not in here]
    with ThreadPoolExecutor(8) as pool:  # on an object store each one is two round trips
        copied = list(pool.map(copy, wanted))
    return sum(copied), [run_id for (run_id, _), done in zip(wanted, copied, strict=True) if not done]


def _plans(store: Store, source: Store) -> tuple[dict[str, pa.Table], tuple[str, ...]]:
    """Specs, points, proposals and sites that are not here; and the sweeps of which there is something else here."""
    ours, theirs = _specs(store), _specs(source)
    proposals, strays = _proposals(store, source)
    appended: list[dict[str, Any]] = []
    kept, fresh = set(strays), set()
    for name, rows in theirs.items():
        mine = ours.get(name, [])
        new = [row for row in rows if row["spec_sha256"] not in {own["spec_sha256"] for own in mine}]
        fresh |= {(name, row["spec_sha256"]) for row in new}
        if not mine:
            appended += rows
        elif new:  # ours stays the newest
            before = mine[-1]["revision"]
            appended += [{**row, "revision": before + number} for number, row in enumerate([*new, mine[-1]], 1)]
        if mine and mine[-1]["spec_sha256"] != rows[-1]["spec_sha256"]:
            kept.add(name)
    courses = {(row["sweep"], row["spec_sha256"]) for row in proposals.select(["sweep", "spec_sha256"]).to_pylist()}
    tables = {
        "sweeps": pa.Table.from_pylist(appended, schema=schema.SCHEMAS["sweeps"]),
        "points": pa.concat_tables([_points(source, fresh), _points(source, courses - fresh, but=store)]),
        "proposals": proposals,
        "sites": _sites(store, source),
    }
    return tables, tuple(sorted(kept))


def _specs(store: Store) -> dict[str, list[dict[str, Any]]]:
    """The versions of each sweep, oldest first."""
    versions: dict[str, list[dict[str, Any]]] = {}
    for row in store.read("sweeps", unique=True).sort_by("revision").to_pylist():
        versions.setdefault(row["sweep"], []).append(row)
    return versions


def _proposals(store: Store, source: Store) -> tuple[pa.Table, set[str]]:
    """What searches asked for that is not here; and searches that went another way here, of which nothing is taken.

    One that went another way has a number under which none of its runs is one of ours: several may stand there, where
    what failed was done again.
    """
    keys = list(schema.KEYS["proposals"])
    number = [key for key in keys if key != "run_id"]
    theirs, ours = source.read("proposals", unique=True), store.keys("proposals")
    alike = _in(theirs.select(keys), ours)
    asked = _in(theirs.select(number), ours.select(number))
    astray = asked & ~_in(theirs.select(number), theirs.filter(pa.array(alike)).select(number))
    strays = set(theirs["sweep"].filter(pa.array(astray)).to_pylist())
    stray = pc.is_in(theirs["sweep"], pa.array(sorted(strays), pa.string())).to_numpy()
    return theirs.filter(pa.array(~alike & ~stray)), strays


def _points(source: Store, specs: set[tuple[str, str]], *, but: Store | None = None) -> pa.Table:
    """Points of these versions of sweeps; `but` those of another store. Of a sweep they came whole, with its spec."""
    wanted = pc.scalar(False)
    for name, spec in sorted(specs):
        wanted |= (pc.field("sweep") == name) & (pc.field("spec_sha256") == spec)
    rows, keys = source.read("points", unique=True, filter=wanted), list(schema.KEYS["points"])
    if but is None:
        return rows
    return rows.filter(pa.array(~_in(rows.select(keys), but.read("points", columns=keys, filter=wanted))))


def _sites(store: Store, source: Store) -> pa.Table:
    rows = source.read("sites", unique=True)
    return rows.filter(pa.array(~_in(rows.select(list(schema.KEYS["sites"])), store.keys("sites"))))
