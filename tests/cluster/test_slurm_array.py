"""cluster/slurm-array.sbatch, run by bash with what Slurm would tell it: a real sweep in parts, put together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from clusters import wait_until
from config import CLUSTER

from bnsweep.store.store import Store
from bnsweep.store.verify import verify

# Many short blocks (one per eta), so that a part is stopped on the way however quick the machine is.
SPEC = """\
name: parts
data: {source: digits, train_images: 200, test_images: 100}
models: resnet8
placements: [all, none]
train_seeds: 1
training: {epochs: 2, batch_size: 50, chance_epochs: null}
eta: [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4]
trials: 200
"""
ROWS = 1 + 8 * 200  # of a part: without noise one trial suffices
SCONTROL = '#!/bin/sh\n[ "$1" = requeue ] && echo "$2" >>"$REQUEUED"\n'


def test_parts_of_a_store_in_a_bucket_have_addresses_of_their_own(tmp_path: Path) -> None:
    told = tmp_path / "bin" / "bnsweep"
    told.parent.mkdir()
    told.write_text('#!/bin/sh\necho "$@"\n')
    told.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{told.parent}:{os.environ['PATH']}",
        "STORE": "s3://bucket/bn?region=us-east-1",
        "VENV": "/nonexistent",
        "ENGINE": "inline",
        "SLURM_ARRAY_TASK_ID": "3",
        "SLURM_ARRAY_TASK_MAX": "16",
        "SLURM_CPUS_PER_TASK": "1",
    }
    script = ["bash", str(CLUSTER / "slurm-array.sbatch")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "--part 3/16 " in done.stdout
    assert "--store s3://bucket/bn.parts/3-of-16?region=us-east-1" in done.stdout


def test_parts_are_stopped_in_time_requeued_and_merged(tmp_path: Path) -> None:
    spec, store = tmp_path / "spec.yaml", tmp_path / "store"
    spec.write_text(SPEC)
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(SCONTROL)
    scontrol.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{scontrol.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "REQUEUED": str(tmp_path / "requeued"),
        "SPEC": str(spec),
        "STORE": str(store),
        "VENV": "/nonexistent",  # what it would bring is on the path
        "ENGINE": "inline",
        "SLURM_JOB_ID": "4711",  # of one task, and of the array
        "SLURM_ARRAY_JOB_ID": "4711",
        "SLURM_ARRAY_TASK_MAX": "2",
        "SLURM_CPUS_PER_TASK": "1",
        "OMP_NUM_THREADS": "1",
    }

    def part(number: int) -> subprocess.Popen[str]:
        told = {**environment, "SLURM_ARRAY_TASK_ID": str(number)}
        words = ["bash", str(CLUSTER / "slurm-array.sbatch")]
        return subprocess.Popen(words, env=told, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def rows(number: int) -> int:
        location = Path(f"{store}.parts/{number}-of-2")
        return Store.open(location).rows("trials") if (location / "bnsweep-store.json").exists() else 0

    first = part(1)
    wait_until(lambda: rows(1) > 1, 120, "trials of the first part")
    first.send_signal(signal.SIGUSR1)
    output, _ = first.communicate(timeout=60)
    assert first.returncode == 0, output
    assert "part 1/2 stops and keeps what is done" in output
    assert "back into the queue" in output
    assert (tmp_path / "requeued").read_text() == "4711_1\n"
    before = rows(1)
    assert 1 < before < ROWS

    for again in [part(1), part(2)]:
        output, _ = again.communicate(timeout=120)
        assert again.returncode == 0, output
    merging = [sys.executable, "-m", "bnsweep", "store", "merge", *map(str, sorted(Path(f"{store}.parts").iterdir()))]
    done = subprocess.run([*merging, "--store", str(store)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"1 runs, {ROWS:,} trials and 1 networks are new") == 2
    whole = Store.open(store)
    assert whole.rows("trials") == 2 * ROWS
    assert verify(whole).ok


def test_a_part_that_fails_is_not_requeued(tmp_path: Path) -> None:
    told = {**os.environ, "SPEC": str(tmp_path / "none.yaml"), "STORE": str(tmp_path / "store"), "VENV": "/nonexistent"}
    told |= {"SLURM_ARRAY_TASK_ID": "1", "PARTS": "2", "SLURM_CPUS_PER_TASK": "1", "ENGINE": "inline"}
    told["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    words = ["bash", str(CLUSTER / "slurm-array.sbatch")]
    done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode not in (0, 127)
    assert "none.yaml" in done.stderr
    assert "queue" not in done.stdout
