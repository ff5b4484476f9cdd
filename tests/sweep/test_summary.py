"""What is said after a run: why runs diverged, and which networks guess."""

from collections import Counter
from math import comb

import pytest

from bnsweep.experiment.chance import is_guess
from bnsweep.sweep.ray_settings import prepare_ray
from bnsweep.sweep.summary import Summary


@pytest.mark.parametrize(("images", "classes"), [(1, 2), (100, 10), (360, 10), (200, 2), (50, 100), (500, 3)])
def test_more_right_answers_than_guesses_give_by_the_exact_binomial(images, classes):
    def tail(right):  # the probability of so many or more, in whole numbers
        ways = sum(comb(images, count) * (classes - 1) ** (images - count) for count in range(right, images + 1))
        return ways / classes**images

    for right in range(images + 1):
        assert is_guess(right, images, classes) == (tail(right) > 0.05)


def test_networks_that_guess_are_counted():
    # Of 100 images in 10 classes, 16 right answers or more have a probability of 0.04 (R: pbinom(15, 100, 0.1)).
    clean = {"a": (15, 100, 10), "b": (16, 100, 10), "c": (8, 100, 10)}
    assert Summary(runs=3, runs_done=3, clean=clean).lines(again="")[1:] == [
        "2 of 3 networks are no better than chance on the test images (8.0 to 15.0 % right): normalized accuracy means "
        "nothing for them"
    ]
    assert len(Summary(runs=3, runs_done=1, clean={"b": (16, 100, 10)}).lines(again="")) == 1


def test_who_gave_no_command_is_told_of_none_and_of_all_else():
    """A submitted job's message: its reasons may say "again" themselves."""
    prepare_ray(own_cluster=True)
    from bnsweep.sweep.search.run import SearchSummary

    error = "block of 4 trials: the worker's disk is full: free some of it, then run the sweep again"
    for summary in (
        Summary(networks_changed=1, blocks_failed=1, errors=[error], interrupted=True),
        SearchSummary(networks_changed=1, ends=Counter(failed=1), interrupted=True),
    ):
        told, without = summary.lines(again="bnsweep run mine.yaml"), summary.lines(again=None)
        assert [line for line in told if line not in without] == [
            line for line in told if line.endswith(("mine.yaml", "mine.yaml --retry-failed"))
        ]
        assert len(told) == len(without) + 2
        assert any("came out different when they were trained again" in line for line in without)
        assert isinstance(summary, SearchSummary) or f"failed: {error}" in without


def test_why_runs_diverged_is_said_now_and_later(tmp_path, run, tiny):
    text = tiny.replace("[all, none]", "[none]").replace("train_seeds: 1", "train_seeds: 2")
    text, store = text.replace("epochs: 2,", "epochs: 2, learning_rate: 100, optimizer: sgd,"), tmp_path / "store"
    reason = "  2: the training loss became nan in epoch 1"
    first, second = run(text, store), run(text, store)
    assert first.lines(again="")[1:] == ["2 of them diverged and have no trials", reason]
    assert second.lines(again="") == ["nothing to do: 2 of 2 runs diverged and have no trials", reason]
    mixed = text.replace("models: resnet8", "models: [resnet8, {name: vgg-small, training: {learning_rate: 0.01}}]")
    assert {"2 networks diverged before and have no trials", reason} <= set(run(mixed, store).lines(again=""))
    assert run(mixed, store).lines(again="") == [
        "nothing to do: 2 of 4 runs diverged and have no trials; the others have landed",
        reason,
    ]
