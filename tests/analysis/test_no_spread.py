"""Draws and networks that agree to the image: few values without spread are no proof that there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import synthetic
from intervals import paired_interval

from bnsweep.analysis.database import QUERIES, open_database
from bnsweep.analysis.headline import accuracy_table
from bnsweep.analysis.inputs import read_inputs
from bnsweep.analysis.panels import paired
from bnsweep.analysis.sentences import headline
from bnsweep.analysis.statistics import mean_interval
from bnsweep.store.schema import SCHEMAS
from bnsweep.store.store import Store

Row = dict[str, Any]
Tables = dict[str, pa.Table]
IMAGES = synthetic.TEST_IMAGES


def scored(correct: Callable[[Row], int | None], *, trials: int = 2, seeds: int = 1) -> Tables:
    """One network with BN everywhere and without; `correct` images of the trials that it has a number for."""
    tables = synthetic.tables(models=("resnet8",), trials=trials, seeds=seeds, partial=False, failures=False)
    rows = tables["trials"].to_pylist()
    for row in rows:
        if (count := correct(row)) is not None:
            row |= {"correct": count, "accuracy": count / row["images"]}
    return {**tables, "trials": pa.Table.from_pylist(rows, schema=SCHEMAS["trials"])}


def answer(folder: Path, tables: Tables, query: str, **wanted: object) -> list[Row]:
    """The rows of a query with the wanted values."""
    store = Store.create(folder)
    store.commit(tables)
    with open_database(store, threads=1) as database:
        return [row for row in database.query(query).to_dicts() if wanted.items() <= row.items()]


def test_two_equal_differences_are_no_narrower_interval(tmp_path: Path) -> None:
    # 0.7 - 0.4 and 0.6 - 0.3 are one difference, but not to a computer.
    sides = {"all": (0.7, 0.6), "none": (0.4, 0.3)}
    assert 0.7 - 0.4 != 0.6 - 0.3
    tables = scored(lambda row: None if row["eta"] == 0 else round(sides[row["placement"]][row["trial"]] * IMAGES))
    rows = answer(tmp_path / "store", tables, "paired", targets="weights", bn_treatment="stale")
    assert {row["narrower"] for row in rows if row["eta"] > 0} == {None}
    _, narrower = paired_interval([sides["all"]], [sides["none"]])
    assert math.isnan(narrower)


CELL = {"targets": "weights", "bn_treatment": "stale", "placement": "none"}
AVERAGES = ("average_normalized", "tradeoff", "pareto", "depth_trend")


@pytest.mark.parametrize(("seeds", "trials"), [(1, 2), (2, 1), (2, 3)])
def test_values_that_agree_to_the_image_have_no_interval(seeds: int, trials: int, tmp_path: Path) -> None:
    # 17 of 200 images in both draws of the network, and its accuracy was "8.50 ± 0.00 %".
    tables = scored(lambda row: 31 if row["placement"] == "none" else None, seeds=seeds, trials=trials)
    store = Store.create(tmp_path / "store")
    store.commit(tables)
    with open_database(store, threads=1) as database:
        for query in ("accuracy", "normalized", "target_attribution", *AVERAGES):
            for row in database.query(query).to_dicts():
                if CELL.items() <= row.items() and row.get("eta") != 0:
                    ends = {name: value for name, value in row.items() if name.startswith(("low", "high", "loss_low"))}
                    assert ends
                    assert {*ends.values(), row.get("half_width_pct"), row["level"]} == {None}, query
        said = " ".join(headline(read_inputs(database)))
    assert "8.6 % (no interval) without BN" in said
    assert mean_interval([[31 / IMAGES] * trials] * seeds).half_width is None


def _by_definition(query: str, row: Row, column: str) -> bool:
    """Whether it is 0 or 100 % whatever is measured."""
    return (
        (row.get("eta") == 0 and query in ("normalized", "paired", "task_complexity"))
        or (column.startswith("added_") and row["added_pct"] == 0)
        or (column.startswith("change_") and (row["targets"], row["bn_treatment"]) == ("all", "stale"))
    )


def test_no_query_has_an_interval_where_all_networks_and_draws_agree(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    store.commit(scored(lambda row: 31, trials=3, seeds=2))
    wrong, seen = set(), set()
    with open_database(store, threads=1) as database:
        for query in QUERIES:
            for row in database.query(query).to_dicts():
                ends = {column for column in row if re.search(r"(^|_)(low|high|half_width)(_|$)", column)}
                seen |= {query for _ in ends}
                wrong |= {(query, end) for end in ends if row[end] is not None and not _by_definition(query, row, end)}
    assert not wrong
    assert seen >= {"accuracy", "bn_effect", "normalized", "paired", "run_accuracy", "target_attribution", *AVERAGES}


def test_what_is_the_same_by_definition_has_an_interval_of_no_width(tmp_path: Path) -> None:
    # A network without BN has no BN parameters for noise to hit, and the clean network keeps all of its accuracy.
    tables = scored(lambda row: 300 - row["trial"] if row["placement"] == "none" and row["eta"] > 0 else None, seeds=2)
    added = answer(
        tmp_path / "added",
        tables,
        "target_attribution",
        beyond="weights+bias",
        **{**CELL, "targets": "weights+bias+affine"},
    )
    assert {(row["added_pct"], row["added_low_pct"], row["added_high_pct"]) for row in added} == {(0, 0, 0)}
    clean = answer(tmp_path / "clean", tables, "normalized", eta=0, **CELL)
    assert {(round(row["low_pct"], 9), round(row["high_pct"], 9), row["level"]) for row in clean} == {
        (100, 100, "seeds")
    }


def test_an_interval_wider_than_the_scale_is_not_told(tmp_path: Path) -> None:
    # Accuracies of 0 and 100 %: t(1) = 12.706, so that the half-width is 12.706 * 70.7 / sqrt(2) = 635.3 points.
    tables = scored(lambda row: IMAGES * row["trial"] if row["eta"] > 0 else None)
    store = Store.create(tmp_path / "store")
    store.commit(tables)
    with open_database(store, threads=1) as database:
        (wide,) = {round(row["half_width_pct"], 1) for row in database.query("accuracy").to_dicts() if row["eta"] > 0}
        shown = accuracy_table(database).to_dicts()
        said = " ".join(headline(read_inputs(database)))
    assert wide == 635.3
    assert {row["eta=0.1"] for row in shown} == {"50.0 ◦"}
    assert "50.0 % (no interval) with BN everywhere and 50.0 % (no interval) without BN" in said
    assert "that both have, is 0.0 points (no interval, so no verdict)." in said


def test_rows_that_two_sweeps_share_are_not_compared_with_themselves(tmp_path: Path) -> None:
    # The second sweep has the first one's rows, and half of them again, some tenths of an image lower.
    first = scored(lambda row: None, trials=3)
    shared = {
        name: pa.Table.from_pylist([{**row, "sweep": "second"} for row in first[name].to_pylist()], SCHEMAS[name])
        for name in ("sweeps", "points")
    }
    own = [{**row, "sweep": "second", "point_id": row["point_id"] + "x"} for row in first["points"].to_pylist()]
    lower = [
        {**row, "point_id": row["point_id"] + "x", "accuracy": row["accuracy"] - (1 + row["trial"]) / 10 / IMAGES}
        for row in first["trials"].to_pylist()
    ]
    store = Store.create(tmp_path / "store")
    store.commit(first)
    store.commit(shared)
    with open_database(store, threads=1) as database:
        rows = database.query("paired_sweeps", a="synthetic", b="second").to_dicts()
    assert {(row["seeds"], row["n"], row["difference_pct"], row["low_pct"], row["level"]) for row in rows} == {
        (0, 0, None, None, None)
    }
    assert {row["same_rows"] for row in rows if row["eta"] > 0} == {3}
    assert list(paired(rows, "synthetic", "second")) == []

    more = {"points": own, "trials": lower}
    store.commit(
        {
            name: pa.Table.from_pylist([row for row in rows if row["bn_kept"]], SCHEMAS[name])
            for name, rows in more.items()
        }
    )
    with open_database(store, threads=1) as database:
        rows = [row for row in database.query("paired_sweeps", a="synthetic", b="second").to_dicts() if row["eta"] > 0]
    assert {row["same_rows"] for row in rows} == {3}
    assert {(row["placement"], row["n"]) for row in rows} == {("all", 3), ("none", 0)}
    for row in rows:
        if row["placement"] == "all":  # the mean of 0.1, 0.2 and 0.3 images, and t(2) = 4.303 times its standard error
            assert row["difference_pct"] == pytest.approx(100 * 0.2 / IMAGES)
            assert row["half_width_pct"] == pytest.approx(100 * 4.302653 * 0.1 / IMAGES / 3**0.5)
