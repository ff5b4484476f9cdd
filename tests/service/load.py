"""How long a page takes while many people read and a sweep writes.

    python -m tests.service.load --clients 100 --seconds 30
    python -m tests.service.load --cold 5

The first starts a service on loopback over a new store, submits a sweep that writes all the time, and lets every
client, with a token of its own, read pages like a person: one page, some seconds of thought, the next. The second times
the first look at each page after a start of the service, over and over.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent / "analysis"))
sys.path.insert(0, str(Path(__file__).parent))
import served as helpers
import synthetic

from bnsweep.service.auth import Role, Tokens
from bnsweep.service.client import Client
from bnsweep.service.records import Records
from bnsweep.store.store import Store

SPEC = helpers.TINY.replace("trials: 4", "trials: 200000").replace("name: tiny", "name: load")
PAGES = (
    "/sweeps", "/sweeps/load", "/sweeps/load/figures", "/compare", "/ask/accuracy", "/sweeps.json", "/sweeps/load.json",
    "/ask",
)  # fmt: skip


@dataclass
class Tally:
    """What the clients saw."""

    pages: dict[str, list[float]] = field(default_factory=dict)  # the seconds until each answer, by page
    errors: list[str] = field(default_factory=list)
    bytes: int = 0
    rows: int = 0  # that the sweep wrote meanwhile

    @property
    def seconds(self) -> list[float]:
        return [each for page in self.pages.values() for each in page]

    def pct(self, share: float) -> float:
        """A percentile of the seconds per page, in ms."""
        return 1000 * _quantile(self.seconds, share)

    def by_page(self) -> str:
        """The slowest tenth of each page's answers begins here."""
        found = {page: 1000 * _quantile(seconds, 0.9) for page, seconds in self.pages.items()}
        return "p90 " + ", ".join(f"{page} {ms:.0f} ms" for page, ms in sorted(found.items(), key=lambda it: -it[1]))

    def line(self, clients: int) -> str:
        return (
            f"{clients} clients, {len(self.seconds)} pages, {len(self.errors)} errors, {self.bytes / 1e6:.0f} MB; "
            f"p50 {self.pct(0.5):.0f} ms, p95 {self.pct(0.95):.0f} ms, p99 {self.pct(0.99):.0f} ms, "
            f"most {self.pct(1):.0f} ms; the sweep wrote {self.rows} rows meanwhile"
        )


def _quantile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[min(len(seconds) - 1, int(share * len(seconds)))]


async def read(address: str, token: str, pages: list[str], tally: Tally, until: float, *, thought_s: float) -> None:
    """One person over one connection. A few lines: httpx would take more of the processor than the pages."""
    where = urlsplit(address)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    rng = random.Random(token)
    await asyncio.sleep(rng.random() * thought_s)
    while time.monotonic() < until:
        page, begin = rng.choice(pages), time.monotonic()
        head = (
            f"GET {page} HTTP/1.1\r\nHost: {where.netloc}\r\nAuthorization: Bearer {token}\r\nAccept: text/html\r\n\r\n"
        )
        writer.write(head.encode())
        status, *headers = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        size = next(int(line.split(":")[1]) for line in headers if line.lower().startswith("content-length"))
        await reader.readexactly(size)
        tally.pages.setdefault(page, []).append(time.monotonic() - begin)
        tally.bytes += size
        if " 200 " not in status:
            tally.errors.append(f"{page}: {status}")
        await asyncio.sleep(rng.uniform(0.5, 1.5) * thought_s)
    writer.close()


async def crowd(
    address: str, tokens: list[str], pages: list[str], tally: Tally, *, seconds: float, thought_s: float
) -> None:
    until = time.monotonic() + seconds
    people = [read(address, token, pages, tally, until, thought_s=thought_s) for token in tokens]
    for outcome in await asyncio.gather(*people, return_exceptions=True):
        if outcome is not None:
            tally.errors.append(repr(outcome))


def measure(folder: Path, *, clients: int, seconds: float, thought_s: float, rounds: int = 1) -> list[Tally]:
    """One tally per round."""
    store = folder / "store"
    known = Tokens(Records(Store.open_or_create(store).files))
    tokens = [known.create(f"reader-{number}", Role.VIEWER) for number in range(clients)]
    owner = known.create("owner", Role.RUNNER)
    with helpers.service(store) as running, ExitStack() as stack:
        client = stack.enter_context(Client(running.address, token=owner))
        client.submit(SPEC)
        stack.callback(client.wait, "load", timeout_s=90)  # it would outlive the service
        stack.callback(client.cancel, "load")
        helpers.wait_until(lambda: client.sweep("load")["summary"]["trials"])
        run = client.sweep("load")["rows"][0]["run_id"]
        pages = [*PAGES, f"/runs/{run}"]
        for page in pages:  # what a service that has been up for a while has in its cache
            client.text(page)
        tallies = []
        for _ in range(rounds):
            tally, before = Tally(), Store.open(store).rows("trials")
            asyncio.run(crowd(running.address, tokens, pages, tally, seconds=seconds, thought_s=thought_s))
            tally.rows = Store.open(store).rows("trials") - before
            tallies.append(tally)
            if not tally.errors and tally.pct(0.95) < 500:
                break
    return tallies


def cold(folder: Path, times: int) -> dict[str, list[float]]:
    """Seconds until each page is there when nobody has looked at it before, once per start of a service."""
    store = Store.create(folder / "store")
    store.commit(synthetic.tables(trials=4))
    token = Tokens(Records(store.files)).create("reader", Role.VIEWER)
    run = synthetic.tables(trials=4)["runs"]["run_id"][0].as_py()
    pages = ("/sweeps", "/sweeps/synthetic", "/sweeps/synthetic/figures", f"/runs/{run}", "/compare", "/ask/accuracy")
    found: dict[str, list[float]] = {page: [] for page in pages}
    for _ in range(times):
        with helpers.service(folder / "store") as running, running.client(token) as client:
            for page in pages:
                begin = time.monotonic()
                client.get(page, headers={"accept": "text/html"}).raise_for_status()
                found[page].append(time.monotonic() - begin)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--thought", type=float, default=2.0, help="mean seconds between two pages of one client")
    parser.add_argument("--cold", type=int, default=0, help="starts of a service, instead of clients")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for page, seconds in cold(Path(folder), given.cold).items() if given.cold else ():
            print(
                f"{page}: median {sorted(seconds)[len(seconds) // 2]:.2f} s, {min(seconds):.2f} to {max(seconds):.2f} s"
            )
        if given.cold:
            return
        for tally in measure(Path(folder), clients=given.clients, seconds=given.seconds, thought_s=given.thought):
            print(tally.line(given.clients))
            print(tally.by_page())
            print(json.dumps(sorted(set(tally.errors))[:10]))


if __name__ == "__main__":
    main()
