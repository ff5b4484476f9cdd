"""Disks that fill up or become read-only under a running sweep."""

from __future__ import annotations

import subprocess
from pathlib import Path

from clusters import wait_until
from small_disks import fill, remount

from bnsweep.store.store import Store

SAID = {"full": "no space left", "read-only": "the file system is read-only"}


def end_by(fault: str, disk: Path, words: list[str], env: dict[str, str]) -> str:
    """Start a sweep on `disk`/store, let the disk fill up or become read-only once rows have landed, and put it right.

    The one line that the sweep ended with.
    """
    store = str(disk / "store")
    before = Store.open(store).rows("trials") if Store.exists(store) else 0
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        wait_until(
            lambda: Store.exists(store) and Store.open(store).rows("trials") > before + 4, 300, "rows have landed"
        )
        if fault == "full":
            ballast = fill(disk)
        else:
            wait_until(lambda: remount(disk, "ro"), 30, "the file system becomes read-only")
        _, stderr = driver.communicate(timeout=300)
    finally:
        driver.kill()
        driver.wait()
    if fault == "full":
        ballast.unlink()
    else:
        assert remount(disk, "rw")
    said = one_line(driver.returncode, stderr)
    assert SAID[fault] in said
    return said


def one_line(code: int, stderr: str) -> str:
    """What a sweep says that could not write."""
    assert code == 1, stderr
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("bnsweep: cannot write ")
    return lines[0]
