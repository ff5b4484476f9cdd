"""A store in a bucket, over real HTTP: moto's server, with a proxy before it that fails on request."""

from __future__ import annotations

import http.client
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.context import ForkServerContext

import pytest
import store_children
import store_rows

from bnsweep.errors import StoreClaimedError, StoreDamagedError, StoreError, StoreUnwritableError
from bnsweep.store.filesystem import open_files
from bnsweep.store.store import Store

boto3 = pytest.importorskip("boto3", reason="needs the extra s3")
pytest.importorskip("moto.server", reason="needs moto[server]")
# boto3 builds its clients with a call that the newest Python warns of; it is theirs to change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")

NUMBERS = itertools.count()
ACCOUNT = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


class Proxy(ThreadingHTTPServer):
    """Passes requests on; `faults` says what to do with the next PUTs: refuse, lose-answer, slow or cut."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind, self.faults, self.injected = port, [], 0  # type: ignore[var-annotated]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def pass_on(self) -> None:
        fault = self.server.faults.pop(0) if self.command == "PUT" and self.server.faults else ""
        self.server.injected += bool(fault)
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if fault == "refuse":
            return self.answer(500, b"<Error><Code>InternalError</Code></Error>", {})
        if fault == "slow":
            time.sleep(0.5)
            return self.answer(503, b"<Error><Code>SlowDown</Code></Error>", {})
        if fault == "cut":
            body = body[: len(body) // 2]
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        if fault == "cut":  # the sender dies in the middle: fewer bytes than were promised
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                upstream.putheader(name, value)
            upstream.endheaders(body)
            upstream.close()
            self.close_connection = True
            return None
        upstream.request(self.command, self.path, body, headers)
        response = upstream.getresponse()
        data = response.read()
        if fault == "lose-answer":
            return self.answer(500, b"<Error><Code>InternalError</Code></Error>", {})
        kept = {
            name: value
            for name, value in response.getheaders()
            if name.lower() not in {"transfer-encoding", "connection"}
        }
        return self.answer(response.status, data, kept)

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    code = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.time() + 60
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
                connection.request("GET", "/moto-api/data.json")
                connection.getresponse().read()
                break
            except OSError:
                assert time.time() < until
                time.sleep(0.1)
            finally:
                connection.close()
        yield port
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as probe:
        return int(probe.server_address[1])


@pytest.fixture
def proxy(server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name, value in {**ACCOUNT, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    proxy = Proxy(server)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    yield proxy
    proxy.shutdown()
    proxy.server_close()
    thread.join()


@pytest.fixture
def location(proxy: Proxy) -> str:
    bucket, endpoint = f"bucket-{next(NUMBERS)}", f"127.0.0.1:{proxy.server_address[1]}"
    boto3.client("s3", endpoint_url=f"http://{endpoint}").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/lab/store?endpoint_override={endpoint}&scheme=http&region=us-east-1"


def test_a_store_in_a_bucket(location: str) -> None:
    store = Store.create(location)
    with store.claim():
        for batch in range(5):
            store.commit({"trials": store_rows.trials(100, start=100 * batch), "runs": store_rows.runs(1, start=batch)})
    sha256 = store.put_network("run-1", b"weights" * 1_000_000)  # 7 MB: still one PUT
    opened = Store.open(location)
    assert opened.read("trials").num_rows == len(opened.key_set("trials")) == 500
    assert opened.get_network("run-1", sha256) == b"weights" * 1_000_000
    assert opened.part_paths("trials")[0].startswith("s3://bucket-")
    assert opened.part_names("trials")[0].startswith("bucket-")
    assert store.compact(grace_s=0).parts_after == 2
    assert opened.read("trials").num_rows == 500
    assert opened.verify().ok
    opened.slot("run-1").write(b"state")
    assert opened.slot("run-1").read() == b"state"
    opened.slot("run-1").delete()
    assert opened.slot("run-1").read() is None
    with pytest.raises(StoreError, match="is a store already"):
        Store.create(location)


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
    assert opened.rows("trials") == len(opened.key_set("trials")) == 80
    assert opened.verify().ok


def test_a_put_cut_in_the_middle_leaves_nothing(proxy: Proxy, location: str) -> None:
    store = Store.create(location)
    proxy.faults[:] = ["cut"]
    store.commit({"trials": store_rows.trials(2_000)})
    assert proxy.injected == 1
    assert Store.open(location).verify().ok
    assert Store.open(location).read("trials").num_rows == 2_000


def test_a_bucket_that_is_not_there_or_lost_a_part(proxy: Proxy, location: str) -> None:
    with pytest.raises(StoreUnwritableError, match=r"cannot write s3://.*NoSuchBucket"):
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
