"""The command launch: what a cluster needs to run a sweep, printed."""

from __future__ import annotations

from pathlib import Path

import click

from bnsweep.cli.options import LocalPath
from bnsweep.paths import whole

__all__ = ["launch"]


@click.command()
@click.argument("spec")
@click.option("--target", required=True, type=click.Choice(["compose", "kuberay", "slurm", "aws"]))
@click.option("--nodes", type=click.IntRange(1), help="Nodes that work; with KubeRay and AWS the most at a time.")
@click.option("--cpus", type=click.IntRange(1), help="CPU cores per node.")
@click.option("--gpus", type=click.IntRange(0), help="GPUs per node, where tasks take some; default: what they need.")
@click.option("--memory", "memory_gib", type=click.IntRange(1), help="Memory per node, GiB.")
@click.option("--store", help="A bucket (s3://, gs://, abfss://); with Slurm also a folder that all nodes share.")
@click.option("--image", help="The image built from cluster/Dockerfile, as your registry knows it.")
@click.option("--hours", type=click.IntRange(1), help="Slurm: time limit of one start; the job is requeued at its end.")
@click.option("--instance", help="AWS: machine type of the workers.")
@click.option("--out", type=LocalPath(dir_okay=False), help="Write to this file.")
def launch(spec: str, target: str, out: Path | None, **options: int | str | None) -> None:
    """Print what runs a sweep or a search on a cluster: a Compose, KubeRay, Slurm or `ray up` file, filled in.

    SPEC is a YAML file or the name of a ready one. Nothing is started; the head of the file says how.
    """
    from bnsweep.experiment.files import spec_path
    from bnsweep.experiment.reading import read_spec
    from bnsweep.launch import Launch
    from bnsweep.launch import launch as fill

    parsed, text = read_spec(spec)
    wanted = Launch(parsed, text, spec_path(spec).resolve(), here=Path.cwd().resolve(), **options)  # type: ignore[arg-type]  # click has the types
    filled = fill(target, wanted)
    for note in wanted.notes():
        click.echo(f"note: {note}", err=True)
    if out is None:
        click.echo(filled, nl=False)
        return
    with whole(out) as place:
        place.write_text(filled, encoding="utf-8")
