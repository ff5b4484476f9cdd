"""Containers without a container engine: each a host of its own, with its own processes, files and shared memory.

A container here is a network namespace of `tests/faults/hosts.py` with namespaces for processes, mounts and the host's
name on top. It runs, as uid 1000 and without capabilities, exactly the command that the image and Compose would: the
entry point, environment and working folder of the Dockerfile, the command, volumes and shared memory of the service.
The file system is this machine's, so that no image needs to be built; /srv and /tmp are the container's own, and gone
with it. What the image installs is the virtual environment that runs the tests.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import hosts
from config import ROOT

OURS = "/srv/bnsweep/entrypoint"
# Process number 1, as `init: true` gives it: passes signals on and buries the processes that lost their parent.
INIT = """
import os, signal, sys
child = os.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: os.kill(child, number))
while True:
    ended, status = os.wait()
    if ended == child:
        sys.exit(os.waitstatus_to_exitcode(status) & 255)
"""
# A container has its processors for itself; here other work must not come before that of Ray's workers (15 elsewhere).
BUSY = {"RAY_worker_niceness": "0"}


def missing() -> str | None:
    """Why containers cannot be made here; None if they can."""
    if reason := hosts.missing():
        return reason
    for name in ("unshare", "nsenter", "setpriv"):
        if shutil.which(name) is None:
            return f"needs {name} (util-linux)"
    probe = ["unshare", "--mount", "--pid", "--uts", "--fork", "--mount-proc", "mount", "-t", "tmpfs", "tmpfs", "/srv"]
    made = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"cannot make namespaces: {made.stderr.strip()}" if made.returncode else None


@dataclass(frozen=True)
class Image:
    """What the Dockerfile says of a container."""

    entrypoint: list[str]
    environment: dict[str, str]
    folder: str

    @classmethod
    def read(cls) -> Image:
        text = re.sub(r"\\\n", " ", (ROOT / "cluster" / "Dockerfile").read_text())
        lines = [line.split(None, 1) for line in text.splitlines() if re.match(r"[A-Z]+ ", line)]
        environment: dict[str, str] = {}
        for word, rest in lines:
            if word == "ENV":
                environment |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        last = dict(lines)
        return cls(json.loads(last["ENTRYPOINT"]), environment, last["WORKDIR"])


@dataclass
class Container:
    """One of them. `process` is `unshare`; its only child is the container's process number 1."""

    name: str
    number: int
    argv: list[str]
    log: Path
    environment: dict[str, str]
    folder: str

    def start(self) -> None:
        """Run what it is there for; once more, if that has ended."""
        with self.log.open("a") as stream:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, text=True
            )

    @property
    def first(self) -> int:
        """The number of its process 1, as seen from outside."""
        children: list[str] = []
        while not children:
            assert self.process.poll() is None, f"{self.name} has ended:\n{self.text()}"
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def text(self) -> str:
        return self.log.read_text()

    def ready(self) -> bool:
        """Whether its files are in place, so that commands can be run inside."""
        return self.run("test", "-e", "/srv/.ready").returncode == 0

    def command(self, words: Iterable[str], **extra: str) -> list[str]:
        """How to run a command inside, as `docker exec` does."""
        inside = ["nsenter", "--target", str(self.first), "--mount", "--uts", "--ipc", "--net", "--pid", "--"]
        there = ["sh", "-c", 'cd "$0" && exec "$@"', self.folder]
        return [*inside, *there, *unprivileged({**self.environment, **extra}), *words]

    def run(self, *words: str, timeout_s: float = 60, **extra: str) -> subprocess.CompletedProcess[str]:
        done = self.command(words, **extra)
        return subprocess.run(done, capture_output=True, text=True, check=False, timeout=timeout_s)


def unprivileged(environment: dict[str, str]) -> list[str]:
    user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]
    return [*user, "env", "-i", *(f"{name}={value}" for name, value in environment.items())]


