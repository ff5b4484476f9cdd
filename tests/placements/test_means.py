"""What few noisy runs say of placements' means, against truths that the runs were drawn from."""

from itertools import product

import numpy as np
import pytest

from bnsweep.placements.front import nondominated
from bnsweep.placements.means import expected_means

MASKS = ["".join(digits) for digits in product("01", repeat=6)]
BITS = np.array([[float(digit) for digit in mask] for mask in MASKS])
SEEDS = 3


def drawn(random):
    """(placements, seeds, 2) accuracies and ratios: effects of sites and seeds, and luck, in log odds, as real ones."""
    effects, level = random.normal(0, 0.4, (6, 2)), random.normal(0, 0.3, (SEEDS, 2))
    odds = 2.0 + (BITS - 0.5) @ effects
    noisy = odds[:, None, :] + level[None, :, :] + random.normal(0, 0.3, (len(MASKS), SEEDS, 2))
    return 1.0 / (1.0 + np.exp(-noisy))


def some_runs(random, values, count):
    places = random.permutation(len(MASKS))[:count]
    seeds = random.integers(0, SEEDS, count)
    return [MASKS[place] for place in places], seeds, values[places, seeds], places


def test_a_placement_with_every_seed_is_its_own_mean():
    random = np.random.default_rng(0)
    values = drawn(random)
    masks, seeds, seen, _ = some_runs(random, values, 20)
    whole = [MASKS[7]] * SEEDS
    places, means, deviations = expected_means(
        [*whole, *(mask for mask in masks if mask != MASKS[7])],
        [*range(SEEDS), *(seed for mask, seed in zip(masks, seeds, strict=True) if mask != MASKS[7])],
        np.concatenate([values[7], seen[[mask != MASKS[7] for mask in masks]]]),
        all_seeds=SEEDS,
    )
    assert places == sorted(set(masks) | {MASKS[7]})
    at = places.index(MASKS[7])
    assert means[at] == pytest.approx(values[7].mean(axis=0))
    assert deviations[at] == pytest.approx([0.0, 0.0])
    assert (np.delete(deviations, at, axis=0) > 0).all()


def test_all_runs_together_say_more_than_a_placement_s_own_run():
    """Closer to the truth, within the interval that is given, and a front that is worth more."""
    errors, own, within, fronts = [], [], [], []
    for number in range(12):
        random = np.random.default_rng(number)
        values = drawn(random)
        truth = values.mean(axis=1)
        masks, seeds, seen, places = some_runs(random, values, 40)
        names, means, deviations = expected_means(masks, seeds, seen, all_seeds=SEEDS)
        order = [masks.index(name) for name in names]
        there, plain = truth[places[order]], seen[order]
        errors.append(np.abs(means - there))
        own.append(np.abs(plain - there))
        within.append(np.abs(means - there) < 1.96 * deviations)
        fronts.append([there[nondominated(each)].mean() for each in (means, plain)])
    assert np.mean(errors) < 0.75 * np.mean(own)
    assert np.mean(within) == pytest.approx(0.95, abs=0.05)  # 960, of 12 draws
    assert np.mean(fronts, axis=0)[0] > np.mean(fronts, axis=0)[1]
