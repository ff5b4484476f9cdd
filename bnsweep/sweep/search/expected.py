"""What a search will do at most, before it has begun: for its time and cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, islice

from bnsweep.errors import SpecError
from bnsweep.experiment.checking import plan_from_text
from bnsweep.experiment.plan import Catalog, Plan, TrainingRun
from bnsweep.experiment.reading import parse_spec, with_lines
from bnsweep.experiment.search import SearchSpec, Subject, subjects
from bnsweep.store.store import Store

__all__ = ["expected_plan", "plan_of_any"]


def plan_of_any(
    text: str, store: Store | None, catalog: Catalog, *, source: str = "the spec", images: str | None = None
) -> Plan:
    """The plan of a sweep, or what a search will do at most.

    Args:
        text: the spec.
        store: where proposals of the search may be; None: there is none yet.
        catalog: knows networks and data sets.
        source: what errors call the spec.
        images: a data source instead of the spec's.

    Raises:
        SpecError: everything that is wrong with the spec, with lines.
    """
    try:
        spec = parse_spec(text)
    except SpecError:
        return plan_from_text(text, catalog, source=source, images=images)  # which says more about what is wrong
    if not isinstance(spec, SearchSpec):
        return plan_from_text(text, catalog, source=source, images=images)
    spec = spec if images is None else spec.with_source(images)
    try:
        return expected_plan(spec, subjects(spec, catalog), store)
    except SpecError as error:
        raise with_lines(error, text, source=source) from None


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
        mine = {run.run_id: run for run in islice(known, subject.trainings)}
        runs |= mine | {run.run_id: run for run in islice(others, subject.trainings - len(mine))}
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
