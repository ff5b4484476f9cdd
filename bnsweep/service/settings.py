"""Every limit of the service: one table that the command line, the documentation and the tests go through."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isinf

from bnsweep.errors import InputError, UnknownNameError

__all__ = ["SETTINGS", "Setting", "Settings"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One number that who runs the service may change."""

    name: str
    default: float
    least: float
    meaning: str  # with its unit


SETTINGS = (
    Setting("sql_seconds", 10, 0.1, "time limit of a question, s"),
    Setting("sql_rows", 10_000, 1, "rows of an answer; more are cut off, and the answer says so"),
    Setting("sql_bytes", 20_000_000, 1000, "size of an answer, bytes"),
    Setting("sql_memory_mb", 256, 32, "memory of a question's database, MB"),
    Setting("sql_at_once", 2, 1, "SQL questions that run at the same time; others wait"),
    Setting("sql_waiting_s", 10, 0, "how long a question waits for its turn, s"),
    Setting("body_bytes", 250_000, 1000, "size of a request's body, bytes"),
    Setting("spec_bytes", 100_000, 1000, "size of a submitted sweep file, bytes"),
    Setting("requests_per_s", 20, 0.1, "requests of one user (or address) in the long run, per s"),
    Setting("requests_at_once", 200, 1, "requests of one user (or address) in a burst"),
    Setting("sign_ins_per_minute", 10, 1, "wrong tokens of one address, per minute"),
    Setting("watchers", 200, 1, "open live views, of all users"),
    Setting("jobs_per_user", 5, 1, "sweeps of one user that wait or run"),
    Setting("runs_per_sweep", 10_000, 1, "training runs of a submitted sweep or search"),
    Setting("nodes_wait_s", 3600, 0, "how long a job waits while no node of the cluster can do its work, s"),
    Setting("price_per_core_hour", 0, 0, "for the estimate of a plan's cost; 0: no cost is shown"),
)


class Settings:
    """The values in force: `settings["sql_rows"]`."""

    def __init__(self, given: Iterable[tuple[str, float]] = ()) -> None:
        known = {setting.name: setting for setting in SETTINGS}
        self._values = {name: setting.default for name, setting in known.items()}
        for name, value in given:
            if name not in known:
                raise UnknownNameError("setting", name, known)
            if not value >= known[name].least:
                raise InputError(
                    f"`{name} >= {known[name].least:g}` must hold, but got {value:g}: {known[name].meaning}"
                )
            if isinf(value):
                raise InputError(f"`{name}` takes a finite number, but got {value:g}: {known[name].meaning}")
            self._values[name] = value

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def count(self, name: str) -> int:
        """A value that counts something."""
        return int(self._values[name])
