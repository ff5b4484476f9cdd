"""A whole sweep on a disk that is read-only or fills up."""

from __future__ import annotations

from pathlib import Path

import fault_sweeps
import pytest
from disks import end_by, one_line
from small_disks import mounted, remount

from bnsweep.store.store import Store

TEXT = fault_sweeps.slow(40)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return path


def test_a_read_only_store_is_said_in_one_line(tmp_path: Path, spec: Path) -> None:
    with mounted(tmp_path / "disk", "8m") as disk:
        Store.create(disk / "store")
        assert remount(disk, "ro")
        for store in ("store", "other"):
            done = fault_sweeps.sweep(spec, disk / store, "--engine", "inline", env=fault_sweeps.environment())
            assert "the file system is read-only" in one_line(done.returncode, done.stderr)


def test_a_store_that_stops_taking_writes_ends_the_run_and_the_next_one_goes_on(tmp_path: Path, spec: Path) -> None:
    with mounted(tmp_path / "disk", "8m") as disk:
        store = disk / "store"
        words = fault_sweeps.command(spec, store, "--engine", "inline")
        for fault in ("full", "read-only"):
            end_by(fault, disk, words, fault_sweeps.environment(FAULT_WAIT_S="0.05"))
            assert 0 < Store.open(store).rows("trials") < len(fault_sweeps.undisturbed(TEXT)["trials"])
        code, output = fault_sweeps.inline(spec, store)
        assert code == 0, output
        fault_sweeps.holds_exactly(store, TEXT)
