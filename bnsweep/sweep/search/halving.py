"""Early stopping: asynchronous successive halving (ASHA; Li et al. 2020, arXiv 1810.05934, algorithm 2).

The rule is that of Ray Tune's ASHAScheduler, and a test compares the two; it is written out here because a search
without Ray has to stop the same runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bnsweep.experiment.search import Stopping, Subject

__all__ = ["EarlyStopping", "Halving"]


class Halving:
    """Milestones of one network, and the accuracies with which its runs have passed them.

    A run that reaches a milestone goes on if it is among the best 1 in `reduction` of those that were there before it,
    whatever may come later: nobody waits for anybody.
    """

    def __init__(self, stopping: Stopping, epochs: int) -> None:
        first, reduction = stopping.grace_epochs, stopping.reduction
        most = max(epochs, first + 1)
        milestones = [first * reduction**step for step in range(int(np.log(most / first) / np.log(reduction) + 1))]
        self._percentile = (1 - 1 / reduction) * 100
        self._passed: list[tuple[float, dict[str, float]]] = [(milestone, {}) for milestone in reversed(milestones)]

    def goes_on(self, run_id: str, epoch: int, accuracy: float) -> bool:
        """Whether a run does after this epoch; it is one of those that later ones are compared with."""
        for milestone, passed in self._passed:
            if epoch < milestone or run_id in passed:
                continue
            behind = bool(passed) and accuracy < np.percentile(list(passed.values()), self._percentile)
            passed[run_id] = accuracy
            return not behind
        return True


class EarlyStopping:
    """One rule per study: networks are compared with themselves. What is not a sampler's is trained in full."""

    def __init__(self, subjects: Sequence[Subject]) -> None:
        self._epochs = [(subject.model.training or subject.spec.training).epochs for subject in subjects]
        stopping = subjects[0].spec.search.early_stopping
        self._rules = [Halving(stopping, epochs) for epochs in self._epochs] if stopping is not None else []

    def learn(self, study: int, run_id: str, curve: Sequence[float]) -> None:
        """A run that is over counts among those that later ones are compared with, in whatever session it was made.

        `curve`: its test accuracy after each epoch.
        """
        if self._rules:
            for epoch, accuracy in enumerate(curve, 1):
                self._rules[study].goes_on(run_id, epoch, accuracy)

    def goes_on(self, study: int, run_id: str, epoch: int, accuracy: float) -> bool:
        """Whether a run that may be stopped goes on after this epoch."""
        if not self._rules or epoch >= self._epochs[study]:  # nothing is left to be saved
            return True
        return self._rules[study].goes_on(run_id, epoch, accuracy)
