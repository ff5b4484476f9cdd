"""Pages that do something: check a spec, submit it, cancel, retry."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import from_thread
from fastapi import Form, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, RedirectResponse, Response

from bnsweep.errors import BnsweepError, EngineError, InputError, SpecError
from bnsweep.experiment.files import LARGEST_BYTES, ready_specs
from bnsweep.experiment.spec import Spec
from bnsweep.service.answers import Answer, NotFoundError, status_of
from bnsweep.service.auth import User
from bnsweep.service.checks import Planner, read_submitted
from bnsweep.service.form import FIELDS, fields_of, written
from bnsweep.service.guard import Refusals
from bnsweep.service.hub import ForbiddenError, Hub
from bnsweep.service.jobs import Job
from bnsweep.service.look import link

__all__ = ["Submission", "Work"]

Text = Annotated[str, Field(max_length=LARGEST_BYTES, description="the sweep file, YAML")]


class Submission(BaseModel):
    """A sweep file, from a program."""

    spec: Text
    retry_failed: Annotated[bool, Field(description="do what failed before once more")] = False
    minimal: Annotated[
        bool, Field(description="of a search: look for the fewest BN layers that converge, not for the trade-off")
    ] = False


class Work:
    """What runners do."""

    def __init__(self, hub: Hub, refusals: Refusals) -> None:
        self._hub, self._refusals = hub, refusals

    def new(
        self,
        request: Request,
        ready: Annotated[str, Query(description="begin with this ready sweep", max_length=100)] = "quickstart",
        sweep: Annotated[str, Query(description="begin with this sweep of the store", max_length=200)] = "",
    ) -> Answer:
        """A new sweep: the file to begin with, what its common entries say, and what else one can begin with."""
        text = self._spec_of(sweep) if sweep else self._ready(ready)
        fields = {each["field"].name: each["value"] for each in fields_of(text)}
        data = {"spec": text, "fields": fields, "ready": list(ready_specs()), "where": self._hub.where}
        return Answer("new.html", data, None, self._form(text))

    def check(self, request: Request, submission: Submission) -> JSONResponse:
        """What is wrong in a sweep file, with line numbers; and if nothing is, its plan. Nothing is started."""
        return JSONResponse({"ok": True, **self._checked(request.state.user, submission.spec, plan=True)})

    def read(self, request: Request, submission: Submission) -> JSONResponse:
        """The same without the plan: quick enough for every pause in typing."""
        return JSONResponse({"ok": True, **self._checked(request.state.user, submission.spec, plan=False)})

    def submit(self, request: Request, submission: Submission) -> JSONResponse:
        """Put a sweep into the queue; submitting what waits or runs already changes nothing."""
        job = self._submit(
            request.state.user, submission.spec, retry_failed=submission.retry_failed, minimal=submission.minimal
        )
        return JSONResponse({"ok": True, "job": job.to_dict(), "page": link("sweeps", job.sweep)}, 202)

    def submit_form(
        self,
        request: Request,
        spec: Annotated[str, Form(max_length=LARGEST_BYTES)] = "",
        act: Annotated[str, Form(max_length=20)] = "submit",
    ) -> Response | Answer:
        """The same from the page's form."""
        text = spec.replace("\r\n", "\n")
        if act == "submit":
            try:
                return RedirectResponse(link("sweeps", self._submit(request.state.user, text).sweep), 303)
            except SpecError:
                pass  # the page shows what is wrong
            except BnsweepError as error:
                return self._refused(request, text, error)
        checked = self._checked(request.state.user, text, plan=True)
        return Answer(
            "new.html", {}, None, {**self._form(text), "checked": checked}, status=422 if checked["problems"] else 200
        )

    def _refused(self, request: Request, text: str, error: BnsweepError) -> Answer:
        """The page with what was typed, and why it was not taken; written down as a program's request would be."""
        if isinstance(error, ForbiddenError):
            from_thread.run(self._refusals.forbidden, request.state.user, request.scope, str(error))
        return Answer("new.html", {}, None, {**self._form(text), "error": str(error)}, status=status_of(error))

    def write_form(
        self,
        request: Request,
        spec: Annotated[str, Form(max_length=LARGEST_BYTES)] = "",
        was: Annotated[str, Form(max_length=LARGEST_BYTES)] = "",
        field: Annotated[list[str], Form(max_length=len(FIELDS))] = [],  # noqa: B006 (FastAPI copies it)
        value: Annotated[list[str], Form(max_length=len(FIELDS))] = [],  # noqa: B006
    ) -> Answer:
        """Write what the form's fields say into the sweep file."""
        text, was = (each.replace("\r\n", "\n") for each in (spec, was))
        try:
            text = written(text, was=was, given=list(zip(field, value, strict=False)))
        except BnsweepError as error:
            return Answer("new.html", {}, None, {**self._form(text), "error": str(error)}, status=422)
        return Answer("new.html", {}, None, self._form(text))

    def cancel(self, request: Request, sweep: str) -> JSONResponse:
        """Stop a sweep that waits or runs; every finished block is kept."""
        return JSONResponse({"ok": True, "job": self._cancel(request.state.user, sweep).to_dict()})

    def cancel_form(self, request: Request, sweep: str) -> Response:
        """The same from the page."""
        self._cancel(request.state.user, sweep)
        return RedirectResponse(link("sweeps", sweep), 303)

    def retry(self, request: Request, sweep: str) -> JSONResponse:
        """Do what failed or is missing of a sweep once more."""
        return JSONResponse({"ok": True, "job": self._retry(request.state.user, sweep).to_dict()}, 202)

    def retry_form(self, request: Request, sweep: str) -> Response:
        """The same from the page."""
        self._retry(request.state.user, sweep)
        return RedirectResponse(link("sweeps", sweep), 303)

    def _submit(self, user: User, text: str, *, retry_failed: bool = False, minimal: bool = False) -> Job:
        hub = self._hub
        spec = self._read(text, planner=hub.planner)
        if minimal and not spec.is_search:
            raise InputError("`minimal` is for searches, but this file has no `search` section: it is a sweep")
        self._check_name(user, spec)
        if hub.launcher.cluster.missing:
            raise EngineError(hub.launcher.cluster.missing)
        plan = hub.planner.plan(text)
        most = hub.settings.count("runs_per_sweep")
        if plan["runs"] > most:
            raise InputError(f"a submitted sweep has at most {most:,} training runs, but this has {plan['runs']:,}")
        limit = hub.settings.count("jobs_per_user")
        job = hub.jobs.submit(
            spec.name, text, by=user.name, retry_failed=retry_failed, minimal=minimal, limit=limit
        )  # fmt: skip
        hub.audit.add(user.name, "retry" if retry_failed else "submit", sweep=spec.name, job=job.id)
        hub.changed()
        return job

    def _read(self, text: str, *, planner: Planner | None) -> Spec:
        settings = self._hub.settings
        return read_submitted(
            text, folders=self._hub.folders, most_bytes=settings.count("spec_bytes"),
            most_runs=settings.count("runs_per_sweep"), planner=planner,
        )  # fmt: skip

    def _check_name(self, user: User, spec: Spec) -> None:
        """A name that is taken belongs to who took it: submitting it again extends that sweep."""
        job = self._hub.jobs.latest(spec.name)
        if job is not None or self._begun(spec.name):
            self._hub.check_may_change(user, spec.name, job)

    def _cancel(self, user: User, sweep: str) -> Job:
        hub = self._hub
        job = hub.jobs.latest(sweep)
        if job is None:
            if not self._begun(sweep):
                raise NotFoundError(f"there is no sweep {sweep!r} in this store")
            raise InputError(f"sweep {sweep!r} was run from the command line: it is stopped there, with Ctrl-C")
        hub.check_may_change(user, sweep, job)
        cancelled = hub.jobs.cancel(job, by=user.name)
        hub.audit.add(user.name, "cancel", sweep=sweep, job=job.id)
        hub.changed()
        return cancelled

    def _retry(self, user: User, sweep: str) -> Job:
        job = self._hub.jobs.latest(sweep)
        minimal = job is not None and job.minimal
        return self._submit(user, self._spec_of(sweep), retry_failed=True, minimal=minimal)

    def _spec_of(self, sweep: str) -> str:
        """The file that a sweep was last run or submitted with."""
        job = self._hub.jobs.latest(sweep)
        if job is not None:
            return job.spec
        if not self._begun(sweep):
            raise NotFoundError(f"there is no sweep {sweep!r} in this store")
        return str(self._hub.rows.ask("sweep_file", sweep))

    def _begun(self, sweep: str) -> bool:
        """Whether the store has rows of a sweep."""
        return sweep in self._hub.overview.look().begun

    def _checked(self, user: User, text: str, *, plan: bool) -> dict[str, Any]:
        try:
            spec = self._read(text, planner=self._hub.planner if plan else None)
            made = self._hub.planner.plan(text) if plan else None
        except SpecError as error:
            problems = [problem.to_dict() for problem in error.problems]
            return {"problems": problems, "plan": None, "sweep": None, "note": ""}
        if made is not None:
            price = self._hub.settings["price_per_core_hour"]
            hours = made["core_hours_training"] + made["core_hours_trials"]
            made = {**made, "cost": round(hours * price, 2) if price else None}
        job = self._hub.jobs.latest(spec.name)
        note = ""
        if job is not None or self._begun(spec.name):
            note = f"There is a sweep {spec.name!r}: this extends it, and only what is missing is done."
            if not self._hub.may_change(user, job):
                note = f"There is a sweep {spec.name!r} of somebody else: choose another name."
        return {"problems": [], "plan": made, "sweep": spec.name, "note": note}

    def _ready(self, name: str) -> str:
        path = ready_specs().get(name)
        if path is None:
            raise NotFoundError(f"there is no ready sweep {name!r}; there are: {', '.join(ready_specs())}")
        return path.read_text(encoding="utf-8")

    def _form(self, text: str) -> dict[str, Any]:
        return {
            "spec": text,
            "fields": fields_of(text),
            "ready": list(ready_specs()),
            "checked": None,
            "error": "",
            "where": self._hub.where,
        }
