"""One service over made-up sweeps like that of the analysis tests, with a token per role; most tests only read."""

import pytest
import served as helpers
import synthetic

from bnsweep.store.store import Store


@pytest.fixture(scope="session")
def rows_store(tmp_path_factory):
    location = tmp_path_factory.mktemp("service") / "store"
    store = Store.create(location)
    for options in helpers.SWEEPS.values():
        store.commit(synthetic.tables(**options))
    return location


@pytest.fixture(scope="session")
def tokens(rows_store):
    return helpers.make_tokens(rows_store)


@pytest.fixture(scope="session")
def served(rows_store, tokens):
    rates = ("--setting", "requests_per_s", 1000, "--setting", "requests_at_once", 5000)
    with helpers.service(rows_store, *rates, "--setting", "sql_seconds", 2) as running:
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
