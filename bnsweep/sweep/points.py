"""The trials that a point still needs, round by round.

With a fixed number there is one round: whatever is missing. With a sequential design the next round
follows from the rows of all earlier ones in the order of their trials, so that it is the same for any
engine, number of workers, retry or resume. A round must be complete before the next one is decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bnsweep.experiment.plan import Plan, Point
from bnsweep.experiment.spec import AdaptiveTrials

__all__ = ["PointWork", "Request"]


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


class PointWork:
    """What one point still needs."""

    def __init__(self, point: Point, plan: Plan, *, missing: Sequence[int], rows: Sequence[Mapping[str, Any]]) -> None:
        self.point = point
        self._images = plan.spec.images if isinstance(plan.spec.images, int) and point.eta else None
        self._open: set[int] = set(missing)
        self._design = plan.spec.trials if isinstance(plan.spec.trials, AdaptiveTrials) and point.eta else None
        self._rows = {row["trial"]: row for row in rows} if self._design else {}

    @property
    def done(self) -> bool:
        return not self._open

    def requests(self) -> Iterator[Request]:
        """The trials of the current round that have not landed."""
        for first, count in _consecutive(sorted(self._open)):
            yield Request(first, count, self._images)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Take rows that came back; True when that completes a round."""
        self._open.difference_update(row["trial"] for row in rows)
        return not self._open


def _consecutive(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of each stretch without gaps."""
    start = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1:
            yield numbers[start], index - start
            start = index
