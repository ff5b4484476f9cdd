"""How fast the store writes, compacts and opens, beside SQLite and one result.json per trial, in the same process.

    python tests/bench/bench_store.py [ROWS]

Figures "per core" are of processor time, which is the same on a busy machine but leaves out waiting for the disk.

Rows are the 39 columns of `trials`. Every way of writing ends with the rows on disk (fsync); result.json files are not
synced one by one, as Tune does not. The floor is what bare pyarrow takes to write (or read and write) the same rows,
with no keys, order, digests or log; for opening, what parsing the snapshot's JSON takes.
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bnsweep.store.location import open_files
from bnsweep.store.log import Log, LogEntry, Part
from bnsweep.store.store import Store

sys.path.insert(0, str(Path(__file__).parent.parent / "store"))
import store_rows

BATCH = 10_000  # rows per commit: what a driver gathers in a second or two
REPEATS = 3
PARTS = 10_000


def timed(work: Callable[[Path], object]) -> list[float]:
    """Seconds of each repetition, each in a folder of its own."""
    return timed_twice(work)[0]


def timed_twice(work: Callable[[Path], object]) -> tuple[list[float], list[float]]:
    """Wall seconds and processor seconds of each repetition."""
    wall, processor = [], []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            one, other = stopwatch(partial(work, Path(folder)))
            wall.append(one)
            processor.append(other)
    return wall, processor


def stopwatch(work: Callable[[], object]) -> tuple[float, float]:
    """Wall seconds and processor seconds."""
    start, begin = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - begin


def figure(name: str, unit: str, values: list[float], baseline: list[float], floor: list[float]) -> dict[str, Any]:
    """One row: the best of each, the ratio in favour of the store, and the spread between repetitions."""
    # The best: other work on the machine only ever slows.
    best = max if unit.endswith("/s") else min
    value, other = best(values), best(baseline)
    return {
        "figure": name,
        "value": value,
        "unit": unit,
        "baseline": other,
        "ratio": value / other if unit.endswith("/s") else other / value,
        "n": len(values),
        "spread": (max(values) - min(values)) / statistics.median(values),
        "floor": best(floor),
    }


def write_store(folder: Path, batches: list[pa.Table]) -> Store:
    store = Store.create(folder / "store")
    with store.claim():
        for batch in batches:
            store.commit({"trials": batch})
    return store


def write_sqlite(folder: Path, batches: list[pa.Table]) -> sqlite3.Connection:
    names = batches[0].column_names
    connection = sqlite3.connect(folder / "rows.sqlite")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"CREATE TABLE trials ({', '.join(names)}, PRIMARY KEY (point_id, trial))")
    insert = f"INSERT INTO trials VALUES ({', '.join('?' * len(names))})"
    for batch in batches:
        with connection:
            connection.executemany(insert, zip(*(plain(batch[name]) for name in names), strict=True))
    return connection


def plain(column: pa.ChunkedArray) -> list[Any]:
    """Values as SQLite and JSON take them."""
    if pa.types.is_decimal(column.type) or pa.types.is_list(column.type):
        return [None if value is None else str(value) for value in column.to_pylist()]
    if pa.types.is_timestamp(column.type):
        return column.cast(pa.int64()).to_pylist()  # type: ignore[no-any-return]
    return column.to_pylist()  # type: ignore[no-any-return]


def write_json(folder: Path, rows: pa.Table) -> None:
    columns = {name: plain(rows[name]) for name in rows.column_names}
    for number in range(rows.num_rows):
        trial = folder / f"trial_{number:06d}"
        trial.mkdir()
        record = {name: values[number] for name, values in columns.items()}
        (trial / "result.json").write_text(json.dumps(record) + "\n")
    os.sync()


def bare_write(folder: Path, batches: list[pa.Table]) -> None:
    for number, batch in enumerate(batches):
        pq.write_table(batch, folder / f"{number}.parquet", compression="zstd")


def bare_rewrite(paths: list[str]) -> None:
    table = pa.concat_tables([pq.read_table(path) for path in paths], promote_options="permissive")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")


def rates(rows: int, seconds: list[float]) -> list[float]:
    return [rows / each for each in seconds]


def writing(batches: list[pa.Table]) -> Iterator[dict[str, Any]]:
    rows = sum(batch.num_rows for batch in batches)
    few, trial_files = batches[: max(1, len(batches) // 10)], batches[0].slice(0, 2_000)
    few_rows = sum(batch.num_rows for batch in few)
    ours = timed_twice(lambda folder: write_store(folder, batches))
    floor = timed_twice(lambda folder: bare_write(folder, batches))
    sqlite = timed_twice(lambda folder: write_sqlite(folder, few).close())
    files = timed_twice(lambda folder: write_json(folder, trial_files))
    for clock, what in enumerate(("", ", per core")):
        mine, least = rates(rows, ours[clock]), rates(rows, floor[clock])
        theirs, singles = rates(few_rows, sqlite[clock]), rates(trial_files.num_rows, files[clock])
        yield figure(f"store: rows written{what}, against SQLite", "rows/s", mine, theirs, least)
        yield figure(f"store: rows written{what}, against one result.json a trial", "rows/s", mine, singles, least)


def compacting(batches: list[pa.Table]) -> Iterator[dict[str, Any]]:
    rows = sum(batch.num_rows for batch in batches)
    few = batches[: max(1, len(batches) // 10)]
    found = [_compacted(batches, few) for _ in range(REPEATS)]
    for clock, what in enumerate(("", ", per core")):
        ours, floor, sqlite = ([each[way][clock] for each in found] for way in range(3))
        theirs = rates(sum(batch.num_rows for batch in few), sqlite)
        name = f"store: rows compacted{what}, against SQLite's GROUP BY key"
        yield figure(name, "rows/s", rates(rows, ours), theirs, rates(rows, floor))


def _compacted(batches: list[pa.Table], few: list[pa.Table]) -> list[tuple[float, float]]:
    """Wall and processor seconds of our compaction, of reading and writing alone, and of SQLite's."""
    with tempfile.TemporaryDirectory() as folder:
        store = write_store(Path(folder), batches)
        floor = stopwatch(partial(bare_rewrite, store.part_paths("trials")))
        ours = stopwatch(store.compact)
        connection = write_sqlite(Path(folder), few)

        def merge() -> None:
            connection.execute("CREATE TABLE merged AS SELECT * FROM trials GROUP BY point_id, trial")
            connection.commit()

        sqlite = stopwatch(merge)
        connection.close()
    return [ours, floor, sqlite]


