"""Learning rates against their definitions."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import pytest

from bnsweep.errors import UnknownNameError
from bnsweep.experiment.recipe import Constant, Cosine, Step
from bnsweep.training.schedules import Progress, rate_factor


def factors(schedule, *, steps_per_epoch: int = 10, epochs: int = 20) -> list[float]:
    steps = range(steps_per_epoch * epochs)
    return [rate_factor(schedule, Progress(step, steps_per_epoch, epochs)) for step in steps]


def test_constant():
    assert set(factors(Constant())) == {1.0}


def test_the_keras_examples_steps():
    # 0.1, 0.01, 0.001, 0.0005 after epochs 80, 120, 160, 180 of 200 (PROTOCOL.md).
    schedule = Step(milestones=(0.4, 0.6, 0.8, 0.9), factors=(0.1, 0.01, 0.001, 0.0005))
    rates = factors(schedule, steps_per_epoch=1, epochs=200)
    assert [rates[epoch] for epoch in (79, 80, 119, 120, 159, 160, 179, 180, 199)] == [
        1.0, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.0005, 0.0005,
    ]  # fmt: skip


@pytest.mark.parametrize(("milestone", "epochs", "first"), [(0.55, 100, 55), (0.28, 50, 14), (0.07, 200, 14)])
def test_a_milestone_is_no_epoch_late_by_rounding(milestone, epochs, first):
    assert milestone * epochs > first
    rates = factors(Step(milestones=(milestone,), factors=(0.1,)), steps_per_epoch=1, epochs=epochs)
    assert rates.index(0.1) == first


def test_cosine_falls_from_one_to_its_final_value():
    rates = factors(Cosine(final=0.1))
    assert rates[0] == 1.0
    assert rates[100] == pytest.approx((1 + 0.1) / 2)  # half-way
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert 0.1 < rates[-1] < 0.1 + 1e-3


def test_warmup_rises_in_a_straight_line():
    rates = factors(Cosine(warmup=0.1))
    assert rates[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert rates[20] == 1.0


def test_every_step_of_a_short_training_learns():
    assert factors(Cosine(), steps_per_epoch=1, epochs=1) == [1.0]
    assert min(factors(Cosine(warmup=0.99), steps_per_epoch=1, epochs=2)) > 0


def test_unknown_schedule():
    with pytest.raises(UnknownNameError, match=r"unknown schedule 'linear'. Valid: constant, step, cosine"):
        rate_factor(SimpleNamespace(kind="linear"), Progress(0, 1, 1))
