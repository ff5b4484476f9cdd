"""The command spec: ready sweep files, and what can stand in one."""

from __future__ import annotations

import click

from bnsweep.cli.common import print_json
from bnsweep.cli.options import json_option
from bnsweep.errors import InputError, UnknownNameError

__all__ = ["spec"]


@click.command()
@click.argument("name", required=False)
@click.option(
    "--keys",
    "key",
    is_flag=False,
    flag_value="",
    metavar="[KEY]",
    help="What can stand in a sweep file: each key with what it takes, its default and its meaning; of one, "
    "e.g. training or training.schedule, with the keys below it.",
)
@json_option
def spec(name: str | None, key: str | None, as_json: bool) -> None:
    """List the ready sweeps and searches; with NAME, print one to begin your own with.

    `bnsweep spec quickstart > mine.yaml` writes it to a file.
    """
    if name and (key is not None or as_json):
        raise InputError("with NAME a file is printed as it is: without --keys and --json")
    if name:
        _print_file(name)
    elif key is not None:
        _print_keys(key, as_json=as_json)
    else:
        _print_ready(as_json=as_json)


def _print_file(name: str) -> None:
    from bnsweep.experiment.files import read_text, ready_specs

    if name not in (ready := ready_specs()):
        raise UnknownNameError("ready sweep", name, ready)
    click.echo(read_text(ready[name]), nl=False)


def _print_keys(key: str, *, as_json: bool) -> None:
    from bnsweep.experiment.keys import keys, keys_named

    found = keys_named(key) if key else keys()
    if as_json:
        print_json([each.to_dict() for each in found])
        return
    for each in found:
        default = "  (required)" if each.required else "" if each.default is None else f": {each.default}"
        click.echo(f"{each.name}{default}\n    {each.takes}\n    {each.meaning}")


def _print_ready(*, as_json: bool) -> None:
    from bnsweep.experiment.files import ready_specs
    from bnsweep.experiment.reading import read_spec

    found = {name: read_spec(path)[0].description for name, path in ready_specs().items()}
    if as_json:
        print_json(found)
        return
    width = max(map(len, found))
    for name, description in found.items():
        click.echo(f"{name.ljust(width)}  {description}")
