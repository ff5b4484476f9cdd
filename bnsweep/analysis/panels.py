"""Charts that only the service's pages show: one run, one comparison, one answer.

Rows and looks are those of `charts`: accuracies in percent, `low` and `high` None where there is no interval, and the
rows travel as the data set `rows`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import altair as alt

from bnsweep.analysis import charts
from bnsweep.analysis.crowd import beyond_edge
from bnsweep.analysis.figures import Figure, behind, panel_of
from bnsweep.analysis.overview import NAMED, name_points
from bnsweep.analysis.series import MOST, kept_pct, placement_label
from bnsweep.analysis.thinning import LARGEST_CHART, sampled, thinned

__all__ = ["accuracy_over_eta", "histogram", "loss_curves", "of_result", "paired", "pareto", "training_curve"]

Row = Mapping[str, Any]

LOSS, ACCURACY = "loss, nats", "accuracy, %"
MANY_COLOURS = 20
MANY_PANELS = 8
ENDS_CUT = ("value_from", "value_to", "x_from", "x_to")  # as `crowd.cut` gives them


def training_curve(epochs: Sequence[Row]) -> Iterator[Figure]:
    """Loss and accuracy of one training run after each epoch."""
    rows = [
        {"panel": panel, "label": label, "run": label, "epoch": row["epoch"], "value": value}
        for row in epochs
        for panel, label, value in (
            (LOSS, "training", row["train_loss"]),
            (ACCURACY, "training", _percent(row["train_accuracy"])),
            (ACCURACY, "test", _percent(row["test_correct"], row["test_images"])),
        )
        if value is not None
    ]
    if rows:
        yield Figure(
            name="epochs",
            title="Training",
            caption=f"n = 1 training run, {len(epochs)} epochs; a single run has no interval.",
            chart=_over_epochs(rows, legend="Images"),
            rows=rows,
            query="epochs",
            panels=2,
        )


def loss_curves(epochs: Sequence[Row]) -> Iterator[Figure]:
    """Training loss and test accuracy of all runs of a sweep, a line per run."""
    kept, which = thinned(epochs)
    rows = [
        {
            "panel": f"{row['model']}, {row['dataset']}: {panel}",
            "label": placement_label(row),
            "kept_pct": kept_pct(row),
            "run": f"seed {row['train_seed']} ({str(row['run_id'])[:8]})",
            "epoch": row["epoch"],
            "value": value,
        }
        for panel, column in ((LOSS, "train_loss"), (ACCURACY, "test_accuracy_pct"))
        for row in kept
        if (value := row[column]) is not None
    ]
    if rows:
        runs = len({row["run_id"] for row in epochs})
        yield Figure(
            name="curves",
            title="Loss and accuracy while training",
            caption=f"n = {runs} training runs, one line each; loss on training images, accuracy on test images"
            f"{which}.",
            chart=_over_epochs(rows, legend="Placement"),
            rows=rows,
            query="epochs",
            panels=len({row["panel"] for row in rows}),
        )


def _over_epochs(rows: Sequence[Row], *, legend: str) -> Any:
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    crowded = len({row["label"] for row in rows}) > MOST
    chart = (
        alt.Chart(alt.NamedData(name="rows"), width=charts.PANEL_WIDTH, height=charts.PANEL_HEIGHT)
        .mark_line(strokeWidth=1.5, opacity=0.6 if crowded else 0.85, point=alt.OverlayMarkDef(size=14))
        .encode(
            x=alt.X("epoch:Q", title="epoch", axis=charts.whole_axis(row["epoch"] for row in rows)),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=True)),
            color=charts.kept_colour() if crowded else charts.series_colour(rows, field="label", title=legend),
            detail="run:N",
            tooltip=["label:N", "run:N", "epoch:Q", alt.Tooltip("value:Q", format=".4~f")],
        )
    )
    faceted = chart.facet(facet=alt.Facet("panel:N", title=None, sort=panels), columns=2)
    return faceted.resolve_scale(y="independent").resolve_axis(x="independent", y="independent")


def accuracy_over_eta(points: Sequence[Row]) -> Iterator[Figure]:
    """Accuracy of one network over the noise level, a panel per noise cell, with the interval over its draws."""
    rows = [
        {
            "panel": panel_of(row, several=True, among=points),
            "label": "this network",
            "source": "bnsweep",
            "eta_pct": 100.0 * row["eta"],
            "value": row["accuracy_pct"],
            "low": row["low_pct"],
            "high": row["high_pct"],
            "n": row["n"],
            "seeds": 1,
            "level": "draws",
        }
        for row in points
    ]
    if rows:
        yield Figure(
            name="accuracy",
            title="Accuracy over noise",
            caption=f"{behind(rows)}.",
            chart=charts.curves(rows, title="accuracy, %", over=charts.eta_title(points), legend="Network"),
            rows=rows,
            query="run_accuracy",
            panels=len({row["panel"] for row in rows}),
        )


def histogram(draws: Sequence[Row]) -> Iterator[Figure]:
    """How the noise draws on one network spread, a panel per noise cell, a colour per noise level."""
    noisy = [row for row in draws if row["eta"] > 0]
    rows = [
        {
            "panel": panel_of(row, several=True, among=noisy),
            "eta_pct": 100.0 * row["eta"],
            "accuracy_pct": row["accuracy_pct"],
            "trial": row["trial"],
        }
        for row in sampled(noisy)
    ]
    if not rows:
        return
    which = (
        f"; drawn are {len(rows)} of them, as large a share of each cell and level" if len(rows) < len(noisy) else ""
    )
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    scheme = alt.SchemeParams(name="viridis", extent=[0.25, 0.95])  # its ends are lost on dark and on bright pages
    chart = (
        alt.Chart(alt.NamedData(name="rows"), width=charts.PANEL_WIDTH, height=charts.PANEL_HEIGHT)
        .mark_bar(opacity=0.9)
        .encode(
            x=alt.X(
                "accuracy_pct:Q",
                bin=alt.Bin(maxbins=40),
                title="accuracy of one draw, %",
                axis=alt.Axis(labelOverlap="greedy", labelSeparation=8),
            ),
            y=alt.Y("count():Q", title="draws", axis=alt.Axis(format="d", tickMinStep=2)),  # with 1, Vega ticks halves
            color=alt.Color("eta_pct:O", title="noise η, %", scale=alt.Scale(scheme=scheme)),
            tooltip=[
                alt.Tooltip("eta_pct:O", title="η, %"),
                alt.Tooltip("accuracy_pct:Q", bin=alt.Bin(maxbins=40), title="accuracy, %"),
                alt.Tooltip("count():Q", title="draws"),
            ],
        )
    )
    yield Figure(
        name="draws",
        title="Spread of the draws",
        caption=f"n = {len(noisy)} noise draws on one network, {len({row['eta_pct'] for row in rows})} noise levels"
        f"{which}.",
        chart=chart.facet(facet=alt.Facet("panel:N", title=None, sort=panels), columns=2).resolve_axis(
            x="independent", y="independent"
        ),
        rows=rows,
        query="draws",
        panels=len(panels),
    )


def paired(rows: Sequence[Row], a: str, b: str) -> Iterator[Figure]:
    """Accuracy with placement a less accuracy with placement b, over the noise level, with its interval."""
    drawn = [
        {
            "panel": ", ".join(row[name] for name in ("model", "dataset", "placement") if name in row)
            + _recipe(row, rows),
            "label": panel_of(row, several=True, among=rows),
            "eta_pct": 100.0 * row["eta"],
            "value": row["difference_pct"],
            "low": row["low_pct"],
            "high": row["high_pct"],
            "n": row["n"],
            "seeds": row["seeds"],
            "level": row["level"],
        }
        for row in rows
        if row["difference_pct"] is not None  # rows that two sweeps have in common are not compared
    ]
    if not drawn:
        return
    title = f"{a} less {b}, points"
    chart = alt.Chart(alt.NamedData(name="rows"))
    base = chart.encode(
        x=alt.X("eta_pct:O", title=charts.eta_title(rows), axis=alt.Axis(labelAngle=0, format=".4~f")),
        xOffset=alt.XOffset("label:N"),
        color=alt.Color("label:N", title="Noise"),
    )
    tooltip = ["label:N", *(alt.Tooltip(f"{name}:Q", format=".4~f") for name in ("value", "low", "high", "n", "seeds"))]
    layers = [
        chart.mark_rule(strokeDash=[4, 3]).encode(y=alt.datum(0)),
        base.mark_rule(strokeWidth=2, opacity=0.6).encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
        *charts.value_points(base.encode(y=alt.Y("value:Q", title=title)), drawn, tooltip=tooltip, size=60),
    ]
    panels = list(dict.fromkeys(row["panel"] for row in drawn))
    yield Figure(
        name="paired",
        title=f"Paired differences: {a} less {b}",
        caption=f"Above 0, {a} is more accurate. {behind(drawn)}; draws are compared pairwise.",
        chart=alt.layer(*layers)
        .properties(width=charts.PANEL_WIDTH, height=charts.PANEL_HEIGHT)
        .facet(facet=alt.Facet("panel:N", title=None, sort=panels), columns=2)
        .resolve_axis(x="independent", y="independent"),
        rows=drawn,
        query="paired",
        panels=len(panels),
    )


def pareto(rows: Sequence[Row], runs: Sequence[Row], *, name: str = "pareto", of: str = "") -> Iterator[Figure]:
    """Baseline against A_avr: a large point per placement, a small one per training run that opens the run.

    `of`: the sweep, where a page shows several.

    Rows: of query tradeoff; runs: run_id, dataset, model, placement, bn_kept, bn_sites, train_seed, baseline_pct,
    average_normalized_pct.
    """
    known = [row for row in rows if row["bn_kept"] is not None]
    points = [_mean(row, rows) for row in known]
    drawn = [*points, *(_single(row, runs) for row in runs)]
    if not drawn:
        return
    by_panel: dict[str, list[int]] = {}
    for i, point in enumerate(points):
        by_panel.setdefault(point["panel"], []).append(i)
    crowded = any(len(own) > MOST for own in by_panel.values())
    low, high, left, right = ENDS_CUT if crowded else ("low", "high", "x_low", "x_high")
    beyond = [name_points([points[i] for i in own], [known[i] for i in own]) for own in by_panel.values() if crowded]
    x = alt.X("x:Q", title="baseline accuracy, %", scale=alt.Scale(zero=False, padding=20))
    y = alt.Y("value:Q", title="average normalized accuracy, %", scale=alt.Scale(zero=False, padding=16))
    base = alt.Chart(alt.NamedData(name="rows")).encode(
        color=charts.kept_colour() if crowded else charts.series_colour(drawn, field="label", title="Placement")
    )
    means = base.transform_filter("datum.kind === 'placement'")
    singles = base.transform_filter("datum.kind === 'run'")
    tooltip = [
        alt.Tooltip("label:N", title="placement"),
        alt.Tooltip("what:N", title="point"),
        alt.Tooltip("x:Q", title="baseline, %", format=".2f"),
        alt.Tooltip("value:Q", title="A_avr, %", format=".2f"),
    ]
    layers = [
        means.mark_line(opacity=0.5, strokeDash=[3, 3])
        .transform_filter("datum.efficient")
        .encode(x=x, y=y, order="x:Q", color=alt.value("#808894")),
        means.mark_rule(strokeWidth=2, opacity=0.5).encode(x=x, y=alt.Y(f"{low}:Q"), y2=f"{high}:Q"),
        means.mark_rule(strokeWidth=2, opacity=0.5).encode(y=y, x=alt.X(f"{left}:Q"), x2=f"{right}:Q"),
        *_names(means.encode(x=x, y=y, color=alt.value("#808894")), points, crowded=crowded),
        means.mark_point(filled=True, size=110, shape="diamond", opacity=1).encode(x=x, y=y, tooltip=tooltip),
        # Last, so that nothing lies over what can be clicked.
        singles.mark_point(filled=True, size=50, opacity=0.75, cursor="pointer").encode(
            x=x, y=y, href="href:N", tooltip=tooltip, description="words:N"
        ),
    ]
    panels = list(dict.fromkeys(row["panel"] for row in drawn))
    yield Figure(
        name=name,
        title="What BN gives and what it costs" + (f": {of}" if of else ""),
        caption=f"Up and right is better; dashed: placements that no other one beats in both. "
        f"{f'{NAMED} {beyond_edge(sum(beyond))}' if crowded else ''}Diamonds: means of "
        f"n = {len({row['label'] for row in drawn})} placements with 95 % intervals; dots: "
        f"n = {len({row['run_id'] for row in runs})} training runs, which open on a click, or on Enter when "
        "the arrow keys have led there.",
        chart=alt.layer(*layers)
        .properties(width=charts.PANEL_WIDTH, height=charts.PANEL_HEIGHT + 40)
        .facet(facet=alt.Facet("panel:N", title=None, sort=panels), columns=2)
        .resolve_scale(x="independent", y="independent")
        .resolve_axis(x="independent", y="independent"),
        rows=drawn,
        query="tradeoff",
        panels=len(panels),
    )


def _names(base: Any, points: Sequence[Row], *, crowded: bool) -> list[Any]:
    """The names of placements: over each point, or where they cover nothing."""
    if crowded:
        return charts.beside(base, points)
    return [base.mark_text(dy=-12, fontSize=10.5, limit=120).encode(text="label:N")]


def _mean(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        **_place(row, rows),
        "kind": "placement",
        "what": f"mean of {row['seeds']} training runs, {row['n']} trials",
        "x": row["baseline_pct"],
        "x_low": row["baseline_low_pct"],
        "x_high": row["baseline_high_pct"],
        "value": row["average_normalized_pct"],
        "low": row["low_pct"],
        "high": row["high_pct"],
        "efficient": bool(row["efficient"]),
    }


def _single(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    place = _place(row, rows)
    return {
        **place,
        "kind": "run",
        "what": f"training seed {row['train_seed']}: click to open",
        "words": f"{place['panel']}, {place['label']}, training seed {row['train_seed']}: baseline "
        f"{row['baseline_pct']:.2f} %, average normalized accuracy {row['average_normalized_pct']:.2f} %",
        "x": row["baseline_pct"],
        "value": row["average_normalized_pct"],
        "href": f"/runs/{row['run_id']}",
    }


def _recipe(row: Row, rows: Sequence[Row]) -> str:
    """What tells apart networks of one name that were trained differently."""
    same = {each["training"] for each in rows if "training" in each and each["model"] == row["model"]}
    return f", recipe {row['training']}" if len(same) > 1 else ""


def _place(row: Row, rows: Sequence[Row]) -> dict[str, Any]:
    panel = f"{row['model']}, {row['dataset']}, {panel_of(row, several=True, among=rows)}{_recipe(row, rows)}"
    return {"panel": panel, "label": placement_label(row), "kept_pct": kept_pct(row)}


def of_result(rows: Sequence[Row], *, x: str, y: str, colour: str | None) -> Iterator[Figure]:
    """An answer's column y over its column x: points joined by lines where x is a number, else bars.

    Rows of one x and colour that words tell apart (what the noise hit, the network) get a panel each.
    """
    drawn = [
        {"x": _value(row[x]), "y": _value(row[y]), "c": "" if colour is None else str(row[colour]), "panel": panel}
        for row, panel in zip(rows[:LARGEST_CHART], _apart(rows[:LARGEST_CHART], x, y, colour), strict=True)
    ]
    drawn = [row for row in drawn if isinstance(row["y"], (int, float)) and row["x"] is not None]
    if not drawn:
        return
    numeric = all(isinstance(row["x"], (int, float)) for row in drawn)
    colours = len({row["c"] for row in drawn})
    panels = list(dict.fromkeys(row["panel"] for row in drawn))
    chart = alt.Chart(alt.NamedData(name="rows"), height=300)
    encodings: dict[str, Any] = {
        "x": alt.X(
            "x:Q" if numeric else "x:N", title=x, sort=None, axis=_axis(rows, drawn, x) if numeric else alt.Axis()
        ),
        "y": alt.Y("y:Q", title=y),
        "tooltip": [
            alt.Tooltip("x:N", title=x),
            alt.Tooltip("y:Q", title=y),
            alt.Tooltip("c:N", title=colour or "series"),
        ],
    }
    if 1 < colours <= MANY_COLOURS:
        ends = ("all", "none") if colour == "placement" else charts.ENDS
        encodings["color"] = charts.series_colour(drawn, field="c", title=str(colour), ends=ends)
    once = len({(row["x"], row["c"], row["panel"]) for row in drawn}) == len(drawn)
    marked = chart.mark_bar()
    if numeric:  # a line through several values at one x would mean nothing
        marked = chart.mark_line(point=True) if once else chart.mark_point(filled=True, opacity=0.7)
    if not numeric and "color" in encodings:
        encodings["xOffset"] = alt.XOffset("c:N", sort=None)
    marked = marked.encode(**encodings)
    if len(panels) > 1:
        facet = alt.Facet("panel:N", title=None, sort=panels)
        marked = marked.properties(width=charts.PANEL_WIDTH, height=charts.PANEL_HEIGHT).facet(facet=facet, columns=2)
        marked = marked.resolve_axis(x="independent", y="independent")
    else:
        marked = marked.properties(width="container")
    yield Figure(
        name="answer",
        title=f"{y} over {x}",
        caption=f"n = {len(drawn)} rows of the answer.",
        chart=marked,
        rows=drawn,
        panels=len(panels),
    )


def _axis(rows: Sequence[Row], drawn: Sequence[Row], x: str) -> Any:
    """Whole ticks for a column of whole numbers."""
    whole = all(isinstance(row[x], int) for row in rows if row[x] is not None)
    return charts.whole_axis(int(row["x"]) for row in drawn) if whole else alt.Axis()


def _apart(rows: Sequence[Row], x: str, y: str, colour: str | None) -> list[str]:
    """A panel's heading for each row: as few of the answer's other words as leave one row per x and colour."""
    keys = [(row[x], row[colour] if colour else "") for row in rows]
    words = [
        name
        for name in (rows[0] if rows else {})
        if name not in (x, y, colour)
        and all(isinstance(row[name], str) for row in rows)
        and 1 < len({row[name] for row in rows}) <= MANY_PANELS
    ]
    panels = [""] * len(rows)
    for name in words:
        if len(set(zip(panels, keys, strict=True))) == len(rows):
            break
        finer = [f"{panel}, {row[name]}".removeprefix(", ") for panel, row in zip(panels, rows, strict=True)]
        if len(set(finer)) <= MANY_PANELS and len(set(zip(finer, keys, strict=True))) > len(
            set(zip(panels, keys, strict=True))
        ):
            panels = finer
    return panels


def _value(value: Any) -> Any:
    """A value as a chart can place it: a finite number, else its text."""
    if isinstance(value, bool) or value is None:
        return None if value is None else str(value)
    if isinstance(value, (int, float, Decimal)):
        number = float(value)
        return number if abs(number) < float("inf") else None
    return str(value)


def _percent(value: float | None, of: float | None = 1.0) -> float | None:
    return None if value is None or not of else 100.0 * value / of
