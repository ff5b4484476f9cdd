"""Whole hosts lost in the middle of a sweep; see hosts.py. `python -m tests.faults.hosts` prints the times."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra ray")

import hosts

REASON = hosts.missing()


@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_a_sweep_outlives_a_killed_host_and_a_cut_link(tmp_path: Path) -> None:
    took = hosts.lose_two_of_three(tmp_path, hosts.QUICK)
    assert 0 < took["rows at the cut"] < took["rows"] == 2 * 2 * (1 + 2 * 150)
    assert took["cut to end of sweep"] < hosts.FREED_S, took
