"""Searches in one process, without Ray: stopped, killed and failing, and the same in the end as one left alone."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import odd_network
import pytest
from click.testing import CliRunner
from sweep_helpers import quiet_env, rows, wait_until

from bnsweep.cli import cli
from bnsweep.errors import EngineError, StoreUnreadableError, StoreUnwritableError
from bnsweep.experiment.reading import parse_spec
from bnsweep.store.store import Store
from bnsweep.store.verify import verify_location
from bnsweep.sweep import retries
from bnsweep.sweep.recording import RowBuffer
from bnsweep.sweep.search import job
from bnsweep.sweep.search.run import run_search
from bnsweep.training import trainer

SEARCH = """\
name: inline
data: {source: digits, train_images: 200, test_images: 100}
models: import:odd_network:make
train_seeds: 3
training: {epochs: 4, batch_size: 50, chance_epochs: null}
eta: [0, 0.1]
trials: 3
search: {trainings: 5, batch: 2}
"""  # of two placements: with BN, or none
TABLES = ("runs", "epochs", "trials", "points", "proposals", "sites", "failures")
HERE = Path(__file__).parent


@pytest.fixture
def search(tmp_path):
    """Run a search into a store; the summary and what was said."""

    def run(text, store, told=None, **options):
        said = []
        options = {"engine": "inline", "data_root": tmp_path, "text": text, "told": told or said.append, **options}
        return run_search(parse_spec(text), str(store), **options), said

    return run


def same_rows(store, other):
    for table in TABLES:
        assert rows(store, table) == rows(other, table), table
    assert verify_location(store).ok


WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # whoever imports it gets an ImportError
import odd_network
odd_network.PAUSE_S = 0.05
from bnsweep.cli import main
main()
"""


def without_ray(*arguments):
    command = [sys.executable, "-c", WITHOUT_RAY, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=HERE, env=quiet_env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_without_ray_a_search_is_done_interrupted_and_gone_on_with(tmp_path, search):
    (tmp_path / "spec.yaml").write_text(SEARCH)
    store = tmp_path / "store"
    command = ["search", tmp_path / "spec.yaml", "--store", store, "--data-root", tmp_path]
    process = without_ray(*command)  # auto: there is no Ray
    wait_until(lambda: process.poll() is not None or (Store.exists(store) and Store.open(store).rows("runs") >= 2))
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 130, said
    assert "interrupted; what has landed is kept. To go on: bnsweep search" in said
    landed = Store.open(store).rows("runs")
    assert 2 <= landed < 5
    process = without_ray(*command, "--engine", "inline", "--emit", tmp_path / "front.yaml")
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    assert f"{5 - landed} placements trained and scored" in said or f"{6 - landed} placements" in said
    assert (tmp_path / "front.yaml").exists()
    search(SEARCH, tmp_path / "whole")
    same_rows(store, tmp_path / "whole")


@pytest.mark.parametrize("option", ["--address=localhost:1", "--cpus=2", "--wait-for-nodes=3"])
def test_what_is_for_ray_is_refused(tmp_path, option):
    asked = CliRunner().invoke(cli, ["search", "spec.yaml", "--engine", "inline", option])
    assert str(asked.exception) == "--address, --cpus and --wait-for-nodes are for Ray, but --engine inline uses none"


@pytest.mark.parametrize(
    ("module", "engine", "said"),
    [
        ("optuna", "inline", "a search needs Optuna: pip install 'bnsweep[search]'"),
        ("ray", "ray", "Ray is not installed: pip install 'bnsweep[ray]', or use --engine inline"),
    ],
)
def test_what_is_not_installed_is_named(tmp_path, monkeypatch, module, engine, said):
    (tmp_path / "spec.yaml").write_text(SEARCH)
    monkeypatch.setitem(sys.modules, module, None)
    command = ["search", tmp_path / "spec.yaml", "--store", tmp_path / "store", "--engine", engine]
    asked = CliRunner().invoke(cli, list(map(str, command)))
    assert (type(asked.exception), str(asked.exception)) == (EngineError, said)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("at", ["epoch", "network", "trials", "end"])
def test_ctrl_c_keeps_what_is_finished(tmp_path, search, monkeypatch, at):
    """Pressed while the second run does this, and once more while its rows are put into safety."""
    store, seen, last = tmp_path / "store", Counter(), {"epoch": 6, "network": 2, "trials": 3, "end": 2}[at]
    add, epoch = RowBuffer.add, trainer._Run.epoch

    def press(what):
        seen[what] += what == at
        if seen[at] == last or (seen[at] > last and what == "rows"):
            seen[at] += 1
            os.kill(os.getpid(), signal.SIGINT)

    def pressing_add(buffer, table, some):
        press({"runs": "network"}.get(table, table))
        press("rows")
        add(buffer, table, some)

    def pressing_epoch(*arguments):
        press("epoch")
        return epoch(*arguments)

    with monkeypatch.context() as here:
        here.setattr(RowBuffer, "add", pressing_add)
        here.setattr(trainer._Run, "epoch", pressing_epoch)
        summary, _ = search(SEARCH, store, told=lambda line: press("end"))
    assert summary.interrupted
    assert "interrupted; what has landed is kept. To go on: x" in summary.lines(again="x")
    landed = 1 if at == "epoch" else 2
    assert [Store.open(store).rows(table) for table in ("runs", "epochs")] == [landed, 4 * landed]
    again, _ = search(SEARCH, store)
    assert (again.from_store, again.trained) == ((2, 3) if at == "end" else (1, 4))
    search(SEARCH, tmp_path / "whole")
    same_rows(store, tmp_path / "whole")


KILLED = """
import os, signal
from bnsweep.sweep.search.underway import Underway
from bnsweep.sweep import recording
from bnsweep.training import trainer
recording.COMMIT_S = 0.0
trainer.train.__kwdefaults__["slot_interval_s"] = 0.0  # what an interruption leaves, after every epoch
take, epochs = Underway.take, 0

def counted(self, run_id, outcome):
    global epochs
    epochs += isinstance(outcome, dict)
    if epochs == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    take(self, run_id, outcome)

Underway.take = counted
from bnsweep.cli import main
main()
"""


def test_a_search_that_was_killed_goes_on_within_the_run(tmp_path, search, monkeypatch):
    (tmp_path / "spec.yaml").write_text(SEARCH)
    command = ["search", tmp_path / "spec.yaml", "--store", tmp_path / "store", "--engine", "inline"]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, command)], cwd=HERE, env=quiet_env(), check=False)
    assert done.returncode == -signal.SIGKILL
    epoch, trained = trainer._Run.epoch, []
    monkeypatch.setattr(trainer._Run, "epoch", lambda *arguments: (trained.append(1), epoch(*arguments))[1])
    search(SEARCH, tmp_path / "store", take_over=True)
    assert len(trained) == 5 * 4 - 6
    search(SEARCH, tmp_path / "whole")
    same_rows(tmp_path / "store", tmp_path / "whole")


