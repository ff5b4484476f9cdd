"""A sweep on Ray some of whose blocks find a worker's disk full, and which has its blocks back all together.

    python -m tests.sweep.full_disks STORE NUMBER ...

Numbers are those of the blocks in their order. Prints how the sweep ended, and how many trials have landed.
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


def main(location: str, *numbers: str) -> None:
    plan, store = trained_sweep(Path(location), BLOCKS)
    (run,) = plan.runs
    points = [point.point_id for point in plan.points(run)]
    full = {points[int(number)] for number in numbers}

    def score(task: TrialTask, dataset: Dataset) -> Scored:
        if task.point.point_id in full:
            raise StoreUnwritableError("no space left")
        return nothing(task, dataset)

    datasets = {run.fingerprint: lambda: load_dataset(run.data, root=Path())}
    with store.claim():
        driver = Driver(plan, store, datasets=datasets, listener=Silent())
        try:
            driver.run(Together(store, cpus=2, score=score))
        except StoreUnwritableError as error:
            print(error)
    print(Store.open(location).rows("trials"))


if __name__ == "__main__":
    main(*sys.argv[1:])
