"""How DuckDB is locked up, and how a statement that changes something is told from one that only reads.

Only the standard library is imported: the process of a question (console.py) has to start quickly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

__all__ = ["CHANGES", "LOCKED", "operators"]

LOCKED = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_persistent_secrets": "false",
    "python_enable_replacements": "false",
}
# Operators of a plan that change something. Data-modifying statements are allowed in WITH, and so is COPY TO.
CHANGES = re.compile(
    r"COPY|INSERT|UPDATE|DELETE|MERGE_INTO|CREATE|DROP|ALTER|ATTACH|EXPORT|LOAD|SET\b|VACUUM", re.IGNORECASE
)


def operators(plan: Any) -> Iterator[str]:
    """The names of all operators of a plan in JSON."""
    for node in plan if isinstance(plan, list) else [plan]:
        yield str(node.get("name", ""))
        yield from operators(node.get("children", []))
