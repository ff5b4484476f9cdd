"""Who waits for an answer over a store that grows, and who does not."""

import multiprocessing
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path
from time import sleep
from types import SimpleNamespace

import pyarrow as pa
import pytest
from served import wait_until

from bnsweep.analysis.result import Result
from bnsweep.errors import UnknownNameError
from bnsweep.service.jobs import Jobs
from bnsweep.service.overview import Overview
from bnsweep.service.records import Records
from bnsweep.service.rows import LateError, Rows, _pool
from bnsweep.store.store import Store

sys.path.insert(0, str(Path(__file__).parent.parent / "analysis"))
import synthetic

SWEEPS = ("ask", "sweeps")
LIMITS = {"limit": 100, "seconds": 30.0}


@pytest.fixture
def store(tmp_path):
    store = Store.create(tmp_path / "store")
    store.commit(synthetic.tables(trials=4))
    return store


@pytest.fixture
def rows(store, monkeypatch):
    """Rows over the store, which note what they ask of their processes, and hold back what `held` says."""
    # The machine may be busy with something else for a while, which is no fault of the rows'.
    for name, value in (("READY_S", 600), ("AGAIN_S", 600), ("BUILD_SHARE", 0)):
        monkeypatch.setattr(f"bnsweep.service.rows.{name}", value)
    with closing(Rows(store.location)) as rows:
        rows.asked, rows.held, submit = [], {}, rows._submit

        def noted(function, *arguments, **options):
            rows.asked.append((function, *arguments))
            return rows.held.get(function) or submit(function, *arguments, **options)

        monkeypatch.setattr(rows, "_submit", noted)
        rows.start()
        yield rows


def extend(store, rows, name):
    """One more sweep in the store; returns when a snapshot that holds it has taken over."""
    before = rows.snapshot.seq
    store.commit(synthetic.tables(sweep=name, models=("resnet8",), trials=5, failures=False))
    wait_until(lambda: rows.snapshot.seq > before, every_s=0.01)


def names(rows):
    return {row["sweep"] for row in rows.newest(*SWEEPS, **LIMITS).to_dicts()}


def test_what_programs_ask_of_every_snapshot_is_answered_before_the_next_takes_over(store, rows):
    assert names(rows) == {"synthetic"}
    extend(store, rows, "second")
    assert ("ask", rows.snapshot.path, "sweeps") not in rows.asked  # asked once so far
    assert names(rows) == {"synthetic", "second"}
    rows.newest("sweep_facts", "second")  # once
    rows.ask("sweep_facts", "synthetic")  # by a page: computed when a page asks again
    with pytest.raises(UnknownNameError):
        rows.newest("one_run", "0" * 16)
    extend(store, rows, "third")
    beforehand = list(rows.asked)
    assert [each for each in beforehand if each[1:2] == (rows.snapshot.path,)] == [
        ("ask", rows.snapshot.path, "sweeps")
    ]
    assert names(rows) == {"synthetic", "second", "third"}
    assert rows.asked == beforehand, "the answer was not there when the snapshot took over"


def test_no_answer_is_of_a_snapshot_that_has_not_taken_over(store, rows, monkeypatch):
    for name in ("second", "third"):
        assert names(rows)
        rows.newest("sweep_facts", "synthetic")
        extend(store, rows, name)
    assert names(rows) == {"synthetic", "second", "third"}
    rows.newest("sweep_facts", "synthetic")
    rows.held["sweep_facts"] = slow = Future()
    store.commit(synthetic.tables(sweep="fourth", models=("resnet8",), trials=5, failures=False))
    seq = rows.snapshot.seq
    try:
        following = wait_until(
            lambda: next((f for f in list(rows._under_way) if f[1] > seq and f[0][0] == "ask"), None)
        )
        wait_until(rows._under_way[following].done, every_s=0.01)
        assert rows.snapshot.seq == seq
        assert names(rows) == {"synthetic", "second", "third"}, "told of rows that other answers do not know of yet"
    finally:
        del rows.held["sweep_facts"]
        slow.set_exception(UnknownNameError("sweep", "synthetic", []))
    wait_until(lambda: rows.snapshot.seq > seq)
    assert names(rows) == {"synthetic", "second", "third", "fourth"}
    assert rows.newest("sweep_facts", "synthetic")  # what failed beforehand is asked again
    assert not rows._under_way
    monkeypatch.setattr("bnsweep.service.rows.KEPT", 2)
    for query in ("accuracy", "coverage", "accuracy", "sweeps"):
        rows.newest("ask", query, **LIMITS)
    assert [key[1] for key in rows._programs] == [("accuracy",), ("sweeps",)]


