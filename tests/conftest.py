"""Which tests may run at the same time: `-n 2` gives each core a process of tests.

Tests of one file stay together, since they share fixtures. So does everything that starts Ray's processes itself:
two of its nodes that start at the same moment on one machine can take the same socket's name.
"""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What each folder of tests took; two processes work at the same time."""
    took: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                took["/".join(report.nodeid.partition("::")[0].split("/")[:2])] += report.duration
    said = ", ".join(f"{folder} {seconds:.0f} s" for folder, seconds in took.most_common() if seconds >= 1)
    terminalreporter.write_line(f"time by folder: {said or 'less than 1 s'}")
