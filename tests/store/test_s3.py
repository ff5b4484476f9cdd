"""A store in a bucket, over real HTTP: moto's server, with a proxy before it that fails on request."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import store_children
import store_rows
from buckets import ACCOUNT, Proxy, moto, new_bucket, proxy_before

from bnsweep.errors import StoreClaimedError, StoreDamagedError, StoreError, StoreUnwritableError
from bnsweep.store import s3
from bnsweep.store.compact import compact
from bnsweep.store.location import open_files
from bnsweep.store.merge import merge
from bnsweep.store.store import Store
from bnsweep.store.verify import verify

pytest.importorskip("boto3", reason="needs the extra s3")
pytest.importorskip("moto.server", reason="needs moto[server]")
# boto3 builds its clients with a call that the newest Python warns of; it is theirs to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with moto() as port:
        yield port


@pytest.fixture
def proxy(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)
    with proxy_before(server) as proxy:
        yield proxy


@pytest.fixture
def location(proxy: Proxy) -> str:
    return new_bucket(proxy)


def test_a_bucket_that_refuses_is_no_bucket_that_wrote(monkeypatch: pytest.MonkeyPatch) -> None:
    """409 to every PUT: a commit whose part is not there must not go on to the log."""
    asked = []

    class Refuses(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.send_response(409)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    for name, value in ACCOUNT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3, "CONFLICT_WAITS_S", (0.0, 0.0, 0.0))
    server = HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    files = open_files(f"s3://b/store?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1")
    with pytest.raises(
        StoreUnwritableError, match="cannot write s3://b/store/parts/x: another write of it does not end"
    ):
        files.write("parts/x", b"rows")
    assert len(asked) == 3
    server.shutdown()
    server.server_close()


def test_a_store_in_a_bucket(location: str) -> None:
    store = Store.create(location)
    with store.claim():
        for batch in range(5):
            store.commit({"trials": store_rows.trials(100, start=100 * batch), "runs": store_rows.runs(1, start=batch)})
    sha256 = store.put_network("run-1", b"weights" * 1_000_000)  # 7 MB: still one PUT
    opened = Store.open(location)
    assert opened.read("trials").num_rows == len(store_rows.key_set(opened, "trials")) == 500
    assert opened.get_network("run-1", sha256) == b"weights" * 1_000_000
    assert opened.part_paths("trials")[0].startswith("s3://bucket-")
    assert opened.part_names("trials")[0].startswith("bucket-")
    assert compact(store, grace_s=0).parts_after == 2
    assert opened.read("trials").num_rows == 500
    assert verify(opened).ok
    opened.slot("run-1").write(b"state")
    assert opened.slot("run-1").read() == b"state"
    opened.slot("run-1").delete()
    assert opened.slot("run-1").read() is None
    with pytest.raises(StoreError, match="is a store already"):
        Store.create(location)


def test_parts_are_merged_into_a_bucket_and_out_of_it(location: str, tmp_path: Path) -> None:
    parts = []
    for number in range(2):
        part, network = Store.create(tmp_path / str(number)), f"network {number}".encode()
        (run_id,) = store_rows.runs(1, start=number)["run_id"].to_pylist()
        digest = part.put_network(run_id, network)
        runs = store_rows.runs(1, start=number, checkpoint_sha256=digest)
        part.commit({"runs": runs, "trials": store_rows.trials(1000, start=1000 * number)})  # 1,000 a run
        parts.append(part)
    bucket = Store.create(location)
    for part in parts:
        merged = merge(bucket, part)
        assert (merged.runs, merged.trials, merged.networks, merged.lost) == (1, 1000, 1, 0)
    assert verify(Store.open(location)).ok
    copy = Store.create(tmp_path / "copy")
    assert merge(copy, Store.open(location)).networks == 2
    assert verify(copy).ok
    assert store_rows.key_set(copy, "trials") == set().union(*(store_rows.key_set(part, "trials") for part in parts))


def test_one_claim_and_one_writer_per_number(location: str, processes: ForkServerContext) -> None:
    store = Store.create(location)
    with store.claim(), pytest.raises(StoreClaimedError, match="is being written to by"), Store.open(location).claim():
        pass
    writers = [threading.Thread(target=store_children.append, args=(location, name, 10)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert store.refresh().state.seq == 21


@pytest.mark.parametrize("fault", ["refuse", "lose-answer", "slow"])
def test_failing_puts_are_tried_again(proxy: Proxy, location: str, fault: str) -> None:
    store = Store.create(location)
    with store.claim():
        for batch in range(4):
            proxy.faults[:] = [fault, "", fault] if batch % 2 else ["", fault]
            store.commit({"trials": store_rows.trials(20, start=20 * batch)})
    proxy.faults.clear()
    assert proxy.injected >= 4
    opened = Store.open(location)
    assert opened.rows("trials") == len(store_rows.key_set(opened, "trials")) == 80
    assert verify(opened).ok


def test_a_put_cut_in_the_middle_leaves_nothing(proxy: Proxy, location: str) -> None:
    store = Store.create(location)
    proxy.faults[:] = ["cut"]
    store.commit({"trials": store_rows.trials(2_000)})
    assert proxy.injected == 1
    assert verify(Store.open(location)).ok
    assert Store.open(location).read("trials").num_rows == 2_000


def test_a_bucket_that_is_not_there_or_lost_a_part(proxy: Proxy, location: str) -> None:
    with pytest.raises(StoreUnwritableError, match=r"cannot write s3://.*NoSuchBucket.*put this right and run again"):
        Store.create(location.replace("bucket-", "absent-"))
    store = Store.create(location)
    store.commit({"trials": store_rows.trials(20)})
    store.files.delete(store.parts("trials")[0].path)
    with pytest.raises(StoreDamagedError, match="is gone"):
        store.read("trials")


def test_without_boto3_writing_says_what_to_install(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.create(location).commit({"trials": store_rows.trials(20)})
    monkeypatch.setitem(sys.modules, "boto3", None)
    store = Store.open(location)
    assert store.read("trials").num_rows == 20
    with pytest.raises(StoreError, match=r"needs boto3, which is not installed: pip install 'bnsweep\[s3\]'"):
        store.commit({"trials": store_rows.trials(20, start=20)})


def test_the_files_of_a_bucket_travel_to_other_processes_by_their_location(location: str) -> None:
    import pickle

    files = pickle.loads(pickle.dumps(open_files(location)))  # our own bytes, as Ray sends them
    assert files.location == location
    assert "testing" not in location
    assert os.environ["AWS_ACCESS_KEY_ID"] == "testing"