@dataclass
class Engine:
    """Makes containers on hosts of their own that know one another's names; ends them all."""

    folder: Path
    image: Image = field(default_factory=Image.read)

    def __post_init__(self) -> None:
        self.hosts = hosts.Hosts(self.folder, {})
        self.names = self.folder / "hosts"
        self.names.write_text("127.0.0.1 localhost\n")
        self.containers: list[Container] = []

    def __enter__(self) -> Engine:
        self.hosts.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hosts.__exit__(kind, error, trace)
        for container in self.containers:
            container.process.wait()

    def volume(self, name: str) -> Path:
        """An empty volume belongs to the user of the image."""
        path = self.folder / "volumes" / name
        if not path.exists():
            path.mkdir(parents=True)
            os.chown(path, 1000, 1000)
        return path

    def start(
        self,
        name: str,
        words: list[str],
        *,
        environment: dict[str, str],
        mounts: Iterable[tuple[Path, str, bool]] = (),
        shm_bytes: int = 64 << 20,
        ours: bool = True,
    ) -> Container:
        """Run `words` in a new container; `mounts` are (path here, path there, read-only)."""
        number = self.hosts.add()
        with self.names.open("a") as stream:
            stream.write(f"{self.hosts.address(number)} {name}\n")
        path = f"/srv/bin:{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        whole = {"PATH": path, "HOME": "/srv/home", **BUSY, **(self.image.environment if ours else {}), **environment}
        script = self._prepare(name, mounts, shm_bytes)
        run = shlex.join([*unprivileged(whole), sys.executable, "-c", INIT, *words])
        folder = self.image.folder if ours else "/"
        inside = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]
        argv = ["ip", "netns", "exec", self.hosts.names[-1], *inside, f"{script}\ncd {folder}\nexec {run}"]
        container = Container(name, number, argv, self.folder / f"{number}-{name}.log", whole, folder)
        container.start()
        self.containers.append(container)
        return container

    def _prepare(self, name: str, mounts: Iterable[tuple[Path, str, bool]], shm_bytes: int) -> str:
        """The container's files, as a shell script that runs before anything of ours does."""
        lines = ["set -e", f"hostname {name}", "mount -t tmpfs -o mode=755 tmpfs /srv", "mkdir /srv/.keep"]
        lines.append(f"mkdir -p {Path(OURS).parent} && cp {ROOT}/cluster/entrypoint {OURS} && chmod 755 {OURS}")
        lines.append(f"mount --bind {shlex.quote(str(self.names))} /etc/hosts")
        # All names are in there. A name server that cannot be reached would be waited for.
        lines.append("mount --bind /dev/null /etc/resolv.conf")
        for source, target, read_only in mounts:
            lines.append(f"mkdir -p {target} && mount --bind {shlex.quote(str(source))} {target}")
            lines += [f"mount -o remount,bind,ro {target}"] * read_only
        # Packages of a virtual environment may be shared from another, whose programs are not on the path.
        for program, module in (("ray", "ray.scripts.scripts"), ("bnsweep", "bnsweep")):
            call = shlex.quote(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
            lines.append(f"mkdir -p /srv/bin && printf %s {call} >/srv/bin/{program} && chmod 755 /srv/bin/{program}")
        lines.append(f"mkdir /srv/ray && mount --bind {self.volume(f'ray-{name}')} /srv/ray")  # its logs outlive it
        for folder in ("home", "sweeps"):
            lines.append(f"[ -e /srv/{folder} ] || {{ mkdir /srv/{folder} && chown 1000 /srv/{folder}; }}")
        # The virtual environment must be readable for uid 1000, wherever it lies: what hides it is covered.
        covered: dict[str, list[str]] = {"/tmp": []}
        for path in needed():
            top = f"/{path.parts[1]}"
            if top == "/tmp" or any(not parent.stat().st_mode & 0o001 for parent in path.parents):
                covered.setdefault(top, []).append(str(path))
        for number, path in enumerate(path for paths in covered.values() for path in paths):
            lines.append(f"mkdir /srv/.keep/{number} && mount --bind {path} /srv/.keep/{number}")
        number = 0
        for top, paths in covered.items():
            lines.append(f"mount -t tmpfs -o mode={'1777' if top == '/tmp' else '755'} tmpfs {top}")
            for path in paths:
                lines.append(f"mkdir -p {path} && mount --bind /srv/.keep/{number} {path}")
                number += 1
        lines.append(f"mount -t tmpfs -o size={shm_bytes},mode=1777 tmpfs /dev/shm")
        lines.append("touch /srv/.ready")
        return "\n".join(lines)


def needed() -> list[Path]:
    """The folders that hold this repository, its Python and its packages; none inside another."""
    paths = {ROOT, *(Path(name).resolve() for name in (sys.prefix, sys.base_prefix, *sys.path) if Path(name).is_dir())}
    return sorted(path for path in paths if not any(parent in paths for parent in path.parents))


class Compose:
    """`docker compose up`, `ps` and `run`, for what `docker compose config` says."""

    def __init__(self, engine: Engine, config: dict[str, Any]) -> None:
        self.engine = engine
        self.services = config["services"]
        self.running: dict[str, list[Container]] = {}
        self.done: dict[str, int] = {}

    def up(self, *names: str, scale: dict[str, int] | None = None, stand_ins: dict[str, list[str]]) -> None:
        """Start services and what they wait for. `stand_ins` are commands for images that are not ours."""
        for name in names:
            if name in self.running:
                continue
            service = self.services[name]
            for other, needed in (service.get("depends_on") or {}).items():
                self.up(other, scale=scale, stand_ins=stand_ins)
                self.wait(other, needed["condition"])
            self.running[name] = []
            count = (scale or {}).get(name, 1)
            for number in range(1, count + 1):
                host = name if count == 1 else f"{name}-{number}"
                self.running[name].append(self.start(name, host=host, stand_in=stand_ins.get(name)))

    def start(
        self, name: str, *arguments: str, host: str | None = None, stand_in: list[str] | None = None
    ) -> Container:
        service = self.services[name]
        ours = service.get("build") is not None
        words = [
            *(service["entrypoint"] or self.engine.image.entrypoint),
            *(arguments or service["command"] or ()),
        ]
        mounts = []
        for volume in service.get("volumes", []):
            bind = volume["type"] == "bind"
            source = Path(volume["source"]) if bind else self.engine.volume(volume["source"])
            mounts.append(
                (source, volume["target"] if ours else f"/srv{volume['target']}", bool(volume.get("read_only")))
            )
        return self.engine.start(
            host or f"{name}-{secrets.token_hex(3)}",
            stand_in or words,
            environment=dict(service.get("environment") or {}),
            mounts=mounts,
            shm_bytes=int(service.get("shm_size", 64 << 20)),
            ours=ours,
        )

    def run(self, name: str, *arguments: str, timeout_s: float = 300) -> tuple[int, str]:
        """`docker compose run --rm NAME ARGUMENTS`: exit code and what it printed."""
        container = self.start(name, *arguments)
        code = container.process.wait(timeout=timeout_s)
        return code, container.text()

    def wait(self, name: str, condition: str, timeout_s: float = 400) -> None:
        """Until a service is done, or well; one that ends is started again if `restart` says so."""
        until = time.monotonic() + timeout_s
        for container in self.running[name]:
            if condition == "service_completed_successfully":
                code = container.process.wait(timeout=timeout_s)
                assert code == 0, f"{name} ended with {code}:\n{container.text()}"
                continue
            assert condition == "service_healthy"
            while not self.healthy(name, container):
                assert time.monotonic() < until, f"{name} is not well:\n{container.text()}"
                if container.process.poll() is not None:
                    assert self.services[name].get("restart") == "unless-stopped", f"{name} ended:\n{container.text()}"
                    container.start()
                time.sleep(0.5)

    def healthy(self, name: str, container: Container) -> bool:
        """What the health check says, or for a stand-in whether its port is open."""
        service = self.services[name]
        if container.process.poll() is not None:
            return False
        if service.get("build") is None:
            port = next(word.partition("=")[2] for word in service["command"] if word.startswith("-s3.port="))
            probe = "import socket, sys; socket.create_connection(('localhost', int(sys.argv[1])), 2)"
            return container.run(sys.executable, "-c", probe, port).returncode == 0
        kind, *words = service["healthcheck"]["test"]
        assert kind == "CMD"
        return container.run(*words).returncode == 0
