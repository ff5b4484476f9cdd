"""What a report reads: the rows of the queries under one set of names.

This is the only place where charts and report meet the queries' column names. Accuracies are in percent,
eta is a fraction, `low` and `high` are the ends of a 95 % interval and `half` is half of its width, all
three None where there is no interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.claims import judge
from bnsweep.analysis.queries import find_query
from bnsweep.analysis.searches import Found, read_searches

if TYPE_CHECKING:
    from bnsweep.analysis.database import Database

__all__ = ["Inputs", "read_inputs"]

Row = Mapping[str, Any]

QUERIES = (
    "accuracy",
    "normalized",
    "average_normalized",
    "paper_comparison",
    "paired",
    "target_attribution",
    "tradeoff",
    "depth_trend",
    "task_complexity",
    "convergence",
    "coverage",
    "failures",
    "timeline",
    "epochs",
    "gradient_noise",
    "gradient_noise_correlation",
)
TOTALS = "SELECT count(*) AS trials, coalesce(sum(images), 0)::BIGINT AS images FROM trial"
MADE_BY = """
SELECT versions, device FROM counted SEMI JOIN planned_point USING (point_id) UNION SELECT versions, device FROM run
"""
CLEAN = """
SELECT dataset, model, placement, bn_kept, bn_sites, train_seed, test_correct AS correct, test_images AS images, classes
FROM run
WHERE test_correct IS NOT NULL AND test_images > 0 AND classes > 0
ORDER BY dataset, bn_sites, model, bn_kept DESC, placement, train_seed
"""
PAPER = "SELECT dataset, model, bn, eta::DOUBLE AS eta, value FROM paper WHERE eta IS NOT NULL ORDER BY ALL"
STATES = ("done", "missing", "diverged", "failed")  # of planned points
MAX_BARS = 600  # of the timeline: more are thinner than a pixel


@dataclass(frozen=True)
class Inputs:
    """Rows of one sweep.

    Rows about a network carry dataset, model, placement, bn_kept, bn_sites; about a noise cell also
    sigma_reference, targets, bn_treatment, precision; about a value also value, low, high, half, level, n, seeds.
    """

    sweep: str = ""
    spec_yaml: str = ""
    versions: Sequence[str] = ()
    devices: Sequence[str] = ()
    total_trials: int = 0
    total_images: int = 0
    accuracy: Sequence[Row] = ()  # + eta, nonfinite_pct, capped
    normalized: Sequence[Row] = ()  # + eta
    averages: Sequence[Row] = ()  # A_avr
    depths: Sequence[Row] = ()  # A_avr; + family
    paired: Sequence[Row] = ()  # points between BN everywhere and no BN, draw by draw; + eta, as query paired
    losses: Sequence[Row] = ()  # points of accuracy lost; + eta, beyond, added, added_half, nonfinite_pct
    tradeoff: Sequence[Row] = ()  # A_avr; + baseline, baseline_low, baseline_high, efficient
    tasks: Sequence[Row] = ()  # normalized accuracy of networks on several data sets; + eta, recipe
    comparison: Sequence[Row] = ()  # + quantity, eta, paper, agrees
    paper_accuracy: Sequence[Row] = ()  # dataset, model, label, eta, value
    paper_normalized: Sequence[Row] = ()
    runs: Sequence[Row] = ()  # run_id, train_seed, status, reason, epochs_run, baseline, duration_s
    clean: Sequence[Row] = ()  # networks on the test images: train_seed, correct, images, classes
    epochs: Sequence[Row] = ()  # run_id, train_seed, epoch, value
    coverage: Sequence[Row] = ()  # done, missing, diverged, failed
    failures: Sequence[Row] = ()  # what, error, attempt
    timeline: Sequence[Row] = ()  # worker, kind, what, start_s, end_s
    noise: Sequence[Row] = ()  # of gradients: as query gradient_noise
    noise_correlations: Sequence[Row] = ()  # as query gradient_noise_correlation
    verdicts: Sequence[Row] = ()  # as `Verdict.to_dict`; + sql
    searches: Sequence[Found] = ()
    sql: Mapping[str, str] = field(default_factory=dict)  # text of each query by name


def read_inputs(database: Database) -> Inputs:
    """Read everything a report shows."""
    answers = {name: database.query(name) for name in QUERIES}
    rows = {name: answer.to_dicts() for name, answer in answers.items()}
    sweeps = database.sql("SELECT sweep, spec_yaml FROM sweep ORDER BY sweep", limit=None).to_dicts()
    totals = database.sql(TOTALS).to_dicts()[0]
    made_by = database.sql(MADE_BY, limit=None).to_dicts()
    paper = _paper(database, rows["accuracy"])
    return Inputs(
        sweep=", ".join(row["sweep"] for row in sweeps),
        spec_yaml="\n---\n".join(row["spec_yaml"].rstrip() for row in sweeps),
        versions=sorted({row["versions"] for row in made_by if row["versions"]}),
        devices=sorted({row["device"] for row in made_by if row["device"]}),
        total_trials=totals["trials"],
        total_images=totals["images"],
        accuracy=[_value(row, "accuracy_pct") for row in rows["accuracy"]],
        normalized=[_value(row, "normalized_pct") for row in rows["normalized"]],
        averages=[_value(row, "average_normalized_pct") for row in rows["average_normalized"]],
        depths=[_value(row, "average_normalized_pct") for row in rows["depth_trend"]],
        paired=[_value(row, "difference_pct") for row in rows["paired"]],
        losses=[_loss(row) for row in rows["target_attribution"]],
        tradeoff=[_traded(row) for row in rows["tradeoff"]],
        tasks=[_value(row, "normalized_pct") for row in rows["task_complexity"]],
        comparison=[{**_value(row, "ours_pct"), "paper": row["paper_pct"]} for row in rows["paper_comparison"]],
        paper_accuracy=paper,
        paper_normalized=_normalized(paper),
        runs=[{**row, "baseline": row["baseline_pct"]} for row in rows["convergence"]],
        clean=database.sql(CLEAN, limit=None).to_dicts(),
        epochs=[{**row, "value": row["test_accuracy_pct"]} for row in rows["epochs"]],
        coverage=_by_placement(rows["coverage"]),
        failures=[{**row, "what": _what(row)} for row in rows["failures"]],
        timeline=_bars(rows["timeline"]),
        noise=rows["gradient_noise"],
        noise_correlations=rows["gradient_noise_correlation"],
        verdicts=_verdicts(database),
        searches=read_searches(database),
        sql={name: find_query(name).sql for name in (*answers, "pareto", "site_importance")},
    )


def _value(row: Row, column: str) -> dict[str, Any]:
    low, high = row["low_pct"], row["high_pct"]
    return {**row, "value": row[column], "low": low, "high": high, "half": row["half_width_pct"]}


def _loss(row: Row) -> dict[str, Any]:
    return {
        **row,
        "value": row["loss_pct"],
        "low": row["loss_low_pct"],
        "high": row["loss_high_pct"],
        "half": _half(row["loss_low_pct"], row["loss_high_pct"]),
        "added": row["added_pct"],
        "added_half": _half(row["added_low_pct"], row["added_high_pct"]),
    }


def _half(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else (high - low) / 2


def _traded(row: Row) -> dict[str, Any]:
    baseline = {
        "baseline": row["baseline_pct"],
        "baseline_low": row["baseline_low_pct"],
        "baseline_high": row["baseline_high_pct"],
    }
    return {**_value(row, "average_normalized_pct"), **baseline}


def _paper(database: Database, ours: Sequence[Row]) -> list[dict[str, Any]]:
    """The paper's Tables II and III for the networks and data sets that we have, in percent."""
    have = {(row["dataset"], row["model"]) for row in ours}
    return [
        {**row, "label": _paper_label(row), "value": 100.0 * row["value"], "low": None, "high": None, "half": None}
        | {"n": None, "seeds": None, "level": None}
        for row in database.sql(PAPER, limit=None).to_dicts()
        if (row["dataset"], row["model"]) in have
    ]


