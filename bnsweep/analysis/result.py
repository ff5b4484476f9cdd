"""An answer: rows under columns with units, and the forms that it is read in."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from textwrap import indent
from typing import Any

import pyarrow as pa

from bnsweep.analysis.queries import Column
from bnsweep.analysis.wording import aligned, span
from bnsweep.errors import InputError, UnknownNameError

__all__ = ["ROUNDED", "Result", "json_value"]

LATEX = {"\\": r"\textbackslash{}", **{c: "\\" + c for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\^{}"}
LATEX_UNITS = {"%": r"\%"}
ROUNDED = frozenset({"%", "points", "nats", "s", "times"})  # units of what was measured
COUNTED = frozenset({"runs", "trials"})
PIECE_ROWS = 10_000  # as Python values at a time


@dataclass(frozen=True)
class Result:
    """Rows of one query. `truncated`: there were more than the limit."""

    columns: tuple[Column, ...]
    table: pa.Table
    truncated: bool = False
    sql: str = ""

    @cached_property
    def rows(self) -> list[tuple[Any, ...]]:
        """The rows as Python values; None where there is none."""
        return list(zip(*(self.table.column(i).to_pylist() for i in range(len(self.columns))), strict=True))

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def column(self, name: str) -> list[Any]:
        """The values of one column. Raises UnknownNameError."""
        names = [column.name for column in self.columns]
        if name not in names:
            raise UnknownNameError("column", name, names)
        return [row[names.index(name)] for row in self.rows]

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dictionary per row."""
        names = [column.name for column in self.columns]
        return [dict(zip(names, row, strict=True)) for row in self.rows]

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table; unit and meaning are metadata of the columns."""
        fields = []
        for field, column in zip(self.table.schema, self.columns, strict=True):
            metadata = {"meaning": column.meaning, **({"unit": column.unit} if column.unit else {})}
            fields.append(field.with_metadata(metadata if column.meaning else None))
        return self.table.cast(pa.schema(fields))

    def to_text(self, *, digits: int = 2) -> str:
        """An aligned table for a terminal: numbers to the right, units under the names, a dash for no value."""
        heads = [[column.name, column.unit] for column in self.columns]
        if not any(unit for _, unit in heads):
            heads = [[name] for name, _ in heads]
        body = self._texts(digits)
        right = [_numeric(field.type) for field in self.table.schema]
        lines = _ruled([list(line) for line in zip(*heads, strict=True)] if heads else [], body, right)
        if self.truncated:
            lines.append(f"(the first {len(self)} rows; there are more)")
        elif not body:
            lines.append("(no rows)")
        return "\n".join(lines) + "\n"

    def to_csv(self) -> str:
        """CSV with a line of column names; empty where there is no value."""
        return "".join(self.csv_pieces())

    def csv_pieces(self) -> Iterator[str]:
        """What `to_csv` writes, a piece at a time: the rows as Python values take far more memory than as Arrow."""
        yield _csv_lines([[column.name for column in self.columns]])
        for rows in self._batches():
            yield _csv_lines([["" if value is None else _plain(value) for value in row] for row in rows])

    def to_json(self) -> str:
        """An object with columns (name, unit, meaning), rows (objects) and truncated. NaN and infinity are null."""
        return "".join(self.json_pieces())

    def json_pieces(self) -> Iterator[str]:
        """What `to_json` writes, a piece at a time."""
        empty = '"rows": []'  # nowhere else: quotes within texts are escaped
        before, after = json.dumps({**self._head(), "rows": [], "truncated": self.truncated}, indent=1).split(empty)
        yield before + empty[:-1]
        separator, last = "\n", ""
        for rows in self._batches():
            texts = (json.dumps(self._object(row), indent=1, allow_nan=False) for row in rows)
            yield separator + ",\n".join(indent(text, "  ") for text in texts)
            separator, last = ",\n", "\n "
        yield f"{last}]{after}"

    def to_plain(self) -> dict[str, Any]:
        """What `to_json` writes, as Python values."""
        return {**self._head(), "rows": [self._object(row) for row in self.rows], "truncated": self.truncated}

    def first(self, limit: int | None) -> Result:
        """At most so many rows."""
        if limit is None or len(self) <= limit:
            return self
        return Result(self.columns, self.table.slice(0, limit), True, self.sql)

    def _head(self) -> dict[str, Any]:
        return {"columns": [{"name": c.name, "unit": c.unit, "meaning": c.meaning} for c in self.columns]}

    def _object(self, row: Sequence[Any]) -> dict[str, Any]:
        return {column.name: json_value(value) for column, value in zip(self.columns, row, strict=True)}

    def _batches(self) -> Iterator[list[tuple[Any, ...]]]:
        for batch in self.table.to_batches(max_chunksize=PIECE_ROWS):
            yield list(zip(*(column.to_pylist() for column in batch.columns), strict=True))

    def to_latex(self, *, digits: int = 2) -> str:
        """A booktabs tabular."""
        right = [_numeric(field.type) for field in self.table.schema]
        heads = [
            _latex(c.name) + (f" ({LATEX_UNITS.get(c.unit, _latex(c.unit))})" if c.unit else "") for c in self.columns
        ]
        lines = [r"\begin{tabular}{" + "".join("r" if r else "l" for r in right) + "}", r"\toprule"]
        lines += [" & ".join(heads) + r" \\", r"\midrule"]
        lines += [" & ".join(map(_latex, row)) + r" \\" for row in self._texts(digits)]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])

    def _texts(self, digits: int) -> list[list[str]]:
        """Every value as text: measured figures with fixed decimals, other numbers as they are."""
        decimals = [digits if column.unit in ROUNDED else None for column in self.columns]
        return [[_shown(value, places) for value, places in zip(row, decimals, strict=True)] for row in self.rows]

    def select(self, *names: str) -> Result:
        """Only these columns. Raises UnknownNameError."""
        known = {column.name: column for column in self.columns}
        for name in names:
            if name not in known:
                raise UnknownNameError("column", name, known)
        return Result(tuple(known[name] for name in names), self.table.select(list(names)), self.truncated, self.sql)

    def without_constants(self, *, keep: Sequence[str] = ()) -> Result:
        """Without columns that say the same in every row (of several), for a terminal's width.

        What was measured stays, with its n and its interval, unless no row has a value; and so does everything where
        nothing else would be left.
        """
        if len(self) < 2:
            return self
        left = [c.name for i, c in enumerate(self.columns) if c.name in keep or self._says(c, i)]
        return self.select(*left) if left else self

    def apart(self) -> tuple[Result, dict[str, str]]:
        """The answer `without_constants`, and the value of each column that this leaves out, on one line."""
        shown = self.without_constants()
        names = {column.name for column in shown.columns}
        same = {column.name: i for i, column in enumerate(self.columns) if column.name not in names}
        return shown, {name: _shown(self.rows[0][i], None) for name, i in same.items()}

    def _says(self, column: Column, index: int) -> bool:
        values = {repr(row[index]) for row in self.rows}
        if column.unit in COUNTED or column.name == "level":
            return True
        return len(values) > 1 or (column.unit in ROUNDED and values != {"None"})

    def pivot(
        self,
        *,
        across: str,
        value: str,
        spread: str | None = None,
        mark: str | None = None,
        runs: str | None = None,
        count: str | None = None,
        keep: Sequence[str],
        digits: int = 1,
    ) -> Result:
        """One row per distinct `keep`, one text column per value of `across`; ranges of `runs` and `count` come last.

        `runs` ranges over all cells, `count` over those with a spread. A cell is "value ± spread", or "value ◦" if the
        spread is not known, with a † where `mark` is not 0.
        """
        if value in keep or across in keep:
            raise InputError(f"`keep` must not name what is spread out, but got {list(keep)}")
        cells: dict[tuple[Any, ...], dict[str, str]] = {}
        heads: dict[str, None] = {}
        ranges = [name for name in (runs, count) if name]
        counts: dict[tuple[Any, ...], list[int]] = {}
        for row in self.to_dicts():
            key = tuple(row[name] for name in keep)
            head = f"{across}={_shown(row[across], None)}"
            heads[head] = None
            cell = _with_spread(row, value, spread, digits) + (" †" if mark and row[mark] else "")
            cells.setdefault(key, {})[head] = cell
            for name in ranges:
                if name == runs or spread is None or row[spread] is not None:
                    counts.setdefault((name, *key), []).append(row[name])
        known = {column.name: column for column in self.columns}
        arrays = [pa.array([key[i] for key in cells]) for i in range(len(keep))]
        arrays += [pa.array([line.get(head) for line in cells.values()], pa.string()) for head in heads]
        columns = (*(known[name] for name in keep), *(Column(head, known[value].unit) for head in heads))
        arrays += [pa.array([span(counts.get((name, *key)) or [1]) for key in cells]) for name in ranges]
        columns = (*columns, *(known[name] for name in ranges))
        table = pa.table(arrays, names=[column.name for column in columns])
        return Result(columns, table, self.truncated, self.sql)


def _with_spread(row: dict[str, Any], value: str, spread: str | None, digits: int) -> str:
    text = _shown(row[value], digits)
    if spread is None:
        return text
    return f"{text} ◦" if row[spread] is None else f"{text} ± {_shown(row[spread], digits)}"


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _shown(value: Any, places: int | None) -> str:
    """A value for people; `places`: decimals, None for as many as it takes."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}" if places is None else f"{value:.{places}f}"
        case datetime():
            return value.isoformat(sep=" ", timespec="seconds")
        case _:
            return "".join(c if c.isprintable() else "?" for c in str(value))


