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


class MemoryLimit:
    """A control group of our own, which a Ray node takes for its machine: the way a container limits memory."""

    ROOT = Path("/sys/fs/cgroup/memory")

    def __init__(self, limit_bytes: int) -> None:
        self.group = self.ROOT / f"bns-{secrets.token_hex(3)}"
        self.group.mkdir()
        (self.group / "memory.limit_in_bytes").write_text(str(limit_bytes))

    @classmethod
    def missing(cls) -> str | None:
        """Why memory cannot be limited here; None if it can."""
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            return "needs root and unshare (util-linux): a mount namespace"
        try:
            cls(1 << 30).remove()
        except OSError as error:
            return f"needs a memory controller (cgroup v1) that can be written: {error}"
        return None

    def inside(self, words: list[str]) -> list[str]:
        """A command in the group, for which the group is all that it sees of its machine's memory."""
        script = f'echo $$ > {self.group}/cgroup.procs && mount --bind {self.group} {self.ROOT} && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, "sh", *words]

    def remove(self) -> None:
        """End what is left in the group (a node that ended by itself leaves its agents behind), then the group."""
        for _ in range(50):  # a process that was killed leaves its group a moment later
            for pid in (self.group / "cgroup.procs").read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                self.group.rmdir()
            except OSError:
                time.sleep(0.1)
                continue
            return
        self.group.rmdir()


class Cluster:
    """A head and nodes, each a `ray start --block` with a process tree of its own."""

    def __init__(self, folder: Path, *, head_cpus: int = 0, **extra: str) -> None:
        self.folder = folder
        self.limits: list[MemoryLimit] = []
        self.temp = Path(tempfile.mkdtemp(prefix="bns", dir="/tmp"))  # short: Ray puts sockets in it
        self.token = secrets.token_hex(32)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.nodes: list[subprocess.Popen[str]] = []
        role = ["--head", f"--port={self.port}", f"--temp-dir={self.temp}", "--include-dashboard=false"]
        self.head = self._start(role, cpus=head_cpus, **extra)
        try:
            self.wait_for(self.head)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in reversed(self.nodes):
            kill_tree(node)
        for limit in self.limits:
            limit.remove()
        shutil.rmtree(self.temp, ignore_errors=True)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def environment(self, **extra: str) -> dict[str, str]:
        ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0"}
        ray["RAY_raylet_start_wait_time_s"] = "120"  # a busy machine is no fault
        ray["RAY_worker_niceness"] = "0"  # not 15: nor must its other work come first
        ray["RAY_gcs_rpc_server_reconnect_timeout_s"] = "10"  # not 60 until a driver believes that the head is dead
        return fault_sweeps.environment(**{**ray, **HEALTH, **extra})

    def add(self, *, cpus: int = 1, memory_bytes: int | None = None, **extra: str) -> subprocess.Popen[str]:
        """One more node, up when this returns."""
        limit = None if memory_bytes is None else MemoryLimit(memory_bytes)
        self.limits += [limit] if limit else []
        node = self._start([f"--address={self.address}"], cpus=cpus, limit=limit, **extra)
        self.wait_for(node)
        return node

    def wait_for(self, node: subprocess.Popen[str]) -> None:
        """Until the node has joined, as its own log says."""
        log = self.folder / f"node{self.nodes.index(node)}.log"
        wait_until(lambda: node.poll() is not None or "Ray runtime started" in log.read_text(), 300, "a node is up")
        assert node.poll() is None, log.read_text()

    def _start(
        self, role: list[str], *, cpus: int, limit: MemoryLimit | None = None, **extra: str
    ) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, "--block", f"--num-cpus={cpus}"]
        words += ["--node-ip-address=127.0.0.1", "--object-store-memory=100000000", "--disable-usage-stats"]
        words = limit.inside(words) if limit else words
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
