"""`bnsweep launch`: the files filled in, checked as those of cluster/ are; what cannot be done is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from config import ROOT, compose, tool, validate, validate_aws, validate_kubernetes

from bnsweep.errors import InputError, UnknownNameError
from bnsweep.experiment.files import ready_specs
from bnsweep.experiment.reading import read_spec
from bnsweep.launch import TARGETS, Launch, launch

GPU_SPEC = """\
name: My_Sweep.v2
data: digits
models: "import:my.nets:make"
resources:
  train: {cpu: 4, gpu: 0.25, accelerator: A100}
  trial: {cpu: 1, gpu: 0.25}
"""
BUCKET = "s3://lab/rows?endpoint_override=minio:9000&scheme=http"


def wanted(tmp_path: Path, text: str = GPU_SPEC, **options: Any) -> Launch:
    path = tmp_path / "my sweep.yaml"
    path.write_text(text)
    parsed, read = read_spec(path)
    return Launch(parsed, read, path, **options)


def test_compose_gets_gpu_workers_the_spec_and_the_store(tmp_path: Path) -> None:
    text = launch("compose", wanted(tmp_path, nodes=2, gpus=4, cpus=16, store=BUCKET, image="lab/bnsweep:1"))
    path = tmp_path / "docker-compose.yml"
    path.write_text(text)
    config = compose("--profile", "run", file=path)["services"]
    assert "worker" not in config
    worker = config["worker-gpu"]
    assert worker["scale"] == 2
    assert "--num-cpus=16" in worker["command"]
    assert worker["deploy"]["resources"]["reservations"]["devices"][0]["count"] == 4
    assert worker["image"] == "lab/bnsweep:1"
    assert worker["environment"]["BNSWEEP_STORE"] == config["head"]["environment"]["BNSWEEP_STORE"] == BUCKET
    assert config["sweep"]["command"] == ["my sweep.yaml"]
    assert Path(config["head"]["build"]["context"], "cluster", "Dockerfile").is_file(), "wherever the file is put"
    (mount,) = [volume for volume in config["head"]["volumes"] if volume["target"] == "/srv/sweeps"]
    assert mount["source"] == str(tmp_path)


def test_kuberay_gets_the_spec_itself_gpus_and_names_that_kubernetes_takes(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(launch("kuberay", wanted(tmp_path, nodes=8, cpus=32, gpus=2, memory_gib=100, store=BUCKET)))
    job = validate_kubernetes(path)
    configuration = next(yaml.safe_load_all(path.read_text()))
    assert job["metadata"]["name"] == configuration["metadata"]["name"] == "bnsweep-my-sweep-v2"
    assert configuration["data"]["sweep.yaml"] == GPU_SPEC
    (workers,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (workers["replicas"], workers["minReplicas"], workers["maxReplicas"]) == (8, 0, 8)
    assert json.loads(json.loads(workers["rayStartParams"]["resources"])) == {"accelerator_type:A100": 1}
    for group in (workers, job["spec"]["rayClusterSpec"]["headGroupSpec"]):
        spec = group["template"]["spec"]
        assert spec["containers"][0]["env"][0] == {"name": "BNSWEEP_STORE", "value": BUCKET}
        assert spec["volumes"][0]["configMap"]["name"] == "bnsweep-my-sweep-v2"
    resources = workers["template"]["spec"]["containers"][0]["resources"]
    assert resources["limits"] == {"cpu": "32", "memory": "100Gi", "nvidia.com/gpu": "2"}


def test_slurm_gets_wishes_and_quoted_paths(tmp_path: Path) -> None:
    path = tmp_path / "job.sbatch"
    path.write_text(launch("slurm", wanted(tmp_path, nodes=8, gpus=4, hours=12, store=str(tmp_path / "my store"))))
    subprocess.run([tool("shellcheck"), path], check=True)
    text = path.read_text()
    for wish in ("nodes=8", "gpus-per-node=4", "cpus-per-task=16", "time=12:00:00", "job-name=bnsweep-my-sweep-v2"):
        assert f"\n#SBATCH --{wish}\n" in text
    said = subprocess.run(
        ["bash", "-c", '. <(grep -E "^(SPEC|STORE)=" "$0"); printf "%s\n" "$SPEC" "$STORE"', path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.splitlines() == [str(tmp_path / "my sweep.yaml"), str(tmp_path / "my store")]


@pytest.mark.parametrize("models", ["resnet8", "import:my.nets:make"])
def test_a_slurm_file_runs_from_ones_own_directory(models: str, tmp_path: Path) -> None:
    """As it stands: with the environment that wrote it, and networks of one's own beside the spec or where one was."""
    mine = tmp_path / "my sweeps"
    mine.mkdir()
    (mine / "mine.yaml").write_text(f"name: mine\ndata: digits\nmodels: '{models}'\n")
    words = [sys.executable, "-m", "bnsweep", "launch", "my sweeps/mine.yaml", "--target", "slurm", "--out", "job"]
    subprocess.run(words, check=True, cwd=tmp_path, capture_output=True)
    text = (tmp_path / "job").read_text()
    assert "`sbatch FILE` starts it" in text.splitlines()[2]
    assert "cluster/slurm.sbatch" not in text, "what is overwritten is not asked for"
    subprocess.run([tool("shellcheck"), tmp_path / "job"], check=True)
    show = (
        '. <(grep -E "^(VENV|PATH|export PYTHONPATH)=" "$0"); printf "%s\\n" "$PATH" "$PYTHONPATH"; command -v bnsweep'
    )
    elsewhere = {"PATH": "/usr/bin:/bin", "PYTHONPATH": "/srv/others"}
    said = subprocess.run(
        ["bash", "-c", show, tmp_path / "job"], capture_output=True, text=True, check=True, env=elsewhere, cwd="/"
    )
    path, found, command = said.stdout.splitlines()
    assert path == f"{sys.prefix}/bin:/usr/bin:/bin"
    assert Path(command).parent == Path(sys.prefix) / "bin"
    own = f"{tmp_path}:{mine}" if "import:" in models else "/"
    assert found == f"{own}:/srv/others"


