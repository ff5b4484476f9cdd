"""Whole sweeps on an object store that fails, loses answers, cuts what is sent and keeps everybody waiting."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fault_sweeps
import pytest
from buckets import ACCOUNT, Proxy, moto, new_bucket, proxy_before
from readers import Reader

pytest.importorskip("boto3", reason="needs the extra s3")
pytest.importorskip("moto.server", reason="needs moto[server]")
# boto3 builds its clients with a call that the newest Python warns of; it is theirs to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")

TEXT = fault_sweeps.slow(60)


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)
    with moto() as port, proxy_before(port) as proxy:
        yield proxy


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return path


def test_a_failing_object_store_only_costs_time_and_readers_see_whole_commits(
    tmp_path: Path, spec: Path, proxy: Proxy
) -> None:
    location = new_bucket(proxy)
    proxy.storm = 0.1
    proxy.faults[:] = ["", "lose-answer", "", "cut", "", "refuse", "", "slow"]  # one of each whatever the storm brings
    environment = fault_sweeps.environment(FAULT_WAIT_S="0.02")
    with Reader(location) as one, Reader(location) as other:
        done = fault_sweeps.sweep(spec, location, "--engine", "inline", env=environment)
    assert done.returncode == 0, done.stderr
    proxy.storm = 0
    print(proxy.suffered)
    assert min(proxy.suffered[fault] for fault in ("refuse", "slow", "lose-answer", "cut")) > 0
    for reader in (one, other):
        reader.check()
    fault_sweeps.holds_exactly(location, TEXT)


def test_a_slow_object_store_only_costs_time(tmp_path: Path, spec: Path, proxy: Proxy) -> None:
    location = new_bucket(proxy)
    proxy.delay_s = 0.1
    done = fault_sweeps.sweep(spec, location, "--engine", "inline", env=fault_sweeps.environment())
    assert done.returncode == 0, done.stderr
    proxy.delay_s = 0
    assert proxy.suffered["passed on"] > 20
    fault_sweeps.holds_exactly(location, TEXT)
