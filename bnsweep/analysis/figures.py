"""Which figures a sweep has: rows of the queries, sorted into charts with a title and a caption.

A caption always says how many trials and training runs are behind the figure and what its interval
is; figures without an interval say that hollow points have none.
"""

# ruff: noqa: RUF001 - Greek letters are the paper's.

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bnsweep.analysis import charts
from bnsweep.analysis.series import MOST, kept_pct, placement_label, select, short_labels
from bnsweep.analysis.wording import counted, distinct, distinct_of, span
from bnsweep.experiment.vocabulary import TARGETS, TREATMENTS

__all__ = [
    "CELL_WORDS",
    "CONTRAST",
    "CURVE_TABLE",
    "HIT",
    "VALUE_TABLE",
    "Figure",
    "accuracy_figures",
    "attribution_figures",
    "behind",
    "charts_of",
    "coverage_figure",
    "covers",
    "curve",
    "order",
    "panel_of",
    "slug",
    "timeline_figure",
    "training_figures",
]

Row = Mapping[str, Any]

CONTRAST = (TARGETS[0], TARGETS[-1], *TARGETS[1:-1])  # as pages list them: the paper's contrast first
HIT = {
    "weights": "weights",
    "weights+bias": "weights and biases",
    "weights+bias+affine": "weights, biases and BN's γ, β",
    "all": "all parameters",
}


# Rows that differ in one of these are never joined by a line.
APART = ("sigma_reference", "precision", "training", "noise_model", "sampling")
MOST_BARS = 24
CELL_WORDS = {
    "noise_model": "noise model",
    "sigma_reference": "σ reference",
    "precision": "precision",
    "sampling": "sampling",
}


@dataclass(frozen=True)
class Figure:
    """One chart with what a reader must know about it."""

    name: str  # file name without ending, unique in a report
    title: str
    caption: str
    chart: Any  # altair chart
    rows: Sequence[Row]
    query: str = ""  # the query behind it
    panels: int = 1
    columns: int = 2
    tall: int = 0  # pixels of a panel that needs more than others
    left: int = 0  # pixels of the labels left of the first panel, where they need more than numbers do
    table: Sequence[tuple[str, str]] = field(default=())  # (column, heading) of the table under the chart

    def specification(self, *, validate: bool = False) -> dict[str, Any]:
        """The Vega-Lite specification, without any look; `usermeta` tells the page how to lay it out.

        Checking it against Vega-Lite's schema takes longer than all the rest of a report: tests do that.
        """
        spec: dict[str, Any] = self.chart.to_dict(validate=validate)
        spec.pop("config", None)
        spec["datasets"] = {"rows": charts.plain(self.rows)}
        spec["description"] = f"{self.title}. {self.caption}"
        spec["usermeta"] = {"panels": self.panels, "columns": self.columns, "tall": self.tall, "left": self.left}
        return spec


def panel_of(row: Row, *, several: bool = False, among: Sequence[Row] = ()) -> str:
    """What the noise hit and what happened to BN, as the heading of a panel; `several` sizes of recalibration sets.

    `among`: rows that share the chart; how the noise and the scoring differ between them is said too.
    """
    treatment = "" if row["bn_treatment"] == "stale" else f", BN {row['bn_treatment']}"
    if several and row["bn_treatment"] == "recalibrated":
        treatment += f" on {row['recalibration_images']} images"
    told = [
        f", {words} {row[column]}"
        for column, words in CELL_WORDS.items()
        if len({each.get(column) for each in among}) > 1
    ]
    return f"noise on {HIT.get(row['targets'], row['targets'])}{treatment}{''.join(told)}"


def accuracy_figures(
    points: Sequence[Row], *, paper: Sequence[Row] = (), normalized: bool = False, name: str = "", places: int = MOST
) -> Iterator[Figure]:
    """Figures 2a and 3a, or 2b and 3b if `normalized`: per data set, network and sigma reference.

    Of more than MOST placements `series.select` draws as many as there are `places`.
    """
    what = "normalized accuracy" if normalized else "accuracy"
    for group in charts_of(points, "dataset", "model"):
        beside = _paper_rows(group.rows, paper)
        strange = {row["label"] for row in beside} - {placement_label(row) for row in group.rows}  # the paper's alone
        ordered, which = select(sorted(group.rows, key=order), what=f"highest {what}", places=places - len(strange))
        several = len({row.get("recalibration_images") for row in ordered if row["bn_treatment"] == "recalibrated"}) > 1
        labels = short_labels(group.rows) if which else {}
        drawn = [
            curve(row, panel=panel_of(row, several=several), label=labels.get(placement_label(row)))
            | ({"placement": row["placement"]} if which else {})
            for row in ordered
        ]
        panels = distinct(row["panel"] for row in drawn)
        extra = "; dashed: the paper's own numbers, which come without spread" if beside else ""
        yield Figure(
            name=slug(name or what.split(maxsplit=1)[0], *group.names),
            title=f"{what.capitalize()} over noise: {group.names[1]} on {group.names[0]}{group.words}",
            caption=f"{f'{which}; the {what} table has the others. ' if which else ''}{behind(drawn)}; "
            f"{group.about()}{extra}.",
            chart=charts.curves([*drawn, *beside], title=f"{what}, %", over=charts.eta_title(group.rows)),
            rows=[*drawn, *beside],
            query="normalized" if normalized else "accuracy",
            panels=len(panels),
            columns=2 if len(panels) in (2, 4) else 3,
            table=_with_placement(CURVE_TABLE) if which else CURVE_TABLE,
        )


