"""Searches through a real Ray cluster: the rows of a sweep, whatever happens on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from sweep_helpers import bnsweep, quiet_env, rows, wait_until

from bnsweep.analysis.database import open_database
from bnsweep.analysis.deciding import deciding_sweep
from bnsweep.analysis.searches import read_searches
from bnsweep.errors import DataError, InputError
from bnsweep.experiment.plan import Plan, make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.experiment.search import subjects
from bnsweep.store.store import Store
from bnsweep.store.verify import verify_location
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.estimate import preview
from bnsweep.sweep.ray_settings import prepare_ray
from bnsweep.sweep.search.expected import expected_plan
from bnsweep.sweep.search.panel import Memory
from bnsweep.sweep.search.study import Proposal

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]  # each does tens of trainings

SEARCH = """\
name: tiny-search
data: {source: digits, size: 8, train_images: 200, test_images: 100}
models: [resnet8]
train_seeds: 2
training: {epochs: 2, batch_size: 50, learning_rate: 0.005, chance_epochs: null}
noise: {targets: all}
eta: [0, 0.2]
trials: 3
search: {trainings: 14, batch: 3}
"""
TRIALS = ("run_id", "point_id", "trial", "bn_mask", "train_seed", "eta", "noise_seed", "correct", "accuracy")


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs for every search of this module."""
    prepare_ray(own_cluster=True)
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    yield
    ray.shutdown()


@pytest.fixture
def search(cluster, tmp_path):
    """Run a search into a store; the summary and what was said."""
    from bnsweep.sweep.search.run import run_search

    def run(text, store, **options):
        said = []
        summary = run_search(parse_spec(text), str(store), text=text, data_root=tmp_path, told=said.append, **options)
        return summary, said

    return run


def asked(store):
    return [
        (row["model"], row["study"], row["number"], row["bn_mask"], row["train_seed"], row["origin"])
        for row in sorted(
            Store.open(store).read("proposals").to_pylist(), key=lambda row: (row["model"], row["study"], row["number"])
        )
    ]


