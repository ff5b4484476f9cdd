"""Charts: one function per figure, from rows to an Altair chart.

Every function takes rows as `bnsweep.analysis.figures` prepares them: plain dictionaries, accuracies
in percent, `low` and `high` the ends of a 95 % interval or None. A value without an interval is drawn
as a hollow point, so that nobody takes it for a firm one. Charts carry no colours of their own: the
look is a `config` (see `theme`), so one specification serves paper, bright and dark pages. Nor do they
carry their rows: altair copies a chart at every step, so `Figure` adds the rows at the end, under the name `rows`.
"""

# ruff: noqa: RUF001 - Greek letters are the paper's.

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from bnsweep.analysis.crowd import SIDES
from bnsweep.analysis.theme import SHAPES
from bnsweep.analysis.wording import distinct

__all__ = [
    "ENDS",
    "EVERYWHERE",
    "NOWHERE",
    "PANEL_HEIGHT",
    "PANEL_WIDTH",
    "STATUS",
    "attribution",
    "beside",
    "coverage",
    "curves",
    "depth_trend",
    "eta_title",
    "gradient_noise",
    "kept_colour",
    "plain",
    "series_colour",
    "timeline",
    "tradeoff",
    "training",
    "value_points",
    "whole_axis",
]

Row = Mapping[str, Any]

PANEL_WIDTH = 300
PANEL_HEIGHT = 210
MOST_TICKS = 13  # each of which is drawn
OVER_ETA = "noise η, % of σ reference"
EVERYWHERE, NOWHERE = "BN everywhere", "no BN"
ENDS = (EVERYWHERE, NOWHERE)
SOLID = alt.Legend(symbolOpacity=1)  # the first layer may be a band that one can see through
STATUS = ["done", "missing", "diverged", "failed"]
STATUS_COLOURS = ["#3b8fc4", "#b9c0cc", "#e69f00", "#d55e00"]


def eta_title(rows: Iterable[Row]) -> str:
    """What an axis over η says, in plain words where all rows have the paper's reference for sigma."""
    usual = {row.get("sigma_reference") for row in rows} == {"tensor_std"}
    return "noise η, % of each tensor's standard deviation" if usual else OVER_ETA


def curves(
    rows: Sequence[Row], *, title: str, over: str = OVER_ETA, colour: str = "label", legend: str = "Placement"
) -> Any:
    """A line per `label` over eta with its interval as a band; the paper's own numbers dashed (Figures 2, 3, 4).

    Rows: panel, label, source ("bnsweep" or "paper"), eta_pct, value, low, high, n, seeds.
    `over`: title of the axis over eta.
    """
    sources = distinct(row["source"] for row in rows)
    base = alt.Chart(alt.NamedData(name="rows")).encode(
        x=alt.X(
            "eta_pct:Q",
            title=over,
            axis=alt.Axis(tickCount=5, format=".4~f"),
            scale=alt.Scale(zero=True, nice=False, padding=7),
        ),
        color=series_colour(rows, field=colour, title=legend),
    )
    value = alt.Y("value:Q", title=title, scale=alt.Scale(zero=True))
    shape = _shape(rows, field=colour, title=legend)
    ours = base.transform_filter("datum.source !== 'paper'")
    layers = [
        ours.mark_line().encode(y=value),
        *value_points(ours.encode(y=value, shape=shape), rows, tooltip=_tooltip(rows, title)),
    ]
    if "paper" in sources:
        dash = alt.StrokeDash(
            "source:N",
            title="Source",
            scale=alt.Scale(domain=["bnsweep", "paper"], range=[[1, 0], [5, 4]]),
            legend=alt.Legend(symbolType="stroke", symbolStrokeColor="#808894", symbolSize=600, symbolStrokeWidth=1.6),
        )
        layers[0] = layers[0].encode(strokeDash=dash)
        paper = base.transform_filter("datum.source === 'paper'")
        layers.append(paper.mark_line(strokeWidth=1.4, opacity=0.85).encode(y=value, strokeDash=dash))
        layers.append(
            paper.mark_point(filled=False, size=26, opacity=0.85).encode(
                y=value, shape=shape, tooltip=_tooltip(rows, title)
            )
        )
    if _has(rows, "low"):
        layers.insert(0, ours.mark_area(opacity=0.18).encode(y=alt.Y("low:Q", title=title), y2="high:Q"))
    return _panels(alt.layer(*layers), rows)


