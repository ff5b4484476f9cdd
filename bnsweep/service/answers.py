"""One function per page, and its answer as a page, as JSON, as CSV and as Parquet; one form of error.

    {"ok": true, ...}   or   {"ok": false, "error": "what is wrong and what to do", "status": 404}

A path without an ending is the page; `.json` is the same for programs, `.csv` and `.parquet` its table.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pyarrow as pa
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from bnsweep.analysis.queries import Column
from bnsweep.analysis.result import Result, json_value
from bnsweep.errors import (
    BnsweepError,
    EngineError,
    InputError,
    QueryError,
    SpecError,
    StoreClaimedError,
    StoreError,
    UnknownNameError,
)
from bnsweep.service.auth import Role, User, is_form_proof
from bnsweep.service.console import BusyError
from bnsweep.service.guard import FORM_COOKIE, Refusals, error_body, same_site
from bnsweep.service.hub import ForbiddenError
from bnsweep.service.jobs import TooManyJobsError
from bnsweep.service.look import ENDINGS, page
from bnsweep.service.rows import LateError, Rows

__all__ = [
    "ERRORS",
    "Answer",
    "NotFoundError",
    "add",
    "answering",
    "for_programs",
    "html",
    "install_errors",
    "permitted",
    "result_of",
    "rows_for",
    "show",
    "showing",
    "status_of",
    "unexpected",
]

AGAIN_S = 10  # after which an answer that was late may be there
TYPES = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
ERROR_SCHEMA = {
    "type": "object",
    "required": ["ok", "error", "status"],
    "properties": {
        "ok": {"type": "boolean", "enum": [False]},
        "error": {"type": "string"},
        "status": {"type": "integer"},
        "problems": {"type": "array", "items": {"type": "object"}},
    },
}
ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {"application/json": {"schema": ERROR_SCHEMA}}}
    for code, text in (
        (400, "The request cannot be done as written"),
        (401, "No valid token"),
        (403, "The token's role does not allow this"),
        (404, "There is no such thing"),
        (413, "The body is too long"),
        (422, "A value is not valid"),
        (429, "Too many requests, or too many sweeps in the queue"),
    )
}

logger = logging.getLogger("bnsweep.service")


class NotFoundError(BnsweepError):
    """There is no such sweep, run or query."""


@dataclass(frozen=True)
class Answer:
    """What a page knows. `data` is for programs and templates, `extra` for templates alone."""

    template: str
    data: Mapping[str, Any]
    table: Result | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    name: str = "answer"  # of a downloaded file
    status: int = 200


Function = Callable[..., Answer | Response | Awaitable[Answer | Response]]


def add(
    app: FastAPI,
    path: str,
    function: Function,
    *,
    role: Role,
    forms: Sequence[str] = ("html", "json", "csv"),
    tag: str = "",
) -> None:
    """Route a function that gives an Answer, once per form."""
    for form in sorted(forms, key=lambda each: each == "html"):  # the page last: its path matches every ending
        ending = "" if form == "html" else f".{form}"
        content = {"json": "application/json", **TYPES}.get(form, "text/html").partition(";")[0]
        show(
            app,
            path + ending,
            answering(function, form),
            schema=form != "html",
            dependencies=[Depends(permitted(role))],
            responses={200: {"content": {content: {}}, "description": "The answer"}, **ERRORS},
            name=f"{function.__name__}_{form}",
            tags=[tag or function.__name__],
            openapi_extra={"x-role": role.label},
        )


def show(
    app: FastAPI,
    path: str,
    endpoint: Callable[..., Any],
    *,
    schema: bool,
    methods: Sequence[str] = ("GET", "HEAD"),
    **more: Any,
) -> None:
    """Route what only reads. HEAD is GET to us: the server keeps the body to itself."""
    for method in methods:  # a route each: in the schema one that has both would be one operation under two names
        app.add_api_route(
            path, endpoint, methods=[method], include_in_schema=schema and method == "GET", response_model=None,
            response_class=Response, **more,
        )  # fmt: skip


def permitted(role: Role | None) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets requests of at least this role pass; None: of anybody. Forms must be our own."""

    async def check(request: Request) -> None:
        user: User | None = request.state.user
        if role is not None and user is None:
            raise HTTPException(401, "sign in, or send a token: Authorization: Bearer ...")
        if role is not None and user is not None and user.role < role:
            raise HTTPException(403, f"this takes the role {role.label}, but {user.name} is {user.role.label}")
        if request.method not in ("GET", "HEAD"):
            await _ours(request)

    check.role = role  # type: ignore[attr-defined]  # for the table of routes
    return check


async def _ours(request: Request) -> None:
    """Raise 403 for what another site has made a browser send."""
    if not same_site(request.headers):
        raise HTTPException(403, "this request comes from another site")
    if "authorization" in request.headers:
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":  # another site's page cannot send that without asking first, which we never allow
        return
    if kind not in ("application/x-www-form-urlencoded", "multipart/form-data"):
        raise HTTPException(415, "send a form or application/json")
    proof = (await request.form()).get("proof")
    if not isinstance(proof, str) or not is_form_proof(request.cookies.get(FORM_COOKIE, ""), proof):
        raise HTTPException(403, "this form has grown old; load its page again")