def test_a_search_whose_images_are_missing_leaves_no_trace(tmp_path, monkeypatch):
    """Before a cluster is started, and before the store hears of it."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody answers: nothing is downloaded
    prepare_ray(own_cluster=True)
    from bnsweep.sweep.search.run import run_search

    text = SEARCH.replace("{source: digits, size: 8, train_images: 200, test_images: 100}", "cifar10")
    with pytest.raises(DataError, match="CIFAR10 is not in"):
        run_search(parse_spec(text), str(tmp_path / "store"), text=text, data_root=tmp_path, told=print)
    assert Store.open(tmp_path / "store").parts() == []


def test_a_search_lands_the_rows_of_a_sweep_and_costs_nothing_when_it_is_done(search, run, tmp_path):
    summary, said = search(SEARCH, tmp_path / "store")
    assert (summary.trained, summary.from_store, len(said)) == (14, 0, 14)
    proposals = asked(tmp_path / "store")
    assert [number for _, _, number, *_ in proposals] == list(range(1, 15))
    assert [origin for *_, origin in proposals[:9]] == ["known"] * 9

    again, said = search(SEARCH, tmp_path / "store")
    assert (again.trained, again.from_store, said) == (0, 14, [])
    assert asked(tmp_path / "store") == proposals
    # 16 runs on, a model of the rows proposes: of live rows as of those that the store gives back.
    more = SEARCH.replace("trainings: 14", "trainings: 24")
    longer, _ = search(more, tmp_path / "store")
    assert (longer.trained, longer.from_store) == (10, 14)
    proposals = asked(tmp_path / "store")
    again, _ = search(more, tmp_path / "store")
    assert (again.trained, again.from_store) == (0, 24)
    assert asked(tmp_path / "store") == proposals

    masks = sorted({mask for _, _, _, mask, seed, _ in asked(tmp_path / "store") if seed == 0})[:3]
    listed = ", ".join(f'"{mask}"' for mask in masks)
    sweep = SEARCH.replace("tiny-search", "listed").replace("search: {trainings: 14, batch: 3}", "")
    run(sweep.replace("train_seeds: 2", "train_seeds: 1") + f"placements: [{listed}]\n", tmp_path / "swept")
    swept = [{key: row[key] for key in TRIALS} for row in rows(tmp_path / "swept")]
    found = [{key: row[key] for key in TRIALS} for row in rows(tmp_path / "store")]
    assert len(swept) == 3 * 4
    assert all(row in found for row in swept)
    # A sweep on the search's store has nothing to do for placements that were searched, and the other way round.
    done = run(sweep.replace("train_seeds: 2", "train_seeds: 1") + f"placements: [{listed}]\n", tmp_path / "store")
    assert (done.runs_done, done.trials_done) == (0, 0)
    assert verify_location(tmp_path / "store").ok


STOPPING = "batch: 3, sampler: random, early_stopping: {grace_epochs: 1, reduction: 1.5}"


@pytest.mark.parametrize("stopping", ["", "one at a time, of which some are stopped early"])
def test_a_search_is_the_same_by_either_engine_and_by_both_in_turn(search, tmp_path, stopping):
    text = SEARCH.replace("trainings: 14", "trainings: 12")
    if stopping:  # which runs are compared depends on which ended first: here each that was begun first
        text = text.replace("batch: 3", STOPPING).replace("epochs: 2, ", "epochs: 3, ")
        text += "resources: {train: {cpu: 1.5}}\n"
    less = text.replace("trainings: 12", "trainings: 11")
    whole, turns = tmp_path / "whole", [("ray", "inline"), ("inline", "ray")]
    first, _ = search(text, whole, engine="inline")
    assert (first.trained, first.ends["pruned"] > 0) == (12, bool(stopping))
    for begun, gone_on in turns:
        store = tmp_path / begun
        assert search(less, store, engine=begun)[0].trained == 11
        last, _ = search(text, store, engine=gone_on)
        assert (last.trained, last.from_store) == (1, 11)
        for table in ("runs", "epochs", "trials", "sites"):
            assert rows(store, table) == rows(whole, table), table
        assert list(dict.fromkeys(asked(store))) == asked(whole)  # a file of more trainings notes all of them again
        assert verify_location(store).ok


def test_noise_is_drawn_until_the_interval_is_narrow_enough_in_a_search_as_in_a_sweep(search, run, tmp_path):
    text = SEARCH.replace("trials: 3", "trials: {half_width: 0.05, min: 3, max: 40}")
    search(text.replace("trainings: 14", "trainings: 3"), tmp_path / "store", engine="inline")
    found = [{key: row[key] for key in TRIALS} for row in rows(tmp_path / "store")]
    noisy = Counter(row["run_id"] for row in found if row["eta"] > 0)
    assert len(noisy) == 3
    assert min(noisy.values()) >= 3
    assert len(set(noisy.values())) > 1  # each as many as it needed
    sweep = (
        text.split("search:", maxsplit=1)[0]
        .replace("tiny-search", "listed")
        .replace("train_seeds: 2", "train_seeds: 1")
    )
    run(sweep + "placements: [all, none, {first: 1}]\n", tmp_path / "swept")
    assert [{key: row[key] for key in TRIALS} for row in rows(tmp_path / "swept")] == found


def test_sql_sees_a_search_as_it_sees_a_sweep(search, tmp_path):
    search(SEARCH, tmp_path / "store", engine="inline")
    database = open_database(Store.open(tmp_path / "store"))
    (sweep,) = database.query("sweeps").to_dicts()
    assert (sweep["planned_runs"], sweep["trained"], sweep["missing"], sweep["trials"]) == (14, 14, 0, 14 * 4)
    assert len(database.query("tradeoff").rows) == len(database.query("pareto").rows)
    (found,) = read_searches(database)
    assert found.front_masks
    assert "tiny-search: resnet8 on digits" in found.to_text()
    # What would decide a claim is a sweep over what it compares, which the search has begun.
    placed = {row["bn_mask"] for row in database.query("pareto").to_dicts()}
    for placements, compared in (("ends", 2), ("every", len(placed))):
        text = deciding_sweep(database, "noise", {}, seeds=5, placements=placements)
        plan = make_plan(parse_spec(text), LocalCatalog(tmp_path))
        planned = preview(plan, Store.open(tmp_path / "store"), cpus=1, data_root=tmp_path)
        assert planned.runs == compared * 5
        have = {(mask, seed) for _, _, _, mask, seed, _ in asked(tmp_path / "store")}
        assert planned.runs_done == sum((run.bn_mask, run.train_seed) in have for run in plan.runs) > 0
        assert planned.runs_missing == planned.runs - planned.runs_done > 0


def test_networks_share_the_cluster_and_each_has_its_study(search, tmp_path):
    text = SEARCH.replace("[resnet8]", '[resnet8, "torchvision:mnasnet0_5"]').replace("size: 8", "size: 16")
    text = text.replace("trainings: 14", "trainings: 3").replace("epochs: 2, ", "epochs: 1, ")
    summary, said = search(text, tmp_path / "store")
    assert summary.trained == 6
    first = [line.split()[1] for line in said[:3]]
    assert len(set(first)) == 2  # neither waits for the other's end
    assert {(model, number) for model, _, number, *_ in asked(tmp_path / "store")} == {
        (model, number) for model in ("resnet8", "torchvision:mnasnet0_5") for number in (1, 2, 3)
    }


def test_what_early_stopping_ends_is_a_row_and_no_finished_network(search, run, tmp_path):
    text = SEARCH.replace("epochs: 2, ", "epochs: 4, ").replace("batch: 3", STOPPING)
    summary, _ = search(text, tmp_path / "store")
    runs = {row["run_id"]: row for row in Store.open(tmp_path / "store").read("runs").to_pylist()}
    pruned = [row for row in runs.values() if row["status"] == "pruned"]
    assert 0 < len(pruned) == summary.ends["pruned"]
    for row in pruned:
        assert row["reason"].startswith("stopped by ASHA: test accuracy 0.")
        assert row["epochs_run"] < 4
        assert row["checkpoint_sha256"] is None
    known = {row[3] for row in asked(tmp_path / "store") if row[5] == "known"}
    assert not known & {row["bn_mask"] for row in pruned}
    trials = Store.open(tmp_path / "store").read("trials")["run_id"].to_pylist()
    assert not {row["run_id"] for row in pruned} & set(trials)
    again, _ = search(text, tmp_path / "store")
    assert (again.trained, again.ends["pruned"]) == (0, len(pruned))

    # It answers this search, and none that would not have stopped it: one without early stopping, `--minimal`, or this
    # one where it names the placement itself.
    spec = parse_spec(text)
    (subject,) = subjects(spec, LocalCatalog(tmp_path))
    asker = Proposal("front", 1, subject.run(pruned[0]["bn_mask"], pruned[0]["train_seed"]), "random", "")
    patient = spec.search.model_copy(update={"early_stopping": None})
    for search_too, origin, ends in (
        (spec.search, "random", "pruned"),
        (spec.search, "known", None),
        (spec.search, "minimal", None),
        (patient, "random", None),
    ):
        memory = Memory(Store.open(tmp_path / "store"), Plan(spec, ()), search_too)
        answer = memory.verdict(replace(asker, origin=origin))
        assert (answer and answer.status) == ends

    # For the search it has ended; a sweep that plans it trains it in full, and a plan says so.
    spec, store, data = parse_spec(text), Store.open(tmp_path / "store"), {"cpus": 2, "data_root": tmp_path}
    plan = expected_plan(spec, subjects(spec, LocalCatalog(tmp_path)), store)
    planned = preview(plan, store, **data)
    assert (planned.runs_pruned, planned.runs_missing, planned.rows_missing) == (len(pruned), 0, 0)
    mask = pruned[0]["bn_mask"]
    sweep = text.split("search:", maxsplit=1)[0].replace("tiny-search", "listed") + f'placements: ["{mask}"]\n'
    sweep = sweep.replace("train_seeds: 2", f"train_seeds: [{pruned[0]['train_seed']}]")
    planned = preview(make_plan(parse_spec(sweep), LocalCatalog(tmp_path)), store, **data)
    assert (planned.runs_done, planned.runs_missing, planned.rows_missing) == (0, 1, 4)
    run(sweep, tmp_path / "store")
    last = max(
        (
            row
            for row in Store.open(tmp_path / "store").read("runs").to_pylist()
            if row["run_id"] == pruned[0]["run_id"]
        ),
        key=lambda row: row["attempt"],
    )
    assert (last["status"], last["epochs_run"], last["attempt"]) == ("finished", 4, 2)
    assert verify_location(tmp_path / "store").ok


def test_a_name_stands_for_one_study(search, run, tmp_path):
    search(SEARCH.replace("trainings: 14", "trainings: 1"), tmp_path / "store")
    other = SEARCH.replace("batch: 3", "batch: 3, sampler: tpe").replace("epochs: 2,", "epochs: 3,")
    with pytest.raises(InputError, match=r"made from another file \(it differs in training, search.sampler\).*another"):
        search(other, tmp_path / "store")
    run(SEARCH.split("search:", maxsplit=1)[0].replace("tiny-search", "listed") + "placements: [all]\n", tmp_path / "s")
    with pytest.raises(InputError, match="holds a sweep 'listed', which is no search; give this one another `name`"):
        search(SEARCH.replace("tiny-search", "listed"), tmp_path / "s")


def test_a_slip_in_the_file_is_noted_before_anything_runs(tmp_path):
    (tmp_path / "spec.yaml").write_text(re.sub(r"^eta: .*$", "eta: [0, 10]", SEARCH, flags=re.MULTILINE))
    (tmp_path / "no-store").touch()
    done = bnsweep("search", tmp_path / "spec.yaml", "--store", tmp_path / "no-store")
    assert done.returncode == 2
    assert done.stderr.startswith("note: eta above 1 (10) is noise of more than one standard deviation")


def test_the_fewest_layers_with_their_evidence(search, tmp_path):
    text = SEARCH.replace("batch: 3", "batch: 3, minimal: {places: 2}").replace("train_seeds: 2", "train_seeds: 1")
    text = text.replace("chance_epochs: null", "chance_epochs: 2")
    summary, _ = search(text, tmp_path / "store", minimal=True)
    (study,) = summary.studies
    assert study.answer is not None
    evidence = asked(tmp_path / "store")
    assert {row[1] for row in evidence} == {"minimal"}
    assert len(evidence) == summary.trained == len(study.asked)
    inline, _ = search(text, tmp_path / "inline", minimal=True, engine="inline")
    assert (inline.studies[0].lines(), asked(tmp_path / "inline")) == (study.lines(), evidence)


def test_a_search_killed_and_run_again_is_the_same_study(search, tmp_path):
    spec, whole, killed = tmp_path / "spec.yaml", tmp_path / "whole", tmp_path / "killed"
    spec.write_text(SEARCH)
    command = ["search", spec, "--cpus", "2", "--store"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bnsweep", *map(str, command), str(killed)],
        env=quiet_env(),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: Store.exists(killed) and Store.open(killed).rows("runs") >= 10)
    os.killpg(process.pid, signal.SIGKILL)  # the driver and its cluster at once
    process.wait()
    time.sleep(0.5)
    before = Store.open(killed).rows("runs")
    assert before < 14
    done = bnsweep(*command, killed, "--take-over", "--emit", tmp_path / "front.yaml")
    assert done.returncode == 0, done.stderr
    assert "were in the store" in done.stdout
    search(SEARCH, whole, engine="inline")
    assert asked(killed) == asked(whole)
    assert rows(killed) == rows(whole)
    assert verify_location(killed).ok

    # The sweep that it writes trains the front with more seeds, and the search's runs are there already.
    text = (tmp_path / "front.yaml").read_text()
    plan = make_plan(parse_spec(text), LocalCatalog(tmp_path))
    (found,) = read_searches(open_database(Store.open(killed)))
    assert {run.bn_mask for run in plan.runs} == set(found.front_masks)
    assert len(plan.runs) == 5 * len(found.front_masks)
    searched = {row["run_id"] for row in Store.open(killed).read("runs").to_pylist()}
    assert sum(run.run_id in searched for run in plan.runs) >= len(found.front_masks)
    shown = bnsweep("search", "show", "--store", killed)
    assert all(mask in shown.stdout for mask in found.front_masks)
    (told,) = json.loads(bnsweep("search", "show", "--store", killed, "--json").stdout)
    assert [each["mask"] for each in told["front"]] == found.front_masks
    assert (told["model"], told["asked"], told["ends"]) == ("resnet8", {"front": 14}, {"finished": 14})
    assert [site["site"] for site in told["sites"]] == list(range(1, 10))
