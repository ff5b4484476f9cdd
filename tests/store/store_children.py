"""What the processes do that the store's tests start, kill and race."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

import store_rows

from bnsweep.errors import StoreClaimedError, StoreError
from bnsweep.store.compact import compact
from bnsweep.store.location import open_files
from bnsweep.store.log import Log, LogEntry
from bnsweep.store.store import Store

TOUCHING = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.listdir", "os.scandir"}


def die_at(step: int, location: str) -> None:
    """SIGKILL this process when it is about to touch the store's files for the `step`-th time."""
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in TOUCHING and location in str(arguments[0]):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def work(location: str, batches: int, *, rows: int = 40) -> None:
    """A driver: commit the batches that are missing, two tables at a time, with a compaction half-way."""
    store = Store.open_or_create(location)
    with store.claim():
        for batch in range(batches):
            done = store_rows.key_set(store, "trials")
            wanted = store_rows.trials(rows, start=batch * rows)
            names = zip(wanted["point_id"].to_pylist(), wanted["trial"].to_pylist(), strict=True)
            if not set(names) <= done:
                run = store_rows.runs(1, start=batch)
                store.commit({"trials": wanted, "runs": run})
                store.slot(f"run-{batch}").write(b"state" * 1000)
            if batch == batches // 2:
                compact(store, grace_s=0)


def work_and_die(location: str, batches: int, step: int) -> None:
    die_at(step, location)
    work(location, batches)


def append(location: str, name: str, count: int) -> None:
    """Publish entries as fast as possible, beside others who do the same."""
    log = Log(open_files(location))
    for _ in range(count):
        log.publish(lambda _: LogEntry("commit", by=name))


def try_claim(location: str, start_at: float, answers: Any) -> None:
    """Claim at a set moment, hold for a while, and say whether it worked."""
    store = Store.open(location)
    while time.time() < start_at:
        pass
    try:
        with store.claim() as claim:
            time.sleep(0.5)
            answers.put(("won", claim.epoch))
    except StoreClaimedError as error:
        answers.put(("lost", str(error)))


def hold_claim(location: str, ready: Any) -> None:
    """Claim and never let go."""
    with Store.open(location).claim():
        ready.put(os.getpid())
        time.sleep(600)


def read_on(location: str, seconds: float, answers: Any) -> None:
    """A reader that refreshes and counts, and says every number of rows it saw."""
    store, counts, until = Store.open(location), [], time.time() + seconds
    while time.time() < until:
        store.refresh()
        table = store.read("trials", columns=["point_id", "trial"])
        keys = set(zip(table["point_id"].to_pylist(), table["trial"].to_pylist(), strict=True))
        counts.append((table.num_rows, len(keys)))
    answers.put(counts)


def fill(location: str, answers: Any) -> None:
    """Commit until that is refused; then say why and how many rows were accepted."""
    store, accepted = Store.open_or_create(location), 0
    try:
        for batch in range(10_000):
            store.commit({"trials": store_rows.trials(2_000, start=batch * 2_000)})
            accepted += 2_000
    except StoreError as error:
        answers.put((type(error).__name__, str(error), accepted))
