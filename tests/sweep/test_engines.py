"""One contract, every engine: the same rows, once."""

import importlib
import signal
import subprocess
import sys
import time

import pytest
from sweep_helpers import bnsweep, quiet_env, rows, wait_until

from bnsweep.analysis.database import open_database
from bnsweep.errors import DataError
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.experiment.recipe import Augment
from bnsweep.store.store import Store
from bnsweep.store.verify import verify
from bnsweep.sweep import work
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.estimate import preview
from bnsweep.sweep.tasks import Trained

TABLES = ("runs", "epochs", "trials", "points")


@pytest.fixture
def inline_rows(tmp_path, run, tiny):
    store = tmp_path / "inline"
    run(tiny, store)
    return {table: rows(store, table) for table in TABLES}


def test_a_sweep_has_every_planned_row_once(inline_rows):
    assert len(inline_rows["runs"]) == 2
    assert len(inline_rows["epochs"]) == 2 * 2
    assert len(inline_rows["points"]) == 2 * 2 * 3
    assert len(inline_rows["trials"]) == 2 * 2 * (1 + 4 + 4)
    keys = [(row["point_id"], row["trial"]) for row in inline_rows["trials"]]
    assert len(set(keys)) == len(keys)


def test_without_noise_every_cell_gives_the_trained_network_s_accuracy(inline_rows):
    trained = {row["run_id"]: row["test_correct"] for row in inline_rows["runs"]}
    baselines = [row for row in inline_rows["trials"] if row["eta"] == 0]
    assert len(baselines) == 4
    assert all(row["correct"] == trained[row["run_id"]] and row["images"] == 100 for row in baselines)
    assert all(row["realised_sigma_ratio"] == 0 for row in baselines)


def test_placements_share_their_draws(inline_rows):
    by_trial = {}
    for row in inline_rows["trials"]:
        by_trial.setdefault(row["trial"], set()).add(row["noise_seed"])
    assert all(len(seeds) == 1 for seeds in by_trial.values())
    assert len(set.union(*by_trial.values())) == 4


@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_gives_the_rows_of_the_inline_engine_whatever_the_number_of_workers(tmp_path, tiny, inline_rows, workers):
    store, spec = tmp_path / "ray", tmp_path / "tiny.yaml"
    spec.write_text(tiny)
    command = ["run", spec, "--store", store, "--engine", "ray", "--cpus", workers, "--data-root", tmp_path]
    first = bnsweep(*command)
    assert first.returncode == 0, first.stderr
    for table in TABLES:
        assert rows(store, table) == inline_rows[table], table
    again = bnsweep(*command)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert rows(store) == inline_rows["trials"]


def test_a_second_run_adds_nothing(tmp_path, run, tiny):
    store = tmp_path / "store"
    run(tiny, store)
    before = [part.path for part in Store.open(store).parts()]
    summary = run(tiny, store)
    assert summary.lines(again="") == ["nothing to do: every row has landed"]
    assert [part.path for part in Store.open(store).parts()] == before


def test_a_grown_spec_does_only_what_is_missing(tmp_path, run, tiny):
    store = tmp_path / "store"
    run(tiny, store)
    old = rows(store)
    grown = tiny.replace("[0, 0.1, 0.3]", "[0, 0.1, 0.2, 0.3]").replace("trials: 4", "trials: 6")
    summary = run(grown, store)
    assert summary.runs_done == 0
    assert summary.trials_done == 2 * 2 * (2 + 2 + 6)
    new = rows(store)
    assert all(row in new for row in old)
    assert len(new) == 2 * 2 * (1 + 6 * 3)


def test_a_sweep_is_the_spec_that_was_run_last(tmp_path, run, tiny):
    store = tmp_path / "store"
    for text, points in ((tiny, 12), (tiny.replace("0.1, 0.3", "0.1, 0.2, 0.3"), 16), (tiny, 12)):
        run(text, store)
        coverage = open_database(Store.open(store)).query("sweeps").to_dicts()
        assert [(row["planned"], row["done"]) for row in coverage] == [(points, points)]


