"""A data set is read by the driver alone, sent to each node once, and shared there: seen in the memory of processes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import fault_sweeps
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("ray", reason="needs the extra ray")

from clusters import Cluster, descendants, wait_until

from bnsweep.store.store import Store
from bnsweep.training.images import Dataset, Split

SIDE = 64
IMAGES = {"train": 1000, "test": 400}
EVERY = 20  # images, of which one has a mark
PAGE = os.sysconf("SC_PAGESIZE")
BATCH = 50  # images: what a process may well have copied of its own
SPEC = f"""\
name: shared
data: {{source: "parquet:images"}}
models: "import:sharing_networks:make"
placements: all
train_seeds: 4
training: {{epochs: 1, batch_size: {BATCH}, augment: {{flip: false, shift: 0}}, chance_epochs: null}}
evaluation: {{batch_size: {BATCH}}}
noise: {{targets: weights}}
eta: [0, 0.1, 0.2]
trials: 4
"""
# What each node's object store has ever taken in, by the process that keeps it.
STORES = """
import json, sys
from ray._private import internal_api
state = internal_api.get_state_from_address(sys.argv[1])
stats = {
    node["NodeID"]: internal_api.node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], False).store_stats
    for node in state.node_table()
}
print(json.dumps([each.cumulative_created_bytes for each in stats.values()]))
"""


@dataclass(frozen=True)
class Marks:
    """Bytes that stand in every 20th image and nowhere else, in each form in which a process may hold the images."""

    pixels: bytes  # uint8, a pixel's channels side by side or a channel's pixels
    floats: tuple[bytes, bytes]  # the same of the normalised test images


def make_images(folder: Path) -> Marks:
    """Noise with marks, as Parquet."""
    numbers = np.random.default_rng(0)
    mark = numbers.integers(0, 256, 24, np.uint8)
    halves = {half: numbers.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8) for half, count in IMAGES.items()}
    folder.mkdir(parents=True)
    for half, images in halves.items():
        marked = images[::EVERY]
        marked[:, 10, :8] = mark.reshape(8, 3)  # channels side by side
        marked[:, 20, :24, 0] = mark
        cells = [{"bytes": png(image), "path": ""} for image in images]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        labels = np.arange(len(images)) % 10
        pq.write_table(pa.table({"img": pa.array(cells, kind), "label": labels}), folder / f"{half}.parquet")
    train, test = (Split(images.transpose(0, 3, 1, 2), np.zeros(len(images), np.int64)) for images in halves.values())
    mean, deviation = Dataset("", train, test, ()).normalisation
    scaled = mark.astype(np.float32) / np.float32(255)
    side_by_side = (scaled.reshape(8, 3) - mean) / deviation
    return Marks(mark.tobytes(), (side_by_side.tobytes(), ((scaled - mean[0]) / deviation[0]).tobytes()))


def png(image: np.ndarray[Any, Any]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(image).save(data, "PNG", compress_level=0)
    return data.getvalue()


@dataclass(frozen=True)
class Region:
    """A piece of a process's memory."""

    start: int
    end: int
    store: str  # device and inode of the object store that is mapped there; empty: memory of the process's own
    sizes: dict[str, int]  # bytes, by the kernel's names


def regions(pid: int) -> Iterator[Region]:
    """The object store and memory that lies in no file."""
    for each in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text()):
        head, *lines = each.splitlines()
        place, rights, _, device, inode, *name = head.split(None, 5)
        plasma = "plasma" in "".join(name)
        if "r" in rights and (plasma or (inode == "0" and "[v" not in "".join(name))):
            start, end = (int(number, 16) for number in place.split("-"))
            sizes = {line.partition(":")[0]: int(line.split()[1]) << 10 for line in lines if line.endswith(" kB")}
            yield Region(start, end, f"{device}:{inode}" if plasma else "", sizes)


