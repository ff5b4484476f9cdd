"""A whole sweep on a store that is read-only, fills up, or answers slowly."""

from __future__ import annotations

import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fault_sweeps
import pytest
from clusters import wait_until
from fault_sweeps import TINY

from bnsweep.store.store import Store

DELAY_S = 0.1


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """A small file system of its own, or a skip."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs the mount command")
    if done.returncode:
        pytest.skip(f"needs the right to mount a tmpfs: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, option: str) -> bool:
    return subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=False).returncode == 0


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    fault_sweeps.write_networks(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("resnet8", "'import:fault_networks:slow'").replace("trials: 4", "trials: 30"))
    return path


def one_line(done: subprocess.CompletedProcess[str] | tuple[int, str]) -> str:
    code, stderr = (done.returncode, done.stderr) if isinstance(done, subprocess.CompletedProcess) else done
    assert code == 1, stderr
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("bnsweep: cannot write ")
    return lines[0]


def test_a_read_only_store_is_said_in_one_line(tmp_path: Path, spec: Path) -> None:
    environment = fault_sweeps.environment(tmp_path)
    with mounted(tmp_path / "disk", "8m") as disk:
        Store.create(disk / "store")
        assert remount(disk, "ro")
        for store in ("store", "other"):
            done = fault_sweeps.sweep(spec, disk / store, "--engine", "inline", env=environment)
            assert "the file system is read-only" in one_line(done)


@pytest.mark.parametrize("engine", ["inline", pytest.param("ray", marks=pytest.mark.ray)])
@pytest.mark.parametrize("fault", ["read-only", "full"])
def test_a_store_that_stops_taking_writes_ends_the_run_and_the_next_one_goes_on(
    tmp_path: Path, spec: Path, engine: str, fault: str
) -> None:
    if engine == "ray":
        if not os.environ.get("BNSWEEP_FAULTS"):
            pytest.skip("takes minutes: set BNSWEEP_FAULTS=1")
        pytest.importorskip("ray", reason="needs the extra ray")
    environment = fault_sweeps.environment(tmp_path)
    done = fault_sweeps.sweep(spec, tmp_path / "whole", "--engine", "inline", env=environment)
    assert done.returncode == 0, done.stderr
    options = ["--engine", engine] + (["--cpus", "1"] if engine == "ray" else [])
    with mounted(tmp_path / "disk", "8m") as disk:
        store = disk / "store"
        command = fault_sweeps.command(spec, store, *options)
        slow = {**environment, "FAULT_WAIT_S": "0.05"}
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=slow)
        wait_until(lambda: Store.exists(str(store)) and Store.open(store).rows("trials") > 4, 120, "rows have landed")
        if fault == "full":
            with (disk / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
                while True:
                    ballast.write(b"x" * 4096)
        else:
            wait_until(lambda: remount(disk, "ro"), 30, "the file system becomes read-only")
        _, stderr = driver.communicate(timeout=120)
        said = one_line((driver.returncode, stderr))
        assert ("no space left" if fault == "full" else "the file system is read-only") in said
        if fault == "full":
            (disk / "ballast").unlink()
        else:
            assert remount(disk, "rw")
        kept = Store.open(store).rows("trials")
        assert kept > 0
        done = fault_sweeps.sweep(spec, store, *options, env=environment)
        assert done.returncode == 0, done.stderr
        assert fault_sweeps.all_rows(store) == fault_sweeps.all_rows(tmp_path / "whole")
        assert fault_sweeps.parted_rows(store) == fault_sweeps.parted_rows(tmp_path / "whole")
        assert Store.open(store).verify().ok


class Slow(socketserver.BaseRequestHandler):
    """Passes bytes on, each piece late."""

    server: SlowProxy

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.behind)) as upstream:
            back = threading.Thread(target=self.pass_on, args=(upstream, self.request), daemon=True)
            back.start()
            self.pass_on(self.request, upstream)
            back.join()

    def pass_on(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(DELAY_S)
                self.server.delayed += 1
                to.sendall(data)
        with suppress(OSError):
            to.shutdown(socket.SHUT_WR)


class SlowProxy(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), Slow)
        self.behind, self.delayed = behind, 0


@pytest.fixture
def bucket() -> Iterator[tuple[str, SlowProxy, dict[str, str]]]:
    """A bucket behind a slow line: its location, the line, and the account's variables."""
    pytest.importorskip("moto.server", reason="needs moto[server]")
    boto3 = pytest.importorskip("boto3", reason="needs the extra s3")
    account = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    code = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
    words = [sys.executable, "-c", code, str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    proxy = SlowProxy(port)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        wait_until(lambda: _answers(port), 60, "the object store answers")
        endpoint = f"127.0.0.1:{proxy.server_address[1]}"
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys).create_bucket(Bucket="lab")
        yield f"s3://lab/store?endpoint_override={endpoint}&scheme=http&region=us-east-1", proxy, account
    finally:
        server.terminate()
        server.wait()
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")  # theirs to change
def test_a_slow_store_only_costs_time(
    tmp_path: Path,
    spec: Path,
    bucket: tuple[str, SlowProxy, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    location, proxy, account = bucket
    environment = {**fault_sweeps.environment(tmp_path), **account, "AWS_EC2_METADATA_DISABLED": "true"}
    done = fault_sweeps.sweep(spec, tmp_path / "whole", "--engine", "inline", env=environment)
    assert done.returncode == 0, done.stderr
    done = fault_sweeps.sweep(spec, location, "--engine", "inline", env=environment)
    assert done.returncode == 0, done.stderr
    assert proxy.delayed > 20
    for name, value in account.items():
        monkeypatch.setenv(name, value)
    assert fault_sweeps.all_rows(location) == fault_sweeps.all_rows(tmp_path / "whole")
