"""How long the command line takes to start: `--help`, and a plan of 100,000 runs with its memory.

`python -m tests.bench.bench_start` prints the figures. Baseline: Python itself, starting and ending.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parent.parent.parent
REPEATS = 5
SPEC = """
name: big
data: cifar10
models: [resnet20, resnet32, resnet44, resnet56, vgg16]
placements: [all, none, {every: 2}, {every: 3}, FIRST, LAST]
train_seeds: 1000
noise: {targets: [weights, all]}
trials: 10
"""
COUNTED = ", ".join(f"{{WORD: {count}}}" for count in range(1, 9))


def figures() -> list[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread."""
    nothing = _seconds(["-c", "pass"])
    helped = _seconds(["-m", "bnsweep", "--help"])
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "big.yaml")
        text = SPEC.replace("FIRST", COUNTED.replace("WORD", "first")).replace("LAST", COUNTED.replace("WORD", "last"))
        spec.write_text(text)
        arguments = ["-m", "bnsweep", "plan", str(spec), "--store", str(Path(folder, "none")), "--json"]
        planned = _seconds(arguments)
        memory = _peak_mb(arguments)
    shared = {"baseline": median(nothing), "n": REPEATS, "floor": None}
    return [
        {**shared, **_times("start: bnsweep --help, against python -c pass", helped, nothing)},
        {**shared, **_times("start: plan of 100,000 runs, against python -c pass", planned, nothing)},
        {
            **shared,
            "figure": "start: peak memory of a plan of 100,000 runs",
            "value": memory,
            "unit": "MB",
            "baseline": None,
            "ratio": None,
            "n": 1,
            "spread": None,
        },
    ]


def _times(name: str, ours: list[float], other: list[float]) -> dict[str, Any]:
    value = median(ours)
    spread = (max(ours) - min(ours)) / value
    return {"figure": name, "value": value, "unit": "s", "ratio": median(other) / value, "spread": spread}


def _seconds(arguments: list[str]) -> list[float]:
    seconds = []
    for _ in range(REPEATS + 1):
        start = perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True, cwd=ROOT)
        seconds.append(perf_counter() - start)
    return seconds[1:]


def _peak_mb(arguments: list[str]) -> float:
    """The largest memory of a child; a process of its own, whose only child it is."""
    code = (
        "import resource, subprocess, sys;"
        "subprocess.run([sys.executable, *sys.argv[1:]], capture_output=True, check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return float(done.stdout)


if __name__ == "__main__":
    for row in figures():
        print(row)
