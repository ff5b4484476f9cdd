"""What the pages of the service show, computed in a process of its own from a snapshot of the store.

Every function takes the snapshot's path first and gives plain values or text: they travel between processes, so that
neither SQL nor charts hold up who answers the requests. (A class of this module would make who receives it import
Altair.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any

from bnsweep.analysis import panels
from bnsweep.analysis.absence import refuse_misnamed, why_empty
from bnsweep.analysis.contents import build_page
from bnsweep.analysis.database import Database, open_snapshot, write_snapshot
from bnsweep.analysis.figures import Figure
from bnsweep.analysis.inputs import read_inputs
from bnsweep.analysis.page import chart_specs, charts_text, render_sections, script_bundle
from bnsweep.analysis.report import report_html
from bnsweep.analysis.result import Result
from bnsweep.errors import UnknownNameError
from bnsweep.experiment.reading import as_run
from bnsweep.store.store import Store

__all__ = [
    "ask",
    "build",
    "compare",
    "compare_sweeps",
    "full_report",
    "one_run",
    "report_sections",
    "result_chart",
    "script",
    "sweep_facts",
    "sweep_file",
    "warm",
]

MEMORY_MB = 2048
SHOWN = (
    "glance",
    "verdicts",
    "accuracy",
    "normalized",
    "comparison",
    "attribution",
    "placements",
    "training",
    "evidence",
    "coverage",
)


def build(location: str, path: str) -> tuple[int, float]:
    """Write a snapshot of the store; the number of its newest log entry, and the seconds it took."""
    begin = monotonic()
    store = Store.open(location)
    write_snapshot(store, Path(path))
    return store.state.seq, monotonic() - begin


@lru_cache(maxsize=6)
def _open(path: str, sweep: str | None) -> Database:
    return open_snapshot(Path(path), sweep=sweep, memory_mb=MEMORY_MB)


def ask(
    path: str,
    name: str,
    *,
    sweep: str | None = None,
    parameters: Sequence[tuple[str, str]] = (),
    limit: int,
    seconds: float,
) -> Result:
    """The answer to a named query. Raises UnknownNameError, InputError, QueryError."""
    database, given = _open(path, sweep), dict(parameters)
    result = database.query(name, given, limit=limit, time_limit_s=seconds)
    if not len(result):
        refuse_misnamed(database, name, given)
    return result


def report_sections(path: str, sweep: str) -> dict[str, Any]:
    """The figures, tables and verdicts of a sweep's report: HTML, its charts, and figures that are not in the HTML."""
    page = build_page(read_inputs(_open(path, sweep)))
    epochs = _open(path, sweep).query("epochs").to_dicts()
    curves = list(panels.loss_curves(epochs))
    sections = [section for section in page.sections if section.anchor in SHOWN]
    specs = {**chart_specs(sections), **{figure.name: figure.specification() for figure in curves}}
    return {"report": render_sections(sections), "specs": charts_text(specs), "figures": _words(curves)}


def full_report(path: str, sweep: str) -> str:
    """The report as one HTML document."""
    return report_html(_open(path, sweep))


def one_run(path: str, run_id: str) -> dict[str, Any]:
    """Everything about one training run: its row, curve over epochs, accuracy over eta, draws; charts of them."""
    database = _open(path, None)
    chosen = f"WHERE run_id = '{_hex(run_id)}'"
    planned = _rows(database, f"SELECT * FROM planned_point {chosen} LIMIT 1")  # noqa: S608 (hexadecimal digits)
    if not planned:
        raise UnknownNameError("training run", run_id, (), "The page of a sweep lists its own.")
    trained = _rows(database, f"SELECT * FROM run {chosen}")  # noqa: S608
    sweeps = _rows(database, f"SELECT DISTINCT sweep FROM plan {chosen} ORDER BY sweep")  # noqa: S608
    epochs = _rows(database, f"SELECT * FROM epochs {chosen} ORDER BY epoch")  # noqa: S608
    points = database.query("run_accuracy", run_id=run_id)
    draws = database.query("draws", run_id=run_id).to_dicts()
    drawn = (panels.training_curve(epochs), panels.accuracy_over_eta(points.to_dicts()), panels.histogram(draws))
    words, charts = _drawn(chain.from_iterable(drawn))
    return {
        "run": {**planned[0], **(trained[0] if trained else {"status": None})},
        "sweeps": [row["sweep"] for row in sweeps],
        "epochs": epochs,
        "points": points,
        "figures": words,
        "charts": charts,
    }


def compare(
    path: str, a: str, b: str, *, sweep: str | None, dataset: str | None = None, model: str | None = None
) -> dict[str, Any]:
    """Paired differences between two placements, and every placement's baseline against its A_avr."""
    database = _open(path, sweep)
    chosen: dict[str, Any] = {key: value for key, value in (("dataset", dataset), ("model", model)) if value}
    paired = database.query("paired", a=a, b=b, **chosen)
    traded = database.query("tradeoff", **chosen)
    runs = database.query("run_averages", **chosen)
    drawn = (panels.paired(paired.to_dicts(), a, b), panels.pareto(traded.to_dicts(), runs.to_dicts()))
    words, charts = _drawn(chain.from_iterable(drawn))
    return {
        **_choices(path, sweep),
        "paired": paired,
        "notes": [] if paired.rows else why_empty(database, "paired", {"a": a, "b": b, **chosen}),
        "tradeoff": traded.to_plain()["rows"],
        "runs": runs.to_plain()["rows"],
        "figures": words,
        "charts": charts,
    }


