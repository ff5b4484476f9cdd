"""The files of cluster/ and docker-compose.yml, filled in for one sweep or search: `bnsweep launch`.

The files are complete as they stand, comments included; what a sweep and a cluster have of their own is put in its
place, and nothing else is touched. No cluster is asked and nothing is started.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import LiteralScalarString

from bnsweep._version import __version__
from bnsweep.errors import InputError, UnknownNameError
from bnsweep.experiment.spec import FileEntry, Spec
from bnsweep.paths import home_expanded

__all__ = ["TARGETS", "Launch", "launch"]

MEMORY_PER_CPU_GIB = 2
SHARED_MEMORY = 0.4  # of a container's memory; Ray's object store takes 0.3
SWEEP = "/srv/sweeps/sweep.yaml"  # where containers find the spec


@dataclass(frozen=True, slots=True)
class Launch:
    """One sweep or search, and the cluster for it. None: what the target's file says, or what the spec needs."""

    spec: Spec
    text: str  # as its user wrote it
    path: Path  # of its file
    nodes: int | None = None
    cpus: int | None = None  # per node
    gpus: int | None = None  # per node
    memory_gib: int | None = None  # per node
    store: str | None = None
    image: str | None = None
    hours: int | None = None
    instance: str | None = None  # AWS's name of a machine type
    here: Path | None = None  # where the command was given: import: networks and the spec's files may lie there
    venv: str = sys.prefix  # has bnsweep; with Slurm all nodes share it

    @property
    def name(self) -> str:
        """For clusters, which take lower-case letters, digits and hyphens; KubeRay takes 47 of them."""
        return "bnsweep-" + re.sub(r"[^a-z0-9]+", "-", self.spec.name.lower()).strip("-")[:39].rstrip("-")

    @property
    def command(self) -> str:
        """What runs it."""
        return f"bnsweep {'search' if self.spec.is_search else 'run'}"

    @property
    def accelerator(self) -> str | None:
        return self.spec.resources.train.accelerator or self.spec.resources.trial.accelerator

    @property
    def node_gpus(self) -> int:
        """GPUs per node: as many as the hungriest task needs, unless said; none where no task takes any."""
        needed = self.spec.resources.gpu
        if self.gpus is not None and needed > self.gpus:
            raise InputError(f"a task of this sweep takes {needed:g} GPUs, but a node has --gpus {self.gpus}")
        return math.ceil(needed) if self.gpus is None or not needed else self.gpus

    def node_cpus(self, default: int) -> int:
        needed = max(self.spec.resources.train.cpu, self.spec.resources.trial.cpu)
        if self.cpus is not None and needed > self.cpus:
            raise InputError(f"a task of this sweep takes {needed:g} CPUs, but a node has --cpus {self.cpus}")
        return max(default, math.ceil(needed)) if self.cpus is None else self.cpus

    @property
    def shared_store(self) -> str:
        """A store that pods and machines which come and go can reach."""
        if self.store is None:
            raise InputError("nodes that come and go keep nothing: give --store s3://BUCKET/FOLDER, gs:// or abfss://")
        if not self.store.startswith(("s3://", "gs://", "abfss://")):
            raise InputError(
                f"nodes that come and go keep nothing, so the store is a bucket, but got --store {self.store}. "
                "Give s3://BUCKET/FOLDER, gs:// or abfss://"
            )
        return self.store

    @property
    def imports(self) -> bool:
        """Whether there are networks of the user's own."""
        return any(model.name.startswith("import:") for model in self.spec.models)

    @property
    def relative_files(self) -> list[FileEntry]:
        """Images and weights whose paths hold where the command was given."""
        return [entry for entry in self.spec.files if not Path(entry.path).is_absolute()]

    def check_files(self) -> None:
        """For containers, which have folders of their own. Raises InputError."""
        if self.relative_files:
            entry = self.relative_files[0]
            raise InputError(
                f"{entry} is a relative path, which the cluster would look for in a folder of its own: write in full "
                f"where it lies on the cluster's head, e.g. {entry.at(f'/srv/data/{Path(entry.path).name}')}"
            )

    def notes(self) -> list[str]:
        """What the files cannot do by themselves."""
        found = []
        if self.imports:
            found.append("import: networks are not part of a spec: every node must find their package (PYTHONPATH)")
        for entry in self.spec.files:
            found.append(f"{entry} must lie where the driver runs, which is the head of the cluster")
        if self.accelerator:
            found.append(f"tasks wait for nodes whose GPUs are called {self.accelerator}: choose such machines")
        if idle := self.spec.resources.idle_gpus(self.gpus):
            found.append(f"--gpus {self.gpus} is left out: {idle}")
        return found


