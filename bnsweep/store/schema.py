"""The tables of a store: one Arrow schema each, with unit and meaning per column.

    sweeps   one row per sweep file that was run
    points   one row per planned (sweep, run, cell, eta): what `coverage` compares rows with
    runs     one row per finished training run, whatever its end
    epochs   one row per epoch of a training run
    trials   one row per noise draw: the rows everything is about
    probes   one row per measurement along a training run
    failures one row per training run or block that was given up
    proposals one row per training run that a search asked for
    sites    one row per BN site of a network that was searched

Columns are flat, so that SQL needs no unnesting. `KEYS` names what makes a row unique; the columns in
`VOLATILE` differ between repetitions of the same work and are never part of a row's identity.
"""

from __future__ import annotations

import pyarrow as pa

__all__ = ["ETA", "KEYS", "SCHEMAS", "SCHEMA_VERSION", "VOLATILE", "describe"]

SCHEMA_VERSION = 1

ETA = pa.decimal128(9, 6)
TIME = pa.timestamp("us", tz="UTC")


def _column(name: str, kind: pa.DataType, meaning: str, unit: str = "") -> pa.Field:
    metadata = {"meaning": meaning, **({"unit": unit} if unit else {})}
    return pa.field(name, kind, metadata=metadata)


SWEEP = _column("sweep", pa.string(), "name of the sweep that asked for this row first")
RUN_ID = _column("run_id", pa.string(), "digest of everything that influences the network's weights")
POINT_ID = _column("point_id", pa.string(), "digest of run, noise cell, eta and the way of scoring")
DEVICE = _column("device", pa.string(), "where it was computed, e.g. cpu or NVIDIA H200")
DURATION = _column("duration_s", pa.float64(), "wall time of this piece of work", "s")
VERSIONS = _column("versions", pa.string(), "bnsweep, torch and Python versions")
WORKER = _column("worker", pa.string(), "host and process that did the work")
STARTED = _column(
    "started_at", TIME, "when the work began; of a training that was resumed: as if without breaks", "UTC"
)
COMMITTED = _column("committed_at", TIME, "when the driver committed the row", "UTC")

NETWORK = [
    _column("dataset", pa.string(), "data set label"),
    _column("model", pa.string(), "network name"),
    _column("placement", pa.string(), "placement label"),
    _column("bn_mask", pa.string(), "1 per BN site that keeps BN, in forward order"),
    _column("bn_kept", pa.int32(), "BN sites that keep BN", "sites"),
    _column("bn_sites", pa.int32(), "BN sites of the network", "sites"),
    _column("train_seed", pa.int64(), "training seed"),
]

CELL = [
    _column("noise_model", pa.string(), "noise model"),
    _column("sigma_reference", pa.string(), "what eta multiplies"),
    _column("targets", pa.string(), "which parameters are hit"),
    _column("bn_treatment", pa.string(), "what happens to BN around the noise"),
    _column(
        "recalibration_images", pa.int32(), "training images used to re-estimate BN; 0 unless recalibrated", "images"
    ),
    _column("eta", ETA, "noise level as a fraction of the sigma reference"),
    _column("precision", pa.string(), "of the forward pass"),
    _column("sampling", pa.string(), "test images per trial: full, random or strata"),
]

RECIPE = [
    _column("epochs", pa.int32(), "planned epochs", "epochs"),
    _column("batch_size", pa.int32(), "images per step", "images"),
    _column("optimizer", pa.string(), "adam or sgd"),
    _column("learning_rate", pa.float64(), "initial learning rate"),
    _column("schedule", pa.string(), "constant, step or cosine"),
    _column("weight_decay", pa.float64(), "L2 coefficient on kernels"),
    _column("train_precision", pa.string(), "of the training's forward and backward pass"),
    _column("recipe", pa.string(), "the whole training recipe as canonical JSON"),
]

