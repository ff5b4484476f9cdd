"""A store of many trials, made with numpy and Arrow: for benchmarks of what reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bnsweep.store import parts as part_files
from bnsweep.store.log import LogEntry, Part
from bnsweep.store.schema import SCHEMAS
from bnsweep.store.store import Store

ETAS = tuple(map(Decimal, ("0", "0.01", "0.1", "0.2", "0.3", "0.4")))
TARGETS = ("weights", "all")
TREATMENTS = ("stale", "folded")
TRIALS = 100  # per point; the baseline has one
ROWS_PER_CURVE = 1 + (len(ETAS) - 1) * TRIALS
START = datetime(2026, 1, 5, tzinfo=UTC)
PART_ROWS = 1_000_000


def build(location: Path, rows: int, *, seeds: int = 5) -> Store:
    """A store with at least `rows` trials of one sweep: as many networks as that takes."""
    store = Store.create(location)
    curves = -(-rows // ROWS_PER_CURVE)
    per_network = seeds * len(TARGETS) * len(TREATMENTS)
    networks = -(-curves // per_network)
    runs = [_run(network, seed) for network in range(networks) for seed in range(seeds)]
    points = [point for run in runs for point in _points(run)]
    sweep = {
        "sweep": "bench",
        "revision": 1,
        "spec_sha256": "s",
        "planned_runs": len(runs),
        "planned_points": len(points),
    }
    store.commit(
        {
            "sweeps": _table(
                "sweeps", [{**sweep, "spec": "{}", "spec_yaml": "", "versions": "", "committed_at": START}]
            ),
            "points": _table("points", points),
            "runs": _table("runs", [_trained(run) for run in runs]),
        }
    )
    points.sort(key=lambda point: (point["run_id"], point["point_id"]))
    parts = [_written(store, _trials(chunk)) for chunk in _chunks(points)]
    store.log.publish(lambda _: LogEntry("commit", add=tuple(parts)))
    return store.refresh()


def _written(store: Store, rows: pa.Table) -> Part:
    """A part of rows that are sorted and conform already: what `commit` does, without the checks."""
    path = f"parts/trials/{part_files.content_id('trials', rows)}.parquet"
    data = part_files.encode("trials", rows)
    store.files.write(path, data)
    return part_files.describe_part("trials", path, rows, data)


def _run(network: int, seed: int) -> dict[str, Any]:
    sites = (19, 31, 43, 55)[network % 4]
    kept = (network // 4) * 7 % (sites + 1)
    return {
        "run_id": _digest("run", network, seed),
        "dataset": ("cifar10", "cifar100")[network // 200 % 2],
        "model": f"resnet{sites + 1}",
        "placement": {0: "none", sites: "all"}.get(kept, f"first: {kept}") + ("" if network < 400 else f" ({network})"),
        "bn_mask": "1" * kept + "0" * (sites - kept),
        "bn_kept": kept,
        "bn_sites": sites,
        "train_seed": seed,
    }


def _points(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for targets in TARGETS:
        for treatment in TREATMENTS:
            for eta in ETAS:
                trials = TRIALS if eta else 1
                yield {
                    "sweep": "bench",
                    "spec_sha256": "s",
                    **run,
                    "point_id": _digest(run["run_id"], targets, treatment, eta),
                    "noise_model": "gaussian",
                    "sigma_reference": "tensor_std",
                    "targets": targets,
                    "bn_treatment": treatment,
                    "recalibration_images": 0,
                    "precision": "fp32",
                    "sampling": "full",
                    "eta": eta,
                    "min_trials": trials,
                    "max_trials": trials,
                    "committed_at": START,
                }


def _trained(run: dict[str, Any]) -> dict[str, Any]:
    return {
        **run,
        "sweep": "bench",
        "recipe": "{}",
        "test_images": 10_000,
        "classes": 10,
        "status": "finished",
        "attempt": 1,
        "committed_at": START,
    }


def _chunks(points: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Points whose trials make up one part."""
    per_part = PART_ROWS // TRIALS
    for start in range(0, len(points), per_part):
        yield points[start : start + per_part]


def _trials(points: list[dict[str, Any]]) -> pa.Table:
    counts = np.array([point["max_trials"] for point in points])
    index = np.repeat(np.arange(len(points)), counts)
    trial = np.concatenate([np.arange(count) for count in counts])
    rng = np.random.default_rng(len(points) + int(points[0]["run_id"][:8], 16))
    eta = np.array([float(point["eta"]) for point in points])[index]
    correct = rng.binomial(10_000, 0.1 + 0.82 / (1 + np.exp((eta - 0.25) / 0.05)))
    made: dict[str, Any] = {
        "trial": trial,
        "noise_seed": trial,
        "images": np.full(len(trial), 10_000),
        "correct": correct,
        "accuracy": correct / 10_000,
        "nonfinite": np.zeros(len(trial), np.int32),
        "realised_sigma_ratio": eta,
        "duration_s": rng.random(len(trial)),
    }
    columns = {}
    taken = pa.array(index.astype(np.int32))
    for field in SCHEMAS["trials"]:
        if field.name in made:
            columns[field.name] = pa.array(made[field.name]).cast(field.type)
        elif field.name in points[0] and field.name != "committed_at":
            values = pa.array([point[field.name] for point in points], field.type)
            if pa.types.is_string(field.type):
                distinct = values.dictionary_encode()
                columns[field.name] = pa.DictionaryArray.from_arrays(distinct.indices.take(taken), distinct.dictionary)
            else:
                columns[field.name] = values.take(taken)
        elif pa.types.is_timestamp(field.type):
            columns[field.name] = pa.repeat(pa.scalar(START, field.type), len(trial))
        else:
            text = "cpu" if pa.types.is_string(field.type) else None
            one = pa.repeat(pa.scalar(text, field.type), len(trial))
            columns[field.name] = one.dictionary_encode() if text else one
    return pa.table(columns)


def _table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in SCHEMAS[name]})


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]  # as long as real ids
