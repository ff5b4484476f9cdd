"""What a search will do at most, before it has begun: for its time and cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice

from bnsweep.experiment.plan import Plan, TrainingRun
from bnsweep.experiment.search import SearchSpec, Subject
from bnsweep.store.store import Store

__all__ = ["expected_plan"]


def expected_plan(spec: SearchSpec, found: Sequence[Subject], store: Store | None) -> Plan:
    """As many runs per network as the search may train: those that it has proposed, then stand-ins for the rest.

    A stand-in keeps BN everywhere: it takes about the time of any other placement.
    """
    proposed = _proposed(spec, store)
    runs: dict[str, TrainingRun] = {}
    for subject in found:
        key = (subject.data.dataset, subject.model.name)
        known = (subject.run(mask, seed) for mask, seed in proposed.get(key, {}))
        others = (subject.run("1" * subject.sites, seed) for seed in count(max(spec.train_seeds) + 1))
        mine = {run.run_id: run for run in islice(known, spec.search.trainings)}
        runs |= mine | {run.run_id: run for run in islice(others, spec.search.trainings - len(mine))}
    return Plan(spec, tuple(runs.values()))


def _proposed(spec: SearchSpec, store: Store | None) -> dict[tuple[str, str], dict[tuple[str, int], None]]:
    """Masks and seeds by data set and network, in their order, each once: every version of a file proposes anew."""
    if store is None:
        return {}
    columns = ["sweep", "dataset", "model", "number", "bn_mask", "train_seed", "study"]
    rows = store.read("proposals", columns=columns).sort_by("number").to_pylist()
    found: dict[tuple[str, str], dict[tuple[str, int], None]] = {}
    for row in rows:
        if row["sweep"] == spec.name and row["study"] == "front":
            found.setdefault((row["dataset"], row["model"]), {})[row["bn_mask"], row["train_seed"]] = None
    return found
