"""What commands share: a spec, a store, a database opened; JSON and tables printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bnsweep.errors import BnsweepError, InputError

if TYPE_CHECKING:
    from bnsweep.analysis.database import Database
    from bnsweep.experiment.plan import Plan
    from bnsweep.experiment.search import SearchSpec
    from bnsweep.store.store import Store
    from bnsweep.sweep.catalog import LocalCatalog

__all__ = [
    "INTERRUPTED",
    "database_of",
    "existing_store",
    "open_store",
    "parameters_of",
    "print_json",
    "print_table",
    "read_any_plan",
    "read_plan",
    "read_search",
    "writing",
]

INTERRUPTED = 130  # exit code


def read_plan(spec: str, data_root: Path, source: str | None) -> tuple[Plan, str]:
    """The plan of a sweep, and the file's text."""
    from bnsweep.experiment.checking import plan_from_text

    text, catalog = _read(spec, data_root)
    return plan_from_text(text, catalog, source=spec, images=source), text


def read_any_plan(spec: str, data_root: Path, source: str | None, store: Store | None) -> Plan:
    """The plan of a sweep, or what a search will do at most."""
    from bnsweep.sweep.search.expected import plan_of_any

    text, catalog = _read(spec, data_root)
    return plan_of_any(text, store, catalog, source=spec, images=source)


def _read(spec: str, data_root: Path) -> tuple[str, LocalCatalog]:
    from bnsweep.experiment.files import read_text
    from bnsweep.sweep.catalog import LocalCatalog

    sys.path.insert(0, str(Path.cwd()))  # import: networks of the user's own
    return read_text(spec), LocalCatalog(data_root, allow_import=True)


def read_search(spec: str, source: str | None) -> tuple[SearchSpec, str]:
    from bnsweep.experiment.reading import read_spec
    from bnsweep.experiment.search import SearchSpec

    sys.path.insert(0, str(Path.cwd()))  # import: networks of the user's own
    parsed, text = read_spec(spec)
    if not isinstance(parsed, SearchSpec):
        raise InputError(f"{spec} has no `search` section, so it is a sweep: bnsweep run {spec}")
    return (parsed.with_source(source) if source is not None else parsed), text


def open_store(location: str, *, writable: bool = False) -> Store:
    from bnsweep.store.store import Store

    return Store.open(location, writable=writable)


def existing_store(location: str) -> Store | None:
    """None where a store can be made."""
    from bnsweep.store.store import Store

    return Store.open_existing(location)


def database_of(opened: Store, sweep: str | None = None) -> Database:
    from bnsweep.analysis.database import open_database

    return open_database(opened, sweep=sweep)


def parameters_of(pairs: tuple[str, ...]) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--param takes NAME=VALUE, but got {pair!r}")
        parameters[key] = value
    return parameters


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure to write into one line that names the file."""
    try:
        yield
    except OSError as error:
        raise BnsweepError(f"{path}: cannot be written: {error.strerror or error}") from None


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str))


def print_table(rows: list[dict[str, Any]]) -> None:
    """Aligned columns; numbers to the right, `-` where there is none."""
    from bnsweep.analysis.wording import aligned

    columns = list(rows[0]) if rows else []
    numeric = [all(_is_number(row[column]) for row in rows if row[column] is not None) for column in columns]
    for line in aligned([columns, *([_cell(row[column]) for column in columns] for row in rows)], numeric):
        click.echo(line)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and _is_number(value) else str(value)
