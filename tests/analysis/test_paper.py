"""The paper's arithmetic, from its own tables (PROTOCOL.md, "What the numbers themselves reveal")."""

from __future__ import annotations

from math import sqrt
from pathlib import Path
from statistics import mean, stdev

import pytest
from scipy.stats import t

from bnsweep.analysis.database import Database, open_database, open_paper
from bnsweep.store.store import Store

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def paper() -> Database:
    return open_paper(threads=1)


def test_table_4_follows_from_tables_2_and_3(paper: Database) -> None:
    rows = [row for row in paper.query("paper_comparison").to_dicts() if row["quantity"] == "average_normalized"]
    assert len(rows) == 20
    off = {
        (row["dataset"], row["paper_model"], row["bn"]): (round(row["ours_pct"], 2), round(row["paper_pct"], 2))
        for row in rows
        if abs(row["ours_pct"] - row["paper_pct"]) > 0.02
    }
    assert off == {("cifar100", "ResNet_20", "with"): (47.91, 47.71), ("cifar10", "VGG_16", "without"): (94.85, 93.80)}


def test_average_normalized_is_the_mean_of_normalized(paper: Database) -> None:
    row = next(
        row
        for row in paper.query("average_normalized").to_dicts()
        if (row["dataset"], row["model"], row["placement"]) == ("cifar10", "ResNet_20", "all")
    )
    by_hand = sum((91.48, 87.20, 66.16, 26.47, 13.83)) / 5 / 92.16 * 100
    assert row["average_normalized_pct"] == pytest.approx(by_hand)
    assert (row["etas"], row["seeds"], row["n"], row["level"], row["low_pct"]) == (5, 1, 5, None, None)


def test_tables_2_and_3_come_back_as_they_are(paper: Database) -> None:
    rows = [row for row in paper.query("paper_comparison").to_dicts() if row["quantity"] == "accuracy"]
    assert len(rows) == 120
    assert max(abs(row["difference_pct"]) for row in rows) < 1e-9
    assert {row["agrees"] for row in rows} == {None}  # no spread, no interval, no agreement


def test_no_figure_of_the_paper_has_an_interval(paper: Database) -> None:
    for name in ("accuracy", "normalized", "average_normalized", "tradeoff", "task_complexity", "depth_trend"):
        result = paper.query(name)
        assert set(result.column("low_pct")) == {None}
        assert set(result.column("level")) == {None}


def test_part_of_bn_where_training_without_did_not_converge(paper: Database) -> None:
    placements = {(r["dataset"], r["model"]): set() for r in paper.query("runs").to_dicts()}
    for row in paper.query("runs").to_dicts():
        placements[row["dataset"], row["model"]].add(row["placement"])
    none = {network for network, found in placements.items() if found == {"all", "none"}}
    assert none == {("cifar10", f"ResNet_{depth}") for depth in (20, 36, 44, 56)}
    assert all(found == {"all", "partial"} for network, found in placements.items() if network not in none)


def test_the_paper_agrees_where_one_more_network_of_ours_may_be() -> None:
    """The prediction interval of Student's t, on published rows: here the clean accuracies come within it."""
    with open_database(Store.open(ROOT / "results/cifar10-long-sgd")) as database:
        rows = [row for row in database.query("paper_comparison").to_dicts() if row["quantity"] == "accuracy"]
        single = database.sql(
            "SELECT placement, targets, bn_treatment, eta::DOUBLE AS eta, accuracy FROM point"
        ).to_dicts()
    names = ("placement", "targets", "bn_treatment", "eta")
    found = set()
    for row in rows:
        own = [100 * each["accuracy"] for each in single if all(each[name] == row[name] for name in names)]
        assert len(own) == 3
        half = t.ppf(0.975, 2) * stdev(own) * sqrt(1 + 1 / 3)
        assert row["agrees"] == (abs(mean(own) - row["paper_pct"]) <= half), row
        assert row["low_pct"] == pytest.approx(mean(own) - half / 2) or row["low_pct"] == 0
        found.add((row["eta"], row["agrees"]))
    assert {(0, True), (0.2, True), (0.2, False)} <= found
