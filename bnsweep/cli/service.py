"""Commands about the service: serve, token, submit, cancel."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnsweep.cli.common import print_json, print_table
from bnsweep.cli.options import data_option, json_option, store_option
from bnsweep.errors import BnsweepError, InputError
from bnsweep.paths import home_expanded

if TYPE_CHECKING:
    from bnsweep.service.audit import Audit
    from bnsweep.service.auth import Tokens
    from bnsweep.service.client import Client
    from bnsweep.service.records import Records
    from bnsweep.store.claim import Holder

__all__ = ["cancel", "client_of", "or_server_options", "serve", "server_options", "submit", "token"]

SERVER = "Address of a service, e.g. http://host:8000."
_token = click.option("--token", envvar="BNSWEEP_TOKEN", default=None, help="Your token; better in BNSWEEP_TOKEN.")


def server_options(function: Any) -> Any:
    """--server and --token, for commands that work on a service alone."""
    return click.option("--server", envvar="BNSWEEP_SERVER", default=None, help=SERVER)(_token(function))


def or_server_options(function: Any) -> Any:
    """--server and --token, for commands that look into a store unless told otherwise."""
    return click.option("--server", default=None, help=f"Ask a service instead of a store. {SERVER}")(_token(function))


def client_of(server: str | None, given: str | None) -> Client:
    """A client. Raises InputError without an address."""
    try:
        from bnsweep.service.client import Client
    except ImportError as error:
        raise BnsweepError(
            f"this needs the service's packages ({error.name}): pip install 'bnsweep[service]'"
        ) from None
    if not server:
        raise InputError("--server says where the service is, e.g. --server http://localhost:8000")
    return Client(server, token=given)


@click.command()
@store_option
@data_option
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Where to listen; beyond loopback only with tokens."
)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option(
    "--address",
    default=None,
    metavar="URL",
    help="Run sweeps as Ray Jobs there: a cluster's dashboard, http://HEAD:8265; HEAD:6379 stands for it.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "ray", "inline"]),
    default="auto",
    show_default=True,
    help="Of sweeps and searches.",
)
@click.option("--cpus", type=click.IntRange(1), default=None, help="Cores of this machine's Ray cluster; default: all.")
@click.option(
    "--data-dir", "folders", multiple=True, type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Images here may be named by submitted sweeps (parquet:, folder:); repeatable.",
)  # fmt: skip
@click.option(
    "--setting", "settings", multiple=True, type=(str, float), metavar="NAME VALUE", help="See --help-settings."
)
@click.option("--stop", is_flag=True, help="End the Ray cluster that a service has left on this machine, and stop.")
@click.option("--help-settings", is_flag=True, help="List the settings and stop.")
def serve(
    location: str, data_root: Path, host: str, port: int, stop: bool, help_settings: bool, **options: Any
) -> None:
    """Start the web service: submit, watch, ask, share.

    Submitted sweeps run as Ray Jobs: of the cluster at --address, or of one on this machine that starts with the first
    job. That one listens on loopback only, goes on while the service is down, and ends when neither a service nor a job
    needs it, or with --stop.
    """
    from importlib.util import find_spec

    from bnsweep.service.settings import SETTINGS

    if help_settings:
        for each in SETTINGS:
            click.echo(f"{each.name:<22}{each.default:>12,.12g}  {each.meaning}")
        return
    for package in ("fastapi", "uvicorn", "httpx", "python_multipart"):
        if find_spec(package) is None:
            raise BnsweepError(f"{package} is not installed: pip install 'bnsweep[service]'")
    from bnsweep.service.server import run_server, stop_cluster

    if stop:
        click.echo(stop_cluster(location))
        return

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    run_server(
        location,
        data_root=data_root,
        host=host,
        port=port,
        ray_token=_ray_token() if options["address"] else "",
        say=lambda line: click.echo(line, err=True),
        **options,
    )


def _ray_token() -> str:
    """The cluster's token, from where Ray looks for it; empty: none."""
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given
    path = home_expanded(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"))
    return path.read_text(encoding="ascii").strip() if path.is_file() else ""


@click.group()
def token() -> None:
    """Who may use the service: tokens of a store."""


@token.command()
@click.argument("name", default=lambda: _myself().user)
@click.option("--role", type=click.Choice(["viewer", "runner", "admin"]), required=True)
@store_option
def create(name: str, role: str, location: str) -> None:
    """Make a token for NAME (default: you). It is shown once; the store keeps only its digest.

    An empty store is made if there is none yet.
    """
    from bnsweep.service.auth import Role
    from bnsweep.store.store import Store

    if Store.open_existing(location) is None:
        click.echo(
            f"There was no store at {location}: an empty one is made, for `bnsweep serve --store` there.", err=True
        )
        Store.open_or_create(location)
    text = _tokens(location).create(name, Role.parse(role))
    _audit(location).add(_me(), "token made", name=name, role=role)
    click.echo(text)
    click.echo(f"This is {name}'s {role} token. It is shown only here; keep it like a password.", err=True)
    _say_no_admin(location)


@token.command()
@store_option
@json_option
def ls(location: str, as_json: bool) -> None:
    """List tokens: whose, which role, since when."""
    rows = [
        {"id": t.id, "name": t.name, "role": t.role.label, "created": t.created, "revoked": t.revoked or "-"}
        for t in _tokens(location).list()
    ]
    if as_json:
        print_json(rows)
    elif rows:
        print_table(rows)
    else:
        click.echo("There is no token: the service answers on its own machine only.")
    _say_no_admin(location)


@token.command()
@click.argument("which")
@store_option
def revoke(which: str, location: str) -> None:
    """Make a token worthless, by its id or its user's name."""
    revoked = _tokens(location).revoke(which)
    _audit(location).add(_me(), "token revoked", name=revoked.name, id=revoked.id)
    click.echo(f"revoked: {revoked.id} ({revoked.name}, {revoked.role.label})")
    _say_no_admin(location)


def _tokens(location: str) -> Tokens:
    from bnsweep.service.auth import Tokens

    return Tokens(_records(location))


def _say_no_admin(location: str) -> None:
    from bnsweep.service.auth import NO_ADMIN

    if _tokens(location).lack_an_admin():
        click.echo(f"bnsweep: {NO_ADMIN.format(shlex.quote(location))}", err=True)


def _audit(location: str) -> Audit:
    from bnsweep.service.audit import Audit

    return Audit(_records(location))


def _records(location: str) -> Records:
    from bnsweep.service.records import Records
    from bnsweep.store.store import Store

    return Records(Store.open(location).files)


def _me() -> str:
    """Who is at the command line, which asks for no token: whoever can write to the store."""
    me = _myself()
    return f"{me.user} on {me.host}"


def _myself() -> Holder:
    from bnsweep.store.claim import Holder

    return Holder.me()


@click.command()
@click.argument("spec")
@server_options
@click.option("--retry-failed", is_flag=True, help="Do what failed before once more.")
@click.option("--minimal", is_flag=True, help="Of a search: find the fewest BN layers that converge.")
@click.option("--wait", is_flag=True, help="Wait until it has ended; exit code 1 unless it is done.")
@json_option
def submit(
    spec: str,
    server: str | None,
    token: str | None,
    retry_failed: bool,
    minimal: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Have a service run a sweep or a search. SPEC is a YAML file or the name of a ready one."""
    from bnsweep.experiment.reading import read_spec

    client = client_of(server, token)
    _, text = read_spec(spec)
    job = client.submit(text, retry_failed=retry_failed, minimal=minimal)
    if wait:
        job = client.wait(job["sweep"])
    if as_json:
        print_json(job)
    else:
        click.echo(f"{job['id']}: {job['state']}. {client.page(job['sweep'])}")
    if wait and job["state"] != "done":
        raise BnsweepError(job.get("message") or f"sweep {job['sweep']} is {job['state']}")


@click.command()
@click.argument("sweep")
@server_options
def cancel(sweep: str, server: str | None, token: str | None) -> None:
    """Have a service stop a sweep; every finished block is kept."""
    job = client_of(server, token).cancel(sweep)
    click.echo(f"{job['id']}: {job['state']}")
