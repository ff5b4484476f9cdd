"""Two drivers on one store: who is first writes, the second is told who and since when, and may take over."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import fault_sweeps
from clusters import wait_until
from readers import Reader

from bnsweep.store.compact import compact
from bnsweep.store.store import Store

TEXT = fault_sweeps.slow(60)


def test_of_two_drivers_one_writes_and_the_other_is_told(tmp_path: Path) -> None:
    spec, store = tmp_path / "tiny.yaml", tmp_path / "store"
    spec.write_text(TEXT)
    words = fault_sweeps.command(spec, store, "--engine", "inline")
    environment = fault_sweeps.environment(FAULT_WAIT_S="0.1")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    drivers: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        drivers.append(subprocess.Popen([*words, *options], **pipes))  # type: ignore[call-overload]
        return drivers[-1]

    def rows() -> int:
        return Store.open(store).rows("trials") if Store.exists(str(store)) else 0

    try:
        first = start()
        wait_until(lambda: rows() > 0, 300, "rows have landed")
        second = start()
        _, said = second.communicate(timeout=60)
        assert second.returncode == 1
        told = re.fullmatch(
            r"bnsweep: .+ is being written to by process (\d+) on \S+ \(user \S+\) since (\S+)\. .*--take-over.*\n",
            said,
        )
        assert told, said
        assert int(told[1]) == first.pid
        assert abs(time.time() - time.mktime(time.strptime(told[2][:19], "%Y-%m-%dT%H:%M:%S")) + time.timezone) < 120
        third = start("--take-over")
        _, said = first.communicate(timeout=60)
        assert first.returncode == 1
        assert re.search(rf"was taken over by process {third.pid} on .* What it had committed before is kept", said), (
            said
        )
        wait_until(lambda: third.poll() is not None or rows() > 30, 60, "the third driver goes on")
        third.kill()  # and is dead
        third.wait()
        assert rows() > 0
        code, output = fault_sweeps.inline(spec, store)  # no --take-over: its process is gone
        assert code == 0, output
        fault_sweeps.holds_exactly(store, TEXT)
    finally:
        for driver in drivers:
            driver.kill()
            driver.communicate()


def test_compaction_and_readers_beside_a_sweep(tmp_path: Path) -> None:
    spec, store = tmp_path / "tiny.yaml", tmp_path / "store"
    spec.write_text(TEXT)
    words = fault_sweeps.command(spec, store, "--engine", "inline")
    compactions = 0
    with Reader(str(store)) as reader:
        driver = subprocess.Popen(words, env=fault_sweeps.environment(FAULT_WAIT_S="0.03"))
        try:
            while driver.poll() is None:
                if Store.exists(str(store)):
                    done = compact(Store.open(store), grace_s=0)
                    compactions += done.rows > 0
                time.sleep(0.3)
        finally:
            driver.kill()
            driver.wait()
    assert driver.returncode == 0
    assert compactions > 2
    reader.check()
    fault_sweeps.holds_exactly(store, TEXT)
