"""Shared folders promise less than a disk: NFS loses answers, some have no hard links, some sync no folders."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import store_children
import store_rows

from bnsweep.errors import StoreClaimedError
from bnsweep.store.compact import compact
from bnsweep.store.location import open_files
from bnsweep.store.store import Store
from bnsweep.store.verify import verify


def link_whose_answer_is_lost(source: Path, target: Path, *, link: Callable[[Path, Path], None] = os.link) -> None:
    """The server makes the link, the client asks again."""
    link(source, target)
    raise FileExistsError(errno.EEXIST, "File exists")


def no_link(source: Path, target: Path) -> None:
    raise OSError(errno.EOPNOTSUPP, "Operation not supported")


def no_sync_of_folders(descriptor: int, *, sync: Callable[[int], None] = os.fsync) -> None:
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
    sync(descriptor)


@pytest.fixture(
    params=[("link", link_whose_answer_is_lost), ("link", no_link), ("fsync", no_sync_of_folders)],
    ids=lambda each: each[1].__name__,
)
def location(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store in such a folder."""
    monkeypatch.setattr(os, *request.param)
    Store.create(tmp_path / "store")
    return str(tmp_path / "store")


def together(works: list[Callable[[], object]]) -> None:
    """Do all at once; none may raise."""
    errors: list[BaseException] = []

    def one(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the test says what it was
            errors.append(error)

    threads = [threading.Thread(target=one, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_of_many_creators_one_wins_and_nobody_sees_half_a_file(location: str) -> None:
    files = open_files(location)
    for number in range(20):
        name, made = f"claims/prize-{number}", []

        def create(who: int, name: str = name, made: list[int] = made) -> None:
            mine = str(who).encode() * 100_000
            if files.create(name, mine):
                made.append(who)
            assert files.read(name) in {str(one).encode() * 100_000 for one in range(6)}

        together([lambda who=who: create(who) for who in range(6)])  # type: ignore[misc]
        assert len(made) == 1
        assert files.read(name) == str(made[0]).encode() * 100_000


def test_writers_and_readers_of_one_log(location: str) -> None:
    writers = [lambda name=name: store_children.append(location, name, 30) for name in "abc"]
    together([*writers, lambda: [Store.open(location) for _ in range(30)]])
    assert Store.open(location).state.seq == 90


def test_one_driver_holds_the_store_and_its_rows_are_there(location: str) -> None:
    store = Store.open(location)
    with store.claim():
        store.commit({"trials": store_rows.trials(100)})
        with pytest.raises(StoreClaimedError, match="is being written to by"), Store.open(location).claim():
            pass
    assert compact(store, grace_s=0).deletion_postponed is False
    opened = Store.open(location)
    assert opened.read("trials").num_rows == 100
    assert verify(opened).ok
    assert not list(Path(location).rglob("*.tmp"))
