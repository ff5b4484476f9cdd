"""What searches found: fronts, main effects and pictures against independent computations."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
import synthetic
import vl_convert
from scipy import stats

from bnsweep.analysis.database import Database, open_database
from bnsweep.analysis.importance import main_effects
from bnsweep.analysis.pictures import network_picture
from bnsweep.analysis.search_figures import search_figures
from bnsweep.analysis.searches import Found, Placed, read_searches
from bnsweep.analysis.theme import DARK, chart_config
from bnsweep.store.store import Store

CELL = ("dataset", "model", "training", "targets", "bn_treatment")


def test_effects_are_those_of_a_designed_experiment() -> None:
    """With every mask once, least squares gives the difference of means, and the textbook interval."""
    masks = ["".join(digits) for digits in product("01", repeat=4)]
    random = np.random.default_rng(0)
    bits = np.array([[int(d) for d in mask] for mask in masks])
    values = bits @ np.array([3.0, 0.0, -1.0, 0.5]) + random.normal(0, 0.2, 16)
    for site, effect in enumerate(main_effects(masks, values)):
        assert effect.effect is not None
        on, off = values[bits[:, site] == 1], values[bits[:, site] == 0]
        assert effect.effect == pytest.approx(on.mean() - off.mean())
    residual = (
        values
        - np.column_stack([np.ones(16), bits])
        @ np.linalg.lstsq(np.column_stack([np.ones(16), bits]), values, rcond=None)[0]
    )
    # The variance of a difference of two means of 8 is s^2 (1/8 + 1/8), with 16 - 5 degrees of freedom.
    half = stats.t.ppf(0.975, 11) * np.sqrt(residual @ residual / 11 / 4)
    assert main_effects(masks, values)[0].half_width == pytest.approx(half)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    truth = np.array([1.0, 0.0, -2.0, 0.0, 0.5, 0.0])
    hits = []
    for _ in range(300):
        bits = random.integers(0, 2, (30, 6))
        values = bits @ truth + random.normal(0, 1, 30)
        masks = ["".join(map(str, row)) for row in bits]
        for effect, true in zip(main_effects(masks, values), truth, strict=True):
            if effect.low is not None and effect.high is not None:
                hits.append(effect.low <= true <= effect.high)
    assert np.mean(hits) == pytest.approx(0.95, abs=0.02)  # 1,800 intervals: standard error 0.005


def test_sites_that_are_always_kept_together_are_not_told_apart() -> None:
    effects = main_effects(["110", "001", "111", "000", "110"], [1.0, 2.0, 3.0, 4.0, 5.0])
    assert [effect.effect is None for effect in effects] == [True, True, False]
    alone = main_effects(["10", "01", "00"], [1.0, 2.0, 4.0])
    assert [effect.half_width for effect in alone] == [None, None]  # no degrees of freedom
    assert [effect.effect for effect in alone] == pytest.approx([-3.0, -2.0])


def groups(rows: list[dict[str, Any]]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    found = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in CELL)].append(row)
    return found


@pytest.mark.parametrize("by_kept", [0, 1])
def test_the_front_is_that_of_the_definition(database: Database, by_kept: int) -> None:
    for rows in groups(database.query("pareto", by_kept=by_kept).to_dicts()).values():
        values = np.array([[r["baseline_pct"], r["average_normalized_pct"], -r["bn_kept"] * by_kept] for r in rows])
        for row, own in zip(rows, values, strict=True):
            beaten = any((other >= own).all() and (other > own).any() for other in values)
            assert row["front"] is not beaten


def test_the_papers_points_are_marked(database: Database) -> None:
    marks = {(row["placement"], row["paper"]) for row in database.query("pareto").to_dicts()}
    assert marks == {("all", "BN everywhere"), ("none", "no BN"), ("first: 4", None)}


def test_importance_in_sql_is_the_difference_of_means_with_welchs_interval(database: Database) -> None:
    placements = groups(database.query("pareto").to_dicts())
    for key, sites in groups(database.query("site_importance").to_dicts()).items():
        for site in sites:
            on = [r["baseline_pct"] for r in placements[key] if r["bn_mask"][site["site"] - 1] == "1"]
            off = [r["baseline_pct"] for r in placements[key] if r["bn_mask"][site["site"] - 1] == "0"]
            assert (len(on), len(off)) == (site["with_bn"], site["without_bn"])
            assert site["baseline_effect_pct"] == pytest.approx(np.mean(on) - np.mean(off))
            assert (site["baseline_low_pct"] is None) == (min(len(on), len(off)) < 2)


def test_a_store_without_a_search_has_none(database: Database) -> None:
    assert read_searches(database) == []


def test_a_picture_shows_each_site_where_it_stands() -> None:
    sites = [{"stage": 1, "shortcut": False}, {"stage": 2, "shortcut": False}, {"stage": 2, "shortcut": True}]
    address = network_picture("101", sites)
    head, _, content = address.partition(",")
    assert head == "data:image/svg+xml;base64"
    boxes = [each for each in ElementTree.fromstring(base64.b64decode(content)) if each.tag.endswith("rect")]
    assert [box.get("fill") != "none" for box in boxes] == [True, False, True]
    assert [float(box.get("rx", 0)) > 5 for box in boxes] == [False, False, True]
    assert len({box.get("y") for box in boxes}) == 2
    assert len(ElementTree.fromstring(base64.b64decode(network_picture("11").partition(",")[2]))) == 2


def test_the_figures_mark_the_front_and_the_papers_points_and_show_each_network(capfd: Any) -> None:
    masks = ["".join(digits) for digits in product("01", repeat=4)]
    names = {"1111": "BN everywhere", "0000": "no BN", "1000": "first layer only"}
    on_front = {"0000", "1100"}
    points = [
        Placed(
            mask,
            mask,
            mask.count("1"),
            2,
            90.0 + i,
            89.0,
            92.0,
            80.0 - i,
            79.0,
            81.0,
            names.get(mask),
            mask in on_front,
        )
        for i, mask in enumerate(masks)
    ]
    sites = [{"site": n, "path": f"block{n}.bn", "stage": 1 + n // 3, "shortcut": n == 4} for n in range(1, 5)]
    effects = main_effects(masks, [point.baseline for point in points])
    spec = {"search": {"objectives": ["accuracy", "kept"], "sampler": "tpe"}}
    found = Found("s", spec, "digits", "resnet8", points, list(zip(sites, effects, effects, strict=True)), [])
    front, importance = search_figures([found])
    for figure in (front, importance):
        drawn = figure.specification(validate=True)
        assert vl_convert.vegalite_to_vega(json.dumps({**drawn, "config": chart_config(DARK)}), show_warnings=True)
    assert "WARN" not in capfd.readouterr().err
    rows = {row["mask"]: row for row in front.rows}
    assert {mask for mask, row in rows.items() if row["standing"] == "on the front"} == on_front
    assert {mask: row["paper"] for mask, row in rows.items() if row["paper"]} == names
    assert all(row["picture"] == network_picture(mask, sites) for mask, row in rows.items())
    assert '"field": "picture", "title": "image"' in json.dumps(front.specification())  # the tooltip draws that one
    assert [row["label"] for row in importance.rows[::2]] == [f"{n} block{n}.bn" for n in range(1, 5)]


def test_what_a_seed_does_to_all_placements_decides_no_front(tmp_path: Path) -> None:
    """Seeds that lift every placement alike, and placements with one, two and all three of them."""
    lift, ratio = np.array([0.0, 0.03, -0.05]), np.array([0.0, -0.1, 0.04])
    level = {"all": 0.9, "none": 0.88, "first: 4": 0.89}
    resistance = {"all": 0.8, "none": 0.85, "first: 4": 0.83}
    trained = {"all": 3, "none": 1, "first: 4": 2}
    tables = synthetic.tables(models=("resnet8",), trials=2, seeds=3, failures=False)
    for name, rows in tables.items():
        if "placement" in rows.column_names:
            tables[name] = rows.filter([row["train_seed"] < trained[row["placement"]] for row in rows.to_pylist()])
    trials = tables["trials"].to_pylist()
    for row in trials:
        seed, a0 = row["train_seed"], level[row["placement"]] + lift[row["train_seed"]]
        row["accuracy"] = a0 * (1 if row["eta"] == 0 else resistance[row["placement"]] + ratio[seed])
    tables["trials"] = pa.Table.from_pylist(trials, schema=tables["trials"].schema)
    store = Store.create(tmp_path / "store")
    store.commit(tables)
    with open_database(store, threads=1) as opened:
        rows = opened.query("pareto").to_dicts()
    assert {(row["placement"], row["seeds"]) for row in rows} == set(trained.items())
    for row in rows:
        assert row["baseline_pct"] == pytest.approx(100 * (level[row["placement"]] + lift.mean()))
        assert row["average_normalized_pct"] == pytest.approx(100 * (resistance[row["placement"]] + ratio.mean()))
        assert row["front"]


MASKS = tuple(f"{number:07b}" for number in range(0, 128, 9))  # of resnet8's seven sites


def searched(tmp_path: Path, tables: dict[str, pa.Table], *others: dict[str, pa.Table]) -> Found:
    store = Store.create(tmp_path / "store")
    for each in (tables, *others):
        store.commit(each)
    with open_database(store, threads=1) as opened:
        (found,) = read_searches(opened)
    return found


def test_a_placement_of_which_a_run_diverged_is_on_no_front(tmp_path: Path) -> None:
    found = searched(tmp_path, synthetic.search_tables({"resnet8": MASKS}, seeds=3))
    best = found.front_masks[0]
    lost = synthetic.search_tables({"resnet8": MASKS}, seeds=3, diverged=(f"resnet8 {best}",))
    again = searched(tmp_path / "again", lost)
    (point,) = [each for each in again.placed if each.mask == best]
    assert (point.seeds, point.diverged, point.front) == (2, 1, False)
    assert "1 placement on no front, since a run diverged" in again.to_text()


def test_a_front_of_single_runs_is_called_luck(tmp_path: Path) -> None:
    """However few seeds all have had: the file has three."""
    found = searched(tmp_path, synthetic.search_tables({"resnet8": MASKS}))
    front = len(found.front_masks)
    assert f"{front} of the {front} have had fewer than 3 seeds" in found.to_text()
    assert all(each.expected_baseline_sd and each.expected_baseline_sd > 0 for each in found.placed)
    whole = searched(tmp_path / "whole", synthetic.search_tables({"resnet8": MASKS}, seeds=3))
    assert "fewer than" not in whole.to_text()
    assert "±" not in whole.to_text(), "nothing is left open"
    for each in whole.placed:
        assert each.expected_baseline == pytest.approx(each.baseline)
        assert each.expected_normalized == pytest.approx(each.normalized)


def test_too_few_runs_leave_no_empty_columns(tmp_path: Path) -> None:
    said = searched(tmp_path, synthetic.search_tables({"resnet8": MASKS[:3]})).to_text()
    assert "expected" not in said
    assert "the front is judged by these means; from 8 runs on" in said


def test_runs_of_another_recipe_are_not_the_search_s(tmp_path: Path) -> None:
    """The same masks trained otherwise, in the same store, and much worse: nothing that a search says changes."""
    tables = synthetic.search_tables({"resnet8": MASKS})
    other = synthetic.tables(models=("resnet8",), trials=2, seeds=1, failures=False)
    for name, rows in other.items():
        changed = rows.to_pylist()
        for row in changed:
            row.update({key: f"other{row[key]}" for key in ("run_id", "point_id", "recipe") if row.get(key)})
            if name == "trials":
                row["accuracy"] /= 2
        other[name] = pa.Table.from_pylist(changed, schema=rows.schema)
    beside, alone = searched(tmp_path / "beside", tables, other), searched(tmp_path, tables)
    assert beside.placed == alone.placed
