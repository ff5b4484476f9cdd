"""The service put together: every route with the role that it takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from anyio import to_thread
from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response

from bnsweep._version import __version__
from bnsweep.errors import BnsweepError
from bnsweep.service.answers import ERRORS, add, answering, install_errors, permitted, show, unexpected
from bnsweep.service.ask import Ask
from bnsweep.service.auth import Role
from bnsweep.service.events import Events
from bnsweep.service.guard import Guard, Refusals
from bnsweep.service.hub import Hub
from bnsweep.service.pages import Pages
from bnsweep.service.public import Public
from bnsweep.service.work import Work

__all__ = ["make_app", "roles"]

logger = logging.getLogger("bnsweep.service")
THREADS = 100  # of requests that wait for an answer at the same time
DESCRIPTION = """\
Sweeps over batch-normalization placements: submit, watch, ask.

Send a token as `Authorization: Bearer ...` (`bnsweep token create`). Errors have one form:
`{"ok": false, "error": "what is wrong and what to do", "status": 404}`.
"""


def make_app(hub: Hub) -> FastAPI:
    """The web application over a hub, which it starts and closes."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = THREADS
        hub.rows.start()
        hub.dispatcher.start()
        tidying = asyncio.create_task(_tidy(hub))
        yield
        tidying.cancel()
        await hub.console.close()
        hub.dispatcher.close()
        hub.launcher.close()
        hub.planner.close()
        hub.rows.close()
        with suppress(BnsweepError):
            going_on = [job.sweep for job in hub.jobs.all() if job.state in ("running", "cancelling")]
            if going_on:
                logger.warning("%s goes on without the service; the next one shows it again", ", ".join(going_on))

    app = FastAPI(
        title="bnsweep", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None, openapi_url=None,
        lifespan=lifespan, separate_input_output_schemas=False,
    )  # fmt: skip
    app.state.hub = hub
    refusals = Refusals(hub.audit, hub.settings)
    install_errors(app, refusals)
    _public(app, hub, refusals)
    _showing(app, hub)
    _doing(app, hub, refusals)
    app.add_middleware(
        Guard, tokens=hub.tokens, settings=hub.settings, refusals=refusals, failed=unexpected, loopback=hub.loopback
    )
    return app


async def _tidy(hub: Hub) -> None:
    """End what nobody uses, once a minute."""
    while True:
        await asyncio.sleep(60)
        await run_in_threadpool(hub.planner.tidy)


def roles(app: FastAPI) -> dict[tuple[str, str], Role | None]:
    """The role that each route takes, by method and path; None: everybody."""
    found = {}
    for route in app.routes:
        if isinstance(route, APIRoute):
            checks = [each.dependency for each in route.dependencies if hasattr(each.dependency, "role")]
            for method in route.methods or ():
                found[method, route.path] = checks[0].role  # type: ignore[union-attr]  # each has one, or this fails
    return found


def _showing(app: FastAPI, hub: Hub) -> None:
    pages, ask, events = Pages(hub), Ask(hub), Events(hub)
    viewer = Role.VIEWER
    _get(app, "/", _home, role=viewer)
    add(app, "/sweeps", pages.sweeps, role=viewer, tag="sweeps")
    _get(app, "/sweeps/{sweep}/live", pages.live, role=viewer)
    _get(app, "/sweeps/{sweep}/figures", pages.figures, role=viewer)
    _get(app, "/sweeps/{sweep}/report", pages.report, role=viewer)
    _get(app, "/sweeps/{sweep}/spec", pages.spec, role=viewer, schema=True)
    # No HEAD: its body never ends.
    _get(app, "/sweeps/{sweep}/events", events.sweep, role=viewer, methods=("GET",))
    add(app, "/sweeps/{sweep}", pages.sweep, role=viewer, tag="sweeps")
    _get(app, "/runs/{run_id}/sites.json", pages.sites, role=viewer)
    add(app, "/runs/{run_id}", pages.run, role=viewer, tag="runs")
    add(app, "/compare", pages.compare, role=viewer, tag="compare")
    forms = ("html", "json", "csv", "parquet")
    add(app, "/ask", ask.sql, role=viewer, forms=forms, tag="ask")
    add(app, "/ask/{query}", ask.named, role=viewer, forms=forms, tag="ask")
    add(app, "/audit", pages.audit, role=Role.ADMIN, tag="audit")


def _doing(app: FastAPI, hub: Hub, refusals: Refusals) -> None:
    work = Work(hub, refusals)
    add(app, "/new", work.new, role=Role.RUNNER, forms=("html", "json"), tag="new")
    for path, function, status, summary in (
        ("/check.json", work.check, 200, "check and plan a sweep file"),
        ("/read.json", work.read, 200, "check a sweep file"),
        ("/sweeps.json", work.submit, 202, "submit a sweep"),
        ("/sweeps/{sweep}/cancel.json", work.cancel, 200, "cancel a sweep"),
        ("/sweeps/{sweep}/retry.json", work.retry, 202, "retry what failed of a sweep"),
    ):
        _post(app, path, function, role=Role.RUNNER, status=status, summary=summary)
    for path, form in (
        ("/new", work.submit_form),
        ("/new/form", work.write_form),
        ("/sweeps/{sweep}/cancel", work.cancel_form),
        ("/sweeps/{sweep}/retry", work.retry_form),
    ):
        _post(app, path, form, role=Role.RUNNER)


def _home(request: Request) -> Response:
    return RedirectResponse("/sweeps", 303)


def _get(
    app: FastAPI, path: str, function: Callable[..., Any], *, role: Role | None, schema: bool = False, **more: Any
) -> None:
    show(
        app, path, function, schema=schema, dependencies=[Depends(permitted(role))],
        responses={200: {"content": {"application/yaml": {}}, "description": "The file"}, **ERRORS},
        openapi_extra={"x-role": role.label if role else "anybody"}, **more,
    )  # fmt: skip


def _post(
    app: FastAPI, path: str, function: Callable[..., Any], *, role: Role | None, status: int = 200, summary: str = ""
) -> None:
    """A route that does something; those without a summary are for our own forms."""
    app.add_api_route(
        path, answering(function), methods=["POST"], dependencies=[Depends(permitted(role))],
        include_in_schema=bool(summary), response_model=None, response_class=JSONResponse, status_code=status,
        summary=summary or None, responses=ERRORS, openapi_extra={"x-role": role.label if role else "anybody"},
    )  # fmt: skip


def _public(app: FastAPI, hub: Hub, refusals: Refusals) -> None:
    public = Public(app, hub, refusals)
    _get(app, "/healthz", public.healthz, role=None)
    _get(app, "/openapi.json", public.openapi, role=None)
    _get(app, "/static/{name}", public.static, role=None)
    _get(app, "/signin", answering(public.sign_in_page), role=None)
    _post(app, "/signin", public.sign_in, role=None)
    _post(app, "/signout", public.sign_out, role=None)
