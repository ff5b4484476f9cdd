"""A few kills of the driver; `python -m tests.faults.kills --kills 50` makes more. BNSWEEP_KILLS sets how many."""

from __future__ import annotations

import os
from pathlib import Path

import kills
import pytest


@pytest.mark.timeout(900)  # on a machine that is busy with other work each of a dozen runs takes half a minute
def test_a_killed_driver_loses_nothing_and_repeats_nothing(tmp_path: Path) -> None:
    wanted = int(os.environ.get("BNSWEEP_KILLS", "6"))
    campaign = kills.Killer(tmp_path, kills.server(), seed=3).campaign_of(wanted)
    assert sum(campaign.kills.values()) == wanted
    assert campaign.rows == 55  # 1 sweep, 12 points, 2 runs, 4 epochs, 36 trials
    assert (campaign.lost, campaign.repeated, campaign.differing) == (0, 0, 0), campaign
