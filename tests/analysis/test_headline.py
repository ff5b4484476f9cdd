"""What is said first of a sweep, in a terminal and in a report, where rows are missing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import synthetic

from bnsweep.analysis.attribution import attribution_paragraph
from bnsweep.analysis.database import open_database
from bnsweep.analysis.headline import accuracy_table
from bnsweep.analysis.inputs import read_inputs
from bnsweep.analysis.sentences import headline
from bnsweep.store.store import Store

ALL = pc.scalar(True)


def stored(folder: Path, tables: dict[str, pa.Table], keep: pc.Expression = ALL) -> Store:
    """A store of these tables; of trials and points only those to `keep`."""
    store = Store.create(folder)
    cut = {name: rows.filter(keep) for name, rows in tables.items() if name in ("trials", "points")}
    store.commit({**tables, **cut})
    return store


def test_a_lost_block_leaves_its_network_one_line(tmp_path: Path) -> None:
    # The block that is lost: the third seed of resnet20 with the first four BN layers, noise on weights at 40 %.
    with open_database(stored(tmp_path / "store", synthetic.tables(trials=4, seeds=3)), threads=1) as database:
        rows = accuracy_table(database).to_dicts()
    names = [tuple(row[name] for name in ("model", "placement", "targets", "bn_treatment")) for row in rows]
    assert len(set(names)) == len(names) == 2 * 3 * len(synthetic.CELLS)
    seeds = {name: row["seeds"] for name, row in zip(names, rows, strict=True)}
    assert seeds.pop(("resnet20", "first: 4", "weights", "stale")) == "2 to 3"
    assert set(seeds.values()) == {"3"}
    assert all(row[f"eta={eta:g}"] for row in rows for eta in map(float, synthetic.ETAS))


def test_without_clean_rows_nothing_is_attributed(tmp_path: Path) -> None:
    tables = synthetic.tables(models=("resnet8",), trials=4, partial=False, failures=False)
    noisy = pc.field("eta").cast("float64") > 0
    with open_database(stored(tmp_path / "all", tables), threads=1) as database:
        assert "resnet8 on digits with BN everywhere" in attribution_paragraph(database)
    with open_database(stored(tmp_path / "noisy", tables, noisy), threads=1) as database:
        assert attribution_paragraph(database) == ""


def test_a_sweep_without_noise_is_told_as_one(tmp_path: Path) -> None:
    tables = synthetic.tables(models=("resnet8",), trials=4, partial=False, failures=False)
    clean = pc.field("eta").cast("float64") == 0
    with open_database(stored(tmp_path / "store", tables, clean), threads=1) as database:
        (said,) = headline(read_inputs(database))
    assert said.startswith("No η above 0 was measured for this sweep")
