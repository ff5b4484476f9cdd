"""A store of a made-up sweep, whose truth is a formula (synthetic.py)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bnsweep.analysis.database import Database, open_database
from bnsweep.store.store import Store

sys.path.insert(0, str(Path(__file__).parent))
import synthetic


@pytest.fixture(scope="session")
def synthetic_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two networks, three placements, two training seeds, six cells; a diverged run and a block that was given up."""
    store = Store.create(tmp_path_factory.mktemp("analysis") / "store")
    store.commit(synthetic.tables(trials=8))
    return store


@pytest.fixture(scope="session")
def database(synthetic_store: Store) -> Iterator[Database]:
    with open_database(synthetic_store, threads=1) as opened:
        yield opened
