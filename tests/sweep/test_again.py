"""Sweeps that are run again: on another machine, in a copy of the store, after trouble that passed or did not."""

import errno
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import odd_network
import pytest
from sweep_helpers import bnsweep, rows

from bnsweep.analysis.database import open_database
from bnsweep.errors import InputError
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.store import attempts
from bnsweep.store.export import copy_rows
from bnsweep.store.store import Store
from bnsweep.store.verify import verify
from bnsweep.sweep import retries, work
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.estimate import preview
from bnsweep.sweep.progress import Silent
from bnsweep.sweep.recording import RowBuffer
from bnsweep.sweep.tasks import Progressed

ODD = """\
name: odd
data: {source: digits, train_images: 200, test_images: 100}
models: import:odd_network:make
placements: all
training: {epochs: 1, batch_size: 50, chance_epochs: null}
eta: [0.1]
trials: 4
"""


def test_a_network_that_comes_out_otherwise_leaves_no_trials_of_the_other(tmp_path, run, monkeypatch):
    """Its networks are lost, the spec grew, and this processor's last bits are others."""
    store = tmp_path / "store"
    run(ODD, store)
    (before,) = rows(store, "runs")
    shutil.rmtree(store / "networks")
    monkeypatch.setattr(odd_network, "SCALE", 1.001)
    summary = run(ODD.replace("trials: 4", "trials: 6"), store)
    assert summary.networks_changed == 1
    assert "1 networks that were lost came out different" in "\n".join(summary.lines(again="x"))
    (after,) = rows(store, "runs")
    assert before["checkpoint_sha256"] != after["checkpoint_sha256"]
    fresh = tmp_path / "fresh"
    run(ODD.replace("trials: 4", "trials: 6"), fresh)
    assert rows(store) == rows(fresh)
    assert verify(Store.open(store)).ok
    assert list((store / "quarantine").rglob("*.parquet"))


@pytest.mark.parametrize("trouble", ["interrupted", "failed between"])
def test_trials_of_two_networks_are_never_left_together(tmp_path, run, monkeypatch, trouble):
    """Whether the driver ends before it has set the old ones aside, or another attempt failed in between."""
    store, text = tmp_path / "store", ODD.replace("trials: 4", "trials: 6")
    run(ODD, store)
    shutil.rmtree(store / "networks")
    with monkeypatch.context() as here:
        if trouble == "interrupted":
            aside = attempts.set_aside_older

            def end(where, runs):
                if runs:
                    raise KeyboardInterrupt
                aside(where, runs)

            here.setattr(attempts, "set_aside_older", end)
            here.setattr(odd_network, "SCALE", 1.001)
        else:

            def fail(*_, **__):
                raise RuntimeError("no memory")

            here.setattr(work, "train_run", fail)
        run(text, store)
    monkeypatch.setattr(odd_network, "SCALE", 1.001)
    run(text, store, retry_failed=True)
    fresh = tmp_path / "fresh"
    run(text, fresh)
    assert rows(store) == rows(fresh)
    for table in ("epochs", "probes"):
        assert rows(store, table) == rows(fresh, table)
    assert verify(Store.open(store)).problems == []


def test_a_training_that_was_interrupted_says_how_long_all_of_it_took(tmp_path, run, monkeypatch):
    class Stops(Silent):
        def heard(self, outcome):
            if isinstance(outcome, Progressed):
                raise KeyboardInterrupt

    store, text = tmp_path / "store", ODD.replace("epochs: 1", "epochs: 3")
    monkeypatch.setattr(odd_network, "PAUSE_S", 0.5)
    assert run(text, store, listener=Stops()).interrupted
    monkeypatch.setattr(odd_network, "PAUSE_S", 0.0)
    run(text, store)
    (trained,) = Store.open(store).read("runs").to_pylist()
    epochs = [row["duration_s"] for row in Store.open(store).read("epochs").to_pylist()]
    assert max(epochs) > 1.5  # four steps before the interruption
    assert sum(epochs) <= trained["duration_s"] < sum(epochs) + 20


def test_a_network_that_comes_out_the_same_keeps_its_trials(tmp_path, run):
    store = tmp_path / "store"
    run(ODD, store)
    shutil.rmtree(store / "networks")
    summary = run(ODD.replace("trials: 4", "trials: 6"), store)
    assert (summary.networks_changed, summary.trials_done) == (0, 2)
    assert not (store / "quarantine").exists()


def test_a_sweep_is_extended_in_a_copy_of_its_rows(tmp_path, run, tiny):
    """Which holds the newest version of its file alone, with the number that this had."""
    store, copy = tmp_path / "store", tmp_path / "copy"
    for eta in ("[0, 0.1]", "[0, 0.1, 0.2]"):
        run(tiny.replace("[0, 0.1, 0.3]", eta), store)
    copy_rows(Store.open(store), copy)
    shutil.copytree(store / "networks", copy / "networks")
    for _ in range(2):
        run(tiny, copy)
    assert Store.open(copy).read("sweeps")["revision"].to_pylist() == [2, 3]
    with open_database(Store.open(copy)) as database:
        (row,) = database.query("sweeps").to_dicts()
    assert (row["planned"], row["done"]) == (12, 12)  # 2 networks, 2 sets of targets, 3 eta


