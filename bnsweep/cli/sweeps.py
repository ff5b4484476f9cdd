"""Commands about work: models, plan, run, status."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import click

from bnsweep.cli.common import (
    INTERRUPTED,
    database_of,
    existing_store,
    open_store,
    print_json,
    print_table,
    read_any_plan,
    read_plan,
)
from bnsweep.cli.options import (
    check_engine,
    data_option,
    engine_options,
    json_option,
    part_option,
    source_option,
    store_option,
)
from bnsweep.cli.service import client_of, or_server_options
from bnsweep.errors import InputError

__all__ = ["models", "plan", "run", "status"]

MEASURED_RUNS = 1000  # a plan of more is asked for its size first, and must not load torch

SERVED = ("sweep", "state", "done_pct", "by", "planned_runs", "trained", "trials", "missing", "failed")


@click.command()
@click.argument("name", required=False)
@click.option("--classes", default=10, show_default=True, type=click.IntRange(2, 1_000_000))
@click.option("--channels", default=3, show_default=True, type=click.IntRange(1, 1024))
@click.option("--size", default=32, show_default=True, type=click.IntRange(4, 1024), help="Side of the images, pixels.")
@json_option
def models(name: str | None, classes: int, channels: int, size: int, as_json: bool) -> None:
    """List networks; with NAME, one network's BN sites."""
    from bnsweep.sweep.catalog import LocalCatalog
    from bnsweep.training.images import DataShape
    from bnsweep.training.layout import LAYOUTS

    sys.path.insert(0, str(Path.cwd()))  # import: networks of the user's own
    shape = DataShape(channels=channels, size=size, classes=classes)
    catalog = LocalCatalog(Path(), allow_import=True)
    found = [catalog.describe(each, shape) for each in ([name] if name else LAYOUTS)]
    rows = [
        {
            "model": each.name,
            "parameters": each.parameters,
            "multiply_adds": each.multiply_adds,
            "bn_sites": len(each.sites),
        }
        for each in found
    ]
    sites = [asdict(site) for site in found[0].sites]
    if as_json:
        print_json({**rows[0], "sites": sites} if name else rows)
        return
    print_table(rows)
    if name:
        click.echo()
        print_table([{"number": number, **site} for number, site in enumerate(sites, 1)])
    else:
        click.echo(
            "\nAlso: torchvision:NAME for any torchvision classifier, import:PACKAGE.MODULE:FACTORY for your own."
        )


@click.command()
@click.argument("spec")
@store_option
@data_option
@source_option
@part_option
@click.option("--cpus", type=click.IntRange(1), default=None, help="Cores to plan for; default: this machine's.")
@click.option(
    "--measure/--guess",
    default=None,
    help="Time the smallest network now (takes seconds), whatever the store's rows tell; or guess what they do not "
    f"tell from a matrix product; default: measure what they do not tell, for up to {MEASURED_RUNS:,} runs.",
)
@click.option("--cluster", metavar="SHAPE", help="Plan for nodes=N[,cpus=8][,gpus=0][,price=P of a node for an hour].")
@click.option("--history", metavar="STORE", help="With --cluster: whose rows tell speeds; default: the store's.")
@json_option
def plan(
    spec: str,
    location: str,
    data_root: Path,
    source: str | None,
    part: tuple[int, int] | None,
    cpus: int | None,
    measure: bool | None,
    cluster: str | None,
    history: str | None,
    as_json: bool,
) -> None:
    """Show what a sweep would do, and do nothing; of a search: what it does at most.

    SPEC is a YAML file or the name of a ready sweep or search. With --cluster also how long it takes there by measured
    speeds, what that costs, and how much it stores.
    """
    from bnsweep.sweep.estimate import preview
    from bnsweep.sweep.sizing import parse_cluster, size
    from bnsweep.training.datasets import check_dataset

    if history and not cluster:
        raise InputError("--history goes with --cluster")
    shape = parse_cluster(cluster) if cluster else None
    store = existing_store(location)
    plan_ = read_any_plan(spec, data_root, source, store)
    if part and plan_.spec.is_search:
        raise InputError("--part goes with sweeps: a search decides by all of its runs what it trains next")
    plan_ = plan_.part(*part) if part else plan_
    if measure is None and len(plan_.runs) > MEASURED_RUNS:
        measure = False
    summary = preview(plan_, store, cpus=cpus, data_root=data_root, measure=measure)
    if summary.runs_missing or summary.rows_missing:
        for data in {run.fingerprint: run.data for run in plan_.runs}.values():
            check_dataset(data)  # as `run` does, which decodes the images as well
    there = shape and size(plan_, store, shape, open_store(history) if history else store)
    if as_json:
        print_json({**summary.to_dict(), **({"cluster": there.to_dict()} if there else {})})
    else:
        click.echo(summary.to_text())
        if store is None:
            click.echo(f"note     no store at {location} yet: `bnsweep run` makes it")
        if plan_.spec.is_search:
            click.echo(
                "note     a search: its `trainings` per network; BN everywhere stands for what is not proposed yet"
            )
        if there:
            click.echo(f"\n{there.to_text()}")


