"""What an engine must do, and the inline engine: a plain loop in this process, no ray import.

The contract, which one test runs over every engine:

- `start` is called with every training run to do, and with what a block will take, so that what no node can give is
  said before anything is trained; an engine may begin at once. It is called again, when nothing is busy, for runs whose
  networks were found lost or damaged.
- `submit` hands over one block. It may be called between waits, while `room` says that there is room.
- `wait` returns what ended since the last call, in any order, and an empty list after `timeout_s` at the
  latest (the inline engine works while it is waited for, so its calls last as long as one task).
- Each task comes back exactly once, as `Trained`, `Scored`, `NetworkGone` or `Failed`; `Progressed` and `Waiting`,
  which are for people, may come any number of times. An engine retries what failed for reasons that may pass, and says
  how often.
- A store that cannot be written is no task's fault: `wait` raises `StoreUnwritableError`. Nor is a GPU that is
  not there or fails: the task is done elsewhere, and `wait` raises `GpuLostError` where there is no elsewhere.
- `close` ends everything that still runs and may be called at any time, more than once.

An engine decides nothing: not what to run, not what a row says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Protocol

from bnsweep.errors import EngineError, StoreDamagedError
from bnsweep.experiment.resources import Resource
from bnsweep.experiment.spec import Data
from bnsweep.sweep.retries import PASSING, GivenUpError, persevere
from bnsweep.sweep.tasks import Failed, NetworkGone, Outcome, Progressed, Row, TrainTask, TrialTask
from bnsweep.training.datasets import Dataset

__all__ = ["Datasets", "Engine", "InlineEngine", "engine_named"]

Datasets = Mapping[str, Callable[[], Dataset]]  # fingerprint -> loader, so that nothing is loaded in vain


def engine_named(name: str) -> str:
    """Which engine does the work, "ray" or "inline": `auto` is Ray where it is installed.

    Raises:
        EngineError: Ray is not installed, but asked for.
    """
    there = find_spec("ray") is not None
    if name == "auto":
        return "ray" if there else "inline"
    if name == "ray" and not there:
        raise EngineError("Ray is not installed: pip install 'bnsweep[ray]', or use --engine inline")
    return name


class Engine(Protocol):
    """Runs tasks. See the module's docstring for the contract."""

    def start(self, trainings: Sequence[TrainTask], datasets: Datasets, trial: Resource) -> None: ...

    @property
    def room(self) -> int:
        """How many more blocks may be submitted now."""
        ...

    @property
    def slots(self) -> int:
        """How many blocks can be at work at the same time, about: long blocks keep many slots from waiting."""
        ...

    @property
    def busy(self) -> bool:
        """Whether anything submitted has not come back."""
        ...

    @property
    def works_in_wait(self) -> bool:
        """Whether `wait` does the work itself: then an interruption need not wait for its end."""
        ...

    def submit(self, task: TrialTask) -> None: ...

    def wait(self, timeout_s: float) -> list[Outcome]: ...

    def finished(self) -> list[Outcome]:
        """What has ended already, without starting or waiting for anything: asked after an interruption."""
        ...

    def close(self) -> None: ...


class InlineEngine:
    """One task after the other, in this process."""

    def __init__(self, *, on_epoch: Callable[[Progressed], None] | None = None) -> None:
        self._on_epoch = on_epoch
        self._trainings: deque[TrainTask] = deque()
        self._blocks: deque[TrialTask] = deque()
        self._datasets: Datasets = {}
        self._loaded: dict[str, Dataset] = {}

    def start(self, trainings: Sequence[TrainTask], datasets: Datasets, trial: Resource) -> None:
        self._trainings.extend(trainings)
        self._datasets = datasets

    @property
    def room(self) -> int:
        return 1 - len(self._blocks)

    @property
    def slots(self) -> int:
        return 1

    @property
    def busy(self) -> bool:
        return bool(self._trainings or self._blocks)

    @property
    def works_in_wait(self) -> bool:
        return True

    def submit(self, task: TrialTask) -> None:
        self._blocks.append(task)

    def wait(self, timeout_s: float) -> list[Outcome]:
        # Blocks first: rows of networks that are trained land before more networks are trained.
        if self._blocks:
            return [self._attempt(self._blocks.popleft())]
        if self._trainings:
            return [self._attempt(self._trainings.popleft())]
        return []

    def finished(self) -> list[Outcome]:
        return []

    def close(self) -> None:
        self._trainings.clear()
        self._blocks.clear()

    def _attempt(self, task: TrainTask | TrialTask) -> Outcome:
        passing = PASSING if isinstance(task, TrialTask) else (Exception,)
        try:
            return persevere(lambda: self._done(task), passing=passing)
        except GivenUpError as error:
            return Failed(task, str(error), error.attempts)

    def _done(self, task: TrainTask | TrialTask) -> Outcome:
        from bnsweep.sweep import work  # torch: not for those who only want to know what an engine is

        dataset = self._dataset(task.run.data, task.run.fingerprint)
        if isinstance(task, TrainTask):
            return work.train_run(task, dataset, on_epoch=self._report(task))
        try:
            return work.score_block(task, dataset)
        except StoreDamagedError as error:
            return NetworkGone(task, str(error))

    def _report(self, task: TrainTask) -> Callable[[Row], None]:
        def report(epoch: Row) -> None:
            if self._on_epoch:
                self._on_epoch(Progressed(task.run.run_id, epoch["epoch"]))

        return report

    def _dataset(self, data: Data, fingerprint: str) -> Dataset:
        if fingerprint not in self._loaded:
            self._loaded[fingerprint] = self._datasets[fingerprint]()
        return self._loaded[fingerprint]
