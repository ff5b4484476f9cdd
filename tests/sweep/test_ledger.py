"""What a store's rows mean for a plan."""

import pytest

from bnsweep.sweep.ledger import Ledger, TrainedRun


@pytest.mark.parametrize(
    ("status", "of_search", "untrained", "lost"),
    [
        ("finished", False, False, False),
        ("diverged", False, False, True),
        ("failed", False, False, True),
        ("pruned", False, True, False),  # by a search; a sweep trains it in full
        ("pruned", True, False, True),  # for the search itself it has ended
    ],
)
def test_a_run_that_a_search_stopped_is_untrained_for_a_sweep(status, of_search, untrained, lost):
    ledger = Ledger(runs={"a": TrainedRun(status, None, 1)}, of_search=of_search)
    assert (ledger.untrained("a"), ledger.lost("a")) == (untrained, lost)
    assert (ledger.untrained("b"), ledger.lost("b")) == (True, False)