def attribution(rows: Sequence[Row], *, over: str) -> Any:
    """Accuracy lost at each eta, by what the noise hit: one point with interval per target set.

    Rows: panel, label (target set), eta_pct, value (points lost against the baseline), low, high, n, seeds.
    """
    title = "accuracy lost, points"
    base = alt.Chart(alt.NamedData(name="rows")).encode(
        x=alt.X("eta_pct:O", title=over, axis=alt.Axis(labelAngle=0, format=".4~f")),
        xOffset=alt.XOffset("label:N", sort=distinct(row["label"] for row in rows)),
        color=series_colour(rows, field="label", title="Noise on"),
    )
    value = alt.Y("value:Q", title=title, scale=alt.Scale(zero=True))
    shape = _shape(rows, field="label", title="Noise on")
    layers = [
        *_bar(base, rows, title=title),
        *value_points(base.encode(y=value, shape=shape), rows, tooltip=_tooltip(rows, title)),
    ]
    return _panels(alt.layer(*layers), rows)


def depth_trend(rows: Sequence[Row], *, axis: str, legend: str) -> Any:
    """Average normalized accuracy against a number of BN layers, a line per series through the mean at each number.

    Rows: panel, label, model, layers (the x value), value, low, high, n, seeds.
    """
    title = "average normalized accuracy, %"
    base = alt.Chart(alt.NamedData(name="rows")).encode(
        x=alt.X(
            "layers:Q",
            title=axis,
            axis=whole_axis([0, *(row["layers"] for row in rows)]),
            scale=alt.Scale(zero=True, nice=False, padding=12),
        ),
        color=series_colour(rows, field="label", title=legend),
    )
    value = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False, padding=12))
    shape = _shape(rows, field="label", title=legend)
    layers = [
        base.mark_line(opacity=0.6).encode(y=alt.Y("mean(value):Q", title=title)),
        *_bar(base, rows, title=title),
        *value_points(base.encode(y=value, shape=shape), rows, tooltip=_tooltip(rows, title)),
    ]
    return _panels(alt.layer(*layers), rows)


def tradeoff(rows: Sequence[Row]) -> Any:
    """Baseline accuracy against average normalized accuracy, a point per placement: up and right is better.

    Colours as in `training`, by the BN layers where only some points are named.

    Rows: panel, label (placement), kept_pct, x, x_low, x_high, value, low, high, n, seeds; where only some points are
    named, name and side (of `crowd.SIDES`), and the ends of the intervals as they are drawn, of `crowd.cut`.
    """
    title = "average normalized accuracy, %"
    crowded = any("side" in row for row in rows)
    exact = {"nice": False} if crowded else {}
    bare = alt.Chart(alt.NamedData(name="rows")).encode(
        x=alt.X("x:Q", title="baseline accuracy, %", scale=alt.Scale(zero=False, padding=26, **exact)),
        y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False, padding=18, **exact)),
    )
    base = bare.encode(color=kept_colour() if crowded else series_colour(rows, field="label", title="Placement"))
    low, high, left, right = (
        ("value_from", "value_to", "x_from", "x_to") if crowded else ("low", "high", "x_low", "x_high")
    )
    wide = base.mark_rule(strokeWidth=2, opacity=0.3 if crowded else 0.55).encode(
        x=alt.X(f"{left}:Q", title="baseline accuracy, %"), x2=f"{right}:Q"
    )
    across = [wide] if _has(rows, "x_low") else []
    bars = _bar(base, rows, title=title, low=low, high=high, opacity=0.3 if crowded else 0.55)
    points = value_points(base, rows, tooltip=_tooltip(rows, title, extra=[("x", "baseline accuracy, %")]), size=70)
    if not crowded:
        named = bare.mark_text(align="center", dy=-11, fontSize=10.5, limit=120).encode(text="label:N")
        return _panels(alt.layer(*bars, *points, *across, named), rows)
    layers = alt.layer(*bars, *across, *points, *beside(bare, rows))
    return _panels(layers, rows).resolve_scale(x="independent", y="independent")