def test_what_killed_processes_leave_of_snapshots_is_deleted(store, rows):
    assert rows.snapshot
    left = [rows._folder / f".snapshot-1.duckdb.tmp{ending}" for ending in ("", ".wal")]
    for path in left:
        path.write_bytes(b"half")
    extend(store, rows, "second")
    assert not any(path.exists() for path in left)


def test_a_pool_that_broke_is_replaced_once(store, monkeypatch):
    """By whichever of two threads is first; nobody would end the processes of the other's."""
    both = threading.Barrier(2)

    class Broken:
        _processes = None

        def submit(self, *_, **__):
            both.wait(30)
            raise BrokenProcessPool("a worker was killed")

        def shutdown(self, **_):
            pass

    made = []
    with closing(Rows(store.location)) as rows:
        rows._thread.start()
        rows._pools[False].shutdown()
        rows._pools[False] = Broken()
        monkeypatch.setattr("bnsweep.service.rows._pool", lambda *, slow: made.append(_pool(slow=slow)) or made[-1])
        with ThreadPoolExecutor(2) as threads:
            for future in [threads.submit(rows.now, "sweep_facts", "synthetic") for _ in range(2)]:
                future.result()
        assert len(made) == 1


def test_rows_end_their_own_processes_and_no_one_else_s(store):
    """Whoever has the service in a program of theirs may have processes too."""
    with closing(Rows(store.location)) as rows:
        rows.start()
        assert rows.now("sweep_facts", "synthetic")
        others = multiprocessing.get_context("spawn").Process(target=sleep, args=(600,), daemon=True)
        others.start()
        own = set(multiprocessing.active_children()) - {others}
        assert own
    try:
        assert multiprocessing.active_children() == [others]
    finally:
        others.kill()
        others.join()


def test_no_page_waits_while_a_program_waits_for_the_newest_rows(tmp_path):
    answered, waiting = threading.Event(), threading.Event()
    known = Result((), pa.table({}))

    def newest(*_, **__):
        waiting.set()
        assert answered.wait(30)
        return known

    store = Store.create(tmp_path / "store")
    rows = SimpleNamespace(snapshot=SimpleNamespace(seq=1), ask=lambda *_, **__: known, newest=newest)
    overview = Overview(store, Jobs(Records(store.files)), rows)
    program = threading.Thread(target=lambda: overview.look(newest=True))
    program.start()
    try:
        assert waiting.wait(30)
        assert overview.look().sweeps == {}  # would hang behind the program
        assert program.is_alive()
    finally:
        answered.set()
        program.join(30)


def test_an_answer_that_is_late_is_said_and_not_begun_anew(rows, monkeypatch):
    assert rows.snapshot
    rows.held = {"sweep_facts": Future(), "script": Future()}
    monkeypatch.setattr("bnsweep.service.rows.WAIT_S", 0.01)
    for _ in range(2):
        with pytest.raises(LateError, match="not there after 0.01 s: the machine is busy; try again"):
            rows.script()
        with pytest.raises(LateError, match="not there after 0.01 s"):
            rows.ask("sweep_facts", "synthetic")
        with pytest.raises(LateError, match="not there after 0.01 s"):
            rows.now("sweep_facts", "synthetic")
    assert [function for function, *_ in rows.asked].count("script") == 1
    rows.held.pop("script").set_result("vega")
    assert rows.script() == "vega"
    rows.held["sweep_facts"].set_exception(TimeoutError("of the store's"))
    with pytest.raises(TimeoutError, match="of the store's"):
        rows.now("sweep_facts", "synthetic")
