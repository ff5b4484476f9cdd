"""The `search` section of a file: which placements to try is not written down but found out.

A search file is a sweep file with this section. Its `placements` are tried first, beside the known ones; its
`train_seeds` are the seeds that a placement can be trained with, in this order; everything else is as in a sweep.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from bnsweep.errors import InputError, PlacementError, Problem, SpecError
from bnsweep.experiment.architecture import Architecture
from bnsweep.experiment.entries import Count, Frozen, Number, Seed, Whole
from bnsweep.experiment.fitting import FIXED, folding_problems, image_problems, same_images
from bnsweep.experiment.placement import Placement, add_label
from bnsweep.experiment.plan import MOST_RUNS, Catalog, RunMaker, TrainingRun, run_maker
from bnsweep.experiment.spec import Data, Model, Spec

__all__ = [
    "KNOWN",
    "OBJECTIVES",
    "Minimal",
    "Search",
    "SearchSpec",
    "Stopping",
    "Subject",
    "known_placements",
    "subjects",
]

OBJECTIVES = {"accuracy": "max", "average_normalized": "max", "kept": "min"}
SamplerName = Literal["surrogate", "tpe", "nsga2", "gp", "random", "exhaustive"]
KNOWN: tuple[Any, ...] = ("all", "none", {"first": 1}, {"last": 1}, {"every": 2}, "shortcuts")  # and each stage


class Stopping(Frozen):
    """ASHA: a training run far behind the others of its network after the same number of epochs is stopped."""

    grace_epochs: Annotated[Whole, Field(ge=1)] = Field(description="epochs that every run is given")
    reduction: Number = Field(3.0, ge=1.5, le=100, description="one run of so many goes on past each milestone")


class Minimal(Frozen):
    """`bnsweep search --minimal`: what counts as converging, and how hard to look for it."""

    places: Annotated[Whole, Field(ge=1, le=1000)] = Field(4, description="placements tried per number of BN layers")
    accuracy_share: Number = Field(
        0.0, ge=0, le=1, description="a converged network reaches this share of the accuracy with BN everywhere"
    )


class Search(Frozen):
    """How to look for placements."""

    objectives: tuple[str, ...] = Field(
        tuple(OBJECTIVES),
        description="any of accuracy (up), average_normalized (A_avr, up; over all noise cells, or "
        "average_normalized:CELL for one), kept (BN layers, down)",
    )
    sampler: SamplerName = Field("surrogate", description="what proposes the next runs")
    trainings: Count = Field(60, description="most training runs per network; what the store has costs nothing")
    batch: Annotated[Whole, Field(ge=1, le=1000)] = Field(
        4, description="runs proposed at once: a proposal knows the batches before its own, on any cluster"
    )
    seed: Seed = Field(0, description="of the sampler")
    early_stopping: Stopping | None = Field(None, description="ASHA on test accuracy; default: train in full")
    most_placements: Count = Field(1024, description="an exhaustive search over more is refused")
    minimal: Minimal = Minimal()

    @field_validator("objectives", mode="before")
    @classmethod
    def _objectives(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if not names:
            raise ValueError(f"a search needs at least one objective of {', '.join(OBJECTIVES)}, but got none")
        return names

    @field_validator("objectives")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            head, colon, _ = name.partition(":")
            if head not in OBJECTIVES or (colon and head != "average_normalized"):
                raise ValueError(
                    f"the rows have no objective {name!r}; there are {', '.join(OBJECTIVES)} and, for one noise cell, "
                    "average_normalized:CELL"
                )
        if len(set(value)) < len(value):
            raise ValueError(f"`objectives` names one twice: {', '.join(value)}")
        return value

    @property
    def directions(self) -> list[str]:
        """Max or min per objective."""
        return [OBJECTIVES[name.partition(":")[0]] for name in self.objectives]


class SearchSpec(Spec):
    """One search: like a sweep, with a `search` section."""

    is_search: ClassVar[bool] = True

    search: Search = Field(description="how to look for placements: a file with this section is a search")

    @model_validator(mode="after")
    def _measurable(self) -> Self:
        """Every objective must follow from rows that this file plans; a network has one study."""
        names = [model.name for model in self.models]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"`models` names {twice[0]} twice; a search has one study per network and data set")
        cells = [cell.label for cell in self.noise]
        for name in self.search.objectives:
            head, _, cell = name.partition(":")
            if head == "average_normalized" and not any(self.eta):
                raise ValueError(f"`search.objectives` has {name}, but `eta` has no level above 0; add one, e.g. 0.1")
            if cells.count(cell) > 1:
                raise ValueError(
                    f"`search.objectives` has {name}, but several noise cells are called so: they differ in "
                    "`recalibration_images`; leave one of them, or take average_normalized, their mean"
                )
            if cell and cell not in cells:
                raise ValueError(
                    f"`search.objectives` has {name}, but the rows will have no such noise cell; "
                    f"there are {', '.join(cells)}"
                )
        return self

    def identity(self) -> dict[str, Any]:
        """What makes two searches the same study: all but the words, the machines and how long it goes on."""
        content = self.model_dump(mode="json", exclude={"description", "resources"})
        content["search"].pop("trainings")
        content["threads"] = self.resources.train.threads
        return content


@dataclass(frozen=True)
class Subject:
    """A network on a data set: what one study is about."""

    spec: SearchSpec
    data: Data
    model: Model
    architecture: Architecture
    fingerprint: str
    counts: tuple[int, int]  # training and test images

    @property
    def title(self) -> str:
        return f"{self.data.dataset} {self.model.name}"

    @property
    def sites(self) -> int:
        return len(self.architecture.sites)

    @cached_property
    def known(self) -> dict[str, str]:
        """Label of each mask that is tried first: the file's own placements, then the known ones."""
        labels: dict[str, str] = {}
        for placement in (*(self.model.placements or self.spec.placements), *known_placements(self.architecture)):
            add_label(labels, placement.mask(self.architecture), placement.label)
        return labels

    @property
    def trainings(self) -> int:
        """Most training runs: the budget, or every placement with every seed."""
        every: int = len(self.spec.train_seeds) * 2**self.sites
        return min(self.spec.search.trainings, every)

    def run(self, mask: str, seed: int) -> TrainingRun:
        """The training run of a placement."""
        return self._maker(mask, self.known.get(mask, mask), seed)

    @cached_property
    def _maker(self) -> RunMaker:
        return run_maker(self.spec, self.model, self.data, self.fingerprint, self.counts, self.architecture)


