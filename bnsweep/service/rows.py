"""The store's rows as pages need them: a snapshot that follows the store, and answers computed from it.

A thread looks at the store's log once a second and has a new snapshot built when it grew. Answers are computed by
worker processes (analysis/reader.py) and kept per snapshot. While a sweep runs the store grows all the time: then the
last answer is given at once and a new one is computed behind it, so that a page is never slower than its cache.
Programs are told of the newest snapshot only: what they ask of one after the other is computed before it takes over.
What takes seconds (a whole report, a snapshot) has a process of its own, so that what a page begins with never waits
behind it.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import tempfile
import threading
from collections import OrderedDict
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any

from bnsweep.errors import StoreError
from bnsweep.store.store import Store

__all__ = ["LateError", "Rows", "Snapshot"]

LOOK_S = 1.0
LEAST_AGE_S = 2.0  # of a snapshot, before a new one is built
BUILD_SHARE = 5  # a snapshot lives so many times as long as it took to build,
MOST_AGE_S = 60.0  # and no longer than this
KEPT = 400  # answers
OLDEST_S = 20.0  # an answer about an older state is not given any more: who asks waits for the new one
WAIT_S = 120.0
MOMENT_S = 0.2
READY_S = 5.0  # a new snapshot waits so long for the answers that programs ask for
AGAIN_S = 30.0  # who asked so long ago is not expected to ask again
PROCESSES = 2  # for answers that take moments
SLOW = frozenset({"build", "report_sections", "full_report", "script"})
SNAPSHOTS = 3  # kept, for questions that are still reading them

logger = logging.getLogger("bnsweep.service")


class LateError(StoreError):
    """An answer that is not there yet; it is computed further."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The store at one moment. `seq` is the number of its newest log entry."""

    path: str
    seq: int


@dataclass(slots=True)
class _Answer:
    seq: int
    value: Any
    current_until: float  # when its snapshot was replaced; infinity: it is the newest


@dataclass(slots=True)
class _Asked:
    """A question of programs: the snapshots that it was asked of first and last, and when last."""

    first: int
    last: int
    at: float


