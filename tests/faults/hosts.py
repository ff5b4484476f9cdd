"""Several hosts on one machine: network namespaces joined to a bridge, a Ray node in each, and faults of whole hosts.

    python -m tests.faults.hosts                 with the settings of bnsweep/sweep/ray_settings.py
    python -m tests.faults.hosts --quick         with those of the test
    python -m tests.faults.hosts --ray-defaults  with Ray's own, to see what they cost

A namespace has its own addresses, routes and ports, so that Ray sees separate hosts; file system and processor are
shared, as with NFS in a laboratory. Everything lives in namespaces of our own, and deleting those deletes it all: the
machine's own network is not touched. Needs root and iproute2.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file

import fault_sweeps
from clusters import ALIVE, wait_until, workers

from bnsweep.store.store import Store
from bnsweep.sweep.ray_settings import HEALTH

PORT = 6379
RAY_DEFAULTS = {  # of Ray 2.60
    "RAY_grpc_client_keepalive_time_ms": "300000",
    "RAY_grpc_client_keepalive_timeout_ms": "120000",
    "RAY_health_check_period_ms": "3000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "5",
}
QUICK = {  # a quiet machine's tests need not wait as long as a laboratory should
    "RAY_grpc_client_keepalive_time_ms": "3000",
    "RAY_grpc_client_keepalive_timeout_ms": "6000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "4000",
    "RAY_health_check_failure_threshold": "3",
}
FREED_S = 90.0  # after which nothing may wait for a lost host

SPEC = fault_sweeps.slow(150)


def missing() -> str | None:
    """Why hosts cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "needs root: network namespaces"
    if shutil.which("ip") is None:
        return "needs iproute2 (apt-get install iproute2)"
    probe = f"bns-{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"cannot make network namespaces: {made.stderr.strip()}"
    inside = subprocess.run(["ip", "netns", "exec", probe, "true"], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", probe], check=True)
    return f"cannot enter network namespaces: {inside.stderr.strip()}" if inside.returncode else None


class Hosts:
    """A switch and numbered hosts 10.77.0.10, .11, ...; leaving the `with` block ends all processes and removes all."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.folder = folder
        self.settings = settings
        self.tag = f"bns-{secrets.token_hex(3)}"
        self.temp = Path(tempfile.mkdtemp(prefix="bns", dir="/tmp"))  # short: Ray puts sockets in it
        self.token = secrets.token_hex(32)
        self.names: list[str] = []
        self.processes: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Hosts:
        self.switch = self._namespace("sw")
        ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        ip("-n", self.switch, "link", "set", "br0", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self.names:
            with suppress(subprocess.CalledProcessError):
                self._kill_all(name)
                ip("netns", "del", name)
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.temp, ignore_errors=True)

    def add(self) -> int:
        """One more host; its number."""
        number = len(self.names) - 1
        name = self._namespace(f"h{number}")
        ip("-n", self.switch, "link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
        ip("-n", self.switch, "link", "set", f"port{number}", "master", "br0", "up")
        ip("-n", name, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "route", "add", "default", "via", "10.77.0.1")
        return number

    @staticmethod
    def address(number: int) -> str:
        return f"10.77.0.{10 + number}"

    @property
    def cluster(self) -> str:
        return f"{self.address(0)}:{PORT}"

    def environment(self, **extra: str) -> dict[str, str]:
        ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0"}
        ray["RAY_raylet_start_wait_time_s"] = "120"  # a busy machine is no fault
        ray["RAY_worker_niceness"] = "0"  # not 15: nor must its other work come first
        return fault_sweeps.environment(**ray, **self.settings, **extra)

    def start(self, number: int, words: list[str], **extra: str) -> subprocess.Popen[str]:
        """A process on a host; what it says goes to `log(number)`."""
        inside = ["ip", "netns", "exec", self._name(number), *words]
        with self.log(number).open("a") as log:
            process = subprocess.Popen(inside, stdout=log, stderr=log, text=True, env=self.environment(**extra))
        self.processes.append(process)
        return process

    def log(self, number: int) -> Path:
        return self.folder / f"host{number}.log"

    def start_ray(self, number: int, *, cpus: int, **extra: str) -> subprocess.Popen[str]:
        """A Ray node on a host: the first one is the head. It is up when `up(number)` says so."""
        role = [f"--address={self.cluster}"]
        if number == 0:
            role = ["--head", f"--port={PORT}", f"--temp-dir={self.temp}", "--include-dashboard=false"]
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, "--block", f"--num-cpus={cpus}"]
        words += [f"--node-ip-address={self.address(number)}", "--object-store-memory=100000000"]
        return self.start(number, [*words, "--disable-usage-stats"], **extra)

    def up(self, number: int) -> bool:
        """Whether the Ray node of a host has joined the cluster, as its own log says."""
        return self.log(number).exists() and "Ray runtime started" in self.log(number).read_text()

    def alive(self) -> list[str]:
        """Addresses of the nodes that the cluster believes to be alive."""
        words = [sys.executable, "-c", ALIVE, self.cluster]
        inside = ["ip", "netns", "exec", self._name(0), *words]
        done = subprocess.run(inside, capture_output=True, text=True, env=self.environment(), timeout=60, check=False)
        return done.stdout.split()

    def sees(self, number: int) -> bool:
        """Whether the cluster believes this host to be alive."""
        return self.address(number) in self.alive()

    def pids(self, number: int) -> set[int]:
        return set(map(int, ip("netns", "pids", self._name(number)).split()))

    def kill(self, number: int) -> None:
        """The power goes out: every process of the host ends at once, and its link with them."""
        ip("-n", self.switch, "link", "set", f"port{number}", "down")
        self._kill_all(self._name(number))

    def cut(self, number: int) -> None:
        """Someone pulls the cable: nobody hears of it, packets just no longer arrive."""
        ip("-n", self.switch, "link", "set", f"port{number}", "nomaster")

    def _name(self, number: int) -> str:
        return f"{self.tag}-h{number}"

    def _namespace(self, suffix: str) -> str:
        name = f"{self.tag}-{suffix}"
        ip("netns", "add", name)
        self.names.append(name)
        return name

    @staticmethod
    def _kill_all(name: str) -> None:
        for _ in range(50):
            pids = ip("netns", "pids", name).split()
            if not pids:
                return
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.1)


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
    return done.stdout


def lose_two_of_three(folder: Path, settings: dict[str, str] = HEALTH, *, limit_s: float = 240) -> dict[str, float]:
    """Kill one worker host, cut another's link, bring up a third; how long it took, and the rows compared."""
    spec, store = folder / "hosts.yaml", folder / "store"
    spec.write_text(SPEC)
    took: dict[str, float] = {}
    begin = time.monotonic()
    with Hosts(folder, settings) as hosts:
        for _ in range(4):
            hosts.add()
        hosts.start_ray(0, cpus=0)
        wait_until(lambda: hosts.up(0), 300, "the head is up")
        for number in (1, 2):  # one after the other: they share /tmp, where both would take the same socket's name
            hosts.start_ray(number, cpus=1, FAULT_WAIT_S="0.1")
            wait_until(partial(hosts.up, number), 120, f"host {number} is up")
        took["hosts up"] = time.monotonic() - begin
        words = fault_sweeps.command(spec, store, "--engine", "ray", "--address", hosts.cluster)
        driver = hosts.start(0, words)
        # Both hosts have scored rows, and more blocks are queued than they can hold: each is in the middle of one.
        wait_until(
            lambda: all(workers(store) & hosts.pids(number) for number in (1, 2)), 300, "both hosts have scored rows"
        )
        took["rows at the cut"] = Store.open(store).rows("trials")
        hosts.kill(1)
        hosts.cut(2)
        cut = time.monotonic()
        took["begin to cut"] = cut - begin
        hosts.start_ray(3, cpus=1)  # quick: what is left to wait for is the lost hosts' work
        third: set[int] = set()
        while driver.poll() is None and time.monotonic() - cut < limit_s:
            third |= hosts.pids(3)
            if "third host up after the cut" not in took and hosts.up(3):
                took["third host up after the cut"] = time.monotonic() - cut
            time.sleep(0.2)
        took["cut to end of sweep"] = time.monotonic() - cut
        assert driver.poll() is not None, f"the sweep still waits {limit_s:.0f} s after the cut"
        assert driver.returncode == 0, hosts.log(0).read_text()[-3000:]
        assert workers(store) & third, "the third host did nothing"
    fault_sweeps.holds_exactly(store, SPEC)
    took["rows"] = len(fault_sweeps.undisturbed(SPEC)["trials"])
    took["all"] = time.monotonic() - begin
    return took


def main() -> None:
    reason = missing()
    if reason:
        sys.exit(f"skipped: {reason}")
    settings = RAY_DEFAULTS if "--ray-defaults" in sys.argv else QUICK if "--quick" in sys.argv else HEALTH
    with tempfile.TemporaryDirectory(prefix="bnsweep-hosts-") as folder:
        took = lose_two_of_three(Path(folder), settings, limit_s=900)
    for name, value in took.items():
        print(f"{name:<28}{value:8.1f}")


if __name__ == "__main__":
    main()
