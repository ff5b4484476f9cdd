"""Charts that only the service shows."""

import json
import math
from collections import Counter

import pyarrow as pa
import synthetic

from bnsweep.analysis import panels, reader
from bnsweep.analysis.database import write_snapshot
from bnsweep.analysis.thinning import LARGEST_CHART
from bnsweep.store.store import Store

ANSWER = [
    {"placement": placement, "targets": targets, "level": "seeds", "eta": eta, "accuracy_pct": 90 - 100 * eta}
    for placement in ("all", "none")
    for targets in ("weights", "all")
    for eta in (0.0, 0.1, 0.2)
]


def test_rows_that_words_tell_apart_are_joined_in_panels_of_their_own():
    (figure,) = panels.of_result(ANSWER, x="eta", y="accuracy_pct", colour="placement")
    assert (figure.panels, [row["panel"] for row in figure.rows]) == (2, [row["targets"] for row in ANSWER])
    spec = figure.specification(validate=True)
    assert spec["spec"]["mark"] == {"type": "line", "point": True}
    (figure,) = panels.of_result(ANSWER, x="eta", y="accuracy_pct", colour="targets")
    assert {row["panel"] for row in figure.rows} == {"all", "none"}


def test_rows_that_nothing_tells_apart_are_points():
    twice = [row for row in ANSWER if row["targets"] == "all" for _ in range(2)]
    (figure,) = panels.of_result(twice, x="eta", y="accuracy_pct", colour="placement")
    assert figure.panels == 1
    assert figure.specification(validate=True)["mark"]["type"] == "point"


def test_a_run_whose_loss_is_nan_has_its_pages(tmp_path):
    tables = synthetic.tables(models=("resnet8",), trials=2, seeds=1, partial=False, failures=False)
    epochs, runs = tables["epochs"].to_pylist(), tables["runs"].to_pylist()
    (run,) = (row for row in runs if row["placement"] == "none")
    run |= {"status": "diverged", "reason": "training loss is nan", "train_loss": math.nan, "checkpoint_sha256": None}
    for row, loss in zip(
        [row for row in epochs if row["run_id"] == run["run_id"]][-2:], (math.inf, math.nan), strict=True
    ):
        row["train_loss"] = loss
    tables["epochs"] = pa.Table.from_pylist(epochs, schema=tables["epochs"].schema)
    tables["runs"] = pa.Table.from_pylist(runs, schema=tables["runs"].schema)
    store = Store.create(tmp_path / "store")
    store.commit(tables)
    write_snapshot(store, tmp_path / "snapshot")
    path = str(tmp_path / "snapshot")
    one, sweep = reader.one_run(path, run["run_id"]), reader.report_sections(path, "synthetic")
    for text, figure, lines in ((one["charts"], "epochs", 1), (sweep["specs"], "curves", 2)):
        rows = json.loads(text, parse_constant=lambda name: 1 / 0)["specs"][figure]["datasets"]["rows"]
        losses = [row["value"] for row in rows if row["panel"].endswith("loss, nats")]
        assert losses.count(None) == 2
        assert len(losses) == 15 * lines


def test_of_many_epochs_every_kth_of_each_run_is_drawn_in_both_panels():
    network = {"dataset": "digits", "model": "resnet8", "placement": "all", "bn_kept": 7, "bn_sites": 7}
    epochs = [
        {
            **network,
            "train_seed": seed,
            "run_id": f"{seed:08d}",
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "test_accuracy_pct": 50,
        }
        for seed in range(30)
        for epoch in range(1, 200 + seed % 2)
    ]
    (figure,) = panels.loss_curves(epochs)
    assert figure.panels == 2
    assert len(figure.rows) <= LARGEST_CHART
    # 30 runs of 199 or 200 epochs in two panels: 11970 rows, so 2500 - 30 of 5985 epochs, every third.
    for panel in {row["panel"] for row in figure.rows}:
        own = [row for row in figure.rows if row["panel"] == panel]
        assert len({row["run"] for row in own}) == 30
        for seed in (0, 29):
            shown = [row["epoch"] for row in own if row["run"].startswith(f"seed {seed} ")]
            assert shown == [*range(3, 199, 3), 199 + seed % 2]
    assert figure.caption.startswith("n = 30 training runs")
    assert figure.caption.endswith("; drawn is each run's every 3rd epoch and its last.")
    (figure,) = panels.loss_curves(epochs[:1000])
    assert len(figure.rows) == 2000
    assert "drawn" not in figure.caption


def test_of_many_draws_each_cell_and_level_keeps_its_share():
    draws = [
        {"targets": targets, "bn_treatment": "stale", "eta": eta, "trial": trial, "accuracy_pct": 90 - 100 * eta}
        for targets, trials in (("all", 3000), ("weights", 1000))
        for eta in (0.0, 0.1, 0.2)
        for trial in range(trials)
    ]
    (figure,) = panels.histogram(draws)
    # 8000 draws under noise: 5000 of them are five in eight of each level.
    assert Counter(row["panel"] for row in figure.rows) == {
        "noise on all parameters": 2 * 1875,
        "noise on weights": 2 * 625,
    }
    assert Counter(row["eta_pct"] for row in figure.rows) == {10.0: 2500, 20.0: 2500}
    assert figure.caption.startswith("n = 8000 noise draws on one network, 2 noise levels; drawn are 5000 of them")


def test_paired_differences_without_an_interval_are_hollow():
    row = {"model": "resnet8", "dataset": "ten", "targets": "weights", "bn_treatment": "stale", "training": "abc"}
    row |= {"sigma_reference": "tensor_std", "recalibration_images": 0, "difference_pct": 1.0, "n": 8, "seeds": 1}
    firm = {**row, "eta": 0.1, "low_pct": 0.5, "high_pct": 1.5, "level": "draws"}
    bare = {**row, "eta": 0.2, "low_pct": None, "high_pct": None, "level": None}

    def fills(rows):
        (figure,) = panels.paired(rows, "all", "none")
        marks = [layer["mark"] for layer in figure.specification(validate=True)["spec"]["layer"]]
        return sorted(mark["filled"] for mark in marks if mark["type"] == "point")

    assert fills([firm]) == [True]
    assert fills([bare]) == [False]
    assert fills([firm, bare]) == [False, True]
