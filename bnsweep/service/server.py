"""Start the service: where it listens, what it works with."""

from __future__ import annotations

import errno
import shlex
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from bnsweep.errors import BnsweepError
from bnsweep.service.app import make_app
from bnsweep.service.audit import Audit
from bnsweep.service.auth import NO_ADMIN, Tokens
from bnsweep.service.checks import Planner
from bnsweep.service.cluster import Cluster, Head, LocalCluster, RemoteCluster, dashboard
from bnsweep.service.console import Console
from bnsweep.service.dispatcher import Dispatcher
from bnsweep.service.guard import is_loopback
from bnsweep.service.hub import Hub
from bnsweep.service.jobs import Jobs
from bnsweep.service.launcher import Launcher
from bnsweep.service.overview import Overview
from bnsweep.service.records import Records
from bnsweep.service.rows import Rows
from bnsweep.service.settings import Settings
from bnsweep.store.filesystem import LocalFiles
from bnsweep.store.store import Store

__all__ = ["make_hub", "run_server", "stop_cluster"]

LOOPBACK = "127.0.0.1"
GRACE_S = 5


def run_server(
    location: str,
    *,
    data_root: Path,
    host: str,
    port: int,
    address: str | None,
    ray_token: str,
    engine: str,
    cpus: int | None,
    folders: Sequence[Path],
    settings: Sequence[tuple[str, float]],
    say: Callable[[str], None],
) -> None:
    """Serve until interrupted. Raises BnsweepError if the port is taken."""
    values = Settings(settings)
    store = Store.open_or_create(location)
    tokens = Tokens(Records(store.files))
    if not tokens.list() and not is_loopback(host):
        say(
            f"No token was ever made for {store.location}: listening on {LOOPBACK} only, not on {host}. "
            "Make one with `bnsweep token create NAME --role admin`, then start the service again."
        )
        host = LOOPBACK
    elif not tokens.list():
        say("No token was ever made: everybody on this machine is admin, and nobody else is let in.")
    elif tokens.lack_an_admin():
        say(NO_ADMIN.format(shlex.quote(location)))
    hub = make_hub(
        store, tokens, data_root=data_root, address=address, ray_token=ray_token, engine=engine, cpus=cpus,
        folders=folders, settings=values, loopback=is_loopback(host),
    )  # fmt: skip
    if isinstance(hub.launcher.cluster, LocalCluster):
        hub.launcher.cluster.hold()
    listening = _listen(host, port)
    name, number = listening.getsockname()[:2]
    say(f"bnsweep serves {store.location} at http://{f'[{name}]' if ':' in name else name}:{number}")
    config = uvicorn.Config(
        make_app(hub), log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE_S
    )
    uvicorn.Server(config).run(sockets=[listening])


def stop_cluster(location: str) -> str:
    """End the Ray cluster of this machine that a service over this store has left; what was done.

    Raises NoStoreError, InputError if a service is running, EngineError.
    """
    if LocalCluster(Store.open(location).files).stop():
        return "The Ray cluster has ended. A sweep that it was running goes on with the next `bnsweep serve`."
    return "There is no Ray cluster of this store's on this machine."


def make_hub(
    store: Store,
    tokens: Tokens,
    *,
    data_root: Path,
    address: str | None = None,
    ray_token: str = "",
    engine: str = "auto",
    cpus: int | None = None,
    folders: Sequence[Path] = (),
    settings: Settings,
    loopback: bool,
) -> Hub:
    """The parts of the service over a store; nothing runs yet."""
    records = Records(store.files)
    jobs, rows = Jobs(records), Rows(store.location)
    location = str(Path(store.files.root).resolve()) if isinstance(store.files, LocalFiles) else store.location
    options = ["--store", location, "--data-root", str(data_root.resolve()), "--engine", engine]
    options += ["--wait-for-nodes", f"{settings['nodes_wait_s']:g}"]
    options += [word for folder in folders for word in ("--data-dir", str(folder.resolve()))]
    if address:
        cluster: Cluster = RemoteCluster(Head(dashboard(address), ray_token))
        launcher = Launcher(cluster, options=options)
        where = f"Sweeps run on the Ray cluster at {address}."
    else:
        cluster = LocalCluster(store.files, cpus=cpus)
        launcher = Launcher(cluster, options=options, python=sys.executable)
        where = cluster.missing or "Sweeps run on this machine, as Ray Jobs."
    return Hub(
        store=store, settings=settings, tokens=tokens, audit=Audit(records), jobs=jobs, rows=rows,
        overview=Overview(store, jobs, rows),
        planner=Planner(store.location, data_root), console=Console(settings), launcher=launcher,
        dispatcher=Dispatcher(jobs, launcher), folders=tuple(folders), where=where, loopback=loopback,
    )  # fmt: skip


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return _bound(socket.socket(family, socket.SOCK_STREAM), host, port)
    except OSError as error:
        option = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise BnsweepError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another {option}"
        ) from None
    except UnicodeError as error:  # no name of a machine: a part of it is empty, or too long
        raise BnsweepError(f"cannot listen on {host}:{port}: {error}; choose another --host") from None


def _bound(listening: socket.socket, host: str, port: int) -> socket.socket:
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(512)
    except OSError:
        listening.close()
        raise
    return listening
