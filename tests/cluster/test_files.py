"""Every file of cluster/ and docker-compose.yml against the tools and schemas of those who will read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from config import CLUSTER, check, compose, validate, validate_aws, validate_kubernetes

from bnsweep.sweep.ray_settings import HEALTH


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(compose("--profile", "*")["services"])


def test_the_scripts_pass_shellcheck() -> None:
    check("shellcheck", CLUSTER / "entrypoint", CLUSTER / "slurm.sbatch", CLUSTER / "slurm-array.sbatch")


def test_the_dockerfile_passes_hadolint() -> None:
    check("hadolint", CLUSTER / "Dockerfile")


def test_the_image_is_pinned_unprivileged_and_takes_lost_hosts_for_lost() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    installs = re.findall(r"pip install.*", text)
    assert installs
    assert all("--constraint constraints.txt" in install for install in installs)
    assert re.findall(r"^USER (.*)", text, re.MULTILINE) == ["1000"]
    for name, value in HEALTH.items():
        assert re.search(rf"{name}={value}\b", text), name
        assert re.search(rf"{name}={value}\b", (CLUSTER / "slurm.sbatch").read_text()), name


def test_compose_runs_one_image_with_roles(services: dict[str, Any]) -> None:
    assert set(services) == {
        "keys", "objects", "bucket", "admin", "head", "worker", "worker-gpu", "service", "sweep", "bnsweep",
    }  # fmt: skip
    ours = [service for name, service in services.items() if name != "objects"]
    assert {service["image"] for service in ours} == {"bnsweep"}
    assert {service["build"]["dockerfile"] for service in ours} == {"cluster/Dockerfile"}
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
    assert services["objects"]["user"] == "1000:1000"  # ours are uid 1000 by their Dockerfile


def test_compose_publishes_the_service_alone_and_on_this_machine_alone(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert list(published) == ["service"]
    (port,) = published["service"]
    assert (port["host_ip"], port["published"], port["target"]) == ("127.0.0.1", "8000", 8000)
    assert not any(service.get("network_mode") == "host" for service in services.values())


def test_compose_gives_ray_shared_memory_and_a_head_without_work(services: dict[str, Any]) -> None:
    assert "head" in services["head"]["command"][0]
    for name in ("head", "worker", "worker-gpu"):
        (given,) = [word for word in services[name]["command"] if word.startswith("--object-store-memory=")]
        assert int(given.partition("=")[2]) < int(services[name]["shm_size"]), name
    assert "--num-cpus=0" in (CLUSTER / "entrypoint").read_text()


def test_compose_keeps_secrets_in_files_that_only_those_write_who_make_them(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for volume in service.get("volumes", []):
            if volume["source"] == "secrets":
                assert volume.get("read_only", False) == (name not in {"keys", "admin"}), name
        for variable, value in (service.get("environment") or {}).items():
            if re.search("TOKEN|SECRET|KEY|CREDENTIALS", variable):
                assert value.startswith("/srv/secrets/"), f"{name}: {variable} is in the file itself"


def test_compose_starts_in_order_and_knows_who_is_well(services: dict[str, Any]) -> None:
    waits = {
        name: {other: needed["condition"] for other, needed in (service.get("depends_on") or {}).items()}
        for name, service in services.items()
    }
    done, well = "service_completed_successfully", "service_healthy"
    assert waits["objects"] == {"keys": done}
    assert waits["bucket"] == {"objects": well}
    assert waits["head"] == {"keys": done}
    assert waits["admin"] == {"bucket": done}
    assert waits["service"] == {"head": well, "admin": done}
    for name in ("worker", "worker-gpu", "sweep"):
        assert waits[name] == {"head": well, "bucket": done}, name
    for name, needed in waits.items():
        for other, condition in needed.items():
            if condition == well:
                assert services[other]["healthcheck"].get("test"), f"{name} waits for {other}"


def test_compose_has_gpu_workers_on_request() -> None:
    assert "worker-gpu" not in compose()["services"]
    found = compose("--profile", "gpu", CUDA="1")["services"]["worker-gpu"]
    (device,) = found["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert found["build"]["args"]["CUDA"] == "1"


def test_compose_writes_nothing_that_matters_into_a_container(services: dict[str, Any]) -> None:
    volumes = {name: {v["target"]: v["source"] for v in services[name].get("volumes", [])} for name in services}
    assert volumes["objects"]["/data"] == "objects"
    for name in ("head", "worker", "worker-gpu", "service", "sweep", "bnsweep"):
        environment = services[name]["environment"]
        assert environment["BNSWEEP_STORE"].startswith("s3://"), name
        assert volumes[name][environment["BNSWEEP_DATA"]] == "data", name


def test_the_rayjob_fits_the_schemas_of_kuberay_and_kubernetes() -> None:
    validate_kubernetes(CLUSTER / "kuberay-rayjob.yaml")


def test_the_rayjob_scales_its_workers_and_keeps_nothing_in_pods() -> None:
    import ray

    job = validate_kubernetes(CLUSTER / "kuberay-rayjob.yaml")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["enableInTreeAutoscaling"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] == 0 < workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        spec = group["template"]["spec"]
        names = {volume["name"] for volume in spec["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}
        assert set(mounts) <= names
        assert mounts["shm"] == "/dev/shm"
        assert spec["securityContext"]["runAsNonRoot"]
        environment = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
        assert environment["BNSWEEP_STORE"].startswith("s3://")


def test_the_aws_cluster_fits_rays_own_schema() -> None:
    config = validate_aws(CLUSTER / "aws.yaml")
    head, worker = (config["available_node_types"][name] for name in ("head", "worker"))
    assert config["head_node_type"] == "head"
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert "InstanceMarketOptions" not in head["node_config"]
    assert worker["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert config["file_mounts"]["/srv/secrets/ray_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("slurm.sbatch", {"ntasks-per-node": "1", "exclusive": ""}),
        ("slurm-array.sbatch", {"nodes": "1", "ntasks": "1"}),
    ],
)
def test_slurm_reads_the_wishes_of_the_script(name: str, wanted: dict[str, str]) -> None:
    lines = (CLUSTER / name).read_text().splitlines()
    wishes = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")]
    given = dict(wish.split("=", 1) if "=" in wish else (wish, "") for wish in wishes)
    assert {"nodes", "cpus-per-task", "time", "requeue"} <= set(given)
    assert wanted.items() <= given.items()
    assert re.fullmatch(r"B:USR1@\d+", given["signal"])
    # Slurm stops reading at the first command.
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not any(line.startswith("#SBATCH") for line in lines[first:])


WRONG = [
    # file, what is there, what somebody wrote, and what the schema or tool says of it
    ("docker-compose.yml", "cap_drop: [ALL]", "cap_dropp: [ALL]", "cap_dropp"),
    ("docker-compose.yml", "condition: service_healthy", "condition: service_fine", "condition"),
    ("docker-compose.yml", "restart: unless-stopped", "restart: [always]", "restart"),
    ("docker-compose.yml", "depends_on: *cluster", "depends_on: {nobody: {condition: service_started}}", "nobody"),
    ("kuberay-rayjob.yaml", "backoffLimit: 3", "backoffLimits: 3", "backoffLimits"),
    ("kuberay-rayjob.yaml", "maxReplicas: 4", "maxReplicas: four", "four"),
    ("kuberay-rayjob.yaml", "authOptions: {mode: token}", "authOptions: {mode: password}", "password"),
    ("kuberay-rayjob.yaml", "containerPort: 6379", "containerport: 6379", "containerport"),
    ("kuberay-rayjob.yaml", "runAsNonRoot: true", "runAsNonRoot: sure", "sure"),
    ("kuberay-rayjob.yaml", "data:\n  sweep.yaml", "datum:\n  sweep.yaml", "datum"),
    ("aws.yaml", "max_workers: 4", "max_workers: four", "four"),
    ("aws.yaml", "idle_timeout_minutes: 5", "idle_minutes: 5", "idle_minutes"),
    ("aws.yaml", "head_node_type: head", "head_node_type: boss", "boss|head_node_type"),
    ("slurm.sbatch", 'kill -TERM "$(cat "$driver")"', "kill -TERM $(cat $driver)", "SC2046"),
    ("entrypoint", "case ${1:-} in", "case ${1:-} on", "SC1[0-9]{3}"),
    ("Dockerfile", "FROM python:${PYTHON}-slim-bookworm", "FROM python", "DL3006"),
]


@pytest.mark.parametrize(("name", "right", "wrong", "said"), WRONG, ids=[f"{row[0]}: {row[2]}"[:50] for row in WRONG])
def test_what_checks_the_files_finds_mistakes(name: str, right: str, wrong: str, said: str, tmp_path: Path) -> None:
    text = (CLUSTER / name).read_text()
    assert right in text
    path = tmp_path / name
    path.write_text(text.replace(right, wrong, 1))
    with pytest.raises(Exception, match=said):  # each tool has its own kind
        validate(path, name)
