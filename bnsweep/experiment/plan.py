"""A spec, expanded: training runs and the points of their curves.

    run    = data x model x placement x training seed (x recipe)   -> run_id
    point  = run x noise cell x eta                                -> point_id
    trial  = point x 0, 1, 2, ...                                  -> noise_seed

Runs are listed; points are made on demand, since a plan of 100,000 runs holds millions of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from itertools import cycle
from pathlib import Path
from typing import Any, Protocol

from bnsweep.errors import BnsweepError, InputError, Problem, SpecError
from bnsweep.experiment.architecture import Architecture
from bnsweep.experiment.fitting import check_fixed, folding_problems, image_problems, same_images
from bnsweep.experiment.identity import canonical_json, digest, noise_seed
from bnsweep.experiment.noise_cell import NoiseCell
from bnsweep.experiment.placement import add_label
from bnsweep.experiment.recipe import Training, resolve_augment
from bnsweep.experiment.spec import AdaptiveTrials, Data, Model, Spec

__all__ = ["MOST_RUNS", "Catalog", "Plan", "Point", "RunMaker", "TrainingRun", "Weights", "make_plan", "run_maker"]

MOST_RUNS = 200_000  # 15 s to expand
MOST_POINTS = 20_000_000


class Catalog(Protocol):
    """What a plan must know of networks and data. Each call may be slow; answers are cached by the plan."""

    def architecture(self, model: str, data: Data) -> Architecture:
        """The network for this data's channels, size and classes."""
        ...

    def sketch(self, model: str) -> Architecture | None:
        """The network for some data: its sites. None if only the data it is meant for can tell; raises for no name."""
        ...

    def shape(self, data: Data) -> object:
        """Channels, side and classes of the images: asked for to hear what is wrong with their files."""
        ...

    def fingerprint(self, data: Data) -> str:
        """A digest of the images and labels that the data set stands for."""
        ...

    def image_counts(self, data: Data) -> tuple[int, int]:
        """Training and test images."""
        ...

    def weights(self, model: str, data: Data, path: str) -> str:
        """The SHA-256 of the values in a file, which are this network's for this data."""
        ...


