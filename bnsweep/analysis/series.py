"""Placements in figures: what a reader calls them, and which are drawn where there are more than colours tell apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bnsweep.analysis.charts import ENDS, EVERYWHERE, NOWHERE
from bnsweep.analysis.theme import SHAPES
from bnsweep.analysis.wording import eta_pct, listed

__all__ = ["ENDS", "MOST", "kept_pct", "many", "placement_label", "select", "short_labels"]

Row = Mapping[str, Any]

MOST = len(SHAPES)  # series: with more, colours and shapes come twice
LONG = 16  # digits of a mask: one that is longer fits no legend


def placement_label(row: Row) -> str:
    """What a reader calls a placement: BN everywhere, no BN, or its own label with the count of layers."""
    kept, sites = row.get("bn_kept"), row.get("bn_sites")
    if kept is None or sites is None:
        return str(row["placement"])
    if kept == 0:
        return NOWHERE
    if kept == sites:
        return EVERYWHERE
    return f"{row['placement']} ({kept} of {sites})"


def kept_pct(row: Row) -> float | None:
    """Share of the sites that keep BN; None where it is not known."""
    kept, sites = row.get("bn_kept"), row.get("bn_sites")
    return None if kept is None or sites is None else 100.0 * kept / max(sites, 1)


def many(rows: Sequence[Row]) -> bool:
    """Whether these rows are of more placements than a figure tells apart."""
    return len({placement_label(row) for row in rows}) > MOST


def select(rows: Sequence[Row], *, what: str, places: int = MOST, least: bool = False) -> tuple[list[Row], str]:
    """The rows of at most `places` placements, and words that say which; all rows and no words unless there are `many`.

    BN everywhere and no BN come first, then the placements with the highest mean value (`least`: the lowest) over the
    panels at the largest eta. Where one of the two was not measured its place stays free, as its colour does.

    Args:
        rows: placement, bn_kept, bn_sites, eta and value.
        what: the quality that counts, e.g. "highest accuracy".
        places: how many.
        least: the lowest values count.
    """
    if not many(rows):
        return list(rows), ""
    labels = list(dict.fromkeys(placement_label(row) for row in rows))
    ends = [label for label in ENDS if label in labels]
    others = [label for label in labels if label not in ends]
    room = max(0, places - (len(ENDS) if ends else 0))
    eta = max(row["eta"] for row in rows)
    values: dict[str, list[float]] = {label: [] for label in others}
    for row in rows:
        if row["eta"] == eta and row["value"] is not None and placement_label(row) in values:
            values[placement_label(row)].append(row["value"])
    measured = [label for label in others if values[label]]
    best = sorted(measured, key=lambda label: (1 if least else -1) * sum(values[label]) / len(values[label]))[:room]
    chosen = {*ends, *best}
    rest = [f"the {len(best)} with the {what} at η = {eta_pct(eta)} %"] if best else []
    words = f"{len(chosen)} of {len(labels)} placements: {listed([*ends, *rest])}"
    return [row for row in rows if placement_label(row) in chosen], words


def short_labels(rows: Sequence[Row]) -> dict[str, str]:
    """Labels by `placement_label`: a long mask becomes its count of layers, numbered where several have as many.

    The numbers follow the masks, so that all figures of the same placements give one the same name.
    """
    long = {
        placement_label(row): f"{row['bn_kept']} of {row['bn_sites']}"
        for row in rows
        if len(row["placement"]) > LONG and set(row["placement"]) <= {"0", "1"} and 0 < row["bn_kept"] < row["bn_sites"]
    }
    same: dict[str, list[str]] = {}
    for label, short in sorted(long.items()):
        same.setdefault(short, []).append(label)
    numbered = {
        label: f"{short}, no. {number}" if len(alike) > 1 else short
        for short, alike in same.items()
        for number, label in enumerate(alike, start=1)
    }
    labels = dict.fromkeys(placement_label(row) for row in rows)
    return {label: numbered.get(label, label) for label in labels}
