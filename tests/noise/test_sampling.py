"""Sequential sampling: decisions from rows alone, unbiased subsets, and intervals that cover a known truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bnsweep.errors import InputError
from bnsweep.noise.sampling import (
    ENOUGH,
    Design,
    Round,
    Stop,
    chosen_images,
    interval,
    next_round,
    rounds,
    strata,
    strata_sizes,
    stratified_accuracy,
)
from tests.bench.bench_sampling import design, simulate, trials_needed
from tests.bench.populations import Population, recorded, scored, synthetic
from tests.bench.simulation import many


@dataclass(frozen=True)
class Row:
    accuracy: float
    images: int = 100
    strata_images: tuple[int, ...] | None = None
    strata_correct: tuple[int, ...] | None = None


# --- strata and subsets ---


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.floats(-2, 4))
def test_strata_partition_the_images_by_rising_margin(count, seed, shift):
    margins = np.random.default_rng(seed).normal(shift, 1, count)
    labels = strata(margins)
    sizes = strata_sizes(labels)
    assert sum(sizes) == count
    assert len(sizes) == 1 or min(sizes) >= 8
    assert (np.diff(labels[np.argsort(margins)]) >= 0).all()


def test_right_and_wrong_images_are_in_different_strata():
    margins = np.random.default_rng(0).normal(1, 1, 10_000)
    labels = strata(margins)
    assert labels[margins <= 0].max() < labels[margins > 0].min()
    assert len(strata_sizes(labels)) == 12


def test_stratified_accuracy_weighs_by_size():
    # 0.7 * 1/2 + 0.3 * 3/4
    assert stratified_accuracy([70, 30], [2, 4], [1, 3]) == pytest.approx(0.575)


def test_subsets_are_fair_and_follow_from_the_seed():
    counts = np.zeros(50)
    for seed in range(2000):
        chosen = chosen_images(10, seed, None, 50)
        assert len(set(chosen.tolist())) == 10
        counts[chosen] += 1
    # Each image is chosen with probability 1/5: chi-squared with 49 degrees of freedom, variance 4/5 of multinomial.
    assert stats.chi2.sf((((counts - 400) ** 2 / 400).sum()) / 0.8, 49) > 1e-4
    assert chosen_images(10, 7, None, 50).tolist() == chosen_images(10, 7, None, 50).tolist()
    labels = np.repeat([0, 1, 2], [20, 20, 10])
    assert np.bincount(labels[chosen_images((3, 1, 10), 4, labels, 50)]).tolist() == [3, 1, 10]


# --- decisions ---


def test_the_interval_is_the_documented_formula():
    accuracy = np.array([0.71, 0.74, 0.69, 0.73, 0.60, 0.72, 0.75, 0.70])
    found = interval(Design(0.01), [Row(value) for value in accuracy])
    extreme = accuracy.mean() - 0.60
    spread = accuracy.var(ddof=1) + 3 * extreme**2 / 8
    half = 1.05 * stats.t.ppf(0.975, 7) * (spread / 8) ** 0.5
    assert found.half_width == pytest.approx(half)
    assert (found.low, found.mean, found.high) == pytest.approx(
        (accuracy.mean() - half, accuracy.mean(), accuracy.mean() + half)
    )


def test_the_first_round_costs_no_more_than_the_fewest_trials_on_all_images():
    assert next_round(Design(0.01, min=8), []) == Round(range(8))
    # 8 * (10,000 + 16) / (500 + 16) = 155 and 8 * (10,000 + 16) / (4,000 + 16) = 19.95 trials
    assert next_round(Design(0.01, min=8, images=500), []) == Round(range(ENOUGH), images=500)
    assert next_round(Design(0.01, min=8, images=4000), []) == Round(range(19), images=4000)
    auto = Design(0.01, images="auto", test_images=1000, strata_sizes=(600, 398, 2))
    assert next_round(auto, []) == Round(range(ENOUGH), allocation=(4, 4, 2))
    assert next_round(replace(auto, max=20), []) == Round(range(20), allocation=(4, 4, 2))
    few = replace(auto, test_images=70, strata_sizes=(60, 8, 2))  # 8 * (70 + 16) / (10 + 16) = 26.5
    assert next_round(few, []) == Round(range(26), allocation=(4, 4, 2))


@pytest.mark.parametrize(("clean", "trials"), [(None, 8), (0.5, 8), (0.5195, 30), (0.9, ENOUGH)])
def test_a_point_that_lost_much_sees_more_draws_before_it_stops(clean, trials):
    """Five times the mean loss in 3 of m draws must not exceed the half-width: m >= 15 * loss / half-width."""
    design = Design(0.01, min=8, clean_accuracy=clean)
    calm = [Row(0.5)] * 100
    step = next_round(design, calm)
    assert isinstance(step, Stop)
    assert (step.reason, step.trials) == ("half_width", trials)
    assert next_round(replace(design, max=20), calm[:20]).trials == min(trials, 20)


def test_a_raised_maximum_goes_on_where_the_old_one_stopped():
    population = synthetic("bimodal 0.85/0.5 a fifth")
    short = Design(0.004, max=1100, images="auto", strata_sizes=tuple(population.sizes.tolist()))
    trials, allocations = [], []
    for step in rounds(short, trials):
        if isinstance(step, Round):
            trials += scored(population, step, np.random.default_rng(len(trials)))
            allocations += [step.allocation] * len(step.trials)
    assert (step.reason, step.trials) == ("max", 1100)
    longer = rounds(replace(short, max=3000), trials)
    replayed = []
    while len(replayed) < 1100:
        step = next(longer)
        replayed += [step.allocation] * len(step.trials)
    assert replayed[:1100] == allocations


def test_agreeing_trials_stop_and_others_go_on():
    design = Design(0.01, min=8, max=30)
    calm = [Row(0.5 + 0.001 * (i % 3)) for i in range(8)]
    step = next_round(design, calm)
    assert isinstance(step, Stop)
    assert (step.reason, step.trials) == ("half_width", 8)
    assert step.half_width <= 0.01
    wild = [Row(0.5 + 0.1 * (i % 3)) for i in range(30)]
    assert next_round(design, wild[:8]) == Round(range(8, 10))  # a quarter more
    step = next_round(design, wild)
    assert isinstance(step, Stop)
    assert (step.reason, step.trials) == ("max", 30)
    assert step.half_width > 0.01


def test_decisions_do_not_depend_on_when_they_are_asked_for():
    population = synthetic("normal 0.85 sd 0.01")
    design = Design(0.008, images="auto", strata_sizes=tuple(population.sizes.tolist()))
    trials, steps = [], []
    rng = np.random.default_rng(5)
    for step in rounds(design, trials):
        steps.append(step)
        if isinstance(step, Round):
            assert step.trials.start == len(trials)
            trials += scored(population, step, rng)
    assert isinstance(steps[-1], Stop)
    assert len(steps) > 3
    for step in steps[:-1]:
        for landed in {step.trials.start, (step.trials.start + step.trials.stop) // 2, step.trials.stop - 1}:
            assert next_round(design, trials[:landed]) == step
    assert next_round(design, trials) == steps[-1]
    assert next_round(design, trials + trials[:7]) == steps[-1]  # rows beyond the stop change nothing


def test_images_go_where_they_flip():
    """One stratum flips like a coin, independently per image; the other never: Neyman gives it next to nothing."""
    sizes = np.array([5000, 5000])
    right = np.stack([np.random.default_rng(0).binomial(5000, 0.5, 5000), np.full(5000, 5000)], 1)
    design = Design(0.01, images="auto", strata_sizes=(5000, 5000))
    trials = []
    for step in rounds(design, trials):
        if isinstance(step, Stop):
            break
        allocation = step.allocation
        trials += scored(Population("half", sizes, right, 0.75), step, np.random.default_rng(len(trials)))
    assert allocation[0] > 5 * allocation[1]
    assert step.reason == "half_width"


# --- what it is for ---


@pytest.mark.parametrize("images", ["auto", "all", "500"])
def test_the_simulation_takes_the_same_decisions(images):
    """The rule is written twice: row by row for one point, from sums for thousands (tests/bench/simulation.py)."""
    population = synthetic("skewed 0.87 sd 0.03")
    plan, trials = design(population, images, 0.01), [[] for _ in range(5)]
    points = many(plan, population, 5, np.random.default_rng(1), keep=trials)
    for number, own in enumerate(trials):
        step = next_round(plan, own)
        assert isinstance(step, Stop)
        assert (step.trials, step.reason == "max") == (points.trials[number], points.capped[number])
        assert step.half_width == pytest.approx(points.half_width[number])
        assert interval(plan, own).mean == pytest.approx(points.mean[number])
        assert sum(trial.images for trial in own) == points.images[number]


@pytest.mark.parametrize("images", ["auto", "all", "500"])
@pytest.mark.parametrize(
    ("name", "half_width"),
    [
        ("binomial 0.5", 0.02),
        ("skewed 0.87 sd 0.03", 0.02),
        ("bimodal 0.85/0.45 a tenth", 0.02),
        ("bimodal 0.85/0.5 a fifth", 0.02),
        ("NaN in 3 of 10 draws", 0.05),
    ],
)
def test_intervals_cover_a_known_truth(name, half_width, images):
    case = simulate(synthetic(name), images, half_width, 1000)
    # The full simulation is tests/bench/bench_sampling.py; here 94 % less 3 standard errors of 1,000 replicates.
    assert case.coverage > 0.94 - 3 * (0.94 * 0.06 / 1000) ** 0.5
    assert (case.points.half_width <= half_width).all()


def test_auto_costs_a_tenth_from_ten_percent_on_and_nowhere_more_than_whole_test_sets():
    """The whole table is made by tests/bench/bench_sampling.py; costs are images and draws, a draw costing as 16."""
    for eta, population in recorded().items():
        for half_width in (0.002, 0.02):
            if trials_needed(population, half_width) < 100:
                auto, full = (simulate(population, images, half_width, 100).cost for images in ("auto", "all"))
                assert auto < full * (0.1 if eta >= 0.1 else 1.05), population.name


# --- bad input ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"half_width": 0}, "`0 < half_width < 0.5` must hold, but got half_width=0"),
        ({"confidence": 1.0}, r"`0 < confidence < 1` must hold, but got confidence=1.0"),
        ({"min": 9, "max": 8}, "`2 <= min <= max` must hold, but got min=9, max=8"),
        ({"images": 101}, "`1 <= images <= test images` must hold, but got images=101, test images=100"),
        ({"images": "auto", "strata_sizes": (50, 49)}, "needs strata that hold every test image"),
        ({"images": "auto"}, "needs strata that hold every test image"),
    ],
)
def test_a_design_that_cannot_be_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        Design(**{"half_width": 0.01, "test_images": 100, **change})


def test_an_allocation_that_does_not_fit_the_strata_is_refused():
    labels = np.repeat([0, 1], [5, 5])
    for allocation in ((1,), (0, 1), (6, 1)):
        with pytest.raises(InputError, match="an allocation has 1 image to all images of each stratum"):
            chosen_images(allocation, 0, labels, 10)