def _csv_lines(rows: Sequence[Sequence[Any]]) -> str:
    sink = io.StringIO()
    csv.writer(sink, lineterminator="\n").writerows(rows)
    return sink.getvalue()


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, (datetime, date)) else value


def json_value(value: Any) -> Any:
    """A value as JSON can hold it: times as text, NaN and infinities as null, bytes as hexadecimal digits."""
    converters: list[tuple[type | tuple[type, ...], Callable[[Any], Any]]] = [
        ((datetime, date), lambda v: v.isoformat()),
        (timedelta, lambda v: v.total_seconds()),
        (Decimal, float),
        (float, lambda v: v if math.isfinite(v) else None),
        (bytes, lambda v: v.hex()),
        (dict, lambda v: {str(key): json_value(item) for key, item in v.items()}),
        ((list, tuple), lambda v: [json_value(item) for item in v]),
    ]
    for kind, convert in converters:
        if isinstance(value, kind):
            return convert(value)
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def _latex(text: str) -> str:
    return "".join(LATEX.get(c, c) for c in text)


def _ruled(heads: list[list[str]], body: list[list[str]], right: list[bool]) -> list[str]:
    rule = ["-" * max(map(len, cells)) for cells in zip(*heads, *body, strict=True)]
    return aligned([*heads, rule, *body], right)