def attribution_figures(losses: Sequence[Row]) -> Iterator[Figure]:
    """What the noise hit: points of accuracy lost per target set, for each placement or, of many, those of `select`."""
    wanted = [row for row in losses if row["bn_treatment"] == "stale" and row["eta"] > 0]
    for group in charts_of(wanted, "dataset", "model"):
        few, which = select(group.rows, what="smallest loss", least=True)
        nested = sorted(few, key=lambda row: (-(row["bn_kept"] or 0), TARGETS.index(row["targets"]), row["eta"]))
        names = short_labels(group.rows) if which else {}
        drawn = [curve(row, panel=names.get(placement_label(row)), label=HIT[row["targets"]]) for row in nested]
        if len({row["label"] for row in drawn}) < 2:
            continue
        yield Figure(
            name=slug("attribution", *group.names),
            title=f"What the noise hit: {group.names[1]} on {group.names[0]}{group.words}",
            caption=f"Accuracy lost against the clean network. {f'{which}. ' if which else ''}{behind(drawn)}; "
            f"{group.about()}.",
            chart=charts.attribution(drawn, over=charts.eta_title(group.rows)),
            rows=drawn,
            query="target_attribution",
            panels=len(distinct(row["panel"] for row in drawn)),
            columns=3,
            table=CURVE_TABLE,
        )


def training_figures(epochs: Sequence[Row]) -> Iterator[Figure]:
    """Test accuracy after each epoch. Rows: a network's columns, train_seed, run_id, epoch, value.

    Of more than MOST placements lines have the colour of their number of BN layers.
    """
    for dataset in distinct_of(epochs, "dataset"):
        rows = [row for row in epochs if row["dataset"] == dataset]
        drawn = [
            {
                "panel": row["model"],
                "label": placement_label(row),
                "kept_pct": kept_pct(row),
                "run": f"seed {row['train_seed']} ({str(row['run_id'])[:8]})",
                "epoch": row["epoch"],
                "value": row["value"],
            }
            for row in rows
        ]
        panels = distinct(row["panel"] for row in drawn)
        runs = len({row["run_id"] for row in rows})
        yield Figure(
            name=slug("training", dataset),
            title=f"Training: {dataset}",
            caption=f"n = {runs} training runs, one line each; single runs have no interval.",
            chart=charts.training(drawn),
            rows=drawn,
            query="convergence",
            panels=len(panels),
            columns=2 if len(panels) in (2, 4) else 3,
            table=(
                ("panel", "Network"),
                ("label", "Placement"),
                ("run", "Run"),
                ("epoch", "Epoch"),
                ("value", "Test accuracy, %"),
            ),
        )


def timeline_figure(bars: Sequence[Row]) -> Iterator[Figure]:
    """What each worker did when. Rows as `charts.timeline` takes them."""
    if bars:
        end = max(row["end_s"] for row in bars)
        workers = len({row["worker"] for row in bars})
        yield Figure(
            name="timeline",
            title="What each worker did when",
            caption=f"n = {len(bars)} pieces of work on {workers} workers in {end:.0f} s of wall time.",
            chart=charts.timeline(bars),
            rows=bars,
            table=(
                ("worker", "Worker"),
                ("kind", "Work"),
                ("what", "What"),
                ("start_s", "From, s"),
                ("end_s", "To, s"),
            ),
        )


def coverage_figure(counts: Sequence[Row]) -> Iterator[Figure]:
    """Planned points by state, a bar per placement; a bar per network and data set if that took more than MOST_BARS.

    Rows: dataset, model, placement, bn_kept, bn_sites and the states.
    """
    crowded, sets = len(counts) > MOST_BARS, len({row["dataset"] for row in counts})
    sums: dict[tuple[str, int], int] = {}
    for row in counts:
        what = _bar_of(row)
        if crowded:
            what = f"{row['model']} ({row['dataset']})" if sets > 1 else row["model"]
        for rank, state in enumerate(charts.STATUS):
            sums[what, rank] = sums.get((what, rank), 0) + row[state]
    drawn: list[Row] = [
        {"what": what, "status": charts.STATUS[rank], "points": points, "rank": rank}
        for (what, rank), points in sums.items()
        if points
    ]
    if drawn:
        total = sum(sums.values())
        bars = f"; a bar for all placements of a network, {len(counts)} in all" if crowded else ""
        yield Figure(
            name="coverage",
            title="Planned points: done, missing, diverged, failed",
            caption=f"n = {total} planned points (network, noise cell, η){bars}.",
            chart=charts.coverage(drawn),
            rows=drawn,
            query="coverage",
            table=(("what", "Network"), ("status", "State"), ("points", "Points")),
        )


