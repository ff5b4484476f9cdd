"""The loop of a sweep: submit what is missing, commit what comes back. One driver per store.

    plan - ledger -> training tasks -> trained networks -> blocks of trials -> rows -> one commit a second

Trial blocks of a network go out as soon as it is trained, so scoring overlaps training. The driver is
the only one that writes rows; whatever ends it, what was committed stays and the rest is done next time.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from time import monotonic
from typing import Protocol

from bnsweep.errors import InputError, StoreDamagedError, StoreError
from bnsweep.experiment.plan import Plan, TrainingRun, Weights
from bnsweep.experiment.vocabulary import NETWORK_ENDS
from bnsweep.store.attempts import set_aside_all_older, set_aside_unowned
from bnsweep.store.checkpoints import network_name
from bnsweep.store.store import Store
from bnsweep.sweep.engine import Datasets, Engine
from bnsweep.sweep.ledger import Ledger, TrainedRun, read_ledger, read_scores
from bnsweep.sweep.points import BLOCK_S, FIRST_BLOCK, PointWork, Request, design_of
from bnsweep.sweep.recording import COMMIT_S, RowBuffer, failure_row
from bnsweep.sweep.summary import Summary
from bnsweep.sweep.tasks import (
    Failed,
    NetworkGone,
    Outcome,
    Progressed,
    Scored,
    Trained,
    TrainTask,
    TrialTask,
    Waiting,
    failed_run_row,
)

__all__ = ["Driver", "Listener", "Summary"]

OWN_S = 0.004  # three times what a block costs the driver itself (docs/scaling.md), which has rows to commit as well
ROUNDS = 3  # how often networks may turn out to be lost in one run before somebody must look at the disk


class Listener(Protocol):
    """Hears what happens: a progress display."""

    def begin(self, driver: Driver) -> None: ...

    def heard(self, outcome: Outcome) -> None: ...

    def tick(self) -> None: ...

    def end(self, summary: Summary) -> None: ...


class Driver:
    """Does what a plan lacks. `run` may be called once."""

    def __init__(
        self,
        plan: Plan,
        store: Store,
        *,
        datasets: Datasets,
        listener: Listener,
        retry_failed: bool = False,
        allow_import: bool = False,
    ) -> None:
        self.plan = plan
        self.store = store
        self.summary = Summary(runs=len(plan.runs))
        self._datasets = datasets
        self._listener = listener
        self.retry_failed = retry_failed
        self._allow_import = allow_import
        # Networks that count, by run; and rows of others, which an interruption or a lost part may have left.
        planned = {run.run_id for run in plan.runs}
        trained = set_aside_all_older(store, planned)
        set_aside_unowned(store, planned)
        self._counts = {each.run_id: each.sha256 for each in trained}
        self._ledger = read_ledger(store, plan)
        self._networks: dict[str, TrainedRun] = {}  # of runs whose trials are wanted
        self._ready: deque[TrainingRun] = deque()  # trained, blocks not yet asked for
        self._requests: Iterator[tuple[TrainingRun, PointWork, Request]] = iter(())
        self._more: deque[tuple[TrainingRun, PointWork, Request]] = deque()  # later rounds, first in line
        self._in_rounds: dict[str, PointWork] = {}
        self._block_s = BLOCK_S
        self._brought: set[str] = set()  # digests of weights that are in the store
        self._gone: set[str] = set()  # runs whose networks a block has found lost or damaged
        self._trial_s: dict[tuple[str, str], float] = {}  # by model and data set, newest counts most
        self._rows = RowBuffer(store)
        self._came: deque[Outcome] = deque()  # back from the engine, not yet taken
        self._trainings = self._sort_out()
        ended = [(run, self._ledger.runs[run.run_id]) for run in plan.runs if run.run_id in self._ledger.runs]
        for run, known in ended:
            self._note(run, known, self.summary.diverged_before)
        if not retry_failed:
            failed = sum(known.status == "failed" for _, known in ended)
            self.summary.failed_before = failed + len(self._ledger.given_up)

    @property
    def nothing_to_do(self) -> bool:
        """Everything planned has landed or was given up."""
        return not self._trainings and not self._ready

    @property
    def ledger(self) -> Ledger:
        """What the store held at the start."""
        return self._ledger

    @property
    def to_train(self) -> Sequence[TrainTask]:
        """Training runs to do, some of them once more."""
        return self._trainings

    def run(self, engine: Engine) -> Summary:
        """Work until nothing is missing, or until Ctrl-C or SIGTERM.

        Raises:
            StoreUnwritableError: the disk is full or read-only; what was committed stays.
            EngineError: the cluster is gone.
        """
        begin = monotonic()
        self._listener.begin(self)
        try:
            with self._rows.interruptible():
                try:
                    self._work(engine)
                except KeyboardInterrupt:
                    with self._rows.undisturbed():  # a second Ctrl-C may follow the first at once
                        self._keep_what_is_done(engine)
                    raise
                except Exception:
                    # The disk may be full for a commit and not for a smaller one: what is done is kept if it can be.
                    with suppress(StoreError, KeyboardInterrupt), self._rows.undisturbed():
                        self._keep_what_is_done(engine)
                    raise
        except KeyboardInterrupt:
            self.summary.interrupted = True
        finally:
            engine.close()
            self.summary.seconds = monotonic() - begin
            self._listener.end(self.summary)
        return self.summary

    def _keep_what_is_done(self, engine: Engine) -> None:
        """After an interruption or an error: blocks that have come back in the meantime count as finished."""
        self._take_the_rest()  # before anything else can fail
        with suppress(Exception):  # Ray's own errors too, of a cluster that is gone, say
            self._came.extend(engine.finished())
        self._take_the_rest()
        self._rows.flush()

    def _take_the_rest(self) -> None:
        while self._came:
            self._take(self._came.popleft())

    @property
    def data_needed(self) -> set[str]:
        """Fingerprints of the data sets that the missing work is about."""
        return {task.run.fingerprint for task in self._trainings} | {run.fingerprint for run in self._ready}

    def _work(self, engine: Engine) -> None:
        for _ in range(ROUNDS):
            engine.start(self._trainings, self._datasets, self.plan.spec.resources.trial)
            self._loop(engine)
            self._rows.flush()
            if not self._gone:
                self._drop_weights()
                return
            # As if run again, in the same process: what has landed is not asked for once more.
            self._gone.clear()
            self._ledger = read_ledger(self.store, self.plan)
            self._trainings = self._sort_out()
        raise StoreDamagedError(
            f"{self.store.location}: trained networks were found lost or damaged {ROUNDS} times in this one run. "
            "What has landed is kept; look after the disk, then run again"
        )

    def _loop(self, engine: Engine) -> None:
        while True:
            self._block_s = block_seconds(engine.slots)
            while engine.room > 0 and (task := self._next_block()) is not None:
                engine.submit(task)
            if not engine.busy:
                return
            self._hear(engine)
            while self._came:
                with self._rows.undisturbed():
                    outcome = self._came.popleft()
                    self._take(outcome)
                self._listener.heard(outcome)
            self._listener.tick()
            self._rows.flush_if_due()

    def _hear(self, engine: Engine) -> None:
        """What came back: an interruption must not fall between an engine's hands and ours."""
        with nullcontext() if engine.works_in_wait else self._rows.undisturbed():
            self._came.extend(engine.wait(COMMIT_S))

    # What is to be done

    def _sort_out(self) -> list[TrainTask]:
        """Training tasks for untrained runs; runs that are trained go to the ready queue."""
        trainings = []
        there = self.store.checkpoints.networks()
        for run in self.plan.runs:
            known = self._ledger.runs.get(run.run_id)
            if known is None:
                trainings.append(self._training(run, attempt=1))
            elif known.status == "pruned" or (known.status == "failed" and self.retry_failed):
                # What a search stopped early is no finished network: a sweep that plans it trains it in full.
                trainings.append(self._training(run, attempt=known.attempt + 1))
            elif known.status in NETWORK_ENDS:
                wants_trials = self._wants_trials(run)
                wrong = self._wrong_with_network(run, known, there, read=wants_trials)
                if wrong:
                    trainings.append(self._training(run, attempt=known.attempt + 1, again=wrong))
                elif wants_trials:
                    self._trained(run, known)
        return trainings

    def _wrong_with_network(self, run: TrainingRun, known: TrainedRun, there: set[str], *, read: bool) -> str:
        """Why a network must be trained again; empty if it is there and, if it is to be read now, whole."""
        sha256 = known.checkpoint_sha256
        if sha256 is not None and not read and network_name(run.run_id, sha256) in there:
            return ""
        fault = self.store.checkpoints.fault(run.run_id, sha256)
        return f"trained again, for {fault}" if fault else ""

    def _training(self, run: TrainingRun, *, attempt: int, again: str = "") -> TrainTask:
        spec = self.plan.spec
        if run.weights:
            self._bring(run.weights)
        return TrainTask(
            spec.name,
            self.store.location,
            run,
            spec.resources.train,
            probes=spec.probes,
            allow_import=self._allow_import,
            attempt=attempt,
            again=again,
        )

    def _bring(self, weights: Weights) -> None:
        """Put a file's values into the store: only the driver's machine need have the file."""
        if weights.sha256 in self._brought:
            return
        from bnsweep.training.weights import portable  # torch: not for sweeps that train their networks

        data = portable(weights.path)
        if hashlib.sha256(data).hexdigest() != weights.sha256:
            raise InputError(f"the weights in {weights.path!r} have changed since this sweep was planned; run again")
        self.store.checkpoints.put_weights(weights.sha256, data)
        self._brought.add(weights.sha256)

    def _drop_weights(self) -> None:
        """What came of them is in the store; that they stay there is no harm."""
        with suppress(StoreError):
            for sha256 in self._brought:
                self.store.checkpoints.drop_weights(sha256)

    def _wants_trials(self, run: TrainingRun) -> bool:
        known = self._ledger.runs[run.run_id]
        return any(True for _ in self._open_points(run, known))

    def _open_points(self, run: TrainingRun, trained: TrainedRun) -> Iterator[PointWork]:
        """The run's points that still lack trials."""
        scores = None
        for point in self.plan.points(run):
            if point.point_id in self._ledger.given_up and not self.retry_failed:
                continue
            low, _ = self.plan.trial_bounds(point.eta)
            design = design_of(self.plan, point, test_images=run.test_images, trained=trained)
            if design is not None and scores is None:
                # Whether a sequential point is done, only its rows can say.
                scores = read_scores(self.store, run) if run.run_id in self._ledger.runs else {}
            rows = scores.get(point.point_id, []) if design is not None and scores else []
            missing = self._ledger.missing(point.point_id, low)
            work = PointWork(point, self.plan, design=design, missing=missing, rows=rows)
            if not work.done:
                yield work

    def _trained(self, run: TrainingRun, trained: TrainedRun) -> None:
        self._networks[run.run_id] = trained
        self._ready.append(run)

    def _next_block(self) -> TrialTask | None:
        while True:
            if self._more:
                run, work, request = self._more.popleft()
            else:
                following = next(self._requests, None)
                if following is None:
                    if not self._ready:
                        return None
                    self._requests = self._requests_of(self._ready.popleft())
                    continue
                run, work, request = following
            if run.run_id in self._gone or work.point.point_id not in self._in_rounds:  # lost, or given up
                continue
            first, rest = request.split(self._block_size(run))
            if rest is not None:
                self._more.appendleft((run, work, rest))
            return self._block(run, work, first)

    def _requests_of(self, run: TrainingRun) -> Iterator[tuple[TrainingRun, PointWork, Request]]:
        for work in self._open_points(run, self._networks[run.run_id]):
            self._in_rounds[work.point.point_id] = work
            for request in work.requests():
                yield run, work, request

    def _block(self, run: TrainingRun, work: PointWork, request: Request) -> TrialTask:
        return TrialTask.of(
            self.plan,
            run,
            trained=self._networks[run.run_id],
            point=work.point,
            request=request,
            store=self.store.location,
            resource=self.plan.spec.resources.trial,
            allow_import=self._allow_import,
        )

    def _block_size(self, run: TrainingRun) -> int:
        # Sizes follow what was measured; rows do not depend on them.
        seconds = self._trial_s.get((run.model, run.fingerprint))
        return FIRST_BLOCK if seconds is None else max(1, int(self._block_s / seconds))

    # What came back

    def _take(self, outcome: Outcome) -> None:
        match outcome:
            case Trained():
                self._take_run(outcome)
            case Scored():
                self._take_block(outcome)
            case Failed(task=TrainTask() as task):
                self.summary.runs_failed += 1
                self.summary.errors.append(f"{task.run.title}: {outcome.error}")
                self._rows.add("runs", [failed_run_row(task, outcome.error, outcome.attempts)])
                self._rows.add("failures", [failure_row(task, outcome)])
            case Failed(task=TrialTask() as task):
                self._give_up(task, outcome)
            case NetworkGone():
                self._gone.add(outcome.task.run.run_id)
            case Progressed() | Waiting():
                pass

    def _take_run(self, outcome: Trained) -> None:
        run = outcome.task.run
        trained = TrainedRun.of(outcome.row)
        before, now = self._counts.get(run.run_id), trained.checkpoint_sha256
        other = None not in (before, now) and before != now
        epochs, probes = outcome.fresh(self._ledger.runs.get(run.run_id), other=other)
        self._rows.add("epochs", epochs)
        self._rows.add("probes", probes)
        # Last: with it the run is over, and what is not there by then never will be.
        self._rows.add("runs", [outcome.row])
        if other:
            self._set_aside(run)
        if now is not None:
            self._counts[run.run_id] = now
        self.summary.runs_done += 1
        self.summary.runs_read += run.ready
        self._note(run, trained, self.summary.diverged)
        if trained.status in NETWORK_ENDS and trained.checkpoint_sha256:
            self._trained(run, trained)

    def _note(self, run: TrainingRun, trained: TrainedRun, diverged: Counter[str]) -> None:
        if trained.status == "diverged":
            diverged[trained.reason] += 1
        elif trained.status in NETWORK_ENDS and trained.test_correct is not None:
            self.summary.clean[run.run_id] = trained.test_correct, run.test_images, trained.classes

    def _set_aside(self, run: TrainingRun) -> None:
        """Trained again, another network came out: what was scored on the earlier one is made anew."""
        self._rows.flush()
        set_aside_all_older(self.store, {run.run_id})
        for point in self.plan.points(run):
            self._ledger.trials.pop(point.point_id, None)
        self.summary.networks_changed += 1

    def _take_block(self, outcome: Scored) -> None:
        task, rows = outcome.task, outcome.rows
        self._rows.add("trials", rows)
        self.summary.trials_done += len(rows)
        key, seconds = (task.run.model, task.run.fingerprint), outcome.duration_s / len(rows)
        self._trial_s[key] = seconds + 0.5 * (self._trial_s.get(key, seconds) - seconds)
        work = self._in_rounds.get(task.point.point_id)
        if work is not None and work.add(rows):  # None: another block of the point has been given up
            for request in work.requests():
                self._more.append((task.run, work, request))
            if work.done:
                del self._in_rounds[task.point.point_id]

    def _give_up(self, task: TrialTask, outcome: Failed) -> None:
        self.summary.blocks_failed += 1
        self.summary.errors.append(f"{task.run.title}, eta {task.point.eta}: {outcome.error}")
        before = self._ledger.failed_attempts.get((task.point.point_id, task.first), 0)
        self._rows.add("failures", [failure_row(task, outcome, attempts_before=before)])
        self._in_rounds.pop(task.point.point_id, None)


def block_seconds(slots: int) -> float:
    """How long blocks should be so that one driver keeps up with so many slots."""
    return max(BLOCK_S, OWN_S * slots)
