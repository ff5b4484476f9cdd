from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import store_rows

from bnsweep.errors import StoreClaimedError, StoreDamagedError
from bnsweep.store.attempts import set_aside_all_older, set_aside_unowned
from bnsweep.store.compact import compact
from bnsweep.store.filesystem import Files, LocalFiles
from bnsweep.store.log import Part
from bnsweep.store.store import Store
from bnsweep.store.verify import verify, verify_location


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """5 points of 20 trials planned; 3 of them done, in two parts."""
    store = Store.create(tmp_path / "store")
    sha256 = store.put_network(store_rows.runs(1)["run_id"][0].as_py(), b"weights")
    store.commit({"points": store_rows.points(5), "runs": store_rows.runs(1, checkpoint_sha256=sha256)})
    store.commit({"trials": store_rows.trials(40)})
    store.commit({"trials": store_rows.trials(30, start=40)})
    return store


def test_a_whole_store(store: Store) -> None:
    result = verify(store)
    assert result.ok
    assert (result.parts, result.rows, result.networks) == (4, 76, 1)
    assert (result.planned, result.done, result.failed, result.missing) == (5, 3, 0, 2)
    assert not result.complete
    assert "5 points planned = 3 done + 0 failed + 2 missing" in str(result)
    assert result.to_dict()["ok"] is True


def test_a_point_whose_block_or_training_failed_is_failed(store: Store) -> None:
    point = store_rows.points(5)["point_id"]
    store.commit({"failures": store_rows.failures(1, point_id=point[4].as_py(), first_trial=0, trials=20)})
    result = verify(store)
    assert (result.done, result.failed, result.missing) == (3, 1, 1)
    store.commit({"points": store_rows.points(2, start=50), "runs": store_rows.runs(1, start=1, status="diverged")})
    result = verify(store)  # the second run has no network, so its two points cannot be had
    assert (result.planned, result.done, result.failed, result.missing) == (7, 3, 3, 1)
    store.commit({"trials": store_rows.trials(20, start=80)})
    assert (verify(store).done, verify(store).failed) == (4, 2)  # the block was tried again, and done


def test_points_of_a_plan_that_was_replaced_are_not_missing(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "shrunk")
    for revision, points in ((1, 8), (2, 3)):
        version = {"sweep": "test", "revision": revision, "spec_sha256": f"spec {revision}"}
        rows = store_rows.points(points)
        rows = rows.set_column(1, "spec_sha256", pa.repeat(f"spec {revision}", points))
        store.commit({"sweeps": store_rows.build("sweeps", 1, version), "points": rows})
    assert verify(store).planned == 3


def key_digest(part: Part) -> str:
    """The half of a part's name that its rows' keys give; the other is of its bytes, which hold times."""
    return Path(part.path).name[:32]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "other"])
def test_a_bad_part_is_found_and_set_aside(store: Store, damage: str) -> None:
    bad = store.parts("trials")[1]
    path = Path(store.location, bad.path)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "other":
        pq.write_table(pa.table({"x": [1]}), path)
    else:
        path.unlink()
    result = verify(store)
    assert not result.ok
    assert [(problem.kind, problem.where) for problem in result.problems] == [("part", bad.path)]
    if damage != "flip":  # a page's checksum covers its values, not the file's other bytes
        with pytest.raises(StoreDamagedError, match=path.name):
            store.read("trials")
    repaired = verify(store, repair=True)
    assert repaired.ok
    assert "run again" in repaired.problems[0].repaired
    assert (repaired.done, repaired.missing) == (2, 3)
    assert verify(store).problems == []
    assert bool(list(Path(store.location, "quarantine").rglob("*.parquet"))) == (damage != "gone")
    store.commit({"trials": store_rows.trials(30, start=40)})  # what the next run does
    assert verify(store).done == 3
    assert key_digest(store.parts("trials")[-1]) == key_digest(bad)


def unreadable(path: Path) -> None:
    """A file in whose place the disk gives an error: reading /proc/self/mem from its start does."""
    path.unlink()
    path.symlink_to("/proc/self/mem")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
