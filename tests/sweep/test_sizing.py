"""`plan --cluster`: hours, cost and storage by the speeds of the rows, against sums made here by hand."""

from __future__ import annotations

import dataclasses

import pytest

from bnsweep.errors import InputError
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.experiment.resources import Resource
from bnsweep.noise import sampling
from bnsweep.store.export import copy_rows
from bnsweep.store.store import Store
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.estimate import preview
from bnsweep.sweep.sizing import ClusterShape, parse_cluster, size

BIG = """\
name: big
data: {source: digits}
models: [resnet8, resnet20]
placements: [all, none]
train_seeds: 5
training: {epochs: 10}
noise: {targets: [weights, all]}
eta: [0, 0.1, 0.3]
trials: 50
"""


def plan_of(text, root):
    return make_plan(parse_spec(text), LocalCatalog(root))


def test_hours_cost_and_storage_are_those_of_the_rows(run, tiny, tmp_path):
    run(tiny, tmp_path / "history")
    history = Store.open(str(tmp_path / "history"))
    runs, trials = history.read("runs").to_pylist(), history.read("trials").to_pylist()
    sizes = {row["run_id"]: row["multiply_adds"] for row in runs}
    train_s = sum(r["duration_s"] for r in runs) / sum(
        r["multiply_adds"] * r["train_images"] * r["epochs_run"] for r in runs
    )
    noisy = [row for row in trials if row["eta"]]  # whose draws cost as much as so many images each:
    draw = sampling.DRAW_COST
    trial_s = sum(r["duration_s"] for r in noisy) / sum(sizes[r["run_id"]] * (r["images"] + draw) for r in noisy)

    plan = plan_of(BIG, tmp_path)
    found = size(plan, None, ClusterShape(nodes=3, cpus=2, price=1.5), history)
    work = {r.run_id: r.architecture.multiply_adds for r in plan.runs}
    images = plan.runs[0].train_images * 10
    training = sum(work.values()) * images * train_s / 6 / 3600
    scored = plan.runs[0].test_images + 2 * 50 * (plan.runs[0].test_images + draw)
    scoring = sum(work.values()) * 2 * scored * trial_s / 6 / 3600
    assert len(plan.runs) == 2 * 2 * 5
    assert found.slots_train == found.slots_trial == 6
    assert found.hours_train == pytest.approx(training)
    assert found.hours_trial == pytest.approx(scoring)
    assert found.cost == pytest.approx(1.5 * 3 * (training + scoring))
    assert found.rows == 20 * 2 * (1 + 2 * 50)
    assert found.bytes_networks == sum(4 * run.architecture.parameters for run in plan.runs)
    assert "billion multiply-adds/s a task on cpu" in found.to_text()

    # More places than networks: the longest network decides.
    many = size(plan, None, ClusterShape(nodes=100, cpus=4), history)
    assert many.hours_train == pytest.approx(max(work.values()) * images * train_s / 3600)
    assert "leave 380 places empty" in many.to_text()


def test_networks_that_are_not_there_are_trained_again(run, tiny, tmp_path):
    run(tiny, tmp_path / "store")
    copy_rows(Store.open(tmp_path / "store"), tmp_path / "published")
    published, plan = Store.open(tmp_path / "published"), plan_of(tiny, tmp_path)
    found = size(plan, published, ClusterShape(nodes=1), Store.open(tmp_path / "store"))
    anew = size(plan, None, ClusterShape(nodes=1), Store.open(tmp_path / "store"))
    assert (found.rows, found.hours_trial) == (0, 0)
    assert found.hours_train == anew.hours_train > 0
    assert found.bytes_networks == anew.bytes_networks > 0


def test_what_has_landed_needs_no_time(run, tiny, tmp_path):
    run(tiny, tmp_path / "store")
    store = Store.open(str(tmp_path / "store"))
    found = size(plan_of(tiny, tmp_path), store, ClusterShape(nodes=2, price=3), store)
    assert (found.hours, found.cost, found.rows, found.bytes_networks) == (0, 0, 0, 0)


def test_no_speed_is_guessed(run, tiny, tmp_path):
    run(tiny, tmp_path / "history")
    on_gpus = BIG + "resources: {train: {gpu: 0.25, accelerator: H100}, trial: {gpu: 0.25}}\n"
    history = Store.open(str(tmp_path / "history"))
    found = size(plan_of(on_gpus, tmp_path), None, ClusterShape(nodes=8, cpus=16, gpus=4, price=10), history)
    assert found.slots_train == 8 * 16
    assert (found.hours, found.cost, found.device_train) == (None, None, None)
    assert "unknown: no row in the history was made on such a machine" in found.to_text()
    assert size(plan_of(BIG, tmp_path), None, ClusterShape(nodes=1), None).hours is None
    for other in ("evaluation: {precision: bf16}\n", "training: {epochs: 10, precision: bf16}\n"):
        found = size(
            plan_of(BIG.replace("training: {epochs: 10}\n", "") + other, tmp_path), None, ClusterShape(1), history
        )
        assert found.hours is None, "these rows are of fp32"


@pytest.mark.parametrize(
    ("precision", "said"),
    [("fp32", "measured: 2 runs and 32 trials in the store"), ("bf16", "measured: 32 trials in the store; training ")],
)
def test_a_plan_takes_the_same_speeds_here_and_on_a_cluster(run, tiny, tmp_path, precision, said):
    """Trials in fp32, on networks that were trained in this precision or that; the plan is all fp32."""
    run(tiny.replace("{epochs: 2,", f"{{epochs: 2, precision: {precision},"), tmp_path / "store")
    store, plan = Store.open(tmp_path / "store"), plan_of(BIG, tmp_path)
    here = preview(plan, store, cpus=1, data_root=tmp_path)
    there = size(plan, store, ClusterShape(nodes=1, cpus=1), store)
    assert here.speeds_from.startswith(said)
    assert here.core_hours_trials == there.hours_trial > 0
    assert there.hours_train == (here.core_hours_training if precision == "fp32" else None)


