"""The `noise` section of a spec: ways to perturb a trained network."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from bnsweep.experiment.entries import Frozen, Whole, listed
from bnsweep.experiment.vocabulary import BnTreatment, SigmaReference, Targets, cell_label

__all__ = ["MOST_CELLS", "NoiseCell", "expand_noise"]

MOST_CELLS = 10_000
RECALIBRATION_IMAGES = 1000  # unless a cell says otherwise


class NoiseCell(Frozen):
    """One way to perturb a trained network. eta scales it."""

    model: Literal["gaussian"] = Field("gaussian", description="additive, zero mean, independent per element")
    sigma_reference: SigmaReference = Field("tensor_std", description="what eta multiplies (the paper: tensor_std)")
    targets: Targets = Field("weights", description="which parameters are hit")
    bn_treatment: BnTreatment = Field("stale", description="what happens to BN around the noise")
    recalibration_images: Annotated[Whole, Field(ge=2, le=1_000_000)] | None = Field(
        None,
        description="recalibrated only: training images used to re-estimate BN statistics (default "
        f"{RECALIBRATION_IMAGES})",
    )

    @field_validator("recalibration_images")
    @classmethod
    def _default(cls, value: int | None, info: ValidationInfo) -> int | None:
        """The default is the same cell whether it is written or not."""
        return None if value == RECALIBRATION_IMAGES and info.data.get("bn_treatment") == "recalibrated" else value

    @model_validator(mode="after")
    def _recalibration(self) -> Self:
        if self.bn_treatment != "recalibrated" and self.recalibration_images is not None:
            raise ValueError(
                f"`recalibration_images` goes with bn_treatment: recalibrated, but got {self.bn_treatment}"
            )
        return self

    @property
    def images_for_recalibration(self) -> int:
        return self.recalibration_images or RECALIBRATION_IMAGES

    @property
    def label(self) -> str:
        return cell_label(self.sigma_reference, self.targets, self.bn_treatment)


def expand_noise(cells: Any) -> list[Any]:
    """`{targets: [weights, all]}` stands for one cell per combination of listed values. Raises ValueError."""
    expanded: list[Any] = []
    for cell in listed(cells):
        if not isinstance(cell, dict):
            expanded.append(cell)
            continue
        keys = list(cell)
        empty = [key for key in keys if not listed(cell[key])]
        if empty:
            raise ValueError(f"`noise`: a list stands for one cell per value, but {', '.join(empty)} is empty")
        count = len(expanded) + prod(len(listed(cell[key])) for key in keys)
        if count > MOST_CELLS:  # not expanded: a few short lists may stand for more than fit anywhere
            raise ValueError(f"`noise` stands for at most {MOST_CELLS} cells, but these lists give {count} or more")
        for values in product(*(listed(cell[key]) for key in keys)):
            one = dict(zip(keys, values, strict=True))
            # In a grid over treatments the number of images is meant for those that use it.
            if len(listed(cell.get("bn_treatment"))) > 1 and one["bn_treatment"] != "recalibrated":
                images = one.pop("recalibration_images", None)
                if images != listed(cell.get("recalibration_images"))[0]:  # once, not for each number of them
                    continue
            expanded.append(one)
    return expanded
