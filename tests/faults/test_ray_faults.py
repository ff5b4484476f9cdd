"""Faults of a Ray cluster, really injected: processes, nodes and the head killed, disks and buckets that fail.

Each of them ends with the rows of a sweep that nobody disturbed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fault_sweeps
import pytest
from buckets import ACCOUNT, moto, new_bucket, proxy_before
from fault_sweeps import slow

pytest.importorskip("ray", reason="needs the extra ray")

import clusters
from clusters import Cluster, wait_until, workers
from disks import end_by
from readers import Reader
from shared_cluster import SharedCluster, add_node
from small_disks import mounted

from bnsweep.service.jobs import Jobs
from bnsweep.service.records import Records
from bnsweep.store.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def cluster(shared_cluster: SharedCluster) -> Cluster:
    return shared_cluster.ready()


@contextmanager
def driving(
    cluster: Cluster, spec: Path, store: Path, *options: object, **extra: str
) -> Iterator[subprocess.Popen[str]]:
    """A driver on the cluster, ended with the block."""
    words = fault_sweeps.command(spec, store, "--engine", "ray", "--address", cluster.address, *options)
    with (spec.parent / "log").open("w") as log:
        driver = subprocess.Popen(words, stdout=log, stderr=log, env=cluster.environment(**extra))
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


def test_without_the_cluster_s_token_one_line_says_so(tmp_path: Path, cluster: Cluster) -> None:
    spec, store = tmp_path / "tiny.yaml", tmp_path / "store"
    spec.write_text(slow(4))
    without = cluster.environment(RAY_AUTH_MODE="disabled")
    del without["RAY_AUTH_TOKEN"]
    words = fault_sweeps.command(spec, store, "--engine", "ray", "--address", cluster.address)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    wrong = cluster.environment(RAY_AUTH_TOKEN="0" * 64)
    drivers = [
        subprocess.Popen([*words, "--store", f"{store}{number}"], env=env, **pipes)  # type: ignore[call-overload]
        for number, env in enumerate((without, wrong))
    ]
    for driver in drivers:
        _, stderr = driver.communicate(timeout=300)
        assert driver.returncode == 1
        assert stderr == (
            f"bnsweep: cannot reach the Ray cluster at {cluster.address}: it wants a token that we do not have: set "
            "RAY_AUTH_MODE=token, and the cluster's token as RAY_AUTH_TOKEN or in a file named by RAY_AUTH_TOKEN_PATH "
            "(--engine inline needs no cluster)\n"
        )


def test_a_cluster_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    spec = tmp_path / "tiny.yaml"
    spec.write_text(slow(4))
    options = ("--engine", "ray", "--address", "127.0.0.1:1")
    done = fault_sweeps.sweep(spec, tmp_path / "store", *options, env=fault_sweeps.environment())
    assert done.returncode == 1
    assert done.stderr.startswith("bnsweep: cannot reach the Ray cluster at 127.0.0.1:1: Connection refused. Is it up?")


def test_the_driver_then_a_worker_then_a_whole_node_killed_in_the_middle_of_a_block(
    tmp_path: Path, cluster: Cluster
) -> None:
    text = slow(30)
    spec, store = tmp_path / "tiny.yaml", tmp_path / "store"
    spec.write_text(text)
    first = cluster.nodes[-1]
    with driving(cluster, spec, store) as driver:
        wait_until(lambda: workers(store), 300, "a worker has scored rows")
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
    killed = workers(store)  # Ray ends what a dead driver has left
    with driving(cluster, spec, store) as driver:
        # A worker that has scored rows and has more blocks queued is in the middle of one.
        wait_until(lambda: workers(store) - killed, 300, "a worker of the next driver has scored rows")
        (worker,) = workers(store) - killed
        killed.add(worker)
        assert worker in clusters.descendants(first.pid)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: workers(store) - killed, 300, "another worker has scored rows")
        clusters.kill_tree(first)
        add_node(cluster)
        assert driver.wait(timeout=400) == 0, (tmp_path / "log").read_text()
    fault_sweeps.holds_exactly(store, text)
    assert killed < workers(store)


def test_without_a_node_that_can_work_a_sweep_says_so_and_goes_on_when_one_joins(tmp_path: Path) -> None:
    spec, store = tmp_path / "tiny.yaml", tmp_path / "store"
    spec.write_text(slow(4))
    asked = r"`resources\.train` asks for cpu: 1, gpu: 0"
    with Cluster(tmp_path) as cluster:
        wait = ("--address", cluster.address, "--wait-for-nodes", "3")
        given_up = (
            rf"for \d+ s no node was up that can do the work: {asked}\. What has landed is kept; start such nodes, or "
            "ask for less, then run again to go on"
        )
        for what, said in giving_up(tmp_path, cluster, wait).items():
            assert re.search(rf"^bnsweep: {given_up}$", said, re.M), f"{what}: {said}"
        job = Jobs(Records(Store.open(tmp_path / "job").files)).get("tiny", 1)
        assert job is not None
        assert (job.state, bool(re.fullmatch(given_up, job.message))) == ("failed", True), job
        with driving(cluster, spec, store) as driver:
            wait_until(
                lambda: "no node is up" in (tmp_path / "log").read_text(), 300, "the driver says what it waits for"
            )
            cluster.add(cpus=1)
            assert driver.wait(timeout=400) == 0, (tmp_path / "log").read_text()
    said = (tmp_path / "log").read_text()
    assert re.search(rf"^bnsweep: no node is up that can do the work: {asked}\. .*--wait-for-nodes", said, re.M), said
    assert "bnsweep: a node is up again: the sweep goes on" in said
    fault_sweeps.holds_exactly(store, slow(4))


def giving_up(folder: Path, cluster: Cluster, options: tuple[str, ...]) -> dict[str, str]:
    """What a sweep, a search and a service's job say on a cluster of a head alone, at the same time."""
    spec, search = folder / "tiny.yaml", folder / "search.yaml"
    search.write_text(f"{fault_sweeps.TINY.replace('placements: [all, none]', '')}search: {{trainings: 10}}\n")
    Jobs(Records(Store.open_or_create(str(folder / "job")).files)).submit("tiny", fault_sweeps.TINY, by="ada", limit=1)
    commands = {"run": ["run", spec], "search": ["search", search], "job": ["job", "tiny", "1"]}
    begun = {
        what: subprocess.Popen(
            [sys.executable, "-m", "bnsweep", *map(str, words), "--store", str(folder / what), *options],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=cluster.environment(),
        )
        for what, words in commands.items()
    }  # fmt: skip
    said = {what: process.communicate(timeout=240)[0] for what, process in begun.items()}
    assert {process.returncode for process in begun.values()} == {1}, said
    return said