def known_placements(architecture: Architecture) -> Iterator[Placement]:
    """What people try: all, none, one at either end, every other, shortcuts only, each stage alone."""
    stages = sorted({site.stage for site in architecture.sites})
    for form in (*KNOWN, *({"stages": [stage]} for stage in stages)):
        placement = Placement.parse(form)
        with suppress(PlacementError):  # {every: 2} of one site, shortcuts where there are none
            placement.mask(architecture)
            yield placement


def subjects(spec: SearchSpec, catalog: Catalog) -> tuple[Subject, ...]:
    """Every network and data set of a search.

    Raises:
        SpecError: networks that cannot be searched, all at once.
    """
    found, problems = [], []
    seen: dict[str, int] = {}
    for data_index, data in enumerate(spec.data):
        try:
            catalog.shape(data)
            fingerprint, counts = catalog.fingerprint(data), catalog.image_counts(data)
        except InputError as error:
            problems.append(Problem(f"data.{data_index}", str(error)))
            continue
        problems += image_problems(spec, data, *counts)
        problems += same_images(seen, data_index, fingerprint)
        for index, model in enumerate(spec.models):
            where = f"models.{index}"
            try:
                subject = Subject(spec, data, model, catalog.architecture(model.name, data), fingerprint, counts)
                _check(subject)
                _ = subject.known
            except InputError as error:
                problems.append(Problem(where, str(error)))
                continue
            found.append(subject)
    if (most := sum(each.trainings for each in found)) > MOST_RUNS:
        problems.append(
            Problem("search.trainings", f"a search has at most {MOST_RUNS:,} trainings, but asks for {most:,}")
        )
    if problems:
        raise SpecError(list(dict.fromkeys(problems)), source=f"search {spec.name!r}")
    return tuple(found)


def _check(subject: Subject) -> None:
    search, sites, name = subject.spec.search, subject.sites, subject.model.name
    if not sites:
        raise InputError(
            f"{name} has no BN layer, so there is no placement to search; take a network with BN "
            "(`bnsweep models NAME` lists its sites), or leave this one out"
        )
    if subject.model.weights:
        raise InputError(
            f"{name} has `weights`, and a search trains a network of its own for every placement: leave them out, or "
            "make this a sweep"
        )
    if fixed := subject.architecture.fixed:
        raise InputError(f"a search takes BN out everywhere in turn, but in {name} {FIXED.format(', '.join(fixed))}")
    if problem := next(folding_problems(subject.spec, subject.architecture, "1" * sites), None):
        raise InputError(problem.message)
    if search.sampler == "exhaustive" and 2**sites > search.most_placements:
        raise InputError(
            f"`2^sites <= search.most_placements` must hold for an exhaustive search, but {name} has {sites} sites, "
            f"hence {2**sites:,} placements, and most_placements is {search.most_placements:,}; "
            "choose another sampler, or raise it"
        )
    if search.sampler == "exhaustive" and search.trainings < 2**sites:
        raise InputError(
            f"`search.trainings >= 2^sites` must hold for an exhaustive search, but {name} has {sites} sites, hence "
            f"{2**sites:,} placements, and trainings is {search.trainings:,}; raise it, or choose another sampler"
        )
