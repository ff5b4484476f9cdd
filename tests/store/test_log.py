from __future__ import annotations

import json
import re
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import store_children
import store_rows

from bnsweep.errors import StoreDamagedError
from bnsweep.store import log as log_module
from bnsweep.store.location import open_files
from bnsweep.store.log import Log, LogEntry, Part, State
from bnsweep.store.store import Store
from bnsweep.store.verify import verify_location


def part(number: int) -> Part:
    return Part(f"parts/trials/{number:032x}.parquet", "trials", 1, 100, f"{number:064x}")


def test_two_processes_append_and_no_entry_is_lost(tmp_path: Path, processes: ForkServerContext) -> None:
    Store.create(tmp_path)
    writers = [
        processes.Process(target=store_children.append, args=(str(tmp_path), name, 60)) for name in ("a", "b", "c")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries = [json.loads(path.read_bytes().split(b"\n")[0]) for path in sorted((tmp_path / "log").glob("*[0-9].json"))]
    assert [entry["seq"] for entry in entries] == list(range(1, 181))
    assert sorted(entry["by"] for entry in entries) == ["a"] * 60 + ["b"] * 60 + ["c"] * 60
    assert list((tmp_path / "log").glob("*.snapshot.json"))
    assert Store.open(tmp_path).state.seq == 180


def test_a_snapshot_says_what_the_entries_say(tmp_path: Path) -> None:
    files = open_files(tmp_path)
    log = Log(files)
    for number in range(200):
        removed = (part(number - 5).path,) if number % 7 == 0 and number > 5 else ()
        log.publish(lambda _, n=number, r=removed: LogEntry("compact", add=(part(n),), remove=r, epoch=n // 50))
    opened = Log(files).refresh()
    assert opened == log.state
    for path in (tmp_path / "log").glob("*.snapshot.json"):
        path.unlink()
    from_entries = Log(files).refresh()
    assert from_entries == opened
    assert len(from_entries.parts) == 200 - 28
    assert from_entries.epoch == 3


def test_old_entries_can_go_and_a_reader_who_has_them_goes_on(tmp_path: Path) -> None:
    log = Log(open_files(tmp_path))
    reader = Log(open_files(tmp_path))
    for number in range(10):
        log.publish(lambda _, n=number: LogEntry("commit", add=(part(n),)))
    reader.refresh()
    log.snapshot()
    for number in range(10, 20):
        log.publish(lambda _, n=number: LogEntry("commit", add=(part(n),)))
    log.snapshot()
    assert log.prune() == 0  # too young
    assert log.prune(age_s=-1) == 10
    assert len(list((tmp_path / "log").iterdir())) == 12
    assert Log(open_files(tmp_path)).refresh() == log.state
    assert reader.refresh() == log.state
    reader.publish(lambda _: LogEntry("commit", add=(part(20),)))
    assert log.refresh().seq == 21


def test_a_writer_that_stood_still_does_not_fill_a_pruned_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, sleeper = Log(open_files(tmp_path)), Log(open_files(tmp_path))
    for number in range(3):
        log.publish(lambda _, n=number: LogEntry("commit", add=(part(n),)))
    sleeper.refresh()

    def sleep_long(state: State) -> LogEntry:
        """Between looking at the log and publishing, two hours pass in which others work and tidy up."""
        if state.seq == 3:
            for number in range(3, 9):
                log.publish(lambda _, n=number: LogEntry("commit", add=(part(n),)))
            log.snapshot()
            log.publish(lambda _: LogEntry("commit", add=(part(9),)))
            log.snapshot()
            log.prune(age_s=-1)
            now = time.time()
            monkeypatch.setattr(log_module.time, "time", lambda: now + 7200)
        return LogEntry("commit", add=(part(10),))

    with pytest.raises(log_module.StoreError, match="stood still for 72.. s while others"):
        sleeper.publish(sleep_long)
    monkeypatch.undo()
    assert not (tmp_path / "log/000000000004.json").exists()
    assert part(10).path not in Log(open_files(tmp_path)).refresh().parts


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "gone"])
def test_damage_to_an_entry_is_seen_and_repaired(tmp_path: Path, damage: str) -> None:
    store = Store.create(tmp_path)
    for number in range(3):
        store.commit({"trials": store_rows.trials(20, start=20 * number)})
    entry = tmp_path / "log/000000000004.json"  # each commit made a claim's entry before its own
    data = entry.read_bytes()
    match = "does not match its digest" if damage != "gone" else "gap after entry 0"
    if damage == "gone":
        entry.unlink()
    else:
        position = data.index(b"parts/") + 20
        flipped = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        entry.write_bytes({"flip": flipped, "cut": data[:50], "empty": b""}[damage])
    with pytest.raises(StoreDamagedError, match=re.escape(match)):
        Store.open(tmp_path)
    assert not verify_location(tmp_path).ok
    result = verify_location(tmp_path, repair=True)
    assert result.ok, result
    assert [problem.kind for problem in result.problems] == ["log"]
    assert Store.open(tmp_path).rows("trials") == 40
    again = Store.open(tmp_path)
    again.commit({"trials": store_rows.trials(20, start=20)})
    assert again.rows("trials") == 60
    assert len(store_rows.key_set(again, "trials")) == 60


def test_opening_a_store_of_many_commits_reads_few_files(tmp_path: Path) -> None:
    log = Log(open_files(tmp_path))
    for number in range(500):
        log.publish(lambda _, n=number: LogEntry("commit", add=(part(n),)))
    names = [path.name for path in (tmp_path / "log").iterdir()]
    last = max(int(name[:12]) for name in names if "snapshot" in name)
    assert 500 - last <= 64
    assert len(Log(open_files(tmp_path)).refresh().parts) == 500
