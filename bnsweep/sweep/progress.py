"""What a person sees while a sweep runs: bars on a terminal, a plain line every 10 s elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from time import monotonic
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bnsweep.experiment.plan import TrainingRun
from bnsweep.sweep.driver import Driver, Summary
from bnsweep.sweep.ledger import TrainedRun
from bnsweep.sweep.tasks import Failed, Outcome, Progressed, Scored, Trained, TrainTask, TrialTask, Waiting
from bnsweep.sweep.workload import ToDo, Workload, trial_cost

__all__ = ["PlainProgress", "Silent", "TerminalProgress", "Work", "choose_progress"]

LINE_S = 10.0
TRAINING_COST = 3  # forward and backward, in forward passes


class Work:
    """How much there is to do and how much is done, in multiply-adds: what "time left" is computed from.

    The clock for it starts with the first thing heard: what comes before is the start of Ray and of its workers, and
    says nothing about the speed of work. What workers beside each other tell first comes all at once, hence nothing is
    said of the time left until a run is heard of again. An epoch under way is taken to go at the speed so far, so that
    the time left falls while nothing is heard, and rises only once an epoch is overdue.
    """

    def __init__(self, driver: Driver, *, clock: Callable[[], float] = monotonic) -> None:
        plan = driver.plan
        self._clock = clock
        self._runs = {run.run_id: run for run in plan.runs}
        self._epochs: dict[str, int] = {}  # done, of runs that are to be trained
        self._workload = Workload(plan)
        self._trained = {run_id: known for run_id, known in driver.ledger.runs.items() if known.checkpoint_sha256}
        self._expected: dict[str, ToDo] = {}  # what is left of each run's first rounds
        to_train = {task.run.run_id for task in driver.to_train}
        self.runs_total = len(plan.runs)
        self.runs_done = self.runs_total - len(to_train)
        self.trials_total, self.trials_done, self.trials_here = 0, 0, 0
        self.epochs_total, self.epochs_done = 0, 0  # of runs that are to be trained
        self._begin = clock()
        self._heard_first: float | None = None
        self._heard_last = 0.0
        self._done = 0.0  # between these two
        self._epochs_under_way: dict[str, float] = {}  # what an epoch costs, of runs that are being trained
        self._heard_of: set[str] = set()  # runs
        self._heard_again = False  # of one of them
        self._left, self._all = 0.0, 0.0
        for run in plan.runs:
            if run.run_id in to_train:
                self._count_training(run)
            missing = self._workload.missing(run, driver.ledger, retry_failed=driver.retry_failed)
            landed = self._workload.landed(run, driver.ledger)
            self._expected[run.run_id] = missing
            self.trials_done += landed
            self.trials_total += landed + missing.trials
            self._reckon(missing.work)

    def heard(self, outcome: Outcome) -> None:
        match outcome:
            case Progressed():
                self._to_epoch(self._runs[outcome.run_id], outcome.epoch)
            case Trained():
                self.runs_done += 1
                self._to_epoch(outcome.task.run, outcome.task.run.training.epochs)
                self._expect(outcome.task.run, TrainedRun.of(outcome.row))
            case Scored():
                self.trials_done += len(outcome.rows)
                self.trials_here += len(outcome.rows)
                self._score(outcome.task, landed=True)
            case Failed(task=TrialTask() as task):
                self._score(task, landed=False)
            case Failed(task=TrainTask() as task):
                self.runs_done += 1
                self._to_epoch(task.run, task.run.training.epochs)
                self._lose(task.run)

    @property
    def seconds_left(self) -> float | None:
        """From the speed so far; None until a run was heard of twice."""
        if self._heard_first is None or not self._heard_again:
            return None
        now, took = self._clock(), self._heard_last - self._heard_first
        under_way = min(self._left, sum(self._epochs_under_way.values()))
        begun = min(under_way, self._done * (now - self._heard_last) / took) if took else under_way
        return (now - self._heard_first) * (self._left - begun) / (self._done + begun)

    @property
    def share_done(self) -> float:
        """Of the work that is known to have been missing, from 0 to 1; falls where a network is found lost."""
        return 1.0 - self._left / self._all if self._all else 1.0

    @property
    def trials_per_s(self) -> float:
        return self.trials_here / max(1e-9, self._clock() - self._begin)

    @property
    def epochs(self) -> str:
        """Epochs trained, in words: a long training is seen to go on. Empty if there is nothing to train."""
        return f"epochs {self.epochs_done}/{self.epochs_total}  " if self.epochs_total else ""

    def line(self) -> str:
        """The state in one line."""
        return (
            f"runs {self.runs_done}/{self.runs_total}  {self.epochs}trials {self.trials_done}/{self.trials_total}  "
            f"{self.trials_per_s:.1f} trials/s  {_duration(self.seconds_left)} left"
        )

    def _count_training(self, run: TrainingRun) -> None:
        self._epochs[run.run_id] = 0
        self.epochs_total += run.training.epochs
        self._reckon(self._training_cost(run) * run.training.epochs)

    def _to_epoch(self, run: TrainingRun, epoch: int) -> None:
        if run.run_id not in self._epochs:  # its network was found lost on the way
            self.runs_done -= 1
            self._count_training(run)
        new = max(0, epoch - self._epochs[run.run_id])
        self._epochs[run.run_id] += new
        self.epochs_done += new
        cost = self._training_cost(run)
        if self._epochs[run.run_id] < run.training.epochs:
            self._epochs_under_way[run.run_id] = cost
        else:
            self._epochs_under_way.pop(run.run_id, None)
        self._move(run, new * cost)

    def _expect(self, run: TrainingRun, trained: TrainedRun) -> None:
        """The run is trained: how many trials its points take at first is known exactly."""
        if trained.checkpoint_sha256 is None:
            self._lose(run)
            return
        if run.run_id not in self._trained:
            guessed, exact = self._expected[run.run_id], self._workload.of_run(run, trained)
            self._expected[run.run_id] = exact
            self.trials_total += exact.trials - guessed.trials
            self._reckon(exact.work - guessed.work)
        self._trained[run.run_id] = trained

    def _score(self, task: TrialTask, *, landed: bool) -> None:
        """A block is over. Trials beyond a point's first round had not been reckoned with."""
        run, point, count = task.run, task.point, len(task.seeds)
        first = self._workload.first_round(run, point.eta, self._trained.get(run.run_id))
        reckoned = max(0, min(first.trials - task.first, count))
        images = task.images or sum(task.allocation or ()) or run.test_images
        cost = trial_cost(run, point.cell, point.eta, images=images)
        left = self._expected[run.run_id]
        self._expected[run.run_id] = left._replace(trials=left.trials - reckoned, work=left.work - reckoned * cost)
        if landed:
            self.trials_total += count - reckoned
        self._reckon((count - reckoned) * cost)
        self._move(run, count * cost)

    def _reckon(self, cost: float) -> None:
        """There is so much more to do than was known."""
        self._left += cost
        self._all += cost

    def _move(self, run: TrainingRun, cost: float) -> None:
        if not cost:
            return
        self._left = max(0.0, self._left - cost)
        self._heard_again |= run.run_id in self._heard_of
        self._heard_of.add(run.run_id)
        self._heard_last = self._clock()
        if self._heard_first is None:  # how long this took, nobody has seen
            self._heard_first = self._heard_last
        else:
            self._done += cost

    def _lose(self, run: TrainingRun) -> None:
        """The run has no network: its trials will not be made."""
        lost = self._expected[run.run_id]
        self._expected[run.run_id] = ToDo(0, 0.0, 0)
        self.trials_total -= lost.trials
        self._left = max(0.0, self._left - lost.work)

    def _training_cost(self, run: TrainingRun) -> float:
        return TRAINING_COST * run.architecture.multiply_adds * run.train_images


