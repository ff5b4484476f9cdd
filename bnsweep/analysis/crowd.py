"""Charts of many points: how far intervals stretch the axes, and where a point's name covers nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bnsweep.analysis.wording import counted

__all__ = ["SIDES", "beyond_edge", "cut", "name_sides"]

Row = Mapping[str, Any]

OUTSIDE = 14.0  # pixels that a name may go beyond the outermost points: the axes' padding is wider
BEYOND = 0.2  # of the points' extent: so far an interval may stretch an axis at either end
CHARACTER, LINE = 6.0, 12.0  # pixels of a character and of a line of text at 10.5 px
MARK = 6.0  # pixels from a point's middle to where nothing of it is left
SIDES: dict[str, dict[str, Any]] = {  # where a name can stand, the best first; as properties of a text mark
    "above": {"dy": -11, "align": "center"},
    "above left": {"dx": 4, "dy": -11, "align": "right"},
    "above right": {"dx": -4, "dy": -11, "align": "left"},
    "right": {"dx": 9, "align": "left", "baseline": "middle"},
    "left": {"dx": -9, "align": "right", "baseline": "middle"},
    "below": {"dy": 17, "align": "center"},
}


def cut(
    rows: Sequence[dict[str, Any]], axis: str, *, low: str, high: str, drawn: Callable[[Row], bool] = lambda row: True
) -> int:
    """Give each row the ends of its interval as they are drawn, `{axis}_from` and `{axis}_to`; how many are cut.

    The axis follows the points: an interval stretches it by at most BEYOND of their extent, and stops there.

    Args:
        rows: with `axis`, the column of the value; the ends are None where there is no interval.
        axis: the column.
        low: the column of the lower end.
        high: of the upper end.
        drawn: whose intervals are drawn at all.
    """
    values = [row[axis] for row in rows]
    if not values:
        return 0
    extent = max(values) - min(values) or abs(values[0]) or 1.0
    least, most = min(values) - BEYOND * extent, max(values) + BEYOND * extent
    count = 0
    for row in rows:
        known = drawn(row) and row[low] is not None and row[high] is not None
        row[f"{axis}_from"] = max(row[low], least) if known else None
        row[f"{axis}_to"] = min(row[high], most) if known else None
        count += known and (row[low] < least or row[high] > most)
    return count


def beyond_edge(count: int) -> str:
    """The sentence about intervals that are cut, if any are."""
    return f"{counted(count, 'interval')} {'goes' if count == 1 else 'go'} on beyond the edge. " if count else ""


def name_sides(
    rows: Sequence[Row], names: Mapping[int, str], *, y: str, width: float, height: float
) -> dict[int, tuple[str, int]]:
    """For each named point the side where its name covers least, and how many points and names it still covers there.

    Names are placed in the order they come in.

    Args:
        rows: all points, named or not, after `cut` on both axes: the column x and the column `y`.
        names: text by index of the point.
        y: the column of the upright axis.
        width: of the narrowest picture without the axes' padding, pixels.
        height: likewise.
    """
    placed: list[tuple[float, float, float, float]] = []
    sides = {}
    at = list(zip(_pixels(rows, "x", width), [height - up for up in _pixels(rows, y, height)], strict=True))
    for index, name in names.items():
        right, down = at[index]
        costs = {}
        for side in SIDES:
            box = _box(right, down, side, CHARACTER * len(name))
            covered = sum(_inside(box, px, py) for other, (px, py) in enumerate(at) if other != index)
            covered += sum(_overlap(box, other) for other in placed)
            outside = box[0] < -OUTSIDE or box[2] > width + OUTSIDE
            costs[side] = (covered + outside, box)
        best = min(costs, key=lambda side: costs[side][0])
        sides[index] = (best, int(costs[best][0]))
        placed.append(costs[best][1])
    return sides


def _pixels(rows: Sequence[Row], axis: str, length: float) -> list[float]:
    columns = (axis, f"{axis}_from", f"{axis}_to")
    ends = [row[column] for row in rows for column in columns if row[column] is not None]
    return [(row[axis] - min(ends)) / (max(ends) - min(ends) or 1.0) * length for row in rows]


def _box(x: float, y: float, side: str, wide: float) -> tuple[float, float, float, float]:
    look = SIDES[side]
    left = x + look.get("dx", 0) - {"center": wide / 2, "left": 0.0, "right": wide}[look["align"]]
    top = y + look.get("dy", 0) - (LINE / 2 if look.get("baseline") == "middle" else LINE - 2)
    return left, top, left + wide, top + LINE


def _inside(box: tuple[float, float, float, float], x: float, y: float) -> bool:
    return box[0] - MARK < x < box[2] + MARK and box[1] - MARK < y < box[3] + MARK


def _overlap(one: tuple[float, float, float, float], two: tuple[float, float, float, float]) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]
