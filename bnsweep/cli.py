"""The command line: parse, call, print. Everything heavy is imported where it is used.

Exit codes: 0 done, 1 some of the work failed (the rest is kept), 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnsweep._version import __version__
from bnsweep.errors import BnsweepError, InputError, SpecError

if TYPE_CHECKING:
    from bnsweep.analysis.database import Database, Result
    from bnsweep.experiment.plan import Plan
    from bnsweep.store.store import Store

__all__ = ["main"]

INTERRUPTED = 130

store_option = click.option(
    "--store",
    "location",
    default="bnsweep-store",
    show_default=True,
    envvar="BNSWEEP_STORE",
    help="Where rows and networks are kept: a directory or an object store's URL.",
)
data_option = click.option(
    "--data-root",
    type=click.Path(path_type=Path),
    default=Path("~/.cache/bnsweep"),
    show_default=True,
    envvar="BNSWEEP_DATA",
    help="Where torchvision's data sets lie or are downloaded to.",
)
source_option = click.option(
    "--data", "source", default=None, metavar="SOURCE", help="Take the spec's images from here, e.g. parquet:DIRECTORY."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
sweep_option = click.option("--sweep", default=None, help="Only this sweep; default: all in the store.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="bnsweep")
def cli() -> None:
    """Which batch-normalization layers should a network keep on analog hardware?

    A sweep trains every (model, BN placement, seed), perturbs each trained network's weights many times,
    keeps one row per noise draw in Parquet, and answers with SQL.
    """


def main() -> None:
    """Run the command line; errors of the user's become one message, never a traceback."""
    try:
        sys.exit(cli(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BnsweepError as error:
        click.echo(f"bnsweep: {error}", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        again = shlex.join(["bnsweep", *sys.argv[1:]])
        click.echo(f"bnsweep: interrupted; what has landed in a store is kept. To go on: {again}", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has seen enough (`| head`).
        sys.stderr.close()
        sys.exit(0)


@cli.command()
@click.argument("name", required=False)
@click.option("--classes", default=10, show_default=True, type=click.IntRange(2, 1_000_000))
@click.option("--channels", default=3, show_default=True, type=click.IntRange(1, 1024))
@click.option("--size", default=32, show_default=True, type=click.IntRange(4, 1024), help="Side of the images, pixels.")
@json_option
def models(name: str | None, classes: int, channels: int, size: int, as_json: bool) -> None:
    """List networks; with NAME, one network's BN sites."""
    from bnsweep.training.datasets import DataShape
    from bnsweep.training.models import MODELS, describe

    sys.path.insert(0, str(Path.cwd()))  # import: networks of the user's own
    shape = DataShape(channels=channels, size=size, classes=classes)
    found = [describe(each, shape, allow_import=True) for each in ([name] if name else MODELS)]
    rows = [
        {
            "model": each.name,
            "parameters": each.parameters,
            "multiply_adds": each.multiply_adds,
            "bn_sites": len(each.sites),
        }
        for each in found
    ]
    sites = [asdict(site) for site in found[0].sites]
    if as_json:
        _print_json({**rows[0], "sites": sites} if name else rows)
        return
    _print_table(rows)
    if name:
        click.echo()
        _print_table([{"number": number, **site} for number, site in enumerate(sites, 1)])
    else:
        click.echo(
            "\nAlso: torchvision:NAME for any torchvision classifier, import:PACKAGE.MODULE:FACTORY for your own."
        )


@cli.command()
@click.argument("spec")
@store_option
@data_option
@source_option
@click.option("--cpus", type=click.IntRange(1), default=None, help="Cores to plan for; default: this machine's.")
@json_option
def plan(spec: str, location: str, data_root: Path, source: str | None, cpus: int | None, as_json: bool) -> None:
    """Show what a sweep would do, and do nothing.

    SPEC is a YAML file or the name of a ready sweep.
    """
    from bnsweep.sweep.estimate import preview

    plan_, _ = _plan(spec, data_root, source)
    summary = preview(plan_, _open_store(location, missing_ok=True), cpus=cpus, data_root=data_root)
    if as_json:
        _print_json(summary.to_dict())
    else:
        click.echo(summary.to_text())


@cli.command()
@click.argument("spec")
@store_option
@data_option
@source_option
@click.option("--engine", type=click.Choice(["auto", "ray", "inline"]), default="auto", show_default=True)
@click.option("--address", default=None, help="An existing Ray cluster, host:port; default: start one here.")
@click.option("--cpus", type=click.IntRange(1), default=None, help="Cores of the local Ray cluster; default: all.")
@click.option("--retry-failed", is_flag=True, help="Do what failed before once more.")
@click.option("--take-over", is_flag=True, help="Write to the store although another driver holds it: it is dead.")
@click.option("--quiet", is_flag=True, help="No progress.")
def run(
    spec: str,
    location: str,
    data_root: Path,
    source: str | None,
    engine: str,
    address: str | None,
    cpus: int | None,
    retry_failed: bool,
    take_over: bool,
    quiet: bool,
) -> None:
    """Run a sweep: train what is untrained, score what has no rows yet.

    SPEC is a YAML file or the name of a ready sweep. The same command again does only what is missing.
    Ctrl-C keeps every finished block.
    """
    from bnsweep.sweep.progress import Silent, choose_progress
    from bnsweep.sweep.run import run_sweep

    if engine == "inline" and (address or cpus):
        raise InputError("--address and --cpus are for a Ray cluster, but --engine inline uses none")
    plan_, text = _plan(spec, data_root, source)
    summary = run_sweep(
        plan_,
        location,
        text=text,
        engine=engine,
        address=address,
        cpus=cpus,
        retry_failed=retry_failed,
        take_over=take_over,
        data_root=data_root.expanduser(),
        listener=Silent() if quiet else choose_progress(),
    )
    words = [word for word in sys.argv[1:] if word not in ("--retry-failed", "--take-over")]
    for line in summary.lines(again=shlex.join(["bnsweep", *words])):
        click.echo(line)
    if summary.interrupted:
        sys.exit(INTERRUPTED)
    if not quiet and _open_store(location).rows("trials"):
        from bnsweep.analysis.headline import accuracy_table

        click.echo("\naccuracy in %, with half of its 95 % interval\n")
        click.echo(accuracy_table(_database(_open_store(location), plan_.spec.name)).to_text())
    sys.exit(1 if summary.failed else 0)


@cli.command()
@store_option
@json_option
def status(location: str, as_json: bool) -> None:
    """Show how far each sweep of a store is."""
    store = _open_store(location)
    result = _database(store).query("sweeps")
    holder = store.holder()
    if as_json:
        _print_json({"store": store.location, "running": holder and str(holder), "sweeps": result.to_dicts()})
        return
    click.echo(result.to_text())
    click.echo(f"\nA driver is at work: {holder}" if holder else "\nNo driver is at work.")


@cli.command()
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
) -> None:
    """Ask a question: a named query, or SQL of your own.

    Without NAME, list the questions.
    """
    from bnsweep.analysis.database import QUERIES, open_paper

    if name is None and sql is None:
        for each in QUERIES.values():
            click.echo(f"{each.name:<22}{each.question}")
        return
    if name is not None and sql is not None:
        raise InputError("give either the NAME of a query or --sql, not both")
    if show_sql and name is not None:
        from bnsweep.analysis.database import find_query

        click.echo(find_query(name).sql)
        return
    database = open_paper() if paper else _database(_open_store(location), sweep)
    result = database.sql(sql) if sql is not None else database.query(str(name), **_parameters(params))
    _deliver(result, "json" if as_json else form, out)


@cli.command()
@store_option
@sweep_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("report.html"), show_default=True)
@click.option("--figures", type=click.Path(path_type=Path, file_okay=False), default=None, help="Also PDF, SVG, PNG.")
def report(location: str, sweep: str | None, out: Path, figures: Path | None) -> None:
    """Write one self-contained HTML file with every table, chart and verdict."""
    from bnsweep.analysis.report import write_figures, write_report

    database = _database(_open_store(location), sweep)
    with _writing(out):
        write_report(database, out)
    click.echo(f"report: {out}")
    if figures:
        with _writing(figures):
            for path in write_figures(database, figures):
                click.echo(f"figure: {path}")


@cli.command()
@store_option
@sweep_option
@click.option("--paper", is_flag=True, help="Judge by the paper's own tables.")
@json_option
def claims(location: str, sweep: str | None, paper: bool, as_json: bool) -> None:
    """Judge the paper's claims by the rows: supported, contradicted or undecided."""
    from bnsweep.analysis.claims import judge
    from bnsweep.analysis.database import open_paper

    verdicts = judge(open_paper() if paper else _database(_open_store(location), sweep))
    if as_json:
        _print_json([verdict.to_dict() for verdict in verdicts])
        return
    for verdict in verdicts:
        click.echo(verdict.to_text())


@cli.group()
def store() -> None:
    """Look after a store: ls, verify, compact, export, upgrade."""


@store.command("ls")
@store_option
@json_option
def store_ls(location: str, as_json: bool) -> None:
    """List the store's tables and their size."""
    opened = _open_store(location)
    rows = opened.summary()
    if as_json:
        _print_json({"store": opened.location, "tables": rows})
    else:
        _print_table(rows)


@store.command("verify")
@store_option
@click.option("--repair", is_flag=True, help="Quarantine bad parts, so that `run` does their work again.")
@json_option
def store_verify(location: str, repair: bool, as_json: bool) -> None:
    """Check every part's digest, duplicates, disagreements and what is missing."""
    from bnsweep.store.store import Store

    outcome = Store.verify_location(location, repair=repair)
    if as_json:
        _print_json(outcome.to_dict())
    else:
        click.echo(str(outcome))
    sys.exit(0 if outcome.ok else 1)


@store.command("compact")
@store_option
def store_compact(location: str) -> None:
    """Merge small parts into large ones, while others read."""
    done = _open_store(location, writable=True).compact()
    click.echo(f"{done.parts_before} parts became {done.parts_after}; {done.rows:,} rows")


@store.command("upgrade")
@store_option
def store_upgrade(location: str) -> None:
    """Rewrite a store of an older bnsweep in today's schema."""
    click.echo(f"{_open_store(location).upgrade()} parts rewritten")


@store.command("export")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@store_option
@click.option("--format", "form", type=click.Choice(["parquet", "csv"]), default="parquet", show_default=True)
def store_export(directory: Path, location: str, form: str) -> None:
    """Copy all tables into DIRECTORY, with a provenance file."""
    with _writing(directory):
        for path in _open_store(location).export(directory, format=form):
            click.echo(path)


def _plan(spec: str, data_root: Path, source: str | None) -> tuple[Plan, str]:
    from bnsweep.experiment.plan import make_plan
    from bnsweep.experiment.reading import read_spec, with_lines
    from bnsweep.sweep.catalog import LocalCatalog

    sys.path.insert(0, str(Path.cwd()))  # import: networks of the user's own
    parsed, text = read_spec(spec)
    if source is not None:
        parsed = parsed.with_source(source)
    try:
        return make_plan(parsed, LocalCatalog(data_root.expanduser(), allow_import=True)), text
    except SpecError as error:
        raise with_lines(error, text, source=spec) from None


def _open_store(location: str, *, writable: bool = False, missing_ok: bool = False) -> Any:
    from bnsweep.store.store import Store

    if missing_ok and not Store.exists(location):
        return None
    return Store.open(location, writable=writable)


def _database(opened: Store, sweep: str | None = None) -> Database:
    from bnsweep.analysis.database import open_database

    return open_database(opened, sweep=sweep)


def _parameters(pairs: tuple[str, ...]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--param takes NAME=VALUE, but got {pair!r}")
        parameters[key] = value
    return parameters


def _deliver(result: Result, form: str, out: Path | None) -> None:
    if form == "parquet":
        if out is None:
            raise InputError("--format parquet needs --out FILE")
        import pyarrow.parquet as pq

        with _writing(out):
            pq.write_table(result.to_arrow(), out)
        return
    writers: dict[str, Callable[[], str]] = {
        "text": lambda: _narrow(result),
        "csv": result.to_csv,
        "json": result.to_json,
        "latex": result.to_latex,
    }
    text = writers[form]()
    if out is None:
        click.echo(text.rstrip("\n"))
        return
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")


def _narrow(result: Result) -> str:
    """For a terminal: columns with one value throughout are said once."""
    shown = result.without_constants()
    names = {column.name for column in shown.columns}
    same = [column.name for column in result.columns if column.name not in names]
    text = shown.to_text()
    if not same:
        return text
    first = result.to_dicts()[0]
    return f"{text}\n\nin every row: {', '.join(f'{name} = {first[name]}' for name in same)}"


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise BnsweepError(f"{path}: cannot be written: {error.strerror or error}") from None


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Aligned columns; numbers to the right."""
    columns = list(rows[0]) if rows else []
    numeric = [
        isinstance(rows[0][column], (int, float)) and not isinstance(rows[0][column], bool) for column in columns
    ]
    lines = [columns, *([_cell(row[column]) for column in columns] for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        pads = [text.rjust(w) if right else text.ljust(w) for text, w, right in zip(line, widths, numeric, strict=True)]
        click.echo("  ".join(pads).rstrip())


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
