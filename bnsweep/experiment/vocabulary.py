"""Words that specs, rows and reports share; without pydantic, for which no question of a store should wait (0.1 s)."""

from __future__ import annotations

from typing import Literal, get_args

__all__ = [
    "NETWORK_ENDS",
    "SIGMA_REFERENCES",
    "TARGETS",
    "TREATMENTS",
    "BnTreatment",
    "SigmaReference",
    "Targets",
    "cell_label",
]

SigmaReference = Literal["tensor_std", "tensor_max", "channel_max", "global_rms", "absolute"]
Targets = Literal["weights", "weights+bias", "weights+bias+affine", "all"]
BnTreatment = Literal["stale", "folded", "recalibrated"]

SIGMA_REFERENCES: tuple[str, ...] = get_args(SigmaReference)
TARGETS: tuple[str, ...] = get_args(Targets)  # each holds the one before
TREATMENTS: tuple[str, ...] = get_args(BnTreatment)
NETWORK_ENDS = ("converged", "finished")  # statuses of a training run, after which trials make sense


def cell_label(sigma_reference: str, targets: str, bn_treatment: str) -> str:
    """A noise cell in short; unique but for cells that differ in `recalibration_images` alone."""
    return f"{sigma_reference}/{targets}/{bn_treatment}"
