"""The table "How large, how long" of docs/cluster.md.

    python -m tests.bench.sizing TRAINING TRIALS [fp32|bf16]   images/s and core of ResNet-20, as docs/speed.md has
    python -m tests.bench.sizing STORE [fp32|bf16]             by the rows of a real sweep

Either way the rest is what `bnsweep plan --cluster nodes=8,cpus=16 --history STORE` does.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from bnsweep.experiment.files import READY
from bnsweep.experiment.plan import Plan, make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.noise.sampling import DRAW_COST
from bnsweep.store.store import Store
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.sizing import ClusterShape, size

CLUSTER = ClusterShape(nodes=8, cpus=16)
CPU = {"train": {"cpu": 1}, "trial": {"cpu": 1}}
HISTORY = """\
name: history
data: {source: digits, size: 32, train_images: 50, test_images: 50}
models: resnet20
placements: all
train_seeds: 1
training: {epochs: 1, batch_size: 50, chance_epochs: null, precision: PRECISION}
evaluation: {precision: PRECISION}
eta: [0.1]
trials: 1
"""


def history(folder: Path, training: float, trials: float, precision: str) -> Store:
    """A store whose rows say that many images/s: real ones, with other times."""
    spec, made = folder / "history.yaml", folder / "made"
    spec.write_text(HISTORY.replace("PRECISION", precision))
    words = [sys.executable, "-m", "bnsweep", "run", spec, "--store", made, "--engine", "inline", "--quiet"]
    subprocess.run(words, check=True, capture_output=True)
    store = Store.create(str(folder / "history"))
    tables = {}
    # A trial of many images, as measured, is all images; of these rows' few its draw is a good part.
    for name, images, speed, draw in (("runs", "train_images", training, 0), ("trials", "images", trials, DRAW_COST)):
        table = Store.open(str(made)).read(name)
        seconds = pc.divide(pc.add(pc.cast(table[images], pa.float64()), draw), speed)
        at = table.schema.get_field_index("duration_s")
        tables[name] = table.set_column(at, table.schema.field(at), pc.cast(seconds, table.schema.field(at).type))
    store.commit(tables)
    return store


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
    *given, precision = sys.argv[1:] if sys.argv[-1] in {"fp32", "bf16"} else [*sys.argv[1:], "fp32"]
    if len(given) not in {1, 2}:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(given[0]) if len(given) == 1 else history(Path(folder), *map(float, given), precision)
        for name, spec in sweeps().items():
            show(name, plan_of(name, spec, precision), store)


def show(name: str, plan: Plan, store: Store) -> None:
    here, core = (size(plan, None, shape, store) for shape in (CLUSTER, ClusterShape(nodes=1, cpus=1)))
    if core.hours_train is None or core.hours_trial is None:
        sys.exit(core.to_text())
    longest = max(run.architecture.multiply_adds * run.train_images * run.training.epochs for run in plan.runs)
    works = sum(run.architecture.multiply_adds * run.train_images * run.training.epochs for run in plan.runs)
    print(f"== {name}: {len(plan.runs):,} networks, {core.rows:,} rows, {plan.spec.training.precision}")
    print(f"one core: training {core.hours_train:,.0f} h, trials {core.hours_trial:,.0f} h; ", end="")
    print(f"longest network {core.hours_train * longest / works:,.1f} h\n{here.to_text()}\n")


if __name__ == "__main__":
    main()
