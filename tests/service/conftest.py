"""One service over made-up sweeps like that of the analysis tests, with a token per role; most tests only read."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import served as helpers
import synthetic

from bnsweep.analysis.reader import build
from bnsweep.service.client import Client
from bnsweep.service.rows import Snapshot
from bnsweep.store.store import Store


@pytest.fixture(scope="session")
def rows_store(tmp_path_factory):
    location = tmp_path_factory.mktemp("service") / "store"
    store = Store.create(location)
    for options in helpers.SWEEPS.values():
        store.commit(synthetic.tables(**options))
    return location


@pytest.fixture(scope="module")
def snapshot(rows_store, tmp_path_factory):
    """Alone in its folder."""
    path = str(tmp_path_factory.mktemp("console") / "snapshot.duckdb")
    number, _ = build(str(rows_store), path)
    return Snapshot(path, number)


@pytest.fixture(scope="session")
def tokens(rows_store):
    return helpers.make_tokens(rows_store)


@pytest.fixture(scope="session")
def served(rows_store, tokens):
    rates = ("--setting", "requests_per_s", 1000, "--setting", "requests_at_once", 5000)
    guesses = ("--setting", "sign_ins_per_minute", 1000)
    with helpers.service(rows_store, *rates, *guesses, "--setting", "sql_seconds", 2) as running:
        yield running


@pytest.fixture(scope="session")
def viewer(served, tokens):
    with served.client(tokens["viewer"]) as client:
        yield client


@pytest.fixture(scope="session")
def runner(served, tokens):
    with served.client(tokens["runner"]) as client:
        yield client


@pytest.fixture(scope="session")
def admin(served, tokens):
    with served.client(tokens["admin"]) as client:
        yield client


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A service that runs sweeps: place, store, tokens."""
    folder = tmp_path_factory.mktemp("work")
    return folder, folder / "store", helpers.make_tokens(folder / "store")


@pytest.fixture(scope="session")
def running(work):
    """One service, and one Ray cluster of its own, for every test that submits; it may be killed and started again."""
    secret = {"DATABASE_PASSWORD": "canary-5b1e", "AWS_SECRET_ACCESS_KEY": "canary-5b1e"}
    # A service that knows the cluster by its address alone asks for `python`, which must be ours there.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with helpers.service(work[1], "--cpus", 2, PATH=path, **secret) as served:
        yield served


@pytest.fixture(scope="session")
def connect():
    """Clients that are closed in the end."""
    with ExitStack() as stack:
        yield lambda address, token=None: stack.enter_context(Client(address, token=token))


@pytest.fixture(scope="session")
def client(running, work, connect):
    return connect(running.address, work[2]["runner"])
