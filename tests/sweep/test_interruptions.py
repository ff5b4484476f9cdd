"""Ctrl-C while blocks come back: what is finished is kept."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace

import pytest
from sweep_helpers import rows

from bnsweep.errors import StoreUnwritableError
from bnsweep.experiment.resources import Resource
from bnsweep.store.store import Store
from bnsweep.store.verify import verify
from bnsweep.sweep import recording, work
from bnsweep.sweep import run as running
from bnsweep.sweep.engine import InlineEngine
from bnsweep.sweep.progress import Silent
from bnsweep.sweep.recording import RowBuffer
from bnsweep.sweep.tasks import Scored, Trained, TrainTask
from bnsweep.training import trainer

ROOT = Path(__file__).parents[2]
ODD = """\
name: odd
data: {source: digits, train_images: 200, test_images: 100}
models: import:odd_network:make
placements: all
training: {epochs: 1, batch_size: 50, chance_epochs: null}
eta: [0, 0.1, 0.2, 0.3]
trials: 1
"""
BLOCKS = 3 * 10  # in which 39 more trials of three points are done: 4 each


class Together:
    """An engine that hands over many blocks at once, as Ray's does."""

    def __init__(self, scored):
        self._inner, self._scored, self._blocks = InlineEngine(), scored, 0
        self.start, self.close, self.finished = self._inner.start, self._inner.close, self._inner.finished
        self.slots = 1
        self.works_in_wait = False

    @property
    def room(self):
        return BLOCKS - self._blocks

    @property
    def busy(self):
        return self._inner.busy

    def submit(self, task):
        self._blocks += 1
        self._inner.submit(task)

    def wait(self, timeout_s):
        outcomes = []
        while self._inner.busy:
            outcomes += self._inner.wait(timeout_s)
            if isinstance(outcomes[-1], Scored):
                self._scored(len(outcomes))
        return outcomes


def press(times=1):
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("when", ["while they are handed over", "while one is taken", "while one is told"])
def test_blocks_that_came_back_together_are_all_kept(tmp_path, run, monkeypatch, when):
    class Pressing(Silent):
        told = 0

        def heard(self, outcome):
            self.told += 1
            if when == "while one is told" and self.told == 2:
                press()

    add, taken = RowBuffer.add, []

    def pressing(buffer, table, some):
        taken.append(table)
        if when == "while one is taken" and len(taken) == 2:
            press()
        add(buffer, table, some)

    def scored(number):
        if when == "while they are handed over" and number == 2:
            press()

    store = tmp_path / "store"
    run(ODD, store)
    monkeypatch.setattr(RowBuffer, "add", pressing)
    monkeypatch.setattr(running, "_engine", lambda *_, **__: Together(scored))
    summary = run(ODD.replace("trials: 1", "trials: 40"), store, listener=Pressing())
    assert summary.interrupted
    assert "every finished block is kept" in "\n".join(summary.lines(again="x"))
    assert summary.trials_done == 3 * 39
    assert len(rows(store)) == 1 + 3 * 40
    assert verify(Store.open(store)).problems == []


def test_a_second_interruption_at_once_costs_nothing_of_what_is_done(tmp_path, run, monkeypatch):
    """It comes while what came back after the first is taken; a network that comes out another is committed at once."""
    store, back = tmp_path / "store", []

    class Twice(Together):
        def __init__(self):
            super().__init__(lambda number: None)
            self.finished = self._pressing

        def wait(self, timeout_s):
            back.extend(super().wait(timeout_s))
            press()
            return []

        def _pressing(self):
            press()
            return back

    add, flush, twice = RowBuffer.add, RowBuffer.flush, []

    def flushing(buffer, table, some):
        add(buffer, table, some)
        if back and table == "trials" and not twice:
            twice.append(1)
            press()
            flush(buffer)

    run(ODD, store)
    monkeypatch.setattr(RowBuffer, "add", flushing)
    monkeypatch.setattr(running, "_engine", lambda *_, **__: Twice())
    summary = run(ODD.replace("trials: 1", "trials: 40"), store)
    assert summary.interrupted
    assert twice
    assert summary.trials_done == 3 * 39
    assert len(rows(store)) == 1 + 3 * 40


def test_what_was_taken_is_kept_whatever_error_ends_the_sweep(tmp_path, run, monkeypatch):
    """One of another library's, which says the same when it is asked for what has come back in the meantime."""
    store = tmp_path / "store"

    class Failing(Together):
        def __init__(self):
            super().__init__(lambda number: None)
            self.finished = self._gone
            self.taken = False

        @property
        def busy(self):
            return not self.taken or self._gone()

        def wait(self, timeout_s):
            self.taken = True
            return super().wait(timeout_s)

        def _gone(self):
            raise RuntimeError("the cluster is gone")

    run(ODD, store)
    monkeypatch.setattr(running, "_engine", lambda *_, **__: Failing())
    monkeypatch.setattr(recording, "COMMIT_S", 1000.0)
    with pytest.raises(RuntimeError, match="the cluster is gone"):
        run(ODD.replace("trials: 1", "trials: 40"), store)
    assert len(rows(store)) > 1 + 3
    assert verify(Store.open(store)).problems == []