def beside(base: Any, rows: Sequence[Row]) -> list[Any]:
    """The rows' `name`s, each at its `side`: a layer of text per side."""
    return [
        base.transform_filter(f"datum.side === '{side}'").mark_text(fontSize=10.5, **look).encode(text="name:N")
        for side, look in SIDES.items()
        if any(row.get("side") == side for row in rows)
    ]


def kept_colour() -> Any:
    """Colour by the share of BN layers that a placement keeps, `kept_pct`; its ends have their series' colours."""
    return alt.Color(
        "kept_pct:Q",
        title="BN layers kept, %",
        scale=alt.Scale(domain=[0, 100], interpolate="lab"),
        legend=alt.Legend(values=[0, 25, 50, 75, 100], columns=5),
    )


def series_colour(rows: Sequence[Row], *, field: str, title: str, ends: tuple[str, str] = ENDS) -> Any:
    """Colour by series. `ends`: what BN everywhere and no BN are called, whose colours are the same in all charts."""
    scale = alt.Scale(domain=_labels(rows, field, ends))
    return alt.Color(f"{field}:N", title=title, scale=scale, legend=_legend(rows, field, ends))


def gradient_noise(rows: Sequence[Row]) -> Any:
    """Gradient noise C on a logarithmic axis against A_avr, a point per training run; colours as in `training`.

    Rows: panel, label (placement), kept_pct, run, x, x_low, x_high, value, n.
    """
    title = "average normalized accuracy, %"
    ticks = alt.Axis(tickCount=5, labelOverlap="greedy", labelSeparation=6)
    crowded = len({row["label"] for row in rows}) > len(SHAPES)
    # An interval that reaches 0 has no place on a logarithmic axis: its bar ends at a tenth of the estimate.
    base = (
        alt.Chart(alt.NamedData(name="rows"))
        .transform_calculate(from_="max(datum.x_low, datum.x / 10)")
        .encode(
            x=alt.X("x:Q", title="gradient noise C", scale=alt.Scale(type="log", nice=False, padding=12), axis=ticks),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False, padding=12)),
            color=kept_colour() if crowded else series_colour(rows, field="label", title="Placement"),
        )
    )
    tooltip = [
        alt.Tooltip("run:N", title="run"),
        alt.Tooltip("label:N", title="placement"),
        alt.Tooltip("x:Q", title="C", format=".4g"),
        alt.Tooltip("x_low:Q", title="95 % from", format=".4g"),
        alt.Tooltip("x_high:Q", title="to", format=".4g"),
        alt.Tooltip("value:Q", title=title, format=".2f"),
        alt.Tooltip("n:Q", title="trials"),
    ]
    across = base.mark_rule(strokeWidth=2, opacity=0.4).encode(
        x=alt.X("from_:Q", title="gradient noise C", axis=ticks), x2="x_high:Q"
    )
    points = base.mark_point(filled=True, size=60, opacity=1).encode(tooltip=tooltip)
    if not crowded:
        points = points.encode(shape=_shape(rows, field="label", title="Placement"))
    return _panels(alt.layer(*([across] if _has(rows, "x_low") else []), points), rows)


