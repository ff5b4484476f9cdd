"""Faults, really injected: processes killed between the steps of a commit, full and read-only disks.

BNSWEEP_KILLS sets how many kills the first test makes (default 24).
"""

from __future__ import annotations

import os
import random
import re
import signal
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import store_children
import store_rows
from small_disks import fill, mounted, remount

from bnsweep.errors import StoreUnwritableError
from bnsweep.store.export import export
from bnsweep.store.store import Store
from bnsweep.store.verify import verify

BATCHES = 6
KILLS = int(os.environ.get("BNSWEEP_KILLS", "24"))


def finished(location: Path) -> list[dict[str, object]]:
    """The rows apart from what differs between attempts."""
    rows = Store.open(location).read("trials").drop_columns(["committed_at"]).to_pylist()
    return sorted(rows, key=lambda row: (row["point_id"], row["trial"]))


def test_a_driver_killed_anywhere_loses_nothing_and_repeats_nothing(
    tmp_path: Path, processes: ForkServerContext
) -> None:
    store_children.work(str(tmp_path / "whole"), BATCHES)
    expected = finished(tmp_path / "whole")
    assert len(expected) == BATCHES * 40
    rng, kills, location = random.Random(5), 0, tmp_path / "0"
    while kills < KILLS:
        driver = processes.Process(
            target=store_children.work_and_die, args=(str(location), BATCHES, rng.randrange(1, 180))
        )
        driver.start()
        driver.join()
        assert driver.exitcode in {0, -signal.SIGKILL}
        kills += driver.exitcode != 0
        if (location / "bnsweep-store.json").exists():  # what readers see now is whole commits
            store = Store.open(location)
            assert store.rows("trials") == 40 * store.rows("runs") == store.read("trials").num_rows
        if driver.exitcode == 0 or kills % 6 == 0:
            store_children.work(str(location), BATCHES)
            assert finished(location) == expected
            result = verify(Store.open(location))
            assert result.ok, result
            location = tmp_path / str(kills)


def test_a_full_disk_is_said_in_one_line_and_the_store_goes_on_after_it(
    tmp_path: Path, processes: ForkServerContext
) -> None:
    with mounted(tmp_path / "small", "2m") as folder:
        answers = processes.Queue()
        driver = processes.Process(target=store_children.fill, args=(str(folder / "store"), answers))
        driver.start()
        kind, message, accepted = answers.get(timeout=120)
        driver.join()
        assert kind == "StoreUnwritableError"
        assert re.search(r"cannot write .*: no space left\. What was committed before is kept", message)
        assert "\n" not in message
        assert accepted > 0
        store = Store.open(folder / "store")
        assert store.rows("trials") == store.read("trials").num_rows == accepted
        assert verify(store).ok
        assert remount(folder, "size=8m")
        store.commit({"trials": store_rows.trials(2_000, start=accepted)})
        assert Store.open(folder / "store").rows("trials") == accepted + 2_000


def test_the_disk_fills_up_under_an_open_claim(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "1m") as folder:
        store = Store.create(folder / "store")
        with store.claim():
            store.commit({"trials": store_rows.trials(100)})
            ballast = fill(folder)
            with pytest.raises(StoreUnwritableError, match="no space left"):
                store.commit({"trials": store_rows.trials(100, start=100)})
            with pytest.raises(StoreUnwritableError, match="no space left"):
                store.slot("run-1").write(b"x" * 10_000)
            ballast.unlink()
            store.commit({"trials": store_rows.trials(100, start=100)})
        assert Store.open(folder / "store").rows("trials") == 200
        assert not list(folder.rglob("*.tmp"))


def test_a_read_only_store_is_read_and_not_written(tmp_path: Path) -> None:
    with mounted(tmp_path / "media", "4m") as folder:
        Store.create(folder / "store").commit({"trials": store_rows.trials(100)})
        assert remount(folder, "ro")
        store = Store.open(folder / "store")
        assert store.read("trials").num_rows == 100
        assert verify(store).ok
        with pytest.raises(StoreUnwritableError, match=r"cannot write .*: the file system is read-only"):
            store.commit({"trials": store_rows.trials(100, start=100)})
        with pytest.raises(StoreUnwritableError, match="the file system is read-only"):
            Store.create(folder / "other")


def test_an_export_below_a_file_is_refused(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreUnwritableError, match="part of the path is a file"):
        export(store, tmp_path / "file/export")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_no_permission_is_said(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    (tmp_path / "store").chmod(0o500)
    with pytest.raises(StoreUnwritableError, match="no permission"):
        store.commit({"trials": store_rows.trials(10)})
