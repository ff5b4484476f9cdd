from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import threading
import time
from contextlib import suppress
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pyarrow as pa
import pytest
import store_children
import store_rows

from bnsweep.errors import StoreClaimedError, StoreUnwritableError
from bnsweep.store.attempts import set_aside_unowned
from bnsweep.store.log import LogEntry
from bnsweep.store.store import Store
from bnsweep.store.verify import verify


def pretend_elsewhere(location: Path, *, seconds_ago: float) -> None:
    """Make the newest claim one of another machine, whose heartbeat is this old."""
    path = max(location.glob("claims/*.json"))
    holder = json.loads(path.read_text())
    path.write_text(json.dumps({**holder, "host": "far-away", "machine": "far-away boot pid"}))
    beat = path.with_suffix(".beat")
    beat.write_text("alive\n")
    os.utime(beat, (time.time() - seconds_ago,) * 2)


def test_the_second_driver_is_told_who_holds_the_claim_and_since_when(tmp_path: Path) -> None:
    first, second = Store.create(tmp_path), Store.open(tmp_path)
    with first.claim() as claim:
        host, since = re.escape(socket.gethostname()), re.escape(claim.holder.since)
        told = rf"being written to by process {os.getpid()} on {host} .* since {since}"
        with pytest.raises(StoreClaimedError, match=told), second.claim():
            pass
        with pytest.raises(StoreClaimedError, match="take over with"):
            second.commit({"trials": store_rows.trials(10)})
        first.commit({"trials": store_rows.trials(10)})
    second.commit({"trials": store_rows.trials(10, start=10)})
    assert first.refresh().rows("trials") == 20


def test_a_holder_that_was_killed_is_replaced_at_once(tmp_path: Path, processes: ForkServerContext) -> None:
    Store.create(tmp_path)
    ready = processes.Queue()
    holder = processes.Process(target=store_children.hold_claim, args=(str(tmp_path), ready))
    holder.start()
    ready.get(timeout=30)
    with pytest.raises(StoreClaimedError, match=f"process {holder.pid} on"), Store.open(tmp_path).claim():
        pass
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with Store.open(tmp_path).claim() as claim:
        assert claim.epoch == 2
    assert {path.name for path in (tmp_path / "claims").iterdir()} == {"000000002.json", "000000002.beat"}


