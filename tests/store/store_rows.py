"""Rows such as a sweep makes, for tests and benchmarks of the store."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from bnsweep.store.schema import KEYS, SCHEMAS
from bnsweep.store.store import Store

TRIALS_PER_POINT = 20
POINTS_PER_RUN = 50
NETWORK = {
    "dataset": "digits",
    "model": "resnet8",
    "placement": "first: 3",
    "bn_mask": "1110000",
    "bn_kept": 3,
    "bn_sites": 7,
    "train_seed": 0,
}
CELL = {
    "noise_model": "gaussian",
    "sigma_reference": "tensor_std",
    "targets": "weights",
    "bn_treatment": "stale",
    "recalibration_images": 0,
    "precision": "fp32",
    "sampling": "full",
}
WORK = {"device": "cpu", "worker": "node-1:4242", "versions": "bnsweep 0.1.0, torch 2.15.0, Python 3.11.7"}


def identifier(kind: str, numbers: np.ndarray) -> pa.Array:
    """Hex names such as digests give, a pure function of the numbers."""
    mixed = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(sum(kind.encode()))
    distinct, inverse = np.unique(mixed, return_inverse=True)
    names = pa.array([f"{value:016x}" for value in distinct.tolist()])
    return names.take(pa.array(inverse))


def build(table: str, count: int, columns: dict[str, Any]) -> pa.Table:
    """Rows of a table from arrays and single values; columns that are not named are null."""
    built = {}
    for field in SCHEMAS[table]:
        value = columns.get(field.name)
        if field.name == "committed_at" and value is None:
            continue
        if isinstance(value, (pa.Array, np.ndarray, list)):
            built[field.name] = pa.array(value).cast(field.type)
        else:
            built[field.name] = pa.repeat(pa.scalar(value, field.type), count)
    return pa.table(built)


def trials(count: int, *, start: int = 0, seed: int = 0) -> pa.Table:
    """Rows `start` to `start + count` of an endless sweep: always the same ones for the same numbers and seed."""
    index = np.arange(start, start + count)
    point = index // TRIALS_PER_POINT
    kept = point // POINTS_PER_RUN % 8  # placements differ from run to run
    masks = ["1" * number + "0" * (7 - number) for number in range(8)]
    rng = np.random.default_rng([seed, start, count])
    eta = [Decimal(int(step)) / 100 for step in point % POINTS_PER_RUN]
    correct = rng.binomial(10_000, 0.9 - 0.01 * (point % POINTS_PER_RUN))
    return build(
        "trials",
        count,
        {
            **NETWORK,
            **CELL,
            **WORK,
            "placement": pa.array([f"first: {number}" for number in range(8)]).take(pa.array(kept)),
            "bn_mask": pa.array(masks).take(pa.array(kept)),
            "bn_kept": kept,
            "train_seed": point // POINTS_PER_RUN // 8,
            "targets": pa.array(["weights", "all"]).take(pa.array(point % 2)),
            "worker": pa.array([f"node-1:{number}" for number in range(16)]).take(pa.array(point % 16)),
            "sweep": "test",
            "run_id": identifier("run", point // POINTS_PER_RUN),
            "point_id": identifier("point", point),
            "eta": pa.array(eta, pa.decimal128(9, 6)),
            "trial": index % TRIALS_PER_POINT,
            "noise_seed": rng.integers(2**62, size=TRIALS_PER_POINT)[index % TRIALS_PER_POINT],
            "images": 10_000,
            "correct": correct,
            "accuracy": correct / 10_000,
            "nonfinite": 0,
            "realised_sigma_ratio": rng.normal(0.1, 0.001, count),
            "started_at": pa.array(1_700_000_000_000_000 + index // TRIALS_PER_POINT * 2_000_000).cast(
                pa.timestamp("us", tz="UTC")
            ),
            "duration_s": rng.gamma(20, 0.005, count),
        },
    )


def points(count: int, *, start: int = 0, trials: int = TRIALS_PER_POINT) -> pa.Table:
    """The plan of the points that `trials` fills."""
    point = np.arange(start, start + count)
    return build(
        "points",
        count,
        {
            **NETWORK,
            **CELL,
            "sweep": "test",
            "spec_sha256": "ab" * 32,
            "run_id": identifier("run", point // POINTS_PER_RUN),
            "point_id": identifier("point", point),
            "eta": pa.array([Decimal(int(step)) / 100 for step in point % POINTS_PER_RUN], pa.decimal128(9, 6)),
            "min_trials": trials,
            "max_trials": trials,
        },
    )


def runs(count: int, *, start: int = 0, **columns: Any) -> pa.Table:
    """Finished training runs; `columns` replace values."""
    number = np.arange(start, start + count)
    return build(
        "runs",
        count,
        {
            **NETWORK,
            **WORK,
            "sweep": "test",
            "run_id": identifier("run", number),
            "epochs": 15,
            "status": "finished",
            "test_correct": 9_700,
            "strata_sizes": pa.array([[5_000, 3_000, 2_000]] * count),
            "attempt": 1,
            **columns,
        },
    )


def failures(count: int, **columns: Any) -> pa.Table:
    """Work that was given up."""
    number = np.arange(count)
    columns = {"run_id": identifier("run", number), "error": "boom", "attempt": 3, **columns}
    return build("failures", count, {**WORK, "sweep": "test", **columns})


def sweeps() -> pa.Table:
    """One sweep file."""
    spec = {
        "sweep": "test",
        "revision": 1,
        "spec_sha256": "ab" * 32,
        "spec": '{"name": "test"}',
        "spec_yaml": "name: test\n",
    }
    return build("sweeps", 1, {**spec, "planned_runs": 1, "planned_points": 50, "versions": WORK["versions"]})


def key_set(store: Store, table: str) -> set[tuple[Any, ...]]:
    """The keys of all live rows, for tables that fit in memory as Python objects."""
    columns = store.keys(table)
    return set(zip(*(columns[name].to_pylist() for name in KEYS[table]), strict=True))