def test_missing_data_is_bad_input_and_no_run_s_failure(tmp_path, run, tiny, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody answers: nothing is downloaded
    store = tmp_path / "store"
    with pytest.raises(DataError, match="cifar"):
        run(tiny.replace("digits", "cifar10"), store)
    assert Store.open(store).parts() == []


def test_images_from_elsewhere_keep_the_augmentation_of_the_data_set():
    spec = parse_spec("name: a\ndata: cifar10\nmodels: resnet8\n")
    assert spec.with_source("parquet:there").training.augment == Augment(flip=True, shift=0.1)


def test_other_code_behind_an_imported_network_is_another_run(tmp_path, monkeypatch):
    spec = parse_spec("name: a\ndata: digits\nmodels: 'import:changing_net:make'\n")
    monkeypatch.syspath_prepend(tmp_path)
    ids = []
    for activation in ("ReLU", "Sigmoid"):
        (tmp_path / "changing_net.py").write_text(
            "from torch import nn\n"
            "def make(classes, channels, size):\n"
            f"    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.{activation}(),\n"
            "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))\n"
        )
        sys.modules.pop("changing_net", None)
        importlib.invalidate_caches()
        ids += [run.run_id for run in make_plan(spec, LocalCatalog(tmp_path, allow_import=True)).runs]
    assert len(set(ids)) == 4


@pytest.mark.ray
def test_what_no_node_has_is_refused_at_once(tmp_path, tiny):
    (tmp_path / "greedy.yaml").write_text(tiny + "resources: {train: {cpu: 64}}\n")
    done = bnsweep("run", tmp_path / "greedy.yaml", "--store", tmp_path / "store", "--engine", "ray", "--cpus", 1)
    assert done.returncode == 2
    assert "no node has more than 1 CPUs" in done.stderr


@pytest.mark.ray
def test_a_cluster_that_cannot_be_started_is_said_in_one_line(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", "/proc/no-such-folder")
    (tmp_path / "tiny.yaml").write_text(tiny)
    done = bnsweep("run", tmp_path / "tiny.yaml", "--store", tmp_path / "store", "--engine", "ray", "--cpus", 1)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("bnsweep: cannot reach a Ray cluster on this machine: ")
    assert "--engine inline needs no cluster" in done.stderr
    assert "Traceback" not in done.stderr


def test_rows_do_not_depend_on_the_blocks_they_came_in(tmp_path, run, tiny, inline_rows):
    # Two trials first, then the rest: other blocks, the same rows.
    store = tmp_path / "store"
    run(tiny.replace("trials: 4", "trials: 1"), store)
    run(tiny, store)
    assert rows(store) == inline_rows["trials"]


@pytest.mark.parametrize(("fault", "said"), [("lost", "is lost"), ("damaged", "is damaged")])
@pytest.mark.parametrize("trials", [2, 4])  # more are wanted; none is wanted
def test_a_lost_or_damaged_network_is_trained_again_and_the_rows_say_so(
    tmp_path, run, tiny, inline_rows, fault, said, trials
):
    store = tmp_path / "store"
    run(tiny.replace("trials: 4", f"trials: {trials}"), store)
    for network in (store / "networks").iterdir():
        if fault == "lost":
            network.unlink()
        else:
            data = network.read_bytes()
            network.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    if (fault, trials) == ("damaged", 4):  # nobody needs to read it, so only `verify` finds out
        assert run(tiny, store).runs_done == 0
        assert [problem.kind for problem in verify(Store.open(store)).problems] == ["network"] * 2
        assert verify(Store.open(store), repair=True).ok
        said = "is lost"
    summary = run(tiny, store)
    assert summary.runs_done == 2
    assert rows(store) == inline_rows["trials"]
    runs = rows(store, "runs")
    assert sorted(row["attempt"] for row in runs) == [1, 1, 2, 2]
    again = [f"trained again, for the network of run {row['run_id']} {said}" in row["reason"] for row in runs]
    assert again == [row["attempt"] == 2 for row in runs]
    assert verify(Store.open(store)).ok
    assert run(tiny, store).runs_done == 0


class _Spoiling:
    """A listener that spoils what lies there when the last of two networks has been trained and not been read yet."""

    def __init__(self, store):
        self.networks, self.trained, self.spoilt = store / "networks", 0, 0

    def begin(self, driver): ...

    def heard(self, outcome):
        self.trained += isinstance(outcome, Trained)
        if self.trained == 2 and not self.spoilt:
            for network in self.networks.iterdir():
                network.write_bytes(b"spoilt")
                self.spoilt += 1

    def tick(self): ...

    def end(self, summary): ...


def test_networks_spoilt_while_the_sweep_runs_are_trained_again_in_the_same_run(tmp_path, run, tiny, inline_rows):
    store = tmp_path / "store"
    listener = _Spoiling(store)
    summary = run(tiny, store, listener=listener)
    assert listener.spoilt == 2
    assert not summary.failed
    assert rows(store) == inline_rows["trials"]
    assert sum(part.rows for part in Store.open(store).parts("trials")) == len(inline_rows["trials"])
    again = [row for row in rows(store, "runs") if "is damaged" in row["reason"]]
    assert [row["attempt"] for row in again] == [2]


def test_a_diverged_run_has_a_row_and_no_trials(tmp_path, run, tiny):
    store = tmp_path / "store"
    summary = run(tiny.replace("epochs: 2,", "epochs: 2, optimizer: sgd, learning_rate: 100,"), store)
    assert summary.runs_diverged >= 1
    statuses = {row["run_id"]: row["status"] for row in rows(store, "runs")}
    diverged = {run_id for run_id, status in statuses.items() if status == "diverged"}
    assert diverged
    assert not diverged & {row["run_id"] for row in rows(store)}
    assert run(tiny.replace("epochs: 2,", "epochs: 2, optimizer: sgd, learning_rate: 100,"), store).runs_done == 0


FRAGILE = """
import os
from torch import nn

class Fragile(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, classes)

    def forward(self, x):
        if os.path.exists(os.environ.get("FRAGILE", "/nonexistent")) and len(x) == 50:
            raise RuntimeError("the network's own trouble")
        return self.head(self.bn(self.conv(x)).mean((2, 3)))

def make(classes, channels, size):
    return Fragile(channels, classes)
"""


def test_a_failing_network_gets_a_row_and_the_sweep_goes_on(tmp_path, run, tiny, monkeypatch):
    (tmp_path / "fragile_nets.py").write_text(FRAGILE)
    monkeypatch.syspath_prepend(tmp_path)
    trouble = tmp_path / "trouble"
    trouble.touch()
    monkeypatch.setenv("FRAGILE", str(trouble))
    text = tiny.replace("models: resnet8", "models: [resnet8, 'import:fragile_nets:make']")
    store = tmp_path / "store"
    summary = run(text, store)
    assert summary.runs_failed == 2
    assert summary.trials_done == 2 * 2 * 9
    failed = [row for row in rows(store, "runs") if row["status"] == "failed"]
    line = 1 + FRAGILE.splitlines().index('            raise RuntimeError("the network\'s own trouble")')
    place = f"({tmp_path.name}/fragile_nets.py:{line}, in forward)"
    assert [row["reason"] for row in failed] == [f"RuntimeError: the network's own trouble {place}"] * 2
    assert any("--retry-failed" in line for line in summary.lines(again="again"))
    plan = make_plan(parse_spec(text), LocalCatalog(tmp_path, allow_import=True))
    planned = preview(plan, Store.open(store), cpus=2, data_root=tmp_path)
    assert (planned.runs_done, planned.runs_failed, planned.runs_missing, planned.rows_missing) == (2, 2, 0, 0)
    assert "4 planned, 2 done, 0 missing, 2 failed\n" in planned.to_text()
    assert "--retry-failed" in planned.to_text()
    # Again, nothing, and it still says so; mended and asked to retry, everything.
    again = run(text, store)
    assert (again.runs_done, again.runs_failed, again.failed_before, again.failed) == (0, 0, 2, True)
    trouble.unlink()
    assert run(text, store).runs_done == 0
    summary = run(text, store, retry_failed=True)
    assert (summary.runs_done, summary.trials_done) == (2, 2 * 2 * 9)


def test_a_point_whose_first_block_is_given_up_holds_up_nothing_and_counts_no_more_once_it_has_landed(
    tmp_path, run, tiny, monkeypatch
):
    score = work.score_block

    def troubled(task, dataset):
        if task.first == 0 and task.point.eta and task.run.placement == "all":
            raise RuntimeError("the block's own trouble")
        return score(task, dataset)

    text, store = tiny.replace("trials: 4", "trials: 12"), tmp_path / "store"
    wanted = 2 * 2 * (1 + 2 * 12)
    with monkeypatch.context() as patched:
        patched.setattr(work, "score_block", troubled)
        summary = run(text, store)
    assert (summary.blocks_failed, summary.trials_done) == (4, wanted - 4 * 12)
    assert run(text, store).failed_before == 4
    assert run(text, store, retry_failed=True).trials_done == 4 * 12
    # It has landed: nothing failed, and what failed once holds back neither more trials nor another sweep.
    assert not run(text, store).failed
    assert run(text.replace("trials: 12", "trials: 14"), store).trials_done == 2 * 2 * 2 * 2
    other = run(text.replace("name: tiny", "name: other").replace("eta: [0, 0.1, 0.3]", "eta: [0, 0.2]"), store)
    assert (other.failed_before, other.trials_done) == (0, 2 * 2 * 12)


def test_a_failed_point_of_another_sweep_is_no_failure_of_this_one(tmp_path, run, tiny, monkeypatch):
    def troubled(task, dataset):
        raise RuntimeError("the block's own trouble")

    with monkeypatch.context() as patched:
        patched.setattr(work, "score_block", troubled)
        assert run(tiny, tmp_path / "store").blocks_failed
    other = tiny.replace("name: tiny", "name: other").replace("targets: [weights, all]", "sigma_reference: absolute")
    summary = run(other.replace("eta: [0, 0.1, 0.3]", "eta: [0.2]"), tmp_path / "store")
    assert (summary.failed_before, summary.trials_done) == (0, 2 * (1 + 4))


@pytest.mark.parametrize("engine", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
def test_ctrl_c_keeps_finished_blocks_and_says_how_to_go_on(tmp_path, tiny, engine):
    spec, store = tmp_path / "long.yaml", tmp_path / "store"
    spec.write_text(tiny.replace("trials: 4", "trials: 100000"))
    command = [sys.executable, "-m", "bnsweep", "run", str(spec), "--store", str(store), "--engine", engine]
    process = subprocess.Popen(
        [*command, "--data-root", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=quiet_env(),
    )
    wait_until(lambda: (store / "bnsweep-store.json").exists() and Store.open(store).rows("trials") > 10)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "every finished block is kept. To go on: bnsweep run" in out
    assert "Traceback" not in err
    assert Store.open(store).rows("trials") > 10
    assert verify(Store.open(store)).ok


@pytest.mark.ray
def test_a_stop_in_the_middle_of_training_starts_no_second_ray(tmp_path, tiny):
    """Tune's thread still calls Ray when ours has been shut down: left alone, Ray starts a cluster for it."""
    spec, store = tmp_path / "long.yaml", tmp_path / "store"
    spec.write_text(tiny.replace("epochs: 2", "epochs: 100000"))
    assert "epochs: 100000" in spec.read_text()
    command = [sys.executable, "-m", "bnsweep", "run", str(spec), "--store", str(store), "--engine", "ray"]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--data-root", str(tmp_path)], stdout=file, stderr=file, env={**quiet_env(), "COLUMNS": "120"}
        )
        try:
            wait_until(lambda: any((store / "tune").rglob("*")))
            time.sleep(5)  # Tune has placed its trials
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=60) == 130, log.read_text()
        finally:
            process.kill()
    assert "Started a local Ray instance" not in log.read_text()
    assert "To go on: bnsweep run" in log.read_text()


def test_a_killed_driver_loses_nothing_that_was_committed(tmp_path, tiny, run, inline_rows):
    spec, store = tmp_path / "tiny.yaml", tmp_path / "store"
    spec.write_text(tiny.replace("trials: 4", "trials: 100000"))
    process = subprocess.Popen(
        [sys.executable, "-m", "bnsweep", "run", spec, "--store", store, "--engine", "inline", "--quiet"],
        env=quiet_env(),
    )
    wait_until(lambda: (store / "bnsweep-store.json").exists() and Store.open(store).rows("trials") > 10)
    process.kill()
    process.wait()
    run(tiny, store)
    kept = {(row["point_id"], row["trial"]): row for row in rows(store)}
    for row in inline_rows["trials"]:
        assert kept[row["point_id"], row["trial"]] == row
