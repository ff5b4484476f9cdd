"""A store written row by row, for questions whose answer can be reckoned by hand: networks of one or two BN sites."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from bnsweep.store.schema import SCHEMAS

START = datetime(2026, 1, 5, tzinfo=UTC)
IMAGES = 1000
WORK = {"device": "cpu", "worker": "host/0", "started_at": START, "duration_s": 1.0, "versions": "bnsweep 0.1.0"}


class Handmade:
    """Points with their draws, added one by one; `tables` are what a store commits."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMAS}

    def point(
        self,
        eta: str,
        accuracy: Sequence[float],
        *,
        sweep: str = "one",
        dataset: str = "ten",
        fingerprint: str = "",
        classes: int = 10,
        model: str = "resnet8",
        mask: str = "11",
        seed: int = 0,
        recipe: str = "{}",
        nonfinite: Sequence[int] = (),
        measured: bool = True,
        **cell: Any,
    ) -> None:
        """A point of a sweep and, if it is `measured`, its draws; the network's training run comes with the first."""
        kept, data = mask.count("1"), fingerprint or dataset
        network = {"dataset": dataset, "model": model, "bn_mask": mask, "bn_kept": kept, "bn_sites": len(mask)}
        network |= {"placement": {0: "none", len(mask): "all"}.get(kept, mask), "train_seed": seed}
        noise = {"noise_model": "gaussian", "sigma_reference": "tensor_std", "targets": "weights"}
        noise |= {"bn_treatment": "stale", "recalibration_images": 0, "precision": "fp32", "sampling": "full", **cell}
        run_id = _digest(data, model, mask, seed, recipe)
        ids = {"sweep": sweep, "run_id": run_id, "point_id": _digest(sweep, run_id, eta, *noise.values())}
        self._sweep(sweep)
        self._run(sweep, run_id, network, data, classes, recipe)
        wanted = {"min_trials": len(accuracy), "max_trials": len(accuracy)}
        where = {**ids, **network, **noise, "eta": Decimal(eta), "committed_at": START}
        self.rows["points"].append({**where, "spec_sha256": sweep, **wanted})
        draws = zip(accuracy, nonfinite or [0] * len(accuracy), strict=True) if measured else ()
        for trial, (value, lost) in enumerate(draws):
            draw = {"trial": trial, "noise_seed": 1000 * seed + trial, "images": IMAGES, "nonfinite": lost}
            draw |= {"accuracy": value, "correct": round(value * IMAGES), "realised_sigma_ratio": float(eta)}
            self.rows["trials"].append({**where, **WORK, **draw})

    def cell(self, clean: float, accuracy: Sequence[float], *, eta: str = "0.1", **where: Any) -> None:
        """One noise cell of a network: its clean accuracy, and its draws at one eta."""
        clean_where = {name: value for name, value in where.items() if name not in ("nonfinite", "measured")}
        self.point("0", [clean], **clean_where)
        self.point(eta, accuracy, **where)

    @property
    def tables(self) -> dict[str, pa.Table]:
        """The tables that have rows."""
        return {name: pa.Table.from_pylist(rows, schema=SCHEMAS[name]) for name, rows in self.rows.items() if rows}

    def _sweep(self, name: str) -> None:
        if any(row["sweep"] == name for row in self.rows["sweeps"]):
            return
        planned = {"planned_runs": 1, "planned_points": 1, "versions": "bnsweep 0.1.0", "committed_at": START}
        spec = {"revision": 1, "spec_sha256": name, "spec": "{}", "spec_yaml": f"name: {name}\n"}
        self.rows["sweeps"].append({"sweep": name, **spec, **planned})

    def _run(self, sweep: str, run_id: str, network: dict[str, Any], data: str, classes: int, recipe: str) -> None:
        if any(row["run_id"] == run_id for row in self.rows["runs"]):
            return
        trained = {"recipe": recipe, "data_fingerprint": data, "classes": classes, "status": "finished", "attempt": 1}
        trained |= {"train_images": IMAGES, "test_images": IMAGES, "epochs": 1, "epochs_run": 1, "test_correct": 900}
        self.rows["runs"].append(
            {"sweep": sweep, "run_id": run_id, **network, **trained, **WORK, "committed_at": START}
        )


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:16]