@dataclass(frozen=True, slots=True)
class Weights:
    """Values that a network has to begin with, whoever has trained it."""

    path: str  # as the spec has it
    sha256: str  # of the values
    label: str  # what those that belong together are called, one per training seed

    def __str__(self) -> str:
        """For rows: the file's name and what was in it, but no folder."""
        return f"{self.label!r}, {Path(self.path).name} ({self.sha256[:16]})"


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One network to be trained once."""

    run_id: str
    data: Data
    fingerprint: str
    model: str
    placement: str
    bn_mask: str
    train_seed: int
    training: Training  # augment resolved
    architecture: Architecture
    train_images: int
    test_images: int
    weights: Weights | None = None  # None: drawn

    @property
    def bn_kept(self) -> int:
        return self.bn_mask.count("1")

    @property
    def bn_sites(self) -> int:
        return len(self.bn_mask)

    @property
    def ready(self) -> bool:
        """Whether somebody else has trained it, and it is taken as it is."""
        return self.weights is not None and self.training.epochs == 0

    @property
    def title(self) -> str:
        return f"{self.data.dataset} {self.model} {self.placement} seed {self.train_seed}"

    def columns(self) -> dict[str, Any]:
        """The columns that say which network a row is about."""
        return {
            "run_id": self.run_id,
            "dataset": self.data.dataset,
            "model": self.model,
            "placement": self.placement,
            "bn_mask": self.bn_mask,
            "bn_kept": self.bn_kept,
            "bn_sites": self.bn_sites,
            "train_seed": self.train_seed,
        }


@dataclass(frozen=True, slots=True)
class Point:
    """One run, noise cell and eta: a point of a curve, estimated by trials."""

    point_id: str
    run_id: str
    cell: NoiseCell
    eta: Decimal


class RunMaker(Protocol):
    """Gives a placement of a network, with a training seed, its identity."""

    def __call__(self, mask: str, label: str, seed: int, weights: Weights | None = None) -> TrainingRun: ...


@dataclass(frozen=True)
class Plan:
    """All training runs of a spec; points and trials follow from them."""

    spec: Spec
    runs: tuple[TrainingRun, ...]

    @cached_property
    def _cells(self) -> tuple[tuple[NoiseCell, str], ...]:
        return tuple((cell, canonical_json(cell.model_dump(mode="json"))) for cell in self.spec.noise)

    @cached_property
    def _scoring(self) -> str:
        """What else decides a point's rows: precision, batches, sampling of images, root seed."""
        spec = self.spec
        scoring = {
            "evaluation": spec.evaluation.model_dump(mode="json"),
            "images": spec.images,
            "seed": spec.noise_seed,
        }
        if spec.images == "auto" and isinstance(spec.trials, AdaptiveTrials):
            # The allocation over strata follows from the wanted precision and from the rule, whose version this is.
            scoring["rule"] = 3
            scoring["design"] = spec.trials.model_dump(mode="json", exclude={"max"})
            scoring["aim"] = spec.trials.aim
        return canonical_json(scoring)

    def points(self, run: TrainingRun) -> Iterator[Point]:
        """The run's points: cells in the spec's order, eta rising."""
        for cell, text in self._cells:
            for eta in self.spec.eta:
                point_id = digest("point-1", run.run_id, text, f"{eta:.6f}", self._scoring)
                yield Point(point_id, run.run_id, cell, eta)

    @property
    def points_per_run(self) -> int:
        return len(self.spec.noise) * len(self.spec.eta)

    @property
    def sampling(self) -> str:
        """The `sampling` column."""
        return {"all": "full", "auto": "strata"}.get(str(self.spec.images), "random")

    def trial_bounds(self, eta: Decimal) -> tuple[int, int]:
        """Fewest and most trials at a point. Without noise there is nothing to repeat."""
        trials = self.spec.trials
        if eta == 0:
            return 1, 1
        if isinstance(trials, AdaptiveTrials):
            return trials.min, trials.max
        return trials, trials

    def rows(self) -> tuple[int, int]:
        """Fewest and most trial rows of the whole plan."""
        per_run = [self.trial_bounds(eta) for eta in self.spec.eta]
        scale = len(self.runs) * len(self.spec.noise)
        return scale * sum(low for low, _ in per_run), scale * sum(high for _, high in per_run)

    def part(self, number: int, parts: int) -> Plan:
        """Every `parts`-th run from the `number`-th on, counted from 1: parts of much the same size that share no run.

        Ids and seeds do not depend on it. Raises InputError for more parts than runs.
        """
        if not 1 <= number <= parts <= len(self.runs):
            raise InputError(
                f"a part is 1/N to N/N of a sweep with at least N training runs, but got {number}/{parts} of "
                f"{self.spec.name!r} with {len(self.runs):,}"
            )
        return replace(self, runs=self.runs[number - 1 :: parts])

    def noise_stream(self, run: TrainingRun) -> str:
        """What noise seeds derive from: shared by every placement, cell and eta."""
        return digest("stream-1", str(self.spec.noise_seed), run.fingerprint, run.model, str(run.train_seed))

    def noise_seed(self, run: TrainingRun, trial: int) -> int:
        """The seed of one draw, in [0, 2**63)."""
        return noise_seed(self.noise_stream(run), trial)


def _refuse_too_many(spec: Spec) -> None:
    """Counted, not expanded: a short spec may ask for more than fits into memory."""
    placements = sum(len(model.placements or spec.placements) for model in spec.models)
    runs = len(spec.data) * placements * len(spec.train_seeds)
    points = runs * len(spec.noise) * len(spec.eta)
    if runs > MOST_RUNS or points > MOST_POINTS:
        raise SpecError(
            [
                Problem(
                    "",
                    f"a sweep has at most {MOST_RUNS:,} training runs and {MOST_POINTS:,} points, but this asks for up "
                    f"to {runs:,} and {points:,}; split it into several sweeps (they may share a store)",
                )
            ],
            source=f"sweep {spec.name!r}",
        )


def make_plan(spec: Spec, catalog: Catalog) -> Plan:
    """Expand a spec.

    Raises:
        SpecError: every model, data set and placement that does not fit, at once; or more work than a plan holds.
    """
    _refuse_search(spec)
    _refuse_too_many(spec)
    runs: dict[str, TrainingRun] = {}
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    for data_index, data in enumerate(spec.data):
        fingerprint, counts = "", None
        try:
            catalog.shape(data)
            fingerprint, counts = catalog.fingerprint(data), catalog.image_counts(data)
        except BnsweepError as error:
            problems.append(Problem(f"data.{data_index}", str(error)))
        if counts is not None:
            problems += image_problems(spec, data, *counts)
            problems += same_images(seen, data_index, fingerprint)
        for model_index, model in enumerate(spec.models):
            where = f"models.{model_index}"
            try:
                architecture = catalog.sketch(model.name) if counts is None else catalog.architecture(model.name, data)
            except BnsweepError as error:
                problems.append(Problem(where, str(error)))
                continue
            if architecture is None:
                continue
            fitted, misfits = _fit_placements(spec, model, architecture, where)
            problems += misfits
            if counts is None:
                continue
            weights, misfits = _fit_weights(spec, model, data, catalog, where)
            problems += misfits
            for run in _runs(spec, model, data, fingerprint, counts, architecture, fitted, weights):
                # Two placements that keep the same sites are one network: it is trained once, under one label.
                runs.setdefault(run.run_id, run)
    if problems:
        raise SpecError(list(dict.fromkeys(problems)), source=f"sweep {spec.name!r}")
    return Plan(spec, tuple(runs.values()))


