"""What is said first of a sweep, in a terminal and in a report, where rows are missing."""

# ruff: noqa: RUF001 - a report has true minus signs.

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import synthetic
from scipy import stats

from bnsweep.analysis.database import open_database
from bnsweep.analysis.headline import accuracy_table
from bnsweep.analysis.inputs import read_inputs
from bnsweep.analysis.sentences import headline
from bnsweep.store.store import Store

ALL = pc.scalar(True)


def stored(folder: Path, tables: dict[str, pa.Table], keep: pc.Expression = ALL) -> Store:
    """A store of these tables; of trials and points only those to `keep`."""
    store = Store.create(folder)
    cut = {name: rows.filter(keep) for name, rows in tables.items() if name in ("trials", "points")}
    store.commit({**tables, **cut})
    return store


def test_a_lost_block_leaves_its_network_one_line(tmp_path: Path) -> None:
    # The block that is lost: the third seed of resnet20 with the first four BN layers, noise on weights at 40 %.
    with open_database(stored(tmp_path / "store", synthetic.tables(trials=4, seeds=3)), threads=1) as database:
        rows = accuracy_table(database).to_dicts()
    names = [tuple(row[name] for name in ("model", "placement", "targets", "bn_treatment")) for row in rows]
    assert len(set(names)) == len(names) == 2 * 3 * len(synthetic.CELLS)
    seeds = {name: row["seeds"] for name, row in zip(names, rows, strict=True)}
    assert seeds.pop(("resnet20", "first: 4", "weights", "stale")) == "2 to 3"
    assert set(seeds.values()) == {"3"}
    assert all(row[f"eta={eta:g}"] for row in rows for eta in map(float, synthetic.ETAS))


def test_a_sweep_without_noise_is_told_as_one(tmp_path: Path) -> None:
    tables = synthetic.tables(models=("resnet8",), trials=4, partial=False, failures=False)
    clean = pc.field("eta").cast("float64") == 0
    with open_database(stored(tmp_path / "store", tables, clean), threads=1) as database:
        (said,) = headline(read_inputs(database))
    assert said.startswith("No η above 0 was measured for this sweep")


def test_networks_with_nothing_beside_them_are_told_by_what_they_keep(tmp_path: Path) -> None:
    tables = synthetic.tables(models=("resnet8",), trials=4, partial=False, failures=False)
    one = pc.field("placement") == "all"
    tables = {**tables, "runs": tables["runs"].filter(one), "trials": tables["trials"].filter(one)}
    weights = (pc.field("targets") == "weights") & (pc.field("bn_treatment") == "stale")
    rows = tables["trials"].filter(weights).to_pylist()
    highest = max(row["eta"] for row in rows)
    left = [row["accuracy"] for row in rows if row["eta"] == highest]
    with open_database(stored(tmp_path / "store", tables), threads=1) as database:
        *kept, last = headline(read_inputs(database))
    (said,) = [line for line in kept if "BN everywhere, noise on weights at" in line]
    assert f"at η = {100 * highest:.0f} %: accuracy is {100 * sum(left) / len(left):.1f}" in said
    assert last.startswith("No network of this sweep was measured both")


@pytest.mark.parametrize("seeds", [1, 3])
def test_intervals_over_draws_alone_are_said_to_be_that(seeds: int, tmp_path: Path) -> None:
    tables = synthetic.tables(models=("resnet8",), trials=4, seeds=seeds, partial=False, failures=False)
    with open_database(stored(tmp_path / "store", tables), threads=1) as database:
        said = [line for line in headline(read_inputs(database)) if "95 % interval" in line]
    assert said
    assert all(("over draws alone: other trainings may differ" in line) == (seeds == 1) for line in said)


def test_the_verdict_is_that_of_the_pairs(tmp_path: Path) -> None:
    # Training seeds move both placements by 20 points together, and BN costs 1 to 2 more: the means' intervals overlap.
    tables = synthetic.tables(models=("resnet8",), trials=4, seeds=3, partial=False, failures=False)
    level = {0: 240, 1: 160, 2: 80}
    points = {row["point_id"]: row for row in tables["points"].to_pylist()}
    runs = {row["run_id"]: row for row in tables["runs"].to_pylist()}
    trials = tables["trials"].to_pylist()
    for row in trials:
        run = runs[points[row["point_id"]]["run_id"]]
        loss = (4 + run["train_seed"]) * (run["placement"] == "all") if points[row["point_id"]]["eta"] else 0
        row["correct"] = level[run["train_seed"]] + row["trial"] % 2 - loss
        row["accuracy"] = row["correct"] / row["images"]
    tables["trials"] = pa.Table.from_pylist(trials, schema=tables["trials"].schema)
    with open_database(stored(tmp_path / "store", tables), threads=1) as database:
        inputs = read_inputs(database)
    ends = {row["placement"]: (row["low"], row["high"]) for row in inputs.accuracy if row["eta"] > 0}
    assert ends["all"][1] > ends["none"][0], "they overlap"
    lost = [100 * images / 360 for images in (4, 5, 6)]
    interval = stats.t.interval(0.95, 2, loc=-5 / 3.6, scale=stats.sem(lost))
    low, high = (f"−{-end:.2f}" for end in interval)
    for said in headline(inputs):
        assert (
            f"over the 12 that both have, is −1.39 points (95 % interval {low} to {high}, which leaves out 0)." in said
        )


def guessing(tables: dict[str, pa.Table], correct: dict[tuple[str, int], int]) -> dict[str, pa.Table]:
    """The same with other numbers of correct test images, by placement and training seed."""
    rows = tables["runs"].to_pylist()
    for row in rows:
        row["test_correct"] = correct.get((row["placement"], row["train_seed"]), row["test_correct"])
    return {**tables, "runs": pa.Table.from_pylist(rows, schema=tables["runs"].schema)}


@pytest.mark.parametrize(
    ("correct", "told"),
    [
        ({("none", 0): 47, ("none", 1): 47}, None),
        ({("none", 1): 46}, "1 of 4 networks is no better than chance (resnet8 on digits, no BN; clean accuracy,"),
        (
            {("none", 0): 36, ("none", 1): 0, ("all", 1): 46},
            "3 of 4 networks are no better than chance (resnet8 on digits, BN everywhere; resnet8 on digits, no BN; ",
        ),
    ],
)
def test_networks_that_guess_are_told_first(
    correct: dict[tuple[str, int], int], told: str | None, tmp_path: Path
) -> None:
    # Of 360 images in 10 classes guesses get 36 right, and 47 or more in less than 5 % of cases.
    p = {count: stats.binomtest(count, 360, 1 / 10, alternative="greater").pvalue for count in (46, 47)}
    assert p[46] > 0.05 > p[47]
    tables = synthetic.tables(models=("resnet8",), trials=4, seeds=2, partial=False, failures=False)
    with open_database(stored(tmp_path / "store", guessing(tables, correct)), threads=1) as database:
        said = list(headline(read_inputs(database)))
    if told is None:
        assert not any("chance" in sentence for sentence in said)
        return
    assert said[0].startswith(told)
    assert said[0].endswith("normalized accuracy means nothing.")
    assert len(said) == 3, "and what it would say anyway"
