"""How long a sweep takes on a cluster, what that costs and how much it stores, from what was measured before.

Speeds are those of the machine types (the `device` column) in a store's rows of the plan's precision and size of
network (speeds.py): seconds of one task per multiply-add. A type that no row speaks of has no speed here: nothing is
guessed.

A task's time is taken to be proportional to multiply-adds and independent of how many tasks run beside it on other
cores or nodes; where several share one GPU, the rows were measured under the same sharing or the estimate is too good.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from bnsweep.errors import InputError
from bnsweep.experiment.plan import Plan, TrainingRun
from bnsweep.experiment.resources import Resource
from bnsweep.store.store import Store
from bnsweep.sweep.estimate import hours_text
from bnsweep.sweep.speeds import ALIKE, Measured, measured_training, measured_trials
from bnsweep.sweep.workload import Lacking

__all__ = ["ClusterShape", "Size", "parse_cluster", "size"]

CORES = 8  # per node, if not said
GRAIN = 10_000  # parts of a CPU or GPU that Ray counts in
BYTES_PER_PARAMETER = 4  # networks are kept in fp32
ROW_BYTES = 22.4  # of a trial in a compacted part, where the history has too few: docs/cluster.md


@dataclass(frozen=True, slots=True)
class ClusterShape:
    """Equal nodes that work."""

    nodes: int
    cpus: int = CORES  # per node
    gpus: int = 0  # per node
    price: float | None = None  # of a node for an hour, in any currency

    def slots(self, resource: Resource) -> int:
        """How many such tasks the cluster does at a time."""
        fitting = []
        if resource.cpu:
            fitting.append(self.cpus * GRAIN // round(resource.cpu * GRAIN))
        if resource.gpu:  # several share one, or one has several: none has parts of two
            share = round(resource.gpu * GRAIN)
            fitting.append(self.gpus * (GRAIN // share) if share < GRAIN else self.gpus * GRAIN // share)
        return self.nodes * min(fitting)


@dataclass(frozen=True, slots=True)
class Size:
    """An estimate. None: no row in the history speaks of such machines, or no price was given."""

    nodes: int
    slots_train: int
    slots_trial: int
    device_train: str | None  # whose speed was used
    device_trial: str | None
    hours_train: float | None
    hours_trial: float | None
    hours: float | None
    cost: float | None
    rows: int
    row_bytes: float
    bytes_rows: int
    bytes_networks: int
    limit: str
    measured: str
    note: str | None = None  # of what the cluster has in vain

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_text(self) -> str:
        if self.hours is None:
            time = "time     unknown: no row in the history was made on such a machine in this precision, by networks "
            time += f"at most {ALIKE:g} times larger or smaller; run some on one, and give their store as --history"
        else:
            time = f"time     about {hours_text(self.hours)} ({self.limit})"
        lines = [
            f"cluster  {self.nodes} nodes, {self.slots_train:,} trainings or {self.slots_trial:,} blocks at a time",
            time,
            f"speeds   {self.measured}",
        ]
        if self.cost is not None:
            lines.append(f"cost     about {self.cost:,.2f}")
        stored = f"{_bytes(self.bytes_rows)} of rows ({self.row_bytes:.0f} bytes each), "
        lines.append(f"storage  about {stored}{_bytes(self.bytes_networks)} of networks")
        if self.note is not None:
            lines.append(f"note     {self.note}")
        return "\n".join(lines)


def parse_cluster(text: str) -> ClusterShape:
    """`nodes=8,gpus=4,cpus=16,price=12.5`. Raises InputError."""
    kinds = {"nodes": int, "cpus": int, "gpus": int, "price": float}
    lowest = {"nodes": 1, "cpus": 1, "gpus": 0, "price": 0}
    given: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in kinds or name in given:
            raise InputError(f"--cluster is nodes=N[,cpus=N][,gpus=N][,price=PRICE], each once, but got {text!r}")
        if not re.fullmatch(r"\d{1,6}" if kinds[name] is int else r"\d{1,9}(\.\d{1,6})?", value):
            raise InputError(f"--cluster: `{name}` is a {'whole ' * (kinds[name] is int)}number, but got {value!r}")
        given[name] = kinds[name](value)
        if given[name] < lowest[name]:
            raise InputError(f"--cluster: `{name} >= {lowest[name]}` must hold, but got {value}")
    if "nodes" not in given:
        raise InputError(f"--cluster says how many nodes there are, e.g. nodes=8, but got {text!r}")
    return ClusterShape(**given)


def size(plan: Plan, store: Store | None, cluster: ClusterShape, history: Store | None) -> Size:
    """What the plan lacks in the store, on the cluster, by the speeds of the history.

    Raises:
        InputError: a task fits on no node of the cluster.
    """
    resources = plan.spec.resources
    for what, resource in (("train", resources.train), ("trial", resources.trial)):
        if cluster.slots(resource) == 0:
            raise InputError(
                f"`resources.{what}` asks for cpu: {resource.cpu:g}, gpu: {resource.gpu:g}, but a node of --cluster "
                f"has {cluster.cpus} CPUs and {cluster.gpus} GPUs"
            )
    lacking = Lacking.of(plan, store)
    training, trials = (measured_training(history, plan), measured_trials(history, plan)) if history else (None, None)
    slots_train, slots_trial = cluster.slots(resources.train), cluster.slots(resources.trial)
    hours_train = _hours_of(sum(lacking.works), max(lacking.works, default=0), training, slots_train)
    hours_trial = _hours_of(lacking.trials.work, 0, trials, slots_trial)
    hours = None if hours_train is None or hours_trial is None else hours_train + hours_trial
    rows, row_bytes = lacking.trials.trials, _row_bytes(history)
    return Size(
        nodes=cluster.nodes,
        slots_train=slots_train,
        slots_trial=slots_trial,
        device_train=training.device if training else None,
        device_trial=trials.device if trials else None,
        hours_train=hours_train,
        hours_trial=hours_trial,
        hours=hours,
        cost=None if cluster.price is None or hours is None else cluster.price * cluster.nodes * hours,
        rows=rows,
        row_bytes=row_bytes,
        bytes_rows=round(rows * row_bytes),
        bytes_networks=sum(run.architecture.parameters * BYTES_PER_PARAMETER for run in lacking.runs),
        limit=_limit(lacking.runs, slots_train, hours_train, hours_trial),
        measured=_measured(training, trials),
        note=resources.idle_gpus(cluster.gpus),
    )


def _hours_of(work: float, largest: float, speed: Measured | None, slots: int) -> float | None:
    """No sooner than the largest task, however many slots there are."""
    if not work:
        return 0.0
    return None if speed is None else max(work / slots, largest) * speed.task_s / 3600


def _row_bytes(history: Store | None) -> float:
    parts = history.parts("trials") if history else []
    rows = sum(part.rows for part in parts)
    # Small parts are mostly footers, which compaction does away with.
    return sum(part.bytes for part in parts) / rows if rows >= 100_000 else ROW_BYTES


def _limit(todo: list[TrainingRun], slots: int, train: float | None, trial: float | None) -> str:
    if train is None or trial is None:
        return ""
    parts = f"training {hours_text(train)}, trials {hours_text(trial)}"
    if 0 < len(todo) < slots:
        return f"{parts}; {len(todo):,} networks leave {slots - len(todo):,} places empty while they are trained"
    return parts


def _measured(training: Measured | None, trials: Measured | None) -> str:
    said = [
        f"{what} {1e-9 / speed.task_s:.3g} billion multiply-adds/s a task on {speed.device}"
        for what, speed in (("training", training), ("trials", trials))
        if speed
    ]
    return "; ".join(said) or "none measured"


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
