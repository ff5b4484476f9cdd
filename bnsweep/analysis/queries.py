"""The questions: one SQL file each under queries/, with a header that says what comes out.

    -- The question?
    --
    -- Notes, in any number of paragraphs.
    --
    -- Parameters
    --   name  TYPE  default  meaning
    --
    -- Columns
    --   name  unit  meaning

Fields are set apart by two spaces or more; "none" stands for no parameters, "-" for no unit. The views that the
questions stand on have a header of their own in 00_views.sql.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from bnsweep.errors import InputError, UnknownNameError

__all__ = [
    "QUERIES",
    "Column",
    "Parameter",
    "Query",
    "View",
    "described_views",
    "find_query",
    "parse_query",
    "reference",
    "views",
]

VIEWS = "00_views.sql"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an answer."""

    name: str
    unit: str = ""
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value that a question leaves open; `default` is an SQL literal."""

    name: str
    type: str
    default: str
    meaning: str

    @property
    def value(self) -> object:
        """The default as a Python value."""
        if self.default == "NULL":
            return None
        return self.default[1:-1] if self.default.startswith("'") else float(self.default)

    def convert(self, value: object) -> object:
        """A value as text, from a command line, as the parameter's type. Raises InputError."""
        if not isinstance(value, str) or self.type == "VARCHAR":
            return value
        try:
            return int(value) if self.type in {"INTEGER", "BIGINT"} else float(value)
        except ValueError as error:
            raise InputError(f"parameter {self.name!r} ({self.meaning}) must be a number, but got {value!r}") from error


@dataclass(frozen=True, slots=True)
class View:
    """A view for SQL of one's own: its own columns, and the tables and views that the others are described in."""

    name: str
    behind: tuple[str, ...]
    meaning: str
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class Query:
    """One question with its SQL, whose text includes the header."""

    name: str
    question: str
    notes: str
    parameters: tuple[Parameter, ...]
    columns: tuple[Column, ...]
    sql: str

    def bind(self, given: Mapping[str, object]) -> dict[str, object]:
        """Values that were given, converted. Raises UnknownNameError for parameters that the question has not."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                instead = "" if known else "It has none."
                raise UnknownNameError(f"parameter of query {self.name}", name, known, instead)
        return {name: known[name].convert(value) for name, value in given.items()}


def parse_query(name: str, sql: str) -> Query:
    """Read a query's header. Raises ValueError if it is not as this module's docstring says."""
    lines = []
    for line in sql.splitlines():
        if not line.startswith("--"):
            break
        lines.append(line[2:].rstrip())
    text = "\n".join(lines)
    match = re.fullmatch(r" (.+?)\n(.*)\n Parameters\n(.*)\n\n Columns\n(.+)", text, re.DOTALL)
    if match is None:
        raise ValueError(f"queries/{name}.sql has no header with a question, Parameters and Columns")
    question, notes, parameters, columns = match.groups()
    return Query(
        name,
        " ".join(question.split()),
        notes.strip(),
        tuple(Parameter(*fields) for fields in _fields(parameters, 4)),
        tuple(Column(c, "" if unit == "-" else unit, meaning) for c, unit, meaning in _fields(columns, 3)),
        sql,
    )


def _fields(block: str, count: int) -> list[list[str]]:
    rows = [re.split(r" {2,}", line.strip(), maxsplit=count - 1) for line in block.splitlines() if line.strip()]
    if rows == [["none"]]:
        return []
    for row in rows:
        if len(row) != count:
            raise ValueError(f"a header's line has {count} fields, set apart by two spaces, but got {row}")
    return rows


def _text(name: str) -> str:
    return (files("bnsweep.queries") / name).read_text(encoding="utf-8")


def views() -> str:
    """The SQL that every question stands on."""
    return _text(VIEWS)


@cache
def described_views() -> tuple[View, ...]:
    """The views that are for everybody, by the header of 00_views.sql."""
    blocks = re.search(r"^-- Views\n(.+?)\n--\n-- Columns\n(.+?)\n\n", views(), re.DOTALL | re.MULTILINE)
    assert blocks is not None
    names, columns = (re.sub(r"^--", "", block, flags=re.MULTILINE) for block in blocks.groups())
    own: dict[str, list[Column]] = {}
    for name, unit, meaning in _fields(columns, 3):
        view, _, column = name.partition(".")
        own.setdefault(view, []).append(Column(column, "" if unit == "-" else unit, meaning))
    return tuple(
        View(name, tuple(behind.split(", ")), meaning, tuple(own.get(name, ())))
        for name, behind, meaning in _fields(names, 3)
    )


def reference(name: str) -> str:
    """One of the paper's tables, as CSV."""
    return _text(f"reference/{name}.csv")


@cache
def _queries() -> Mapping[str, Query]:
    names = sorted(entry.name for entry in files("bnsweep.queries").iterdir() if entry.name.endswith(".sql"))
    found = [parse_query(name.removesuffix(".sql"), _text(name)) for name in names if name != VIEWS]
    return MappingProxyType({query.name: query for query in found})


QUERIES: Mapping[str, Query] = _queries()


def find_query(name: str) -> Query:
    """The query of this name. Raises UnknownNameError."""
    if name not in QUERIES:
        raise UnknownNameError("query", name, QUERIES)
    return QUERIES[name]
