"""The tables of a report: every figure with its n and its interval, or a mark that it has none."""

# ruff: noqa: RUF001 - Greek letters are the paper's, and a dash stands for nothing.

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bnsweep.analysis import figures
from bnsweep.analysis.charts import EVERYWHERE, NOWHERE
from bnsweep.analysis.inputs import Inputs
from bnsweep.analysis.page import Block, Cell, Code, Column, Table
from bnsweep.analysis.series import placement_label
from bnsweep.analysis.wording import digits, distinct_of, eta_pct, number, span, spread

__all__ = ["accuracy", "attribution", "averages", "comparison", "evidence", "training_runs", "verdicts"]

Row = Mapping[str, Any]


def verdicts(inputs: Inputs) -> list[Block]:
    """The claims with their verdicts, each linked to its evidence."""
    if not inputs.verdicts:
        return []
    columns = [Column("Claim", wide=True), Column("Verdict"), Column("Because", wide=True)]
    columns += [Column("What would decide it", wide=True), Column("See")]
    rows = [
        [
            Cell(verdict["claim"]),
            Cell(verdict=verdict["verdict"]),
            Cell(_brief(verdict["reason"])),
            Cell(verdict["decide"] or "–"),
            Cell("evidence", href=f"claim-{verdict['name']}"),
        ]
        for verdict in inputs.verdicts
    ]
    return [Table("verdict-table", "Claims of the paper, and what these rows say", columns, rows)]


def _brief(reason: str) -> str:
    """The verdict of each part, where a reason goes through many; the evidence has it in full."""
    if len(reason) <= 150:
        return reason
    parts: dict[str, list[str]] = {}
    for part, verdict in re.findall(r"(?:^|; )([^;:()]+): (supported|undecided|contradicted)\b", reason):
        parts.setdefault(verdict, []).append(part)
    return "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in parts.items()) or reason


def evidence(inputs: Inputs) -> list[Block]:
    """What is behind each verdict: the change along the claim's sequence, data set by data set, network by network."""
    blocks: list[Block] = []
    for verdict in inputs.verdicts:
        several = len({row["placement"] for row in verdict["evidence"]}) > 1
        rows = [
            [
                Cell(row["part"] or "–"),
                Cell(row["dataset"]),
                Cell(row["model"]),
                *([Cell(_placement(row["placement"]))] if several else []),
                Cell(row["steps"]),
                value_cell({"value": row["change_pct"], "half": _half(row)}),
                Cell(number(row["seeds"])),
                Cell(number(row["n"])),
                Cell(verdict=row["verdict"]),
            ]
            for row in verdict["evidence"]
        ]
        columns = [Column("Part"), Column("Data"), Column("Network"), *([Column("Placement")] if several else [])]
        columns += [Column("From, to", wide=True)]
        columns += [Column(head, number=True) for head in ("Change, points", "Runs", "Trials")]
        note = f"{verdict['verdict']}: {verdict['reason']}. ± is the half-width of a 95 % interval over training runs."
        blocks.append(
            Table(f"claim-{verdict['name']}", verdict["claim"], [*columns, Column("Alone")], rows, note=note,
                  query=verdict["query"], sql=verdict["sql"])
        )  # fmt: skip
        if verdict["spec"]:
            blocks.append(Code("A sweep that would decide it", verdict["spec"], folded=True))
    return blocks


def _placement(label: str) -> str:
    """A claim's placements by the words of `placement_label`; its rows have no counts of layers."""
    return {"all": EVERYWHERE, "none": NOWHERE}.get(label, label or "–")


def _half(row: Row) -> float | None:
    low, high = row["low_pct"], row["high_pct"]
    return None if low is None or high is None else float(high - low) / 2


def accuracy(inputs: Inputs) -> list[Block]:
    """Accuracy in the form of Tables II and III."""
    if not inputs.accuracy:
        return []
    return [
        _eta_table(
            inputs,
            inputs.accuracy,
            anchor="accuracy-table",
            title="Accuracy in %, in the form of the paper's Tables II and III",
            query="accuracy",
        )
    ]


