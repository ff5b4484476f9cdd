"""One call that runs a sweep: store, claim, engine, driver."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path

from bnsweep.experiment.plan import Plan
from bnsweep.store.compact import Tidier
from bnsweep.store.store import Store
from bnsweep.sweep.driver import Driver, Listener, Summary
from bnsweep.sweep.engine import Datasets, Engine, InlineEngine, engine_named
from bnsweep.sweep.plan_rows import check_kind, record_plan
from bnsweep.sweep.ray_settings import prepare_ray
from bnsweep.training.datasets import load_dataset

__all__ = ["run_sweep"]

FEW_PARTS = 50  # small ones: what has landed is read run by run, and opening them takes a millisecond each time


def run_sweep(
    plan: Plan,
    location: str,
    *,
    text: str,
    part: tuple[int, int] | None = None,
    engine: str = "auto",
    address: str | None = None,
    cpus: int | None = None,
    retry_failed: bool = False,
    take_over: bool = False,
    allow_import: bool = True,
    patience_s: float | None = None,
    data_root: Path,
    listener: Listener,
) -> Summary:
    """Do what the store lacks of the plan.

    Args:
        plan: what to do.
        location: the store; made if it is not there.
        text: the spec as its user wrote it, kept in the store.
        part: (number, parts): only these runs of the plan; the store hears of the whole plan.
        engine: "ray", "inline", or "auto": Ray where it is installed.
        address: an existing Ray cluster.
        cpus: cores of a Ray cluster of our own.
        retry_failed: do what failed before once more.
        take_over: write although another driver holds the store.
        allow_import: whether `import:` networks may run.
        patience_s: how long to wait when no node of a Ray cluster can do any of the work; None: for ever.
        data_root: where torchvision's data sets lie.
        listener: hears what happens.

    Raises:
        InputError: there is no such part, or the store holds a search under this name.
        StoreClaimedError: another driver is writing to the store.
        StoreUnwritableError: disk full or read-only.
        EngineError: no Ray, no cluster, or one without a head or, for too long, without nodes.
    """
    work = plan.part(*part) if part else plan
    store = Store.open_or_create(location)
    with store.claim(take_over=take_over):
        check_kind(store, plan.spec)
        Tidier(store, many=FEW_PARTS).tidy()
        datasets = _loaders(work, data_root)
        driver = Driver(
            work,
            store,
            datasets=datasets,
            listener=listener,
            retry_failed=retry_failed,
            allow_import=allow_import,
        )
        for fingerprint in driver.data_needed:
            datasets[fingerprint]()  # what is wrong with the data is said before any work, and is no run's failure
        record_plan(store, plan, text=text)
        if driver.nothing_to_do:
            return driver.summary
        made = _engine(engine, store, address=address, cpus=cpus, patience_s=patience_s, listener=listener)
        return driver.run(made)


def _engine(
    name: str, store: Store, *, address: str | None, cpus: int | None, patience_s: float | None, listener: Listener
) -> Engine:
    if engine_named(name) == "inline":
        return InlineEngine(on_epoch=listener.heard)
    prepare_ray(own_cluster=address is None)
    from bnsweep.sweep.ray_engine import RayEngine

    return RayEngine(store, address=address, cpus=cpus, patience_s=patience_s)


def _loaders(plan: Plan, data_root: Path) -> Datasets:
    """One loader per data set, each of which loads once."""
    return {run.fingerprint: cache(partial(load_dataset, run.data, root=data_root)) for run in plan.runs}
