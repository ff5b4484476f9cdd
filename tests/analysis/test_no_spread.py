"""Draws and networks that agree to the image: few values without spread are no proof that there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import synthetic

from bnsweep.analysis.database import open_database
from bnsweep.analysis.statistics import paired_interval
from bnsweep.store.schema import SCHEMAS
from bnsweep.store.store import Store

Row = dict[str, Any]
Tables = dict[str, pa.Table]
IMAGES = synthetic.TEST_IMAGES


def scored(correct: Callable[[Row], int | None], *, trials: int = 2, seeds: int = 1) -> Tables:
    """One network with BN everywhere and without; `correct` images of the trials that it has a number for."""
    tables = synthetic.tables(models=("resnet8",), trials=trials, seeds=seeds, partial=False, failures=False)
    rows = tables["trials"].to_pylist()
    for row in rows:
        if (count := correct(row)) is not None:
            row |= {"correct": count, "accuracy": count / row["images"]}
    return {**tables, "trials": pa.Table.from_pylist(rows, schema=SCHEMAS["trials"])}


def answer(folder: Path, tables: Tables, query: str, **wanted: object) -> list[Row]:
    """The rows of a query with the wanted values."""
    store = Store.create(folder)
    store.commit(tables)
    with open_database(store, threads=1) as database:
        return [row for row in database.query(query).to_dicts() if wanted.items() <= row.items()]


def test_two_equal_differences_are_no_narrower_interval(tmp_path: Path) -> None:
    # 0.7 - 0.4 and 0.6 - 0.3 are one difference, but not to a computer.
    sides = {"all": (0.7, 0.6), "none": (0.4, 0.3)}
    assert 0.7 - 0.4 != 0.6 - 0.3
    tables = scored(lambda row: None if row["eta"] == 0 else round(sides[row["placement"]][row["trial"]] * IMAGES))
    rows = answer(tmp_path / "store", tables, "paired", targets="weights", bn_treatment="stale")
    assert {row["narrower"] for row in rows if row["eta"] > 0} == {None}
    _, narrower = paired_interval([sides["all"]], [sides["none"]])
    assert math.isnan(narrower)
