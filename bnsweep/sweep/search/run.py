"""One call that searches: store, claim, studies, engine."""

from __future__ import annotations

import json
import queue
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from time import monotonic

from bnsweep.errors import InputError, StoreError
from bnsweep.experiment.plan import Plan
from bnsweep.experiment.resources import Resource
from bnsweep.experiment.search import SearchSpec, Subject, subjects
from bnsweep.store.attempts import set_aside_all_older, set_aside_unowned
from bnsweep.store.store import Store
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.engine import Datasets, engine_named
from bnsweep.sweep.plan_rows import check_kind, point_rows, points_of, record_plan
from bnsweep.sweep.ray_settings import prepare_ray
from bnsweep.sweep.recording import RowBuffer
from bnsweep.sweep.search.engine import InlineSearch, SearchEngine
from bnsweep.sweep.search.job import Job
from bnsweep.sweep.search.minimal import MinimalStudy
from bnsweep.sweep.search.objectives import Verdict
from bnsweep.sweep.search.panel import Memory, Panel
from bnsweep.sweep.search.study import FrontStudy, Proposal, Study
from bnsweep.sweep.search.underway import Landed, Underway
from bnsweep.sweep.summary import came_out_different
from bnsweep.training.datasets import load_dataset

__all__ = ["SearchSummary", "Told", "run_search"]

Told = Callable[[str], None]  # one line for people


@dataclass(slots=True)
class SearchSummary:
    """What one call did."""

    trained: int = 0
    from_store: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    networks_changed: int = 0  # lost, and other ones when they were trained again
    interrupted: bool = False
    seconds: float = 0.0
    studies: list[Study] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return self.ends["failed"] > 0

    def lines(self, *, again: str | None) -> list[str]:
        """For people: what happened, and how to go on. `again`: the command; None for those who gave none."""
        lines = [
            f"{self.trained} placements trained and scored in {self.seconds:.1f} s, {self.from_store} were in the store"
        ]
        for status, what in (("diverged", "did not learn"), ("pruned", "were stopped early"), ("failed", "failed")):
            if self.ends[status]:
                lines.append(f"{self.ends[status]} {what}: their rows say so (bnsweep query failures)")
        if self.networks_changed:
            lines.append(came_out_different(self.networks_changed, "search"))
        if self.failed and again is not None:
            lines.append(f"to try what failed once more: {again} --retry-failed")
        if self.interrupted and again is not None:
            lines.append(f"interrupted; what has landed is kept. To go on: {again}")
        return lines


def run_search(
    spec: SearchSpec,
    location: str,
    *,
    text: str,
    minimal: bool = False,
    engine: str = "auto",
    address: str | None = None,
    cpus: int | None = None,
    retry_failed: bool = False,
    take_over: bool = False,
    allow_import: bool = True,
    patience_s: float | None = None,
    data_root: Path,
    told: Told,
    warned: Told | None = None,
    watched: Callable[[SearchSummary], None] = lambda summary: None,
) -> SearchSummary:
    """Search, or go on with a search.

    Args:
        spec: what to search.
        location: the store; made if it is not there.
        text: the file as its user wrote it, kept in the store.
        minimal: look for the fewest BN layers that converge instead of the trade-off.
        engine: "ray", "inline", or "auto": Ray where it is installed.
        address: an existing Ray cluster.
        cpus: cores of a Ray cluster of our own.
        retry_failed: do what failed before once more.
        take_over: write although another driver holds the store.
        allow_import: whether `import:` networks may run.
        patience_s: how long to wait when no node of a Ray cluster can do any of the work; None: for ever.
        data_root: where torchvision's data sets lie.
        told: hears a line per run.
        warned: hears what somebody has to do something about; default: as `told`.
        watched: is given the summary at the beginning, to look at while it grows.

    Raises:
        SpecError: networks that cannot be searched.
        InputError: the store holds another search or a sweep under this name.
        StoreClaimedError, StoreUnwritableError, EngineError: as a sweep.
    """
    name = engine_named(engine)
    found = subjects(spec, LocalCatalog(data_root, allow_import=allow_import))
    store = Store.open_or_create(location)
    with store.claim(take_over=take_over):
        _check_same_study(store, spec)
        datasets = {each.fingerprint: cache(partial(load_dataset, each.data, root=data_root)) for each in found}
        for load in datasets.values():
            load()  # what is wrong with the data is said before any work, and before the store hears of the search
        plan = Plan(spec, ())
        sha256 = record_plan(store, plan, text=text, planned_runs=sum(each.trainings for each in found))
        session = _Session(spec, store, plan, sha256, found, minimal=minimal, retry_failed=retry_failed, told=told)
        watched(session.summary)
        made = partial(
            _engine, name, store, datasets, address=address, cpus=cpus, patience_s=patience_s, warned=warned or told
        )
        return session.run(made, allow_import=allow_import)


