"""The paper's effect by noise cell and by learning rate, against the same sums in NumPy."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import t as student_t
from synthetic import tables

from bnsweep.analysis.database import Database, open_database
from bnsweep.store.store import Store


def per_run(database: Database) -> dict[tuple[str, ...], float]:
    """A_avr of each training run and cell, in %."""
    return {
        (row["model"], row["placement"], row["targets"], row["bn_treatment"], row["train_seed"]): row[
            "average_normalized_pct"
        ]
        for row in database.query("run_averages").to_dicts()
    }


def interval(values: list[float]) -> tuple[float, float, float]:
    mean = float(np.mean(values))
    half = student_t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return mean, mean - half, mean + half


def test_the_effect_of_each_cell_is_paired_by_seed(tmp_path):
    store = Store.create(tmp_path / "store")
    store.commit(tables(seeds=3, trials=4, failures=False))
    with open_database(store) as database:
        values, answers = per_run(database), database.query("bn_effect").to_dicts()
    assert len(answers) == 2 * 6
    for row in answers:
        model, cell = row["model"], (row["targets"], row["bn_treatment"])
        assert row["fewest"] == "none"  # not the partial placement, which keeps more

        def effects(cell, model=model):
            return [values[model, "all", *cell, seed] - values[model, "none", *cell, seed] for seed in range(3)]

        told = row["effect_points"], row["low_points"], row["high_points"]
        assert told == pytest.approx(interval(effects(cell)))
        change = [a - b for a, b in zip(effects(cell), effects(("all", "stale")), strict=True)]
        told = row["change_points"], row["change_low_points"], row["change_high_points"]
        assert told == pytest.approx(interval(change), abs=1e-9)
        assert row["seeds"] == 3


def test_without_two_seeds_there_is_an_effect_and_no_interval(tmp_path):
    store = Store.create(tmp_path / "store")
    store.commit(tables(seeds=1, trials=4, failures=False))
    with open_database(store) as database:
        for row in database.query("bn_effect").to_dicts():
            assert row["effect_points"] == pytest.approx(row["everywhere_pct"] - row["fewest_pct"])
            assert row["low_points"] is row["high_points"] is row["change_low_points"] is None


def test_depth_and_layers_are_taken_apart(tmp_path):
    store = Store.create(tmp_path / "store")
    store.commit(tables(seeds=3, trials=4, failures=False))  # two depths, each with all, four and none of its BN layers
    with open_database(store) as database:
        values, answers = per_run(database), database.query("depth_or_layers").to_dicts()
    assert len(answers) == 2 * 3 * 6
    for row in answers:
        cell = row["targets"], row["bn_treatment"]

        def mine(model, placement, cell=cell):
            return [values[model, placement, *cell, seed] for seed in range(3)]

        own = mine(row["model"], row["placement"])
        assert row["average_normalized_pct"] == pytest.approx(np.mean(own))
        if row["placement"] != "none":
            less = [a - b for a, b in zip(own, mine(row["model"], "none"), strict=True)]
            told = row["layers_points"], row["layers_low_points"], row["layers_high_points"]
            assert (row["fewest"], told) == (0, pytest.approx(interval(less)))
        else:
            assert row["fewest"] is row["layers_points"] is row["layers_low_points"] is None
        if row["model"] == "resnet20" and row["placement"] != "all":  # 19 layers are more than resnet8 has
            other = mine("resnet8", row["placement"])
            depth = np.mean(own) - np.mean(other)
            half = student_t.ppf(0.975, 2) * np.sqrt((np.var(own, ddof=1) + np.var(other, ddof=1)) / 3)
            told = row["depth_points"], row["depth_low_points"], row["depth_high_points"]
            assert (row["shallowest"], told) == ("resnet8", pytest.approx((depth, depth - half, depth + half)))
        else:
            assert row["shallowest"] is row["depth_points"] is row["depth_low_points"] is None


def test_networks_of_one_depth_or_of_different_recipes_say_nothing_about_depth(tmp_path):
    store = Store.create(tmp_path / "store")
    store.commit(trained_at(0.001, loss=0.5, baseline={"all": 300, "none": 310}))
    store.commit(tables(sweep="another-recipe", models=("resnet20",), seeds=1, trials=4, failures=False))
    with open_database(store) as database:
        assert not database.query("depth_or_layers").to_dicts()


def test_work_is_summed_up_per_network_and_placement(tmp_path):
    made = tables(seeds=3, trials=4, failures=False)
    store = Store.create(tmp_path / "store")
    store.commit(made)
    with open_database(store) as database:
        answers = database.query("work").to_dicts()
    assert len(answers) == 2 * 3
    for row in answers:
        runs, trials = (
            [r for r in made[name].to_pylist() if (r["model"], r["bn_kept"]) == (row["model"], row["bn_kept"])]
            for name in ("runs", "trials")
        )
        reached = [100 * run["test_correct"] / run["test_images"] for run in runs]
        assert row["networks"] == len(runs) == 3
        told = row["test_accuracy_pct"], row["least_pct"], row["most_pct"]
        assert told == pytest.approx((np.mean(reached), min(reached), max(reached)))
        assert row["train_s"] == pytest.approx(sum(run["duration_s"] for run in runs))
        assert (row["trials"], row["trial_s"]) == (len(trials), pytest.approx(sum(t["duration_s"] for t in trials)))


def trained_at(rate: float, *, loss: float, baseline: dict[str, int]) -> dict[str, pa.Table]:
    """One seed of one network at a learning rate, with runs of its own and the wanted clean accuracy."""
    made = tables(sweep=f"at-{rate:g}", models=("resnet8",), seeds=1, trials=4, partial=False, failures=False)
    runs = made["runs"].to_pylist()
    clean = {run["run_id"]: baseline[run["placement"]] for run in runs}
    for run in runs:
        recipe = json.dumps({"epochs": 15, "learning_rate": rate, "optimizer": "adam"}, separators=(",", ":"))
        run.update(learning_rate=rate, train_loss=loss, recipe=recipe)
    trials = made["trials"].to_pylist()
    for trial in trials:
        if trial["eta"] == 0:
            trial.update(correct=clean[trial["run_id"]], accuracy=clean[trial["run_id"]] / trial["images"])
    made["runs"] = pa.Table.from_pylist(runs, schema=made["runs"].schema)
    made["trials"] = pa.Table.from_pylist(trials, schema=made["trials"].schema)
    return made


def test_learning_rates_are_compared_where_nothing_else_differs(tmp_path):
    store = Store.create(tmp_path / "store")
    store.commit(trained_at(0.001, loss=0.5, baseline={"all": 300, "none": 310}))
    store.commit(trained_at(0.01, loss=0.25, baseline={"all": 320, "none": 290}))
    store.commit(tables(sweep="another-recipe", models=("resnet8",), seeds=1, trials=4, failures=False))
    with open_database(store) as database:
        answers = database.query("learning_rates").to_dicts()
        averages = {
            (r["training"], r["placement"], r["targets"], r["bn_treatment"]): r
            for r in database.query("average_normalized").to_dicts()
        }
    assert len(answers) == 2 * 2 * 6
    assert {(r["placement"], r["learning_rate"]) for r in answers} == set(product(("all", "none"), (0.001, 0.01)))
    for row in answers:
        same = averages[row["training"], row["placement"], row["targets"], row["bn_treatment"]]
        for column in ("average_normalized_pct", "low_pct", "high_pct", "baseline_pct", "n"):
            assert row[column] == pytest.approx(same[column], rel=1e-12)  # sums in any order
        assert row["train_loss"] == {0.001: 0.5, 0.01: 0.25}[row["learning_rate"]]
        assert row["tuned"] == ((row["placement"], row["learning_rate"]) in (("all", 0.01), ("none", 0.001)))


def test_draws_that_are_nothing_but_nan_are_counted_apart(tmp_path):
    made = tables(models=("resnet8",), seeds=3, trials=8, failures=False)
    trials = made["trials"].to_pylist()
    hit = [t for t in trials if (t["placement"], t["targets"], float(t["eta"])) == ("all", "all", 0.1)]
    for trial in hit:
        if trial["trial"] < 2 * (trial["train_seed"] + 1):  # 2, 4 and 6 of 8 draws
            trial.update(nonfinite=trial["images"], correct=36, accuracy=0.1)
    made["trials"] = pa.Table.from_pylist(trials, schema=made["trials"].schema)
    store = Store.create(tmp_path / "store")
    store.commit(made)
    with open_database(store) as database:
        answers = database.query("nonfinite").to_dicts()
    row, *others = [r for r in answers if r["placement"] == "all"]
    assert (row["eta"], row["seeds"], row["n"], row["lost"], row["partly"]) == (0.1, 3, 24, 12, 0)
    assert (row["lost_pct"], row["low_pct"], row["high_pct"]) == pytest.approx(
        (50, max(0, interval([25, 50, 75])[1]), min(100, interval([25, 50, 75])[2]))
    )
    assert (row["least_pct"], row["most_pct"]) == (25, 75)
    kept = [[t["accuracy"] for t in hit if t["train_seed"] == seed and not t["nonfinite"]] for seed in range(3)]
    assert row["lost_accuracy_pct"] == pytest.approx(10)
    assert row["finite_pct"] == pytest.approx(100 * np.mean([np.mean(own) for own in kept]))
    assert row["accuracy_pct"] == pytest.approx(100 * np.mean([t["accuracy"] for t in hit]))
    assert {(r["eta"], r["lost"], r["partly"]) for r in others} == {(0.3, 0, 9), (0.4, 0, 9)}
