"""The head file, which makes a folder or bucket a store, and where one may be made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

from bnsweep._version import __version__
from bnsweep.errors import InputError, NoStoreError, StoreDamagedError, StoreUnreadableError
from bnsweep.store import schema
from bnsweep.store.filesystem import Files

__all__ = ["HEAD", "check_place", "create_head", "head_version", "write_head"]

HEAD = "bnsweep-store.json"
OWN = frozenset({HEAD, "log", "parts", "claims", "networks", "weights", "resume", "quarantine", "service", "tune"})


def check_place(files: Files) -> None:
    """A mistyped location must not be filled: refuse a file, and a folder that holds something else."""
    way_out = "give a store, or a directory that is empty or not there yet"
    if others := _strangers(files, way_out):
        some = ", ".join([*others[:3], *(["..."] if len(others) > 3 else [])])
        raise InputError(
            f"a store has a directory of its own, but {files.location} holds other files ({some}): {way_out}"
        )


def _strangers(files: Files, way_out: str) -> Sequence[str]:
    """What else lies at a location; InputError for a file."""
    others = files.strangers(OWN)
    if others is None:
        raise InputError(f"a store is a directory, but {files.location} is, or lies in, a file: {way_out}")
    return others


def create_head(files: Files) -> bool:
    """Make a store of today's schema; False if there is one."""
    return files.size(HEAD) is None and files.create(HEAD, _head(schema.SCHEMA_VERSION))


def write_head(files: Files, version: int) -> None:
    """Replace the file that says which schema version a store has."""
    files.write(HEAD, _head(version))


def _head(version: int) -> bytes:
    head = {
        "schema_version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "bnsweep": __version__,
    }
    return json.dumps(head, indent=2).encode() + b"\n"


def head_version(files: Files) -> int:
    """The schema version of a store; NoStoreError, StoreDamagedError, InputError for a file."""
    try:
        head = json.loads(files.read(HEAD))
        return int(head["schema_version"])
    except FileNotFoundError as error:
        raise NoStoreError(
            f"{files.location} holds no store ({HEAD} is missing): give the location that `bnsweep run` wrote to"
        ) from error
    except StoreUnreadableError:
        _strangers(files, "give the location that `bnsweep run` wrote to")
        raise
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise StoreDamagedError(
            f"{files.url(HEAD)} is damaged: `bnsweep store verify --repair` writes it anew, from what the log says"
        ) from error
