"""What everybody may see: is it alive, what can it do, style and scripts, and the door."""

from __future__ import annotations

import gzip
import hashlib
from typing import Annotated

from fastapi import FastAPI, Form, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response

from bnsweep._version import __version__
from bnsweep.service.answers import Answer, NotFoundError
from bnsweep.service.guard import COOKIE, TOO_MANY_WRONG, Refusals, address
from bnsweep.service.hub import Hub
from bnsweep.service.look import static_file

__all__ = ["Public"]

COOKIE_S = 30 * 24 * 3600
MEDIA = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}

LONGEST_ADDRESS = 65_536  # characters: what the server takes of a request's first lines
Next = Annotated[str, Query(max_length=LONGEST_ADDRESS, description="where to go then")]


class Public:
    """Routes without a role."""

    def __init__(self, app: FastAPI, hub: Hub, refusals: Refusals) -> None:
        self._app, self._hub, self._refusals = app, hub, refusals
        self._bodies: dict[str, bytes] = {}

    async def healthz(self, request: Request) -> JSONResponse:
        """Whether the service lives, and reads its store; at once, however busy it is."""
        trouble = self._hub.rows.trouble
        return JSONResponse({"ok": not trouble, "version": __version__, "store": "unreadable" if trouble else "read"})

    def openapi(self, request: Request) -> JSONResponse:
        """What programs can ask for."""
        return JSONResponse(self._app.openapi())

    def static(self, request: Request, name: str) -> Response:
        """Style, scripts, icon; Vega as vl-convert carries it."""
        body = self._vega() if name == "vega.js" else static_file(name)
        if body is None:
            raise NotFoundError(f"there is no file {name!r}")
        headers = {"etag": f'"{hashlib.sha256(body).hexdigest()[:16]}"', "cache-control": "public, max-age=3600"}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            body = self._zipped(headers["etag"], body)
            headers |= {"content-encoding": "gzip", "vary": "accept-encoding"}
        return Response(body, media_type=MEDIA[name.rpartition(".")[2]], headers=headers)

    def sign_in_page(self, request: Request, next: Next = "/sweeps") -> Answer:  # noqa: A002
        """Where a token is entered."""
        return Answer("signin.html", {}, None, {"next": next, "error": ""})

    async def sign_in(
        self,
        request: Request,
        token: Annotated[str, Form(max_length=200)] = "",
        next: Annotated[str, Form(max_length=LONGEST_ADDRESS)] = "/sweeps",  # noqa: A002
    ) -> Response | Answer:
        """Exchange a token for a cookie that holds it."""
        user, where = await run_in_threadpool(self._hub.tokens.user, token.strip()), address(request.scope)
        if user is None:
            if await self._refusals.wrong_token(where):
                raise HTTPException(429, TOO_MANY_WRONG)
            return Answer("signin.html", {}, None, {"next": next, "error": "That is no valid token."}, status=401)
        await run_in_threadpool(self._hub.audit.add, user.name, "sign in", address=where)
        response = RedirectResponse(_local(next), 303)
        secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, token.strip(), COOKIE_S, httponly=True, samesite="lax", secure=secure)
        return response

    def sign_out(self, request: Request) -> Response:
        """Forget the cookie."""
        response = RedirectResponse("/signin", 303)
        response.delete_cookie(COOKIE)
        return response

    def _vega(self) -> bytes:
        if "vega" not in self._bodies:
            self._bodies["vega"] = self._hub.rows.script().encode()
        return self._bodies["vega"]

    def _zipped(self, key: str, body: bytes) -> bytes:
        if key not in self._bodies:
            self._bodies[key] = gzip.compress(body, 6)
        return self._bodies[key]


def _local(target: str) -> str:
    """An address of this site, whatever a link asked for."""
    plain = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if plain else "/sweeps"
