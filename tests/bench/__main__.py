"""`make bench`: every figure beside its baseline, measured in the same process, and kept in a Parquet history.

    python -m tests.bench [NAME ...]   only bench_NAME.py, e.g. `store sql`

Each bench_*.py has `figures()`: rows of figure, value, unit, baseline, ratio, n, spread, floor. `ratio` says how much
better than the baseline; `floor` is what the machine could do at best; `spread` is (largest - smallest) / median.
"""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bnsweep._version import __version__

HERE = Path(__file__).parent
HISTORY = Path("out") / "bench-history.parquet"


def main(names: list[str]) -> None:
    known = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    unknown = set(names) - set(known)
    if unknown:
        sys.exit(f"no bench {', '.join(sorted(unknown))}. There are: {', '.join(known)}")
    for folder in ("analysis", "noise", "store"):
        sys.path.insert(0, str(HERE.parent / folder))
    print(f"{'figure':<72}{'value':>14} {'unit':<10}{'baseline':>14}{'ratio':>8}{'floor':>14}{'n':>5}{'spread':>8}")
    rows = []
    for name in names or known:
        for row in importlib.import_module(f"tests.bench.bench_{name}").figures():
            rows.append(row)
            print(
                f"{row['figure']:<72}{shown(row['value'])} {row['unit']:<10}{shown(row['baseline'])}"
                f"{row['ratio']:>8.2f}{shown(row['floor'])}{row['n']:>5}{row['spread']:>8.0%}",
                flush=True,
            )
    keep(rows)


def shown(value: float | None) -> str:
    return f"{'-':>14}" if value is None else f"{value:>14,.4g}" if abs(value) < 1000 else f"{value:>14,.0f}"


def keep(rows: list[dict[str, Any]]) -> None:
    """Append to the history: a row per figure, with when, where and of what."""
    load, *_ = os.getloadavg()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    facts = {
        "measured_at": datetime.now(UTC),
        "commit": commit.strip(),
        "bnsweep": __version__,
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_1min": load,
    }
    columns = ("figure", "value", "unit", "baseline", "ratio", "floor", "n", "spread")
    table = pa.Table.from_pylist([{**facts, **{name: row.get(name) for name in columns}} for row in rows])
    if HISTORY.exists():
        table = pa.concat_tables([pq.read_table(HISTORY), table], promote_options="permissive")
    HISTORY.parent.mkdir(exist_ok=True)
    pq.write_table(table, HISTORY)
    print(f"\n{len(rows)} figures appended to {HISTORY} (load at the end: {load:.1f})")


if __name__ == "__main__":
    main(sys.argv[1:])
