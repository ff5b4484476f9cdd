"""How long a sweep takes on a cluster, what that costs and how much it stores, from what was measured before.

Speeds are those of the machine types (the `device` column) in a store's rows of the plan's precision: seconds of one
task per multiply-add. A type that no row speaks of has no speed here: nothing is guessed.

A task's time is taken to be proportional to multiply-adds and independent of how many tasks run beside it on other
cores or nodes; where several share one GPU, the rows were measured under the same sharing or the estimate is too good.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from bnsweep.errors import InputError
from bnsweep.experiment.plan import Plan, TrainingRun
from bnsweep.experiment.spec import Resource
from bnsweep.store.store import Store
from bnsweep.sweep.estimate import hours_text
from bnsweep.sweep.ledger import Ledger, read_ledger
from bnsweep.sweep.workload import Workload, measured_trials, without_network

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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_text(self) -> str:
        if self.hours is None:
            time = "time     unknown: no row in the history was made on such a machine in this precision; run a few "
            time += "networks on one, and give their store as --history"
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
    ledger = read_ledger(store, plan) if store else Ledger()
    todo = [run for run in plan.runs if ledger.untrained(run.run_id)] + without_network(plan, store, ledger)
    works = [run.architecture.multiply_adds * run.train_images * run.training.epochs for run in todo]
    workload = Workload(plan)
    missing = [workload.missing(run, ledger) for run in plan.runs]
    rows, trial_work = sum(part.trials for part in missing), sum(part.work for part in missing)
    speeds_train, speeds_trial = _speeds(history, plan) if history else ({}, {})
    device_train, train_s = _pick(speeds_train, resources.train)
    device_trial, trial_s = _pick(speeds_trial, resources.trial)
    slots_train, slots_trial = cluster.slots(resources.train), cluster.slots(resources.trial)
    hours_train = _hours_of(sum(works), max(works, default=0), train_s, slots_train)
    hours_trial = _hours_of(trial_work, 0, trial_s, slots_trial)
    hours = None if hours_train is None or hours_trial is None else hours_train + hours_trial
    row_bytes = _row_bytes(history)
    return Size(
        nodes=cluster.nodes,
        slots_train=slots_train,
        slots_trial=slots_trial,
        device_train=device_train,
        device_trial=device_trial,
        hours_train=hours_train,
        hours_trial=hours_trial,
        hours=hours,
        cost=None if cluster.price is None or hours is None else cluster.price * cluster.nodes * hours,
        rows=rows,
        row_bytes=row_bytes,
        bytes_rows=round(rows * row_bytes),
        bytes_networks=sum(run.architecture.parameters * BYTES_PER_PARAMETER for run in todo),
        limit=_limit(todo, slots_train, hours_train, hours_trial),
        measured=_measured(device_train, device_trial, train_s, trial_s),
    )


def _speeds(store: Store, plan: Plan) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of one task per multiply-add by machine type, in the plan's precisions: training, trials."""
    columns = ["run_id", "device", "multiply_adds", "train_images", "epochs_run", "duration_s", "train_precision"]
    training: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for row in store.read("runs", columns=columns).to_pylist():
        sizes[row["run_id"]] = row["multiply_adds"]
        if row["train_precision"] != plan.spec.training.precision:
            continue
        if row["device"] and row["duration_s"] and row["epochs_run"]:
            sums = training.setdefault(row["device"], [0.0, 0.0])
            sums[0] += row["duration_s"]
            sums[1] += row["multiply_adds"] * row["train_images"] * row["epochs_run"]
    trials = measured_trials(store, precision=plan.spec.evaluation.precision).filter(pc.is_valid(pc.field("device")))
    scoring: dict[str, list[float]] = {}
    for row in trials.group_by(["run_id", "device"]).aggregate([("worth", "sum"), ("duration_s", "sum")]).to_pylist():
        if row["run_id"] in sizes:
            sums = scoring.setdefault(row["device"], [0.0, 0.0])
            sums[0] += row["duration_s_sum"]
            sums[1] += sizes[row["run_id"]] * row["worth_sum"]
    return _quotients(training), _quotients(scoring)


def _quotients(sums: dict[str, list[float]]) -> dict[str, float]:
    return {device: seconds / work for device, (seconds, work) in sums.items() if seconds and work}


def _pick(speeds: dict[str, float], resource: Resource) -> tuple[str | None, float | None]:
    """The machine type that a task will run on: a CPU, or the wanted GPU; of several the slowest."""
    fitting = {
        device: seconds
        for device, seconds in speeds.items()
        if device.lower().startswith("cpu") == (resource.gpu == 0)
        and (resource.accelerator is None or resource.accelerator.lower() in device.lower())
    }
    if not fitting:
        return None, None
    device = max(fitting, key=lambda name: fitting[name])
    return device, fitting[device]


def _hours_of(work: float, largest: float, seconds: float | None, slots: int) -> float | None:
    """No sooner than the largest task, however many slots there are."""
    if not work:
        return 0.0
    return None if seconds is None else max(work / slots, largest) * seconds / 3600


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


def _measured(train: str | None, trial: str | None, train_s: float | None, trial_s: float | None) -> str:
    said = [
        f"{what} {1e-9 / seconds:.3g} billion multiply-adds/s a task on {device}"
        for what, device, seconds in (("training", train, train_s), ("trials", trial, trial_s))
        if seconds
    ]
    return "; ".join(said) or "none measured"


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
