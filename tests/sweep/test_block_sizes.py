"""Blocks grow with the cluster, so that one driver keeps up with it."""

import pytest

from bnsweep.sweep.driver import OWN_S, block_seconds
from bnsweep.sweep.points import BLOCK_S


@pytest.mark.parametrize("slots", [1, 2, 64, 2_500, 10_000, 160_000])
def test_the_driver_has_time_for_every_block_that_ends(slots):
    seconds = block_seconds(slots)
    assert seconds >= BLOCK_S
    # So many blocks end per second, and each costs the driver a third of OWN_S: two thirds are left for rows.
    assert slots / seconds * OWN_S / 3 <= 1 / 3 + 1e-9


def test_a_small_cluster_keeps_short_blocks():
    assert block_seconds(1_000) == BLOCK_S
