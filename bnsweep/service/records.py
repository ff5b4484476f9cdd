"""What the service itself has to remember, as small files in the store's folder `service/`.

    service/tokens/ID.json              who may do what (auth.py)
    service/audit/DAY/TIME-ID.json      who did what, when (audit.py)
    service/jobs/SWEEP/NUMBER/*.json    what was submitted, and what became of it (jobs.py)

The store's rows have one writer, which is the driver of the running sweep, so the service writes none. Each record is
written whole or not at all, and made once, never by two (create-if-absent), but for a job's progress, which its process
replaces; the service keeps nothing else.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from bnsweep.errors import StoreDamagedError
from bnsweep.store.filesystem import Files

__all__ = ["Records", "now"]

FOLDER = "service"


def now() -> str:
    """The time as records have it: ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Records:
    """JSON objects by name. Safe from several threads and processes."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def create(self, name: str, fields: dict[str, Any]) -> bool:
        """Make a record unless it is there: True for exactly one of all who try."""
        return self.files.create(f"{FOLDER}/{name}.json", json.dumps(fields).encode())

    def write(self, name: str, fields: dict[str, Any]) -> None:
        """Make or replace a record that has one writer."""
        self.files.write(f"{FOLDER}/{name}.json", json.dumps(fields).encode())

    def read(self, name: str) -> dict[str, Any] | None:
        """A record, or None. Raises StoreDamagedError."""
        try:
            fields = json.loads(self.files.read(f"{FOLDER}/{name}.json"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StoreDamagedError(f"{self.files.url(f'{FOLDER}/{name}.json')} is damaged: delete it") from error
        return fields if isinstance(fields, dict) else None

    def names(self, folder: str) -> list[str]:
        """Names of the records below a folder, in order."""
        skip = len(FOLDER) + 1
        entries = self.files.list(f"{FOLDER}/{folder}")
        return [entry.name[skip:-5] for entry in entries if entry.name.endswith(".json")]

    def age_s(self, name: str) -> float | None:
        """Seconds since a record was written, by this machine's clock; None if there is none."""
        entry = self.files.stat(f"{FOLDER}/{name}.json")
        return None if entry is None else datetime.now(UTC).timestamp() - entry.modified
