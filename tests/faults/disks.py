"""Disks that fill up or become read-only under a running sweep: small file systems of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from clusters import wait_until

from bnsweep.store.store import Store

SAID = {"full": "no space left", "read-only": "the file system is read-only"}


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A small file system of its own, or a skip."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the mount command")
    if done.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, option: str) -> bool:
    return subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=False).returncode == 0


def end_by(fault: str, disk: Path, words: list[str], env: dict[str, str]) -> str:
    """Start a sweep on `disk`/store, let the disk fill up or become read-only once rows have landed, and put it right.

    The one line that the sweep ended with.
    """
    store = str(disk / "store")
    before = Store.open(store).rows("trials") if Store.exists(store) else 0
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        wait_until(
            lambda: Store.exists(store) and Store.open(store).rows("trials") > before + 4, 120, "rows have landed"
        )
        if fault == "full":
            with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
                while True:
                    ballast.write(b"x" * 4096)
        else:
            wait_until(lambda: remount(disk, "ro"), 30, "the file system becomes read-only")
        _, stderr = driver.communicate(timeout=120)
    finally:
        driver.kill()
        driver.wait()
    if fault == "full":
        (disk / "ballast").unlink()
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
