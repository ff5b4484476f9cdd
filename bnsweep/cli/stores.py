"""Commands that look after a store: ls, verify, compact, merge, upgrade, export."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bnsweep.cli.common import database_of, open_store, print_json, print_table, writing
from bnsweep.cli.options import LocalPath, json_option, store_option, sweep_option
from bnsweep.errors import InputError

__all__ = ["store"]


@click.group()
def store() -> None:
    """Look after a store: ls, verify, compact, merge, export, upgrade."""


@store.command("ls")
@store_option
@json_option
def store_ls(location: str, as_json: bool) -> None:
    """List the store's tables and their size."""
    opened = open_store(location)
    rows = opened.summary()
    if as_json:
        print_json({"store": opened.location, "tables": rows})
    else:
        print_table(rows)


@store.command("verify")
@store_option
@click.option("--repair", is_flag=True, help="Quarantine bad parts, so that `run` does their work again.")
@json_option
def store_verify(location: str, repair: bool, as_json: bool) -> None:
    """Check every part's digest, duplicates, disagreements and what is missing."""
    from bnsweep.store.verify import verify_location

    outcome = verify_location(location, repair=repair)
    if as_json:
        print_json(outcome.to_dict())
    else:
        click.echo(str(outcome))
    sys.exit(0 if outcome.ok else 1)


@store.command("compact")
@store_option
def store_compact(location: str) -> None:
    """Merge small parts into large ones, while others read.

    Files that are replaced are deleted by a compaction that comes an hour later or more: readers may have them open.
    """
    from bnsweep.store.compact import compact

    click.echo(str(compact(open_store(location, writable=True))))


@store.command("merge")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@store_option
def store_merge(sources: tuple[str, ...], location: str) -> None:
    """Take the rows and networks of other stores, such as the parts of a sweep (`run --part`).

    The store is made if it is not there. What is in it stays as it is; the sources are only read, and may be given
    again. All of them are opened before anything is taken.
    """
    from bnsweep.store.merge import merge
    from bnsweep.store.store import Store

    opened = [open_store(source) for source in sources]
    target = Store.open_or_create(location)
    with target.claim():
        for source in opened:
            for line in merge(target, source).lines():
                click.echo(line)


@store.command("upgrade")
@store_option
def store_upgrade(location: str) -> None:
    """Rewrite a store of an older bnsweep in today's schema."""
    click.echo(f"{open_store(location).upgrade()} parts rewritten")


@store.command("export")
@click.argument("directory", type=LocalPath(file_okay=False))
@store_option
@sweep_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["parquet", "csv", "latex", "store"]),
    default="parquet",
    show_default=True,
    help="parquet, csv: all rows of all tables. latex: answers as tables for a paper. store: a small store to publish.",
)
@click.option("--query", "names", multiple=True, metavar="NAME", help="latex only: just this answer; repeatable.")
def store_export(directory: Path, location: str, sweep: str | None, form: str, names: tuple[str, ...]) -> None:
    """Copy rows or answers into DIRECTORY.

    parquet, csv and latex come with a provenance file: specs, versions, digests. A store has its own record of them.
    latex writes one booktabs tabular per named query (see `bnsweep query`) whose answer has at most 200 rows. store
    writes rows without networks, so that whoever has DIRECTORY can ask `bnsweep query --store DIRECTORY` the same;
    `store verify` will call the networks lost, and of the folders that images came from only the last name is told.
    With --sweep the rows are those that the sweep's newest version plans, also where another sweep asked for them
    first and is named in their column `sweep`.
    """
    from bnsweep.store.export import copy_rows, export

    opened = open_store(location)
    if form != "latex" and names:
        raise InputError(
            f"--query goes with --format latex, but got --format {form}: it holds rows, not answers; "
            "`bnsweep query NAME --out FILE.csv` writes one"
        )
    with writing(directory):
        if form == "latex":
            from bnsweep.analysis.export import export_latex

            with database_of(opened, sweep) as database:
                paths = export_latex(database, opened, directory, names=names)
        elif form == "store":
            paths = copy_rows(opened, directory, sweep=sweep)
        else:
            paths = export(opened, directory, format=form, sweep=sweep)
        for path in paths:
            click.echo(path)
