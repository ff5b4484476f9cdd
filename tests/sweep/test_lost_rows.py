"""Parts of a store that are damaged and set aside: what the next run brings back, and what stays lost."""

import odd_network
import pytest
from sweep_helpers import lose, rows

from bnsweep.analysis.database import open_database
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.store.compact import compact
from bnsweep.store.export import copy_rows
from bnsweep.store.merge import merge
from bnsweep.store.store import Store
from bnsweep.store.verify import verify
from bnsweep.sweep import recording
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.plan_rows import record_plan

ODD = """\
name: odd
data: {source: digits, train_images: 200, test_images: 100}
models: import:odd_network:make
placements: [all, none]
training: {epochs: 1, batch_size: 50, chance_epochs: null}
eta: [0.1]
trials: 4
"""


def record(store, text, root):
    plan = make_plan(parse_spec(text), LocalCatalog(root))
    record_plan(store, plan, text=text)


def asked_for(store):
    """What its sweep asks for and has, as every answer has it."""
    with open_database(store) as database:
        return [(row["planned"], row["done"]) for row in database.query("sweeps").to_dicts()]


@pytest.mark.parametrize("tables", [("points",), ("sweeps",), ("points", "sweeps")])
@pytest.mark.parametrize("compacted", [False, True])
def test_what_is_planned_is_written_again(tmp_path, tiny, tables, compacted):
    """Of a sweep in two versions, the newest of which has 8 points of the 12 before; no row comes twice."""
    store, shrunk = Store.create(tmp_path / "store"), tiny.replace("[0, 0.1, 0.3]", "[0, 0.1]")
    for text in (tiny, shrunk):
        record(store, text, tmp_path)
    if compacted:
        compact(store)
    before = [row["point_id"] for row in rows(store.location, "points")]
    lose(store.location, *tables)
    for _ in range(2):
        record(store.refresh(), shrunk, tmp_path)
    assert asked_for(store) == [(8, 0)]
    found = verify(store)
    assert (found.problems, found.planned) == ([], 8)
    after = [row["point_id"] for row in rows(store.location, "points")]
    assert sorted(set(after)) == sorted(set(before)) if "points" not in tables else len(after) == 8


@pytest.mark.parametrize("of_run", [0, 1])
def test_what_is_left_of_a_plan_is_kept(tmp_path, tiny, of_run):
    whole, store = Store.create(tmp_path / "whole"), Store.create(tmp_path / "store")
    record(whole, tiny, tmp_path)
    points = whole.read("points")
    left = points.filter(
        [run_id == points["run_id"].unique()[of_run].as_py() for run_id in points["run_id"].to_pylist()]
    )
    (kept,) = store.commit({"points": left.slice(2)})
    store.commit({"sweeps": whole.read("sweeps")})
    record(store, tiny, tmp_path)
    assert rows(store.location, "points") == rows(whole.location, "points")
    assert store.rows("sweeps") == 1
    assert sorted(part.rows for part in store.parts("points")) == [4, 8]
    assert kept in store.parts("points")


def test_trials_of_a_lost_run_are_not_taken_for_those_of_its_next_network(tmp_path, run, monkeypatch):
    """Another processor trains another network, and nobody can tell any more which one the trials are of."""
    store = tmp_path / "store"
    run(ODD, store)
    lose(store, "runs")
    monkeypatch.setattr(odd_network, "SCALE", 1.001)
    assert run(ODD, store).trials_done == 2 * (1 + 4)
    fresh = tmp_path / "fresh"
    run(ODD, fresh)
    for table in ("runs", "epochs", "trials"):
        assert rows(store, table) == rows(fresh, table)
    assert verify(Store.open(store)).problems == []
    assert list((store / "quarantine").rglob("trials/*.parquet"))


def test_epochs_of_a_lost_run_do_not_come_twice(tmp_path, run, monkeypatch):
    """They were committed run by run, and now come in one commit."""
    store = tmp_path / "store"
    monkeypatch.setattr(recording, "COMMIT_S", 0.0)
    run(ODD, store)
    lose(store, "runs")
    monkeypatch.setattr(recording, "COMMIT_S", 1000.0)
    run(ODD, store)
    assert len(rows(store, "epochs")) == 2
    assert verify(Store.open(store)).problems == []


def test_epochs_that_were_lost_stay_lost_and_come_with_a_copy(tmp_path, run):
    store, copy = tmp_path / "store", tmp_path / "copy"
    run(ODD, store)
    copy_rows(Store.open(store), copy)
    before = rows(store, "epochs")
    lose(store, "epochs")
    run(ODD, store)
    assert rows(store, "epochs") == []
    merge(Store.open(store), Store.open(copy))
    assert rows(store, "epochs") == before
    assert verify(Store.open(store)).problems == []