def test_what_has_come_back_before_a_disk_is_full_is_kept(tmp_path, run, monkeypatch):
    """A worker's disk; the store's own has room for the rows."""
    store, back = tmp_path / "store", []

    def scored(number):
        if number == 5:
            raise StoreUnwritableError("no space left")

    class Filling(Together):
        def __init__(self):
            super().__init__(scored)
            self.finished = lambda: back

        def wait(self, timeout_s):
            while True:
                back.extend(self._inner.wait(timeout_s))
                self._scored(len(back))

    run(ODD, store)
    monkeypatch.setattr(running, "_engine", lambda *_, **__: Filling())
    with pytest.raises(StoreUnwritableError, match="no space left"):
        run(ODD.replace("trials: 1", "trials: 40"), store)
    assert len(back) == 5
    assert len(rows(store)) == 1 + 3 + sum(len(outcome.rows) for outcome in back)
    assert verify(Store.open(store)).problems == []


def test_a_training_whose_row_did_not_land_goes_on_at_its_end(tmp_path, run, monkeypatch):
    """Its network is in the store, its driver is killed before it commits."""
    location, text = tmp_path / "store", ODD.replace("epochs: 1", "epochs: 4")
    trained, commit = [], Store.commit
    epoch = trainer._Run.epoch

    def counted(self, progress, watch):
        trained.append(len(progress.rows))
        return epoch(self, progress, watch)

    def full(store, tables):
        if "runs" in tables:
            raise StoreUnwritableError("no space left")
        return commit(store, tables)

    monkeypatch.setitem(trainer.train.__kwdefaults__, "slot_interval_s", 0.0)
    monkeypatch.setattr(trainer._Run, "epoch", counted)
    monkeypatch.setattr(Store, "commit", full)
    with pytest.raises(StoreUnwritableError, match="no space left"):
        run(text, location)
    monkeypatch.setattr(Store, "commit", commit)
    assert len(list(location.glob("networks/*"))) == 1
    assert not rows(location, "runs")
    run(text, location)
    assert trained == [0, 1, 2, 3, 3]
    assert list(location.glob("resume/*")) == []
    run(text, tmp_path / "undisturbed")
    for table in ("runs", "epochs", "trials"):
        assert rows(location, table) == rows(tmp_path / "undisturbed", table)


@pytest.mark.ray
def test_trainings_that_came_back_with_one_that_found_no_room_are_handed_over(tmp_path):
    pytest.importorskip("ray", reason="needs the extra ray")
    from bnsweep.sweep.ray_trainings import Trainings

    trainings = Trainings(Store.create(tmp_path / "store"), nodes=None)
    for outcome in ("first", StoreUnwritableError("no space left"), "second"):
        trainings._outcomes.put(outcome)
    assert trainings.taken() == ["first", "second"]
    with pytest.raises(StoreUnwritableError, match="no space left"):
        trainings.check()


@pytest.mark.ray
def test_blocks_that_came_back_with_some_that_found_no_room_are_all_kept(tmp_path):
    """Of ten the first two and the last; the last one's error ends the sweep although no more is to be done."""
    failing = ["0=disk", "1=disk", "4=memory", "5=shapes", "9=disk"]
    command = [sys.executable, "-m", "tests.sweep.failing_blocks", str(tmp_path / "store"), *failing]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True, cwd=ROOT)
    ended, trials, *given_up = done.stdout.splitlines()[-4:]  # before them Ray may say what it tries again
    assert (ended, trials) == ("no space left", "5")
    # What may pass is tried again, by this engine as by the inline one.
    assert sorted(given_up) == ["1 ValueError: shapes cannot be multiplied", "3 MemoryError: none left"]


@pytest.mark.parametrize(("error", "attempts"), [(MemoryError("none left"), 3), (ValueError("shapes"), 1)])
def test_a_block_is_tried_again_where_that_may_help(tmp_path, run, monkeypatch, error, attempts):
    def failing(task, dataset):
        raise error

    monkeypatch.setattr(work, "score_block", failing)
    assert run(ODD, tmp_path / "store").blocks_failed == 4
    assert [row["attempt"] for row in rows(tmp_path / "store", "failures")] == [attempts] * 4


@pytest.mark.ray
def test_a_second_round_of_trainings_may_begin_as_soon_as_the_first_is_over(tmp_path, monkeypatch):
    """A network is found lost right after the last training. All is real but what Tune does."""
    pytest.importorskip("ray", reason="needs the extra ray")
    from bnsweep.sweep.ray_trainings import Trainings

    def fit(trainings, tasks, references):
        if tasks[0].attempt == 2:
            sleep(0.3)
        for task in tasks:
            trainings._outcomes.put(Trained(task, {}, ()))
        return []

    monkeypatch.setattr(Trainings, "_fit", fit)
    run = SimpleNamespace(run_id="a", fingerprint="digits")
    first, again = (TrainTask("sweep", "store", run, Resource(), attempt=attempt) for attempt in (1, 2))
    trainings = Trainings(Store.create(tmp_path / "store"), SimpleNamespace(check_fits=lambda *_: None))
    for task in (first, again):
        begin = monotonic()
        trainings.start([task], SimpleNamespace(reference=lambda fingerprint: None))
        assert monotonic() - begin < 1
        assert [outcome.task.attempt for outcome in trainings.taken(10)] == [task.attempt]
        trainings.check()
        assert not trainings.left


@pytest.mark.parametrize(("repeated_s", "waited"), [(0.0, [1]), (60.0, [1, 2])])
def test_whoever_asks_again_need_not_wait_but_a_signal_may_come_twice(tmp_path, monkeypatch, repeated_s, waited):
    monkeypatch.setattr(recording, "REPEATED_S", repeated_s)
    buffer, steps = RowBuffer(Store.create(tmp_path / "store")), []

    def work(times):
        with buffer.interruptible(), buffer.undisturbed():
            press(times)
            steps.append(times)

    for times in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            work(times)
    assert steps == waited
