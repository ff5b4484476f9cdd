"""Searches that are run again after trouble: networks lost, a disk full, scoring that fails each time.

Everything is real but Tune and its cluster: its trials are done one after the other, in this process, and so are those
of the inline engine, which has to come to the same ends.
"""

import shutil
from collections import Counter
from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import odd_network
import pytest
from ray.tune.schedulers import TrialScheduler
from sweep_helpers import lose, rows

from bnsweep.errors import GpuLostError, ModelError, StoreUnwritableError
from bnsweep.experiment.reading import parse_spec
from bnsweep.store import attempts
from bnsweep.store.checkpoints import Checkpoints
from bnsweep.store.store import Store
from bnsweep.store.verify import verify
from bnsweep.sweep import work
from bnsweep.sweep.search import job, tuning
from bnsweep.sweep.search import run as search_run
from bnsweep.sweep.search.halving import EarlyStopping

SWEEP = """\
name: swept
data: {source: digits, train_images: 200, test_images: 100}
models: import:odd_network:make
training: {epochs: 2, batch_size: 50, chance_epochs: null}
eta: [0.1]
trials: 4
"""
SEARCH = SWEEP.replace("swept", "searched").replace("trials: 4", "trials: 6") + "search: {trainings: 2}\n"
STOPPING = SEARCH.replace("trainings: 2", "trainings: 2, early_stopping: {grace_epochs: 1, reduction: 100}")


