"""Answers as LaTeX tables for a paper, with a record of where their rows come from.

Tables of raw rows are for programs (`store export --format parquet|csv`); what a paper prints are answers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.queries import QUERIES, find_query
from bnsweep.store.export import write_files

if TYPE_CHECKING:
    from bnsweep.analysis.database import Database
    from bnsweep.analysis.result import Result
    from bnsweep.store.store import Store

__all__ = ["LONGEST", "export_latex", "latex_of"]

LONGEST = 200  # rows of a table that is written without being asked for by name


def export_latex(database: Database, store: Store, directory: str | Path, *, names: Iterable[str] = ()) -> list[Path]:
    """Write NAME.tex, a booktabs tabular, for each answer, and provenance.json. All paths.

    Without `names`: every query of 1 to LONGEST rows, with its default parameters. Raises UnknownNameError for a query,
    StoreUnwritableError.
    """
    chosen = [find_query(name).name for name in names]
    return write_files(store, directory, _tables(database, chosen))


def _tables(database: Database, chosen: list[str]) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    for name in chosen or QUERIES:
        result = database.query(name)
        if chosen or 0 < len(result) <= LONGEST:
            told = {
                "rows": len(result),
                "query": name,
                "sweeps": list(database.sweeps),
                "sql_sha256": hashlib.sha256(result.sql.encode()).hexdigest(),
            }
            yield f"{name}.tex", _document(name, result, database.sweeps).encode(), told


def latex_of(result: Result) -> str:
    """A booktabs tabular of what tells the rows apart, below a comment that says what they have in common."""
    shown, same = result.apart()
    constants = f"% in every row: {', '.join(f'{name} = {value}' for name, value in same.items())}\n" if same else ""
    return f"{constants}% needs \\usepackage{{booktabs}}\n{shown.to_latex()}"


def _document(name: str, result: Result, sweeps: tuple[str, ...]) -> str:
    """The table under comments that say what it answers."""
    return (
        f"% {find_query(name).question}\n"
        f"% bnsweep query {name}: {len(result)} rows about {', '.join(sweeps) or 'no sweep'}; see provenance.json\n"
        f"{latex_of(result)}"
    )