def test_a_disk_that_fills_up_or_becomes_read_only_ends_the_run_and_the_next_one_goes_on(tmp_path: Path) -> None:
    text = slow(30)
    spec = tmp_path / "tiny.yaml"
    spec.write_text(text)
    # A cluster of its own: a node under a memory limit has its own view of mounts, without disks that came later.
    with mounted(tmp_path / "disk", "16m") as disk, Cluster(tmp_path, head_cpus=1, FAULT_WAIT_S="0.1") as cluster:
        store = disk / "store"
        words = fault_sweeps.command(spec, store, "--engine", "ray", "--address", cluster.address)
        for fault in ("full", "read-only"):
            end_by(fault, disk, words, cluster.environment())
            assert 0 < Store.open(store).rows("trials") < len(fault_sweeps.undisturbed(text)["trials"])
        code, output = fault_sweeps.inline(spec, store)
        assert code == 0, output
        fault_sweeps.holds_exactly(store, text)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")
def test_a_sweep_into_a_failing_object_store_beside_a_reader(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("boto3", reason="needs the extra s3")
    pytest.importorskip("moto.server", reason="needs moto[server]")
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)
    text = slow(15)
    spec = tmp_path / "tiny.yaml"
    spec.write_text(text)
    with moto() as port, proxy_before(port) as proxy:
        location = new_bucket(proxy)
        proxy.storm = 0.05
        options = ("--engine", "ray", "--address", cluster.address)
        with Reader(location) as reader:
            done = fault_sweeps.sweep(spec, location, *options, env=cluster.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        proxy.storm = 0
        reader.check()
        assert proxy.injected > 0
        fault_sweeps.holds_exactly(location, text)


def test_after_a_dead_head_the_same_command_on_a_new_cluster_goes_on(tmp_path: Path, cluster: Cluster) -> None:
    text = slow(40)
    spec, store = tmp_path / "tiny.yaml", tmp_path / "store"
    spec.write_text(text)
    # Ray's own time, which the cluster of these tests has shortened: by then the driver has said its word.
    with driving(cluster, spec, store, RAY_gcs_rpc_server_reconnect_timeout_s="60") as driver:
        wait_until(lambda: workers(store), 300, "rows have landed")
        clusters.kill_tree(cluster.head)
        begin = time.monotonic()
        code = driver.wait(timeout=150)
    took_s = time.monotonic() - begin
    said = (tmp_path / "log").read_text()
    assert code == 1, said
    assert took_s < 50, f"Ray itself ends the driver after 60 s, this took {took_s:.0f}"
    assert re.fullmatch(
        rf"bnsweep: the head of the Ray cluster at \S+:{cluster.port} has not answered for 2\d s \(Connection refused\)"
        r"\. What has landed is kept; start a cluster, then run the same command again",
        said.strip().splitlines()[-1],
    ), said
    assert 0 < Store.open(store).rows("trials") < len(fault_sweeps.undisturbed(text)["trials"])
    done = fault_sweeps.sweep(spec, store, "--engine", "ray", "--cpus", 1, env=fault_sweeps.environment())
    assert done.returncode == 0, done.stderr
    fault_sweeps.holds_exactly(store, text)
