"""cluster/slurm.sbatch, run by a `srun` and a `scontrol` of our own on hosts of their own: real Ray, a real sweep.

`srun` inside a container cannot reach the others, so it writes down what it is to run; the test runs it on every host,
as slurmd would, and hands the exit code back.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra ray")

import containers
import fault_sweeps
from clusters import wait_until

from bnsweep.experiment.reading import read_spec
from bnsweep.launch import Launch, launch
from bnsweep.store.store import Store

REASON = containers.missing()
NODES = 2
SPEC = """\
name: slurm
data: {source: digits, train_images: 200, test_images: 100}
models: 'import:fault_networks:slow'
placements: [all, none]
train_seeds: 1
training: {epochs: 2, batch_size: 50, chance_epochs: null}
noise: {targets: [weights, all]}
eta: [0, 0.1, 0.3]
trials: 60
"""
SRUN = """\
#!/bin/sh
step=$(mktemp -d /srv/slurm/step.XXXXXX)
python -c 'import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))' "$@" >"$step/asked"
mv "$step/asked" "$step/ready"
while [ ! -f "$step/code" ]; do sleep 0.1; done
exit "$(cat "$step/code")"
"""
SCONTROL = """\
#!/bin/sh
case $1 in
show) echo "$3" | tr , '\\n' ;;
requeue) echo "$2" >>/srv/slurm/requeued ;;
esac
"""


class Slurm:
    """What is left of Slurm: nodes, and someone who runs steps on them."""

    def __init__(self, engine: containers.Engine, folder: Path) -> None:
        self.shared = engine.volume("slurm")
        home = engine.volume("home")  # what all nodes share
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            path = self.shared / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            path.chmod(0o755)
        mounts = [(self.shared, "/srv/slurm", False), (home, "/srv/shared", False)]
        self.nodes = [
            engine.start(
                f"node{number}", ["sleep", "infinity"], environment={}, mounts=mounts, ours=False, shm_bytes=1 << 28
            )
            for number in range(1, NODES + 1)
        ]
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Slurm:
        for node in self.nodes:
            wait_until(node.ready, 60, f"{node.name} is up")
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()

    def batch(self, script: Path, log: Path) -> subprocess.Popen[str]:
        """Start the script on the first node, with what Slurm tells it."""
        environment = {
            "PATH": "/srv/slurm/bin:" + self.nodes[0].environment["PATH"],
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": ",".join(node.name for node in self.nodes),
            "SLURM_JOB_NUM_NODES": str(NODES),
            "SLURM_CPUS_PER_TASK": "1",
            "VENV": "/nonexistent",  # what it would bring is on the path
            "PYTHONPATH": "/srv/shared",
            "OMP_NUM_THREADS": "1",
            "FAULT_WAIT_S": "0.05",
            "RAY_raylet_start_wait_time_s": "120",
        }
        words = self.nodes[0].command(["bash", str(script)], **environment)
        with log.open("a") as stream:
            return subprocess.Popen(words, stdout=stream, stderr=stream, text=True)

    def _serve(self) -> None:
        running: dict[Path, list[subprocess.Popen[str]]] = {}
        while not self.ended.is_set():
            for ready in self.shared.glob("step.*/ready"):
                words, environment = json.loads(ready.read_text())
                words = [word for word in words if not re.match(r"--(ntasks-per-node)=", word)]
                running[ready.parent] = []
                for node in self.nodes:
                    log = self.shared / f"{node.name}.log"
                    with log.open("a") as stream:
                        running[ready.parent].append(
                            subprocess.Popen(
                                node.command(words, **environment), stdout=stream, stderr=stream, text=True
                            )
                        )
                ready.rename(ready.parent / "running")
            for step, processes in list(running.items()):
                codes = [process.poll() for process in processes]
                if None not in codes:
                    (step / "code.new").write_text(str(max(codes)))  # as srun does
                    (step / "code.new").rename(step / "code")
                    del running[step]
            time.sleep(0.1)


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.skipif(not os.environ.get("BNSWEEP_FAULTS"), reason="starts two clusters: set BNSWEEP_FAULTS=1")
@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_a_job_that_is_stopped_at_its_limit_and_requeued_gives_a_laptops_rows(tmp_path: Path) -> None:
    with containers.Engine(tmp_path) as engine, Slurm(engine, tmp_path) as slurm:
        home = engine.volume("home")
        shutil.copy(Path(fault_sweeps.__file__).parent / "fault_networks.py", home)
        (home / "slurm.yaml").write_text(SPEC)
        parsed, text = read_spec(home / "slurm.yaml")
        wanted = Launch(parsed, text, Path("/srv/shared/slurm.yaml"), nodes=NODES, cpus=1, store="/srv/shared/store")
        (home / "job.sbatch").write_text(launch("slurm", wanted))

        log = tmp_path / "batch.log"
        script, store = Path("/srv/shared/job.sbatch"), home / "store"
        try:
            job = slurm.batch(script, log)
            wait_until(
                lambda: Store.exists(str(store)) and Store.open(str(store)).rows("trials") > 0, 200, "rows have landed"
            )
            (bash,) = [pid for pid in engine.hosts.pids(slurm.nodes[0].number) if is_batch(pid)]
            os.kill(bash, signal.SIGUSR1)  # --signal=B:USR1: to the script alone
            assert job.wait(timeout=120) == 0
            before = Store.open(str(store)).rows("trials")
            assert 0 < before < 2 * 2 * (1 + 2 * 60)
            assert (slurm.shared / "requeued").read_text().split() == ["4711"]
            assert not [pid for node in slurm.nodes for pid in engine.hosts.pids(node.number) if is_ray(pid)]

            again = slurm.batch(script, log)
            assert again.wait(timeout=300) == 0
        except BaseException:
            for path in (log, *sorted(slurm.shared.glob("*.log"))):
                print(f"== {path.name}\n{path.read_text()[-3000:]}")
            raise
        assert (slurm.shared / "requeued").read_text().split() == ["4711"], "a job that is done stays done"
        assert {worker.partition(":")[0] for worker in workers(store)} == {node.name for node in slurm.nodes}

    laptop = tmp_path / "laptop"
    words = [
        sys.executable,
        "-m",
        "bnsweep",
        "run",
        home / "slurm.yaml",
        "--store",
        laptop,
        "--engine",
        "inline",
        "--quiet",
    ]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": str(home), "OMP_NUM_THREADS": "1"})
    expected = fault_sweeps.all_rows(laptop)
    assert fault_sweeps.all_rows(store) == expected
    assert fault_sweeps.parted_rows(store) == sum(map(len, expected.values())), "each row is there once"


def workers(store: Path) -> set[str]:
    found: set[str] = set(Store.open(str(store)).read("trials", columns=["worker"])["worker"].unique().to_pylist())
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def is_batch(pid: int) -> bool:
    return command_line(pid).startswith("bash /srv/shared/job.sbatch")


def is_ray(pid: int) -> bool:
    return "raylet" in command_line(pid) or "gcs_server" in command_line(pid)
