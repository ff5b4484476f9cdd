"""Whether a network's accuracy may be that of guesses: then a ratio to it means nothing."""

from __future__ import annotations

from scipy.special import bdtrc

__all__ = ["BY_CHANCE", "is_guess"]

BY_CHANCE = 0.05  # of the test: a network that guesses is taken for a better one with this probability


def is_guess(correct: int, images: int, classes: int) -> bool:
    """Whether guesses among so many classes get as many images right, or more, in one case of twenty: binomial."""
    return classes > 1 and bool(bdtrc(correct - 1, images, 1 / classes) > BY_CHANCE)
