"""What the pages work with, in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnsweep.errors import InputError
from bnsweep.service.audit import Audit
from bnsweep.service.auth import Role, Tokens, User
from bnsweep.service.checks import Planner
from bnsweep.service.console import Console
from bnsweep.service.dispatcher import Dispatcher
from bnsweep.service.jobs import Job, Jobs
from bnsweep.service.launcher import Launcher
from bnsweep.service.overview import Overview
from bnsweep.service.rows import Rows
from bnsweep.service.settings import Settings
from bnsweep.store.store import Store

__all__ = ["ForbiddenError", "Hub"]


class ForbiddenError(InputError):
    """What belongs to somebody else."""


@dataclass
class Hub:
    """The store and the service's parts around it."""

    store: Store
    settings: Settings
    tokens: Tokens
    audit: Audit
    jobs: Jobs
    rows: Rows
    overview: Overview
    planner: Planner
    console: Console
    launcher: Launcher
    dispatcher: Dispatcher
    folders: Sequence[Path]  # where submitted specs may find images
    where: str  # jobs run, for people
    loopback: bool

    def changed(self) -> None:
        """Something was submitted or cancelled: let everybody see it, and act on it."""
        self.overview.forget()
        self.dispatcher.wake()

    def may_change(self, user: User, job: Job | None) -> bool:
        """Whether a user may cancel, retry or extend a sweep: its own, or anything as admin."""
        return user.role >= Role.ADMIN or (user.role >= Role.RUNNER and user.name == self._owner(job))

    def check_may_change(self, user: User, sweep: str, job: Job | None) -> None:
        """Raise ForbiddenError unless `may_change`."""
        if not self.may_change(user, job):
            owner = f"it is {self._owner(job)}'s" if job is not None else "it was run from the command line"
            raise ForbiddenError(f"sweep {sweep!r} can be changed by its owner or an admin: {owner}")

    def _owner(self, job: Job | None) -> str | None:
        """Who submitted a sweep first: an admin who tries it again does not take it away."""
        if job is None:
            return None
        return (job if job.number == 1 else self.jobs.get(job.sweep, 1) or job).by
