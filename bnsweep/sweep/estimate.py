"""A dry run: what a plan holds, what the store has of it, and how long the rest takes.

Speeds come from the store's own rows where these tell them (speeds.py), else from what is timed here and now
(timing.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bnsweep.experiment.plan import Plan
from bnsweep.experiment.spec import AdaptiveTrials
from bnsweep.experiment.vocabulary import NETWORK_ENDS
from bnsweep.store.store import Store
from bnsweep.sweep.notes import notes
from bnsweep.sweep.points import BLOCK_S
from bnsweep.sweep.speeds import measured_training, measured_trials
from bnsweep.sweep.timing import Speeds, computes_bf16, guessed, timed
from bnsweep.sweep.workload import Lacking
from bnsweep.training.datasets import download_note

__all__ = ["Preview", "hours_text", "preview"]

LONG_S = 600.0  # a sweep for which it pays to read a hint
MISSED = 0.05  # a chance to miss what happens in one draw of ten that is worth a word


@dataclass(frozen=True, slots=True)
class Preview:
    """What a plan holds and lacks."""

    sweep: str
    runs: int
    runs_done: int  # ended with a network
    runs_missing: int
    runs_diverged: int
    runs_failed: int
    runs_pruned: int  # stopped early by the search whose plan this is
    points: int
    rows_min: int
    rows_max: int
    rows_done: int
    rows_missing: int  # to be made; not those of runs and points that were given up
    blocks_missing: int
    core_hours_training: float
    core_hours_trials: float
    cpus: int
    hours: float
    speeds_from: str
    networks_lost: int = 0  # of runs that ended, which are trained again; counted among those missing
    hint: str | None = None  # a way to be quicker
    caution: str | None = None  # what its intervals may miss
    notes: tuple[str, ...] = ()  # see notes.py

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_text(self) -> str:
        rows = f"{self.rows_min:,}" if self.rows_min == self.rows_max else f"{self.rows_min:,} to {self.rows_max:,}"
        lost = [f", {count:,} {how}" for count, how in self._lost if count]
        lines = [
            f"sweep    {self.sweep}",
            f"runs     {self.runs:,} planned, {self.runs_done:,} done, {self.runs_missing:,} missing{''.join(lost)}",
            f"points   {self.points:,} (run x noise cell x eta)",
            f"rows     {rows} planned, {self.rows_done:,} done, {self.rows_missing:,} missing",
            f"blocks   about {self.blocks_missing:,} to do, of up to {BLOCK_S:.0f} s each",
            f"time     about {hours_text(self.hours)} on {self.cpus} cores "
            f"(training {hours_text(self.core_hours_training)}, trials {hours_text(self.core_hours_trials)} of a core)",
            f"speeds   {self.speeds_from}",
        ]
        if self.rows_min != self.rows_max:
            lines.append("note     trials stop when the interval is narrow enough: time is for the fewest")
        if self.runs_failed:
            lines.append("note     what failed is left alone unless it is run with --retry-failed")
        if self.networks_lost:
            lines.append(
                f"note     {self.networks_lost:,} networks are not in the store (published rows have none): they are "
                "trained again; where that gives another network, on another processor, its trials are made anew"
            )
        lines += [f"note     {each}" for each in (self.hint, self.caution, *self.notes) if each]
        return "\n".join(lines)

    @property
    def _lost(self) -> tuple[tuple[int, str], ...]:
        return (self.runs_diverged, "diverged"), (self.runs_failed, "failed"), (self.runs_pruned, "stopped early")


def preview(
    plan: Plan, store: Store | None, *, cpus: int | None, data_root: Path, measure: bool | None = False
) -> Preview:
    """Compare a plan with a store; `store` is None where there is none yet.

    `measure`: time a network always, where rows do not tell the speeds (None), or never.
    """
    lacking = Lacking.of(plan, store)
    ledger, workload = lacking.ledger, lacking.workload
    ended = [ledger.runs[run.run_id].status for run in plan.runs if run.run_id in ledger.runs]
    train_work, trial_work = sum(lacking.works), lacking.trials.work
    needs_speed = bool(train_work or trial_work)
    speeds = _speeds(plan, store, data_root, measure=measure) if needs_speed else Speeds(0, 0, "nothing is missing")
    cores = cpus or os.cpu_count() or 1
    train_s, trial_s = train_work * speeds.train_s, trial_work * speeds.trial_s
    # A run is not split: where there are fewer runs than cores, the largest one is waited for.
    longest_s = max(lacking.works, default=0) * speeds.train_s / plan.spec.resources.train.threads
    seconds = max(train_s / cores, longest_s) + trial_s / cores
    return Preview(
        sweep=plan.spec.name,
        runs=len(plan.runs),
        runs_done=sum(status in NETWORK_ENDS for status in ended) - len(lacking.lost),
        runs_missing=len(lacking.runs),
        runs_diverged=ended.count("diverged"),
        runs_failed=ended.count("failed"),
        runs_pruned=ended.count("pruned") if ledger.of_search else 0,
        points=len(plan.runs) * plan.points_per_run,
        rows_min=sum(workload.of_run(run).trials for run in plan.runs),
        rows_max=plan.rows()[1],
        rows_done=sum(workload.landed(run, ledger) for run in plan.runs),
        rows_missing=lacking.trials.trials,
        blocks_missing=max(lacking.trials.points, round(trial_s / BLOCK_S)),
        core_hours_training=train_s / 3600,
        core_hours_trials=trial_s / 3600,
        cpus=cores,
        hours=seconds / 3600,
        speeds_from=speeds.source,
        networks_lost=len(lacking.lost),
        hint=_hint(plan) if seconds > LONG_S else None,
        caution=_caution(plan),
        notes=(*notes(plan, store), *(_downloads(plan, data_root) if needs_speed else ())),
    )


def _downloads(plan: Plan, data_root: Path) -> Iterator[str]:
    for data in {run.fingerprint: run.data for run in plan.runs}.values():
        if note := download_note(data, root=data_root):
            yield note


def _hint(plan: Plan) -> str | None:
    if plan.spec.resources.train.gpu or plan.spec.resources.trial.gpu:
        return "tasks take GPUs, of whose number this time knows nothing: --cluster nodes=N,gpus=M reckons with them"
    used = {"training": {run.training.precision for run in plan.runs}, "evaluation": {plan.spec.evaluation.precision}}
    slow = [name for name, precisions in used.items() if "fp32" in precisions]
    if not slow or not computes_bf16():
        return None
    keys = " and ".join(f"`{name}: {{precision: bf16}}`" for name in slow)
    return f"this processor computes bf16 as well: {keys} usually takes about half of the time; rows say which it was"


def _caution(plan: Plan) -> str | None:
    """What happens in one draw of ten may be in none of the first few; see docs/sampling.md."""
    trials = plan.spec.trials
    if not isinstance(trials, AdaptiveTrials) or plan.spec.images != "all" or (missed := 0.9**trials.min) < MISSED:
        return None
    more = "`min: 48`, or " if trials.max >= 48 else ""
    return (
        f"with `images: all` a point may stop after {trials.min} draws, which miss what happens in one draw of ten "
        f"{100 * missed:.0f} times in 100: {more}`images: auto`, where noise may break single draws"
    )


def _speeds(plan: Plan, store: Store | None, data_root: Path, *, measure: bool | None) -> Speeds:
    """By rows; what these do not tell is timed now or guessed."""
    if measure:
        return timed(plan, data_root)
    training, trials = (measured_training(store, plan), measured_trials(store, plan)) if store else (None, None)
    told = [f"{each.rows:,} {what}" for each, what in ((training, "runs"), (trials, "trials")) if each]
    source = f"measured: {' and '.join(told)} in the store"
    if training and trials:
        speeds = Speeds(0, 0, source)
    else:
        speeds = timed(plan, data_root) if measure is None else guessed()
        lacks = "trials" if training else "training"
        speeds = replace(speeds, source=f"{source}; {lacks} {speeds.source}") if told else speeds
    # Rows say how long tasks took, and tasks have so many cores.
    resources = plan.spec.resources
    if training:
        speeds = replace(speeds, train_s=training.task_s * resources.train.threads)
    if trials:
        speeds = replace(speeds, trial_s=trials.task_s * resources.trial.threads)
    return speeds


def hours_text(hours: float) -> str:
    """In the unit that suits it."""
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.0f} s"
