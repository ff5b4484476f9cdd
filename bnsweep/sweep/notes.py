"""What a person should hear of a plan before it is done: slips, and code that has changed since runs were trained."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.compute as pc

from bnsweep.experiment.plan import Plan
from bnsweep.experiment.spec import Resource, Spec
from bnsweep.store.store import Store
from bnsweep.sweep.tasks import recipe_columns

__all__ = ["notes", "spec_notes"]

FOREIGN = {"import:": "the code of {}", "torchvision:": "the version of torchvision behind {}"}  # part of a run's id
SAME = ("model", "data_fingerprint", "bn_mask", "train_seed", "recipe")


def notes(plan: Plan, store: Store | None) -> list[str]:
    """One sentence each; `store` is None where there is none yet."""
    return [*spec_notes(plan.spec), *(_changed_code(plan, store) if store else [])]


def spec_notes(spec: Spec) -> Iterator[str]:
    """Those of the file alone, one sentence each."""
    large = [f"{eta.normalize():f}" for eta in spec.eta if eta > 1]
    if large and any(cell.sigma_reference != "absolute" for cell in spec.noise):
        some = ", ".join([*large[:5], *(["..."] if len(large) > 5 else [])])
        yield (
            f"eta above 1 ({some}) is noise of more than one standard deviation (of more than the `sigma_reference`): "
            "eta is a fraction, 0.1 means 10 %"
        )


def _changed_code(plan: Plan, store: Store) -> Iterator[str]:
    """Runs that would be done, had not what is behind a network's name changed since."""
    foreign = [run for run in plan.runs if run.model.startswith(tuple(FOREIGN))]
    if not foreign:
        return
    wanted = pc.field("model").isin(sorted({run.model for run in foreign}))
    rows = store.read("runs", columns=["sweep", "run_id", *SAME], filter=wanted).to_pylist()
    there, planned = {row["run_id"] for row in rows}, {run.run_id for run in plan.runs}
    earlier: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for row in rows:
        if row["sweep"] == plan.spec.name and row["run_id"] not in planned:
            earlier[_what(row)].add(row["run_id"])
    counts: Counter[str] = Counter()
    for run in foreign:
        if run.run_id not in there:
            same = {**run.columns(), **recipe_columns(run), "data_fingerprint": run.fingerprint}
            counts[run.model] += len(earlier[_what(same)])
    or_threads = ", or `resources.train.cpu`," if _threads_changed(plan, store) else ""
    for model, count in (+counts).items():
        what = FOREIGN[f"{model.partition(':')[0]}:"].format(model)
        yield (
            f"{what}{or_threads} has changed since {count:,} of this sweep's runs were trained: they stay in the "
            "store, and these count as new" + (" (a comment counts as a change)" if model.startswith("import:") else "")
        )


def _what(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in SAME)


def _threads_changed(plan: Plan, store: Store) -> bool:
    """Whether an earlier version of the sweep trained on another number of cores, of which sums of floats depend."""
    rows = store.read("sweeps", columns=["spec"], filter=pc.field("sweep") == plan.spec.name).to_pylist()
    before = {Resource.model_validate(json.loads(row["spec"])["resources"]["train"]).threads for row in rows}
    return bool(before - {plan.spec.resources.train.threads})