def _paper_label(row: Row) -> str:
    """The paper's `without` is no BN for ResNets on CIFAR-10, elsewhere the few layers that training needed."""
    if row["bn"] == "with":
        return "BN everywhere"
    return "no BN" if row["dataset"] == "cifar10" and row["model"].startswith("resnet") else "the paper's partial BN"


def _normalized(paper: Sequence[Row]) -> list[dict[str, Any]]:
    """Eq. 13 on the paper's own numbers."""
    clean = {(row["dataset"], row["model"], row["bn"]): row["value"] for row in paper if row["eta"] == 0}
    return [
        {**row, "value": 100.0 * row["value"] / clean[row["dataset"], row["model"], row["bn"]]}
        for row in paper
        if (row["dataset"], row["model"], row["bn"]) in clean
    ]


def _by_placement(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Coverage comes per sweep and training run; a reader asks per network."""
    columns = ("dataset", "model", "placement", "bn_kept", "bn_sites")
    sums: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[column] for column in columns)
        total = sums.setdefault(key, {**dict(zip(columns, key, strict=True)), **dict.fromkeys(STATES, 0)})
        for state in STATES:
            total[state] += row[state]
    return list(sums.values())


def _what(row: Row) -> str:
    """The failed piece of work in words."""
    network = f"{row['model']}, {row['placement']}, seed {row['train_seed']}" if row["model"] else row["run_id"]
    if row["what"] == "training":
        return f"training of {network}"
    eta = "" if row["eta"] is None else f" at η = {100 * row['eta']:.6g} %"
    return f"{row['trials']} trials of {network}, noise on {row['targets']}, BN {row['bn_treatment']}{eta}"


def _bars(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Bars of the timeline; where there are many, neighbours of one run, worker and kind become one bar."""
    bars: list[dict[str, Any]] = []
    last: dict[tuple[Any, ...], dict[str, Any]] = {}
    join = len(rows) > MAX_BARS
    for row in rows:
        if row["start_s"] is None or row["worker"] is None:  # the paper says nothing about who computed what
            continue
        key = (row["worker"], row["kind"], row["run_id"])
        before = last.get(key)
        if join and before is not None and row["start_s"] - before["end_s"] < 1.0:
            before["end_s"] = max(before["end_s"], row["end_s"])
            continue
        what = f"{row['model']}, {row['placement']}, seed {row['train_seed']}"
        bar = {name: row[name] for name in ("worker", "kind", "start_s", "end_s")} | {"what": what}
        last[key] = bar
        bars.append(bar)
    return bars


def _verdicts(database: Database) -> list[Row]:
    if not database.query("accuracy", limit=1).rows:
        return []
    return [{**verdict.to_dict(), "sql": find_query(verdict.claim.query).sql} for verdict in judge(database)]
