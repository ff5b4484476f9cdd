"""Somebody who reads a store while others write to it."""

from __future__ import annotations

import threading

from bnsweep.store.store import Store


class Reader(threading.Thread):
    """Reads a store again and again: what it sees is whole commits, each row once, and never less than before."""

    def __init__(self, location: str) -> None:
        super().__init__(daemon=True)
        self.location, self.stop = location, threading.Event()
        self.counts: list[int] = []
        self.errors: list[BaseException] = []

    def run(self) -> None:
        while not self.stop.wait(0.05):
            try:
                if Store.exists(self.location):
                    store = Store.open(self.location)
                    keys = store.keys("trials")
                    assert keys.num_rows == store.rows("trials")
                    assert keys.group_by(["point_id", "trial"]).aggregate([]).num_rows == keys.num_rows
                    self.counts.append(keys.num_rows)
            except BaseException as error:  # noqa: BLE001 - the test says what it was
                self.errors.append(error)
                return

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()

    def check(self) -> None:
        """After the block: that all was well, and that the store was seen to grow."""
        assert not self.errors, self.errors
        assert self.counts == sorted(self.counts)
        assert len(set(self.counts)) > 2, self.counts
