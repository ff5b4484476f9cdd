"""Commands that answer from rows: query, report, claims."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnsweep.cli.common import database_of, open_store, parameters_of, print_json, writing
from bnsweep.cli.delivery import ENDINGS, FORMS, deliver, form_of
from bnsweep.cli.options import LocalPath, json_option, store_option, sweep_option
from bnsweep.cli.service import client_of, or_server_options
from bnsweep.errors import InputError

if TYPE_CHECKING:
    from bnsweep.analysis.database import Database, Result
    from bnsweep.service.client import Client

__all__ = ["claims", "query", "report"]

TERMINAL_ROWS = 10_000  # of SQL of one's own, as text: whoever wants more wants a file
VIEW_OF = {"sweeps": "sweep", "points": "plan", "runs": "run", "trials": "trial"}  # of the table's rows, one sweep's
PLANNED_BY = "WHERE point_id IN (SELECT point_id FROM plan WHERE sweep = 'NAME'), of runs by run_id"
OF_SERVICE = "a service cuts at its `sql_rows`; --store instead of --server asks for all"
NO_SWEEP_OF_THE_PAPER = "the paper's tables know no sweeps: leave out --sweep or --paper"


@click.command()
@click.argument("name", required=False)
@store_option
@click.option(
    "--sweep",
    default=None,
    help="Only this sweep, in named queries and in the views (run, trial, point, curve) of --sql; default: all.",
)
@click.option("--sql", default=None, help="Your own SELECT instead of a named query.")
@click.option("--paper", is_flag=True, help="Ask the paper's own tables instead of a store.")
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter of the query; repeatable.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMS),
    default=None,
    help=f"Default: by the ending of --out ({', '.join(ENDINGS)}); without --out, text.",
)
@click.option("--out", type=LocalPath(dir_okay=False), default=None, help="Write to this file.")
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help=f"At most N rows; default: all, and of --sql as text on a terminal {TERMINAL_ROWS:,}.",
)
@click.option("--show-sql", is_flag=True, help="Print the query's SQL and do not run it.")
@or_server_options
def query(
    name: str | None,
    location: str,
    sweep: str | None,
    sql: str | None,
    paper: bool,
    params: tuple[str, ...],
    form: str | None,
    out: Path | None,
    as_json: bool,
    limit: int | None,
    show_sql: bool,
    server: str | None,
    token: str | None,
) -> None:
    """Ask a question: a named query, or SQL of your own.

    Without NAME, list the questions.
    """
    from bnsweep.analysis.database import QUERIES, find_query, open_paper

    if name is None and sql is None:
        width = max(map(len, QUERIES))
        for each in QUERIES.values():
            click.echo(f"{each.name:<{width}}  {each.question}")
        return
    asked = Asked(name, sql, sweep, parameters_of(params), limit)
    asked.check(paper=paper, server=server)
    if show_sql:
        click.echo(sql if name is None else find_query(name).sql)
        return
    form = "json" if as_json else form or form_of(out)
    if form == "parquet" and out is None:
        raise InputError("--format parquet needs --out FILE")
    if name is not None:
        find_query(name).bind(asked.parameters)  # refused before a store is opened or a service asked
    if server and not paper:
        result, notes = _of_service(asked, client_of(server, token))
    else:
        database = open_paper() if paper else database_of(open_store(location), sweep)
        result, notes = _of_database(asked, database, all_rows=form != "text" or out is not None)
    deliver(result, form, out)
    for note in notes:
        click.echo(f"bnsweep: {note}", err=True)


@dataclass(frozen=True)
class Asked:
    """A question of the command line: either `name` or `sql`."""

    name: str | None
    sql: str | None
    sweep: str | None
    parameters: dict[str, Any]
    limit: int | None

    def check(self, *, paper: bool, server: str | None) -> None:
        """Raise InputError for what does not go together."""
        if self.name is not None and self.sql is not None:
            raise InputError("give either the NAME of a query or --sql, not both")
        if self.sql is not None and self.parameters:
            raise InputError("--param is for a named query, but got --sql; write the value into the SQL")
        if paper and self.sweep is not None:
            raise InputError(NO_SWEEP_OF_THE_PAPER)
        if self.sql is not None and self.sweep is not None and server and not paper:
            raise InputError(
                "a service answers --sql over all its sweeps; instead of --sweep, ask for the points that it plans: "
                + PLANNED_BY.replace("NAME", self.sweep)
            )


def _of_database(asked: Asked, database: Database, *, all_rows: bool) -> tuple[Result, list[str]]:
    """The answer, and what is to be said about it."""
    from bnsweep.analysis.absence import refuse_misnamed, why_empty

    remedy = "--limit N shows N of them, and --out FILE without --limit writes all"
    if asked.sql is None:
        result = database.query(str(asked.name), asked.parameters, limit=asked.limit)
        notes = []
        if not len(result):
            refuse_misnamed(database, str(asked.name), asked.parameters)
            notes = why_empty(database, str(asked.name), asked.parameters)
    else:
        limit = asked.limit or (None if all_rows else TERMINAL_ROWS)
        result = database.sql(asked.sql, limit=limit, time_limit_s=None)  # who waits can press Ctrl-C
        notes = _not_narrowed(asked, database)
    return result, [*notes, *_cut(result, remedy)]


def _not_narrowed(asked: Asked, database: Database) -> list[str]:
    """What is said of tables that --sweep does not narrow."""
    if asked.sql is None or asked.sweep is None:
        return []
    notes = []
    for table in database.whole_tables(asked.sql):
        view = VIEW_OF.get(table)
        if view:
            way = f"view {view} has those of {asked.sweep}"
        elif table == "sites":  # of networks, whichever sweep trains them
            continue
        else:
            way = f"FROM {table} SEMI JOIN run USING (run_id) has those of {asked.sweep}"
        notes.append(f"--sweep narrows views, but table {table} holds the rows of all sweeps: {way}")
    return notes


def _of_service(asked: Asked, client: Client) -> tuple[Result, list[str]]:
    """The same from a service, which has limits of its own."""
    from bnsweep.analysis.absence import about

    if asked.sql is None:
        result = client.result(name=str(asked.name), sweep=asked.sweep, parameters=asked.parameters)
        notes = [] if len(result) else about(str(asked.name), asked.parameters)
    else:
        result, notes = client.result(asked.sql), []
    limited = asked.limit is not None and asked.limit < len(result)
    remedy = "without --limit all come that the service gives" if limited else OF_SERVICE
    result = result.first(asked.limit)
    return result, notes + _cut(result, remedy)


def _cut(result: Result, remedy: str) -> list[str]:
    """What is said of an answer whose rows are not all there."""
    return [f"only the first {len(result):,} rows; there are more: {remedy}"] if result.truncated else []


@click.command()
@store_option
@sweep_option
@click.option("--out", type=LocalPath(dir_okay=False), default=Path("report.html"), show_default=True)
@click.option("--figures", type=LocalPath(file_okay=False), default=None, help="Also PDF, SVG, PNG.")
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
