"""How much of two cores' time a real sweep through Ray spends on training and scoring.

`python -m tests.bench.bench_sweep` prints the figures and keeps the store's timeline as `out/bench-timeline.html`.

Six networks are trained on digits and scored 500 times each: about a minute and a half of two cores. Busy time is the
sum of `duration_s` over runs and trials; the span goes from the first work that began to the last that ended.

The start-up is what comes before the first training: Python, Ray, Tune and the workers' imports. It is that of small
sweeps, one after the other.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent.parent
REPORT = ROOT / "out" / "bench-timeline.html"
CORES = 2
STARTS = 3
SPEC = """
name: busy
data: {source: digits, size: 16}
models: resnet8
placements: [all, none]
train_seeds: 3
training: {epochs: 30, chance_epochs: null}
eta: [0.1, 0.2, 0.3, 0.4, 0.5]
trials: 100
"""
SMALL = SPEC.replace("epochs: 30", "epochs: 1").replace("trials: 100", "trials: 1").replace("seeds: 3", "seeds: 1")


def figures() -> list[dict[str, Any]]:
    """One row per figure: figure, value, unit, baseline, ratio, floor, n, spread."""
    with tempfile.TemporaryDirectory() as folder:
        whole = _Sweep(folder, SPEC)
        REPORT.parent.mkdir(exist_ok=True)
        _bnsweep(folder, "report", "--store", "store", "--out", str(REPORT))
    starts = []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory() as folder:
            starts.append(_Sweep(folder, SMALL).start_s)
    shared = {"baseline": None, "ratio": None, "spread": None, "floor": None}
    what = f"sweep: share of {CORES} cores' time in training and scoring"
    return [
        {**shared, "figure": what, "value": whole.busy_share, "unit": "", "n": 1},
        {
            **shared,
            "figure": "sweep: start-up until the first training begins",
            "value": median(starts),
            "unit": "s",
            "n": STARTS,
            "spread": (max(starts) - min(starts)) / median(starts),
        },
        {**shared, "figure": "sweep: from the last row's work to the end", "value": whole.end_s, "unit": "s", "n": 1},
    ]


class _Sweep:
    """One, from nothing to the end, in a store of that folder."""

    def __init__(self, folder: str, spec: str) -> None:
        Path(folder, "busy.yaml").write_text(spec)
        started = datetime.now(UTC)
        _bnsweep(folder, "run", "busy.yaml", "--store", "store", "--engine", "ray", "--cpus", str(CORES), "--quiet")
        finished = datetime.now(UTC)
        busy_s, first, last = _work(Path(folder) / "store")
        self.busy_share = busy_s / (CORES * (last - first).total_seconds())
        self.start_s = (first - started).total_seconds()
        self.end_s = (finished - last).total_seconds()


def _work(location: Path) -> tuple[float, datetime, datetime]:
    """Busy seconds, the first beginning and the last end."""
    from bnsweep.store.store import Store

    store = Store.open(location)
    columns = ["started_at", "duration_s"]
    rows = [row for table in ("runs", "trials") for row in store.read(table, columns=columns).to_pylist()]
    begins = [row["started_at"].timestamp() for row in rows]
    ends = [begin + row["duration_s"] for begin, row in zip(begins, rows, strict=True)]
    first, last = (datetime.fromtimestamp(value, UTC) for value in (min(begins), max(ends)))
    return sum(row["duration_s"] for row in rows), first, last


def _bnsweep(folder: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "bnsweep", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    for row in figures():
        print(row)
