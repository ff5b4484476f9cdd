"""The `resources` section of a spec: what tasks take from a cluster."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from bnsweep.experiment.entries import ACCELERATOR, Frozen, Number

__all__ = ["Resource", "Resources"]


class Resource(Frozen):
    """What one task takes from the cluster."""

    cpu: Number = Field(1.0, ge=0, le=1024, description="CPU cores; also the number of threads, at least 1")
    gpu: Number = Field(0.0, ge=0, le=64, description="GPUs; a fraction shares one")
    gpu_memory: Number | None = Field(
        None, gt=0, le=1, description="most of a GPU's memory that the process may take; default: the fraction `gpu`"
    )
    accelerator: str | None = Field(
        None,
        pattern=ACCELERATOR,
        description="only on nodes with this type of GPU, as Ray names it: A100, H100, L4; default: any",
    )

    @property
    def threads(self) -> int:
        return max(1, int(self.cpu))

    @property
    def memory_fraction(self) -> float:
        """Of one GPU's memory, for one process."""
        return min(1.0, self.gpu) if self.gpu_memory is None else self.gpu_memory

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.cpu == 0 and self.gpu == 0:
            raise ValueError("a task takes a part of a core or of a GPU, but got cpu: 0 and gpu: 0")
        for name in ("cpu", "gpu"):
            if round(getattr(self, name) * 10_000, 6) % 1:  # Ray's grain
                raise ValueError(f"`{name}` is a multiple of 0.0001, but got {getattr(self, name):g}")
        if self.gpu > 1 and self.gpu != int(self.gpu):
            raise ValueError(f"more than one GPU is a whole number of them, but got gpu: {self.gpu:g}")
        for name in ("gpu_memory", "accelerator"):
            if self.gpu == 0 and getattr(self, name) is not None:
                raise ValueError(f"`{name}` goes with `gpu`, but got gpu: 0")
        return self


class Resources(Frozen):
    """Per training run and per trial block."""

    train: Resource = Field(Resource(), description="what one training run takes from the cluster")
    trial: Resource = Field(Resource(), description="what one block of trials takes from the cluster")

    @property
    def gpu(self) -> float:
        """Of the hungriest task."""
        return max(self.train.gpu, self.trial.gpu)

    def idle_gpus(self, gpus: int | None) -> str | None:
        """What to tell who has so many GPUs per node; None where tasks take some, or there are none."""
        if self.gpu or not gpus:
            return None
        return (
            f"no task of this sweep takes a GPU, so the {gpus} per node would be idle: write `resources: {{train: "
            "{gpu: 0.25}, trial: {gpu: 0.25}}` into the sweep file (four tasks share one), or leave GPUs out"
        )
