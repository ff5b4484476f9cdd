"""What holds for all tests: the priority of Ray's workers, and what each folder took."""

from __future__ import annotations

import os
from collections import Counter

import pytest

# Ray gives its workers the lowest priority but four: beside other work of the machine's they hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What each folder of tests took; two processes work at the same time."""
    took: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                took["/".join(report.nodeid.partition("::")[0].split("/")[:2])] += report.duration
    said = ", ".join(f"{folder} {seconds:.0f} s" for folder, seconds in took.most_common() if seconds >= 1)
    terminalreporter.write_line(f"time by folder: {said or 'less than 1 s'}")