def test_rows_of_far_smaller_networks_tell_no_speed(run, tiny, tmp_path):
    """A ResNet-8 has 0.76 million multiply-adds per image of 8x8 pixels; 16 times as many at 32x32."""
    run(tiny, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    for pixels, told in ((8, True), (12, True), (32, False)):
        text = tiny.replace("digits,", f"digits, size: {pixels},").replace("tiny", "other").replace("s: 1\n", "s: 7\n")
        plan = plan_of(text, tmp_path)
        here = preview(plan, store, cpus=1, data_root=tmp_path)
        there = size(plan, store, ClusterShape(nodes=1, cpus=1), store)
        assert here.speeds_from.startswith("measured: 2 runs and 32 trials" if told else "guessed"), pixels
        assert (there.hours is not None) == told, pixels
    assert "by networks at most 5 times larger or smaller" in there.to_text()


def test_what_is_to_be_measured_is_measured_whatever_rows_there_are(run, tiny, tmp_path):
    run(tiny, tmp_path / "store")
    store, plan = Store.open(tmp_path / "store"), plan_of(BIG, tmp_path)
    found = {each: preview(plan, store, cpus=1, data_root=tmp_path, measure=each) for each in (True, None, False)}
    assert found[True].speeds_from.startswith("measured now: ")
    assert found[None].speeds_from == found[False].speeds_from == "measured: 2 runs and 32 trials in the store"


def test_the_speed_is_that_of_the_wanted_gpu(run, tiny, tmp_path):
    import pyarrow as pa

    run(tiny, tmp_path / "history")
    cpu = Store.open(str(tmp_path / "history"))
    history = Store.create(str(tmp_path / "gpus"))
    for device, factor in (("NVIDIA H100 80GB HBM3", 0.01), ("NVIDIA L4", 0.04)):
        tables = {}
        for name in ("runs", "trials"):
            rows = [
                {
                    **row,
                    "run_id": f"{device}{row['run_id']}",
                    "device": device,
                    "duration_s": row["duration_s"] * factor,
                }
                for row in cpu.read(name).to_pylist()
            ]
            tables[name] = pa.Table.from_pylist(
                [{**row, **({"point_id": f"{device}{row['point_id']}"} if name == "trials" else {})} for row in rows],
                schema=cpu.read(name).schema,
            )
        history.commit(tables)
    text = BIG + "resources: {train: {gpu: 1, accelerator: H100}, trial: {gpu: 1}}\n"
    shape = ClusterShape(nodes=1, gpus=1)
    found = size(plan_of(text, tmp_path), None, shape, history)
    assert found.device_train == "NVIDIA H100 80GB HBM3"
    assert found.device_trial == "NVIDIA L4", "any GPU: the slowest that was measured"
    slow = size(plan_of(BIG, tmp_path), None, dataclasses.replace(shape, cpus=1), cpu)
    assert found.hours_train == pytest.approx(0.01 * slow.hours_train)
    assert found.hours_trial == pytest.approx(0.04 * slow.hours_trial)


@pytest.mark.parametrize(
    ("resource", "slots"),
    [
        (Resource(), 16),
        (Resource(cpu=4), 4),
        (Resource(cpu=0.5), 32),
        (Resource(gpu=0.25), 8),
        (Resource(gpu=0.3), 6),
        (Resource(gpu=2), 1),
        (Resource(gpu=3), 0),
        (Resource(cpu=0, gpu=0.1), 20),
    ],
)
def test_tasks_that_fit_on_a_node(resource, slots):
    assert ClusterShape(nodes=1, cpus=16, gpus=2).slots(resource) == slots
    assert ClusterShape(nodes=3, cpus=16, gpus=2).slots(resource) == 3 * slots


def test_parts_of_a_core_are_counted_exactly():
    assert 33 / 1.1 < 30  # to a computer
    assert ClusterShape(nodes=1, cpus=33).slots(Resource(cpu=1.1)) == 30


def test_gpus_that_no_task_takes_are_said_to_be_idle(tmp_path):
    shape = ClusterShape(nodes=1, gpus=4)
    said = size(plan_of(BIG, tmp_path), None, shape, None).to_text()
    assert "note     no task of this sweep takes a GPU, so the 4 per node would be idle: write `resources: " in said
    trials = plan_of(BIG + "resources: {trial: {gpu: 0.5}}\n", tmp_path)
    assert "idle" not in size(trials, None, shape, None).to_text()


def test_a_task_that_fits_nowhere_is_refused(tmp_path):
    plan = plan_of(BIG + "resources: {train: {cpu: 32}}\n", tmp_path)
    with pytest.raises(InputError, match=r"`resources.train` asks for cpu: 32, gpu: 0, but a node of --cluster has 16"):
        size(plan, None, ClusterShape(nodes=8, cpus=16), None)


def test_shapes_as_words():
    assert parse_cluster("nodes=8, gpus=4,cpus=16,price=12.5") == ClusterShape(8, 16, 4, 12.5)
    for text, message in [
        ("8", r"--cluster is nodes=N\[,cpus=N\]"),
        ("nodes=8,nodes=9", "each once"),
        ("nodes=eight", "`nodes` is a whole number, but got 'eight'"),
        ("nodes=0", "`nodes >= 1` must hold, but got 0"),
        ("nodes=8,price=-3", "`price` is a number, but got '-3'"),
        ("gpus=4", "how many nodes there are"),
    ]:
        with pytest.raises(InputError, match=message):
            parse_cluster(text)
