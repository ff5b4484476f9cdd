"""What the tests of faults run: a small sweep, and rows to compare. Its networks may be those of fault_networks.py."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from bnsweep.cli import cli
from bnsweep.store.schema import KEYS, SCHEMAS, VOLATILE
from bnsweep.store.store import Store
from bnsweep.store.verify import verify

TABLES = ("sweeps", "points", "runs", "epochs", "trials")

TINY = """\
name: tiny
data: {source: digits, train_images: 200, test_images: 100}
models: resnet8
placements: [all, none]
train_seeds: 1
training: {epochs: 2, batch_size: 50, chance_epochs: null}
noise: {targets: [weights, all]}
eta: [0, 0.1, 0.3]
trials: 4
"""


def slow(trials: int) -> str:
    """That sweep with networks that wait FAULT_WAIT_S for each trial, so that a fault finds it in the middle."""
    return TINY.replace("models: resnet8", "models: 'import:fault_networks:slow'").replace(
        "trials: 4", f"trials: {trials}"
    )


def rows(location: str | Path, table: str) -> list[dict[str, Any]]:
    """What identifies a row and what it says, without what differs between attempts; in the order of the key."""
    columns = [name for name in SCHEMAS[table].names if name not in VOLATILE or name in KEYS[table]]
    order = [(key, "ascending") for key in KEYS[table]]
    found: list[dict[str, Any]] = Store.open(str(location)).read(table, columns=columns).sort_by(order).to_pylist()
    return found


def all_rows(location: str | Path) -> dict[str, list[dict[str, Any]]]:
    return {table: rows(location, table) for table in TABLES}


def parted_rows(location: str | Path) -> int:
    """Rows of all live part files, each counted as often as it was written."""
    store = Store.open(str(location))
    return sum(part.rows for part in store.parts())


def inline(spec: Path, store: Path, *options: str) -> tuple[int, str]:
    """`bnsweep run` in this process, which has loaded torch already: exit code and output."""
    words = ["run", spec, "--store", store, "--engine", "inline", "--quiet", "--data-root", spec.parent, *options]
    done = CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=False)
    return done.exit_code, done.output


@cache
def undisturbed(text: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a spec when nothing happens to it."""
    with tempfile.TemporaryDirectory(prefix="bnsweep-undisturbed-") as folder:
        spec = Path(folder, "spec.yaml")
        spec.write_text(text)
        code, output = inline(spec, Path(folder, "store"))
        assert code == 0, output
        return all_rows(Path(folder, "store"))


def holds_exactly(store: str | Path, text: str) -> None:
    """The rows of an undisturbed sweep, each once in all live parts, and nothing else is wrong."""
    expected = undisturbed(text)
    for table, found in all_rows(store).items():
        other = [row for row in found if row not in expected[table]]
        assert not other, f"{len(other)} of {len(found)} rows of {table} are other than undisturbed: {other[:2]}"
        assert len(found) == len(expected[table]), table
    assert parted_rows(store) == sum(map(len, expected.values()))
    assert verify(Store.open(str(store))).ok


def environment(**extra: str) -> dict[str, str]:
    """For processes that take their networks from this folder; one thread each."""
    path = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **extra}


def command(spec: Path, store: str | Path, *options: object) -> list[str]:
    words = [sys.executable, "-m", "bnsweep", "run", spec, "--store", store, "--data-root", spec.parent, *options]
    return [*map(str, words), "--quiet"]


def sweep(
    spec: Path, store: str | Path, *options: object, env: dict[str, str], timeout_s: float = 400
) -> subprocess.CompletedProcess[str]:
    """`bnsweep run`, from beginning to end."""
    return subprocess.run(
        command(spec, store, *options), capture_output=True, text=True, timeout=timeout_s, env=env, check=False
    )
