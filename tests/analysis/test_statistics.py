"""Intervals: SQL against NumPy, and both against theory."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from intervals import average_normalized_interval, normalized_interval, paired_interval
from scipy import stats

from bnsweep.analysis.database import Database, open_database
from bnsweep.analysis.statistics import (
    Interval,
    fitted_change,
    kendall,
    mean_interval,
    seeds_needed,
    t_quantile,
    trend_test,
)
from bnsweep.errors import InputError
from bnsweep.store.store import Store

CELL = ("model", "placement", "sigma_reference", "targets", "bn_treatment", "recalibration_images")


def draws_of(store: Store, rows: dict[str, Any], eta: float) -> dict[int, np.ndarray]:
    """Accuracies by training seed, in the order of their trials, read without SQL."""
    found = points_of(store)[(eta, *(rows[name] for name in CELL))]
    return {seed: np.array([own[t] for t in sorted(own)]) for seed, own in sorted(found.items())}


@cache
def points_of(store: Store) -> dict[tuple[Any, ...], dict[int, dict[int, float]]]:
    """Accuracies by point, training seed and trial."""
    found: dict[tuple[Any, ...], dict[int, dict[int, float]]] = {}
    for row in store.read("trials", columns=["eta", *CELL, "train_seed", "trial", "accuracy"]).to_pylist():
        point = found.setdefault((float(row["eta"]), *(row[name] for name in CELL)), {})
        point.setdefault(row["train_seed"], {})[row["trial"]] = row["accuracy"]
    return found


def assert_same(row: dict[str, Any], name: str, interval: Interval) -> None:
    assert row[name] == pytest.approx(100 * interval.mean)
    assert (row["seeds"], row["level"]) == (interval.seeds, interval.level)
    assert row["half_width_pct"] == pytest.approx(100 * interval.half_width, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_sql_and_numpy_agree(synthetic_store: Store, database: Database, confidence: float) -> None:
    accuracy = database.query("accuracy", confidence=confidence).to_dicts()
    normalized = database.query("normalized", confidence=confidence).to_dicts()
    for rows, name in ((accuracy, "accuracy_pct"), (normalized, "normalized_pct")):
        for row in [row for row in rows if row["eta"] == 0.2 and row["targets"] == "all"]:
            draws = draws_of(synthetic_store, row, 0.2)
            clean = [draws_of(synthetic_store, row, 0.0)[seed][0] for seed in draws]
            interval = (
                mean_interval(list(draws.values()), confidence=confidence)
                if name == "accuracy_pct"
                else normalized_interval(list(draws.values()), clean, confidence=confidence)
            )
            assert_same(row, name, interval)


@pytest.mark.parametrize("keep", [None, 0])
def test_average_normalized_agrees(synthetic_store: Store, tmp_path: Any, keep: int | None) -> None:
    store = synthetic_store
    if keep is not None:  # a sweep with one training seed: per-trial averages
        store = Store.create(tmp_path / "one")
        tables = {}
        for name in ("sweeps", "points", "runs", "trials"):
            rows = synthetic_store.read(name)
            mask = (
                [seed == keep for seed in rows["train_seed"].to_pylist()] if "train_seed" in rows.column_names else None
            )
            tables[name] = rows if mask is None else rows.filter(mask)
        store.commit(tables)
    with open_database(store, threads=1) as database:
        rows = [r for r in database.query("average_normalized").to_dicts() if r["targets"] == "weights"]
    assert len(rows) == 2 * 3 * 3
    assert {row["level"] for row in rows} <= ({"draws"} if keep is not None else {"seeds", "draws"})
    for row in rows[:6]:
        levels = [draws_of(store, row, eta) for eta in (0.01, 0.1, 0.2, 0.3, 0.4)]
        seeds = sorted(set.intersection(*(set(level) for level in levels)))
        clean = [draws_of(store, row, 0.0)[seed][0] for seed in seeds]
        interval = average_normalized_interval([[level[seed] for level in levels] for seed in seeds], clean)
        assert_same(row, "average_normalized_pct", interval)
        assert row["n"] == interval.n


def test_paired_agrees_and_says_how_much_it_gains(synthetic_store: Store, database: Database) -> None:
    row = next(
        r
        for r in database.query("paired", model="resnet8").to_dicts()
        if (r["eta"], r["targets"], r["bn_treatment"]) == (0.3, "weights", "stale")
    )
    sides = []
    for placement in ("all", "none"):
        sides.append(list(draws_of(synthetic_store, {**row, "placement": placement}, 0.3).values()))
    interval, narrower = paired_interval(*sides)
    assert row["difference_pct"] == pytest.approx(100 * interval.mean)
    assert row["high_pct"] - row["low_pct"] == pytest.approx(200 * interval.half_width)
    assert row["narrower"] == pytest.approx(narrower)
    assert row["n"] == interval.n == 16


def test_a_normalized_difference_without_noise_is_nothing_at_all(database: Database) -> None:
    """0 by definition: rounding of a/a0 - b/b0 left some 1e-17."""
    clean = [row for row in database.query("paired").to_dicts() if row["eta"] == 0]
    assert clean
    for name in ("normalized_difference_pct", "normalized_low_pct", "normalized_high_pct"):
        assert {row[name] for row in clean} <= {0.0, None}
    assert {row["normalized_difference_pct"] for row in clean} == {0.0}


def test_common_random_numbers_narrow_the_interval() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(3, 400))
    a, b = shared + rng.normal(scale=0.5, size=(3, 400)), shared + rng.normal(scale=0.5, size=(3, 400))
    _, narrower = paired_interval(list(a), list(b))
    # Var a = Var b = 1.25, Var(a - b) = 0.5: sqrt(2.5 / 0.5)
    assert narrower == pytest.approx(5**0.5, rel=0.1)


def test_attribution_adds_up(database: Database) -> None:
    rows = [
        r for r in database.query("target_attribution").to_dicts() if r["bn_treatment"] == "stale" and r["eta"] == 0.1
    ]
    networks = {(r["model"], r["placement"]) for r in rows}
    for network in networks:
        steps = [r for r in rows if (r["model"], r["placement"]) == network]
        assert [r["targets"] for r in steps] == ["weights", "weights+bias", "weights+bias+affine", "all"]
        assert [r["beyond"] for r in steps] == [None, "weights", "weights+bias", "weights+bias+affine"]
        assert sum(r["added_pct"] for r in steps) == pytest.approx(steps[-1]["loss_pct"])
        assert all(r["added_low_pct"] < r["added_pct"] < r["added_high_pct"] for r in steps)


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_coverage(seeds: int) -> None:
    """The interval holds the truth in 95 % of 4,000 sweeps; pooling draws would hold it far less often."""
    rng = np.random.default_rng(seeds)
    networks = rng.normal(0.6, 0.03 if seeds > 1 else 0.0, size=(4000, seeds, 1))
    draws = networks + rng.normal(0, 0.05, size=(4000, seeds, 10))
    inside = [abs(i.mean - 0.6) <= i.half_width for i in (mean_interval(list(each)) for each in draws) if i.half_width]
    # 4 standard errors of a proportion over 4,000 replicates: 0.0138
    assert np.mean(inside) == pytest.approx(0.95, abs=0.0138)
    if seeds > 1:
        pooled = [mean_interval([each.ravel()]) for each in draws]
        assert np.mean([abs(i.mean - 0.6) <= (i.half_width or 0) for i in pooled]) < 0.85


def test_quantiles() -> None:
    assert t_quantile(1, 0.95) == pytest.approx(np.tan(np.pi * 0.475))  # the Cauchy distribution
    assert t_quantile(4, 0.95) == pytest.approx(2.776445)  # printed tables
    with pytest.raises(InputError, match="`0 < confidence < 1` must hold, but got 1"):
        t_quantile(3, 1)
    with pytest.raises(InputError, match="at least one draw"):
        mean_interval([[]])


def test_one_value_has_no_interval() -> None:
    interval = mean_interval([[0.5]])
    assert (interval.mean, interval.low, interval.high, interval.level) == (0.5, None, None, None)


def test_levels_with_different_trials_are_never_too_narrow() -> None:
    rng = np.random.default_rng(1)
    draws = rng.normal(0.5, 0.1, size=(5, 30))  # independent levels: the true standard error is 5 ** -0.5 of the bound
    even = average_normalized_interval([list(draws)], [1.0])
    uneven = average_normalized_interval([[*draws[:4], draws[4][:29]]], [1.0])
    assert uneven.half_width is not None
    assert even.half_width is not None
    assert uneven.half_width > even.half_width
    assert uneven.level == "draws"


def test_trend_test_is_the_sign_test_for_pairs() -> None:
    pairs = [(0.0, 1.0)] * 9 + [(1.0, 0.0)]
    score, p = trend_test(pairs)
    assert score == 8
    assert p == pytest.approx(stats.binomtest(9, 10).pvalue)


def test_trend_test_agrees_with_kendall_for_one_sequence() -> None:
    y = [5.0, 3.0, 4.0, 2.0, 1.0]
    score, p = trend_test([y])
    reference = stats.kendalltau(range(5), y, method="exact")
    assert kendall(y) == score == round(reference.statistic * 10)
    assert p == pytest.approx(reference.pvalue)
    # two independent orders of four, both falling throughout: 2 / (4! * 4!)
    assert trend_test([[4, 3, 2, 1], [4, 3, 2, 1]])[1] == pytest.approx(2 / 576)


def test_fitted_change_and_seeds_needed() -> None:
    assert fitted_change([0, 1], [3.0, 5.0]) == 2
    assert fitted_change([0, 1, 2], [0.0, 1.0, 2.0]) == pytest.approx(2)
    # t(3) / sqrt(4) = 1.59 > 1.5 > t(4) / sqrt(5) = 1.24
    assert seeds_needed(1.5, 1.0) == 5
    assert seeds_needed(0.0, 1.0) is None
