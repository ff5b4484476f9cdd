"""How the SQL console does questions: turns, processes, and who hangs up."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from asking import ENDLESS, ENDLESS_COUNT, ENDLESS_JOIN, always, ask_all, limits

from bnsweep.errors import QueryError
from bnsweep.service.console import BusyError, Console
from bnsweep.service.rows import Snapshot


def test_questions_wait_for_their_turn_and_are_sent_away_when_it_takes_too_long(snapshot):
    settings = limits(sql_at_once=1, sql_waiting_s=0.5, sql_seconds=2)
    found = asyncio.run(ask_all(snapshot, [ENDLESS_COUNT] * 3, settings))
    kinds = sorted(type(said).__name__ for said, _ in found)
    assert kinds == ["BusyError", "BusyError", "QueryError"]
    with pytest.raises(BusyError, match="too many questions"):
        raise next(said for said, _ in found if isinstance(said, BusyError))


def test_with_no_time_to_wait_a_free_turn_is_taken(snapshot):
    settings = limits(sql_at_once=1, sql_waiting_s=0)
    (first, _), (second, _) = asyncio.run(ask_all(snapshot, ["SELECT 1 AS a", "SELECT 2 AS a"], settings))
    assert first.column("a") == [1]
    assert isinstance(second, BusyError)


def test_a_question_is_answered_from_what_is_newest_when_its_turn_comes(snapshot, tmp_path):
    """Of the snapshots a few are kept: the one of the moment when a question began to wait may be deleted."""
    known = [Snapshot(str(tmp_path / "deleted.duckdb"), 0)]

    async def newest():
        return known[-1]

    async def ask():
        console = Console(limits(sql_at_once=1, sql_waiting_s=60))
        try:
            first = asyncio.create_task(console.ask(always(snapshot), ENDLESS_COUNT))
            second = asyncio.create_task(console.ask(newest, "SELECT 1 AS a"))
            await asyncio.sleep(0.2)
            known.append(snapshot)
            with pytest.raises(QueryError, match=ENDLESS):
                await first
            return (await second).column("a")
        finally:
            await console.close()

    assert asyncio.run(ask()) == [1]


def consoles(pid):
    """Processes of questions below a service."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                if parent == str(pid) and b"bnsweep.analysis.console" in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


has_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


@has_proc
def test_questions_at_once_leave_one_process_for_the_next(snapshot):

    async def ask():
        console = Console(limits(sql_at_once=2, sql_seconds=60))
        try:
            await asyncio.gather(*(console.ask(always(snapshot), "SELECT 1 AS a") for _ in range(2)))
            return len(consoles(os.getpid()))
        finally:
            await console.close()

    assert asyncio.run(ask()) == 1
    assert not consoles(os.getpid())


@has_proc
@pytest.mark.parametrize("error", [BlockingIOError(11, "Resource temporarily unavailable"), asyncio.CancelledError()])
def test_a_process_that_cannot_be_started_for_the_next_question_costs_none(snapshot, monkeypatch, caplog, error):
    """Neither this question's process, which is there, nor its answer."""
    start, started = asyncio.create_subprocess_exec, []

    async def second_fails(*command, **options):
        started.append(command)
        if len(started) == 2:
            raise error
        return await start(*command, **options)

    async def ask():
        console = Console(limits(sql_at_once=2, sql_seconds=60))
        try:
            if isinstance(error, asyncio.CancelledError):
                with pytest.raises(asyncio.CancelledError, match="^$"):
                    await console.ask(always(snapshot), "SELECT 2 AS a")
            return await console.ask(always(snapshot), "SELECT 1 AS a")
        finally:
            await console.close()

    monkeypatch.setattr(asyncio, "create_subprocess_exec", second_fails)
    assert asyncio.run(ask()).to_dicts() == [{"a": 1}]
    assert not consoles(os.getpid())
    assert ("Resource temporarily unavailable" in caplog.text) == isinstance(error, OSError)


@has_proc
def test_who_hangs_up_ends_the_question(served, tokens):
    """A browser that is closed in the middle leaves no process behind."""
    import httpx

    with served.client(tokens["viewer"]) as client:
        client.get("/ask.json", params={"sql": "SELECT 1"})
        with pytest.raises(httpx.ReadTimeout, match="timed out"):
            client.get("/ask.json", params={"sql": ENDLESS_JOIN}, timeout=0.3)
        deadline = time.monotonic() + 1.8  # before the time limit of 2 s would have ended it
        while len(consoles(served.process.pid)) > 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(consoles(served.process.pid)) <= 1  # the one that waits for the next question
        assert client.get("/ask.json", params={"sql": "SELECT 1 AS a"}).json()["rows"] == [{"a": 1}]


def test_a_question_s_process_holds_no_secret(served, tokens):
    with served.client(tokens["viewer"]) as client:
        client.get("/ask.json", params={"sql": "SELECT 1"})
    for pid in consoles(served.process.pid):
        assert b"HOME" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert os.environ.get("HOME")
