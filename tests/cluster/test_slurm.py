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
from bnsweep.store.verify import verify

REASON = containers.missing()
NODES = 3
TRIALS = 60
SPEC = fault_sweeps.slow(TRIALS).replace("[all, none]", "[all]")
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
        self.processes: list[subprocess.Popen[str]] = []  # the batch script, and tasks of steps
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
        for process in self.processes:  # what they started inside ends with the nodes
            process.kill()
            process.wait()

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
        return self._start(self.nodes[0], ["bash", str(script)], environment, log)

    def _serve(self) -> None:
        running: dict[Path, list[subprocess.Popen[str]]] = {}
        while not self.ended.is_set():
            for ready in self.shared.glob("step.*/ready"):
                words, environment = json.loads(ready.read_text())
                words = [word for word in words if not re.match(r"--(ntasks-per-node)=", word)]
                running[ready.parent] = [
                    self._task(node, words, {**environment, "SLURM_NODEID": str(number)})
                    for number, node in enumerate(self.nodes)
                ]
                ready.rename(ready.parent / "running")
            for step, processes in list(running.items()):
                codes = [process.poll() for process in processes]
                if None not in codes:
                    (step / "code.new").write_text(str(max(codes)))  # as srun does
                    (step / "code.new").rename(step / "code")
                    del running[step]
            time.sleep(0.1)

    def _task(self, node: containers.Container, words: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        if environment["SLURM_NODEID"] != "0":
            # How long a node waits for a head that has stopped: 60 s, which this test has no need of, twice. The head's
            # own `symmetric-run` must outlive `ray stop`, and keeps them.
            environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "5"
        return self._start(node, words, environment, self.shared / f"{node.name}.log")

    def _start(
        self, node: containers.Container, words: list[str], environment: dict[str, str], log: Path
    ) -> subprocess.Popen[str]:
        with log.open("a") as stream:
            process = subprocess.Popen(node.command(words, **environment), stdout=stream, stderr=stream, text=True)
        self.processes.append(process)
        return process


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_a_job_that_is_stopped_at_its_limit_and_requeued_gives_a_laptops_rows(tmp_path: Path) -> None:
    with containers.Engine(tmp_path) as engine, Slurm(engine, tmp_path) as slurm:
        home, store = engine.volume("home"), engine.volume("home") / "store"
        shutil.copy(Path(fault_sweeps.__file__).parent / "fault_networks.py", home)
        # The network is trained, and has a trial of each kind: what nodes that train would add here is time.
        (home / "slurm.yaml").write_text(SPEC.replace(f"trials: {TRIALS}", "trials: 1"))
        assert fault_sweeps.inline(home / "slurm.yaml", store)[0] == 0
        first = Store.open(store).rows("trials")
        for path in (store, *store.rglob("*")):
            os.chown(path, 1000, 1000)
        (home / "slurm.yaml").write_text(SPEC)
        parsed, text = read_spec(home / "slurm.yaml")
        wanted = Launch(parsed, text, Path("/srv/shared/slurm.yaml"), nodes=NODES, cpus=1, store="/srv/shared/store")
        (home / "job.sbatch").write_text(launch("slurm", wanted))

        log = tmp_path / "batch.log"
        script = Path("/srv/shared/job.sbatch")
        try:
            job = slurm.batch(script, log)
            wait_until(lambda: Store.open(store).rows("trials") > first, 200, "rows have landed")
            (bash,) = [pid for pid in engine.hosts.pids(slurm.nodes[0].number) if is_batch(pid)]
            os.kill(bash, signal.SIGUSR1)  # --signal=B:USR1: to the script alone
            assert job.wait(timeout=120) == 0
            assert first < Store.open(store).rows("trials") < 2 * (1 + 2 * TRIALS)
            assert (slurm.shared / "requeued").read_text().split() == ["4711"]
            assert not [pid for node in slurm.nodes for pid in engine.hosts.pids(node.number) if is_ray(pid)]

            again = slurm.batch(script, log)
            assert again.wait(timeout=300) == 0
        except BaseException:
            for path in (log, *sorted(slurm.shared.glob("*.log"))):
                print(f"== {path.name}\n{path.read_text()[-3000:]}")
            raise
        assert (slurm.shared / "requeued").read_text().split() == ["4711"], "a job that is done stays done"
        assert {worker.partition(":")[0] for worker in workers(store)} >= {node.name for node in slurm.nodes}

    laptop = fault_sweeps.undisturbed(SPEC)
    for table in ("runs", "epochs", "trials"):  # the others know of the two sizes that the sweep had
        assert fault_sweeps.rows(store, table) == laptop[table]
    assert verify(Store.open(store)).ok
    assert sum(part.rows for part in Store.open(store).parts("trials")) == len(laptop["trials"]), "each row once"


def workers(store: Path) -> set[str]:
    found: set[str] = set(Store.open(store).read("trials", columns=["worker"])["worker"].unique().to_pylist())
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
