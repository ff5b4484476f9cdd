"""Sequential sampling through the driver: the same rows whatever happened on the way."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sweep_helpers import bnsweep, quiet_env, rows, wait_until

from bnsweep.analysis.database import open_database
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.noise.evaluate import Evaluator
from bnsweep.noise.sampling import Design, Stop, interval, next_round
from bnsweep.store.checkpoints import Checkpoints
from bnsweep.store.location import open_files
from bnsweep.store.store import Store
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.training.checkpoint import from_bytes
from bnsweep.training.datasets import load_dataset
from bnsweep.training.models import build
from bnsweep.training.sites import place

SPEC = """\
name: sequential
data: {source: digits, train_images: 400, test_images: 200}
models: resnet8
placements: [all, none]
training: {epochs: 2, batch_size: 50, chance_epochs: null}
eta: [0, 0.1, 0.3]
trials: {half_width: 0.03, min: 8, max: 60}
images: IMAGES
"""


@pytest.fixture(scope="module", params=["all", "50", "auto"])
def text(request):
    return SPEC.replace("IMAGES", request.param)


@pytest.fixture
def whole(tmp_path, run, text):
    run(text, tmp_path / "whole")
    return rows(tmp_path / "whole")


def test_a_sweep_killed_in_the_middle_of_its_rounds_ends_with_the_same_rows(tmp_path, run, text, whole):
    spec, store = tmp_path / "spec.yaml", tmp_path / "store"
    spec.write_text(text)
    command = [sys.executable, "-m", "bnsweep", "run", spec, "--store", store, "--engine", "inline", "--quiet"]
    process = subprocess.Popen(command, env=quiet_env())
    wait_until(lambda: (store / "bnsweep-store.json").exists() and Store.open(store).rows("runs") > 0)
    process.kill()
    process.wait()
    run(text, store)
    assert rows(store) == whole
    assert run(text, store).trials_done == 0


def test_every_point_stops_for_a_reason(tmp_path, text, whole):
    points = {}
    for row in whole:
        points.setdefault(row["point_id"], []).append(row)
    sizes = {row["run_id"]: row["strata_sizes"] for row in rows(tmp_path / "whole", "runs")}
    for point in points.values():
        assert [row["trial"] for row in point] == list(range(len(point)))
        if point[0]["eta"] == 0:
            assert len(point) == 1
            assert point[0]["images"] == 200
            continue
        assert 8 <= len(point) <= 60
        assert sum(sizes[point[0]["run_id"]]) == 200
        if "auto" in text:
            assert all(sum(row["strata_images"]) == row["images"] < 200 for row in point)
        else:
            assert {row["images"] for row in point} == {50 if "images: 50" in text else 200}


@pytest.mark.ray
def test_ray_takes_the_same_decisions(tmp_path, run):
    text = SPEC.replace("IMAGES", "auto")
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    run(text, tmp_path / "inline")
    done = bnsweep("run", spec, "--store", tmp_path / "ray", "--engine", "ray", "--cpus", 2, "--quiet")
    assert done.returncode == 0, done.stderr
    assert rows(tmp_path / "ray") == rows(tmp_path / "inline")


def test_the_interval_of_every_point_is_narrow_enough_or_its_trials_are_used_up(tmp_path, run):
    text = SPEC.replace("IMAGES", "all")
    run(text, tmp_path / "store")
    clean = {row["run_id"]: row["test_correct"] / 200 for row in rows(tmp_path / "store", "runs")}
    points = {}
    for row in rows(tmp_path / "store"):
        if row["eta"] > 0:
            points.setdefault((row["run_id"], row["eta"]), []).append(Row(row))
    assert len(points) == 4
    for (run_id, _), point in points.items():
        design = Design(half_width=0.03, min=8, max=60, test_images=200, clean_accuracy=clean[run_id])
        step = next_round(design, point)
        assert isinstance(step, Stop)
        assert step.trials == len(point)
        assert step.half_width <= 0.03 or step.reason == "max"


def test_the_interval_that_sql_reports_is_the_one_that_the_design_stopped_at(tmp_path, run):
    run(SPEC.replace("IMAGES", "auto").replace("[0, 0.1, 0.3]", "[0, 0.01, 0.3]"), tmp_path / "store")
    store = Store.open(tmp_path / "store")
    sizes = {row["placement"]: row["strata_sizes"] for row in rows(tmp_path / "store", "runs")}
    reported = {(row["placement"], row["eta"]): row for row in open_database(store).query("accuracy").to_dicts()}
    points = {}
    for row in rows(tmp_path / "store"):
        points.setdefault((row["placement"], float(row["eta"])), []).append(Row(row))
    for (placement, eta), point in points.items():
        answer = reported[placement, eta]
        if eta == 0:
            assert answer["half_width_pct"] is None
            continue
        design = Design(
            half_width=0.03, min=8, max=60, images="auto", test_images=200, strata_sizes=tuple(sizes[placement])
        )
        expected = interval(design, point)
        assert answer["accuracy_pct"] == pytest.approx(100 * expected.mean)
        assert answer["half_width_pct"] == pytest.approx(100 * expected.half_width)
        assert answer["n"] == len(point)
        assert answer["capped"] == (expected.half_width > 0.03)


class Row:
    """A row as a design reads it."""

    def __init__(self, row):
        self.accuracy, self.images = row["accuracy"], row["images"]
        self.strata_images, self.strata_correct = row["strata_images"], row["strata_correct"]


def test_sweeps_that_score_otherwise_share_the_strata_of_a_network(tmp_path, run):
    text, store = SPEC.replace("IMAGES", "auto"), tmp_path / "store"
    run(text, store)
    other = text.replace("name: sequential", "name: other") + "evaluation: {precision: bf16, batch_size: 33}\n"
    summary = run(other, store)
    assert (summary.runs_done, summary.blocks_failed) == (0, 0)
    assert summary.trials_done > 2 * (1 + 8 + 8)
    plan = make_plan(parse_spec(other), LocalCatalog(tmp_path))
    dataset = load_dataset(plan.spec.data[0], root=tmp_path)
    moved, trained = 0, {row["run_id"]: row for row in rows(store, "runs")}
    for run_ in plan.runs:
        row = trained[run_.run_id]
        network = place(build(run_.model, dataset.shape), run_.bn_mask, example=dataset.example)
        data = Checkpoints(open_files(str(store))).get_network(row["run_id"], row["checkpoint_sha256"])
        strata = from_bytes(network, data)
        assert np.bincount(strata).tolist() == row["strata_sizes"]
        labels = torch.from_numpy(dataset.test.labels.copy())
        coarse = Evaluator(network, dataset.inputs("test"), labels, precision="bf16", batch_size=33)
        moved += int((coarse.strata() != strata).sum())
    assert moved  # what bf16 says of the margins puts some images elsewhere
