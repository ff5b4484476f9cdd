"""A sweep on the cluster of docker-compose.yml, in containers without an engine: see containers.py.

    python -m tests.cluster.compose_run             the quickstart as it ships, minutes
    python -m tests.cluster.compose_run --short     fewer epochs, seeds and trials, as the test does it

Needs root. The S3 server is moto's: the image of SeaweedFS is not ours to build. Everything else runs as Compose says.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "faults"))

import containers
import fault_sweeps
import yaml
from config import compose

from bnsweep.experiment.files import READY

S3 = [sys.executable, "-c", "from moto.server import main; main(['-H', '0.0.0.0', '-p', '9000'])"]
# What a whole store says, as JSON; run inside, where the store can be reached.
ROWS = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import fault_sweeps
store = os.environ["BNSWEEP_STORE"]
opened = fault_sweeps.Store.open(store)
workers = {row["worker"] for table in ("runs", "trials") for row in opened.read(table).to_pylist()}
rows = fault_sweeps.all_rows(store)
print(json.dumps({"rows": rows, "parted": fault_sweeps.parted_rows(store), "workers": sorted(workers)}, default=str))
"""
UNKNOWN = """
import os, sys, urllib.error, urllib.request
try:
    urllib.request.urlopen("http://head:8265/api/jobs/", timeout=10)
except urllib.error.HTTPError as error:
    print(error.code)
"""


# What a browser gets that signs in with each of some tokens.
SERVICE = """
import http.cookiejar, re, sys, urllib.error, urllib.parse, urllib.request
for token in sys.argv[1:]:
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    try:
        form = opener.open("http://service:8000/signin", timeout=60).read().decode()
        proof = re.search('name="proof" value="([^"]+)"', form)[1]
        words = urllib.parse.urlencode({"token": token, "proof": proof})
        page = opener.open("http://service:8000/signin", words.encode(), timeout=60)
        print(page.status, urllib.parse.urlsplit(page.url).path, "quickstart" in page.read().decode())
    except urllib.error.HTTPError as error:
        print(error.code)
"""
# Files of a container's own, which are gone with it; volumes and shared memory are other file systems.
OWN_FILES = ["find", "/srv", "/tmp", "-xdev", "-type", "f"]
MADE_BEFORE = ("/srv/bin/", "/srv/.", "/srv/bnsweep/entrypoint")


def shortened(text: str) -> str:
    """The quickstart's networks, placements, noise and eta; fewer images, epochs, seeds and trials."""
    spec = yaml.safe_load(text)
    spec["data"] |= {"train_images": 200, "test_images": 100}
    spec |= {"train_seeds": 1, "trials": 2}
    spec["training"] |= {"epochs": 1}
    return yaml.safe_dump(spec)


def compose_run(folder: Path, *, short: bool) -> dict[str, Any]:
    """Rows of the submitted job and of a run on this machine alone, and what else was seen."""
    sweeps = folder / "sweeps"
    sweeps.mkdir(parents=True)
    text = (READY / "quickstart.yaml").read_text()
    (sweeps / "quickstart.yaml").write_text(shortened(text) if short else text)
    config = compose(
        "--profile", "*",
        WORKER_CPUS="1", OBJECT_STORE_BYTES="100000000", SHM_SIZE="200m", SWEEPS=str(sweeps),
    )  # fmt: skip
    seen: dict[str, Any] = {}
    begin = time.monotonic()
    with containers.Engine(folder) as engine:
        cluster = containers.Compose(engine, config)
        cluster.up("worker", scale={"worker": 3}, stand_ins={"objects": S3})
        cluster.wait("worker", "service_healthy")
        seen["cluster up, s"] = time.monotonic() - begin
        head = cluster.running["head"][0]
        seen["without the token"] = head.run(sys.executable, "-c", UNKNOWN).stdout.strip()
        seen["user of Ray"] = head.run("stat", "-c", "%u", "/srv/ray").stdout.strip()
        begin = time.monotonic()
        seen["code"], seen["output"] = cluster.run("sweep", "quickstart.yaml", timeout_s=1200)
        seen["sweep, s"] = time.monotonic() - begin
        _, seen["again"] = cluster.run("sweep", "quickstart.yaml", timeout_s=1200)
        cluster.up("service", stand_ins={"objects": S3})
        cluster.wait("service", "service_healthy")
        # As docs/cluster.md says: an administrator's token from the first start, and with it others.
        admin = cluster.running["service"][0].run("cat", "/srv/secrets/admin_token").stdout.strip()
        _, said = cluster.run("bnsweep", "token", "create", "ada", "--role", "runner")
        (runner,) = [line for line in said.splitlines() if line and " " not in line]
        seen["service"] = head.run(sys.executable, "-c", SERVICE, "", "guess", admin, runner).stdout.splitlines()
        own = [
            path
            for name in ("head", "worker", "service")
            for container in cluster.running[name]
            for path in container.run(*OWN_FILES).stdout.split()
        ]
        seen["lost with containers"] = sorted({path for path in own if not path.startswith(MADE_BEFORE)})
        done = head.run(sys.executable, "-c", ROWS, str(Path(fault_sweeps.__file__).parent))
        assert done.returncode == 0, done.stderr
        seen |= json.loads(done.stdout)
    words = [sys.executable, "-m", "bnsweep", "run", sweeps / "quickstart.yaml", "--store", folder / "laptop"]
    subprocess.run([*words, "--engine", "inline", "--quiet"], check=True, timeout=1200)
    seen["laptop"] = json.loads(json.dumps(fault_sweeps.all_rows(folder / "laptop"), default=str))
    return seen


def main() -> None:
    if reason := containers.missing():
        sys.exit(f"skipped: {reason}")
    with tempfile.TemporaryDirectory(prefix="bnsweep-compose-") as folder:
        seen = compose_run(Path(folder), short="--short" in sys.argv)
    print(seen.pop("output"), seen.pop("again"))
    rows, laptop = seen.pop("rows"), seen.pop("laptop")
    seen["rows"] = {table: len(found) for table, found in rows.items()}
    seen["equal to a laptop's"] = rows == laptop
    for name, value in seen.items():
        print(f"{name:<24}{value}")


if __name__ == "__main__":
    main()
