"""A bucket over real HTTP on loopback: moto's server, with a proxy before it that fails on request."""

from __future__ import annotations

import http.client
import itertools
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NUMBERS = itertools.count()
ACCOUNT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


class Proxy(ThreadingHTTPServer):
    """Passes requests on.

    `faults` says what to do with the next PUTs: refuse, lose-answer, slow or cut. `storm` is the fraction of all
    requests that fail, chosen by a seeded generator; `delay_s` keeps every request waiting.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind, self.injected = port, 0
        self.faults: list[str] = []
        self.storm, self.delay_s = 0.0, 0.0
        self.suffered: Counter[str] = Counter()  # faults injected, and requests passed on
        self._random, self._lock = random.Random(11), threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def fault_for(self, method: str) -> str:
        with self._lock:
            fault = self.faults.pop(0) if method == "PUT" and self.faults else ""
            if not fault and self._random.random() < self.storm:
                fault = self._random.choice(["refuse", "slow", *(["lose-answer", "cut"] if method == "PUT" else [])])
            self.injected += bool(fault)
            self.suffered[fault or "passed on"] += 1
            return fault


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def pass_on(self) -> None:
        fault = self.server.fault_for(self.command)
        time.sleep(self.server.delay_s)
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        body = self.body()
        promised = str(len(body))
        if fault == "refuse":
            return self.answer(500, b"<Error><Code>InternalError</Code></Error>", {})
        if fault == "slow":
            time.sleep(0.5)
            return self.answer(503, b"<Error><Code>SlowDown</Code></Error>", {})
        if fault == "cut":
            body = body[: len(body) // 2]
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=30)
        headers = {
            name: value for name, value in self.headers.items() if name.lower() not in {"expect", "transfer-encoding"}
        }
        headers["Content-Length"] = promised
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

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []  # pyarrow's own PUTs
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

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


@contextmanager
def moto() -> Iterator[int]:
    """An empty object store of its own; its port."""
    code = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as probe:
        port = int(probe.server_address[1])
    words = [sys.executable, "-c", code, str(port)]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.time() + 60
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            try:
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


@contextmanager
def proxy_before(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def new_bucket(proxy: Proxy) -> str:
    """The location of a store in a new bucket; the account's variables must be in the environment."""
    import boto3

    bucket = f"bucket-{next(NUMBERS)}"
    with closing(boto3.client("s3", endpoint_url=f"http://{proxy.endpoint}")) as client:
        client.create_bucket(Bucket=bucket)
    return f"s3://{bucket}/lab/store?endpoint_override={proxy.endpoint}&scheme=http&region=us-east-1"
