"""What a report says, in order: headline, verdicts, tables, charts, how to do it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from altair.utils.schemapi import debug_mode

from bnsweep.analysis import figures, overview, tables
from bnsweep.analysis.figures import Figure
from bnsweep.analysis.inputs import Inputs
from bnsweep.analysis.page import Block, Cell, Code, Column, Drawing, Page, Section, Table, Text, Words, rows_table
from bnsweep.analysis.search_figures import search_figures
from bnsweep.analysis.sentences import attribution, headline, widest_gap
from bnsweep.analysis.series import ENDS
from bnsweep.analysis.theory import explanation, noise_figures
from bnsweep.analysis.wording import distinct_of, listed, number
from bnsweep.analysis.words import words
from bnsweep.experiment.vocabulary import NETWORK_ENDS

__all__ = ["all_figures", "build_page"]

Row = Mapping[str, Any]

MAX_CHART_ROWS = 400  # of the table under a chart: a longer one makes the page heavy, and SQL gives it all
COMMANDS = """\
bnsweep plan sweep.yaml     # what will be done, and what is there already
bnsweep run sweep.yaml      # does what is missing
bnsweep report              # this page"""
SAME_ROWS = (
    "Rows depend on the sweep file alone: engine, number of workers, retries and resumption change nothing on the same "
    "kind of processor with the same versions."
)


def all_figures(inputs: Inputs) -> dict[str, list[Figure]]:
    """Every figure of a sweep, by the section it belongs to."""
    with debug_mode(False):  # altair checks each part against its schema as it is made, and again as a whole
        return _figures(inputs)


def _figures(inputs: Inputs) -> dict[str, list[Figure]]:
    return {
        "headline": list(_headline_figures(inputs)),
        "accuracy": list(figures.accuracy_figures(inputs.accuracy, paper=inputs.paper_accuracy)),
        "normalized": list(figures.accuracy_figures(inputs.normalized, paper=inputs.paper_normalized, normalized=True)),
        "attribution": list(figures.attribution_figures(inputs.losses)),
        "overview": [
            *overview.tradeoff_figures(inputs.tradeoff),
            *overview.depth_figures(inputs.depths),
            *overview.task_figures(inputs.tasks),
        ],
        "theory": list(noise_figures(inputs.noise)),
        "search": list(search_figures(inputs.searches)),
        "training": list(figures.training_figures(inputs.epochs)),
        "work": [*figures.coverage_figure(inputs.coverage), *figures.timeline_figure(inputs.timeline)],
    }


def _headline_figures(inputs: Inputs) -> Iterator[Figure]:
    """The contrast of the paper for the network of the headline: noise on weights, and noise on all parameters.

    Of many placements only the two that the headline speaks of: the figures of the next section have more.
    """
    best = widest_gap(inputs.accuracy, "weights") or widest_gap(inputs.accuracy, "all")
    if best:
        same = ("dataset", "model", "sigma_reference", "precision")
        rows = [row for row in inputs.accuracy if all(row[c] == best[0][c] for c in same)]
        contrast = [row for row in rows if row["targets"] in ("weights", "all") and row["bn_treatment"] == "stale"]
        yield from figures.accuracy_figures(contrast, paper=inputs.paper_accuracy, name="headline", places=len(ENDS))


