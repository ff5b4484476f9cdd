"""Rows that were committed twice are counted once, however the tables are read."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st

from bnsweep.analysis import database as module
from bnsweep.analysis.database import open_database
from bnsweep.analysis.repeated import has_repeated_keys
from bnsweep.store.store import Store

KEYS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 6)), max_size=30)


@settings(max_examples=100, deadline=None)
@given(keys=KEYS)
def test_repeated_keys_are_found_whatever_is_there(keys: list[tuple[str, int]]) -> None:
    trials = pa.table(
        {
            "point_id": pa.array([point for point, _ in keys], pa.string()),
            "trial": pa.array([trial for _, trial in keys], pa.int32()),
        }
    )
    connection = duckdb.connect()
    connection.register("rows", trials)
    assert has_repeated_keys(connection, "trials", "rows") == (len(set(keys)) < len(keys))
    connection.close()


@pytest.mark.parametrize("way", ["memory", "parts", "dataset"])
def test_sql_sees_the_first_committed_of_each_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(module, "IN_MEMORY_ROWS", 10**6 if way == "memory" else 0)
    store = Store.create(tmp_path / ("store [1]*" if way == "dataset" else "store"))
    tables = synthetic.tables(trials=3, seeds=2, models=("resnet8",))
    store.commit(tables)
    trials, epochs = tables["trials"], tables["epochs"]
    wrong = trials.column_names.index("correct")
    again = trials.slice(0, trials.num_rows // 2).set_column(
        wrong, "correct", pa.repeat(pa.scalar(0, pa.int32()), trials.num_rows // 2)
    )
    asked = (
        "SELECT point_id, count(*), sum(correct) FROM trials GROUP BY ALL ORDER BY ALL",
        "SELECT count(*) FROM epochs",
    )
    with open_database(store) as database:
        before = [database.sql(sql).rows for sql in asked]
    assert sum(count for _, count, _ in before[0]) == trials.num_rows
    store.commit({"trials": again.drop_columns("committed_at"), "epochs": epochs.slice(1).drop_columns("committed_at")})
    assert store.rows("trials") > trials.num_rows
    with open_database(store) as database:
        assert [database.sql(sql).rows for sql in asked] == before
