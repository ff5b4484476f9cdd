"""Learning rates: constant, step and cosine, as factors of the initial rate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi
from typing import TYPE_CHECKING, Any

from bnsweep.errors import UnknownNameError

if TYPE_CHECKING:
    from bnsweep.experiment.recipe import Constant, Cosine, Step

__all__ = ["SCHEDULES", "Progress", "rate_factor"]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where training is, just before a step."""

    step: int  # steps done in the whole training
    steps_per_epoch: int
    epochs: int  # planned

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self.step // self.steps_per_epoch

    @property
    def steps(self) -> int:
        """Steps of the whole training."""
        return self.steps_per_epoch * self.epochs


def constant(_schedule: Constant, _now: Progress) -> float:
    """Always the initial rate."""
    return 1.0


def step(schedule: Step, now: Progress) -> float:
    """`factors[i]` from the first epoch at or after `milestones[i] * epochs` on."""
    factor = 1.0
    for milestone, value in zip(schedule.milestones, schedule.factors, strict=True):
        if now.epoch >= round(milestone * now.epochs, 9):  # 0.55 * 100 is a little more than 55
            factor = value
    return factor


def cosine(schedule: Cosine, now: Progress) -> float:
    """A linear rise over the warm-up's steps, then half a cosine that reaches `final` when training ends."""
    rising = round(schedule.warmup * now.steps)
    if now.step < rising:
        return (now.step + 1) / rising
    falling = (now.step - rising) / max(1, now.steps - rising)
    return schedule.final + (1 - schedule.final) * (1 + cos(pi * falling)) / 2


SCHEDULES: dict[str, Callable[[Any, Progress], float]] = {"constant": constant, "step": step, "cosine": cosine}


def rate_factor(schedule: Constant | Step | Cosine, now: Progress) -> float:
    """The learning rate of the next step, as a fraction of the initial one.

    Raises:
        UnknownNameError: no such schedule.
    """
    if schedule.kind not in SCHEDULES:
        raise UnknownNameError("schedule", schedule.kind, SCHEDULES)
    return SCHEDULES[schedule.kind](schedule, now)
