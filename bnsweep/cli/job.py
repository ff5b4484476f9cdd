"""The process of one submitted sweep: the entrypoint of a Ray job."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import sleep
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from bnsweep.cli.options import data_option, store_option, wait_option
from bnsweep.errors import BnsweepError, StoreClaimedError

if TYPE_CHECKING:
    from bnsweep.experiment.search import SearchSpec
    from bnsweep.experiment.spec import Spec
    from bnsweep.service.jobs import Job, Jobs
    from bnsweep.sweep.driver import Driver, Summary
    from bnsweep.sweep.progress import Work
    from bnsweep.sweep.search.run import SearchSummary
    from bnsweep.sweep.tasks import Outcome

__all__ = ["job"]

PULSE_S = 2.0
CLAIM_S = 5.0  # between tries to become the store's writer


@click.command(hidden=True)
@click.argument("sweep")
@click.argument("number", type=int)
@store_option
@data_option
@click.option("--address", default=None, help="The Ray cluster's address; default: a cluster of its own.")
@click.option("--engine", type=click.Choice(["auto", "ray", "inline"]), default="auto")
@wait_option
@click.option("--data-dir", "folders", multiple=True, type=click.Path(path_type=Path))
def job(sweep: str, number: int, location: str, folders: tuple[Path, ...], **options: Any) -> None:
    """Run what was submitted to a service as NUMBER of SWEEP. The service calls this."""
    from bnsweep.service.jobs import Jobs
    from bnsweep.service.records import Records
    from bnsweep.store.location import open_files

    jobs = Jobs(Records(open_files(location)))
    submitted = jobs.get(sweep, number)
    if submitted is None:
        raise BnsweepError(f"{location} holds no submission {number} of sweep {sweep!r}")
    if not jobs.start(submitted):
        click.echo("another process runs this job, or it has ended")
        return
    _interrupted_by_signals()
    heard = JobProgress(jobs, submitted)
    with heard:
        try:
            summary = _run(submitted, location, folders, heard, options)
        except KeyboardInterrupt:
            _stopped(jobs, submitted)
        except BnsweepError as error:
            jobs.end(submitted, state="failed", message=str(error))
            raise
        except Exception as error:
            jobs.end(submitted, state="failed", message=f"{type(error).__name__}: {error}")
            raise
        else:
            text = "\n".join(summary.lines(again=None))
            click.echo(text)
            if summary.interrupted:
                _stopped(jobs, submitted)
            else:
                jobs.end(submitted, state="failed" if summary.failed else "done", message=text)


def _run(
    submitted: Job, location: str, folders: tuple[Path, ...], heard: JobProgress, options: dict[str, Any]
) -> Summary | SearchSummary:
    """Plan and run the sweep or search, once nobody else writes to the store."""
    from bnsweep.experiment.search import SearchSpec
    from bnsweep.service.checks import read_submitted

    spec = read_submitted(submitted.spec, folders=folders)
    common = {
        "text": submitted.spec,
        "engine": options["engine"],
        "address": options["address"],
        "patience_s": options["patience_s"],
        "retry_failed": submitted.retry_failed,
        "allow_import": False,
        "data_root": options["data_root"],
    }
    run: Callable[[], Summary | SearchSummary]
    if isinstance(spec, SearchSpec):
        run = _search(spec, location, heard, minimal=submitted.minimal, **common)
    else:
        run = _sweep(spec, location, heard, **common)
    while True:
        try:
            return run()
        except StoreClaimedError as error:
            heard.note = f"waits: {error}"
            sleep(CLAIM_S)


def _sweep(spec: Spec, location: str, heard: JobProgress, **options: Any) -> Callable[[], Summary]:
    from bnsweep.experiment.plan import make_plan
    from bnsweep.sweep.catalog import LocalCatalog
    from bnsweep.sweep.run import run_sweep

    plan = make_plan(spec, LocalCatalog(options["data_root"], allow_import=False))
    return partial(run_sweep, plan, location, listener=heard, **options)


def _search(spec: SearchSpec, location: str, heard: JobProgress, **options: Any) -> Callable[[], SearchSummary]:
    from bnsweep.sweep.search.run import run_search

    return partial(run_search, spec, location, told=heard.told, warned=heard.warned, watched=heard.watch, **options)


def _stopped(jobs: Jobs, submitted: Job) -> None:
    """Ended from outside: by who cancelled it, or, without a word, by this machine, and then it goes on later."""
    from bnsweep.service.jobs import KEPT

    if jobs.cancelled_at(submitted):
        jobs.end(submitted, state="cancelled", message=KEPT)
    click.echo(KEPT)
    sys.stdout.flush()


def _interrupted_by_signals() -> None:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


class JobProgress:
    """Writes how far the job is into the store, every two seconds; stops the job if somebody has cancelled it."""

    def __init__(self, jobs: Jobs, submitted: Job) -> None:
        self.note = "begins"
        self._jobs, self._job = jobs, submitted
        self._work: Work | None = None
        self._search: SearchSummary | None = None
        self._epochs: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="job-pulse", daemon=True)

    def __enter__(self) -> JobProgress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=10)

    def begin(self, driver: Driver) -> None:
        from bnsweep.sweep.progress import Work

        self._work, self.note = Work(driver), ""

    def heard(self, outcome: Outcome) -> None:
        from bnsweep.sweep.tasks import Progressed, Trained, Waiting

        if self._work is not None:
            self._work.heard(outcome)
        self.note = outcome.why if isinstance(outcome, Waiting) else ""
        if isinstance(outcome, Progressed):
            self._epochs[outcome.run_id] = outcome.epoch
        elif isinstance(outcome, Trained):
            self._epochs.pop(outcome.task.run.run_id, None)

    def watch(self, summary: SearchSummary) -> None:
        """A search begins."""
        self._search, self.note = summary, ""

    def told(self, line: str) -> None:
        """A run of a search is over."""
        self.note = ""
        click.echo(line)

    def warned(self, why: str) -> None:
        """Somebody has to do something about a search's cluster."""
        self.note = why
        click.echo(why)

    def tick(self) -> None:
        """Nothing: the thread looks by itself."""

    def end(self, summary: Summary) -> None:
        self.note = "" if summary.interrupted else "finished"

    def _beat(self) -> None:
        asked = False
        while True:
            try:
                wanted = self._jobs.pulse(self._job, self._fields())
            except BnsweepError:  # a full disk or a cut link must not end the pulse
                wanted = False
            if wanted and not asked:
                asked = True
                os.kill(os.getpid(), signal.SIGTERM)
            if self._over.wait(PULSE_S):
                return

    def _fields(self) -> dict[str, Any]:
        work = self._work
        if self._search is not None:
            runs = self._search.trained + self._search.from_store
            most = sum(study.subject.trainings for study in self._search.studies)
            return {"note": self.note, "runs": runs, "runs_total": most, "done": round(runs / most, 4)}
        if work is None:
            return {"note": self.note}
        return {
            "note": self.note,
            "runs": work.runs_done,
            "runs_total": work.runs_total,
            "trials": work.trials_done,
            "trials_total": work.trials_total,
            "trials_per_s": round(work.trials_per_s, 2),
            "done": round(work.share_done, 4),
            "left_s": work.seconds_left,
            "epochs": dict(list(self._epochs.items())[:100]),
        }