def test_what_the_disk_cannot_read_is_found_with_all_else_and_set_aside(store: Store) -> None:
    network = next(Path(store.location, "networks").iterdir())
    first, second = (Path(store.location, part.path) for part in store.parts("trials"))
    unreadable(network)
    unreadable(first)
    second.write_bytes(b"PAR1")
    result = verify(store)
    assert [problem.kind for problem in result.problems] == ["part", "part", "network"]
    assert "Input/output error" in result.problems[0].message
    assert (result.planned, result.missing) == (5, 5)
    assert verify(store, repair=True).ok
    aside = {path.name for path in Path(store.location, "quarantine").rglob("*") if not path.is_dir()}
    assert aside == {network.name, first.name, second.name}
    store.put_network(store.read("runs")["run_id"][0].as_py(), b"weights")
    store.commit({"trials": store_rows.trials(70)})
    assert verify(store).problems == []


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("name", "kind"), [("log/000000000004.json", "log"), ("bnsweep-store.json", "head")])
def test_a_store_that_the_disk_does_not_let_open_is_repaired(store: Store, name: str, kind: str) -> None:
    unreadable(Path(store.location, name))
    (problem,) = verify_location(store.location).problems
    assert "Input/output error" in problem.message
    assert [found.kind for found in verify_location(store.location, repair=True).problems] == [kind]
    assert verify_location(store.location).ok


class MovesAsBucketsDo(LocalFiles):
    """By reading and writing again."""

    def move(self, name: str, to: str) -> None:
        Files.move(self, name, to)


def test_what_cannot_be_set_aside_stays_a_problem_and_nothing_is_lost(store: Store) -> None:
    """In a bucket what cannot be read cannot be moved either, and may be whole."""
    store.commit({"trials": store_rows.trials(10)})  # which are there already
    path = Path(store.location, store.parts("trials")[1].path)
    data = path.read_bytes()
    path.unlink()
    path.mkdir()
    result = verify(Store(MovesAsBucketsDo(Path(store.location)), store.version), repair=True)
    assert [problem.kind for problem in result.problems if not problem.repaired] == [
        "part",
        "duplicates",
        "disagreement",
    ]
    path.rmdir()
    path.write_bytes(data)
    assert verify(store, repair=True).ok
    assert store.rows("trials") == 70


@pytest.mark.parametrize("table", ["epochs", "probes", "failures"])
def test_no_run_is_promised_to_compute_rows_again_that_it_does_not(store: Store, table: str) -> None:
    rows = {
        "epochs": store_rows.build("epochs", 3, {"run_id": "a", "epoch": [1, 2, 3]}),
        "probes": store_rows.build("probes", 1, {"run_id": "a", "epoch": 1, "probe": "b", "site": ""}),
        "failures": store_rows.failures(1),
    }
    (part,) = store.commit({table: rows[table]})
    Path(store.location, part.path).unlink()
    (problem,) = verify(store, repair=True).problems
    assert f"but its {part.rows} rows are lost" in problem.message
    assert problem.repaired == "set aside"


def test_what_runs_without_a_row_have_is_set_aside(store: Store) -> None:
    """Trials of a run that gave no network, as far as rows say; epochs of one that has not ended."""
    owner, failed, lost = (store_rows.runs(1, start=number)["run_id"][0].as_py() for number in range(3))
    store.commit({"runs": store_rows.runs(1, start=1, status="failed", checkpoint_sha256=None)})
    store.commit({"trials": store_rows.trials(40, start=1000)})
    store.commit({"epochs": store_rows.build("epochs", 3, {"run_id": [owner, failed, lost], "epoch": 1})})
    for _ in range(2):
        with store.claim():
            set_aside_unowned(store, {owner, failed, lost})
        assert set(store.read("trials")["run_id"].to_pylist()) == {owner}
        assert store.read("epochs")["run_id"].to_pylist() == [owner]
    aside = {path.parent.name: pq.read_table(path).num_rows for path in Path(store.location).rglob("rows.parquet")}
    assert aside == {"trials": 40, "epochs": 2}


def test_rows_of_earlier_networks_of_some_runs_are_set_aside(store: Store) -> None:
    run_ids = [store_rows.runs(1, start=number)["run_id"][0].as_py() for number in (1, 2)]
    for number, attempt in ((1, 1), (1, 2), (2, 1), (2, 2)):
        made = {"attempt": attempt, "checkpoint_sha256": f"{attempt:064x}"}
        store.commit({"runs": store_rows.runs(1, start=number, **made)})
    with store.claim():
        (told,) = set_aside_all_older(store, [run_ids[1]])
        assert (told.run_id, told.sha256, told.others) == (run_ids[1], f"{2:064x}", (1,))
        assert store.rows("runs") == 4
        assert {run.run_id: run.others for run in set_aside_all_older(store)}.items() >= {(run_ids[0], (1,))}
        assert [run.others for run in set_aside_all_older(store)] == [()] * 3
    assert store.rows("runs") == 3


