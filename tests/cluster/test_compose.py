"""The commands of docker-compose.yml, run: head, three workers and an S3 store as hosts of their own, and a sweep."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="needs the extra ray")
pytest.importorskip("moto.server", reason="needs moto[server]")

import compose_run
import containers

REASON = containers.missing()


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.skipif(REASON is not None, reason=REASON or "")
def test_the_quickstart_as_a_submitted_job_gives_a_laptops_rows(tmp_path: Path) -> None:
    seen = compose_run.compose_run(tmp_path, short=True)
    assert seen["code"] == 0, seen["output"]
    assert "3 networks trained" in seen["output"]
    assert "nothing to do" in seen["again"], "the same command again does only what is missing"
    assert seen["rows"] == seen["laptop"]
    assert seen["parted"] == sum(map(len, seen["laptop"].values())), "each row is there once"
    assert len(seen["rows"]["trials"]) == 3 * 2 * (1 + 5 * 2)
    hosts = {worker.partition(":")[0] for worker in seen["workers"]}
    assert hosts == {"worker-1", "worker-2", "worker-3"}, "every node did its part, and the head none"
    assert seen["without the token"] == "401"
    assert seen["user of Ray"] == "1000"
    assert seen["service"] == ["401", "401", "200 /sweeps True", "200 /sweeps True"], (
        "a page for those with a token alone"
    )
    copy = re.compile(r"/tmp/bnsweep-[^/]+/snapshot-\d+\.duckdb")
    lost = [path for path in seen["lost with containers"] if not copy.fullmatch(path)]
    assert not lost, "nothing but the service's copy of the rows, which answers SQL"