def training(rows: Sequence[Row]) -> Any:
    """Test accuracy after each epoch, a line per training run; of many placements, coloured by their BN layers.

    Rows: panel, label, kept_pct, run (short id), epoch, value (percent).
    """
    title = "test accuracy, %"
    crowded = len({row["label"] for row in rows}) > len(SHAPES)
    chart = (
        alt.Chart(alt.NamedData(name="rows"))
        .mark_line(strokeWidth=1.5, opacity=0.6 if crowded else 0.85, point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=whole_axis(row["epoch"] for row in rows)),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=True)),
            color=kept_colour() if crowded else series_colour(rows, field="label", title="Placement"),
            detail="run:N",
            tooltip=[
                alt.Tooltip("label:N", title="placement"),
                alt.Tooltip("run:N", title="run"),
                alt.Tooltip("epoch:Q", title="epoch"),
                alt.Tooltip("value:Q", title=title, format=".2f"),
            ],
        )
    )
    return _panels(chart, rows)


def timeline(rows: Sequence[Row]) -> Any:
    """What each worker did when: training runs and trial blocks.

    Rows: worker, kind ("training" or "trials"), what, start_s, end_s (since the first row's beginning).
    """
    return (
        alt.Chart(alt.NamedData(name="rows"), height=_bars(row["worker"] for row in rows))
        .mark_bar(height={"band": 0.62}, stroke="#808894", strokeWidth=0.4)
        .encode(
            x=alt.X("start_s:Q", title="seconds since the sweep began", axis=alt.Axis(grid=True, format="~s")),
            x2="end_s:Q",
            y=alt.Y("worker:N", title=None, axis=alt.Axis(labelLimit=140)),
            color=alt.Color("kind:N", title="Work", scale=alt.Scale(domain=["training", "trials"])),
            tooltip=[
                alt.Tooltip("what:N", title="work"),
                alt.Tooltip("worker:N", title="worker"),
                alt.Tooltip("start_s:Q", title="from, s", format=".1f"),
                alt.Tooltip("end_s:Q", title="to, s", format=".1f"),
            ],
        )
    )


def coverage(rows: Sequence[Row]) -> Any:
    """Points of the plan by state, a bar per `what`.

    Rows: what (model and placement, or model), status (one of STATUS), points.
    """
    lengths: Counter[str] = Counter()
    for row in rows:
        lengths[row["what"]] += row["points"]
    return (
        alt.Chart(alt.NamedData(name="rows"), height=_bars(row["what"] for row in rows))
        .mark_bar(height={"band": 0.62})
        .encode(
            x=alt.X("points:Q", title="planned points", axis=whole_axis([0, *lengths.values()], grid=True)),
            y=alt.Y("what:N", title=None, sort=distinct(row["what"] for row in rows), axis=alt.Axis(labelLimit=190)),
            color=alt.Color("status:N", title="State", scale=alt.Scale(domain=STATUS, range=STATUS_COLOURS)),
            order=alt.Order("rank:Q"),
            tooltip=[
                alt.Tooltip("what:N", title="network"),
                alt.Tooltip("status:N", title="state"),
                alt.Tooltip("points:Q", title="points"),
            ],
        )
    )


def whole_axis(values: Iterable[int], **more: Any) -> Any:
    """An axis of whole numbers from the least to the most of these, with a tick at each where there are few."""
    found = set(values)
    least, most = min(found, default=0), max(found, default=0)
    # Where an axis ends at 1 or 2, Vega puts ticks at halves, too, whatever `tickMinStep` says.
    where = {"values": list(range(least, most + 1))} if most - least < MOST_TICKS else {"tickMinStep": 1}
    return alt.Axis(format="d", **where, **more)


def _panels(chart: Any, rows: Sequence[Row]) -> Any:
    """One small chart per `panel`, two side by side; each keeps its own axes, so it reads alone."""
    panels = distinct(row["panel"] for row in rows)
    sized = chart.properties(width=PANEL_WIDTH, height=PANEL_HEIGHT)
    if not any(panels):
        return sized
    facet = alt.Facet("panel:N", title=None, sort=panels, header=alt.Header(labelLimit=0))
    return sized.facet(facet=facet, columns=min(2, len(panels))).resolve_axis(x="independent", y="independent")


