"""Pages that show: sweeps, one sweep, one run, a comparison, the audit log."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from bnsweep.analysis.queries import Column
from bnsweep.analysis.result import Result
from bnsweep.errors import UnknownNameError
from bnsweep.service.answers import Answer, NotFoundError, for_programs, html, result_of, rows_for
from bnsweep.service.hub import Hub
from bnsweep.service.jobs import Job
from bnsweep.service.overview import COLUMNS

__all__ = ["Pages"]

AUDIT_COLUMNS = (
    Column("at", "UTC", "when"),
    Column("who", "", "user"),
    Column("what", "", "act"),
    Column("details", "", "about what"),
)
AUDIT_SHOWN = 500
NO_FIGURES: dict[str, Any] = {"report": None, "specs": "", "figures": []}
REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
    "frame-ancestors 'none'"
)


class Pages:
    """What viewers see."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def sweeps(self, request: Request) -> Answer:
        """Every sweep of the store: state, progress, time left, who, when."""
        hub = self._hub
        seen = hub.overview.look(newest=for_programs(request))
        rows = list(seen.sweeps.values())
        data = {
            "store": hub.store.location,
            "writer": str(seen.writer) if seen.writer else None,
            "where": hub.where,
            "trouble": hub.dispatcher.trouble or hub.rows.trouble,
            "sweeps": rows,
        }
        return Answer("sweeps.html", data, result_of(COLUMNS, rows), {"open": not hub.tokens.list()}, name="sweeps")

    def sweep(self, request: Request, sweep: str) -> Answer:
        """One sweep: progress, runs, workers, failures, its spec; on the page also its report's figures and tables."""
        data, runs = self._sweep(request, sweep)
        report = None if for_programs(request) or runs is None else self._hub.rows.soon("report_sections", sweep)
        extra = {**(report or NO_FIGURES), "begun": runs is not None}
        return Answer("sweep.html", data, runs, {**extra, **self._rights(request, sweep)}, name=sweep)

    def figures(self, request: Request, sweep: str) -> Response:
        """The figures and tables of a sweep's report, for a page that came before they were ready."""
        self._sweep(request, sweep)
        return html(request, Answer("_figures.html", {}, None, self._hub.rows.ask("report_sections", sweep)))

    def live(self, request: Request, sweep: str) -> Response:
        """The moving part of a sweep's page: progress, runs, workers, failures."""
        data, runs = self._sweep(request, sweep)
        return html(request, Answer("_live.html", data, runs, self._rights(request, sweep)))

    def _sweep(self, request: Request, sweep: str) -> tuple[dict[str, Any], Result | None]:
        hub = self._hub
        seen = hub.overview.look(newest=for_programs(request))
        row = seen.sweeps.get(sweep)
        if row is None:
            raise NotFoundError(f"there is no sweep {sweep!r} in this store; /sweeps has them all")
        jobs = [job for job in seen.jobs if job.sweep == sweep]
        job = seen.latest.get(sweep)
        facts: dict[str, Any] = {}
        try:
            facts = rows_for(request, hub.rows)("sweep_facts", sweep)
        except UnknownNameError:  # submitted, but it has not begun
            if job is None:
                raise
        data = {
            "summary": row,
            "progress": job.progress if job is not None and job.active else {},
            "jobs": [each.to_dict() for each in reversed(jobs)],
            "workers": facts.get("workers", []),
            "failures": facts["failures"].to_plain()["rows"] if facts else [],
            "spec": facts["spec"]["spec_yaml"] if facts else job.spec if job else "",
            "rows_age_s": hub.rows.age_s,
        }
        return data, facts["runs"] if facts else None

    def _rights(self, request: Request, sweep: str) -> dict[str, Any]:
        job: Job | None = self._hub.overview.look().latest.get(sweep)
        may = self._hub.may_change(request.state.user, job)
        return {
            "may_change": may,
            "may_cancel": may and job is not None and job.active,
            "log": self._hub.launcher.log(job) if job is not None else "",
        }

    def report(self, request: Request, sweep: str) -> Response:
        """The whole report of a sweep, one file that loads nothing: to read, to keep, to send."""
        self._sweep(request, sweep)
        text = self._hub.rows.ask("full_report", sweep)
        # The report holds its own scripts, and its own policy that lets it reach nothing.
        return HTMLResponse(text, headers={"content-security-policy": REPORT_POLICY})

    def spec(self, request: Request, sweep: str) -> Response:
        """A sweep's file, as its user wrote it."""
        data, _ = self._sweep(request, sweep)
        return Response(data["spec"], media_type="application/yaml")

    def run(self, request: Request, run_id: str) -> Answer:
        """One training run: which sites keep BN, its curve, accuracy over eta, the spread of its draws."""
        try:
            known = rows_for(request, self._hub.rows)("one_run", run_id)
        except UnknownNameError:
            raise NotFoundError(f"there is no training run {run_id!r} in this store") from None
        data = {key: known[key] for key in ("run", "sweeps", "epochs")}
        extra = {"figures": known["figures"], "specs": known["charts"]}
        return Answer("run.html", data, known["points"], extra, name=f"run-{run_id}")

    def sites(self, request: Request, run_id: str) -> JSONResponse:
        """Names of the BN sites of a run's network, in forward order; empty for networks of a user's own."""
        sweeps = self.run(request, run_id).data["sweeps"]
        names = self._hub.planner.sites(self._hub.rows.ask("sweep_file", sweeps[0]), run_id) if sweeps else []
        return JSONResponse({"ok": True, "sites": names})

    def compare(
        self,
        request: Request,
        a: Annotated[str, Query(description="placement", max_length=200)] = "all",
        b: Annotated[str, Query(description="placement to compare it with", max_length=200)] = "none",
        sweep: Annotated[str, Query(description="only this sweep", max_length=200)] = "",
        other: Annotated[
            str, Query(description="compare the sweep with this one, not placements", max_length=200)
        ] = "",
        dataset: Annotated[str, Query(description="only this data set", max_length=200)] = "",
        model: Annotated[str, Query(description="only this network", max_length=200)] = "",
    ) -> Answer:
        """Two placements or two sweeps, draw by draw, with intervals; and what each placement gives and costs."""
        only = {"dataset": dataset or None, "model": model or None}
        ask = rows_for(request, self._hub.rows)
        if sweep and other:
            shown = ask("compare_sweeps", sweep, other, **only)
        else:
            shown = ask("compare", a, b, sweep=sweep or None, **only)
        names = shown["names"]
        data = {
            "a": a,
            "b": b,
            "sweep": sweep,
            "other": other,
            "dataset": dataset,
            "model": model,
            "placements": list(dict.fromkeys(row["placement"] for row in names)),
            "datasets": list(dict.fromkeys(row["dataset"] for row in names)),
            "models": list(dict.fromkeys(row["model"] for row in names)),
            "sweeps": shown["sweeps"],
            "notes": shown["notes"],
            "tradeoff": shown["tradeoff"],
            "each_run": shown["runs"],
        }
        extra = {"figures": shown["figures"], "specs": shown["charts"]}
        name = f"{sweep}-{other}" if sweep and other else f"{a}-{b}"
        return Answer("compare.html", data, shown["paired"], extra, name=name)

    def audit(self, request: Request) -> Answer:
        """Who did what, when: the newest acts."""
        acts = self._hub.audit.latest(AUDIT_SHOWN)
        rows = [
            {
                **{key: act.get(key, "") for key in ("at", "who", "what")},
                "details": "; ".join(f"{k}: {v}" for k, v in act.items() if k not in ("at", "who", "what") and v),
            }
            for act in acts
        ]
        return Answer("audit.html", {"acts": acts}, result_of(AUDIT_COLUMNS, rows), name="audit")
