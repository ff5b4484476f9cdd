"""All studies of one search, side by side: who is asked next, what the store answers, what is written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bnsweep.experiment.plan import Plan, TrainingRun
from bnsweep.experiment.search import Search
from bnsweep.experiment.vocabulary import NETWORK_ENDS
from bnsweep.store.attempts import trained_runs
from bnsweep.store.store import Store
from bnsweep.sweep.ledger import TrainedRun, read_runs, read_scores
from bnsweep.sweep.search.job import Trainee, scores_done
from bnsweep.sweep.search.objectives import Verdict, objective_values
from bnsweep.sweep.search.study import Proposal, Study

__all__ = ["Memory", "Panel", "Step"]

Row = Mapping[str, Any]


class Memory:
    """What a store knows of training runs, as it was when the search began."""

    def __init__(self, store: Store, plan: Plan, search: Search, *, retry_failed: bool = False) -> None:
        self._store, self._plan, self._objectives = store, plan, search.objectives
        self._retry_failed = retry_failed
        self._stops_early = search.early_stopping is not None
        self._runs = read_runs(store)
        self._networks = {each.run_id: each.sha256 for each in trained_runs(store, store.parts("runs"))}
        self._given_up, self._failed_attempts = _failures(store, plan.spec.name)
        self._epochs: dict[str, list[float]] | None = None

    def trained(self, run: TrainingRun) -> TrainedRun | None:
        """How the run ended; None if it has not, or is to be done again."""
        known = self._runs.get(run.run_id)
        return None if known is None or (known.status == "failed" and self._retry_failed) else known

    def trainee(self, run: TrainingRun) -> Trainee:
        """The run to be done, and what became of earlier attempts."""
        run_id = run.run_id
        failed = self._failed_attempts.get(run_id, 0)
        return Trainee(run, self._runs.get(run_id), self._networks.get(run_id), failed_attempt=failed)

    def verdict(self, proposal: Proposal) -> Verdict | None:
        """What the rows say of a run; None if they do not say all.

        A run that a search has stopped early is an answer only where this one might have stopped it too.
        """
        run = proposal.run
        known = self.trained(run)
        if known is None or (known.status == "pruned" and (proposal.spared or not self._stops_early)):
            return None
        if known.status not in NETWORK_ENDS:
            return Verdict(known.status, epochs=self._curve(run))
        rows = read_scores(self._store, run)
        if not scores_done(self._plan, run, known, rows):
            given_up = not self._retry_failed and self._given_up.get(run.run_id, 0) >= known.attempt
            return Verdict("failed", epochs=self._curve(run)) if given_up else None
        values = objective_values(self._objectives, self._plan, run, (row for point in rows.values() for row in point))
        return Verdict(known.status, values, _clean(rows), self._curve(run))

    def _curve(self, run: TrainingRun) -> tuple[float, ...]:
        if self._epochs is None:
            self._epochs = {}
            columns = ["run_id", "epoch", "test_correct", "test_images"]
            for row in self._store.read("epochs", columns=columns).sort_by("epoch").to_pylist():
                self._epochs.setdefault(row["run_id"], []).append(row["test_correct"] / row["test_images"])
        return tuple(self._epochs.get(run.run_id, ()))


class Step(NamedTuple):
    """A run that is to be done."""

    study: int  # its number
    proposal: Proposal
    trainee: Trainee  # the run, and what is known of it

    @property
    def spared(self) -> bool:
        """Whether it is trained in full: for its study's sake, or as it was before."""
        return self.proposal.spared or self.trainee.scored_sha256 is not None


@dataclass(slots=True)
class _Seat:
    """One study and the batch that it waits for."""

    study: Study
    waiting: deque[Proposal] = field(default_factory=deque)  # proposed, not yet begun
    flying: dict[str, Proposal] = field(default_factory=dict)  # begun, by run id
    verdicts: dict[str, Verdict] = field(default_factory=dict)  # of the batch


class Panel:
    """Studies that share an engine. `next` hands out runs, `ended` takes verdicts.

    The study with the fewest runs in flight is served first, so that each gets its share for as long as it has
    questions, however large the others' networks are.
    """

    def __init__(
        self,
        studies: Sequence[Study],
        memory: Memory,
        *,
        proposed: Callable[[Proposal], None],
        heard: Callable[[Proposal, Verdict, bool], None],
    ) -> None:
        self._seats = [_Seat(study) for study in studies]
        self._memory = memory
        self._proposed, self._heard = proposed, heard
        self.from_store: list[tuple[int, str, Verdict]] = []  # answers that nobody has taken note of yet

    @property
    def over(self) -> bool:
        """Whether no study has anything left to ask or to wait for."""
        return not any(seat.waiting or seat.flying or not seat.study.over for seat in self._seats)

    def next(self) -> Step | None:
        """The next run to do; None: wait, or over."""
        for index, seat in sorted(enumerate(self._seats), key=lambda pair: len(pair[1].flying)):
            self._advance(index)
            if seat.waiting:
                proposal = seat.waiting.popleft()
                seat.flying[proposal.run.run_id] = proposal
                return Step(index, proposal, self._memory.trainee(proposal.run))
        return None

    def ended(self, index: int, run_id: str, verdict: Verdict) -> None:
        """A run is over; the last of a batch brings the study on."""
        seat = self._seats[index]
        proposal = seat.flying.pop(run_id)
        seat.verdicts[run_id] = verdict
        self._heard(proposal, verdict, False)
        self._advance(index)

    def _advance(self, index: int) -> None:
        """Batch after batch, until one holds a run that the store does not answer."""
        seat = self._seats[index]
        while not seat.waiting and not seat.flying:
            if seat.verdicts:
                seat.study.tell(seat.verdicts)
                seat.verdicts = {}
            if seat.study.over:
                return
            batch = seat.study.batch()
            for proposal in batch:
                self._proposed(proposal)
                verdict = self._memory.verdict(proposal)
                if verdict is None:
                    seat.waiting.append(proposal)
                else:
                    seat.verdicts[proposal.run.run_id] = verdict
                    self.from_store.append((index, proposal.run.run_id, verdict))
                    self._heard(proposal, verdict, True)
            if not batch:
                return


def _failures(store: Store, search: str) -> tuple[dict[str, int], dict[str, int]]:
    """The last attempt per run that this search has given up, and the last one that anybody has: those are numbered.

    Another search of the same network may score it in another way, which says nothing of this one's.
    """
    mine: dict[str, int] = {}
    everybodys: dict[str, int] = {}
    for row in store.read("failures", columns=["sweep", "run_id", "point_id", "attempt"]).to_pylist():
        if row["point_id"] is not None:  # a block of a sweep
            continue
        for found in (everybodys, mine) if row["sweep"] == search else (everybodys,):
            found[row["run_id"]] = max(row["attempt"], found.get(row["run_id"], 0))
    return mine, everybodys


def _clean(rows: Mapping[str, Sequence[Row]]) -> float | None:
    clean = [row["accuracy"] for point in rows.values() for row in point if row["eta"] == 0]
    return sum(clean) / len(clean) if clean else None