@click.command()
@click.argument("spec")
@store_option
@data_option
@source_option
@part_option
@engine_options
@click.option("--quiet", is_flag=True, help="No progress.")
def run(
    spec: str,
    location: str,
    data_root: Path,
    source: str | None,
    part: tuple[int, int] | None,
    engine: str,
    address: str | None,
    cpus: int | None,
    retry_failed: bool,
    take_over: bool,
    patience_s: float | None,
    quiet: bool,
) -> None:
    """Run a sweep: train what is untrained, score what has no rows yet.

    SPEC is a YAML file or the name of a ready sweep. The same command again does only what is missing.
    Ctrl-C keeps every finished block.
    """
    from bnsweep.sweep.notes import notes
    from bnsweep.sweep.progress import Silent, choose_progress
    from bnsweep.sweep.run import run_sweep

    check_engine(engine, address=address, cpus=cpus, patience_s=patience_s)
    plan_, text = read_plan(spec, data_root, source)
    for note in notes(plan_, existing_store(location)):
        click.echo(f"note: {note}", err=True)
    summary = run_sweep(
        plan_,
        location,
        text=text,
        part=part,
        engine=engine,
        address=address,
        cpus=cpus,
        retry_failed=retry_failed,
        take_over=take_over,
        patience_s=patience_s,
        data_root=data_root,
        listener=Silent() if quiet else choose_progress(),
    )
    words = [word for word in sys.argv[1:] if word not in ("--retry-failed", "--take-over")]
    for line in summary.lines(again=shlex.join(["bnsweep", *words])):
        click.echo(line)
    if summary.interrupted:
        sys.exit(INTERRUPTED)
    if not quiet and open_store(location).rows("trials"):
        from bnsweep.analysis.headline import accuracy_table

        click.echo("\naccuracy in %, ± half of its 95 % interval (◦ none, † wider than wanted), over n noise draws\n")
        click.echo(accuracy_table(database_of(open_store(location), plan_.spec.name)).to_text())
    sys.exit(1 if summary.failed else 0)


@click.command()
@store_option
@or_server_options
@json_option
def status(location: str, server: str | None, token: str | None, as_json: bool) -> None:
    """Show how far each sweep of a store, or of a service, is."""
    if server:
        answer = client_of(server, token).status()
        if as_json:
            print_json(answer)
        else:
            print_table([{name: row[name] for name in SERVED} for row in answer["sweeps"]])
        return
    store = open_store(location)
    result = database_of(store).query("sweeps")
    holder = store.holder()
    if as_json:
        print_json({"store": store.location, "running": holder and str(holder), "sweeps": result.to_dicts()})
        return
    click.echo(result.to_text())
    click.echo(f"\nA driver is at work: {holder}" if holder else "\nNo driver is at work.")
