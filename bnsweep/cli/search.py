"""Commands about searches: search, search show."""

from __future__ import annotations

import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnsweep.cli.common import INTERRUPTED, database_of, open_store, print_json, read_search
from bnsweep.cli.options import (
    LocalPath,
    check_engine,
    data_option,
    engine_options,
    json_option,
    source_option,
    store_option,
)
from bnsweep.errors import EngineError, InputError, SpecError
from bnsweep.paths import whole

if TYPE_CHECKING:
    from bnsweep.analysis.searches import Found

__all__ = ["search"]


class _DefaultCommand(click.Group):
    """`bnsweep search SPEC` is short for `bnsweep search run SPEC`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The word that is no command's name is a file's."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["run", *args])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Options before the file belong to `run`."""
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Both forms."""
        formatter.write_usage(ctx.command_path, "SPEC [OPTIONS]")
        formatter.write_usage(ctx.command_path, "show [OPTIONS]")


emit_option = click.option(
    "--emit", type=LocalPath(dir_okay=False), default=None, help="Write a sweep of the front here."
)
seeds_option = click.option(
    "--seeds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Training seeds of that sweep."
)


@click.group(cls=_DefaultCommand)
def search() -> None:
    """Find out which BN layers to keep, by training few placements of very many.

    SPEC is a sweep file with a `search` section, or the name of a ready search. `search run SPEC` is the long form of
    `search SPEC`, and has its options; `search show` prints what the searches of a store have found.
    """


@search.command("run")
@click.argument("spec")
@store_option
@data_option
@source_option
@click.option("--minimal", is_flag=True, help="Find the fewest BN layers that converge, instead of the trade-off.")
@engine_options
@click.option("--quiet", is_flag=True, help="No line per run.")
@emit_option
@seeds_option
def search_run(
    spec: str,
    location: str,
    data_root: Path,
    source: str | None,
    minimal: bool,
    engine: str,
    address: str | None,
    cpus: int | None,
    retry_failed: bool,
    take_over: bool,
    patience_s: float | None,
    quiet: bool,
    emit: Path | None,
    seeds: int,
) -> None:
    """Search placements; the same command again goes on where it was.

    SPEC is a YAML file with a `search` section or the name of a ready search. Ctrl-C keeps every finished run.
    """
    from bnsweep.experiment.reading import with_lines
    from bnsweep.sweep.notes import spec_notes

    check_engine(engine, address=address, cpus=cpus, patience_s=patience_s)
    parsed, text = read_search(spec, source)
    for note in spec_notes(parsed):
        click.echo(f"note: {note}", err=True)
    _needs_optuna()
    from bnsweep.sweep.search.minimal import MinimalStudy
    from bnsweep.sweep.search.run import run_search

    try:
        summary = run_search(
            parsed,
            location,
            text=text,
            minimal=minimal,
            engine=engine,
            address=address,
            cpus=cpus,
            retry_failed=retry_failed,
            take_over=take_over,
            patience_s=patience_s,
            data_root=data_root,
            told=(lambda line: None) if quiet else click.echo,
            warned=lambda line: click.echo(f"bnsweep: {line}", err=True),
        )
    except SpecError as error:
        raise with_lines(error, text, source=spec) from None
    words = [word for word in sys.argv[1:] if word not in ("--retry-failed", "--take-over")]
    for line in summary.lines(again=shlex.join(["bnsweep", *words])):
        click.echo(line)
    for study in summary.studies:
        if isinstance(study, MinimalStudy) and study.over:
            click.echo("\n".join(study.lines()))
    if summary.interrupted:
        sys.exit(INTERRUPTED)
    if (minimal or quiet) and emit is None:
        sys.exit(1 if summary.failed else 0)
    found = _found(location, parsed.name)
    if not minimal and not quiet:
        click.echo("\n" + _text(found))
    if emit is not None:
        _emit(found, emit, seeds)
    sys.exit(1 if summary.failed else 0)


@search.command("show")
@store_option
@click.option(
    "--sweep",
    default=None,
    help="This search, by what its own file asks for; default: all searches, by all of the store.",
)
@json_option
@emit_option
@seeds_option
def search_show(location: str, sweep: str | None, as_json: bool, emit: Path | None, seeds: int) -> None:
    """Print what searches found: the front, and which sites matter.

    A store without a search is bad input (exit code 2), with --json too.
    """
    found = _found(location, sweep)
    if as_json:
        print_json([each.to_dict() for each in found])
    else:
        click.echo(_text(found))
    if emit is not None:
        _emit(found, emit, seeds)


def _needs_optuna() -> None:
    if find_spec("optuna") is None:
        raise EngineError("a search needs Optuna: pip install 'bnsweep[search]'")


def _found(location: str, sweep: str | None) -> list[Found]:
    from bnsweep.analysis.searches import read_searches

    found = read_searches(database_of(open_store(location), sweep))
    if not found:
        what = f"{sweep!r} is no search that has asked for a run" if sweep else "no search has asked for a run"
        raise InputError(f"{location}: {what}; a search is a sweep file with a `search` section: bnsweep search FILE")
    return found


def _text(found: list[Found]) -> str:
    return "\n\n".join(each.to_text() for each in found)


def _emit(found: list[Found], path: Path, seeds: int) -> None:
    from bnsweep.experiment.reading import parse_spec
    from bnsweep.experiment.search import SearchSpec
    from bnsweep.sweep.search.emit import front_sweep

    names = sorted({each.sweep for each in found})
    if len(names) != 1:
        raise InputError(
            f"--emit is for one search, but the store holds {', '.join(names) or 'none'}; choose by --sweep"
        )
    spec = SearchSpec.model_validate(found[0].spec)
    text = front_sweep(spec, {(each.dataset, each.model): each.front_masks for each in found}, seeds=seeds)
    parse_spec(text, source=str(path))
    with whole(path) as place:
        place.write_text(text, encoding="utf-8")
    click.echo(f"sweep of the front: {path}")