VALUE_TABLE = (("value", "Value, %"), ("low", "95 % from"), ("high", "to"), ("n", "Trials"), ("seeds", "Training runs"))


def _bar_of(row: Row) -> str:
    return f"{row['model']}, {placement_label(row)} ({row['dataset']})"


CURVE_TABLE = (("panel", "Panel"), ("label", "Series"), ("source", "Source"), ("eta_pct", "η, %"), *VALUE_TABLE)


def _with_placement(table: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    return (*table[:2], ("placement", "Placement"), *table[2:])


def curve(row: Row, *, panel: str | None = None, label: str | None = None, source: str = "bnsweep") -> dict[str, Any]:
    """A row as `charts.curves` takes it; a panel or a label that is not given is the placement's name."""
    return {
        "panel": placement_label(row) if panel is None else panel,
        "label": placement_label(row) if label is None else label,
        "source": source,
        "model": row["model"],
        "eta_pct": 100.0 * row["eta"] if row.get("eta") is not None else None,
        "value": row["value"],
        "low": row["low"],
        "high": row["high"],
        "n": row["n"],
        "seeds": row["seeds"],
        "level": row.get("level"),
    }


def _paper_rows(rows: Sequence[Row], paper: Sequence[Row]) -> list[dict[str, Any]]:
    """The paper's curve of the same network and data set, in the panel that it comes closest to."""
    first = min(rows, key=order)
    if first["sigma_reference"] != "tensor_std" or first["bn_treatment"] != "stale":
        return []
    same = [p for p in paper if (p["dataset"], p["model"]) == (first["dataset"], first["model"])]
    # The paper says "all weights"; which arrays that covers is an open question, so every stale panel gets it.
    panels = distinct(panel_of(row) for row in sorted(rows, key=order) if row["bn_treatment"] == "stale")
    return [curve(p, panel=panel, label=p["label"], source="paper") for panel in panels for p in same]


def behind(rows: Sequence[Row]) -> str:
    """Trials, runs and interval behind what is drawn, in words."""
    ours = [row for row in rows if row.get("source") != "paper" and row.get("n")]
    trials = [row["n"] for row in ours if row.get("eta_pct") != 0] or [row["n"] for row in ours] or [0]
    seeds = [row["seeds"] for row in ours] or [0]
    text = f"n = {counted(span(trials), 'trial')} on {counted(span(seeds), 'training run')} per point"
    with_interval = sum(row["low"] is not None for row in ours)
    if with_interval:
        text += f"; bands and bars are 95 % intervals{covers(ours)}"
    if with_interval < len(ours):
        text += "; hollow points have no interval"
    return text


def covers(rows: Iterable[Row]) -> str:
    """Which chances the intervals of these rows cover, as the end of a sentence."""
    levels = {row.get("level") for row in rows if row["low"] is not None}
    if levels == {"seeds"}:
        return " over training runs and draws"
    if levels == {"draws"}:
        return " over the draws on these networks alone"
    return " (over training runs and draws where there are several runs, else over draws)" if "seeds" in levels else ""


def order(row: Row) -> tuple[Any, ...]:
    return (
        TREATMENTS.index(row["bn_treatment"]),
        CONTRAST.index(row["targets"]),
        row.get("recalibration_images") or 0,
        -(row["bn_kept"] or 0) / (row["bn_sites"] or 1),
        row["placement"],
        row.get("eta") or 0,
    )


@dataclass(frozen=True)
class Group:
    """Rows that belong into one chart; `words` names what tells this chart from its sisters."""

    rows: list[Row]
    names: tuple[str, ...]
    words: str

    def about(self) -> str:
        first = self.rows[0]
        return f"σ reference {first['sigma_reference']}, forward pass in {first['precision']}"


def charts_of(rows: Iterable[Row], *axes: str) -> Iterator[Group]:
    """Split rows by `axes` and by everything else that must not share a line: recipe, reference, precision."""
    columns = [*axes, *APART]
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(column) for column in columns), []).append(row)
    varying = [i for i, _ in enumerate(columns) if len({key[i] for key in found}) > 1 and i >= len(axes)]
    for key, group in found.items():
        names = tuple(str(part) for part in key[: len(axes)]) + tuple(str(key[i]) for i in varying)
        yield Group(group, names, "".join(f", {columns[i].replace('_', ' ')} {key[i]}" for i in varying))


def slug(*parts: object) -> str:
    """A file name on every system, and an HTML id: hostile names lose their hostility here."""
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(map(str, parts)).lower()).strip("-.")[:80] or "figure"
