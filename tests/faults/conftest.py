"""Helper modules of these tests can be imported here and in the processes they start; the cluster that tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parent))

if TYPE_CHECKING:
    from shared_cluster import SharedCluster


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedCluster]:
    """One for the tests of a file."""
    from shared_cluster import SharedCluster  # needs Ray, which tests ask for first

    with SharedCluster(tmp_path_factory) as shared:
        yield shared
