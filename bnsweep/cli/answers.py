"""Commands that answer from rows: query, report, claims."""

from __future__ import annotations

from pathlib import Path

import click

from bnsweep.cli.common import database_of, deliver, open_store, parameters_of, print_json, writing
from bnsweep.cli.options import json_option, store_option, sweep_option
from bnsweep.cli.service import client_of, or_server_options
from bnsweep.errors import InputError

__all__ = ["claims", "query", "report"]

NO_SWEEP_OF_THE_PAPER = "the paper's tables know no sweeps: leave out --sweep or --paper"


@click.command()
@click.argument("name", required=False)
@store_option
@sweep_option
@click.option("--sql", default=None, help="Your own SELECT instead of a named query.")
@click.option("--paper", is_flag=True, help="Ask the paper's own tables instead of a store.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter of the query; repeatable.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "csv", "json", "latex", "parquet"]),
    default="text",
    show_default=True,
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Write to this file.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option("--show-sql", is_flag=True, help="Print the query's SQL and do not run it.")
@or_server_options
def query(
    name: str | None,
    location: str,
    sweep: str | None,
    sql: str | None,
    paper: bool,
    params: tuple[str, ...],
    form: str,
    out: Path | None,
    as_json: bool,
    show_sql: bool,
    server: str | None,
    token: str | None,
) -> None:
    """Ask a question: a named query, or SQL of your own.

    Without NAME, list the questions.
    """
    from bnsweep.analysis.database import QUERIES, open_paper

    if name is None and sql is None:
        width = max(map(len, QUERIES))
        for each in QUERIES.values():
            click.echo(f"{each.name:<{width}}  {each.question}")
        return
    if name is not None and sql is not None:
        raise InputError("give either the NAME of a query or --sql, not both")
    if sql is not None and params:
        raise InputError("--param is for a named query, but got --sql; write the value into the SQL")
    if paper and sweep is not None:
        raise InputError(NO_SWEEP_OF_THE_PAPER)
    if sql is not None and sweep is not None and server and not paper:
        raise InputError("a service answers --sql over all its sweeps; instead of --sweep, filter by the column sweep")
    if show_sql and name is not None:
        from bnsweep.analysis.database import find_query

        click.echo(find_query(name).sql)
        return
    parameters = parameters_of(params)
    if server and not paper:
        client = client_of(server, token)
        result = (
            client.result(str(sql)) if sql is not None else client.result(name=str(name), sweep=sweep, **parameters)
        )
    else:
        database = open_paper() if paper else database_of(open_store(location), sweep)
        result = database.sql(sql) if sql is not None else database.query(str(name), **parameters)
    deliver(result, "json" if as_json else form, out)


@click.command()
@store_option
@sweep_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("report.html"), show_default=True)
@click.option("--figures", type=click.Path(path_type=Path, file_okay=False), default=None, help="Also PDF, SVG, PNG.")
def report(location: str, sweep: str | None, out: Path, figures: Path | None) -> None:
    """Write one self-contained HTML file with every table, chart and verdict."""
    from bnsweep.analysis.report import write_figures, write_report

    database = database_of(open_store(location), sweep)
    with writing(out):
        write_report(database, out)
    click.echo(f"report: {out}")
    if figures:
        with writing(figures):
            for path in write_figures(database, figures):
                click.echo(f"figure: {path}")


@click.command()
@store_option
@sweep_option
@click.option("--paper", is_flag=True, help="Judge by the paper's own tables.")
@json_option
def claims(location: str, sweep: str | None, paper: bool, as_json: bool) -> None:
    """Judge the paper's claims by the rows: supported, contradicted or undecided."""
    from bnsweep.analysis.claims import judge
    from bnsweep.analysis.database import open_paper

    if paper and sweep is not None:
        raise InputError(NO_SWEEP_OF_THE_PAPER)
    verdicts = judge(open_paper() if paper else database_of(open_store(location), sweep))
    if as_json:
        print_json([verdict.to_dict() for verdict in verdicts])
        return
    for verdict in verdicts:
        click.echo(verdict.to_text())
