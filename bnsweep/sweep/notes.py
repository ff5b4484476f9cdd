"""What a person should hear of a plan before it is done: slips, and code that has changed since runs were trained."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow.compute as pc

from bnsweep.experiment import cautions
from bnsweep.experiment.plan import Plan
from bnsweep.experiment.resources import Resource
from bnsweep.experiment.spec import AdaptiveTrials, Data, Spec
from bnsweep.store.store import Store
from bnsweep.sweep.tasks import recipe_columns

__all__ = ["notes", "spec_notes"]

FOREIGN = {"import:": "the code of {}", "torchvision:": "the version of torchvision behind {}"}  # part of a run's id
AXES = ("models", "placements", "train_seeds", "noise", "eta")
RULES = ("training", "images", "noise_seed", "evaluation")
SAME = ("model", "data_fingerprint", "bn_mask", "train_seed", "recipe")


def notes(plan: Plan, store: Store | None) -> list[str]:
    """One sentence each; `store` is None where there is none yet."""
    of_store = [*_replaced(plan, store), *_changed_code(plan, store)] if store else []
    return [*spec_notes(plan.spec), *_of_networks(plan), *of_store]


def spec_notes(spec: Spec) -> Iterator[str]:
    """Those of the file alone, one sentence each."""
    large = [f"{eta.normalize():f}" for eta in spec.eta if eta > 1]
    if large and any(cell.sigma_reference != "absolute" for cell in spec.noise):
        yield cautions.on_eta(large)
    for model in spec.models:
        untrained = (model.training or spec.training).epochs == 0
        if untrained and len(model.weights or ()) == 1 and len(spec.train_seeds) > 1:
            yield (
                f"{model.name} has one file of `weights`, which is one network: it is scored once, not for each of the "
                f"{len(spec.train_seeds)} training seeds"
            )
        if untrained and not model.weights and model.name.startswith("import:"):
            yield (
                f"{model.name} with `epochs: 0` is scored as `init` draws it, whatever values its factory gives it; "
                "a network that is trained already has its values in a file: `weights: PATH` beside its `name`"
            )


def _of_networks(plan: Plan) -> Iterator[str]:
    """What some networks have too little of: parameters that noise hits, or BN."""
    for network in {run.architecture.name: run.architecture for run in plan.runs}.values():
        if note := cautions.on_reach(network.name, dict(network.beyond_reach), network.parameters):
            yield note
        if not network.sites:
            treatments = {cell.bn_treatment for cell in plan.spec.noise}
            alike = "" if len(treatments) == 1 else f", and all of its BN treatments ({', '.join(sorted(treatments))})"
            yield f"{network.name} has no BN layer: all placements are the same network{alike}"


def _replaced(plan: Plan, store: Store) -> Iterator[str]:
    """What answers will leave out, since they are about a sweep's newest version alone."""
    rows = store.read("sweeps", columns=["revision", "spec", "spec_sha256"], filter=pc.field("sweep") == plan.spec.name)
    if not rows:
        return
    newest = rows.sort_by("revision").slice(len(rows) - 1).to_pylist()[0]
    try:
        keys = [f"`{key}`" for key in _lost(Spec.model_validate(json.loads(newest["spec"])), plan.spec)]
    except ValueError:  # of a search, or of another version of bnsweep
        return
    if keys and _hides(plan, store, newest["spec_sha256"]):
        yield (
            f"the store's {plan.spec.name!r} has other {', '.join(keys)}: rows that only it asked for stay in the "
            "store, but answers are about a sweep's newest version; for both, give this file another `name`"
        )


def _hides(plan: Plan, store: Store, version: str) -> bool:
    """Whether that version plans a point, or draws at one, that the plan does not: keys may say the same otherwise."""
    mine = (pc.field("sweep") == plan.spec.name) & (pc.field("spec_sha256") == version)
    before = store.read("points", columns=["run_id", "point_id", "max_trials"], filter=mine)
    if not set(before["run_id"].unique().to_pylist()) <= {run.run_id for run in plan.runs}:
        return True
    most = {point.point_id: plan.trial_bounds(point.eta)[1] for run in plan.runs for point in plan.points(run)}
    ids, draws = before["point_id"].to_pylist(), before["max_trials"].to_pylist()
    return any(most.get(point_id, 0) < count for point_id, count in zip(ids, draws, strict=True))


def _lost(old: Spec, new: Spec) -> Iterator[str]:
    """The keys of which the new spec has not all that the old one has."""
    if not _images(old) <= _images(new):
        yield "data"
    yield from (key for key in AXES if not set(getattr(old, key)) <= set(getattr(new, key)))
    yield from (key for key in RULES if getattr(old, key) != getattr(new, key))
    if old.resources.train.threads != new.resources.train.threads:
        yield "resources.train.cpu"
    if _most(new) < _most(old) or (new.images == "auto" and _design(new) != _design(old)):
        yield "trials"


def _images(spec: Spec) -> set[Data]:
    """Wherever they come from: rows are known by digests of images, not by their folder."""
    return {data.model_copy(update={"source": "", "name": data.dataset}) for data in spec.data}


def _most(spec: Spec) -> int:
    return spec.trials.max if isinstance(spec.trials, AdaptiveTrials) else spec.trials


def _design(spec: Spec) -> object:
    """What the images of a trial follow from with `images: auto`."""
    return spec.trials.model_dump(exclude={"max"}) if isinstance(spec.trials, AdaptiveTrials) else None


def _changed_code(plan: Plan, store: Store) -> Iterator[str]:
    """Runs that would be done, had not what is behind a network's name, or in its file, changed since."""
    foreign = [run for run in plan.runs if run.weights or run.model.startswith(tuple(FOREIGN))]
    if not foreign:
        return
    wanted = pc.field("model").isin(sorted({run.model for run in foreign}))
    rows = store.read("runs", columns=["sweep", "run_id", *SAME], filter=wanted).to_pylist()
    there, planned = {row["run_id"] for row in rows}, {run.run_id for run in plan.runs}
    earlier: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for row in rows:
        if row["sweep"] == plan.spec.name and row["run_id"] not in planned:
            earlier[_what(row)].add(row["run_id"])
    changed: dict[str, set[str]] = defaultdict(set)
    for run in foreign:
        if run.run_id not in there:
            same = {**run.columns(), **recipe_columns(run), "data_fingerprint": run.fingerprint}
            changed[run.model] |= earlier[_what(same)]
    or_threads = ", or `resources.train.cpu`," if _threads_changed(plan, store) else ""
    given = {run.model for run in foreign if run.weights}
    for model, before in changed.items():
        if not before:
            continue
        kind = f"{model.partition(':')[0]}:"
        behind = FOREIGN[kind].format(model) if kind in FOREIGN else ""
        if model in given:
            behind = f"what is in the files of {model}" + (f", or {behind}," if behind else "")
        yield (
            f"{behind}{or_threads} has changed since {len(before):,} of this sweep's runs were trained: they stay in "
            "the store, and these count as new" + (" (a comment counts as a change)" if kind == "import:" else "")
        )


def _what(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in SAME)


def _threads_changed(plan: Plan, store: Store) -> bool:
    """Whether an earlier version of the sweep trained on another number of cores, of which sums of floats depend."""
    rows = store.read("sweeps", columns=["spec"], filter=pc.field("sweep") == plan.spec.name).to_pylist()
    before = {Resource.model_validate(json.loads(row["spec"])["resources"]["train"]).threads for row in rows}
    return bool(before - {plan.spec.resources.train.threads})
