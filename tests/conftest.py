"""Which tests may run at the same time: `-n 2` gives each core a process of tests.

Tests of one file stay together, since they share fixtures. So does everything that starts Ray's processes itself:
two of its nodes that start at the same moment on one machine can take the same socket's name.
"""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
