"""Early stopping: the rule, by hand and against Ray's own."""

from types import SimpleNamespace

import numpy as np
import pytest

from bnsweep.experiment.search import Stopping
from bnsweep.sweep.search.halving import Halving


def test_a_run_goes_on_if_it_is_among_the_best_of_those_before_it():
    """By hand: milestones after 2 and 6 epochs; the best third of (0.1, 0.2, 0.3, 0.4) begins at 0.3."""
    rule = Halving(Stopping(grace_epochs=2, reduction=3), 9)
    for number, accuracy in enumerate((0.1, 0.2, 0.3, 0.4)):
        assert rule.goes_on(str(number), 1, accuracy)  # too early to tell
        rule.goes_on(str(number), 2, accuracy)
    assert not rule.goes_on("behind", 2, 0.299)
    fresh = Halving(Stopping(grace_epochs=2, reduction=3), 9)
    for number, accuracy in enumerate((0.1, 0.2, 0.3, 0.4)):
        assert fresh.goes_on(str(number), 2, accuracy)  # each is the best so far
    assert fresh.goes_on("as good", 2, 0.3)
    assert fresh.goes_on("as good", 3, 0.0)  # between milestones
    assert fresh.goes_on("as good", 6, 0.0)  # the first that comes so far
    assert not fresh.goes_on("other", 6, -0.1)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("grace", "reduction", "epochs"), [(1, 1.5, 4), (1, 3.0, 27), (2, 4.0, 60), (5, 2.0, 5), (3, 3.0, 81)]
)
def test_runs_are_stopped_where_rays_own_scheduler_stops_them(grace, reduction, epochs):
    """Over random curves of counts, which are often equal; some come in turns, some one after the other."""
    from ray.tune.schedulers import ASHAScheduler

    most = max(epochs, grace + 1)
    theirs = ASHAScheduler(
        time_attr="epoch", metric="a", mode="max", max_t=most, grace_period=grace, reduction_factor=reduction
    )
    ours, random = Halving(Stopping(grace_epochs=grace, reduction=reduction), epochs), np.random.default_rng(epochs)
    stopped = 0
    for batch in range(12):
        alive = {f"{batch}-{number}": 0 for number in range(5)}
        while alive:
            run_id = random.choice(sorted(alive)) if batch % 2 else min(alive)
            alive[run_id] = epoch = alive[run_id] + 1
            accuracy = int(random.integers(20, 40 + epoch)) / 100
            expected = theirs._brackets[0].on_result(SimpleNamespace(trial_id=run_id), epoch, accuracy)
            assert ours.goes_on(run_id, epoch, accuracy) == (expected == "CONTINUE")
            if expected != "CONTINUE" or epoch == epochs:
                stopped += expected != "CONTINUE"
                del alive[run_id]
    assert stopped > 0
