"""Trial rows of one run -> what a study is told of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bnsweep.experiment.noise_cell import NoiseCell
from bnsweep.experiment.plan import Plan, TrainingRun

__all__ = ["Verdict", "objective_values", "worst_values"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one training run of a study ended.

    `status` is a run's (converged, finished, diverged, failed, pruned); `values` one number per objective, if it has
    all of its trials; `accuracy` that of the clean network.
    """

    status: str
    values: tuple[float, ...] | None = None
    accuracy: float | None = None
    epochs: tuple[float, ...] = field(default=(), repr=False)  # test accuracy after each, for early stopping

    @property
    def measured(self) -> bool:
        return self.values is not None


def objective_values(
    objectives: Iterable[str], plan: Plan, run: TrainingRun, rows: Iterable[Mapping[str, Any]]
) -> tuple[float, ...]:
    """One number per objective, from all trial rows of a run.

    accuracy: of the clean network, a fraction (equation 13's a_0). average_normalized: the mean over noise cells of
    A_avr (equation 14), or that of the cell it names. kept: BN layers. A network that knows nothing has A_avr 0.
    """
    by_point: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        by_point[row["point_id"]].append(row["accuracy"])
    clean: list[float] = []
    noisy: dict[NoiseCell, list[float]] = defaultdict(list)
    for point in plan.points(run):
        accuracy = sum(by_point[point.point_id]) / len(by_point[point.point_id])
        if point.eta == 0:
            clean.append(accuracy)
        else:
            noisy[point.cell].append(accuracy)
    a0 = sum(clean) / len(clean)
    averages = {cell: sum(each) / len(each) / a0 if a0 else 0.0 for cell, each in noisy.items()}
    by_name = {cell.label: average for cell, average in averages.items()}  # one that an objective names is unique
    values = []
    for name in objectives:
        head, _, cell = name.partition(":")
        if head == "accuracy":
            values.append(a0)
        elif head == "kept":
            values.append(float(run.bn_kept))
        else:
            values.append(by_name[cell] if cell else sum(averages.values()) / len(averages))
    return tuple(values)


def worst_values(objectives: Iterable[str], sites: int) -> tuple[float, ...]:
    """What a study is told of a network that did not converge: nothing is worse, so it is on no front."""
    return tuple(float(sites + 1) if name == "kept" else 0.0 for name in objectives)