class Silent:
    """Says nothing but what somebody has to do something about."""

    def begin(self, driver: Driver) -> None: ...

    def heard(self, outcome: Outcome) -> None:
        if isinstance(outcome, Waiting):
            print(f"bnsweep: {outcome.why}", file=sys.stderr, flush=True)

    def tick(self) -> None: ...

    def end(self, summary: Summary) -> None: ...


class PlainProgress(Silent):
    """A line every 10 s, for logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = monotonic()
        self._work: Work | None = None

    def begin(self, driver: Driver) -> None:
        self._work = Work(driver)

    def heard(self, outcome: Outcome) -> None:
        if isinstance(outcome, Waiting):
            print(outcome.why, file=self._stream, flush=True)
        if self._work is not None:
            self._work.heard(outcome)
        self.tick()

    def tick(self) -> None:
        if self._work is not None and monotonic() - self._last >= LINE_S:
            self._last = monotonic()
            print(self._work.line(), file=self._stream, flush=True)

    def end(self, summary: Summary) -> None:
        if self._work is not None:
            print(self._work.line(), file=self._stream, flush=True)


class TerminalProgress(Silent):
    """Two bars: training runs, trials."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description:>7}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
        )
        self._work: Work | None = None

    def begin(self, driver: Driver) -> None:
        self._work = work = Work(driver)
        self._runs = self._bars.add_task("runs", total=work.runs_total, completed=work.runs_done, note="")
        self._trials = self._bars.add_task("trials", total=work.trials_total, completed=work.trials_done, note="")
        self._bars.start()

    def heard(self, outcome: Outcome) -> None:
        if isinstance(outcome, Waiting):
            self._bars.console.print(outcome.why, highlight=False, markup=False)
        if self._work is not None:
            self._work.heard(outcome)
        self.tick()

    def tick(self) -> None:
        work = self._work
        if work is None:
            return
        self._bars.update(
            self._runs, completed=work.runs_done, note=f"{work.epochs}{_duration(work.seconds_left)} left"
        )
        note = f"{work.trials_per_s:.1f} trials/s"
        self._bars.update(self._trials, completed=work.trials_done, total=work.trials_total, note=note)

    def end(self, summary: Summary) -> None:
        self._bars.stop()


def choose_progress() -> Silent:
    """Bars for a terminal, plain lines else; both on stderr, so that stdout stays for results."""
    if sys.stderr.isatty():
        return TerminalProgress(Console(stderr=True))
    return PlainProgress(sys.stderr)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "--:--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
