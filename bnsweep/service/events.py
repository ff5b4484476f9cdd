"""Live progress of a sweep as server-sent events.

event: progress   data: the sweep's row of /sweeps.json, and its job's progress
event: rows       data: {"seq": N}: the store has new rows; parts of a page may be fetched again
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from bnsweep.service.hub import Hub

__all__ = ["Events"]

TICK_S = 2.0
SILENCE_S = 15.0  # after which a comment is sent, so that nobody in between closes the connection


class Events:
    """Streams; all watchers of the service share one look at the store per tick."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._watchers = 0
        self._seen: dict[str, Any] = {}
        self._seen_at = float("-inf")
        self._looking = asyncio.Lock()

    async def sweep(self, request: Request, sweep: str) -> StreamingResponse:
        """Progress of a sweep until the reader leaves."""
        if self._watchers >= self._hub.settings.count("watchers"):
            raise HTTPException(429, "too many live views are open; the page still loads without")
        if sweep not in await self._rows():
            raise HTTPException(404, f"there is no sweep {sweep!r} in this store")
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(self._stream(request, sweep), media_type="text/event-stream", headers=headers)

    async def _stream(self, request: Request, sweep: str) -> AsyncIterator[str]:
        self._watchers += 1
        try:
            said, seq, spoke = "", -1, monotonic()
            while not await request.is_disconnected():
                row = (await self._rows()).get(sweep)
                text = json.dumps(row, default=str)
                if text != said:
                    said, spoke = text, monotonic()
                    yield f"event: progress\ndata: {text}\n\n"
                newest = self._hub.rows.snapshot.seq
                if newest != seq:
                    if seq >= 0:
                        yield f'event: rows\ndata: {{"seq": {newest}}}\n\n'
                    seq, spoke = newest, monotonic()
                if monotonic() - spoke > SILENCE_S:
                    spoke = monotonic()
                    yield ": still here\n\n"
                await asyncio.sleep(TICK_S)
        finally:
            self._watchers -= 1

    async def _rows(self) -> dict[str, Any]:
        async with self._looking:
            if monotonic() - self._seen_at > 0.9 * TICK_S:
                self._seen = await run_in_threadpool(self._look)
                self._seen_at = monotonic()
            return self._seen

    def _look(self) -> dict[str, Any]:
        seen = self._hub.overview.look()
        progress = {job.sweep: job.progress for job in seen.jobs if job.active}
        return {name: {**row, "progress": progress.get(name, {})} for name, row in seen.sweeps.items()}