class Rows:
    """Answers from the newest snapshot. Safe from several threads."""

    def __init__(self, location: str, folder: Path | None = None) -> None:
        self._location = location
        self._store = Store.open(location)
        self._temporary = tempfile.TemporaryDirectory(prefix="bnsweep-", dir=folder, ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        self._lock = threading.Lock()
        self._submitting = threading.Lock()  # not `_lock`, which `_keep` takes while a pool that broke holds its own
        self._answers: OrderedDict[Any, _Answer] = OrderedDict()
        self._under_way: dict[tuple[Any, int], Future[Any]] = {}  # by question, and number of the snapshot
        self._programs: dict[Any, _Asked] = {}
        self._renewing = threading.Lock()
        self._pools = {slow: _pool(slow=slow) for slow in (False, True)}
        self._script: Future[Any] | None = None
        self._snapshot: Snapshot | None = None
        self._built_at, self._rest_s, self._current_at = 0.0, 0.0, float("-inf")
        self._ready, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="rows", daemon=True)
        self.trouble = ""

    def start(self) -> None:
        self._thread.start()
        for _ in range(PROCESSES):  # who asks first should not wait for their imports
            self._submit("warm")

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=30)
        with self._renewing:
            pools = list(self._pools.values())
        for pool in pools:
            for worker in list((pool._processes or {}).values()):  # from Python 3.14 on: terminate_workers()
                worker.terminate()
            pool.shutdown(wait=True, cancel_futures=True)
        self._temporary.cleanup()

    @property
    def snapshot(self) -> Snapshot:
        """The newest; waits for the first. Raises StoreError."""
        self._ready.wait(WAIT_S)
        if self._snapshot is None:
            raise StoreError(f"{self._location} cannot be read yet: {self.trouble or 'the first look takes long'}")
        return self._snapshot

    @property
    def age_s(self) -> float:
        """The newest snapshot held everything so many seconds ago; inf before the first."""
        return monotonic() - self._current_at

    def ask(self, function: str, *arguments: Any, **options: Any) -> Any:
        """What a function of analysis/reader.py says; at most 20 s out of date. Raises what it raises, LateError."""
        return self._ask(WAIT_S, OLDEST_S, function, *arguments, **options)

    def newest(self, function: str, *arguments: Any, **options: Any) -> Any:
        """The same of the newest snapshot, for programs: who waited for a sweep must not be told what was before."""
        seq, key = self.snapshot.seq, _question(function, arguments, options)
        answer = self._ask(WAIT_S, 0.0, function, *arguments, **options)
        with self._lock:
            before = self._programs.pop(key, None)
            self._programs[key] = _Asked(before.first if before else seq, seq, monotonic())
            while len(self._programs) > KEPT:
                del self._programs[next(iter(self._programs))]
        return answer

    def soon(self, function: str, *arguments: Any, **options: Any) -> Any:
        """The same if it is there in a moment, else None: then ask again later. Raises what it raises."""
        try:
            return self._ask(MOMENT_S, OLDEST_S, function, *arguments, **options)
        except LateError:
            return None

    def _ask(self, wait_s: float, oldest_s: float, function: str, *arguments: Any, **options: Any) -> Any:
        snapshot = self.snapshot
        key = _question(function, arguments, options)
        with self._lock:
            answer = self._answers.get(key)
            if answer is not None:
                self._answers.move_to_end(key)
        if answer is not None and answer.seq >= snapshot.seq:
            return answer.value
        future = self._compute(key, snapshot)
        if answer is not None and monotonic() - answer.current_until < oldest_s:
            return answer.value
        return _in_time(future, wait_s)

    def now(self, function: str, *arguments: Any, **options: Any) -> Any:
        """The same, never kept: for what is asked once."""
        return _in_time(self._submit(function, self.snapshot.path, *arguments, **options), WAIT_S)

    def script(self) -> str:
        """What draws charts. Raises LateError; who asks again waits for what was begun."""
        path = self.snapshot.path
        with self._submitting:
            if self._script is None or (self._script.done() and self._script.exception() is not None):
                self._script = self._submit("script", path)
            begun = self._script
        return str(_in_time(begun, WAIT_S))

    def _compute(self, key: Any, snapshot: Snapshot) -> Future[Any]:
        function, arguments, options = key
        with self._submitting:
            if (known := self._under_way.get((key, snapshot.seq))) is not None:
                return known
            future = self._submit(function, snapshot.path, *arguments, **dict(options))
            with self._lock:
                self._under_way[key, snapshot.seq] = future
        future.add_done_callback(partial(self._keep, key, snapshot))
        return future

    def _keep(self, key: Any, snapshot: Snapshot, future: Future[Any]) -> None:
        with self._lock:
            if self._under_way.get((key, snapshot.seq)) is not future:
                return
            if self._snapshot is not None and self._snapshot.seq < snapshot.seq:
                return  # not before its snapshot takes over: who was told of new rows must find them in every answer
            del self._under_way[key, snapshot.seq]
            if (kept := self._answers.get(key)) is not None and kept.seq > snapshot.seq:
                return
            if future.cancelled() or future.exception() is not None:
                self._answers.pop(key, None)
                return
            newest = self._snapshot is None or self._snapshot.seq == snapshot.seq
            self._answers[key] = _Answer(snapshot.seq, future.result(), float("inf") if newest else monotonic())
            while len(self._answers) > KEPT:
                self._answers.popitem(last=False)

    def _submit(self, function: str, *arguments: Any, **options: Any) -> Future[Any]:
        slow = function in SLOW
        pool = self._pools[slow]
        try:
            return pool.submit(_call, function, *arguments, **options)
        except BrokenProcessPool:  # a worker was killed, for want of memory perhaps: begin anew
            return self._renewed(pool, slow=slow).submit(_call, function, *arguments, **options)

    def _renewed(self, broken: ProcessPoolExecutor, *, slow: bool) -> ProcessPoolExecutor:
        """The pool in place of a broken one, which another thread may have made already."""
        with self._renewing:
            if self._pools[slow] is broken and not self._stop.is_set():
                self._pools[slow] = _pool(slow=slow)
            return self._pools[slow]

    def _follow(self) -> None:
        while not self._stop.is_set():
            try:
                self._look()
                self.trouble = ""
            except Exception as error:  # noqa: BLE001 (whatever it is, the next look may go well; pages say it)
                self.trouble = str(error) or type(error).__name__
                logger.warning("the store cannot be read: %s", error)
            self._stop.wait(LOOK_S)

    def _look(self) -> None:
        looked_at = monotonic()
        seq = self._store.refresh().state.seq
        if self._snapshot is not None:
            if self._snapshot.seq >= seq:
                self._current_at = looked_at
                return
            if looked_at - self._built_at < self._rest_s:
                return
        for left in self._folder.glob(".snapshot-*.tmp*"):  # by a process that was killed
            left.unlink(missing_ok=True)
        path = self._folder / f"snapshot-{seq}.duckdb"
        built, took_s = self._submit("build", self._location, str(path)).result(timeout=600)
        path.chmod(0o644)
        self._built_at = monotonic()
        self._prepare(snapshot := Snapshot(str(path), built))
        self._take_over(snapshot)
        self._current_at = looked_at
        took_s += monotonic() - self._built_at
        self._rest_s = min(MOST_AGE_S, max(LEAST_AGE_S, BUILD_SHARE * took_s))
        self._ready.set()
        for old in sorted(self._folder.glob("snapshot-*.duckdb"), key=lambda p: p.stat().st_mtime)[:-SNAPSHOTS]:
            old.unlink(missing_ok=True)

    def _prepare(self, snapshot: Snapshot) -> None:
        """Answer what programs ask of every snapshot, so that those who ask again need not wait."""
        with self._lock:
            recent = {key: asked for key, asked in self._programs.items() if monotonic() - asked.at < AGAIN_S}
            self._programs = recent
        try:
            futures = [self._compute(key, snapshot) for key, asked in recent.items() if asked.first < asked.last]
        except Exception as error:  # noqa: BLE001 (no process can be started, perhaps: then they wait)
            logger.warning("nothing is answered beforehand: %s", error)
            return
        until = monotonic() + READY_S
        while not self._stop.is_set() and monotonic() < until and wait(futures, timeout=0.1).not_done:
            pass

    def _take_over(self, snapshot: Snapshot) -> None:
        with self._lock:
            for answer in self._answers.values():
                answer.current_until = min(answer.current_until, monotonic())
            self._snapshot = snapshot
            begun = [(key, future) for (key, seq), future in self._under_way.items() if seq == snapshot.seq]
        for key, future in begun:
            if future.done():
                self._keep(key, snapshot, future)


def _in_time(future: Future[Any], wait_s: float) -> Any:
    try:
        return future.result(timeout=wait_s)
    except TimeoutError:
        if future.done():  # it may be the answer's own error
            return future.result()
        message = f"the answer is not there after {wait_s:g} s: the machine is busy; try again in a little while"
        raise LateError(message) from None


def _question(function: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    return function, arguments, tuple(sorted(options.items()))


def _pool(*, slow: bool) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1 if slow else PROCESSES, mp_context=context, initializer=_begin)


def _begin() -> None:
    """In a worker: behind those who answer requests, and gone when the service is."""
    with suppress(OSError):
        os.nice(5)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(0)


def _call(function: str, *arguments: Any, **options: Any) -> Any:
    return getattr(import_module("bnsweep.analysis.reader"), function)(*arguments, **options)