def launch(target: str, wanted: Launch) -> str:
    """A target's file, filled in.

    Raises:
        UnknownNameError: no such target.
        InputError: something that the target needs and has not, or has no use for.
    """
    if target not in TARGETS:
        raise UnknownNameError("target", target, TARGETS)
    fill, takes = TARGETS[target]
    for option in ("nodes", "cpus", "gpus", "memory_gib", "store", "image", "hours", "instance"):
        if getattr(wanted, option) is not None and option not in takes:
            raise InputError(f"--{option.removesuffix('_gib')} means nothing to --target {target}")
    return fill(wanted)


def _template(name: str) -> str:
    return (files("bnsweep.cluster") / name).read_text(encoding="utf-8")


def _checkout() -> Path | None:
    """Where the image can be built, wherever the file is put; None: bnsweep was installed without its sources."""
    folder = Path(str(files("bnsweep.cluster"))).resolve().parent
    return folder if (folder / "pyproject.toml").is_file() and (folder / "cluster" / "Dockerfile").is_file() else None


def _yaml() -> YAML:
    """Comments, order and quotes stay."""
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _dump(yaml: YAML, documents: list[Any]) -> str:
    stream = StringIO()
    yaml.dump_all(documents, stream)
    return stream.getvalue()


def _compose(wanted: Launch) -> str:
    yaml = _yaml()
    file = yaml.load(_template("docker-compose.yml"))
    if not file:
        raise InputError(
            "docker-compose.yml is empty: it is what gets filled in, so write elsewhere, e.g. to compose.yaml"
        )
    if wanted.store and "://" not in wanted.store:
        raise InputError(f"containers share no folder of this machine, but got --store {wanted.store}: name a bucket")
    if wanted.here != wanted.path.parent:  # containers have the spec's folder, and start in it
        wanted.check_files()
    common, services = file["x-bnsweep"], file["services"]
    if wanted.image:
        common["image"] = wanted.image
    if checkout := _checkout():
        common["build"]["context"] = str(checkout)
    if wanted.store:
        common["environment"]["BNSWEEP_STORE"] = wanted.store
    common["volumes"][-1] = f"{wanted.path.parent}:/srv/sweeps:ro"
    services["sweep"]["command"] = [*(["search"] if wanted.spec.is_search else []), wanted.path.name]
    cpus = f"--num-cpus={wanted.node_cpus(2)}"
    worker, other = ("worker-gpu", "worker") if wanted.node_gpus else ("worker", "worker-gpu")
    words = services[worker]["command"]
    words[next(number for number, word in enumerate(words) if word.startswith("--num-cpus="))] = cpus
    services[worker].pop("profiles", None)
    services[worker]["scale"] = wanted.nodes or 1
    del services[other]
    if wanted.node_gpus:
        common["build"]["args"]["CUDA"] = 1
        (device,) = services[worker]["deploy"]["resources"]["reservations"]["devices"]
        device["count"] = wanted.node_gpus
    return _dump(yaml, [file])


def _kuberay(wanted: Launch) -> str:
    wanted.check_files()
    yaml = _yaml()
    configuration, job = yaml.load_all(_template("kuberay-rayjob.yaml"))
    configuration["metadata"]["name"] = job["metadata"]["name"] = wanted.name
    configuration["data"]["sweep.yaml"] = LiteralScalarString(wanted.text)
    job["spec"]["entrypoint"] = job["spec"]["entrypoint"].replace("bnsweep run", wanted.command)
    cluster = job["spec"]["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"]
    worker = workers["template"]
    for template in (head, worker, job["spec"]["submitterPodTemplate"]):
        template["spec"]["containers"][0]["image"] = wanted.image or f"bnsweep:{__version__}"
        for volume in template["spec"].get("volumes", ()):
            if volume["name"] == "sweep":
                volume["configMap"]["name"] = wanted.name
    head["spec"]["containers"][0]["env"][0]["value"] = wanted.shared_store  # the workers' too: they repeat the list
    workers["replicas"] = workers["maxReplicas"] = wanted.nodes or workers["maxReplicas"]
    cpus = wanted.node_cpus(8)
    memory = wanted.memory_gib or MEMORY_PER_CPU_GIB * cpus
    resources = worker["spec"]["containers"][0]["resources"]
    for part in (resources["requests"], resources["limits"]):
        part["cpu"], part["memory"] = str(cpus), f"{memory}Gi"
        if wanted.node_gpus:
            part["nvidia.com/gpu"] = str(wanted.node_gpus)
    worker["spec"]["volumes"][-1]["emptyDir"]["sizeLimit"] = f"{round(SHARED_MEMORY * memory * 1024)}Mi"
    if wanted.accelerator:  # else the autoscaler would not know that these nodes are what tasks wait for
        workers["rayStartParams"]["resources"] = f'"{{\\"accelerator_type:{wanted.accelerator}\\": 1}}"'
    return _dump(yaml, [configuration, job])


