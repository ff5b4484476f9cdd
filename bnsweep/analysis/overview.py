"""Figures across a sweep's networks and data sets: what BN gives and costs, depth, and harder tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bnsweep.analysis import charts
from bnsweep.analysis.crowd import beyond_edge, cut, name_sides
from bnsweep.analysis.figures import (
    CONTRAST,
    CURVE_TABLE,
    VALUE_TABLE,
    Figure,
    behind,
    charts_of,
    curve,
    panel_of,
    slug,
)
from bnsweep.analysis.series import ENDS, kept_pct, many, placement_label, short_labels
from bnsweep.analysis.wording import distinct, distinct_of
from bnsweep.experiment.vocabulary import TREATMENTS

__all__ = ["NAMED", "depth_figures", "name_points", "task_figures", "tradeoff_figures"]

Row = Mapping[str, Any]

NAMED = "Named: the ends and, where there is room, the placements that no other one beats in both."
NARROW, LOW = 230, 160  # pixels between the paddings of a panel on a phone


def task_figures(points: Sequence[Row]) -> Iterator[Figure]:
    """Figure 4: the same network and recipe on several data sets, normalized accuracy over eta."""
    ends = (charts.EVERYWHERE, charts.NOWHERE)
    # A data set's own digest, which is in `training` too, must not part what is compared; the recipe must.
    compared = [{**row, "training": row["recipe"]} for row in _main(points) if placement_label(row) in ends]
    for group in charts_of(compared):
        sets = {
            model: {r["dataset"] for r in group.rows if r["model"] == model}
            for model in distinct_of(group.rows, "model")
        }
        shared = sorted((row for row in group.rows if len(sets[row["model"]]) > 1), key=lambda row: row["model"])
        if not shared:
            continue
        drawn = [curve(row, panel=f"{row['model']}, {placement_label(row)}", label=row["dataset"]) for row in shared]
        words = group.words.replace(", training", ", recipe")
        yield Figure(
            name=slug("task-complexity", *group.names),
            title=f"Task complexity: the same network on an easier and a harder data set{words}",
            caption=f"{behind(drawn)}; {panel_of(shared[0])}; {group.about()}.",
            chart=charts.curves(
                drawn, title="normalized accuracy, %", over=charts.eta_title(shared), legend="Data set"
            ),
            rows=drawn,
            query="task_complexity",
            panels=len(distinct(row["panel"] for row in drawn)),
            table=CURVE_TABLE,
        )


def depth_figures(averages: Sequence[Row]) -> Iterator[Figure]:
    """Average normalized accuracy against BN layers: between networks of several depths, and within one network.

    A panel per family of networks that differ in depth alone, a chart per data set and recipe. Rows: of query
    depth_trend.
    """
    for group in charts_of(_main(_counted(averages)), "dataset"):
        ends = [row for row in group.rows if placement_label(row) in (charts.EVERYWHERE, charts.NOWHERE)]
        between = _of_several_depths(ends)
        within = [_layers(row, panel="", label=row["model"], layers=row["bn_kept"]) for row in group.rows]
        partial = len(group.rows) > len(ends)
        for name, drawn, axis, legend in (
            ("between networks", between, "sites for BN in the network", "Placement"),
            ("within one network", within if partial else [], "BN layers kept", "Network"),
        ):
            spots = len({(row["panel"], row["label"], row["layers"]) for row in drawn})
            if len({row["layers"] for row in drawn}) < 2:
                continue
            lines = "Lines go through the mean at each number of layers. " if spots < len(drawn) else ""
            yield Figure(
                name=slug("depth", name.split()[0], *group.names),
                title=f"More BN layers {name}: {group.names[0]}{group.words}",
                caption=f"{lines}{behind(drawn)}; {panel_of(group.rows[0])}; {group.about()}.",
                chart=charts.depth_trend(sorted(drawn, key=_by_layers), axis=axis, legend=legend),
                rows=drawn,
                query="depth_trend",
                panels=len(distinct(row["panel"] for row in drawn)),
                table=(("model", "Network"), ("label", "Series"), ("layers", axis.capitalize()), *VALUE_TABLE),
            )


def _of_several_depths(ends: Sequence[Row]) -> list[dict[str, Any]]:
    """Networks of the families of which there are several depths; one family needs no heading."""
    depths: dict[str, set[int]] = {}
    for row in ends:
        depths.setdefault(row["family"], set()).add(row["bn_sites"])
    several = [family for family, sites in depths.items() if len(sites) > 1]
    return [
        _layers(
            row, panel=row["family"] if len(several) > 1 else "", label=placement_label(row), layers=row["bn_sites"]
        )
        for row in ends
        if row["family"] in several
    ]


def _layers(row: Row, *, panel: str, label: str, layers: int) -> dict[str, Any]:
    return {**curve(row, panel=panel, label=label), "layers": layers}


def _by_layers(row: Row) -> tuple[str, int]:
    # BN everywhere first: "BN" sorts before "no".
    return str(row["label"]), int(row["layers"])


def tradeoff_figures(rows: Sequence[Row]) -> Iterator[Figure]:
    """Baseline accuracy against average normalized accuracy, a point per placement.

    Where a network has more than MOST placements only the ends, and those that no other one beats, have their names.
    """
    for group in charts_of(_main(_counted(rows)), "dataset"):
        drawn = [
            {
                **curve(row, panel=row["model"], label=_short_placement(row)),
                "kept_pct": kept_pct(row),
                "x": row["baseline"],
                "x_low": row["baseline_low"],
                "x_high": row["baseline_high"],
            }
            for row in group.rows
        ]
        if len(drawn) < 2:
            continue
        models = {row["model"] for row in group.rows}
        crowded = any(many([row for row in group.rows if row["model"] == model]) for model in models)
        beyond = [
            name_points([point for point in drawn if point["panel"] == model], own)
            for model in distinct_of(group.rows, "model")
            if crowded and (own := [row for row in group.rows if row["model"] == model])
        ]
        cuts = f"{NAMED} {beyond_edge(sum(beyond))}" if crowded else ""
        panels = distinct(row["panel"] for row in drawn)
        yield Figure(
            name=slug("tradeoff", *group.names),
            title=f"What BN gives and what it costs: {group.names[0]}{group.words}",
            caption=f"Up and right is better. {cuts}{behind(drawn)}; {panel_of(group.rows[0])}; {group.about()}.",
            chart=charts.tradeoff(drawn),
            rows=drawn,
            query="tradeoff",
            panels=len(panels),
            columns=2 if len(panels) in (2, 4) else 3,
            table=(("panel", "Network"), ("label", "Placement"), ("x", "Baseline, %"), *VALUE_TABLE),
        )


def name_points(points: Sequence[dict[str, Any]], rows: Sequence[Row]) -> int:
    """Give one panel's points their names where they cover nothing, and cut intervals; how many are cut.

    Args:
        points: x, x_low, x_high, value, low and high; they get name, side, and the ends of `crowd.cut`.
        rows: their rows of query tradeoff.
    """
    short = short_labels(rows)
    beyond = cut(points, "x", low="x_low", high="x_high") + cut(points, "value", low="low", high="high")
    ends = [i for i, row in enumerate(rows) if placement_label(row) in ENDS]
    best = [i for i, row in enumerate(rows) if i not in ends and (row["efficient"] or not many(rows))]
    names = {i: short[placement_label(rows[i])] for i in [*ends, *best]}
    for i, (side, covers) in name_sides(points, names, y="value", width=NARROW, height=LOW).items():
        if i in ends or not covers:
            points[i] |= {"name": names[i], "side": side}
    return beyond


def _main(rows: Sequence[Row]) -> list[Row]:
    """The rows of the cell that overview figures show: the paper's, or the nearest there is."""
    cells = {(row["targets"], row["bn_treatment"], row.get("recalibration_images")) for row in rows}
    if not cells:
        return []
    best = min(cells, key=lambda cell: (TREATMENTS.index(cell[1]), CONTRAST.index(cell[0]), -(cell[2] or 0)))
    return [row for row in rows if (row["targets"], row["bn_treatment"], row.get("recalibration_images")) == best]


def _counted(rows: Iterable[Row]) -> list[Row]:
    """Rows of which the number of BN layers is known: the paper does not say it for its partial BN."""
    return [row for row in rows if row["bn_kept"] is not None and row["bn_sites"]]


def _short_placement(row: Row) -> str:
    label = placement_label(row)
    return label if label in (charts.EVERYWHERE, charts.NOWHERE) else str(row["placement"])
