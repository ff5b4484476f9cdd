"""What an engine of a search must do, and the inline engine: one run after the other in this process, no ray import.

The contract, which one test runs over every engine:

- `run` does the runs that `underway` hands out, until there are no more. Rows reach `underway.land` as they are made.
- `commit` takes them from there into the store. `run` calls it, from the thread that it was called in, at least once a
  second while anything lands; how long a call of it waits for rows, it is told. What it raises ends `run`.
- An engine tries again what failed for reasons that may pass. A store that cannot be written and a GPU that fails are
  no run's fault: `run` raises `StoreUnwritableError`, or `GpuLostError` where there is no elsewhere.
- `close` ends everything that still runs and may be called at any time, more than once.

An engine decides nothing: not what to run, not what a row says, not what is stopped early.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bnsweep.errors import BnsweepError
from bnsweep.sweep.engine import Datasets
from bnsweep.sweep.retries import GivenUpError, persevere
from bnsweep.sweep.search.job import Report, perform
from bnsweep.sweep.search.panel import Step
from bnsweep.sweep.search.underway import Underway, epoch_accuracy
from bnsweep.sweep.tasks import Row, Scored, Trained

__all__ = ["Commit", "InlineSearch", "SearchEngine"]

Commit = Callable[[float], bool]  # waits for rows for so many seconds; whether any have come


class SearchEngine(Protocol):
    """Does runs. See the module's docstring for the contract."""

    def run(self, underway: Underway, commit: Commit) -> None: ...

    def close(self) -> None: ...


class InlineSearch:
    """One run after the other, in this process."""

    def __init__(self, datasets: Datasets) -> None:
        self._datasets = datasets

    def run(self, underway: Underway, commit: Commit) -> None:
        while (step := underway.begin()) is not None:
            commit(0.0)  # what is asked for is there before its answer
            self._do(step, underway, commit)
            commit(0.0)

    def close(self) -> None:
        """Nothing runs outside of `run`."""

    def _do(self, step: Step, underway: Underway, commit: Commit) -> None:
        run = step.trainee.run
        report = _reporter(run.run_id, underway, commit)

        def do() -> None:
            perform(underway.job, underway.known(run.run_id), self._datasets[run.fingerprint](), report)

        try:
            persevere(do)
        except GivenUpError as error:
            underway.give_up(run.run_id, str(error))
        except _Left as left:
            if left.error is not None:
                raise left.error from None
        underway.ended(run.run_id)


class _Left(BaseException):
    """The way out of a run from within its report: it is stopped early, or the search is.

    It is no error of the run's: what catches errors is not to hold it.
    """

    def __init__(self, error: BnsweepError | None = None) -> None:
        super().__init__()
        self.error = error


def _reporter(run_id: str, underway: Underway, commit: Commit) -> Report:
    def report(outcome: Trained | Scored | Row) -> None:
        underway.take(run_id, outcome)
        try:
            commit(0.0)
        except BnsweepError as error:  # the store's, and not the run's
            raise _Left(error) from error
        if isinstance(outcome, dict) and not underway.goes_on(run_id, outcome["epoch"], epoch_accuracy(outcome)):
            raise _Left

    return report
