"""Helper modules of these tests can be imported here and in the processes they start."""

from __future__ import annotations

import multiprocessing as mp
import sys
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def processes() -> ForkServerContext:
    """Processes that start in milliseconds, from a server that has imported pyarrow and runs no threads."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["store_children"])
    with pytest.MonkeyPatch.context() as patch:  # the server takes no sys.path from here before Python 3.13
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
        forkserver.ensure_running()
    return context