def contents(pid: int, region: Region) -> Iterator[bytes]:
    """What lies there; of a process's own memory only pages that were ever used, as much is only reserved."""
    pages = (region.end - region.start) // PAGE
    used = np.ones(pages, np.int8)
    if not region.store:
        with Path(f"/proc/{pid}/pagemap").open("rb", buffering=0) as file:
            file.seek(8 * (region.start // PAGE))
            used = (np.frombuffer(file.read(8 * pages), np.uint64) >> np.uint64(63)).astype(np.int8)
    borders = np.flatnonzero(np.diff(used, prepend=0, append=0))
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for first, last in borders.reshape(-1, 2):
            memory.seek(region.start + int(first) * PAGE)
            yield memory.read(int(last - first) * PAGE)


def looked_at(pids: list[int], marks: Marks, phase: str, size: int) -> str:
    """The object store that all of a node's workers share, after a look at each of them."""
    stores = set()
    for pid in pids:
        found = list(regions(pid))
        shared = [region for region in found if region.store]
        stores |= {region.store for region in shared}
        batch = BATCH * SIDE * SIDE * 3  # the least that a process has read when it stops
        for kind, low, high in (("Shared", batch, inf), ("Private", 0, 0.1 * size)):
            bytes_ = sum(size for region in shared for name, size in region.sizes.items() if name.startswith(kind))
            assert low <= bytes_ <= high, f"{phase}: {bytes_} bytes of the object store are {kind}"
    # Marks take a while to look for: in one worker of the node.
    inside = sum(data.count(marks.pixels) for region in shared for data in contents(pid, region))
    assert inside == sum(IMAGES.values()) // EVERY, "each image lies there once"
    own = [data for region in found if not region.store for data in contents(pid, region)]
    most = 4 * BATCH // EVERY  # batches that it has made
    for form in (marks.pixels, *marks.floats):
        copies = sum(data.count(form) for data in own)
        assert copies <= most, f"{phase}: {copies} marks of {inside} in memory of the worker's own"
    (store,) = stores
    return store


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc/PID/smaps of Linux")
def test_a_data_set_is_read_by_the_driver_sent_to_a_node_once_and_shared_by_its_workers(tmp_path: Path) -> None:
    home, looks = tmp_path / "driver", tmp_path / "looks"
    looks.mkdir()
    marks = make_images(home / "images")
    size = sum(count * SIDE * SIDE * 3 for count in IMAGES.values())
    spec, store = home / "shared.yaml", home / "store"
    spec.write_text(SPEC)
    ours = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    with Cluster(tmp_path) as cluster:
        nodes = [cluster.add(cpus=2, PYTHONPATH=ours, SHARING=str(looks)) for _ in range(2)]
        words = fault_sweeps.command(spec, store, "--engine", "ray", "--address", cluster.address)
        with (tmp_path / "log").open("w") as log:
            # "parquet:images" is a folder of the driver's, and no other process finds anything under that name.
            driver = subprocess.Popen(words, cwd=home, stdout=log, stderr=log, env=cluster.environment(PYTHONPATH=ours))
        try:
            for phase in ("training", "scoring"):
                pids = stopped(looks, phase, driver)
                assert driver.poll() is None, (tmp_path / "log").read_text()
                of_nodes = [sorted(pids & set(descendants(node.pid))) for node in nodes]
                assert [len(each) for each in of_nodes] == [2, 2], "two workers on each of two nodes"
                assert len({looked_at(each, marks, phase, size) for each in of_nodes}) == 2, "one store per node"
                assert not any(Path(f"/proc/{pid}/cwd/images").exists() for pid in pids)
                (looks / f"{phase}-looked").touch()
            taken = subprocess.run(
                [sys.executable, "-c", STORES, cluster.address],
                capture_output=True, text=True, check=True, env=cluster.environment(),
            )  # fmt: skip
            assert driver.wait(timeout=120) == 0, (tmp_path / "log").read_text()
        finally:
            driver.kill()
            driver.wait()
    stores = json.loads(taken.stdout)
    assert all(size < each < 1.5 * size for each in stores), f"{stores} bytes for a data set of {size}"
    assert Store.open(str(store)).rows("trials") == 4 * (1 + 2 * 4)


def stopped(looks: Path, phase: str, driver: subprocess.Popen[bytes]) -> set[int]:
    """The processes that wait to be looked at: as many as the nodes have cores."""
    wait_until(lambda: driver.poll() is not None or len(list(looks.glob(f"{phase}-*"))) == 4, 200, phase)
    return {int(path.name.rpartition("-")[2]) for path in looks.glob(f"{phase}-*")}
