"""What every request passes: who asks, how often, how much; and the headers that every answer carries."""

from __future__ import annotations

import ipaddress
import json
import logging
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bnsweep.service.audit import Audit
from bnsweep.service.auth import ANYONE, Tokens, User
from bnsweep.service.settings import Settings

__all__ = [
    "COOKIE",
    "FORM_COOKIE",
    "TOO_MANY_WRONG",
    "Buckets",
    "Guard",
    "Refusals",
    "address",
    "error_body",
    "is_loopback",
    "same_site",
]

COOKIE, FORM_COOKIE = "bnsweep_token", "bnsweep_form"
KEPT_BUCKETS = 10_000
LOOKERS = 4  # threads that look tokens up: not those that answer, or nobody could sign in behind forty slow queries
NOTED_PER_MINUTE = 30  # refusals of one user in the audit log
TOO_MANY_WRONG = "too many wrong tokens; wait a minute"
TOO_LONG = "a request's body has at most {:,} bytes"
PROXIES = {"forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # `no-referrer` would blank the Origin of our own forms, which is checked
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "private, no-cache",
}

logger = logging.getLogger("bnsweep.service")
Failed = Callable[[Request, Exception], Awaitable[Response]]  # the answer to what nobody expected


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class Buckets:
    """Rates by key: each key has `most` at once, refilled by `per_s`."""

    def __init__(self, *, per_s: float, most: float) -> None:
        self._per_s, self._most = per_s, most
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str) -> float:
        """Use one up: 0, or after how many seconds there will be one."""
        with self._lock:
            now = monotonic()
            bucket = self._buckets.setdefault(key, _Bucket(self._most, now))
            self._buckets.move_to_end(key)
            while len(self._buckets) > KEPT_BUCKETS:
                self._buckets.popitem(last=False)
            bucket.left = min(self._most, bucket.left + (now - bucket.at) * self._per_s)
            bucket.at = now
            if bucket.left < 1:
                return (1 - bucket.left) / self._per_s
            bucket.left -= 1
            return 0.0


class Refusals:
    """Who was turned away: written down, and slowed down."""

    def __init__(self, audit: Audit, settings: Settings) -> None:
        per_minute = settings["sign_ins_per_minute"]
        self._audit = audit
        self._wrong = Buckets(per_s=per_minute / 60, most=per_minute)
        self._noted = Buckets(per_s=NOTED_PER_MINUTE / 60, most=NOTED_PER_MINUTE)

    async def wrong_token(self, where: str) -> bool:
        """A token that is nobody's came from an address: whether there were too many from there."""
        if self._wrong.take(where):
            return True
        await run_in_threadpool(self._audit.add, "?", "refused", why="wrong token", address=where)
        return False

    async def forbidden(self, user: User | None, scope: Scope, why: str) -> None:
        """A user asked for what is not theirs. Of many refusals in a minute, the first are written down."""
        who = user.name if user else "?"
        if not self._noted.take(who):
            path, where = f"{scope['method']} {_printable(scope['path'])}", address(scope)
            await run_in_threadpool(self._audit.add, who, "refused", why=why, path=path, address=where)


class Guard:
    """ASGI middleware: sets `scope["state"]["user"]` to a User or None."""

    def __init__(
        self, app: ASGIApp, *, tokens: Tokens, settings: Settings, refusals: Refusals, failed: Failed, loopback: bool
    ) -> None:
        self._app, self._tokens, self._settings, self._loopback = app, tokens, settings, loopback
        self._refusals, self._failed = refusals, failed
        self._rates = Buckets(per_s=settings["requests_per_s"], most=settings["requests_at_once"])
        self._lookers = CapacityLimiter(LOOKERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        user: User | None = None
        scope.setdefault("state", {})["user"] = None
        begin, status, started = perf_counter(), 500, False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            user, shown = await to_thread.run_sync(self._user, scope, limiter=self._lookers)  # the store may be slow
            scope["state"]["user"] = user
            wait_s = self._rates.take(user.key if user and user.key else address(scope))
            if shown and user is None and await self._refusals.wrong_token(address(scope)):
                await _refuse(send_with_headers, 429, TOO_MANY_WRONG, 60.0)
            elif wait_s and scope["path"] != "/healthz":
                await _refuse(send_with_headers, 429, f"too many requests; try again in {wait_s:.0f} s", wait_s)
            elif (length := self._too_long(scope)) is not None:
                await _refuse(send_with_headers, 413, TOO_LONG.format(length))
            else:
                await self._app(scope, self._counted(receive, lambda: started), send_with_headers)
        except Exception as error:
            if started:
                raise
            response = await self._failed(Request(scope), error)
            await response(scope, receive, send_with_headers)
        finally:
            logger.info(  # no query string, no header: neither SQL nor tokens get into the log
                "%s %s %s %s %.0f ms",
                user.name if user else "-", scope["method"], _printable(scope["path"]), status,
                1000 * (perf_counter() - begin),
            )  # fmt: skip

    def _user(self, scope: Scope) -> tuple[User | None, bool]:
        """Who asks, and whether the request's header shows a token, right or wrong."""
        connection = HTTPConnection(scope)
        kind, _, given = connection.headers.get("authorization", "").partition(" ")
        if kind:
            return self._tokens.user(given.strip()) if kind.lower() == "bearer" else None, True
        # A cookie may be of a token that was revoked since: its browser is led to the door, not turned away.
        return self._browser(scope, connection), False

    def _browser(self, scope: Scope, connection: HTTPConnection) -> User | None:
        if (token := connection.cookies.get(COOKIE)) and (user := self._tokens.user(token)):
            return user
        # Nobody ever made a token: whoever reaches this machine's loopback is its user. The name they ask by must be
        # the loopback's too, or a stranger's page could have its own name point here.
        # What came through a proxy came from anywhere.
        if PROXIES & set(connection.headers) or not is_loopback(address(scope)):
            return None
        host = urlsplit(f"//{connection.headers.get('host', '')}").hostname or ""
        return ANYONE if self._loopback and is_loopback(host) and not self._tokens.list() else None

    def _too_long(self, scope: Scope) -> int | None:
        most = self._settings.count("body_bytes")
        given = Headers(scope=scope).get("content-length", "0")
        return most if not given.isdigit() or int(given) > most else None

    def _counted(self, receive: Receive, started: Callable[[], bool]) -> Receive:
        """The body, refused where it says less than it holds, or nothing. After an answer's start, cut off there."""
        left = most = self._settings.count("body_bytes")

        async def counted() -> Message:
            nonlocal left
            message: MutableMapping[str, Any] = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0 and not started():
                    raise HTTPException(413, TOO_LONG.format(most))
                if left < 0:
                    return {"type": "http.disconnect"}
            return message

        return counted


async def _refuse(send: Send, status: int, error: str, wait_s: float = 0.0) -> None:
    headers = [(b"content-type", b"application/json")]
    if wait_s:
        headers.append((b"retry-after", str(int(wait_s) + 1).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": error_body(error, status)})


def error_body(error: str, status: int, **more: Any) -> bytes:
    """The one form of an error."""
    return json.dumps({"ok": False, "error": error, "status": status, **more}).encode()


def address(scope: Scope) -> str:
    """Where a request comes from."""
    client = scope.get("client")
    return client[0] if client else "?"


def is_loopback(host: str) -> bool:
    """Whether a host name means this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def same_site(headers: Headers) -> bool:
    """Whether a browser says that a request comes from our own page; others than browsers say nothing."""
    origin = headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc == headers.get("host", "")
    return headers.get("sec-fetch-site", "none") in ("same-origin", "none")


def _printable(path: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in path)[:200]
