"""A mask as a picture of the network: an SVG in a data URI, which a chart's tooltip shows."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["network_picture"]

Row = Mapping[str, Any]

CELL, GAP, ROW = 11, 3, 17  # pixels
KEPT, BARE = "#0072b2", "#d55e00"


def network_picture(mask: str, sites: Sequence[Row] = ()) -> str:
    """The network's sites in forward order, a row per stage: full with BN, hollow without; round after a shortcut.

    Args:
        mask: a digit per site.
        sites: a row per site with `stage` and `shortcut`; without them all sites stand in one row.
    """
    known = len(sites) == len(mask)
    stages: dict[int, list[tuple[str, bool]]] = {}
    for number, digit in enumerate(mask):
        stage, shortcut = (sites[number]["stage"], sites[number]["shortcut"]) if known else (1, False)
        stages.setdefault(stage, []).append((digit, shortcut))
    shapes = []
    for row, (_, cells) in enumerate(sorted(stages.items())):
        for column, (digit, shortcut) in enumerate(cells):
            x, y = GAP + column * (CELL + GAP), GAP + row * ROW
            colour = f'fill="{KEPT}" stroke="{KEPT}"' if digit == "1" else f'fill="none" stroke="{BARE}"'
            radius = CELL / 2 if shortcut else 1.5
            shapes.append(
                f'<rect x="{x}" y="{y}" width="{CELL}" height="{CELL}" rx="{radius}" stroke-width="1.5" {colour}/>'
            )
    width = GAP + max(map(len, stages.values()), default=1) * (CELL + GAP)
    height = GAP + max(len(stages), 1) * ROW
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
    svg = f"{head}{''.join(shapes)}</svg>"
    return f"data:image/svg+xml;base64,{b64encode(svg.encode()).decode()}"