def test_repeated_and_disagreeing_rows(store: Store) -> None:
    store.commit({"trials": store_rows.trials(10)})  # ten of the first forty, with the same random numbers?
    compact(store, grace_s=0)
    assert verify(store).ok
    store.commit({"trials": store_rows.trials(10, seed=5)})
    result = verify(store)
    assert [problem.kind for problem in result.problems] == ["duplicates", "disagreement"]
    assert "10 rows of trials have the key of another row" in result.problems[0].message
    assert "not deterministic" in result.problems[1].message
    repaired = verify(store, repair=True)
    assert repaired.ok
    assert verify(store).problems == []
    (kept,) = Path(store.location, "quarantine").rglob("trials.parquet")
    assert pq.read_table(kept).num_rows == 20
    assert store.rows("trials") == 70


def test_rows_that_differ_in_volatile_columns_only_agree(store: Store) -> None:
    rows = store_rows.trials(40)
    worker = rows.column_names.index("worker")
    elsewhere = rows.set_column(worker, "worker", pa.array(["node-2:1"] * 40))
    store.commit({"trials": elsewhere.slice(0, 20)})
    assert [problem.kind for problem in verify(store).problems] == ["duplicates"]


def test_a_damaged_network_is_found_and_set_aside(store: Store) -> None:
    (path,) = Path(store.location, "networks").iterdir()
    path.write_bytes(b"Weights")
    assert [problem.kind for problem in verify(store).problems] == ["network"]
    assert verify(store, repair=True).ok
    assert not path.exists()
    assert not verify(store).ok  # lost, until it is trained again
    store.put_network(store.read("runs")["run_id"][0].as_py(), b"weights")
    assert verify(store).ok


def test_attempts_that_gave_different_networks_are_found_and_the_older_rows_set_aside(store: Store) -> None:
    run_id = store.read("runs")["run_id"][0].as_py()
    store.commit({"points": store_rows.points(1, start=50), "trials": store_rows.trials(20, start=1000)})  # of another
    sha256 = store.put_network(run_id, b"weights of another processor")
    store.commit({"runs": store_rows.runs(1, attempt=2, checkpoint_sha256=sha256)})
    store.commit({"trials": store_rows.trials(10, start=70)})  # made on the newer network
    assert store.rows("trials") == 100
    result = verify(store)
    assert [problem.kind for problem in result.problems] == ["disagreement"]
    assert f"attempts 1, 2 at run {run_id} gave different networks" in result.problems[0].message
    repaired = verify(store, repair=True)
    assert repaired.ok
    assert (repaired.done, repaired.missing) == (1, 5)
    assert verify(store).problems == []
    assert store.read("runs")["attempt"].to_pylist() == [2]
    assert store.rows("trials") == len(store_rows.key_set(store, "trials")) == 30
    aside = [pq.read_table(path).num_rows for path in Path(store.location, "quarantine").rglob("trials/*.parquet")]
    assert sum(aside) == 70
    store.commit({"trials": store_rows.trials(70)})  # what the next run does
    assert verify(store).done == 5


def test_an_attempt_that_gave_the_same_network_agrees(store: Store) -> None:
    (sha256,) = store.read("runs")["checkpoint_sha256"].to_pylist()
    store.commit({"runs": store_rows.runs(1, attempt=2, checkpoint_sha256=sha256)})
    assert verify(store).problems == []
    assert verify(store).networks == 1


def test_orphans_are_told_but_harmless(store: Store) -> None:
    Path(store.location, "parts/trials/0123456789abcdef.parquet").write_bytes(b"torn")
    result = verify(store)
    assert result.ok
    assert result.orphans == ["parts/trials/0123456789abcdef.parquet"]


def test_repair_needs_the_claim(store: Store) -> None:
    with store.claim(), pytest.raises(StoreClaimedError, match="is being written to by"):
        verify(Store.open(store.location), repair=True)


@pytest.mark.parametrize("name", ["log/000000000004.json", "bnsweep-store.json"])
def test_repair_of_what_keeps_a_store_from_being_opened_needs_the_claim(store: Store, name: str) -> None:
    path = Path(store.location, name)
    path.write_bytes(path.read_bytes()[:-9])
    damaged = path.read_bytes()
    with store.claim():
        with pytest.raises(StoreClaimedError, match="is being written to by"):
            verify_location(store.location, repair=True)
        assert path.read_bytes() == damaged
    assert verify_location(store.location, repair=True).ok


def test_a_second_repair_keeps_what_the_first_set_aside(store: Store) -> None:
    entry = Path(store.location, "log/000000000004.json")
    damaged = []
    for _ in range(2):
        damaged.append(entry.read_bytes()[:-9])
        entry.write_bytes(damaged[-1])
        assert verify_location(store.location, repair=True).ok
    aside = [path.read_bytes() for path in Path(store.location, "quarantine").rglob(entry.name)]
    assert sorted(aside) == sorted(damaged)