def build_page(inputs: Inputs) -> Page:
    """The report of one sweep; a sweep without trials gets a page that says so."""
    drawn = all_figures(inputs)
    sections = [
        Section("glance", "BN everywhere against no BN", _drawings(inputs, drawn["headline"])),
        Section("verdicts", "Verdicts on the paper's claims", tables.verdicts(inputs)),
        Section("accuracy", "Accuracy", [*tables.accuracy(inputs), *_drawings(inputs, drawn["accuracy"])]),
        Section(
            "normalized", "Normalized accuracy", [*_drawings(inputs, drawn["normalized"]), *tables.averages(inputs)]
        ),
        Section("comparison", "Beside the paper", tables.comparison(inputs)),
        Section(
            "attribution",
            "What the noise hit",
            [
                *map(Text, attribution(inputs.losses)),
                *_drawings(inputs, drawn["attribution"]),
                *tables.attribution(inputs),
            ],
        ),
        Section("placements", "What BN gives and what it costs", _drawings(inputs, drawn["overview"])),
        Section(
            "theory",
            "Does gradient noise explain it?",
            [*map(Text, explanation(inputs.noise_correlations)), *_drawings(inputs, drawn["theory"])],
        ),
        Section("search", "What the search found", [*_searches(inputs), *_drawings(inputs, drawn["search"])]),
        Section("training", "Training", [*tables.training_runs(inputs), *_drawings(inputs, drawn["training"])]),
        Section("evidence", "Evidence for each verdict", tables.evidence(inputs)),
        Section("coverage", "Coverage", [*_coverage(inputs), *_drawings(inputs, drawn["work"])]),
        Section("again", "How to do it again", _again(inputs)),
        Section("words", "Words and units", [Words(words())]),
    ]
    return Page(
        title=_title(inputs),
        sweep=inputs.sweep,
        headline=list(headline(inputs)),
        facts=_facts(inputs),
        sections=[section for section in sections if section.blocks],
    )


def _title(inputs: Inputs) -> str:
    if not inputs.accuracy:
        return "No noise trials yet"
    models, sets = distinct_of(inputs.accuracy, "model"), distinct_of(inputs.accuracy, "dataset")
    what = listed(models) if len(models) <= 3 else f"{len(models)} networks"
    where = listed(sets) if len(sets) <= 3 else f"{len(sets)} data sets"
    return f"Noise resistance with and without batch normalization: {what} on {where}"


def _facts(inputs: Inputs) -> list[tuple[str, str]]:
    if not inputs.runs and not inputs.accuracy:
        return []
    trials = inputs.total_trials
    ended = [row for row in inputs.runs if row["status"] in NETWORK_ENDS]
    facts = [
        (number(len(ended)), "trained networks"),
        (number(trials), "noise trials"),
        (number(inputs.total_images), "images scored"),
    ]
    lost = len(inputs.runs) - len(ended)
    return [*facts, (number(lost), f"run{'s' if lost != 1 else ''} without a network")] if lost else facts


def _searches(inputs: Inputs) -> list[Block]:
    """What each search asked for, and what it says about the fewest layers."""
    return [Code(f"{each.sweep}: {each.model} on {each.dataset}", each.to_text()) for each in inputs.searches]


def _coverage(inputs: Inputs) -> list[Block]:
    blocks: list[Block] = []
    missing, diverged, failed = (
        sum(row[state] for row in inputs.coverage) for state in ("missing", "diverged", "failed")
    )
    if missing or diverged or failed:
        text = (
            f"Not all is there: {number(missing)} planned points are missing, {number(failed)} failed, and "
            f"{number(diverged)} are of networks that diverged, so that there is nothing to perturb"
        )
        blocks.append(Text(f"{text}; every figure above is made of what is done."))
    elif inputs.coverage:
        blocks.append(Text("Every planned point is done."))
    if inputs.failures:
        columns = [Column("What", wide=True), Column("Error", wide=True), Column("Attempts", number=True)]
        rows = [[Cell(f["what"]), Cell(f["error"]), Cell(number(f["attempt"]))] for f in inputs.failures]
        blocks.append(Table("failures-table", "What was given up", columns, rows))
    return blocks


def _again(inputs: Inputs) -> list[Block]:
    blocks: list[Block] = []
    if inputs.spec_yaml:
        blocks.append(Code("The sweep file", inputs.spec_yaml))
        blocks.append(Code("Commands", COMMANDS))
    if inputs.versions:
        blocks.append(Text(f"Computed with {listed(inputs.versions)}, on {listed(inputs.devices)}."))
        blocks.append(Text(SAME_ROWS, note=True))
    return blocks


def _drawings(inputs: Inputs, drawn: Sequence[Figure]) -> list[Block]:
    return [Drawing(figure, _numbers(figure), sql=inputs.sql.get(figure.query, "")) for figure in drawn]


def _numbers(figure: Figure) -> Table:
    shown = figure.rows[:MAX_CHART_ROWS]
    table = rows_table(f"numbers-{figure.name}", figure.title, rows=shown, columns=figure.table)
    if len(shown) == len(figure.rows):
        return table
    return replace(table, caption=f"The first {len(shown)} of {len(figure.rows)} rows.")
