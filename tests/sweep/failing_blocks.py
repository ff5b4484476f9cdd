"""A sweep on Ray some of whose blocks fail, and which has its blocks back all together.

    python -m tests.sweep.failing_blocks STORE NUMBER=disk|memory|shapes ...

Numbers are those of the blocks in their order. Prints how the sweep ended, how many trials have landed, and what was
given up after how many attempts.
"""

# ruff: noqa: E402 - Ray reads its settings when it is imported
from __future__ import annotations

import sys
from pathlib import Path

from bnsweep.sweep.ray_settings import prepare_ray

prepare_ray(own_cluster=True)

import ray

from bnsweep.errors import StoreUnwritableError
from bnsweep.store.store import Store
from bnsweep.sweep.driver import Driver
from bnsweep.sweep.progress import Silent
from bnsweep.sweep.ray_engine import RayEngine
from bnsweep.sweep.tasks import Outcome, Scored, TrialTask
from bnsweep.training.datasets import Dataset, load_dataset
from tests.bench.blocks import nothing, trained_sweep

BLOCKS = 10


class Together(RayEngine):
    """Hands over nothing until everything has ended."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        if self._blocks:
            ray.wait(list(self._blocks), num_returns=len(self._blocks))
        return super().wait(timeout_s)


ERRORS = {
    "disk": StoreUnwritableError("no space left"),
    "memory": MemoryError("none left"),
    "shapes": ValueError("shapes cannot be multiplied"),
}


def main(location: str, *failing: str) -> None:
    plan, store = trained_sweep(Path(location), BLOCKS)
    (run,) = plan.runs
    points = [point.point_id for point in plan.points(run)]
    fails = {points[int(number)]: ERRORS[what] for number, _, what in (each.partition("=") for each in failing)}

    def score(task: TrialTask, dataset: Dataset) -> Scored:
        if task.point.point_id in fails:
            raise fails[task.point.point_id]
        return nothing(task, dataset)

    datasets = {run.fingerprint: lambda: load_dataset(run.data, root=Path())}
    with store.claim():
        driver = Driver(plan, store, datasets=datasets, listener=Silent())
        try:
            driver.run(Together(store, cpus=2, score=score))
        except StoreUnwritableError as error:
            print(error)
    print(Store.open(location).rows("trials"))
    for row in Store.open(location).read("failures").to_pylist():
        print(row["attempt"], row["error"])


if __name__ == "__main__":
    main(*sys.argv[1:])
