"""How many blocks of trials a driver gets through: submit, run, commit.

`python -m tests.bench.bench_blocks [BLOCKS]` (default 10,000; 100,000 shows the driver's memory) prints the figures.

Blocks of one trial that do nothing, on Ray with two processors. Baseline: the same number of empty Ray tasks, as many
in flight, with no driver and no store. The driver runs in a process of its own, so that its memory can be told.
"by processor time" counts what driver, workers and Ray's own processes spend (from /proc): two cores over that per
block is what they would do on a machine of their own if nobody waited for anybody.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CPUS = 2
WARM_UP = 200
REPEATS = 3


def figures(blocks: int = 10_000, repeats: int = REPEATS) -> list[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread."""
    found = [_in_a_process(blocks) for _ in range(repeats)]
    shared = {"n": repeats, "floor": None, "baseline": None, "ratio": None}
    what = f"orchestration: {blocks:,} empty blocks, 2 cores"
    rows: list[dict[str, Any]] = []
    for name, ways in {"": ("blocks_s", "tasks_s"), ", by processor time": ("blocks_cpu", "tasks_cpu")}.items():
        ours, bare = ([each[way] for each in found] for way in ways)
        rate = {"figure": f"{what}{name}, against empty Ray tasks", "unit": "blocks/s", "value": max(ours)}
        rows.append({**shared, **rate, "baseline": max(bare), "ratio": max(ours) / max(bare), "spread": _of(ours)})
    for key, name, unit in (
        ("driver_ms", "driver's processor time per block", "ms"),
        ("memory_mb", "driver's peak memory", "MB"),
        ("most", "most blocks in flight", "blocks"),
    ):
        values = [each[key] for each in found]
        rows.append({**shared, "figure": f"{what}, {name}", "unit": unit, "value": max(values), "spread": _of(values)})
    return rows


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
        begin, spent, own = perf_counter(), _processor_s(), process_time()
        summary, most = run_blocks(plan, store, nothing)
        seconds, spent, own = perf_counter() - begin, _processor_s() - spent, process_time() - own
        landed = store.refresh().rows("trials")
        if not landed == summary.trials_done == blocks:
            raise RuntimeError(f"{blocks} blocks were planned, {summary.trials_done} came back, {landed} landed")
    memory = _peak_mb()
    tasks = min(blocks, 10_000)
    begin, bare_spent = perf_counter(), _processor_s()
    _bare_tasks(tasks)
    bare, bare_spent = perf_counter() - begin, _processor_s() - bare_spent
    ray.shutdown()
    return {
        "blocks_s": blocks / seconds,
        "tasks_s": tasks / bare,
        "blocks_cpu": CPUS * blocks / spent,
        "tasks_cpu": CPUS * tasks / bare_spent,
        "driver_ms": 1000 * own / blocks,
        "memory_mb": memory,
        "most": most,
    }


def _peak_mb() -> float:
    """The largest memory of this process. Not getrusage's, which begins with that of the process it came from."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def _processor_s() -> float:
    """Of this process and all that came from it and are still there: Ray's workers and services."""
    family, spent = {os.getpid()}, 0.0
    stats = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                stats.append((int(folder.name), (folder / "stat").read_text().rpartition(")")[2].split()))
    for number, fields in sorted(stats):  # parents have smaller numbers, as long as these do not start again
        if number in family or int(fields[1]) in family:
            family.add(number)
            spent += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return spent


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