def averages(inputs: Inputs) -> list[Block]:
    """Normalized accuracy, and its average over eta (Table IV)."""
    if not inputs.averages:
        return []
    table = _eta_table(
        inputs,
        inputs.normalized,
        anchor="normalized-table",
        title="Normalized accuracy in % (eq. 13)",
        query="normalized",
    )
    shown, caption = _network_columns(inputs.averages)
    columns = [*(Column(NETWORK_HEADS[name]) for name in shown), Column("A_avr, %", number=True)]
    columns += [Column("Trials", number=True), Column("Runs", number=True)]
    rows = [
        [*_network_cells(row, shown), value_cell(row), Cell(number(row["n"])), Cell(number(row["seeds"]))]
        for row in sorted(inputs.averages, key=_network_key)
    ]
    average = Table(
        "average-table", "Average normalized accuracy (eq. 14; the paper's Table IV)", columns, rows, caption=caption,
        note=_note(inputs.averages), query="average_normalized", sql=inputs.sql.get("average_normalized", ""),
    )  # fmt: skip
    return [table, average]


NETWORK_HEADS = {
    "model": "Network",
    "placement": "Placement",
    "dataset": "Data",
    "targets": "Noise on",
    "bn_treatment": "BN",
    "sigma_reference": "σ reference",
    "precision": "Precision",
    "training": "Recipe",
    "sampling": "Images",
    "recalibration_images": "Recalibration images",
}


def _network_columns(rows: Sequence[Row]) -> tuple[list[str], str]:
    """Which columns tell the rows apart, and the rest as a caption: a column of equal words only takes room."""
    shown = ["model", "placement"]
    rest = []
    for name in list(NETWORK_HEADS)[2:]:
        # 0 images for recalibration: the row's cell is not recalibrated
        values = distinct_of([row for row in rows if row.get(name)], name)
        if len(values) > 1 and (name != "training" or _several_recipes(rows)):
            shown.append(name)
        elif values and name in ("dataset", "targets", "bn_treatment", "sigma_reference", "precision"):
            rest.append(f"{NETWORK_HEADS[name]}: {values[0]}")
    return shown, "; ".join(rest)


def _several_recipes(rows: Sequence[Row]) -> bool:
    """Whether one network on one data set was trained in several ways: else the recipe tells nothing apart."""
    recipes = {(row["dataset"], row["model"], row.get("training")) for row in rows}
    return len(recipes) > len({recipe[:2] for recipe in recipes})


def _network_cells(row: Row, shown: Sequence[str]) -> list[Cell]:
    return [Cell(placement_label(row) if name == "placement" else str(row[name])) for name in shown]


def _network_key(row: Row) -> tuple[Any, ...]:
    return (row["dataset"], row["bn_sites"], row["model"], row["sigma_reference"], *figures.order(row)[:5])


def _eta_table(inputs: Inputs, rows: Sequence[Row], *, anchor: str, title: str, query: str) -> Table:
    """A row per network and cell, a column per eta, n at the end."""
    etas = sorted({row["eta"] for row in rows})
    lines: dict[tuple[Any, ...], dict[float, Row]] = {}
    for row in sorted(rows, key=_network_key):
        lines.setdefault(tuple(row.get(name) for name in NETWORK_HEADS), {})[row["eta"]] = row
    shown, caption = _network_columns(rows)
    columns = [
        *(Column(NETWORK_HEADS[name]) for name in shown),
        *(Column(f"η = {eta_pct(eta)} %", number=True) for eta in etas),
        Column("Trials per η", number=True),
        Column("Runs", number=True),
    ]
    cells = [
        [
            *_network_cells(next(iter(line.values())), shown),
            *(value_cell(line[eta]) if eta in line else Cell("–") for eta in etas),
            Cell(span([row["n"] for eta, row in line.items() if eta > 0] or [0])),
            Cell(span([row["seeds"] for row in line.values()])),
        ]
        for line in lines.values()
    ]
    return Table(anchor, title, columns, cells, caption=caption, note=_note(rows), query=query,
                 sql=inputs.sql.get(query, ""))  # fmt: skip


def _note(rows: Sequence[Row]) -> str:
    """What the marks of a table mean, as far as it has them."""
    note = f"± is the half-width of a 95 % interval{figures.covers(rows)}"
    if any(row["low"] is None for row in rows):
        note += "; ◦ marks a figure without one: too few training runs or trials to tell its spread, or all alike"
    if any(row.get("capped") for row in rows):
        note += "; † marks one whose trials reached their maximum before the wanted half-width"
    return note + "."


