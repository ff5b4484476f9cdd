"""How numbers and names read in a report."""

# ruff: noqa: RUF001 - a report is for people: it has true minus signs and dashes.

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = [
    "WIDEST_POINTS",
    "aligned",
    "close",
    "counted",
    "digits",
    "distinct",
    "distinct_of",
    "eta_pct",
    "listed",
    "number",
    "span",
    "spread",
    "tells",
    "with_spread",
]

Row = Mapping[str, Any]

WIDEST_POINTS = 50.0  # half of all that an accuracy can be: an interval with such a half-width says nothing


def close(text: str) -> str:
    """The text with spaces that do not break before a percent sign and around a plus-minus."""
    return text.replace(" %", "\u00a0%").replace(" ±", "\u00a0±").replace("± ", "±\u00a0")


def number(value: Any, *, digits: int = 1) -> str:
    """A number as a table shows it: a fixed count of decimals, a true minus sign, a dash for none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f").replace("-", "−")
    text = f"{float(value):.{digits}f}".replace("-", "−")
    return text.removeprefix("−") if not text.strip("−0.") else text


def tells(row: Row) -> bool:
    """Whether there is an interval that leaves out some of what an accuracy can be."""
    return row["half"] is not None and row["half"] < WIDEST_POINTS


def with_spread(row: Row, *, unit: str = "") -> str:
    """A value with the half-width of its interval, or the words that it has none that says anything."""
    if not tells(row):
        return f"{number(row['value'], digits=1)}{unit} (no interval)"
    return f"{number(row['value'], digits=digits(row))} ± {spread(row)}{unit}"


def counted(count: str | int, what: str) -> str:
    """A count with its noun: 1 trial, 20 trials, 8 to 40 trials."""
    return f"{count} {what}{'' if str(count) == '1' else 's'}"


def span(values: Sequence[int]) -> str:
    """A count that may differ: 8, 8 to 40."""
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def spread(row: Row) -> str:
    """Half-width of the interval."""
    return number(row["half"], digits=digits(row))


def digits(row: Row) -> int:
    """Two decimals when the interval is narrow enough for the second to mean something, else one."""
    return 2 if row["half"] < 0.95 else 1


def eta_pct(eta: float) -> str:
    """Eta in percent without needless zeros."""
    return f"{100 * eta:.4f}".rstrip("0").rstrip(".")


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once, in order."""
    return list(dict.fromkeys(values))


def distinct_of(rows: Iterable[Row], column: str) -> list[Any]:
    """The values of a column."""
    return distinct(row[column] for row in rows)


def aligned(lines: Sequence[Sequence[str]], right: Sequence[bool] = ()) -> list[str]:
    """Cells as columns of text, those that are `right` to the right."""
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    sides = right or [False] * len(widths)
    pads = [[c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, sides, strict=True)] for line in lines]
    return ["  ".join(cells).rstrip() for cells in pads]


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them."""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)