def test_a_network_that_raises_is_tried_again_and_then_a_row(tmp_path, search, monkeypatch):
    store, tried, train = tmp_path / "store", Counter(), job.train_run

    def broken(task, *arguments, **how):
        tried[task.run.run_id] += 1
        if task.run.bn_mask == "0":
            raise RuntimeError("the network's own trouble\nand more of it")
        return train(task, *arguments, **how)

    with monkeypatch.context() as here:
        here.setattr(job, "train_run", broken)
        summary, _ = search(SEARCH, store)
        assert summary.ends == {"finished": 3, "failed": 2}
        assert sorted(tried.values()) == [1, 1, 1, retries.ATTEMPTS, retries.ATTEMPTS]
        again, _ = search(SEARCH, store)
        assert (again.trained, again.from_store, again.failed) == (0, 5, True)
    failed = [row for row in rows(store, "runs") if row["status"] == "failed"]
    assert [row["reason"] for row in failed] == ["RuntimeError: the network's own trouble"] * 2
    assert [row["error"] for row in rows(store, "failures")] == ["RuntimeError: the network's own trouble"] * 2
    mended, _ = search(SEARCH, store, retry_failed=True)
    assert (mended.trained, mended.failed) == (2, False)
    search(SEARCH, tmp_path / "whole")
    for table in ("trials", "epochs"):
        assert rows(store, table) == rows(tmp_path / "whole", table)


def test_a_store_that_cannot_be_read_for_a_moment_costs_an_attempt_and_no_row(tmp_path, search, monkeypatch):
    """While a run is scored: what came back of it before counts once."""
    monkeypatch.setattr(retries, "RETRY_S", 0.0)
    score, calls = job.score_block, []

    def flaky(*arguments):
        calls.append(1)
        if len(calls) in (2, 3):
            raise StoreUnreadableError("stale")
        return score(*arguments)

    with monkeypatch.context() as here:
        here.setattr(job, "score_block", flaky)
        summary, _ = search(SEARCH, tmp_path / "store")
    assert summary.ends == {"finished": 5}
    search(SEARCH, tmp_path / "whole")
    same_rows(tmp_path / "store", tmp_path / "whole")


def test_a_store_that_cannot_be_written_ends_the_search_and_no_run(tmp_path, search, monkeypatch):
    store, commit = tmp_path / "store", Store.commit
    monkeypatch.setattr("bnsweep.sweep.recording.COMMIT_S", 0.0)
    commits = []

    def full(self, tables):
        commits.append(1)
        if len(commits) > 8:
            raise StoreUnwritableError("no space left")
        return commit(self, tables)

    with monkeypatch.context() as here:
        here.setattr(Store, "commit", full)
        with pytest.raises(StoreUnwritableError, match="no space left"):
            search(SEARCH, store)
    assert Store.open(store).rows("failures") == 0
    search(SEARCH, store)
    search(SEARCH, tmp_path / "whole")
    same_rows(store, tmp_path / "whole")


def test_runs_that_diverge_are_rows_and_nothing_is_worse(tmp_path, search, monkeypatch):
    monkeypatch.setattr(odd_network, "SCALE", float("nan"))
    summary, _ = search(SEARCH, tmp_path / "store")
    assert summary.ends == {"diverged": 5}
    assert Store.open(tmp_path / "store").rows("trials") == 0
    again, _ = search(SEARCH, tmp_path / "store")
    assert (again.trained, again.ends) == (0, {"diverged": 5})


def test_the_fewest_layers(tmp_path, search):
    """Of one: BN or none; a network that trains at all converges without."""
    text = SEARCH.replace("chance_epochs: null", "chance_epochs: 4").replace("train_seeds: 3", "train_seeds: 1")
    summary, _ = search(text, tmp_path / "store", minimal=True)
    (study,) = summary.studies
    assert study.over
    again, _ = search(text, tmp_path / "store", minimal=True)
    assert (again.trained, again.from_store) == (0, summary.trained)
    assert again.studies[0].lines() == study.lines()