def answering(function: Function, form: str = "html") -> Callable[..., Awaitable[Response]]:
    """A function that may give an Answer, as FastAPI wants it; one that is no coroutine runs in a thread."""

    @functools.wraps(function)
    async def endpoint(*args: Any, **values: Any) -> Response:
        if inspect.iscoroutinefunction(function):
            answer = await function(*args, **values)
        else:
            answer = await run_in_threadpool(function, *args, **values)
        if isinstance(answer, Response):
            return answer
        return await run_in_threadpool(_render, values["request"], answer, form)

    return endpoint


def _render(request: Request, answer: Answer, form: str) -> Response:
    table = answer.table  # one without rows is false, and has its columns all the same
    with showing():
        match form:
            case "html":
                return html(request, answer)
            case "json":
                content = {"ok": True, **json_value(answer.data), **({} if table is None else table.to_plain())}
                return Response(json.dumps(content, allow_nan=False), answer.status, media_type="application/json")
            case "csv":
                body: str | bytes = "" if table is None else table.to_csv()
            case _:
                body = _parquet(table)
    headers = {"content-disposition": f"attachment; filename*=UTF-8''{quote(answer.name)}.{form}"}
    return Response(body, media_type=TYPES[form], headers=headers)


@contextmanager
def showing() -> Iterator[None]:
    """Around what makes Python values of an answer's. Raises QueryError for one that Python has not."""
    try:
        yield
    except (OverflowError, ValueError, pa.ArrowException) as error:  # dates beyond the year 9999 and their like
        raise QueryError(f"a value of the answer cannot be shown: {error}; cast it to VARCHAR") from None


def html(request: Request, answer: Answer) -> Response:
    """An answer as a page; the browser gets the secret that its forms are proved with."""
    secret = request.cookies.get(FORM_COOKIE) or secrets.token_urlsafe(24)
    text = page(request, answer.template, secret, {**answer.data, "table": answer.table, **answer.extra})
    response = HTMLResponse(text, answer.status)
    if FORM_COOKIE not in request.cookies:
        secure = request.url.scheme == "https"
        response.set_cookie(FORM_COOKIE, secret, httponly=True, samesite="lax", secure=secure)
    return response


def _parquet(table: Result | None) -> bytes:
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({}) if table is None else table.to_arrow(), sink)
    return sink.getvalue()


def for_programs(request: Request) -> bool:
    """Whether JSON, CSV or Parquet is asked for, and no page."""
    return request.url.path.endswith(ENDINGS[:3])


def rows_for(request: Request, rows: Rows) -> Callable[..., Any]:
    """Who answers: for programs the newest snapshot, for pages what is at most 20 s old and there at once."""
    return rows.newest if for_programs(request) else rows.ask


def result_of(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Result:
    """Rows as an answer's table."""
    arrays = [pa.array([row.get(column.name) for row in rows]) for column in columns]
    return Result(tuple(columns), pa.table(arrays, names=[column.name for column in columns]))


def install_errors(app: FastAPI, refusals: Refusals) -> None:
    """Every error becomes a page, or the one body."""

    async def known(request: Request, error: Exception) -> Response:
        assert isinstance(error, BnsweepError)
        more = {}
        if isinstance(error, SpecError):
            more = {"problems": [problem.to_dict() for problem in error.problems]}
        if isinstance(error, ForbiddenError):
            await refusals.forbidden(request.state.user, request.scope, str(error))
        response = await _error(request, str(error), status_of(error), **more)
        if isinstance(error, LateError):
            response.headers["retry-after"] = str(AGAIN_S)
        return response

    async def raised(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        wants = wants_page(request)
        if error.status_code == 401 and wants and request.method in ("GET", "HEAD"):
            target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            return RedirectResponse(f"/signin?next={quote(target, safe='')}", 303)
        if error.status_code == 403:
            await refusals.forbidden(request.state.user, request.scope, str(error.detail))
        response = await _error(request, str(error.detail), error.status_code)
        response.headers.update(dict(error.headers or {}))
        if error.status_code == 401:
            response.headers["www-authenticate"] = "Bearer"
        return response

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        texts = [f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        return await _error(request, "; ".join(texts), 422)

    app.add_exception_handler(BnsweepError, known)
    app.add_exception_handler(HTTPException, raised)
    app.add_exception_handler(RequestValidationError, invalid)


async def unexpected(request: Request, error: Exception) -> Response:
    """The answer to what went wrong before a page was asked: a store that is away, or a bug."""
    if isinstance(error, BnsweepError):
        return await _error(request, str(error), status_of(error))
    logger.exception("a request failed", exc_info=error)
    return await _error(request, "something went wrong here; the service's log says what", 500)


async def _error(request: Request, error: str, status: int, **more: Any) -> Response:
    if wants_page(request):
        answer = Answer("error.html", {"error": error, "status": status, **more}, status=status)
        return await run_in_threadpool(html, request, answer)
    return Response(error_body(error, status, **more), status, media_type="application/json")


def wants_page(request: Request) -> bool:
    """Whether a person asks: a browser, and no ending that is for programs."""
    if for_programs(request):
        return False
    return "text/html" in request.headers.get("accept", "")


def status_of(error: BnsweepError) -> int:
    """The HTTP status that says what kind of error it is."""
    match error:
        case NotFoundError():
            return 404
        case ForbiddenError():
            return 403
        case TooManyJobsError() | BusyError():
            return 429
        case SpecError():
            return 422
        case StoreClaimedError():
            return 409
        case InputError() | QueryError() | UnknownNameError():
            return 400
        case StoreError() | EngineError():
            return 503
        case _:
            return 500