def compare_sweeps(
    path: str, a: str, b: str, *, dataset: str | None = None, model: str | None = None
) -> dict[str, Any]:
    """Paired differences between two sweeps, and what each one's placements give and cost.

    Raises UnknownNameError for a sweep.
    """
    database = _open(path, None)
    for name in (a, b):
        if name not in database.sweeps:
            raise UnknownNameError("sweep", name, database.sweeps)
    chosen: dict[str, Any] = {key: value for key, value in (("dataset", dataset), ("model", model)) if value}
    paired = database.query("paired_sweeps", a=a, b=b, **chosen)
    figures = list(panels.paired(paired.to_dicts(), a, b))
    traded: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for number, sweep in enumerate(dict.fromkeys((a, b))):
        means, singles = (_open(path, sweep).query(query, **chosen) for query in ("tradeoff", "run_averages"))
        figures += panels.pareto(means.to_dicts(), singles.to_dicts(), name=f"pareto-{number}", of=sweep)
        traded += [{"sweep": sweep, **row} for row in means.to_plain()["rows"]]
        runs += [{"sweep": sweep, **row} for row in singles.to_plain()["rows"]]
    words, charts = _drawn(figures)
    notes = [] if paired.rows else why_empty(database, "paired_sweeps", {"a": a, "b": b, **chosen})
    shown = {"paired": paired, "notes": notes, "tradeoff": traded, "runs": runs, "figures": words, "charts": charts}
    return {**_choices(path, a), **shown}


def _choices(path: str, sweep: str | None) -> dict[str, Any]:
    """What a page of comparisons lets one choose from."""
    names = "SELECT DISTINCT placement, dataset, model FROM planned_point ORDER BY ALL"
    return {"names": _rows(_open(path, sweep), names), "sweeps": list(_open(path, None).sweeps)}


def sweep_facts(path: str, sweep: str) -> dict[str, Any]:
    """What the page of a sweep lists: its runs, who worked on what, what failed, its spec."""
    database = _open(path, sweep)
    work = database.query("timeline")
    return {
        "runs": database.query("coverage"),
        "failures": database.query("failures"),
        "workers": _workers(work.to_dicts()),
        "spec": _rows(database, "SELECT spec_yaml, revision, planned_runs, planned_points FROM sweep")[0],
    }


def sweep_file(path: str, sweep: str) -> str:
    """A file of what a sweep ran, for running it again."""
    (spec,) = _rows(_open(path, sweep), "SELECT spec, spec_yaml FROM sweep")
    return as_run(spec["spec_yaml"], spec["spec"])


def _workers(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    until: dict[str, float] = {}  # up to where a worker's time has been counted: rounds of several points take turns
    for row in sorted(rows, key=lambda row: row["start_s"] or 0.0):
        entry = found.setdefault(
            row["worker"] or "",
            {"worker": row["worker"] or "unknown", "trainings": 0, "blocks": 0, "trials": 0, "busy_s": 0.0},
        )
        entry["trainings" if row["kind"] == "training" else "blocks"] += 1
        entry["trials"] += row["trials"] or 0
        end = row["end_s"] or 0.0
        counted = until.get(entry["worker"], 0.0)
        entry["busy_s"] += max(0.0, end - max(counted, row["start_s"] or 0.0))
        until[entry["worker"]] = max(counted, end)
    return sorted(found.values(), key=lambda entry: str(entry["worker"]))


def warm() -> None:
    """Nothing: who calls it has imported all that the others need."""


def script(_: str) -> str:
    """Vega, Vega-Lite and Vega-Embed."""
    return script_bundle()


def result_chart(_: str, result: Result, *, x: str, y: str, colour: str | None) -> tuple[list[dict[str, str]], str]:
    """The charts of an answer. Raises UnknownNameError for a column."""
    for name in (x, y, *([colour] if colour else [])):
        result.column(name)
    return _drawn(panels.of_result(result.to_dicts(), x=x, y=y, colour=colour))


def _drawn(figures: Iterable[Figure]) -> tuple[list[dict[str, str]], str]:
    """What a page says of its figures, and their charts as text for a script element."""
    made = list(figures)
    return _words(made), charts_text({figure.name: figure.specification() for figure in made}) if made else ""


def _words(figures: Iterable[Figure]) -> list[dict[str, str]]:
    return [{"name": figure.name, "title": figure.title, "caption": figure.caption} for figure in figures]


def _rows(database: Database, sql: str) -> list[dict[str, Any]]:
    return database.sql(sql, limit=None).to_dicts()


def _hex(run_id: str) -> str:
    """A run's name as it may stand in SQL: digests are hexadecimal."""
    if not run_id.isalnum() or not run_id.isascii():
        raise UnknownNameError("training run", run_id, (), "It is named by hexadecimal digits.")
    return run_id