def comparison(inputs: Inputs) -> list[Block]:
    """Ours beside the paper's, where network and data set match."""
    if not inputs.comparison:
        return []
    shown, caption = _network_columns(inputs.comparison)
    heads = ("η, %", "Ours, %", "Paper, %", "Difference, points", "Trials", "Runs")
    columns = [*(Column(NETWORK_HEADS[name]) for name in shown), Column("What")]
    rows = [
        [
            *_network_cells(row, shown),
            Cell("A_avr" if row["quantity"] == "average_normalized" else "accuracy"),
            Cell("–" if row["eta"] is None else eta_pct(row["eta"])),
            value_cell(row),
            Cell(number(row["paper"], digits=2)),
            Cell(number(row["value"] - row["paper"], digits=1)),
            Cell(number(row["n"])),
            Cell(number(row["seeds"])),
        ]
        for row in inputs.comparison
    ]
    note = "The paper prints no spread and no number of draws, so its figures carry no interval. "
    return [
        Table("comparison-table", "Our figures beside the paper's Tables II, III and IV",
              [*columns, *(Column(head, number=True) for head in heads)], rows, caption=caption,
              note=note + _note(inputs.comparison), query="paper_comparison",
              sql=inputs.sql.get("paper_comparison", ""))
    ]  # fmt: skip


def attribution(inputs: Inputs) -> list[Block]:
    """What each target set costs, and what it adds to the next smaller one."""
    losses = [row for row in inputs.losses if row["bn_kept"] and row["bn_treatment"] == "stale"]
    if len({row["targets"] for row in losses}) < 2:
        return []
    shown, caption = _network_columns(losses)
    heads = ("η, %", "Lost, points", "More than the smaller set, points", "Non-finite, %", "Trials", "Runs")
    rows = [
        [
            *_network_cells(row, shown),
            Cell(eta_pct(row["eta"])),
            value_cell(row),
            value_cell({**row, "value": row["added"], "half": row["added_half"], "low": row["added_half"]}),
            Cell(number(row["nonfinite_pct"], digits=1)),
            Cell(number(row["n"])),
            Cell(number(row["seeds"])),
        ]
        for row in losses
    ]
    columns = [*(Column(NETWORK_HEADS[name]) for name in shown), *(Column(head, number=True) for head in heads)]
    note = "The smaller set is the next one inside it that was measured, with the same draws. " + _note(losses)
    return [
        Table("attribution-table", "Accuracy lost by what the noise hit", columns, rows, caption=caption, note=note,
              query="target_attribution", sql=inputs.sql.get("target_attribution", ""))
    ]  # fmt: skip


def training_runs(inputs: Inputs) -> list[Block]:
    """Every training run with how it ended."""
    if not inputs.runs:
        return []
    columns = [*map(Column, ("Network", "Placement", "Data"))]
    columns += [Column("Seed", number=True), Column("Ended"), Column("Epochs", number=True)]
    columns += [Column("Test accuracy, %", number=True), Column("Time, s", number=True), Column("Why", wide=True)]
    rows = [
        [
            Cell(row["model"]),
            Cell(placement_label(row)),
            Cell(row["dataset"]),
            Cell(str(row["train_seed"])),
            Cell(row["status"]),
            Cell(number(row["epochs_run"])),
            Cell(number(row["baseline"], digits=2)),
            Cell(number(row["duration_s"])),
            Cell(row["reason"] or "–"),
        ]
        for row in inputs.runs
    ]
    note = "One row per run: single networks, so no interval. diverged and failed runs have no network and no trials."
    return [
        Table(
            "runs-table",
            "Training runs, failed ones included",
            columns,
            rows,
            note=note,
            query="convergence",
            sql=inputs.sql.get("convergence", ""),
        )
    ]


def value_cell(row: Row) -> Cell:
    """A value with its half-width, or with the mark that it has none."""
    mark = "†" if row.get("capped") else ""
    if row["half"] is None:
        return Cell(number(row["value"], digits=2) + mark, hollow=row["value"] is not None)
    return Cell(number(row["value"], digits=digits(row)), spread=spread(row) + mark)
