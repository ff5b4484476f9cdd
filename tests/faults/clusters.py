"""A Ray cluster of processes that we start and may kill: nodes on this machine, under a token."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import fault_sweeps

from bnsweep.store.store import Store
from bnsweep.sweep.ray_settings import HEALTH


def wait_until(true: Callable[[], object], timeout_s: float, what: str) -> float:
    """Seconds until `true()`; an AssertionError that says what did not happen."""
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < timeout_s, f"after {timeout_s:.0f} s: {what}"
        time.sleep(0.2)
    return time.monotonic() - begin


def workers(store: Path) -> set[int]:
    """Process numbers of those who scored rows."""
    if not Store.exists(str(store)):
        return set()
    names = Store.open(store).read("trials", columns=["worker"])["worker"].unique().to_pylist()
    return {int(name.rpartition(":")[2]) for name in names}


def descendants(pid: int) -> list[int]:
    """A process of ours and all that came from it."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process of ours and all that came from it."""
    for pid in descendants(process.pid) if process.poll() is None else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


class Cluster:
    """A head and nodes, each a `ray start --block` with a process tree of its own."""

    def __init__(self, folder: Path, *, head_cpus: int = 0, **extra: str) -> None:
        self.folder = folder
        fault_sweeps.write_networks(folder)
        self.temp = Path(tempfile.mkdtemp(prefix="bns", dir="/tmp"))  # short: Ray puts sockets in it
        self.token = secrets.token_hex(32)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.nodes: list[subprocess.Popen[str]] = []
        role = ["--head", f"--port={self.port}", f"--temp-dir={self.temp}", "--include-dashboard=false"]
        self.head = self._start(role, cpus=head_cpus, **extra)
        wait_until(lambda: self.alive() == 1, 120, "the head is up")

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in reversed(self.nodes):
            kill_tree(node)
        shutil.rmtree(self.temp, ignore_errors=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def environment(self, **extra: str) -> dict[str, str]:
        ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0"}
        ray["RAY_raylet_start_wait_time_s"] = "120"  # a busy machine is no fault
        return fault_sweeps.environment(self.folder, **{**ray, **HEALTH, **extra})

    def add(self, *, cpus: int = 1, **extra: str) -> subprocess.Popen[str]:
        return self._start([f"--address={self.address}"], cpus=cpus, **extra)

    def _start(self, role: list[str], *, cpus: int, **extra: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, "--block", f"--num-cpus={cpus}"]
        words += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--disable-usage-stats"]
        with (self.folder / f"node{len(self.nodes)}.log").open("w") as log:
            node = subprocess.Popen(words, stdout=log, stderr=log, text=True, env=self.environment(**extra))
        self.nodes.append(node)
        return node

    def alive(self) -> int:
        """How many nodes the cluster believes to be alive."""
        words = [sys.executable, "-c", ALIVE, self.address]
        done = subprocess.run(words, capture_output=True, text=True, env=self.environment(), timeout=60, check=False)
        return len(done.stdout.split())


ALIVE = """
import sys
from ray._private.state import GlobalState
from ray._raylet import GcsClientOptions
state = GlobalState()
state._initialize_global_state(GcsClientOptions.create(sys.argv[1], None, allow_cluster_id_nil=True,
                                                       fetch_cluster_id_if_nil=False))
print(*[node["NodeManagerAddress"] for node in state.node_table() if node["Alive"]])
"""