def _slurm(wanted: Launch) -> str:
    text = _template("slurm.sbatch").replace("bnsweep run", wanted.command)
    store = wanted.store or "bnsweep-store"
    if "://" not in store:
        store = str(home_expanded(store).absolute())
    wishes = {
        "job-name": wanted.name,
        "nodes": wanted.nodes,
        "cpus-per-task": wanted.node_cpus(16),
        "gpus-per-node": wanted.node_gpus or None,
        "mem": f"{wanted.memory_gib}G" if wanted.memory_gib else None,
        "time": f"{wanted.hours}:00:00" if wanted.hours else None,
    }
    lines = {f"#+SBATCH --{name}=.*": f"#SBATCH --{name}={value}" for name, value in wishes.items() if value}
    lines |= {r"SPEC=.*": f"SPEC={shlex.quote(str(wanted.path))}", r"STORE=.*": f"STORE={shlex.quote(store)}"}
    lines[r"VENV=.*"] = f"VENV=${{VENV:-{shlex.quote(wanted.venv)}}} # with bnsweep[ray,cluster,s3]"
    if wanted.relative_files and wanted.here:
        folder = f"cd {shlex.quote(str(wanted.here))} # where the spec's files are found"
        lines[r"SPEC=.*"] = f"{folder}\n{lines[r'SPEC=.*']}"
    for pattern, line in lines.items():
        text = re.sub(f"^{pattern}$", line.replace("\\", r"\\"), text, flags=re.MULTILINE)
    if wanted.imports:
        text = text.replace("export PYTHONPATH=$PWD", f"export PYTHONPATH={_folders(wanted)}")
    return re.sub("^# By hand: .*\n", "", text, flags=re.MULTILINE)


def _folders(wanted: Launch) -> str:
    """Where import: networks are found: as `bnsweep plan` finds them, and beside the spec."""
    folders = dict.fromkeys(str(each) for each in (wanted.here, wanted.path.parent) if each)
    return ":".join(map(shlex.quote, folders))


def _aws(wanted: Launch) -> str:
    wanted.check_files()
    yaml = _yaml()
    file = yaml.load(_template("aws.yaml").replace("bnsweep run", wanted.command))
    file["cluster_name"] = wanted.name
    docker, worker = file["docker"], file["available_node_types"]["worker"]
    docker["image"] = wanted.image or f"bnsweep:{__version__}"
    store = shlex.quote(f"BNSWEEP_STORE={wanted.shared_store}")
    docker["run_options"] = [
        f"--env {store}" if "BNSWEEP_STORE=" in option else option for option in docker["run_options"]
    ]
    file["file_mounts"][SWEEP] = str(wanted.path)
    file["max_workers"] = worker["max_workers"] = wanted.nodes or worker["max_workers"]
    if wanted.node_gpus and not wanted.instance:
        raise InputError("this sweep needs GPUs: say which machines have them, e.g. --instance g6.12xlarge --gpus 4")
    if wanted.instance:
        worker["node_config"]["InstanceType"] = wanted.instance
    worker["resources"]["CPU"] = wanted.node_cpus(16)
    if wanted.node_gpus:
        worker["resources"]["GPU"] = wanted.node_gpus
    if wanted.accelerator:
        worker["resources"][f"accelerator_type:{wanted.accelerator}"] = 1
    return _dump(yaml, [file])


COMMON = frozenset({"nodes", "cpus", "gpus", "store"})
TARGETS: dict[str, tuple[Callable[[Launch], str], frozenset[str]]] = {
    "compose": (_compose, COMMON | {"image"}),
    "kuberay": (_kuberay, COMMON | {"image", "memory_gib"}),
    "slurm": (_slurm, COMMON | {"memory_gib", "hours"}),
    "aws": (_aws, COMMON | {"image", "instance"}),
}
