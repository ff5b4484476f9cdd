"""Who waits for an answer over a store that grows, and who does not."""

import sys
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from served import wait_until

from bnsweep.analysis.result import Result
from bnsweep.errors import UnknownNameError
from bnsweep.service.jobs import Jobs
from bnsweep.service.overview import Overview
from bnsweep.service.records import Records
from bnsweep.service.rows import Rows
from bnsweep.store.store import Store

sys.path.insert(0, str(Path(__file__).parent.parent / "analysis"))
import synthetic

SWEEPS = ("ask", "sweeps")
LIMITS = {"limit": 100, "seconds": 30.0}


def test_what_programs_ask_again_is_answered_before_a_snapshot_takes_over(tmp_path, monkeypatch):
    store = Store.create(tmp_path / "store")
    store.commit(synthetic.tables(trials=4))
    with closing(Rows(store.location)) as rows:
        asked = []
        submit = rows._submit

        def noted(function, *arguments, **options):
            asked.append((function, *arguments))
            return submit(function, *arguments, **options)

        monkeypatch.setattr(rows, "_submit", noted)
        rows.start()
        assert [row["sweep"] for row in rows.newest(*SWEEPS, **LIMITS).to_dicts()] == ["synthetic"]
        with pytest.raises(UnknownNameError):  # what cannot be answered is not asked beforehand
            rows.newest("one_run", "0" * 16)
        rows.ask("sweep_facts", "synthetic")  # by a page: computed when a page asks again
        before = rows.snapshot
        store.commit(synthetic.tables(sweep="again", models=("resnet8",), trials=5, failures=False))
        wait_until(lambda: rows.snapshot.seq > before.seq, every_s=0.01)
        after, beforehand = rows.snapshot, list(asked)
        assert {row["sweep"] for row in rows.newest(*SWEEPS, **LIMITS).to_dicts()} == {"synthetic", "again"}
        assert asked == beforehand, "the answer was not there when the snapshot took over"
        assert [each for each in asked if each[1:2] == (after.path,)] == [("ask", after.path, "sweeps")]


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