def value_points(base: Any, rows: Sequence[Row], *, tooltip: list[Any], size: int = 46) -> list[Any]:
    """Filled where there is an interval, hollow where there is none; a layer without points is left out."""
    ours = [row for row in rows if row.get("source") != "paper"]
    layers = []
    for firm, test in ((True, "isValid(datum.low)"), (False, "!isValid(datum.low)")):
        if any((row["low"] is not None) is firm for row in ours):
            marked = base.transform_filter(test).mark_point(filled=firm, size=size, opacity=1)
            layers.append(marked.encode(tooltip=tooltip))
    return layers


def _bar(
    base: Any, rows: Sequence[Row], *, title: str, low: str = "low", high: str = "high", opacity: float = 0.55
) -> list[Any]:
    """The interval as an upright line, if there is any: a layer without data makes Vega complain."""
    rule = base.mark_rule(strokeWidth=2, opacity=opacity).encode(y=alt.Y(f"{low}:Q", title=title), y2=f"{high}:Q")
    return [rule] if _has(rows, "low") else []


def _has(rows: Sequence[Row], column: str) -> bool:
    return any(row.get(column) is not None for row in rows)


def _bars(names: Iterable[str]) -> int:
    """Height in pixels for a row of 26 per name."""
    return 26 * max(1, len(set(names)))


def _shape(rows: Sequence[Row], *, field: str, title: str) -> Any:
    return alt.Shape(
        f"{field}:N", title=title, scale=alt.Scale(domain=_labels(rows, field, ENDS)), legend=_legend(rows, field, ENDS)
    )


def _legend(rows: Sequence[Row], field: str, ends: tuple[str, str]) -> Any:
    """The series that are there: BN everywhere and no BN keep their colours where one of them was not measured."""
    found = {str(row[field]) for row in rows}
    shown = [label for label in _labels(rows, field, ends) if label in found]
    all_there = len(shown) == len(_labels(rows, field, ends))
    return SOLID if all_there else alt.Legend(symbolOpacity=1, values=shown)


def _labels(rows: Sequence[Row], field: str, ends: tuple[str, str]) -> list[str]:
    """BN everywhere first and no BN second, so that those two always have the same two colours."""
    found = distinct(str(row[field]) for row in rows)
    fixed = list(ends) if any(label in found for label in ends) else []
    return [*fixed, *(label for label in found if label not in fixed)]


def _tooltip(rows: Sequence[Row], title: str, *, extra: Iterable[tuple[str, str]] = ()) -> list[Any]:
    columns = rows[0].keys() if rows else ()
    shown = [alt.Tooltip("panel:N", title="panel"), alt.Tooltip("label:N", title="series")]
    if "model" in columns:
        shown.append(alt.Tooltip("model:N", title="model"))
    if "placement" in columns:
        shown.append(alt.Tooltip("placement:N", title="placement"))
    if "eta_pct" in columns:
        shown.append(alt.Tooltip("eta_pct:Q", title="η, %", format=".4~f"))
    shown.append(alt.Tooltip("value:Q", title=title, format=".2f"))
    shown += [alt.Tooltip(f"{name}:Q", title=text, format=".2f") for name, text in extra]
    shown.append(alt.Tooltip("low:Q", title="95 % from", format=".2f"))
    shown.append(alt.Tooltip("high:Q", title="to", format=".2f"))
    return [*shown, alt.Tooltip("n:Q", title="trials"), alt.Tooltip("seeds:Q", title="training runs")]


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Numbers to four decimals: more would only make the page heavier. JSON has no NaN: what is not finite is None."""
    return [{name: _rounded(v) if isinstance(v, float) else v for name, v in row.items()} for row in rows]


def _rounded(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
