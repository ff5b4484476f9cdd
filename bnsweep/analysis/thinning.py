"""Which rows a chart shows where there are more than a page can draw: some of every run, some of every cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["LARGEST_CHART", "sampled", "thinned"]

Row = Mapping[str, Any]

LARGEST_CHART = 5000  # rows: more make a page slow, and no clearer
LEVEL = ("noise_model", "sigma_reference", "targets", "bn_treatment", "recalibration_images", "eta")


def thinned(epochs: Sequence[Row]) -> tuple[Sequence[Row], str]:
    """Each run's every k-th epoch and its last, so that two panels of them make one chart; and words that say so."""
    last: dict[str, int] = {}
    for row in epochs:
        last[row["run_id"]] = max(row["epoch"], last.get(row["run_id"], 0))
    # With more runs than a chart has rows for, their last epochs alone are more: no run is left out.
    room = max(1, LARGEST_CHART // 2 - len(last))
    step = -(-len(epochs) // room) if 2 * len(epochs) > LARGEST_CHART else 1
    if step == 1:
        return epochs, ""
    kept = [row for row in epochs if row["epoch"] % step == 0 or row["epoch"] == last[row["run_id"]]]
    return kept, f"; drawn is each run's every {_ordinal(step)} epoch and its last"


def sampled(draws: Sequence[Row]) -> list[Row]:
    """LARGEST_CHART draws or a few less: the first ones of each cell and level, in proportion, and at least one.

    Draws are independent of their numbers, so the first are as good a sample as any.
    """
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in draws:
        cells.setdefault(tuple(row.get(name) for name in LEVEL), []).append(row)
    share = min(1.0, LARGEST_CHART / max(1, len(draws)))
    return [row for own in cells.values() for row in own[: max(1, int(share * len(own)))]]


def _ordinal(count: int) -> str:
    ending = "th" if 10 < count % 100 < 20 else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count}{ending}"
