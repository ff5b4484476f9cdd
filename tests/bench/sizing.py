"""The table "How large, how long" of docs/cluster.md, by the speeds of a store's rows.

    python -m tests.bench.sizing HISTORY [bf16]

HISTORY is a store with rows of ResNet-20 in that precision (default: fp32), made one thread a task, e.g. by the sweep
below; the rest is what `bnsweep plan --cluster nodes=8,cpus=16 --history HISTORY` does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from bnsweep.experiment.plan import Plan, make_plan
from bnsweep.experiment.reading import READY, parse_spec
from bnsweep.store.store import Store
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.sizing import ClusterShape, size

CLUSTER = ClusterShape(nodes=8, cpus=16)
CPU = {"train": {"cpu": 1}, "trial": {"cpu": 1}}
# Any images of 32x32 will do for speeds.
HISTORY = """\
name: history
data: {source: digits, size: 32, train_images: 1000, test_images: 360}
models: resnet20
training: {epochs: 2, batch_size: 128, chance_epochs: null, precision: PRECISION}
evaluation: {precision: PRECISION}
noise: {targets: [weights, all]}
eta: [0.1, 0.3]
trials: 10
"""


def sweeps() -> dict[str, dict[str, object]]:
    """What the table is about, as sweep files."""
    paper = yaml.safe_load((READY / "paper-cifar10.yaml").read_text())
    cells = {"targets": ["weights", "all"], "bn_treatment": ["stale", "folded", "recalibrated"]}
    search = {
        "data": {"source": "cifar10", "train_images": 10_000}, "models": "resnet20", "placements": "all",
        "train_seeds": 20_000, "training": {"epochs": 20}, "eta": [0, 0.1, 0.2], "trials": 10, "images": 1_000,
    }  # fmt: skip
    rows = {
        "data": "cifar10", "models": "resnet20", "placements": "all", "train_seeds": 680, "noise": cells,
        "eta": [0.01, 0.1, 0.2, 0.3, 0.4], "trials": 490, "images": 500,
    }  # fmt: skip
    return {
        "paper scale": {**paper, "data": ["cifar10", "cifar100"], "trials": 8},
        "placement search": search,
        "10 million rows": rows,
        "1 billion rows": {**rows, "train_seeds": 6_800, "trials": 4_900},
    }


def plan_of(name: str, spec: dict[str, object], precision: str) -> Plan:
    training = dict(spec.get("training") or {}, precision=precision)  # type: ignore[call-overload]
    asked = {"name": name.replace(" ", "-"), **spec, "training": training, "resources": CPU}
    asked["evaluation"] = {"precision": precision}
    asked.pop("description", None)
    return make_plan(parse_spec(yaml.safe_dump(asked)), LocalCatalog(Path()))


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    history, precision = Store.open(sys.argv[1]), (*sys.argv[2:], "fp32")[0]
    for name, spec in sweeps().items():
        plan = plan_of(name, spec, precision)
        here, core = (size(plan, None, shape, history) for shape in (CLUSTER, ClusterShape(nodes=1, cpus=1)))
        if core.hours_train is None or core.hours_trial is None:
            sys.exit(core.to_text())
        print(f"== {name}: {len(plan.runs):,} networks; {precision}")
        print(f"one core: training {core.hours_train:,.0f} h, trials {core.hours_trial:,.0f} h\n{here.to_text()}\n")


if __name__ == "__main__":
    main()
