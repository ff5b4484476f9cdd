"""`make bench`: every figure beside its baseline, measured in the same process, and kept in a Parquet history.

    python -m tests.bench [NAME ...] [--history FILE]   only bench_NAME.py, e.g. `store sql`

Each bench_*.py has `figures()`: rows of figure, value, unit, baseline, ratio, floor, n, spread. `ratio` says how much
better than the baseline; `floor` is what the machine could do at best, from the operations and bytes of the work over
the speed of a matrix product and a copy (machine.py); `of floor` is how much of that is reached; `spread` is
(largest - smallest) / median of the repetitions.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bnsweep._version import __version__
from tests.bench import machine

HERE = Path(__file__).parent
HISTORY = Path("out") / "bench-history.parquet"
COLUMNS = {
    "figure": pa.string(),
    "value": pa.float64(),
    "unit": pa.string(),
    "baseline": pa.float64(),
    "ratio": pa.float64(),
    "floor": pa.float64(),
    "of_floor": pa.float64(),
    "n": pa.int64(),
    "spread": pa.float64(),
}


def main() -> None:
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; default: all")
    parser.add_argument("--history", type=Path, default=HISTORY, help=f"Parquet file to append to; default: {HISTORY}")
    wanted = parser.parse_args()
    if unknown := set(wanted.names) - set(known):
        parser.error(f"no bench {', '.join(sorted(unknown))}. There are: {', '.join(known)}")
    for folder in ("analysis", "noise", "store"):
        sys.path.insert(0, str(HERE.parent / folder))
    facts = machine.facts()
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    heads = f"{'baseline':>12}{'ratio':>8}{'floor':>12}{'of floor':>9}{'n':>4}{'spread':>8}"
    print(f"{'figure':<76}{'value':>12} {'unit':<10}{heads}")
    rows = [finished(row) for row in machine.rows()]
    show(rows)
    try:
        for name in wanted.names or known:
            for row in importlib.import_module(f"tests.bench.bench_{name}").figures():
                rows.append(finished(row))
                show(rows[-1:])
    finally:
        keep(rows, facts, wanted.history)


def finished(row: dict[str, Any]) -> dict[str, Any]:
    """With `of_floor`, in [0, 1]: what is reached of what the machine could do."""
    value, floor = row["value"], row.get("floor")
    share = None
    if floor:
        share = value / floor if row["unit"].endswith("/s") else floor / value
    return {**dict.fromkeys(COLUMNS), **row, "of_floor": share}


def show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(
            f"{row['figure']:<76}{shown(row['value'])} {row['unit']:<10}{shown(row['baseline'])}"
            f"{shown(row['ratio'], 8, '.2f')}{shown(row['floor'])}{shown(row['of_floor'], 9, '.0%')}"
            f"{row['n']:>4}{shown(row['spread'], 8, '.0%')}",
            flush=True,
        )


def shown(value: float | None, width: int = 12, form: str = "") -> str:
    if value is None:
        return f"{'-':>{width}}"
    return (
        f"{value:>{width}{form}}" if form else f"{value:>{width},.4g}" if abs(value) < 1000 else f"{value:>{width},.0f}"
    )


def keep(rows: list[dict[str, Any]], facts: dict[str, Any], history: Path) -> None:
    """Append to the history: a row per figure, with when, where and of what."""
    load, *_ = os.getloadavg()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    here = {
        "measured_at": datetime.now(UTC),
        "commit": commit.strip(),
        "bnsweep": __version__,
        **facts,
        "load_1min": load,
    }
    figures = pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in COLUMNS.items()})
    table = pa.Table.from_pylist([here] * len(rows))
    for name in COLUMNS:
        table = table.append_column(name, figures[name])
    if history.exists():
        table = pa.concat_tables([pq.read_table(history), table], promote_options="permissive")
    history.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, history)
    print(f"\n{len(rows)} figures appended to {history} (load at the end: {load:.1f})")


if __name__ == "__main__":
    main()
