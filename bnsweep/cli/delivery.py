"""An answer printed or written, in one of its forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bnsweep.errors import InputError
from bnsweep.paths import whole

if TYPE_CHECKING:
    from bnsweep.analysis.result import Result

__all__ = ["ENDINGS", "FORMS", "deliver", "form_of"]

FORMS = ("text", "csv", "json", "latex", "parquet")
ENDINGS = {".txt": "text", ".csv": "csv", ".json": "json", ".tex": "latex", ".parquet": "parquet"}


def form_of(out: Path | None) -> str:
    """The form that a file's name asks for. Raises InputError for an ending that asks for none."""
    if out is None:
        return "text"
    if out.suffix.lower() not in ENDINGS:
        raise InputError(
            f"the ending of --out says the form, one of {', '.join(ENDINGS)}, but got {out.name!r}; "
            f"--format ({', '.join(FORMS)}) writes to a file of any name"
        )
    return ENDINGS[out.suffix.lower()]


def deliver(result: Result, form: str, out: Path | None) -> None:
    """Write or print an answer."""
    if form == "parquet" and out is not None:
        _write_parquet(result, out)
        return
    pieces: dict[str, Callable[[], Iterable[str]]] = {
        "text": lambda: [_narrow(result)],
        "csv": result.csv_pieces,
        "json": lambda: chain(result.json_pieces(), ["\n"]),
        "latex": lambda: _latex(result),
    }
    _write(pieces[form](), out)


def _write_parquet(result: Result, out: Path) -> None:
    import pyarrow.parquet as pq

    with whole(out) as place:
        pq.write_table(result.to_arrow(), place)


def _write(pieces: Iterable[str], out: Path | None) -> None:
    if out is None:
        for piece in pieces:
            click.echo(piece, nl=False)
        return
    with whole(out) as place, place.open("w", encoding="utf-8") as file:
        file.writelines(pieces)


def _latex(result: Result) -> Iterable[str]:
    from bnsweep.analysis.export import latex_of

    return [latex_of(result)]


def _narrow(result: Result) -> str:
    """For people: columns with one value throughout are said once."""
    shown, same = result.apart()
    text = shown.to_text()
    if not same:
        return text
    rows = "row shown" if result.truncated else "row"
    return f"{text}\n\nin every {rows}: {', '.join(f'{name} = {value}' for name, value in same.items())}\n"
