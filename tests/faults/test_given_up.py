"""Work that always dies, in a Ray cluster: it has a row that says so, holds up nothing, and is done when asked for."""

from __future__ import annotations

import re
from pathlib import Path

import fault_sweeps
import pyarrow.compute as pc
import pytest
from fault_sweeps import TINY

pytest.importorskip("ray", reason="needs the extra ray")

from shared_cluster import KINDS, NO_LIMIT, SharedCluster

from bnsweep.store.store import Store
from bnsweep.store.verify import verify

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]


def spec_of(*kinds: str, trials: int) -> str:
    """One placement, one cell, two noise levels: little else than what fails, as each death costs a new process."""
    models = ", ".join(f"'import:fault_networks:{kind}'" for kind in kinds)
    text = TINY.replace("models: resnet8", f"models: [{models}]").replace("trials: 4", f"trials: {trials}")
    return text.replace("[all, none]", "[all]").replace("[weights, all]", "[all]").replace("[0, 0.1, 0.3]", "[0, 0.1]")


@pytest.fixture(scope="module")
def given_up(shared_cluster: SharedCluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store after a sweep with networks that always die: one in training, one in scoring, one of hunger."""
    folder, cluster = tmp_path_factory.mktemp("given-up"), shared_cluster.ready()
    spec, store = folder / "tiny.yaml", folder / "store"
    # The two that die in scoring have been trained before, and have a trial.
    spec.write_text(spec_of("slow", *KINDS[1:], trials=1))
    assert fault_sweeps.inline(spec, store)[0] == 0
    spec.write_text(spec_of("slow", *KINDS, trials=4))
    for kind in KINDS:
        (cluster.folder / kind.upper()).touch()
    try:
        options = ("--engine", "ray", "--address", cluster.address)
        done = fault_sweeps.sweep(spec, store, *options, env=cluster.environment())
    finally:
        for kind in KINDS:
            (cluster.folder / kind.upper()).unlink()
    assert done.returncode == 1, done.stdout + done.stderr
    assert "--retry-failed" in done.stdout
    return store


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("crash", "ActorDiedError|WorkerCrashedError"),
        ("deadly", "WorkerCrashedError"),
        pytest.param(
            "hungry", "OutOfMemoryError", marks=pytest.mark.skipif(NO_LIMIT is not None, reason=NO_LIMIT or "")
        ),
    ],
)
def test_work_that_always_kills_its_worker_has_a_row_after_three_tries(given_up: Path, kind: str, error: str) -> None:
    store = Store.open(given_up)
    (run,) = (row for row in store.read("runs").to_pylist() if row["model"] == f"import:fault_networks:{kind}")
    (failure,) = store.read("failures", filter=pc.field("run_id") == run["run_id"]).to_pylist()
    assert failure["attempt"] == 3
    assert re.search(error, failure["error"])
    assert (failure["point_id"] is None, run["status"] == "failed") == (kind == "crash",) * 2


def test_what_was_given_up_holds_up_nothing_and_is_done_when_asked_for(given_up: Path) -> None:
    spec, store = given_up.parent / "tiny.yaml", Store.open(given_up)
    wanted = fault_sweeps.undisturbed(spec.read_text())["trials"]
    landed = fault_sweeps.rows(given_up, "trials")
    good = [row for row in wanted if row["model"].endswith("slow")]
    assert [row for row in landed if row["model"].endswith("slow")] == good
    assert len(landed) < len(wanted)
    result = verify(store)
    networks = 1 + len(KINDS)  # two points each: of those that died, the one without noise was done before
    assert (result.ok, result.planned, result.done, result.missing) == (True, 2 * networks, 2 + len(KINDS[1:]), 0)
    assert result.failed == result.planned - result.done
    code, output = fault_sweeps.inline(spec, given_up)
    assert (code, "nothing more to do" in output) == (1, True)
    code, output = fault_sweeps.inline(spec, given_up, "--retry-failed")
    assert code == 0, output
    assert fault_sweeps.rows(given_up, "trials") == wanted
    assert verify(Store.open(given_up)).failed == 0
