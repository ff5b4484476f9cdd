"""How many blocks of trials a driver gets through: submit, run, commit.

`python -m tests.bench.bench_blocks [BLOCKS]` (default 10,000; 100,000 shows the driver's memory) prints the figures.

Blocks of one trial that do nothing, on Ray with two processors. Baseline: the same number of empty Ray tasks, as many
in flight, with no driver and no store. The driver runs in a process of its own, so that its memory can be told.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CPUS = 2
WARM_UP = 200
REPEATS = 3
MEMORY_MB = 1000  # what a driver of 100,000 blocks may take


def figures(blocks: int = 10_000, repeats: int = REPEATS) -> list[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread."""
    found = [_in_a_process(blocks) for _ in range(repeats)]
    ours, bare = ([each[name] for each in found] for name in ("blocks_s", "tasks_s"))
    memory = [each["memory_mb"] for each in found]
    rate = {"figure": f"orchestration: {blocks:,} empty blocks, 2 cores, against empty Ray tasks", "unit": "blocks/s"}
    peak = {"figure": f"orchestration: driver's peak memory, {blocks:,} blocks", "unit": "MB"}
    shared = {"n": repeats, "floor": None}
    return [
        {
            **rate,
            **shared,
            "value": max(ours),
            "baseline": max(bare),
            "ratio": max(ours) / max(bare),
            "spread": _of(ours),
        },
        {**peak, **shared, "value": max(memory), "baseline": None, "ratio": None, "spread": _of(memory)},
    ]


def _in_a_process(blocks: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.bench_blocks", "--here", str(blocks)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _here(blocks: int) -> dict[str, float]:
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    from bnsweep.sweep.ray_settings import prepare_ray

    prepare_ray(own_cluster=True)
    import ray

    from tests.bench.blocks import nothing, run_blocks, trained_sweep

    ray.init(address="local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        run_blocks(*trained_sweep(Path(folder) / "warm-up", WARM_UP), nothing)
        plan, store = trained_sweep(Path(folder) / "store", blocks)
        begin = perf_counter()
        summary = run_blocks(plan, store, nothing)
        seconds = perf_counter() - begin
        landed = store.refresh().rows("trials")
        if not landed == summary.trials_done == blocks:
            raise RuntimeError(f"{blocks} blocks were planned, {summary.trials_done} came back, {landed} landed")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    begin = perf_counter()
    _bare_tasks(min(blocks, 10_000))
    bare = perf_counter() - begin
    ray.shutdown()
    return {"blocks_s": blocks / seconds, "tasks_s": min(blocks, 10_000) / bare, "memory_mb": memory}


def _bare_tasks(count: int) -> None:
    import ray

    from bnsweep.sweep.ray_engine import BLOCKS_PER_SLOT

    empty = ray.remote(lambda: None)
    flying = [empty.remote() for _ in range(BLOCKS_PER_SLOT * CPUS)]
    for _ in range(count - len(flying)):
        done, flying = ray.wait(flying, num_returns=1)
        ray.get(done)
        flying.append(empty.remote())
    ray.get(flying)


def _of(values: list[float]) -> float:
    return (max(values) - min(values)) / sorted(values)[len(values) // 2]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        print(json.dumps(_here(int(sys.argv[2]))))
    else:
        for row in figures(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000):
            print(row)