def test_a_number_that_another_process_has_now_is_no_holder(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with store.claim():
        path = max(tmp_path.glob("claims/*.json"))
        holder = json.loads(path.read_text())
        path.write_text(json.dumps({**holder, "pid": 1, "started": "long ago"}))
        with Store.open(tmp_path).claim() as claim:
            assert claim.epoch == 2
        with pytest.raises(StoreClaimedError, match="was taken over by"):
            store.commit({"trials": store_rows.trials(10)})


@pytest.mark.parametrize(("seconds_ago", "taken"), [(5, False), (120, True)])
def test_a_holder_elsewhere_is_dead_without_a_heartbeat(tmp_path: Path, seconds_ago: float, taken: bool) -> None:
    with Store.create(tmp_path).claim():
        pretend_elsewhere(tmp_path, seconds_ago=seconds_ago)
        if taken:
            with Store.open(tmp_path).claim() as claim:
                assert claim.epoch == 2
        else:
            with pytest.raises(StoreClaimedError, match="on far-away"), Store.open(tmp_path).claim():
                pass
            with Store.open(tmp_path).claim(take_over=True) as claim:
                assert claim.epoch == 2


def test_the_heartbeat_goes_on(tmp_path: Path) -> None:
    with Store.create(tmp_path).claim(heartbeat_s=0.05):
        beat = tmp_path / "claims/000000001.beat"
        os.utime(beat, (0, 0))
        until = time.time() + 20
        while beat.stat().st_mtime == 0 and time.time() < until:
            time.sleep(0.02)
        assert beat.stat().st_mtime > time.time() - 10
    assert beat.read_text() == "released\n"
    assert not any(thread.name == "bnsweep-claim" for thread in threading.enumerate())


@pytest.mark.parametrize("dead_holder", [False, True])
def test_of_several_who_claim_at_once_one_wins(tmp_path: Path, processes: ForkServerContext, dead_holder: bool) -> None:
    with Store.create(tmp_path).claim():
        if dead_holder:
            pretend_elsewhere(tmp_path, seconds_ago=1000)
    if dead_holder:  # what the release wrote
        pretend_elsewhere(tmp_path, seconds_ago=1000)
    for _ in range(3):
        answers = processes.Queue()
        start_at = time.time() + 1.0
        takers = [
            processes.Process(target=store_children.try_claim, args=(str(tmp_path), start_at, answers))
            for _ in range(4)
        ]
        for taker in takers:
            taker.start()
        told = [answers.get(timeout=60) for _ in takers]
        for taker in takers:
            taker.join()
        assert sorted(answer for answer, _ in told) == ["lost"] * 3 + ["won"], told


def test_a_writer_that_lost_its_claim_cannot_publish(tmp_path: Path) -> None:
    """Even if it checked its claim before it was suspended: the new holder's fence has its log number."""
    stalled, heir = Store.create(tmp_path), Store.open(tmp_path)
    with stalled.claim() as claim:
        rows = store_rows.trials(10)
        claim.check()
        with heir.claim(take_over=True):
            with pytest.raises(StoreClaimedError, match="was taken over by"):
                stalled.log.publish(lambda state: stalled._fenced(state, LogEntry("commit")))
            heir.commit({"trials": rows})
            with pytest.raises(StoreClaimedError, match="no longer writes to it"):
                stalled.commit({"trials": store_rows.trials(10, start=10)})
        with pytest.raises(StoreClaimedError, match="no longer writes to it"):
            stalled.commit({"trials": store_rows.trials(10, start=10)})
    assert Store.open(tmp_path).rows("trials") == 10


def test_the_fence_is_in_the_log_before_the_claim_is_used(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    with store.claim() as claim:
        assert store.state.epoch == claim.epoch == 1
        with store.claim() as joined:
            assert joined is claim
    with store.claim() as claim:
        assert store.state.epoch == claim.epoch == 2


@pytest.mark.parametrize("late", ["part", "answer"])
def test_what_is_written_late_overwrites_nothing(tmp_path: Path, late: str) -> None:
    """A driver stands still in the middle of a write, another takes over and does the same work; then it goes on."""
    slow, heir = Store.create(tmp_path), Store.open(tmp_path, writable=True)

    def done_by(worker: str) -> pa.Table:
        rows = store_rows.trials(20)
        return rows.set_column(rows.column_names.index("worker"), "worker", pa.repeat(worker, 20))

    stalled, go_on, write = threading.Event(), threading.Event(), slow.files.write

    def late_write(name: str, data: bytes | memoryview) -> None:
        if late == "answer":
            write(name, data)
        if name.startswith("parts/"):
            stalled.set()
            go_on.wait(60)
        write(name, data)

    slow.files.write = late_write  # type: ignore[method-assign]
    told: list[BaseException] = []

    def work() -> None:
        with slow.claim():
            try:
                slow.commit({"trials": done_by("slow")})
            except StoreClaimedError as error:
                told.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert stalled.wait(60)
    with heir.claim(take_over=True):
        heir.commit({"trials": done_by("heir")})
        go_on.set()
        thread.join()
    assert "was taken over by" in str(told[0])
    store = Store.open(tmp_path)
    assert verify(store).ok
    assert set(store.read("trials")["worker"].to_pylist()) == {"heir"}


def test_a_writer_that_lost_its_claim_sets_nothing_aside(tmp_path: Path) -> None:
    """Not even if it looks at the log again, and so has a number that nobody took."""
    stalled, heir = Store.create(tmp_path), Store.open(tmp_path)
    with stalled.claim():
        with heir.claim(take_over=True):
            heir.commit({"trials": store_rows.trials(10)})  # of a run without a row, as yet
            (run_id,) = set(heir.read("trials")["run_id"].to_pylist())
            with pytest.raises(StoreClaimedError, match="was taken over by"):
                set_aside_unowned(stalled.refresh(), {run_id})
        assert Store.open(tmp_path).rows("trials") == 10


def test_a_commit_whose_answer_was_lost_is_repeated_without_harm(tmp_path: Path) -> None:
    """The log's entry was written, and the driver told that it was not: it commits the rows again, a second later."""
    store = Store.create(tmp_path)
    with store.claim():
        publish = store.log.publish

        def lossy(make: object) -> None:
            publish(make)  # type: ignore[arg-type]
            store.log.publish = publish  # type: ignore[method-assign]
            raise StoreUnwritableError("the answer was lost")

        store.log.publish = lossy  # type: ignore[method-assign, assignment]
        for _ in range(2):
            with suppress(StoreUnwritableError):
                store.commit({"trials": store_rows.trials(20)})  # committed_at is now
    assert verify(Store.open(tmp_path)).ok
    assert Store.open(tmp_path).read("trials").num_rows == 20


def test_a_store_whose_claims_were_lost_can_be_written_to(tmp_path: Path) -> None:
    """Deleted, as the message on a damaged claim advises, or not copied with the rest."""
    for batch in range(3):
        Store.open_or_create(tmp_path).commit({"trials": store_rows.trials(10, start=10 * batch)})
    shutil.rmtree(tmp_path / "claims")
    store = Store.open(tmp_path, writable=True)
    store.commit({"trials": store_rows.trials(10, start=30)})
    assert store.read("trials").num_rows == 40


@pytest.mark.parametrize(("seconds_ago", "at_work"), [(60, True), (3000, False)])
def test_who_looks_is_told_of_nobody_who_was_not_heard_of_for_long(
    tmp_path: Path, seconds_ago: float, at_work: bool
) -> None:
    with Store.create(tmp_path).claim():
        pretend_elsewhere(tmp_path, seconds_ago=seconds_ago)
        assert (Store.open(tmp_path).holder() is not None) == at_work
