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
    for chunk in _chunks(points):
        store.commit({"trials": _trials(chunk)})
    return store


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
    taken = pa.array(index)
    for field in SCHEMAS["trials"]:
        if field.name in made:
            columns[field.name] = pa.array(made[field.name]).cast(field.type)
        elif field.name in points[0] and field.name != "committed_at":
            values = pa.array([point[field.name] for point in points], field.type)
            columns[field.name] = values.take(taken)
        elif pa.types.is_timestamp(field.type):
            columns[field.name] = pa.repeat(pa.scalar(START, field.type), len(trial))
        else:
            text = "cpu" if pa.types.is_string(field.type) else None
            columns[field.name] = pa.repeat(pa.scalar(text, field.type), len(trial))
    return pa.table(columns)


def _table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in SCHEMAS[name]})


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]
