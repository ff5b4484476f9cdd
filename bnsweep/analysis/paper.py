"""The paper's tables as a store's tables, so that every question can be asked of the paper itself.

Each figure of its Tables II and III becomes one trial: it says neither how many draws nor how many trained networks are
behind it, so nothing here has a spread and no interval follows. `with` is BN everywhere; `without` is no BN for the
ResNets on CIFAR-10 and part of it elsewhere, where the paper does not say how many layers. The number of BN sites is
the depth in the network's name less the output layer; it orders networks by depth and means no more.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from bnsweep.analysis.queries import reference
from bnsweep.store.schema import ETA, SCHEMAS

__all__ = ["paper_store", "paper_tables"]

SWEEP = "paper"
PUBLISHED = datetime(2022, 5, 15, tzinfo=UTC)  # arXiv 2205.07372
TEST_IMAGES = 10_000
CLASSES = {"cifar10": 10, "cifar100": 100}
VERSIONS = "Keras, versions not given"
CELL = {
    "noise_model": "gaussian",
    "sigma_reference": "tensor_std",
    "targets": "weights",  # "all weights"; which arrays that covers is an open question
    "bn_treatment": "stale",
    "recalibration_images": 0,
    "precision": "fp32",
    "sampling": "full",
}


def paper_tables() -> pa.Table:
    """Tables II, III and IV: dataset, paper_model, bn, eta (NULL in Table IV) and value as a fraction."""
    rows: list[tuple[str, str, str, Decimal | None, float]] = [
        (row["dataset"], row["paper_model"], row["bn"], Decimal(row["eta"]), float(row["accuracy_pct"]) / 100)
        for row in _rows("tables_2_3_accuracy")
    ]
    rows += [
        (row["dataset"], row["paper_model"], row["bn"], None, float(row["average_normalized_pct"]) / 100)
        for row in _rows("table_4_average_normalized")
    ]
    kinds = {"dataset": pa.string(), "paper_model": pa.string(), "bn": pa.string(), "eta": ETA, "value": pa.float64()}
    return pa.table({name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(kinds.items())})


def paper_store() -> dict[str, pa.Table]:
    """Every table of a store, with the paper's figures in them."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    for figure in _figures():
        if figure["eta"] == 0:
            rows["runs"].append({**figure, **_training(figure)})
        rows["points"].append({**figure, "min_trials": 1, "max_trials": 1})
        rows["trials"].append(figure)
    rows["sweeps"].append(
        {
            "spec": "{}",
            "spec_yaml": "",
            "planned_runs": len(rows["runs"]),
            "planned_points": len(rows["points"]),
            "sweep": SWEEP,
            "revision": 1,
            "spec_sha256": SWEEP,
            "versions": VERSIONS,
            "committed_at": PUBLISHED,
        }
    )
    return {name: _table(rows[name], SCHEMAS[name]) for name in SCHEMAS}


def _figures() -> Iterator[dict[str, Any]]:
    """One trial row per figure of Tables II and III, and what `points` needs beside it."""
    for row in _rows("tables_2_3_accuracy"):
        correct = round(float(row["accuracy_pct"]) * TEST_IMAGES / 100)
        network = _network(row["dataset"], row["paper_model"], row["bn"])
        run_id = _digest(*network.values())
        yield {
            "sweep": SWEEP,
            "spec_sha256": SWEEP,
            "run_id": run_id,
            "point_id": _digest(run_id, row["eta"]),
            **network,
            **CELL,
            "eta": Decimal(row["eta"]),
            "trial": 0,
            "noise_seed": 0,
            "images": TEST_IMAGES,
            "correct": correct,
            "accuracy": correct / TEST_IMAGES,
            "nonfinite": None,
            "versions": VERSIONS,
            "committed_at": PUBLISHED,
        }


def _network(dataset: str, paper_model: str, bn: str) -> dict[str, Any]:
    depth = int(re.sub(r"\D", "", paper_model))
    none = dataset == "cifar10" and paper_model != "VGG_16"
    placement, kept = ("all", depth - 1) if bn == "with" else ("none", 0) if none else ("partial", None)
    return {
        "dataset": dataset,
        "model": paper_model,
        "placement": placement,
        "bn_kept": kept,
        "bn_sites": depth - 1,
        "train_seed": 0,
    }


def _training(figure: dict[str, Any]) -> dict[str, Any]:
    return {
        "recipe": "{}",
        "test_images": TEST_IMAGES,
        "classes": CLASSES[figure["dataset"]],
        "status": "converged",
        "reason": "as the paper says",
        "test_correct": figure["correct"],
        "attempt": 1,
    }


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    return pa.table({f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in schema}, schema=schema)


def _rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(reference(name))))


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]
