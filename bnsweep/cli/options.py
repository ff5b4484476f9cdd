"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from bnsweep.errors import InputError
from bnsweep.paths import home_expanded

__all__ = [
    "LocalPath",
    "check_engine",
    "data_option",
    "engine_options",
    "json_option",
    "part_option",
    "source_option",
    "store_option",
    "sweep_option",
    "wait_option",
]


class LocalPath(click.Path):
    """A path on this machine, as `Path`; a URL is refused, of which pathlib would make a folder `s3:`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        if "://" in str(value):
            self.fail(f"this is written to this machine, but got a URL, {str(value)!r}: give a path", param, ctx)
        return super().convert(value, param, ctx)


store_option = click.option(
    "--store",
    "location",
    default="bnsweep-store",
    show_default=True,
    envvar="BNSWEEP_STORE",
    show_envvar=True,
    help="Where rows and networks are kept: a directory or an object store's URL.",
)
data_option = click.option(
    "--data-root",
    type=LocalPath(),
    callback=lambda _context, _option, value: home_expanded(value),
    default=Path("~/.cache/bnsweep"),
    show_default=True,
    envvar="BNSWEEP_DATA",
    show_envvar=True,
    help="Where torchvision's data sets lie or are downloaded to.",
)
source_option = click.option(
    "--data", "source", default=None, metavar="SOURCE", help="Take the spec's images from here, e.g. parquet:DIRECTORY."
)
wait_option = click.option(
    "--wait-for-nodes",
    "patience_s",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=None,
    help="Give up when no node of the Ray cluster has been able to do any of the work for so long; default: wait.",
)

ENGINE = (
    click.option(
        "--engine",
        type=click.Choice(["auto", "ray", "inline"]),
        default="auto",
        show_default=True,
        help="What does the work: Ray, or a plain loop in this process (inline); auto: Ray where it is installed.",
    ),
    click.option("--address", default=None, help="An existing Ray cluster, host:port; default: start one here."),
    click.option("--cpus", type=click.IntRange(1), default=None, help="Cores of the local Ray cluster; default: all."),
    click.option("--retry-failed", is_flag=True, help="Do what failed before once more."),
    click.option("--take-over", is_flag=True, help="Write to the store although another driver holds it: it is dead."),
    wait_option,
)


def engine_options(command: Any) -> Any:
    """How work is done: where, what of it again, and for how long it waits for nodes."""
    for option in reversed(ENGINE):
        command = option(command)
    return command


def check_engine(engine: str, *, address: str | None, cpus: int | None, patience_s: float | None) -> None:
    """Refuse what the inline engine has no use for. Raises InputError."""
    if engine == "inline" and (address or cpus or patience_s is not None):
        raise InputError("--address, --cpus and --wait-for-nodes are for Ray, but --engine inline uses none")


def _part(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """K/N as (K, N)."""
    if value is None:
        return None
    number, _slash, parts = value.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise click.BadParameter(f"a part is K/N with 1 <= K <= N, such as 3/16, but got {value!r}")
    return int(number), int(parts)


part_option = click.option(
    "--part",
    callback=_part,
    default=None,
    metavar="K/N",
    help="Only every N-th training run from the K-th on, in a store of its own: see `bnsweep store merge`.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
sweep_option = click.option("--sweep", default=None, help="Only this sweep; default: all in the store.")
