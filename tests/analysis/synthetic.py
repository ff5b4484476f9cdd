"""A whole sweep as store tables, made up but shaped like the real thing: for charts and reports.

The truth is a formula (`expected`), so a test can ask whether a figure shows it.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from bnsweep.store.schema import SCHEMAS

Tables = dict[str, pa.Table]
NETWORK = ("dataset", "model", "placement", "bn_mask", "bn_kept", "bn_sites", "train_seed")
ETAS = tuple(map(Decimal, ("0", "0.01", "0.1", "0.2", "0.3", "0.4")))
CELLS = (
    ("weights", "stale"),
    ("weights", "folded"),
    ("weights", "recalibrated"),
    ("weights+bias", "stale"),
    ("weights+bias+affine", "stale"),
    ("all", "stale"),
)
SITES = {"resnet8": 7, "resnet20": 19, "resnet32": 31}
TEST_IMAGES, CLASSES = 360, 10
START = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


def expected(model: str, kept: int, *, targets: str, treatment: str, eta: float) -> float:
    """Mean accuracy: a logistic cliff that comes earlier with more BN and with more targets."""
    share = kept / SITES[model]
    cliff = 0.42 - 0.16 * share - 0.0015 * SITES[model] * share
    cliff -= {"weights": 0, "weights+bias": 0.005, "weights+bias+affine": 0.03, "all": 0.13}[targets] * share
    cliff += {"stale": 0.0, "folded": -0.02, "recalibrated": 0.12}[treatment] * share
    top = 0.93 + 0.04 * share
    fall = 1 / (1 + np.exp((eta - cliff) / 0.045)) * (1 + np.exp(-cliff / 0.045))
    return float(0.1 + (top - 0.1) * min(1.0, fall))


def tables(
    *,
    sweep: str = "synthetic",
    models: tuple[str, ...] = ("resnet8", "resnet20"),
    dataset: str = "digits",
    trials: int = 12,
    seeds: int = 2,
    partial: bool = True,
    failures: bool = True,
) -> dict[str, pa.Table]:
    """Every table of the store for one sweep."""
    out: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    clock = 0.0
    for model in models:
        for placement, kept in _placements(model, partial=partial):
            for seed in range(seeds):
                clock = _run(out, sweep, dataset, model, placement, kept, seed, trials=trials, clock=clock)
    if failures and out["runs"]:
        _spoil(out)
    spec = {"data": [dataset], "models": list(models), "trials": trials, "train_seeds": seeds}
    yaml = f"name: {sweep}\ndata: [{dataset}]\nmodels: [{', '.join(models)}]\ntrials: {trials}\ntrain_seeds: {seeds}\n"
    out["sweeps"].append(
        {
            "sweep": sweep,
            "revision": 1,
            "spec_sha256": _digest(sweep),
            "spec": json.dumps(spec),
            "spec_yaml": yaml,
            "planned_runs": len(out["runs"]),
            "planned_points": len(out["points"]),
            "versions": "bnsweep 0.1.0, torch 2.15.0, Python 3.11.7",
            "committed_at": START,
        }
    )
    return {name: pa.Table.from_pylist(rows, schema=SCHEMAS[name]) for name, rows in out.items() if rows}


def search_tables(
    masks: dict[str, tuple[str, ...]], *, diverged: tuple[str, ...] = (), trials: int = 2, seeds: int = 1
) -> Tables:
    """A search's rows: each network's masks trained with each seed; `diverged`: "model mask" whose last run did."""
    out: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}
    clock = 0.0
    for model, own in masks.items():
        sites = SITES[model]
        for number, (mask, seed) in enumerate(((mask, seed) for mask in own for seed in range(seeds)), start=1):
            kept = mask.count("1")
            label = {0: "none", sites: "all"}.get(kept, mask)
            clock = _run(out, "found", "digits", model, label, kept, seed, trials=trials, clock=clock, mask=mask)
            run = out["runs"][-1]
            network = {name: run[name] for name in NETWORK}
            asked = {"sweep": "found", "spec_sha256": _digest("found"), "study": "front", "number": number}
            why = {"origin": "surrogate", "why": "", "committed_at": START}
            out["proposals"].append({**asked, "run_id": run["run_id"], **network, **why})
            if f"{model} {mask}" in diverged and seed == seeds - 1:
                run |= {"status": "diverged", "test_correct": None, "checkpoint_sha256": None}
                out["trials"] = [row for row in out["trials"] if row["run_id"] != run["run_id"]]
        for site in range(1, sites + 1):
            place = {"site": site, "path": f"stage{1 + site // 4}.{site}.bn", "stage": 1 + site // 4}
            row = {"dataset": "digits", "model": model, "bn_sites": sites, "channels": 16, "shortcut": False}
            out["sites"].append({**row, **place, "committed_at": START})
    search = {"objectives": ["accuracy", "average_normalized", "kept"], "sampler": "surrogate", "trainings": 20}
    spec = {
        "name": "found",
        "data": ["digits"],
        "models": list(masks),
        "placements": [{"first": 3}],
        "train_seeds": [0, 1, 2],
    }
    spec |= {"noise": {"targets": "all"}, "eta": list(map(float, ETAS)), "trials": trials, "search": search}
    out["sweeps"].append(
        {
            "sweep": "found",
            "revision": 1,
            "spec_sha256": _digest("found"),
            "spec": json.dumps(spec),
            "spec_yaml": yaml.safe_dump(spec),
            "planned_runs": len(out["runs"]),
            "planned_points": len(out["points"]),
            "versions": "bnsweep 0.1.0, torch 2.15.0, Python 3.11.7",
            "committed_at": START,
        }
    )
    return {name: pa.Table.from_pylist(rows, schema=SCHEMAS[name]) for name, rows in out.items() if rows}


def _placements(model: str, *, partial: bool) -> list[tuple[str, int]]:
    some = [("first: 4", 4)] if partial else []
    return [("all", SITES[model]), ("none", 0), *some]


def _run(
    out: dict[str, list[dict[str, Any]]],
    sweep: str,
    dataset: str,
    model: str,
    placement: str,
    kept: int,
    seed: int,
    *,
    trials: int,
    clock: float,
    mask: str | None = None,
) -> float:
    """One training run, its epochs and all of its trials; returns when it ended, in seconds."""
    sites = SITES[model]
    run_id = _digest(sweep, dataset, model, placement, seed)
    mask = mask or "1" * kept + "0" * (sites - kept)
    rng = np.random.default_rng(int(run_id[:8], 16))
    luck = rng.normal(0, 0.006)
    network = {
        "dataset": dataset,
        "model": model,
        "placement": placement,
        "bn_mask": mask,
        "bn_kept": kept,
        "bn_sites": sites,
        "train_seed": seed,
    }
    work = {"device": "cpu", "versions": "bnsweep 0.1.0, torch 2.15.0, Python 3.11.7"}
    base = expected(model, kept, targets="weights", treatment="stale", eta=0.0) + luck
    correct0 = round(base * TEST_IMAGES)
    worker = f"host/{seed}"
    epochs = 15
    for epoch in range(1, epochs + 1):
        reached = base * (1 - np.exp(-epoch / (2.5 if kept else 4)))
        out["epochs"].append(
            {
                "run_id": run_id,
                "epoch": epoch,
                "train_loss": float(2.3 * np.exp(-epoch / 4)),
                "train_accuracy": float(min(1, reached + 0.01)),
                "test_correct": round(max(0.1, reached + rng.normal(0, 0.01)) * TEST_IMAGES),
                "test_images": TEST_IMAGES,
                "learning_rate": 1e-3,
                "duration_s": 0.6,
                "committed_at": START,
            }
        )
    out["runs"].append(
        {
            "sweep": sweep,
            "run_id": run_id,
            **network,
            "epochs": epochs,
            "batch_size": 128,
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "schedule": "cosine",
            "weight_decay": 0.0,
            "train_precision": "fp32",
            "recipe": "{}",
            "data_fingerprint": _digest(dataset),
            "train_images": 1437,
            "test_images": TEST_IMAGES,
            "classes": CLASSES,
            "parameters": 14_000 * sites,
            "multiply_adds": 2_000_000 * sites,
            "status": "finished",
            "reason": "",
            "epochs_run": epochs,
            "train_loss": 0.05,
            "train_accuracy": 0.99,
            "test_correct": correct0,
            "checkpoint_sha256": "0" * 64,
            "strata_sizes": None,
            "attempt": 1,
            **work,
            "worker": worker,
            "started_at": START + timedelta(seconds=clock),
            "duration_s": 9.0,
            "committed_at": START + timedelta(seconds=clock + 9),
        }
    )
    clock += 9.0
    for targets, treatment in CELLS:
        for eta in ETAS:
            cell = {
                "noise_model": "gaussian",
                "sigma_reference": "tensor_std",
                "targets": targets,
                "bn_treatment": treatment,
                "recalibration_images": 1000 if treatment == "recalibrated" else 0,
                "eta": eta,
                "precision": "fp32",
                "sampling": "full",
            }
            point_id = _digest(run_id, targets, treatment, eta)
            out["points"].append(
                {
                    "sweep": sweep,
                    "spec_sha256": _digest(sweep),
                    "run_id": run_id,
                    "point_id": point_id,
                    **network,
                    **cell,
                    "min_trials": 1 if eta == 0 else trials,
                    "max_trials": 1 if eta == 0 else trials,
                    "half_width": None,
                    "confidence": None,
                    "committed_at": START,
                }
            )
            mean = expected(model, kept, targets=targets, treatment=treatment, eta=float(eta)) + luck
            for trial in range(1 if eta == 0 else trials):
                spread = 0.16 * mean * (1 - mean)
                correct = (
                    correct0 if eta == 0 else int(np.clip(round((mean + rng.normal(0, spread)) * TEST_IMAGES), 0, 360))
                )
                nonfinite = (
                    int(TEST_IMAGES * 0.2)
                    if targets == "all" and kept and eta >= Decimal("0.3") and trial % 3 == 0
                    else 0
                )
                out["trials"].append(
                    {
                        "sweep": sweep,
                        "run_id": run_id,
                        "point_id": point_id,
                        **network,
                        **cell,
                        "trial": trial,
                        "noise_seed": 1000 + trial + 100 * seed,
                        "images": TEST_IMAGES,
                        "correct": correct,
                        "accuracy": correct / TEST_IMAGES,
                        "nonfinite": nonfinite,
                        "strata_images": None,
                        "strata_correct": None,
                        "realised_sigma_ratio": float(eta),
                        **work,
                        "worker": worker,
                        "started_at": START + timedelta(seconds=clock),
                        "duration_s": 0.05,
                        "committed_at": START + timedelta(seconds=clock + 0.05),
                    }
                )
                clock += 0.05
    return clock


def _spoil(out: dict[str, list[dict[str, Any]]]) -> None:
    """One diverged run and one block that was given up, as happens."""
    last = out["runs"][-1]
    diverged = {
        **last,
        "run_id": _digest("diverged", last["run_id"]),
        "train_seed": 99,
        "status": "diverged",
        "test_correct": None,
        "train_loss": float("nan"),
    }
    diverged |= {
        "reason": "training accuracy 10.1 % after 10 epochs is no better than chance",
        "checkpoint_sha256": None,
    }
    out["runs"].append(diverged)
    first = next(e for e in out["epochs"] if e["run_id"] == last["run_id"])
    out["epochs"].append({**first, "run_id": diverged["run_id"], "train_loss": float("nan"), "train_accuracy": 0.1})
    for point in [p for p in out["points"] if p["run_id"] == last["run_id"]][:6]:
        out["points"].append(
            {**point, "run_id": diverged["run_id"], "train_seed": 99, "point_id": _digest("d", point["point_id"])}
        )
    lost = next(p for p in out["points"] if p["run_id"] == last["run_id"] and p["eta"] == ETAS[-1])
    out["trials"] = [t for t in out["trials"] if t["point_id"] != lost["point_id"]]
    out["failures"].append(
        {
            "sweep": last["sweep"],
            "run_id": last["run_id"],
            "point_id": lost["point_id"],
            "first_trial": 0,
            "trials": 12,
            "error": "MemoryError: 2.0 GiB asked for",
            "attempt": 3,
            "worker": "host/0",
            "committed_at": START,
        }
    )


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
