"""A real service over a real store, as other processes see it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

from bnsweep.service.auth import NEWS_S, Role, Tokens
from bnsweep.service.cluster import LocalCluster
from bnsweep.service.records import Records
from bnsweep.store.store import Store

TINY = """\
name: tiny
data: {source: digits, train_images: 200, test_images: 100}
models: resnet8
placements: [all, none]
train_seeds: 2
training: {epochs: 2, batch_size: 50, chance_epochs: null}
noise: {targets: [weights, all]}
eta: [0, 0.1, 0.3]
trials: 4
"""
# What the store of conftest.py holds, for synthetic.tables().
SWEEPS = {
    "synthetic": {"trials": 4},
    "again": {"sweep": "again", "models": ("resnet8",), "trials": 5, "failures": False},
    "once": {"sweep": "once", "models": ("resnet8",), "trials": 3, "seeds": 1, "failures": False},
}


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}


def bnsweep(*arguments, **more):
    command = [sys.executable, "-m", "bnsweep", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env={**environment(), **more}
    )


def wait_until(true, timeout_s=120, every_s=0.2):
    deadline = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(every_s)
    return found


def make_tokens(store):
    """One token per role; the text of each."""
    tokens = Tokens(Records(Store.open_or_create(store).files))
    return {role.label: tokens.create(role.label, role) for role in Role}


@contextmanager
def service(store, *options, log=None, **more):
    """`bnsweep serve` on a free port; its address. Ended with SIGTERM, and its cluster too. `more`: its environment."""
    served = Served(store, options, Path(log or f"{store}.log"), more)
    served.start()
    try:
        yield served
    finally:
        if served.process.poll() is None:
            served.process.terminate()
            served.process.wait(timeout=30)
        cluster = LocalCluster(Store.open(store).files)
        if not cluster.is_served():  # by another service over this store
            cluster.stop()


class Served:
    """Where it is, and its process."""

    def __init__(self, store, options, log, environment):
        self.log, self._port, self._environment = log, 0, environment
        self._command = [sys.executable, "-m", "bnsweep", "serve", "--store", str(store), "--engine", "inline"]
        self._command += map(str, options)

    def start(self):
        """Start it, or start it again at the same address."""
        with self.log.open("ab") as sink:
            begin = sink.tell()
            command = [*self._command, "--port", str(self._port)]
            process = subprocess.Popen(command, stdout=sink, stderr=sink, env={**environment(), **self._environment})

        def said():
            assert process.poll() is None, self.log.read_text()
            return re.search(r" at (http://\S+)", self.log.read_bytes()[begin:].decode())

        self.process = process
        self.address = wait_until(said).group(1)
        self._port = int(self.address.rpartition(":")[2])
        wait_until(lambda: httpx.get(f"{self.address}/healthz", timeout=30).status_code == 200)

    def kill(self):
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def client(self, token=None, **options):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.address, headers=headers, timeout=60, **options)


def children(pid):
    """Processes below a process: their command lines by id."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found, new = {}, {pid}
    while new := {child for child, parent in parents.items() if parent in new and child not in found}:
        for child in new:
            found[child] = _words(child)
    return found


def _words(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def make_other(store):
    """One more runner's token, once a service that has just looked for tokens looks again."""
    token = Tokens(Records(Store.open(store).files)).create("stranger", Role.RUNNER)
    time.sleep(2 * NEWS_S)
    return token
