"""The figures of a search: the front, and which sites matter. Rows as `searches` reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import altair as alt

from bnsweep.analysis.charts import PANEL_HEIGHT, PANEL_WIDTH, beside
from bnsweep.analysis.crowd import beyond_edge, cut, name_sides
from bnsweep.analysis.figures import Figure
from bnsweep.analysis.pictures import network_picture
from bnsweep.analysis.searches import Found, Placed

__all__ = ["search_figures"]

FRONT_WIDTH, FRONT_HEIGHT = 240, int(1.6 * PANEL_HEIGHT)  # pixels: between its paddings on a phone; as a whole
PADDING = 22
SITE_ROW = 17  # pixels
SITE_LABEL = 170  # pixels, at most
EXPECTED = {"expected_x": "Expected accuracy, %", "expected_y": "Expected A_avr, %"}
ACCURACY, NORMALIZED = "baseline accuracy, %", "average normalized accuracy, %"


def search_figures(searches: Sequence[Found]) -> Iterator[Figure]:
    """Per network: accuracy against A_avr, coloured by kept layers; the effect of each site."""
    for found in searches:
        name = re.sub(r"[^A-Za-z0-9]+", "-", f"{found.sweep}-{found.model}-{found.dataset}").strip("-").lower()
        if len(found.placed) > 1:
            yield _front(found, name)
        if found.told_apart:
            yield _sites(found, name)


def _front(found: Found, name: str) -> Figure:
    sites = [site for site, _, _ in found.effects]
    rows = [_point(each, sites) for each in found.placed]
    runs, unbeaten = sum(each.seeds for each in found.placed), len(found.front_masks)
    beyond = _drawn(rows)
    return Figure(
        name=f"front-{name}",
        title=f"What the search found: {found.model} on {found.dataset}",
        caption=f"Up and right is better. {len(rows)} placements, {runs} training runs; {unbeaten} "
        f"placements that no other one beats in {', '.join(found.spec['search']['objectives'])}{_judged(found)} are "
        "full, the others hollow; squares: what the paper compares. Lines: 95 % intervals, over training seeds where a "
        "placement has several, else over the draws on its one network"
        f"{'.' if not beyond else f'; the axes follow the points: {beyond_edge(beyond)}'.rstrip()}",
        chart=_front_chart(rows),
        rows=rows,
        query="pareto",
        table=(
            ("label", "Placement"),
            ("kept", "BN layers"),
            ("seeds", "Training runs"),
            ("x", "Accuracy, %"),
            ("y", "A_avr, %"),
            *((name, heading) for name, heading in EXPECTED.items() if _judged(found)),
            ("standing", ""),
        ),
    )


def _judged(found: Found) -> str:
    """By what the front is told, if not by the means that are drawn."""
    if all(point.expected_baseline is None for point in found.placed):
        return ""
    return ", as a model of all runs expects them to be over all training seeds,"


def _point(point: Placed, sites: Sequence[Any]) -> dict[str, Any]:
    return {
        "label": point.placement,
        "mask": point.mask,
        "kept": point.kept,
        "seeds": point.seeds,
        "x": point.baseline,
        "x_low": point.baseline_low,
        "x_high": point.baseline_high,
        "y": point.normalized,
        "low": point.low,
        "high": point.high,
        "expected_x": point.expected_baseline,
        "expected_y": point.expected_normalized,
        "front": point.front,
        "paper": point.paper or "",
        "standing": "on the front" if point.front else "beaten",
        "picture": network_picture(point.mask, sites),
    }


def _drawn(rows: Sequence[dict[str, Any]]) -> int:
    """Give the paper's points their names where they cover nothing, and cut the front's intervals; how many are cut."""
    names = {i: row["paper"] for i, row in enumerate(rows) if row["paper"]}
    beyond = cut(rows, "x", low="x_low", high="x_high", drawn=_on_front)
    beyond += cut(rows, "y", low="low", high="high", drawn=_on_front)
    for i, (side, _) in name_sides(rows, names, y="y", width=FRONT_WIDTH, height=FRONT_HEIGHT - 2 * PADDING).items():
        rows[i] |= {"name": names[i], "side": side}
    return beyond


def _on_front(row: Mapping[str, Any]) -> bool:
    return bool(row["front"])


def _front_chart(rows: Sequence[dict[str, Any]]) -> Any:
    scale = alt.Scale(zero=False, nice=False, padding=PADDING)
    bare = alt.Chart(alt.NamedData(name="rows")).encode(
        x=alt.X(
            "x:Q", title=ACCURACY, scale=scale, axis=alt.Axis(tickCount=8, labelOverlap="greedy", labelSeparation=6)
        ),
        y=alt.Y("y:Q", title=NORMALIZED, scale=scale),
    )
    colour = alt.Color(
        "kept:Q",
        title="BN layers kept",
        scale=alt.Scale(domain=[0, len(rows[0]["mask"])], interpolate="lab"),
        legend=alt.Legend(values=_steps(len(rows[0]["mask"])), columns=6, format="d"),
    )
    expected = any(row["expected_x"] is not None for row in rows)
    tooltip = [
        alt.Tooltip("picture:N", title="image"),
        alt.Tooltip("mask:N", title="BN at"),
        alt.Tooltip("label:N", title="placement"),
        alt.Tooltip("kept:Q", title="BN layers"),
        alt.Tooltip("seeds:Q", title="training runs"),
        alt.Tooltip("x:Q", title=ACCURACY, format=".2f"),
        alt.Tooltip("y:Q", title=NORMALIZED, format=".2f"),
        *(alt.Tooltip(f"{name}:Q", title=title.lower(), format=".2f") for name, title in EXPECTED.items() if expected),
        alt.Tooltip("standing:N", title="standing"),
        alt.Tooltip("paper:N", title="in the paper"),
    ]
    shape = alt.Shape(
        "marked:N",
        title=None,
        scale=alt.Scale(domain=["found", "the paper's"], range=["circle", "square"]),
        legend=None,
    )
    marked = bare.transform_calculate(marked="datum.paper ? \"the paper's\" : 'found'").encode(shape=shape)
    front = bare.transform_filter("datum.front")
    layers = []
    if any(row["y_from"] is not None for row in rows):
        upright = alt.Y("y_from:Q", title=NORMALIZED)
        layers.append(front.mark_rule(opacity=0.35).encode(y=upright, y2="y_to:Q", color=colour))
    if any(row["x_from"] is not None for row in rows):
        wide = alt.X("x_from:Q", title=ACCURACY)
        layers.append(front.mark_rule(opacity=0.35).encode(x=wide, x2="x_to:Q", color=colour))
    for filled, test in ((False, "!datum.front"), (True, "datum.front")):
        if any(row["front"] is filled for row in rows):
            points = marked.transform_filter(test).mark_point(filled=filled, size=90 if filled else 45, opacity=1)
            layers.append(points.encode(color=colour, tooltip=tooltip))
    return alt.layer(*layers, *beside(bare, rows)).properties(width=2 * PANEL_WIDTH, height=FRONT_HEIGHT)


def _steps(most: int) -> list[int]:
    """About five whole numbers from 0 on, for a legend."""
    return sorted({round(most * i / 4) for i in range(5)})


def _sites(found: Found, name: str) -> Figure:
    rows = [
        {
            "panel": what,
            "site": site["site"],
            "label": f"{site['site']} {site['path']}",
            "value": effect.effect,
            "low": effect.low,
            "high": effect.high,
        }
        for site, baseline, normalized in found.told_apart
        for what, effect in ((ACCURACY, baseline), (NORMALIZED, normalized))
    ]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    out = f" {found.left_out[0].upper()}{found.left_out[1:]}." if found.left_out else ""
    return Figure(
        name=f"sites-{name}",
        title=f"Which sites matter: {found.model} on {found.dataset}",
        caption=f"What BN at a site changes, the other sites being as they are: least squares over {len(found.placed)} "
        "placements, each the mean of its training runs. Lines: 95 % intervals (Student's t); "
        f"the residual holds chance and what sites do together.{out}",
        chart=_sites_chart(rows, labels),
        rows=rows,
        query="site_importance",
        panels=2,
        columns=2,
        tall=SITE_ROW * len(labels),
        left=min(SITE_LABEL, 7 * max(map(len, labels))) + 20,
        table=(("panel", "Of"), ("label", "Site"), ("value", "Effect, points"), ("low", "From"), ("high", "To")),
    )


def _sites_chart(rows: Sequence[dict[str, Any]], labels: Sequence[str]) -> Any:
    base = alt.Chart(alt.NamedData(name="rows")).encode(
        y=alt.Y("label:N", title=None, sort=list(labels), axis=alt.Axis(labelLimit=SITE_LABEL, labelOverlap=False))
    )
    title = "change, points"
    zero = base.mark_rule(strokeDash=[3, 3], opacity=0.5).encode(x=alt.datum(0), y=alt.value(0), y2=alt.value("height"))
    value = alt.X("value:Q", title=title)
    tooltip = [
        alt.Tooltip("label:N", title="site"),
        alt.Tooltip("value:Q", title=title, format="+.2f"),
        alt.Tooltip("low:Q", title="95 % from", format=".2f"),
        alt.Tooltip("high:Q", title="to", format=".2f"),
    ]
    layers = [zero, base.mark_point(filled=True).encode(x=value, tooltip=tooltip)]
    if any(row["low"] is not None for row in rows):
        layers.insert(1, base.mark_rule(strokeWidth=2, opacity=0.55).encode(x=alt.X("low:Q", title=title), x2="high:Q"))
    sized = alt.layer(*layers).properties(width=PANEL_WIDTH, height=max(PANEL_HEIGHT, SITE_ROW * len(labels)))
    facet = alt.Facet("panel:N", title=None, sort=[ACCURACY, NORMALIZED], header=alt.Header(labelLimit=0))
    return sized.facet(facet=facet, columns=2).resolve_scale(x="independent")
