"""Nodes that say they have a GPU and have none: what Ray is asked for, and who is avoided."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra ray")

import ray
import torch
from ray._private import auto_init_hook
from ray.cluster_utils import Cluster
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from bnsweep.errors import GpuLostError, InputError
from bnsweep.experiment.reading import parse_spec
from bnsweep.experiment.resources import Resource
from bnsweep.store.store import Store
from bnsweep.sweep.driver import Driver
from bnsweep.sweep.progress import Silent
from bnsweep.sweep.tasks import Scored, TrialTask
from bnsweep.training.datasets import Dataset, load_dataset
from tests.bench.blocks import trained_sweep

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.skipif(torch.cuda.is_available(), reason="these nodes must have no GPU"),
    pytest.mark.filterwarnings("ignore"),  # Ray's own, about processes that it ends
]

PATIENCE_S = 240.0
SPEC = """\
name: lost
data: {source: digits, train_images: 100, test_images: 50}
models: resnet8
placements: none
train_seeds: 1
training: {epochs: 1, batch_size: 50, chance_epochs: null}
eta: [0, 0.1]
trials: 4
resources: {train: {gpu: TRAIN}, trial: {gpu: TRIAL}}
"""


# On a busy machine processes of Ray's are slow, and no less alive for it: by itself Ray gives a worker 60 s to begin,
# and a node half a minute to answer.
UNHURRIED = {
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_worker_register_timeout_seconds": "240",
    "RAY_health_check_failure_threshold": "20",
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    monkeypatch = pytest.MonkeyPatch()
    before = dict(os.environ)
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", **UNHURRIED)
    # Ray reads RAY_ENABLE_AUTO_CONNECT when it is imported, here by pytest. Without this, whatever of Tune is collected
    # after a test's `ray.shutdown` connects anew, and the next test's `ray.init` finds another cluster than its own.
    monkeypatch.setattr(auto_init_hook, "enable_auto_connect", False)
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "object_store_memory": 10**8})
    for devices, kind in (("3", "A100"), ("5", "L4")):
        made.add_node(
            num_cpus=1, num_gpus=1, resources={f"accelerator_type:{kind}": 1}, object_store_memory=10**8,
            env_vars={"CUDA_VISIBLE_DEVICES": devices},
        )  # fmt: skip
    try:
        yield made
    finally:
        made.shutdown()
        monkeypatch.undo()
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize(("train", "trial"), [("0", "0.25"), ("0.5", "0")])
def test_a_node_without_its_gpu_is_left_for_another_and_no_task_is_blamed(
    cluster: Cluster, run: Callable[..., object], tmp_path: Path, train: str, trial: str
) -> None:
    what = "trial" if train == "0" else "train"
    text = SPEC.replace("TRAIN", train).replace("TRIAL", trial)
    with pytest.raises(GpuLostError, match=f"no node with a GPU for `resources.{what}` has one that works") as caught:
        run(text, tmp_path / "store", engine="ray", address=cluster.address, patience_s=PATIENCE_S)
    # Each node was tried, once, with the device that Ray gave: one of those that the node was started with.
    for device in ("3", "5"):
        assert str(caught.value).count(f"this process sees no GPU (CUDA_VISIBLE_DEVICES={device})") == 1
    store = Store.open(str(tmp_path / "store"))
    assert store.rows("failures") == 0
    assert [row["status"] for row in store.read("runs").to_pylist()] == (["finished"] if train == "0" else [])


def test_a_search_leaves_such_nodes_too(cluster: Cluster, tmp_path: Path) -> None:
    from bnsweep.sweep.search.run import run_search

    text = SPEC.replace("TRAIN", "0.5").replace("TRIAL", "0.25") + "search: {trainings: 12}\n"
    with pytest.raises(GpuLostError, match="no node with a GPU for `resources.train` has one that works") as caught:
        run_search(
            parse_spec(text), str(tmp_path / "store"), text=text, address=cluster.address, patience_s=PATIENCE_S,
            data_root=tmp_path, told=print,
        )  # fmt: skip
    for device in ("3", "5"):
        assert str(caught.value).count(f"this process sees no GPU (CUDA_VISIBLE_DEVICES={device})") == 1
    store = Store.open(str(tmp_path / "store"))
    assert (store.rows("failures"), store.rows("runs")) == (0, 0)
    assert store.rows("proposals") > 0


def test_a_driver_that_leaves_a_cluster_leaves_no_block_at_work(cluster: Cluster, tmp_path: Path) -> None:
    from bnsweep.sweep.ray_engine import RayEngine

    plan, store = trained_sweep(tmp_path / "store", 10)
    (run,) = plan.runs
    beats = tmp_path / "beats"

    def score(task: TrialTask, dataset: Dataset) -> Scored:
        while True:
            beats.write_text(str(time.monotonic()))
            time.sleep(0.05)

    class Leaving(Silent):
        def tick(self) -> None:
            if beats.exists():
                raise KeyboardInterrupt

    with store.claim():
        datasets = {run.fingerprint: lambda: load_dataset(run.data, root=tmp_path)}
        driver = Driver(plan, store, datasets=datasets, listener=Leaving())
        assert driver.run(RayEngine(store, address=cluster.address, score=score)).interrupted
    time.sleep(2)
    last = beats.read_text()
    time.sleep(1)
    assert beats.read_text() == last


def test_tasks_and_placement_groups_go_where_they_should(cluster: Cluster) -> None:
    from bnsweep.sweep.ray_nodes import Nodes, resources_of

    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    try:
        ids = {
            name: next(node["NodeID"] for node in ray.nodes() if f"accelerator_type:{name}" in node["Resources"])
            for name in ("A100", "L4")
        }
        nodes = Nodes()
        any_gpu, a100 = Resource(gpu=0.25), Resource(gpu=1, accelerator="A100")

        def task(resource: Resource) -> str:
            taken = resources_of(resource)
            amounts = {"num_cpus": taken.pop("CPU"), "num_gpus": taken.pop("GPU"), "resources": taken}
            remote = where.options(**amounts, label_selector=nodes.selector(resource))
            return str(ray.get(remote.remote(), timeout=PATIENCE_S))

        def bundle(resource: Resource) -> str:
            selector = nodes.selector(resource)
            group = placement_group([resources_of(resource)], bundle_label_selector=[selector] if selector else None)
            strategy = PlacementGroupSchedulingStrategy(placement_group=group)
            found = ray.get(where.options(num_cpus=0, scheduling_strategy=strategy).remote(), timeout=PATIENCE_S)
            remove_placement_group(group)
            return str(found)

        assert task(a100) == bundle(a100) == ids["A100"]
        nodes.avoid(ids["A100"], "gone")
        assert task(any_gpu) == bundle(any_gpu) == ids["L4"]
        nodes.check_fits(any_gpu, "trial")
        nodes.check_fits(Resource(), "trial")  # work without a GPU avoids nobody
        assert nodes.selector(Resource()) == {}
        with pytest.raises(
            GpuLostError, match=rf"no node with a GPU for `resources.train`.*\n.*{ids['A100'][:8]}\): gone"
        ):
            nodes.check_fits(a100, "train")
        with pytest.raises(InputError, match=r"accelerator: H200, but no node has more .* \(of type: A100, L4\)"):
            nodes.check_fits(Resource(gpu=1, accelerator="H200"), "train")
        with pytest.raises(InputError, match=r"asks for cpu: 1, gpu: 2, but no node has more than 1 CPUs and 1 GPUs\."):
            nodes.check_fits(Resource(gpu=2), "train")
    finally:
        ray.shutdown()


def test_four_runs_share_a_gpu_and_a_fifth_waits(cluster: Cluster) -> None:
    from bnsweep.sweep.ray_nodes import Nodes, resources_of

    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    groups = []
    try:
        quarter = Resource(cpu=0.2, gpu=0.25, accelerator="A100")
        Nodes().check_fits(quarter, "train")
        groups = [placement_group([resources_of(quarter)]) for _ in range(5)]
        ready = {group.ready(): group for group in groups}
        done, _ = ray.wait(list(ready), num_returns=4, timeout=PATIENCE_S)
        more, waits = ray.wait(list(ready), num_returns=5, timeout=2)
        assert len(done) == len(more) == 4, "the node has cores for five, and a GPU for four"
        there, fifth = [ready[ref] for ref in more], ready[waits[0]]
        seen = ray.get([devices.options(**inside(group, quarter)).remote() for group in there], timeout=PATIENCE_S)
        assert seen == ["3"] * 4, "all four have the device that the node was started with"
        remove_placement_group(there[0])
        assert fifth.wait(PATIENCE_S), "its turn comes when one has ended"
    finally:
        for group in groups:
            remove_placement_group(group)
        ray.shutdown()


def inside(group: PlacementGroup, resource: Resource) -> dict[str, object]:
    strategy = PlacementGroupSchedulingStrategy(placement_group=group)
    return {"num_cpus": resource.cpu, "num_gpus": resource.gpu, "scheduling_strategy": strategy}


@ray.remote(max_calls=0)  # type: ignore[untyped-decorator]
def devices() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@ray.remote  # type: ignore[untyped-decorator]
def where() -> str:
    return str(ray.get_runtime_context().get_node_id())
