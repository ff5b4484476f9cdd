"""Questions to stores that lack something, or hold more than one experiment: published rows, cut and put together."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from bnsweep.analysis import database as databases
from bnsweep.analysis.claims import judge
from bnsweep.analysis.database import Database, open_database, open_snapshot, write_snapshot
from bnsweep.analysis.inputs import read_inputs
from bnsweep.analysis.reader import _workers
from bnsweep.analysis.sentences import attribution, headline
from bnsweep.analysis.tables import _brief
from bnsweep.store.schema import SCHEMAS
from bnsweep.store.store import Store
from tests.results.published import ROOT, STORES


def cut(source: Store, folder: Path, table: str, keep: pc.Expression) -> Store:
    """The rows of a store, but for some of one table."""
    store = Store.create(folder)
    store.commit({name: source.read(name, filter=keep if name == table else None) for name in SCHEMAS})
    return store


def differences(database: Database) -> dict[str, float]:
    """ResNet-8's A_avr with BN everywhere less that without, by recipe, from the claim's rows: mean over seeds."""
    found = defaultdict(list)
    for row in database.query("claim_depth").to_dicts():
        if row["part"].startswith("difference"):
            found[row["model"]].append(row["value_pct"])
    return {model: sum(values) / len(values) for model, values in found.items()}


def test_networks_are_compared_with_those_of_their_own_recipe() -> None:
    with open_database(Store.open(ROOT / STORES["cifar10-puzzles"])) as database:
        effects = {
            row["training"]: row["effect_points"]
            for row in database.query("bn_effect").to_dicts()
            if (row["model"], row["targets"], row["bn_treatment"]) == ("resnet8", "weights", "stale")
        }
        told = {model.split()[-1]: value for model, value in differences(database).items()}
    assert len(effects) == 3
    assert {training: told[training] for training in effects} == pytest.approx(effects)


def test_a_network_without_clean_rows_is_left_out_of_what_is_said(tmp_path: Path) -> None:
    source = Store.open(ROOT / STORES["cifar10-vgg16"])
    store = cut(source, tmp_path / "store", "trials", pc.field("eta").cast("float64") > 0)
    with open_database(source) as whole, open_database(store) as database:
        assert list(attribution(read_inputs(whole).losses))
        assert list(attribution(read_inputs(database).losses)) == []
        assert list(headline(read_inputs(database)))


def test_a_run_that_was_scored_twice_is_one_network(tmp_path: Path) -> None:
    source = Store.open(ROOT / STORES["cifar10-full"])
    store = cut(source, tmp_path / "store", "trials", pc.scalar(True))
    again = {
        name: rows.set_column(
            rows.schema.get_field_index("point_id"), "point_id", pc.binary_join_element_wise(rows["point_id"], "x", "")
        )
        for name, rows in ((name, source.read(name)) for name in ("points", "trials"))
    }
    for name, rows in again.items():
        fp32 = pa.array(["fp32"] * rows.num_rows, rows.schema.field("precision").type)
        again[name] = rows.set_column(rows.schema.get_field_index("precision"), rows.schema.field("precision"), fp32)
    store.commit(again)
    with open_database(source) as once, open_database(store) as twice:
        first, both = (base.query("gradient_noise_correlation").to_dicts() for base in (once, twice))
    assert {row["networks"] for row in both} == {row["networks"] for row in first} == {6}
    assert len(both) == 2 * len(first)


def test_a_snapshot_counts_rows_of_large_tables_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Store.open(ROOT / STORES["cifar10-vgg16"])
    store = cut(source, tmp_path / "store", "trials", pc.scalar(True))
    store.commit({"trials": source.read("trials").slice(0, 1000)})
    assert store.rows("trials") == source.rows("trials") + 1000
    monkeypatch.setattr(databases, "IN_MEMORY_ROWS", 100)
    write_snapshot(store, tmp_path / "snapshot")
    with open_snapshot(tmp_path / "snapshot") as database:
        assert database.sql("SELECT count(*) AS n FROM trials").to_dicts() == [{"n": source.rows("trials")}]


def test_a_worker_is_not_busier_than_the_clock() -> None:
    spans = [(0.0, 10.0), (5.0, 8.0), (20.0, 25.0), (9.0, 12.0)]  # rounds of points take turns
    rows = [{"worker": "w", "kind": "trials", "trials": 4, "start_s": start, "end_s": end} for start, end in spans]
    (worker,) = _workers(rows)
    assert (worker["blocks"], worker["trials"], worker["busy_s"]) == (4, 16, 17.0)


def test_a_part_that_is_contradicted_is_named_in_short() -> None:
    with open_database(Store.open(ROOT / STORES["cifar10-sgd"])) as database:
        (verdict,) = (each for each in judge(database) if each.name == "treatments")
    assert _brief(verdict.reason) == "supported: BN stale, BN folded; contradicted: BN recalibrated"
