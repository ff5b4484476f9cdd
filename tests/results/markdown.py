"""What a table of figures is made of: lines, cells, and the command that gives them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.results.published import MAIN, STORES, Row

__all__ = ["Lines", "between", "command", "figure", "table"]

Lines = list[str]
# Where the rows of a sweep are: tests/results/published.py.
WHERE = (
    "STORE: results/SWEEP; of cifar10-results and cifar10-puzzles results/cifar10, of cifar100-results results/cifar100"
)


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Lines:
    """Markdown."""
    return [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *(f"| {' | '.join(row)} |" for row in rows)]


def command(query: str, *sweeps: str) -> Lines:
    """How to ask the same of one sweep, or of each of several."""
    if len(sweeps) > 1:
        return ["", f"`bnsweep query {query} --store STORE --sweep SWEEP`; {WHERE}."]
    (name,) = sweeps or (MAIN,)
    return ["", f"`bnsweep query {query} --store {STORES[name]} --sweep {name}`"]


def figure(value: float | None, half: float | None = None, *, digits: int = 1) -> str:
    """A value, with half of its interval where it has one."""
    if value is None:
        return "-"
    text = f"{value:.{digits}f}"
    return text if half is None else f"{text} ± {half:.{digits}f}"


def between(row: Row, value: str, low: str, high: str) -> str:
    """A signed value with both ends of its interval."""
    if row[value] is None:
        return "-"
    ends = "" if row[low] is None else f" ({row[low]:+.1f} to {row[high]:+.1f})"
    return f"{row[value]:+.1f}{ends}"