def opening() -> list[dict[str, Any]]:
    """A store of 10,000 parts with the longest tail of entries after its snapshot that occurs."""
    parts = [Part(f"parts/trials/{n:032x}.parquet", "trials", 100, 12_345, f"{n:064x}") for n in range(PARTS)]
    tail = PARTS // 64 - 1
    with tempfile.TemporaryDirectory() as folder:
        Store.create(folder)
        log = Log(open_files(folder))
        log.publish(lambda _: LogEntry("commit", add=tuple(parts[:-tail])))
        log.snapshot()
        for part in parts[-tail:]:
            log.publish(lambda _, part=part: LogEntry("commit", add=(part,)))  # type: ignore[misc]
        snapshot = max(Path(folder, "log").glob("*.snapshot.json"))
        ours, floor = [], []
        for _ in range(5 * REPEATS):
            start = time.perf_counter()
            assert len(Store.open(folder).parts("trials")) == PARTS
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            json.loads(snapshot.read_bytes().split(b"\n")[0])
            floor.append(time.perf_counter() - start)
    files = reading_result_files()
    return [figure("store: open 10,000 parts, against reading 10,000 result.json", "s", ours, files, floor)]


def reading_result_files() -> list[float]:
    """Seconds to read what Tune's users read when they open an experiment."""
    record = json.dumps({name: values[0] for name, values in store_rows.trials(1).to_pydict().items()}, default=str)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(PARTS):
            Path(folder, f"{number}.json").write_text(record)

        def read(_: Path) -> None:
            for path in Path(folder).iterdir():
                json.loads(path.read_text())

        return timed(read)


def figures(rows: int = 2_000_000) -> Iterator[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread."""
    batches = [store_rows.trials(BATCH, start=start) for start in range(0, rows, BATCH)]
    yield from writing(batches)
    yield from compacting(batches)
    yield from opening()


if __name__ == "__main__":
    for row in figures(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000):
        print(row)
