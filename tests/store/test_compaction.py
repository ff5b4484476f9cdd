from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import store_children
import store_rows

from bnsweep.errors import StoreDamagedError
from bnsweep.store import compact as compaction
from bnsweep.store.compact import Tidier, compact
from bnsweep.store.store import Store
from bnsweep.store.verify import verify


def filled(location: Path, batches: int = 10, *, rows: int = 100) -> Store:
    store = Store.create(location)
    with store.claim():
        for batch in range(batches):
            store.commit(
                {"trials": store_rows.trials(rows, start=batch * rows), "runs": store_rows.runs(1, start=batch)}
            )
    return store


def ordered(rows: pa.Table) -> pa.Table:
    return rows.sort_by([("run_id", "ascending"), ("point_id", "ascending"), ("trial", "ascending")]).combine_chunks()


def test_small_parts_become_one_with_the_same_rows(tmp_path: Path) -> None:
    store = filled(tmp_path)
    before = store.read("trials")
    result = compact(store)
    assert (result.parts_before, result.parts_after, result.rows, result.duplicates) == (20, 2, 1010, 0)
    assert store.read("trials").combine_chunks().equals(ordered(before))
    assert Store.open(tmp_path).read("trials").equals(store.read("trials"))
    assert compact(store).rows == 0  # nothing left to do
    assert len(list((tmp_path / "parts/trials").iterdir())) == 11  # the old files stay for readers


def test_parts_are_gathered_up_to_the_target_and_large_ones_left_alone(tmp_path: Path) -> None:
    store = filled(tmp_path)
    compact(store, tables=["trials"], target_rows=400)
    assert sorted(part.rows for part in store.parts("trials")) == [200, 400, 400]
    large = {part.path for part in store.parts("trials") if part.rows == 400}
    store.commit({"trials": store_rows.trials(50, start=5000)})
    compact(store, tables=["trials"], target_rows=400)
    assert large < {part.path for part in store.parts("trials")}
    assert store.rows("trials") == 1050


def commit_on(store: Store, day: int, **options: Any) -> None:
    """Commit trials as if on that day of January."""
    rows = store_rows.trials(**options)
    stamp = pa.scalar(datetime(2026, 1, day, tzinfo=UTC), pa.timestamp("us", tz="UTC"))
    store.commit({"trials": rows.append_column("committed_at", pa.repeat(stamp, rows.num_rows))})


def test_of_rows_with_the_same_key_the_first_committed_stays(tmp_path: Path) -> None:
    store = Store.create(tmp_path)

    commit_on(store, 2, count=100, seed=2)
    commit_on(store, 3, count=60, seed=3)
    commit_on(store, 1, count=40, start=80, seed=1)
    compact(store, tables=["trials"], target_rows=150)  # the first part counts as large
    assert store.rows("trials") == len(store_rows.key_set(store, "trials")) == 120
    days = store.read("trials").group_by("committed_at").aggregate([("trial", "count")]).to_pylist()
    assert {row["committed_at"].day: row["trial_count"] for row in days} == {2: 80, 1: 40}


def test_rows_that_two_groups_of_one_compaction_hold_are_kept_in_one(tmp_path: Path) -> None:
    store = Store.create(tmp_path)

    # What the second and third part have left of their rows, another part has too, which goes in another group.
    commit_on(store, 1, count=1, start=1)
    commit_on(store, 2, count=2, start=0)
    commit_on(store, 3, count=1, start=0)
    keys = store_rows.key_set(store, "trials")
    assert len(keys) == 2
    compact(store, tables=["trials"], target_rows=2)
    assert store_rows.key_set(store, "trials") == keys
    assert store.rows("trials") == 2


def test_old_files_go_after_the_grace_period_and_a_late_reader_looks_again(tmp_path: Path) -> None:
    store = filled(tmp_path)
    reader = Store.open(tmp_path)
    compact(store, grace_s=0)
    assert [path.name for path in (tmp_path / "parts/trials").iterdir()] == [Path(store.part_paths("trials")[0]).name]
    assert store.state.retired == {}
    assert reader.read("trials").num_rows == 1000  # its list was of files that are gone


