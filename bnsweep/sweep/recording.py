"""What a driver writes: rows on their way into the store, which no interruption is to cost."""

from __future__ import annotations

import signal
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from time import monotonic
from types import FrameType
from typing import Any

import pyarrow as pa

from bnsweep.errors import StoreError
from bnsweep.store.compact import Tidier
from bnsweep.store.schema import SCHEMAS
from bnsweep.store.store import Store
from bnsweep.sweep.tasks import Failed, TrainTask, TrialTask

__all__ = ["COMMIT_S", "RowBuffer", "failure_row"]

COMMIT_S = 1.0  # between commits
COMMIT_ROWS = 50_000
REPEATED_S = 2.0  # a shell's Ctrl-C may come from a parent process as well


class RowBuffer:
    """Rows on their way into the store: one commit per second at most, all tables of it at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tidier = Tidier(store)
        self._rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self._count = 0
        self._last = monotonic()
        self._committing = False
        self._undisturbed = 0  # blocks of `undisturbed` under way
        self._asked_to_stop_at: float | None = None

    def add(self, table: str, rows: Any) -> None:
        self._rows[table].extend(rows)
        self._count += len(rows)

    def flush_if_due(self) -> None:
        if self._count >= COMMIT_ROWS or monotonic() - self._last >= COMMIT_S:
            self.flush()

    def flush(self) -> None:
        self._last = monotonic()
        if not self._count:
            return
        now = datetime.now(UTC)
        tables = {
            name: pa.Table.from_pylist([{**row, "committed_at": now} for row in rows], schema=SCHEMAS[name])
            for name, rows in self._rows.items()
            if rows
        }
        self._committing = True
        try:
            self._store.commit(tables)
            over = [row["run_id"] for row in self._rows["runs"] if row["status"] != "failed"]
            self._rows.clear()
            self._count = 0
        finally:
            self._committing = False
        # From here on it may be interrupted. Until now a training that had ended could have been lost with its row.
        if over:
            with suppress(StoreError):
                self._store.checkpoints.drop_slots(over)
        self._tidier.tidy()
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._asked_to_stop_at is not None and not self._undisturbed:
            raise KeyboardInterrupt

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Within it Ctrl-C and SIGTERM wait for its end, unless they are repeated: then nobody wants to wait."""
        self._undisturbed += 1
        try:
            yield
        finally:
            self._undisturbed -= 1
        self._stop_if_asked()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM raise KeyboardInterrupt, but never in the middle of a commit."""

        def stop(signum: int, frame: FrameType | None) -> None:
            before, now = self._asked_to_stop_at, monotonic()
            self._asked_to_stop_at = now if before is None else before
            repeated = before is not None and now - before >= REPEATED_S
            if not self._committing and (repeated or not self._undisturbed):
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self._asked_to_stop_at = None  # said once: what is kept afterwards is committed too


def failure_row(task: TrainTask | TrialTask, outcome: Failed, *, attempts_before: int = 0) -> dict[str, Any]:
    """The `failures` row of a task that was given up; `attempts_before`: of the same block, in earlier calls."""
    trials = task if isinstance(task, TrialTask) else None
    return {
        "sweep": task.sweep,
        "run_id": task.run.run_id,
        "point_id": trials and trials.point.point_id,
        "first_trial": trials and trials.first,
        "trials": trials and len(trials.seeds),
        "error": outcome.error,
        "attempt": attempts_before + outcome.attempts
        if isinstance(task, TrialTask)
        else task.attempt + outcome.attempts - 1,
    }
