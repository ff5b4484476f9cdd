"""Merge: take the rows and networks of another store, such as one part of a sweep that ran elsewhere (`run --part`).

Ids are digests of what rows are about, so that the rows of two stores fit together. Three things are seen to:

- A network trained twice may differ in its last bits from machine to machine, and trials belong to the network that
  they were made of. Of a run of which both stores have a network, rows are taken only if it is the same one.
- What a sweep asks for is said by its newest spec. A sweep that both stores know keeps the plan that it has here.
- Networks come before the rows that name them, and all rows in one commit: a merge that is cut short has changed
  nothing that can be seen, and the same command does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bnsweep.errors import StoreDamagedError
from bnsweep.store import parts as part_files
from bnsweep.store import schema
from bnsweep.store.checkpoints import network_name

if TYPE_CHECKING:
    from bnsweep.store.store import Store

__all__ = ["Merged", "merge"]

OF_RUNS = ("epochs", "probes", "trials", "failures")  # tables whose rows go with their run


@dataclass(frozen=True, slots=True)
class Merged:
    """What was taken from another store, and what was not."""

    source: str
    runs: int  # that had no end here
    trials: int
    networks: int
    lost: int  # networks of the runs taken that the other store does not hold whole
    apart: int  # runs of which each store has a result of its own
    kept: tuple[str, ...]  # sweeps that have another plan, or searches another course, in the other store

    def lines(self) -> list[str]:
        """For people."""
        lines = [f"{self.source}: {self.runs:,} runs, {self.trials:,} trials and {self.networks:,} networks are new"]
        if self.lost:
            lines.append(f"  {self.lost:,} networks are not there: `run` trains them again if they are wanted")
        if self.apart:
            lines.append(f"  {self.apart:,} runs are in both, trained apart: those here were kept, theirs not taken")
        if self.kept:
            lines.append(f"  planned otherwise there, kept as here: {', '.join(self.kept)}; `run` the spec you want")
        return lines


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which runs of the other store are news."""

    new: dict[str, int]  # run -> attempts made here before
    same: frozenset[str]  # of which both have the same network: trials may be news
    apart: int

    @property
    def runs(self) -> pa.Array:
        return pa.array([*self.new, *self.same], pa.string())


def merge(store: Store, source: Store) -> Merged:
    """Take from `source` what `store` lacks.

    Raises StoreDamagedError for rows of the source that cannot be read, StoreClaimedError, StoreUnwritableError.
    """
    with store.claim():
        choice = _choose(store.read("runs"), source.read("runs"))
        plans, kept = _plans(store, source)
        tables = {"runs": _renumbered(source.read("runs", unique=True), choice.new)}
        tables |= {name: _of_runs(store, source, name, choice) for name in OF_RUNS}
        tables["sites"] = _lacking(store, "sites", source.read("sites", unique=True))
        networks, lost = _copy_networks(store, source, choice)
        store.commit({**plans, **{name: rows for name, rows in tables.items() if rows.num_rows}})
    return Merged(source.location, len(choice.new), tables["trials"].num_rows, networks, lost, choice.apart, kept)


def _choose(here: pa.Table, there: pa.Table) -> _Choice:
    own, new, same, apart = _newest(here), {}, set(), 0
    for run_id, other in _newest(there).items():
        known = own.get(run_id)
        if known is None:
            new[run_id] = 0
        elif _result(known) == _result(other):
            same.add(run_id)
        elif _settles(other, known):
            new[run_id] = known["attempt"]
        elif not _settles(known, other):
            apart += 1
    return _Choice(new, frozenset(same), apart)


def _newest(runs: pa.Table) -> dict[str, dict[str, Any]]:
    """The last attempt of each run."""
    rows = runs.select(["run_id", "attempt", "status", "checkpoint_sha256"]).sort_by("attempt").to_pylist()
    return {row["run_id"]: row for row in rows}


def _result(run: dict[str, Any]) -> tuple[str, str | None]:
    return run["status"], run["checkpoint_sha256"]


def _settles(run: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a run says more than another: a failure says nothing, a search's early stop less than an end."""
    order = {"failed": 0, "pruned": 1}
    return order.get(run["status"], 2) > order.get(other["status"], 2)


def _plans(store: Store, source: Store) -> tuple[dict[str, pa.Table], tuple[str, ...]]:
    """`sweeps`, `points` and `proposals` of sweeps that are not known here; and what is known, but differs."""
    sweeps, here = source.read("sweeps", unique=True), _specs(store)
    fresh = pa.array([name for name in _specs(source) if name not in here], pa.string())
    kept = [name for name, specs in _specs(source).items() if name in here and specs[-1] != here[name][-1]]
    of_fresh = pc.field("sweep").isin(fresh)
    tables = {"sweeps": sweeps.filter(of_fresh), "points": source.read("points", unique=True, filter=of_fresh)}
    courses = source.read("proposals", unique=True)
    tables["proposals"] = courses.filter(of_fresh)
    unlike = _lacking(store, "proposals", courses.filter(~of_fresh))["sweep"].unique().to_pylist()
    return {name: rows for name, rows in tables.items() if rows.num_rows}, tuple(sorted({*kept, *unlike}))


def _specs(store: Store) -> dict[str, list[str]]:
    """The specs of each sweep, oldest first."""
    specs: dict[str, list[str]] = {}
    rows = store.read("sweeps", columns=["sweep", "revision", "spec_sha256"]).sort_by("revision").to_pylist()
    for row in rows:
        specs.setdefault(row["sweep"], []).append(row["spec_sha256"])
    return specs


def _of_runs(store: Store, source: Store, name: str, choice: _Choice) -> pa.Table:
    """Rows of the chosen runs that are not here."""
    rows = source.read(name, unique=True, filter=pc.field("run_id").isin(choice.runs))
    return _lacking(store, name, _renumbered(rows, choice.new) if name == "failures" else rows)


def _renumbered(rows: pa.Table, new: dict[str, int]) -> pa.Table:
    """Rows of new runs; attempts follow those that were made here."""
    rows = rows.filter(pc.field("run_id").isin(pa.array(list(new), pa.string())))
    before = pa.array([new[run_id] for run_id in rows["run_id"].to_pylist()], rows.schema.field("attempt").type)
    index = rows.schema.get_field_index("attempt")
    return rows.set_column(index, rows.schema.field("attempt"), pc.add(rows["attempt"], before))


def _lacking(store: Store, name: str, rows: pa.Table) -> pa.Table:
    """Rows whose keys the store does not have."""
    keys = list(schema.KEYS[name])
    have = store.keys(name) if rows.num_rows else rows.select(keys).slice(0, 0)
    codes = part_files.row_codes(pa.concat_tables([have.select(keys), rows.select(keys)]), keys)
    new = ~np.isin(codes[have.num_rows :], codes[: have.num_rows])
    return rows.filter(pa.array(new))


def _copy_networks(store: Store, source: Store, choice: _Choice) -> tuple[int, int]:
    """Copy the networks that are not here; how many were copied, and of how many new runs there is none to copy."""
    copied, lost, here = 0, 0, store.checkpoints.networks()
    for run_id, run in _newest(source.read("runs")).items():
        sha256 = run["checkpoint_sha256"]
        wanted = sha256 is not None and (run_id in choice.new or run_id in choice.same)
        if not wanted or network_name(run_id, sha256) in here:
            continue
        try:
            store.put_network(run_id, source.get_network(run_id, sha256))
            copied += 1
        except StoreDamagedError:
            lost += run_id in choice.new
    return copied, lost
