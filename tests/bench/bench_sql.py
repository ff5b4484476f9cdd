"""How fast the store answers, beside one pass of DuckDB over the same column and beside SQLite.

    python tests/bench/bench_sql.py [ROWS]

`average_normalized` (Table IV, with intervals) over synthetic trials in Parquet parts, on two threads. Baseline: the
plain mean per network in SQLite, whose table and index are made beforehand and not counted. Floor: reading the accuracy
column and adding it up, which every answer has to do. The best of the repetitions; "per core" is processor time
over the number of threads: what it takes where nobody else works.
"""

from __future__ import annotations

import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bnsweep.analysis.database import open_database
from bnsweep.store.store import Store

sys.path.insert(0, str(Path(__file__).parent))
import synthetic_store

THREADS = 2
REPEATS = 5
SQLITE_ROWS = 1_000_000  # its time is proportional; 10 million rows take minutes to load


def figures(rows: int = 10_000_000) -> Iterator[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread."""
    with tempfile.TemporaryDirectory() as folder:
        yield from asked(synthetic_store.build(Path(folder) / "store", rows), Path(folder))


def asked(store: Store, folder: Path) -> Iterator[dict[str, Any]]:
    """The figures of one store."""
    start = time.perf_counter()
    database = open_database(store, threads=THREADS)
    opened = [time.perf_counter() - start]
    ours = timed(lambda: database.query("average_normalized"))
    floor = timed(lambda: database.sql("SELECT sum(accuracy) FROM trials", time_limit_s=None))
    baseline = in_sqlite(store, folder / "rows.sqlite")
    for clock, what in enumerate(("", " per core")):
        name = f"SQL: average_normalized{what}, {store.rows('trials'):,} rows, against SQLite"
        yield figure(name, ours[clock], baseline, floor[clock])
    rows, points = store.rows("trials"), store.rows("points")
    yield {**figure(f"SQL: open {rows:,} rows with {points:,} points", opened, opened, floor[0]), "ratio": None}


def timed(work: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Wall seconds, and processor seconds of each thread, of each repetition after one that is not counted."""
    work()
    wall, processor = [], []
    for _ in range(REPEATS):
        start, begin = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start)
        processor.append((time.process_time() - begin) / THREADS)
    return wall, processor


def in_sqlite(store: Store, path: Path) -> list[float]:
    """Seconds for A_avr in SQLite, scaled to all rows."""
    names = ("run_id", "targets", "bn_treatment", "eta", "accuracy")
    table = store.dataset("trials").head(SQLITE_ROWS, columns=list(names))
    columns = [table[name].to_pylist() for name in names]
    columns[3] = [float(eta) for eta in columns[3]]
    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE trials ({', '.join(names)})")
    connection.executemany("INSERT INTO trials VALUES (?, ?, ?, ?, ?)", zip(*columns, strict=True))
    connection.execute("CREATE INDEX points ON trials (run_id, targets, bn_treatment, eta, accuracy)")
    connection.commit()
    sql = """
        WITH point AS (
            SELECT run_id, targets, bn_treatment, eta, avg(accuracy) AS a FROM trials GROUP BY 1, 2, 3, 4
        )
        SELECT p.run_id, p.targets, p.bn_treatment, avg(p.a / b.a)
        FROM point p JOIN point b USING (run_id, targets, bn_treatment)
        WHERE p.eta > 0 AND b.eta = 0 GROUP BY 1, 2, 3
    """
    scale = store.rows("trials") / table.num_rows
    seconds, _ = timed(lambda: connection.execute(sql).fetchall())
    connection.close()
    return [each * scale for each in seconds]


def figure(name: str, values: list[float], baseline: list[float], floor: list[float]) -> dict[str, Any]:
    """One row: the best of each, the ratio in favour of bnsweep, and the spread between repetitions."""
    value = min(values)
    return {
        "figure": name,
        "value": value,
        "unit": "s",
        "baseline": min(baseline),
        "ratio": min(baseline) / value,
        "n": len(values),
        "spread": (max(values) - min(values)) / statistics.median(values),
        "floor": min(floor),
    }


if __name__ == "__main__":
    for row in figures(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000):
        print(row)
