"""What does not fit between a spec, its data sets and its networks: said before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator

from bnsweep.errors import PlacementError, Problem
from bnsweep.experiment.architecture import Architecture
from bnsweep.experiment.spec import Data, Spec

__all__ = ["FIXED", "check_fixed", "folding_problems", "image_problems", "same_images"]

FIXED = (
    "the BN layer {} cannot be taken out: it does more than BN (an activation, perhaps), which would go with it; put "
    "what it does beside BN into a layer of its own"
)


def same_images(seen: dict[str, int], index: int, fingerprint: str) -> Iterator[Problem]:
    """A data set that is another one under a second name. `seen`: where each fingerprint came first."""
    first = seen.setdefault(fingerprint, index)
    if first != index:
        yield Problem(f"data.{index}", f"holds the same images as entry {first + 1} of `data`; leave one of them out")


def image_problems(spec: Spec, data: Data, train_images: int, test_images: int) -> Iterator[Problem]:
    """What asks for more images than the data set has."""
    if isinstance(spec.images, int) and spec.images > test_images:
        rule = f"`images <= test images` must hold, but got images={spec.images} and {test_images} of {data.dataset}"
        yield Problem("images", rule)
    for index, cell in enumerate(spec.noise):
        if cell.bn_treatment == "recalibrated" and cell.images_for_recalibration > train_images:
            wanted = cell.images_for_recalibration
            yield Problem(
                f"noise.{index}.recalibration_images",
                f"`recalibration_images <= training images` must hold, but got {wanted} and {train_images}",
            )


def check_fixed(architecture: Architecture, mask: str, label: str) -> None:
    """Every BN layer that a placement takes out must be nothing but BN. Raises PlacementError."""
    taken = {site.path for site, digit in zip(architecture.sites, mask, strict=True) if digit == "0"}
    if stuck := [path for path in architecture.fixed if path in taken]:
        raise PlacementError(
            f"placement {label!r} does not fit {architecture.name}: {FIXED.format(', '.join(stuck))}; or keep BN there"
        )


def folding_problems(spec: Spec, architecture: Architecture, mask: str) -> Iterator[Problem]:
    """Cells that fold BN where it cannot be folded: said before anything is trained."""
    kept = {site.path for site, digit in zip(architecture.sites, mask, strict=True) if digit == "1"}
    faults: dict[str, list[str]] = {}
    for path, fault in architecture.unfoldable:
        if path in kept:
            faults.setdefault(fault, []).append(path)
    for index, cell in enumerate(spec.noise):
        if cell.bn_treatment == "folded" and faults:
            reasons = "; ".join(f"{_listed(paths)} {fault}" for fault, paths in faults.items())
            rule = f"BN of {architecture.name} cannot be folded: {reasons}. Use another placement or bn_treatment"
            yield Problem(f"noise.{index}", rule)


def _listed(paths: list[str], most: int = 4) -> str:
    shown = ", ".join(paths[:most])
    return shown if len(paths) <= most else f"{shown} and {len(paths) - most} more"