SCHEMAS: dict[str, pa.Schema] = {
    "sweeps": pa.schema(
        [
            _column("sweep", pa.string(), "name of the sweep"),
            _column("revision", pa.int32(), "1, 2, ...: each time the sweep was run with another spec or other runs"),
            _column("spec_sha256", pa.string(), "digest of the spec, and of the runs if others had the same spec"),
            _column("spec", pa.string(), "the spec in canonical JSON"),
            _column("spec_yaml", pa.string(), "the spec as its user wrote it"),
            _column("planned_runs", pa.int64(), "training runs", "runs"),
            _column("planned_points", pa.int64(), "points", "points"),
            VERSIONS,
            COMMITTED,
        ]
    ),
    "points": pa.schema(
        [
            _column("sweep", pa.string(), "name of the sweep that plans this point"),
            _column("spec_sha256", pa.string(), "the version of its spec; a sweep is its newest version in `sweeps`"),
            RUN_ID,
            POINT_ID,
            *NETWORK,
            *CELL,
            _column("min_trials", pa.int32(), "fewest trials planned", "trials"),
            _column("max_trials", pa.int32(), "most trials planned", "trials"),
            _column(
                "half_width", pa.float64(), "wanted half-width of the interval on mean accuracy; null: fixed trials"
            ),
            _column("confidence", pa.float64(), "of that interval; null: fixed trials"),
            COMMITTED,
        ]
    ),
    "runs": pa.schema(
        [
            SWEEP,
            RUN_ID,
            *NETWORK,
            *RECIPE,
            _column("data_fingerprint", pa.string(), "digest of the images and labels used"),
            _column("train_images", pa.int32(), "training images", "images"),
            _column("test_images", pa.int32(), "test images", "images"),
            _column("classes", pa.int32(), "classes"),
            _column("parameters", pa.int64(), "trainable parameters of the placed network"),
            _column("multiply_adds", pa.int64(), "of one image's forward pass"),
            _column("status", pa.string(), "converged, finished, diverged, pruned (stopped by a search) or failed"),
            _column("reason", pa.string(), "why it ended so; the error's text if failed"),
            _column("epochs_run", pa.int32(), "epochs completed", "epochs"),
            _column("train_loss", pa.float64(), "mean cross-entropy over the last epoch", "nats"),
            _column("train_accuracy", pa.float64(), "over the last epoch, augmented images", "fraction"),
            _column("test_correct", pa.int32(), "test images classified right at the end; null: no network", "images"),
            _column("checkpoint_sha256", pa.string(), "digest of the trained network's file; null: none"),
            _column("strata_sizes", pa.list_(pa.int32()), "test images per stratum of the clean margin", "images"),
            _column("attempt", pa.int32(), "1, or more after a failure or a lost checkpoint; the last one counts"),
            DEVICE,
            WORKER,
            STARTED,
            DURATION,
            VERSIONS,
            COMMITTED,
        ]
    ),
    "epochs": pa.schema(
        [
            RUN_ID,
            _column("epoch", pa.int32(), "1-based", "epochs"),
            _column("train_loss", pa.float64(), "mean cross-entropy over the epoch", "nats"),
            _column("train_accuracy", pa.float64(), "over the epoch, augmented images", "fraction"),
            _column("test_correct", pa.int32(), "test images classified right after the epoch", "images"),
            _column("test_images", pa.int32(), "test images", "images"),
            _column("learning_rate", pa.float64(), "at the epoch's last step"),
            DURATION,
            COMMITTED,
        ]
    ),
    "trials": pa.schema(
        [
            SWEEP,
            RUN_ID,
            POINT_ID,
            *NETWORK,
            *CELL,
            _column("trial", pa.int32(), "0-based number of the noise draw at this point"),
            _column("noise_seed", pa.int64(), "seed of the draw: the same for every placement, cell and eta"),
            _column("images", pa.int32(), "test images scored", "images"),
            _column("correct", pa.int32(), "of those, classified right", "images"),
            _column("accuracy", pa.float64(), "unbiased estimate of the accuracy on the full test set", "fraction"),
            _column("nonfinite", pa.int32(), "scored images with a NaN or infinite logit", "images"),
            _column("strata_images", pa.list_(pa.int32()), "scored images per stratum; null unless strata", "images"),
            _column("strata_correct", pa.list_(pa.int32()), "right ones per stratum; null unless strata", "images"),
            _column(
                "realised_sigma_ratio", pa.float64(), "measured noise over sigma reference, pooled; compare with eta"
            ),
            DEVICE,
            WORKER,
            STARTED,
            DURATION,
            VERSIONS,
            COMMITTED,
        ]
    ),
    "probes": pa.schema(
        [
            RUN_ID,
            _column("epoch", pa.int32(), "epochs completed when measured", "epochs"),
            _column("probe", pa.string(), "what was measured"),
            _column("site", pa.string(), "BN site; empty for the whole network"),
            _column("value", pa.float64(), "the estimate"),
            _column("low", pa.float64(), "lower end of its 95 % interval; null: none"),
            _column("high", pa.float64(), "upper end of its 95 % interval; null: none"),
            _column("samples", pa.int32(), "independent samples behind it"),
            DURATION,
            COMMITTED,
        ]
    ),
    "failures": pa.schema(
        [
            SWEEP,
            RUN_ID,
            _column("point_id", pa.string(), "the point whose block failed; null: the training run itself"),
            _column("first_trial", pa.int32(), "first trial of the block; null: training"),
            _column("trials", pa.int32(), "trials in the block; null: training"),
            _column("error", pa.string(), "the exception's text"),
            _column("attempt", pa.int32(), "how many attempts were made"),
            WORKER,
            COMMITTED,
        ]
    ),
    "proposals": pa.schema(
        [
            _column("sweep", pa.string(), "name of the search"),
            _column("spec_sha256", pa.string(), "the version of its spec"),
            _column("study", pa.string(), "front (the trade-off) or minimal (the fewest BN layers)"),
            _column("number", pa.int32(), "1, 2, ...: the order within search, study, data set and network"),
            RUN_ID,
            *NETWORK,
            _column("origin", pa.string(), "known, repeat, the sampler's name, or minimal"),
            _column("why", pa.string(), "what the proposal is to find out"),
            COMMITTED,
        ]
    ),
    "sites": pa.schema(
        [
            _column("dataset", pa.string(), "data set label"),
            _column("model", pa.string(), "network name"),
            _column("bn_sites", pa.int32(), "BN sites of the network", "sites"),
            _column("site", pa.int32(), "1, 2, ... in forward order: the digit of bn_mask"),
            _column("path", pa.string(), "module path"),
            _column("channels", pa.int32(), "channels", "channels"),
            _column("stage", pa.int32(), "1-based; sites of one feature-map resolution form a stage"),
            _column("shortcut", pa.bool_(), "after the projection of a residual shortcut"),
            COMMITTED,
        ]
    ),
}

KEYS: dict[str, tuple[str, ...]] = {
    "sweeps": ("sweep", "revision"),
    "points": ("sweep", "spec_sha256", "point_id"),
    "runs": ("run_id", "attempt"),
    "epochs": ("run_id", "epoch"),
    "trials": ("point_id", "trial"),
    "probes": ("run_id", "epoch", "probe", "site"),
    "failures": ("run_id", "point_id", "first_trial", "attempt"),
    "proposals": ("sweep", "spec_sha256", "study", "dataset", "model", "number", "run_id"),
    "sites": ("dataset", "model", "bn_sites", "site"),
}

VOLATILE = frozenset({"sweep", "device", "worker", "started_at", "duration_s", "versions", "committed_at"})


def describe(table: str) -> list[tuple[str, str, str, str]]:
    """(column, type, unit, meaning) of a table, in order."""
    rows = []
    for field in SCHEMAS[table]:
        metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        rows.append((field.name, str(field.type), metadata.get("unit", ""), metadata["meaning"]))
    return rows
