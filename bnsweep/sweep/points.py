"""The trials that a point still needs, round by round.

With a fixed number there is one round: whatever is missing. With a sequential design the next round
follows from the rows of all earlier ones in the order of their trials (`noise.sampling`), so that it is
the same for any engine, number of workers, retry or resume. A round is complete before the next one is
decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bnsweep.experiment.plan import Plan, Point
from bnsweep.experiment.spec import AdaptiveTrials
from bnsweep.noise.sampling import Design, Round, next_round
from bnsweep.sweep.ledger import TrainedRun

__all__ = ["BLOCK_S", "FIRST_BLOCK", "PointWork", "Request", "design_of"]

BLOCK_S = 10.0  # of work per task at least: long against a task's overhead, short against a sweep
FIRST_BLOCK = 4  # trials, until a network's speed was measured


@dataclass(frozen=True, slots=True)
class Request:
    """Consecutive trials of one point, scored alike."""

    first: int
    count: int
    images: int | None = None
    allocation: tuple[int, ...] | None = None

    @property
    def trials(self) -> range:
        return range(self.first, self.first + self.count)

    def split(self, size: int) -> tuple[Request, Request | None]:
        """The first `size` trials, and the rest."""
        if size >= self.count:
            return self, None
        return replace(self, count=size), replace(self, first=self.first + size, count=self.count - size)


@dataclass(frozen=True, slots=True)
class _Observed:
    """What a design reads of a row."""

    accuracy: float
    images: int
    strata_images: Sequence[int] | None
    strata_correct: Sequence[int] | None


def design_of(plan: Plan, point: Point, *, test_images: int, trained: TrainedRun) -> Design | None:
    """The sequential design of a point; None where the number of trials is fixed."""
    trials = plan.spec.trials
    if not isinstance(trials, AdaptiveTrials) or point.eta == 0:
        return None
    return Design(
        half_width=trials.half_width,
        confidence=trials.confidence,
        min=trials.min,
        max=trials.max,
        aim=trials.aim,
        images=plan.spec.images,
        test_images=test_images,
        strata_sizes=trained.strata_sizes,
        clean_accuracy=None if trained.test_correct is None else trained.test_correct / test_images,
    )


class PointWork:
    """What one point still needs.

    Args:
        point: the point.
        plan: its plan.
        design: its sequential design, if it has one.
        missing: with a fixed number, the trials that have not landed.
        rows: with a design, the rows that have.
    """

    def __init__(
        self,
        point: Point,
        plan: Plan,
        *,
        design: Design | None,
        missing: Sequence[int],
        rows: Sequence[Mapping[str, Any]],
    ) -> None:
        self.point = point
        self._design = design
        self._rows: dict[int, _Observed] = {}
        self._images = plan.spec.images if isinstance(plan.spec.images, int) and point.eta else None
        self._allocation: tuple[int, ...] | None = None
        self._open = set(missing)
        if design is not None:
            self._keep(rows)
            self._open = self._next_round()

    @property
    def done(self) -> bool:
        return not self._open

    def requests(self) -> Iterator[Request]:
        """The trials of the current round that have not landed."""
        for first, count in _consecutive(sorted(self._open)):
            yield Request(first, count, self._images, self._allocation)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Take rows that came back; True when that completes a round. `requests` then gives the next one."""
        self._open.difference_update(row["trial"] for row in rows)
        if self._design is not None:
            self._keep(rows)
            if not self._open:
                self._open = self._next_round()
                return True
        return not self._open

    def _keep(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self._rows[row["trial"]] = _Observed(
                row["accuracy"], row["images"], row["strata_images"], row["strata_correct"]
            )

    def _next_round(self) -> set[int]:
        assert self._design is not None
        landed: list[_Observed] = []
        while len(landed) in self._rows:
            landed.append(self._rows[len(landed)])
        step = next_round(self._design, landed)
        if not isinstance(step, Round):
            return set()
        self._images, self._allocation = step.images, step.allocation
        return {trial for trial in step.trials if trial not in self._rows}


def _consecutive(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of each stretch without gaps."""
    start = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1:
            yield numbers[start], index - start
            start = index
