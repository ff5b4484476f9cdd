"""Questions to a console of the service's, in this process."""

import asyncio
import time

from bnsweep.errors import QueryError
from bnsweep.service.console import Console
from bnsweep.service.settings import Settings

ENDLESS = "time limit|memory limit|took too much"  # what is said of these:
ENDLESS_COUNT = "SELECT sum(i * i % 7) FROM range(1000000000000) t(i)"
ENDLESS_JOIN = "SELECT count(*) FROM trials a, trials b, trials c, trials d WHERE a.accuracy > b.eta"


def limits(**given):
    return Settings({"sql_seconds": 1, "sql_rows": 1000, "sql_bytes": 2_000_000, "sql_memory_mb": 128, **given}.items())


def always(snapshot):
    """What a console asks for the newest snapshot."""

    async def newest():
        return snapshot

    return newest


async def ask_all(snapshot, questions, settings):
    console = Console(settings)

    async def one(sql):
        begin = time.monotonic()
        try:
            return await console.ask(always(snapshot), sql), time.monotonic() - begin
        except QueryError as error:
            return error, time.monotonic() - begin

    try:
        return await asyncio.gather(*(one(sql) for sql in questions))
    finally:
        await console.close()