def _engine(
    name: str,
    store: Store,
    datasets: Datasets,
    *,
    address: str | None,
    cpus: int | None,
    patience_s: float | None,
    warned: Told,
) -> SearchEngine:
    if name == "inline":
        return InlineSearch(datasets)
    prepare_ray(own_cluster=address is None)
    from bnsweep.sweep.search.tuning import Tuning

    return Tuning(store, datasets, address=address, cpus=cpus, patience_s=patience_s, warned=warned)


class _Session:
    """From the first proposal to the last commit."""

    def __init__(
        self,
        spec: SearchSpec,
        store: Store,
        plan: Plan,
        sha256: str,
        found: tuple[Subject, ...],
        *,
        minimal: bool,
        retry_failed: bool,
        told: Told,
    ) -> None:
        self.spec, self.store, self.plan, self.sha256, self.found, self.told = spec, store, plan, sha256, found, told
        self.summary = SearchSummary()
        self.buffer = RowBuffer(store)
        self.landed: queue.SimpleQueue[Landed] = queue.SimpleQueue()  # an engine may have a thread of its own
        self._noted = _noted(store, spec.name, sha256)
        self._planned = set(points_of(store, spec.name, sha256, "run_id").to_pylist())
        studies: list[Study] = [MinimalStudy(each) if minimal else FrontStudy(each) for each in found]
        self.summary.studies = studies
        # An interrupted driver may have left rows of earlier networks, and a lost part rows of nobody knows which.
        set_aside_all_older(store)
        set_aside_unowned(store, _asked_for(store))
        memory = Memory(Store.open(store.location), plan, spec.search, retry_failed=retry_failed)
        self.panel = Panel(studies, memory, proposed=self._proposed, heard=self._heard)

    def run(self, engine: Callable[[], SearchEngine], *, allow_import: bool) -> SearchSummary:
        """Until nothing is left to do, or until Ctrl-C or SIGTERM."""
        begin = monotonic()
        self._put_sites()
        job = Job(self.spec.name, self.store.location, self.plan, _resource(self.spec), allow_import=allow_import)
        underway = Underway(job, self.panel, self.found, land=self.landed.put)
        made = engine()
        try:
            with self.buffer.interruptible():
                try:
                    made.run(underway, self._commit)
                    self.buffer.flush()
                finally:
                    self._keep_what_is_done()
                    made.close()
                    self._keep_what_is_done()  # some of it may have ended only then
        except KeyboardInterrupt:
            self.summary.interrupted = True
        self.summary.seconds = monotonic() - begin
        return self.summary

    def _commit(self, wait_s: float) -> bool:
        """What has landed goes into the store, if it is time; whether anything had."""
        with self.buffer.undisturbed():
            came = self._take(wait_s)
        self.buffer.flush_if_due()
        return came

    def _keep_what_is_done(self) -> None:
        """A second Ctrl-C may follow the first at once, and is not to cost it; whoever insists need not wait."""
        with suppress(StoreError, KeyboardInterrupt), self.buffer.undisturbed():
            self._take()
            self.buffer.flush()

    def _take(self, wait_s: float = 0.0) -> bool:
        came = False
        while True:
            try:
                landed = self.landed.get(timeout=0.0 if came else wait_s)
            except queue.Empty:
                return came
            came = True
            self._land(landed)

    def _land(self, landed: Landed) -> None:
        for table, rows in landed.tables.items():
            self.buffer.add(table, rows)
        if landed.other_network is not None:
            # At once: rows count as the new network's if they are committed with it or later.
            self.buffer.flush()
            set_aside_all_older(self.store, {landed.other_network})
            self.summary.networks_changed += 1

    def _proposed(self, proposal: Proposal) -> None:
        """What is asked for becomes rows: the proposal, and the points that it plans. Called in the engine's thread."""
        run = proposal.run
        # What failed and was done again may lead to other proposals under the same numbers: those are noted too.
        key = (proposal.study, run.data.dataset, run.model, proposal.number, run.run_id)
        if key not in self._noted:
            self._noted.add(key)
            row = {
                "sweep": self.spec.name,
                "spec_sha256": self.sha256,
                "study": proposal.study,
                "number": proposal.number,
                **run.columns(),
                "origin": proposal.origin,
                "why": proposal.why,
            }
            self.landed.put(Landed({"proposals": (row,)}))
        if run.run_id not in self._planned:
            self._planned.add(run.run_id)
            rows = tuple(point_rows(Plan(self.spec, (run,)), self.sha256))
            self.landed.put(Landed({"points": rows}))

    def _heard(self, proposal: Proposal, verdict: Verdict, from_store: bool) -> None:
        self.summary.ends[verdict.status] += 1
        if from_store:
            self.summary.from_store += 1
            return
        self.summary.trained += 1
        run = proposal.run
        shown = ", ".join(
            f"{name} {value:.4g}"
            for name, value in zip(self.spec.search.objectives, verdict.values or (), strict=False)
        )
        self.told(
            f"{run.data.dataset} {run.model} #{proposal.number} {run.bn_mask} seed {run.train_seed} "
            f"({proposal.origin}{': ' + proposal.why if proposal.why else ''}): {shown or verdict.status}"
        )

    def _put_sites(self) -> None:
        """The networks' sites, once: a mask is a picture of them."""
        known = {
            (row["dataset"], row["model"], row["bn_sites"])
            for row in self.store.read("sites", columns=["dataset", "model", "bn_sites"]).to_pylist()
        }
        for subject in self.found:
            key = (subject.data.dataset, subject.model.name, subject.sites)
            if key in known:
                continue
            name = dict(zip(("dataset", "model", "bn_sites"), key, strict=True))
            rows = [
                {**name, "site": number, "path": site.path, "channels": site.channels}
                | {"stage": site.stage, "shortcut": site.shortcut}
                for number, site in enumerate(subject.architecture.sites, 1)
            ]
            self.buffer.add("sites", rows)
            known.add(key)