def test_a_store_that_cannot_be_read_for_a_moment_costs_an_attempt_and_no_row(tmp_path, run, tiny, monkeypatch):
    monkeypatch.setattr(retries, "RETRY_S", 0.0)
    failed, read = Counter(), Path.read_bytes

    def flaky(path):
        for folder in ("networks", "resume"):
            if f"/{folder}/" in str(path) and failed[folder] < 2:
                failed[folder] += 1
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", flaky)
    summary = run(tiny, tmp_path / "store")
    assert failed == {"networks": 2, "resume": 2}
    assert not summary.failed
    assert summary.trials_done == 2 * 2 * (1 + 4 + 4)


@pytest.mark.ray
def test_what_no_node_can_give_to_trials_is_said_before_anything_is_trained(tmp_path, tiny):
    spec, store = tmp_path / "tiny.yaml", tmp_path / "store"
    spec.write_text(tiny + "resources: {trial: {cpu: 4}}\n")
    said = bnsweep("run", spec, "--store", store, "--engine", "ray", "--cpus", 2, "--data-root", tmp_path)
    assert said.returncode == 2
    assert "`resources.trial` asks for cpu: 4" in said.stderr
    assert Store.open(store).rows("runs") == 0


@pytest.mark.parametrize("at", ["epochs", "probes", "runs"])
def test_ctrl_c_between_the_rows_of_a_run_leaves_none_of_them_out(tmp_path, run, tiny, monkeypatch, at):
    store, add = tmp_path / "store", RowBuffer.add

    def interrupted(buffer, table, rows):
        add(buffer, table, rows)
        if table == at:
            monkeypatch.setattr(RowBuffer, "add", add)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RowBuffer, "add", interrupted)
    assert run(tiny, store).interrupted
    run(tiny, store)
    assert len({(row["run_id"], row["epoch"]) for row in rows(store, "epochs")}) == 2 * 2
    assert len(rows(store, "runs")) == 2
    assert len(rows(store)) == 2 * 2 * (1 + 4 + 4)


def test_what_fails_again_is_another_failure(tmp_path, run, tiny, monkeypatch):
    store, score = tmp_path / "store", work.score_block

    def fails(task, dataset):
        if task.point.eta:
            raise RuntimeError("no noise, please")
        return score(task, dataset)

    monkeypatch.setattr(work, "score_block", fails)
    run(tiny, store)
    run(tiny.replace("0.3]", "0.3, 0.4]"), store, retry_failed=True)
    tries = Counter(row["attempt"] for row in Store.open(store).read("failures").to_pylist())
    assert tries == {1: 12, 2: 8}  # 2 networks, 2 sets of targets: 2 eta, and 1 more
    assert verify(Store.open(store)).ok


def test_a_block_that_failed_beyond_what_is_planned_now_is_no_failure(tmp_path, run, monkeypatch):
    store, score = tmp_path / "store", work.score_block

    def fails(task, dataset):
        if task.first >= 4:
            raise RuntimeError("no more, please")
        return score(task, dataset)

    monkeypatch.setattr(work, "score_block", fails)
    run(ODD, store)
    for text, failed in ((ODD.replace("trials: 4", "trials: 8"), 1), (ODD, 0)):
        summary = run(text, store)
        assert summary.failed == bool(failed)
        assert verify(Store.open(store)).failed == failed
    assert summary.lines(again="") == ["nothing to do: every row has landed"]


def test_a_plan_counts_networks_that_are_not_there(tmp_path, run, tiny):
    store, copy = tmp_path / "store", tmp_path / "copy"
    run(tiny, store)
    copy_rows(Store.open(store), copy)
    plan = make_plan(parse_spec(tiny), LocalCatalog(tmp_path))
    told = preview(plan, Store.open(copy), cpus=1, data_root=tmp_path)
    assert (told.runs_done, told.runs_missing, told.rows_missing, told.networks_lost) == (0, 2, 0, 2)
    assert "2 networks are not in the store" in told.to_text()
    assert run(tiny, copy).runs_done == 2
    assert preview(plan, Store.open(copy), cpus=1, data_root=tmp_path).networks_lost == 0


def test_a_sweep_is_no_search_of_the_same_name(tmp_path, run, tiny):
    from bnsweep.sweep.plan_rows import record_plan

    store = Store.create(tmp_path / "store")
    search = parse_spec(tiny + "search: {trainings: 4}\n")
    record_plan(store, type(make_plan(parse_spec(tiny), LocalCatalog(tmp_path)))(search, ()), text="", planned_runs=4)
    with pytest.raises(InputError, match="holds a search 'tiny', which is no sweep; give this one another `name`"):
        run(tiny, tmp_path / "store")