def _refuse_search(spec: Spec) -> None:
    if spec.is_search:
        problem = Problem("search", "this file describes a search, not a sweep; run it with: bnsweep search FILE")
        raise SpecError([problem], source=f"sweep {spec.name!r}")


def _fit_placements(
    spec: Spec, model: Model, architecture: Architecture, where: str
) -> tuple[dict[str, str], list[Problem]]:
    """Label of each distinct mask, and what does not fit."""
    labels: dict[str, str] = {}
    problems = []
    own = model.placements is not None
    for index, placement in enumerate(model.placements or spec.placements):
        try:
            mask = placement.mask(architecture)
            check_fixed(architecture, mask, placement.label)
        except BnsweepError as error:
            problems.append(Problem(f"{where}.placements.{index}" if own else f"placements.{index}", str(error)))
            continue
        if model.weights and "0" in mask:
            rule = f"a network with `weights` keeps all of its BN layers; leave {placement.label!r} out"
            problems.append(Problem(f"{where}.placements.{index}", rule))
            continue
        add_label(labels, mask, placement.label)
        problems += folding_problems(spec, architecture, mask)
    return labels, problems


def _fit_weights(
    spec: Spec, model: Model, data: Data, catalog: Catalog, where: str
) -> tuple[list[Weights], list[Problem]]:
    """What the network begins with, by training seed, and what does not fit. One file alone serves every seed."""
    paths = model.weights or ()
    files, seeds, label = len(paths), len(spec.train_seeds), spec.label_of(model) or ""
    if files > 1 and files != seeds:
        rule = f"`weights` has a file per training seed, or one, but got {files} files and {seeds} seeds"
        return [], [Problem(f"{where}.weights", f"{rule}: write train_seeds: {files}")]
    found: dict[str, Weights] = {}
    problems = []
    for index, path in enumerate(paths):
        try:
            digest = catalog.weights(model.name, data, path)
        except BnsweepError as error:
            problems.append(Problem(f"{where}.weights.{index}", str(error)))
            continue
        if digest in found:
            rule = f"{path!r} holds the same values as {found[digest].path!r}: one network counts once; leave it out"
            problems.append(Problem(f"{where}.weights.{index}", rule))
        found[digest] = Weights(path, digest, label)
    return list(found.values()), problems


def _runs(
    spec: Spec,
    model: Model,
    data: Data,
    fingerprint: str,
    counts: tuple[int, int],
    architecture: Architecture,
    labels: dict[str, str],
    weights: Sequence[Weights],
) -> Iterator[TrainingRun]:
    run = run_maker(spec, model, data, fingerprint, counts, architecture)
    tuned = (model.training or spec.training).epochs > 0
    seeds = spec.train_seeds if tuned or not weights else spec.train_seeds[: len(weights)]
    for mask, label in labels.items():
        for seed, begun in zip(seeds, cycle(weights or [None]), strict=False):
            yield run(mask, label, seed, begun)


def run_maker(
    spec: Spec, model: Model, data: Data, fingerprint: str, counts: tuple[int, int], architecture: Architecture
) -> RunMaker:
    """What makes training runs of one network on one data set."""
    training = resolve_augment(model.training or spec.training, data.source)
    recipe = canonical_json(
        {
            "data": fingerprint,
            "model": model.name,
            "signature": architecture.signature,
            "training": training.model_dump(mode="json"),
            # Gradients are summed in an order that depends on the number of threads.
            "threads": spec.resources.train.threads if training.epochs or not model.weights else 0,
        }
    )

    def run(mask: str, label: str, seed: int, weights: Weights | None = None) -> TrainingRun:
        begun = [weights.label, weights.sha256] if weights else []
        run_id = digest("run-1", recipe, mask, str(seed), *begun)
        return TrainingRun(
            run_id, data, fingerprint, model.name, label, mask, seed, training, architecture, *counts, weights
        )

    return run
