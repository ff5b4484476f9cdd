"""Paths as a user types them."""

from __future__ import annotations

from pathlib import Path

from bnsweep.errors import InputError

__all__ = ["home_expanded"]


def home_expanded(path: str | Path) -> Path:
    """The path with the home directory in place of its `~`. Raises InputError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"the system knows no home directory for {str(path)!r}: write it in full, or with ./ before a ~ that is "
            "part of a name"
        ) from None
