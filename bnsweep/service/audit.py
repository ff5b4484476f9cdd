"""Who did what, and when: one record per act, in the store, never changed."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from bnsweep.errors import StoreError
from bnsweep.service.records import Records, now

__all__ = ["Audit"]

logger = logging.getLogger("bnsweep.service")
LONGEST = 2000  # characters kept of a question or a message


class Audit:
    """The log. Acts are: sign in, refused, submit, cancel, retry, question, token made, token revoked."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def add(self, who: str, what: str, **details: Any) -> None:
        """Record an act. On a full disk people still read: then the service's own log says what is not recorded."""
        at = now()
        short = {key: value[:LONGEST] if isinstance(value, str) else value for key, value in details.items()}
        name = f"audit/{at[:10]}/{at[11:23].replace(':', '')}-{secrets.token_hex(4)}"
        try:
            self._records.create(name, {"at": at, "who": who, "what": what, **short})
        except StoreError as error:
            logger.error("not in the audit log: %s, %s (%s)", who, what, error)

    def latest(self, count: int) -> list[dict[str, Any]]:
        """The newest acts, newest first."""
        names = sorted(self._records.names("audit"), reverse=True)[:count]
        found = (self._records.read(name) for name in names)
        return [fields for fields in found if fields is not None]
