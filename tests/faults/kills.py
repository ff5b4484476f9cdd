"""Kill the driver of a sweep with SIGKILL, over and over, and see whether anything is lost or done twice.

    python -m tests.faults.kills --kills 50 --seed 7

Half of the kills come at a random moment, half at a named step: in the middle of training a network or of scoring a
block, or just before the driver touches a file of some kind for the n-th time. After a few kills the sweep is run to
its end, and its rows must be those of a sweep that nobody disturbed. The processes are forked from a server that has
imported everything: a start costs no time.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing as mp
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file, here and in the processes started

import fault_sweeps
import torch  # noqa: F401 - for the server that processes are forked from

import bnsweep.sweep.run  # noqa: F401
from bnsweep.store.store import Store
from bnsweep.store.verify import verify

TOUCHING = {"open", "os.rename", "os.link", "os.remove", "os.replace"}
# What a driver does: calls of ours, by their name in bnsweep.sweep.work, and files it touches.
CALLS = {"training": "train_run", "scoring": "score_block"}
FILES = {
    "claim": r"/claims/",
    "resume state": r"/resume/",
    "network": r"/networks/",
    "part": r"/parts/",
    "manifest": r"/log/|/snapshots?/|/bnsweep-store",
}
COMPACTION_STEPS = ("part", "manifest")


@dataclass
class Campaign:
    """What was done and what was found."""

    kills: Counter[str] = field(default_factory=Counter)
    sweeps: int = 0
    rows: int = 0
    lost: int = 0
    repeated: int = 0
    differing: int = 0
    recovery_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        slowest = max(self.recovery_s, default=0)
        return (
            f"{sum(self.kills.values())} kills ({kinds}); {self.sweeps} sweeps of {self.rows} rows run to their end: "
            f"{self.lost} rows lost, {self.repeated} twice, {self.differing} other than undisturbed; "
            f"slowest recovery {slowest:.1f} s"
        )


def work(words: list[str], log: str, kill: tuple[str, int] | None, begun: Any) -> None:
    """The command line, in this process; `kill` says before which touch of which files it dies."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if kill:
        step, count = kill
        die_during(CALLS[step], count) if step in CALLS else die_at(FILES[step], count)
    from bnsweep import cli

    sys.argv = ["bnsweep", *words]
    begun.set()
    cli.main()


def die_at(pattern: str, step: int) -> None:
    """SIGKILL this process when it is about to touch a file of a kind for the `step`-th time."""
    seen, kind = 0, re.compile(pattern)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in TOUCHING and kind.search(str(arguments[0]) + " " + str(arguments[1:2])):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def die_during(name: str, call: int) -> None:
    """SIGKILL this process somewhere in the middle of the `call`-th call of a function that does tasks."""
    from bnsweep.sweep import work

    original, seen = getattr(work, name), 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == call:
            delay_s = random.Random(call).uniform(0.005, 0.2 if name == "train_run" else 0.03)
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return original(*arguments, **options)

    setattr(work, name, counted)


def server() -> ForkServerContext:
    """Processes with torch and bnsweep loaded, in milliseconds."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([__name__ if __name__ != "__main__" else "tests.faults.kills"])
    from multiprocessing import forkserver

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *filter(None, [before])])
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context


class Killer:
    """Starts drivers and compactions on stores under one folder, and kills them."""

    def __init__(self, folder: Path, context: ForkServerContext, *, seed: int) -> None:
        self.folder, self.context = folder, context
        self.random = random.Random(seed)
        self.campaign = Campaign()
        self.spec = folder / "tiny.yaml"
        self.spec.write_text(fault_sweeps.TINY)
        begin = time.monotonic()
        assert self.drive(folder / "whole") == 0, self.log()
        self.whole_s = time.monotonic() - begin
        self.expected = fault_sweeps.all_rows(folder / "whole")
        self.count = fault_sweeps.parted_rows(folder / "whole")
        self.campaign.rows = self.count

    def log(self) -> str:
        return (self.folder / "log").read_text()[-3000:]

    def drive(self, store: Path, *, kill: tuple[str, int] | None = None, after_s: float | None = None) -> int:
        words = ["run", self.spec, "--store", store, "--engine", "inline", "--quiet", "--data-root", self.folder]
        return self._process([str(word) for word in words], kill, after_s)

    def compact(self, store: Path, *, kill: tuple[str, int] | None = None, after_s: float | None = None) -> int:
        return self._process(["store", "compact", "--store", str(store)], kill, after_s)

    def _process(self, words: list[str], kill: tuple[str, int] | None, after_s: float | None) -> int:
        begun = self.context.Event()
        process = self.context.Process(target=work, args=(words, str(self.folder / "log"), kill, begun))
        process.start()
        if after_s is not None:
            begun.wait(60)
            process.join(after_s)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    def campaign_of(self, kills: int, *, say: Callable[[str], None] = lambda _: None) -> Campaign:
        """Kill so often; run to the end after every one to four kills, and once more at the end."""
        done, number = 0, 0
        while done < kills:
            store = self.folder / f"store{number}"
            number += 1
            for _ in range(self.random.randint(1, 4)):
                if done < kills and self._kill_once(store):
                    done += 1
                self._readable(store)
            self._finish(store)
            shutil.rmtree(store)
            say(f"{done}/{kills}: {self.campaign}")
        return self.campaign

    def _kill_once(self, store: Path) -> bool:
        """One attempt; whether the process lived long enough to be killed."""
        compacting = Store.exists(str(store)) and self.random.random() < 0.2
        act = self.compact if compacting else self.drive
        name = "compaction" if compacting else "run"
        if self.random.random() < 0.5:
            longest = 0.3 if compacting else self.whole_s
            code = act(store, after_s=self.random.uniform(0, longest))
            kind = "at a random moment"
        else:
            step = self.random.choice(COMPACTION_STEPS if compacting else (*CALLS, *FILES))
            most = {"training": 2, "scoring": 12, "claim": 4, "network": 4, "resume state": 4}.get(step, 12)
            code = act(store, kill=(step, self.random.randint(1, most)))
            kind = f"at {step}"
        assert code in {0, -signal.SIGKILL}, self.log()
        if code:
            self.campaign.kills[f"{name}, {kind}"] += 1
        return code != 0

    @staticmethod
    def _readable(store: Path) -> None:
        """What a reader sees after a kill is whole commits."""
        if Store.exists(str(store)):
            opened = Store.open(str(store))
            assert opened.rows("trials") == opened.read("trials").num_rows

    def _finish(self, store: Path) -> None:
        begin = time.monotonic()
        assert self.drive(store) == 0, self.log()
        self.campaign.recovery_s.append(time.monotonic() - begin)
        self.campaign.sweeps += 1
        found = fault_sweeps.all_rows(store)
        for table, expected in self.expected.items():
            wanted, got = map(_by_content, (expected, found[table]))
            self.campaign.lost += (wanted - got).total()
            self.campaign.differing += (got - wanted).total()
        self.campaign.repeated += max(0, fault_sweeps.parted_rows(store) - self.count)
        assert verify(Store.open(str(store))).ok


def _by_content(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(repr(sorted(row.items())) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bnsweep-kills-") as folder:
        killer = Killer(Path(folder), server(), seed=options.seed)
        campaign = killer.campaign_of(options.kills, say=lambda line: print(line, flush=True))
    sys.exit(1 if campaign.lost or campaign.repeated or campaign.differing else 0)


if __name__ == "__main__":
    main()