def test_aws_gets_machines_and_the_spec(tmp_path: Path) -> None:
    path = tmp_path / "aws.yaml"
    path.write_text(
        launch("aws", wanted(tmp_path, nodes=8, gpus=4, cpus=48, store="s3://lab/rows", instance="g6.12xlarge"))
    )
    config = validate_aws(path)
    worker = config["available_node_types"]["worker"]
    assert worker["node_config"]["InstanceType"] == "g6.12xlarge"
    assert worker["resources"] == {"CPU": 48, "GPU": 4, "accelerator_type:A100": 1}
    assert config["max_workers"] == worker["max_workers"] == 8
    assert config["file_mounts"]["/srv/sweeps/sweep.yaml"] == str(tmp_path / "my sweep.yaml")
    assert "--env BNSWEEP_STORE=s3://lab/rows" in config["docker"]["run_options"]


def test_images_are_found_wherever_a_slurm_job_starts(tmp_path: Path) -> None:
    (tmp_path / "my sweeps").mkdir()
    (tmp_path / "my sweeps" / "mine.yaml").write_text("name: mine\ndata: folder:images\nmodels: resnet8\n")
    words = [sys.executable, "-m", "bnsweep", "launch", "my sweeps/mine.yaml", "--target", "slurm", "--out", "job"]
    subprocess.run(words, check=True, cwd=tmp_path, capture_output=True)
    subprocess.run([tool("shellcheck"), tmp_path / "job"], check=True)
    show = '. <(grep -E "^(cd|SPEC=)" "$0"); echo "$PWD"; ls "$SPEC"'
    said = subprocess.run(["bash", "-c", show, tmp_path / "job"], capture_output=True, text=True, check=True, cwd="/")
    assert said.stdout.splitlines() == [str(tmp_path), str(tmp_path / "my sweeps" / "mine.yaml")]


@pytest.mark.parametrize("target", ["compose", "kuberay", "aws"])
@pytest.mark.parametrize(
    ("data", "models", "entry", "full"),
    [
        ("folder:images", "resnet8", "folder:images", "folder:/srv/data/images"),
        ("parquet:~/images", "resnet8", "parquet:~/images", "parquet:/srv/data/images"),
        ("digits", "{name: resnet8, weights: nets/a.pt}", "nets/a.pt", "/srv/data/a.pt"),
    ],
)
def test_files_that_containers_would_not_find_are_refused(
    target: str, data: str, models: str, entry: str, full: str, tmp_path: Path
) -> None:
    text = f"name: mine\ndata: '{data}'\nmodels: {models}\n"
    options = {"here": tmp_path / "other", "store": "s3://lab/rows"}
    with pytest.raises(InputError, match=f"{entry} is a relative path.*, e.g. {full}$"):
        launch(target, wanted(tmp_path, text, **options))
    (note,) = wanted(tmp_path, text, **options).notes()
    assert note.startswith(f"{entry} must lie where the driver runs")
    launch(target, wanted(tmp_path, text.replace(entry, full), **options))


def test_compose_takes_images_beside_the_spec(tmp_path: Path) -> None:
    beside = wanted(tmp_path, "name: mine\ndata: folder:images\nmodels: resnet8\n", here=tmp_path)
    (mount,) = [line for line in launch("compose", beside).splitlines() if ":/srv/sweeps" in line]
    assert str(tmp_path) in mount
    assert "\nWORKDIR /srv/sweeps\n" in (ROOT / "cluster" / "Dockerfile").read_text()