def _resource(spec: SearchSpec) -> Resource:
    """Training and scoring happen in one task: it has what either needs. Threads are those of training."""
    train, trial = spec.resources.train, spec.resources.trial
    with_gpu = [resource for resource in (train, trial) if resource.gpu]
    return Resource(
        cpu=train.cpu,
        gpu=max(train.gpu, trial.gpu),
        gpu_memory=max((resource.memory_fraction for resource in with_gpu), default=None),
        accelerator=train.accelerator or trial.accelerator,
    )


def _noted(store: Store, sweep: str, sha256: str) -> set[tuple[str, str, str, int, str]]:
    columns = ["sweep", "spec_sha256", "study", "dataset", "model", "number", "run_id"]
    rows = store.read("proposals", columns=columns).to_pylist()
    mine = (row for row in rows if row["sweep"] == sweep and row["spec_sha256"] == sha256)
    return {(row["study"], row["dataset"], row["model"], row["number"], row["run_id"]) for row in mine}


def _asked_for(store: Store) -> set[str]:
    """All runs that any sweep or search has asked for: which of them this search will ask for, nobody knows yet."""
    tables = ("points", "proposals")
    return {run_id for name in tables for run_id in store.read(name, columns=["run_id"])["run_id"].unique().to_pylist()}


def _check_same_study(store: Store, spec: SearchSpec) -> None:
    """A name stands for one study. Raises InputError with what differs."""
    check_kind(store, spec)
    rows = store.read("sweeps", columns=["sweep", "revision", "spec"]).sort_by("revision").to_pylist()
    mine = [json.loads(row["spec"]) for row in rows if row["sweep"] == spec.name]
    if not mine:
        return
    before, now = SearchSpec.model_validate(mine[-1]).identity(), spec.identity()
    changed = [key for key in now if before.get(key) != now[key] and key != "search"]
    changed += [f"search.{key}" for key in now["search"] if before["search"].get(key) != now["search"][key]]
    if changed:
        raise InputError(
            f"{store.location} holds a search {spec.name!r} made from another file (it differs in "
            f"{', '.join(changed)}): its study says nothing about this one. To go on with it, put these back; else "
            "give this one another `name`, or use another --store"
        )