class Cluster:
    """Nothing is asked of it."""

    def __init__(self, *_, **__):
        self.nodes = SimpleNamespace(check_fits=lambda *_: None, avoid=lambda *_: None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def heard(self):
        pass

    def close(self):
        pass


class Stopped(BaseException):
    """A trial that ASHA ends."""


class Trials(tuning.Tuning):
    """All of it but Tune."""

    def run(self, underway, commit):
        self._tune(underway, self._datasets)
        while commit(0.0):
            pass
        if self._error is not None:
            raise self._error

    def _search(self, searcher, references):
        stopping, number = tuning._Stopping(searcher.underway), 0
        gatherer = tuning._Gatherer(searcher, self._cluster.nodes, partial(self._stop, searcher.underway))
        job = searcher.underway.job
        while isinstance(config := searcher.suggest(str(number)), dict):
            trial = SimpleNamespace(config=config)

            def report(result, trial=trial):
                gatherer.on_trial_result(0, [], trial, result)
                if stopping.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                    raise Stopped

            tuning.tune.report = report
            with suppress(Stopped):
                try:
                    tuning._train(config, job, searcher.bases, references)
                except RuntimeError:  # Tune starts it once more
                    tuning._train(config, job, searcher.bases, references)
            searcher.on_trial_complete(str(number))
            number += 1


@pytest.fixture(params=["tune", "inline"])
def search(request, tmp_path, monkeypatch):
    """Run a search into a store; the summary and what was said."""
    monkeypatch.setattr(tuning, "RayCluster", Cluster)
    monkeypatch.setattr(tuning, "Tuning", Trials)
    monkeypatch.setattr(tuning.GpuLost, "here", lambda error: tuning.GpuLost("a node", str(error)))
    monkeypatch.setattr(tuning.tune, "report", None)  # put back at the end
    monkeypatch.setattr(tuning, "ray", SimpleNamespace(get=lambda load: load()))
    how = {"engine": "ray" if request.param == "tune" else "inline", "data_root": tmp_path}

    def run_text(text, store, **options):
        said, spec = [], parse_spec(text)
        summary = search_run.run_search(spec, str(store), text=text, told=said.append, **how, **options)
        return summary, said

    run_text.engine = request.param
    return run_text


tune_alone = pytest.mark.parametrize("search", ["tune"], indirect=True)


def failing(error):
    """In the place of a function."""

    def fail(*_, **__):
        raise error

    return fail


def same_networks_and_rows(store, fresh):
    """Two stores are about the same networks and hold the same rows, whatever attempts it took."""
    networks = [{row["run_id"]: row["checkpoint_sha256"] for row in rows(where, "runs")} for where in (store, fresh)]
    assert networks[0] == networks[1]
    for table in ("trials", "epochs", "probes"):
        assert rows(store, table) == rows(fresh, table)
    assert verify(Store.open(store)).problems == []


@pytest.mark.parametrize("trouble", ["none", "interrupted", "failed between"])
def test_a_search_scores_a_run_on_one_network(tmp_path, run, search, monkeypatch, trouble):
    """Networks with some of their trials are lost, and this processor's last bits are others."""
    store = tmp_path / "store"
    run(SWEEP, store)
    shutil.rmtree(store / "networks")
    monkeypatch.setattr(odd_network, "SCALE", 2.0)
    with monkeypatch.context() as here:
        if trouble == "interrupted":  # before it has set the old rows aside
            aside = attempts.set_aside_older

            def end_once(where, runs):
                if runs:
                    here.setattr(attempts, "set_aside_older", lambda *_: None)
                    raise KeyboardInterrupt
                aside(where, runs)

            here.setattr(attempts, "set_aside_older", end_once)
            assert search(SEARCH, store)[0].interrupted
        elif trouble == "failed between":
            here.setattr(work, "train_run", failing(RuntimeError("no memory")))
            run(SWEEP.replace("trials: 4", "trials: 5"), store)
    summary, said = search(SEARCH, store, retry_failed=True)
    _, expected = search(SEARCH, tmp_path / "fresh")
    same_networks_and_rows(store, tmp_path / "fresh")
    if trouble == "interrupted" and search.engine == "tune":  # its trials had landed
        assert (summary.trained, summary.from_store) == (0, 2)
        return
    assert said == expected  # with the objectives' values
    if trouble != "interrupted":
        assert summary.networks_changed == 2
        assert "This search's trials are made anew" in "\n".join(summary.lines(again="x"))


@pytest.mark.parametrize("before", ["sweep", "search"])
def test_a_search_does_not_take_trials_of_a_lost_run_for_those_of_its_next_network(
    tmp_path, run, search, monkeypatch, before
):
    """Nobody can tell any more which network they are of, be they of this search or of a sweep of the same runs."""
    store = tmp_path / "store"
    run(SWEEP, store) if before == "sweep" else search(SEARCH, store)
    lose(store, "runs")
    monkeypatch.setattr(odd_network, "SCALE", 2.0)
    _, said = search(SEARCH, store)
    assert said == search(SEARCH, tmp_path / "fresh")[1]
    same_networks_and_rows(store, tmp_path / "fresh")


def test_a_lost_network_that_comes_out_the_same_keeps_its_trials(tmp_path, run, search):
    store = tmp_path / "store"
    run(SWEEP, store)
    shutil.rmtree(store / "networks")
    summary, said = search(SEARCH, store)
    assert (summary.networks_changed, (store / "quarantine").exists()) == (0, False)
    assert {row["sweep"] for row in Store.open(store).read("trials").to_pylist()} == {"swept", "searched"}
    assert said == search(SEARCH, tmp_path / "fresh")[1]


def test_what_was_trained_in_full_before_is_not_stopped_early(tmp_path, run, search, monkeypatch):
    """It would be judged by the few trials that it has."""
    store = tmp_path / "store"
    run(SWEEP + "placements: all\ntrain_seeds: 2\n", store)
    shutil.rmtree(store / "networks")

    monkeypatch.setattr(EarlyStopping, "goes_on", lambda *_: False)
    text = STOPPING.replace("trainings: 2", "trainings: 4").replace("trials: 6", "trials: 6\ntrain_seeds: 2")
    summary, _ = search(text, store)
    assert summary.ends == {"finished": 3, "pruned": 1}  # spared: what is known, and what the sweep has trained
    trials = Counter(row["run_id"] for row in rows(store) if row["eta"] > 0)
    assert list(trials.values()) == [6, 6, 6]


@pytest.fixture
def breaks_off(monkeypatch):
    """A run is broken off by an error when its first block has been scored; trained again, it comes out different."""
    train, score = job.train_run, job.score_block

    def set_up(error):
        scales, errors = iter((1.0, 2.0)), iter((None, error))

        def train_otherwise(*arguments, **how):
            with monkeypatch.context() as here:
                here.setattr(odd_network, "SCALE", next(scales))
                return train(*arguments, **how)

        def score_or_fail(*arguments):
            if wrong := next(errors, None):
                raise wrong
            return score(*arguments)

        monkeypatch.setattr(job, "train_run", train_otherwise)
        monkeypatch.setattr(job, "score_block", score_or_fail)

    return set_up


@tune_alone
def test_a_run_goes_on_elsewhere_with_the_network_that_it_has(tmp_path, search, breaks_off):
    text = SEARCH.replace("trainings: 2", "trainings: 1")
    _, expected = search(text, tmp_path / "fresh")
    breaks_off(GpuLostError("no GPU"))
    _, said = search(text, tmp_path / "store")
    assert said == expected
    assert Store.open(tmp_path / "store").rows("runs") == 1
    same_networks_and_rows(tmp_path / "store", tmp_path / "fresh")


@pytest.mark.parametrize("search", ["inline"], indirect=True)
def test_a_gpu_that_fails_stops_a_search_which_goes_on_with_the_network_that_it_has(tmp_path, search, breaks_off):
    text, store = SEARCH.replace("trainings: 2", "trainings: 1"), tmp_path / "store"
    _, expected = search(text, tmp_path / "fresh")
    breaks_off(GpuLostError("no GPU"))
    with pytest.raises(GpuLostError, match="no GPU"):
        search(text, store)
    _, said = search(text, store)
    assert said == expected
    assert (Store.open(store).rows("runs"), Store.open(store).rows("failures")) == (1, 0)
    same_networks_and_rows(store, tmp_path / "fresh")


@tune_alone
def test_a_run_whose_worker_dies_is_not_scored_on_two_networks(tmp_path, search, breaks_off):
    text, store = SEARCH.replace("trainings: 2", "trainings: 1"), tmp_path / "store"
    _, expected = search(text, tmp_path / "fresh")
    breaks_off(RuntimeError("died"))
    summary, _ = search(text, store)
    assert summary.ends == {"failed": 1}
    (failure,) = rows(store, "failures")
    assert "when it was trained again another network came out" in failure["error"]
    landed = rows(store)
    assert landed
    assert all(row in rows(tmp_path / "fresh") for row in landed)
    _, said = search(text, store, retry_failed=True)  # what lacks on the first one
    assert said == expected
    same_networks_and_rows(store, tmp_path / "fresh")


@pytest.mark.parametrize("epochs", ["before", "none"])
def test_a_full_disk_stops_a_search_and_nobody_else(tmp_path, search, monkeypatch, epochs):
    """What its worker cannot write is no training that ASHA has stopped."""
    store, full = tmp_path / "store", failing(StoreUnwritableError("the disk is full"))
    with monkeypatch.context() as here:
        here.setattr(*((Checkpoints, "put_network") if epochs == "before" else (job, "train_run")), full)
        with pytest.raises(StoreUnwritableError, match="the disk is full"):
            search(STOPPING, store)
    assert [Store.open(store).rows(table) for table in ("runs", "epochs", "failures")] == [0, 0, 0]
    summary, _ = search(STOPPING, store)
    assert (summary.trained, summary.ends) == (2, {"finished": 2})
    search(STOPPING, tmp_path / "fresh")
    same_networks_and_rows(store, tmp_path / "fresh")


def test_scoring_that_fails_is_left_alone_until_it_is_asked_for(tmp_path, search, monkeypatch):
    store = tmp_path / "store"
    with monkeypatch.context() as here:
        here.setattr(job, "score_block", failing(ModelError("cannot be folded")))
        for call, options in enumerate(({}, {}, {"retry_failed": True}, {"retry_failed": True}, {})):
            summary, _ = search(SEARCH, store, **options)
            tried = 2 if call == 0 or options else 0
            assert (summary.trained, summary.from_store, summary.ends) == (tried, 2 - tried, {"failed": 2})
            assert summary.failed
        # Another search may score them in another way.
        other, _ = search(SEARCH.replace("searched", "other"), store)
        assert (other.trained, other.from_store) == (2, 0)
    attempts = [row["attempt"] for row in rows(store, "failures")]
    assert sorted(attempts) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert verify(Store.open(store)).problems == []
    assert Store.open(store).rows("runs") == 2  # the networks are there
    summary, said = search(SEARCH, store, retry_failed=True)
    assert (summary.trained, summary.failed) == (2, False)
    assert said == search(SEARCH, tmp_path / "fresh")[1]
    same_networks_and_rows(store, tmp_path / "fresh")
    summary, _ = search(SEARCH, store)
    assert (summary.trained, summary.from_store, summary.failed) == (0, 2, False)