@pytest.mark.parametrize("target", TARGETS)
def test_gpus_that_no_task_takes_are_not_reserved(target: str, tmp_path: Path) -> None:
    text = GPU_SPEC.partition("resources")[0]
    options = {"cpus": 8, "store": "s3://lab/rows"}
    without, four = wanted(tmp_path, text, **options), wanted(tmp_path, text, **options, gpus=4)
    assert launch(target, four) == launch(target, without)
    (said,) = set(four.notes()) - set(without.notes())
    assert said.startswith("--gpus 4 is left out: no task of this sweep takes a GPU")
    keys = said.split("`")[1]
    assert wanted(tmp_path, f"{text}{keys}\n", gpus=4).node_gpus == 4, "as the note says"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ready_specs())
def test_every_ready_sweep_can_be_launched_anywhere(target: str, name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"store": "s3://lab/rows"}
    if target == "aws":
        options["instance"] = "g6.12xlarge"
    parsed, text = read_spec(name)
    filled = launch(target, Launch(parsed, text, ready_specs()[name], **options))
    source = ROOT / ("docker-compose.yml" if target == "compose" else f"cluster/{template(target)}")
    text = source.read_text().replace("bnsweep run", "bnsweep search" if parsed.is_search else "bnsweep run")
    by_hand = ("# By hand: ", "#SBATCH", "##SBATCH")  # what the filled-in file has another line for, or no use
    comments = {line for line in text.splitlines() if line.startswith("#") and not line.startswith(by_hand)}
    assert comments <= set(filled.splitlines()), "the explanations stay"
    if name in ("quickstart", "placement-search"):
        path = tmp_path / source.name
        path.write_text(filled)
        validate(path, source.name)


def template(target: str) -> str:
    return {"kuberay": "kuberay-rayjob.yaml", "slurm": "slurm.sbatch", "aws": "aws.yaml"}[target]


def test_a_search_is_launched_as_a_search(tmp_path: Path) -> None:
    text = "name: find\ndata: digits\nmodels: resnet8\nsearch: {trainings: 10}\n"
    search = wanted(tmp_path, text, store="gs://lab/rows")
    assert "\n  entrypoint: bnsweep search /srv/sweeps/sweep.yaml --address auto\n" in launch("kuberay", search)
    assert '"$driver" bnsweep search "$SPEC" --store' in launch("slurm", search)
    assert "entrypoint bnsweep search /srv/sweeps/sweep.yaml --address auto'" in launch("aws", search)
    path = tmp_path / "docker-compose.yml"
    path.write_text(launch("compose", search))
    service = compose("--profile", "run", file=path)["services"]["sweep"]
    (tmp_path / "ray").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "ray").chmod(0o755)
    words = ["sh", ROOT / "cluster" / "entrypoint", *service["entrypoint"][1:], *service["command"]]
    given = {**service["environment"], "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(words, env=given, capture_output=True, text=True, check=True).stdout.split("\n--\n")[1]
    assert said.split("\n")[:4] == ["bnsweep", "search", "--wait-for-nodes=600", "my sweep.yaml"]


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("kuberay", {}, "give --store s3://BUCKET/FOLDER"),
        ("aws", {"store": "/data/store"}, "the store is a bucket, but got --store /data/store"),
        ("aws", {"store": "s3://lab/rows"}, "say which machines have them"),
        ("slurm", {"instance": "g6.12xlarge"}, "--instance means nothing to --target slurm"),
        ("compose", {"hours": 3}, "--hours means nothing to --target compose"),
        ("compose", {"memory_gib": 3}, "--memory means nothing to --target compose"),
        ("slurm", {"cpus": 2}, "a task of this sweep takes 4 CPUs, but a node has --cpus 2"),
        ("slurm", {"gpus": 0}, "a task of this sweep takes 0.25 GPUs, but a node has --gpus 0"),
    ],
)
def test_what_cannot_be_is_refused(target: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        launch(target, wanted(tmp_path, **options))


def test_an_unknown_target_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown target 'nomad'. Valid: compose, kuberay, slurm, aws"):
        launch("nomad", wanted(tmp_path))


def test_the_command_prints_the_file_and_notes_apart(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GPU_SPEC)
    words = [sys.executable, "-m", "bnsweep", "launch", "mine.yaml", "--target", "slurm", "--nodes", "3"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.startswith("#!/usr/bin/env bash")
    assert f"SPEC={tmp_path}/mine.yaml" in done.stdout
    assert "note: import: networks are not part of a spec" in done.stderr
    assert "called A100" in done.stderr
    bad = subprocess.run(
        [*words[:-4], "--target", "kuberay"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("bnsweep: nodes that come and go keep nothing")