def test_a_compaction_says_what_became_of_rows_and_files(tmp_path: Path) -> None:
    driver, store = filled(tmp_path, 2), Store.open(tmp_path)
    assert str(compact(store)) == "4 parts became 2: 202 rows rewritten; 0 files deleted"
    with driver.claim():
        assert "; no file is deleted while another process writes to the store" in str(compact(store, grace_s=0))
    assert re.fullmatch(r"2 parts became 2: 0 rows rewritten; \d+ files deleted", str(compact(store, grace_s=0)))


def test_orphans_and_unfinished_files_are_tidied_away_when_old(tmp_path: Path) -> None:
    store = filled(tmp_path)
    orphan = tmp_path / "parts/trials/00000000000000000000000000000000.parquet"
    unfinished = tmp_path / "parts/trials/.x.parquet.1-1-aaaa.tmp"
    for path in (orphan, unfinished):
        path.write_bytes(b"torn")
    compact(store, grace_s=0)
    assert orphan.exists()  # may be another compaction's
    for path in (orphan, unfinished):
        os.utime(path, (time.time() - 2 * compaction.ORPHAN_AGE_S,) * 2)
    assert compact(store, grace_s=0).files_deleted >= 2
    assert not orphan.exists()
    assert not unfinished.exists()


def test_compaction_beside_a_driver_and_readers(tmp_path: Path, processes: ForkServerContext) -> None:
    driver = filled(tmp_path, 3)
    answers = processes.Queue()
    readers = [processes.Process(target=store_children.read_on, args=(str(tmp_path), 4.0, answers)) for _ in range(2)]
    for reader in readers:
        reader.start()
    other = Store.open(tmp_path)
    with driver.claim():
        until, batch = time.time() + 4.0, 3
        while time.time() < until:
            driver.commit({"trials": store_rows.trials(100, start=batch * 100)})
            batch += 1
            if batch % 3 == 0:
                assert compact(other, tables=["trials"], grace_s=0).deletion_postponed in {True, False}
    for counts in [answers.get(timeout=60) for _ in readers]:
        assert counts
        assert all(rows == keys and rows % 100 == 0 for rows, keys in counts), counts
        assert [rows for rows, _ in counts] == sorted(rows for rows, _ in counts)
    for reader in readers:
        reader.join()
    final = Store.open(tmp_path)
    compact(final, grace_s=0)
    assert final.rows("trials") == len(store_rows.key_set(final, "trials")) == batch * 100
    assert verify(final).ok


def test_of_two_compactions_at_once_one_counts(tmp_path: Path) -> None:
    filled(tmp_path)
    first, second = Store.open(tmp_path), Store.open(tmp_path)
    parts = second.parts("trials")
    new = compaction._rewrite(second, "trials", parts, {}, {}, [part.path for part in parts])
    compact(first, tables=["trials"], target_rows=500)
    assert new is not None
    assert not second.swap("compact", parts, [new])
    assert second.refresh().rows("trials") == len(store_rows.key_set(second, "trials")) == 1000


def test_a_damaged_part_stops_compaction_and_nothing_changes(tmp_path: Path) -> None:
    store = filled(tmp_path)
    path = Path(store.part_paths("trials")[3])
    path.write_bytes(path.read_bytes()[:-8])
    before = store.state.parts
    with pytest.raises(StoreDamagedError, match=f"{path.name} has .* bytes, but .* were committed.*--repair"):
        compact(store, tables=["trials"])
    assert Store.open(tmp_path).state.parts == before


def test_a_driver_compacts_what_a_long_run_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MANY_PARTS", 30)
    store = Store.create(tmp_path)
    tidier = Tidier(store)
    counts = []
    with store.claim():
        for batch in range(80):
            store.commit({"trials": store_rows.trials(10, start=10 * batch)})
            tidier.tidy()
            counts.append(len(store.parts("trials")))
    assert max(counts) < 33
    assert store.read("trials").num_rows == len(store_rows.key_set(store, "trials")) == 800
    assert verify(store).ok
    # A damaged part stops no driver: it is tried again once there are as many parts more.
    path = Path(store.part_paths("trials")[0])
    path.write_bytes(path.read_bytes()[:-8])
    with store.claim():
        for batch in range(80, 125):
            store.commit({"trials": store_rows.trials(10, start=10 * batch)})
            tidier.tidy()
    assert len(store.parts("trials")) > 40
