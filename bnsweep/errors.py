"""Every error that a user can meet, as one tree; those of the web alone stand beside their causes in `service/`.

    BnsweepError                 exit code 1
    ├── InputError               exit code 2: what was asked for cannot be done as written
    │   ├── SpecError            a sweep file: all of its problems at once, with line numbers
    │   ├── UnknownNameError     a name that is none of the valid ones
    │   ├── PlacementError       a placement that does not fit a network
    │   ├── DataError            a data set that is missing, truncated or of another layout
    │   ├── ModelError           a network that cannot be built, placed or folded as asked
    │   └── QueryError           SQL that is refused or fails
    ├── StoreError               exit code 1
    │   ├── NoStoreError         there is no store at this place (exit code 2)
    │   ├── SchemaError          a store of a newer bnsweep, or one to write to of an older (exit code 2)
    │   ├── StoreClaimedError    another driver is writing to the store
    │   ├── StoreDamagedError    a part that is missing or does not match its digest
    │   ├── StoreUnreadableError disk or network that fails: it may pass
    │   └── StoreUnwritableError disk full, read-only, no permission
    ├── GpuLostError             a node that should have a GPU has none that works
    └── EngineError              the cluster cannot be reached or refuses the work

A message gives the rule and the value, or the unknown name and the valid ones, and what to do next.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

__all__ = [
    "BnsweepError",
    "DataError",
    "EngineError",
    "GpuLostError",
    "InputError",
    "ModelError",
    "NoStoreError",
    "PlacementError",
    "Problem",
    "QueryError",
    "SchemaError",
    "SpecError",
    "StoreClaimedError",
    "StoreDamagedError",
    "StoreError",
    "StoreUnreadableError",
    "StoreUnwritableError",
    "UnknownNameError",
]


NUMBER = re.compile(r"\d+")
MOST_NEAR = 5  # names that are asked about


class BnsweepError(Exception):
    """The root: catch this to catch everything that bnsweep raises on purpose."""

    exit_code = 1


class InputError(BnsweepError):
    """What was asked for cannot be done as written."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a sweep file."""

    where: str  # dotted path of the key, e.g. "training.epochs"; empty for the whole file
    message: str
    line: int | None = None  # 1-based

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        key = f"{self.where}: " if self.where else ""
        return f"{place}{key}{self.message}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class SpecError(InputError):
    """All problems of one sweep file."""

    def __init__(self, problems: Sequence[Problem], *, source: str = "the spec") -> None:
        self.problems = tuple(problems)
        self.source = source
        count = len(self.problems)
        head = f"{source} has {count} problem{'s' if count != 1 else ''}:"
        super().__init__("\n  ".join([head, *map(str, self.problems)]))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_spec_error, (self.problems, self.source))


def _rebuild_spec_error(problems: Sequence[Problem], source: str) -> SpecError:
    return SpecError(problems, source=source)


class UnknownNameError(InputError):
    """A name that is none of the valid ones. `instead`: a sentence in place of their list."""

    def __init__(self, kind: str, name: str, valid: Iterable[str], instead: str = "") -> None:
        self.kind, self.name, self.valid, self.instead = kind, name, tuple(valid), instead
        near = _near(name, self.valid)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        listed = f"Valid: {', '.join(self.valid)}" if self.valid else "There is none yet."
        super().__init__(f"unknown {kind} {name!r}.{hint} {instead or listed}")

    def __reduce__(self) -> tuple[object, ...]:
        return (UnknownNameError, (self.kind, self.name, self.valid, self.instead))


def _near(name: str, valid: Sequence[str]) -> list[str]:
    """What may have been meant: one name or, where the name has no number and others have, several."""
    if numbers := NUMBER.findall(name):
        # resnet21 is not a slip of the pen for resnet20 or resnet32: who writes a number means it.
        return get_close_matches(name, [other for other in valid if NUMBER.findall(other) == numbers], n=1)
    words = {other: NUMBER.sub("", other) for other in valid}
    near = get_close_matches(name, dict.fromkeys(words.values()), n=1)
    return [other for other, word in words.items() if word in near][:MOST_NEAR]


class PlacementError(InputError):
    """A placement that does not fit a network."""


class DataError(InputError):
    """A data set that is missing, truncated or of another layout."""


class ModelError(InputError):
    """A network that cannot be built, placed or folded as asked."""


class QueryError(InputError):
    """SQL that is refused or fails."""


class StoreError(BnsweepError):
    """The store cannot be read or written as asked."""


class NoStoreError(StoreError):
    """There is no store at this place."""

    exit_code = 2


class SchemaError(StoreError):
    """A store whose schema is newer than this bnsweep's, or older where it is to be written to."""

    exit_code = 2


class StoreClaimedError(StoreError):
    """Another driver is writing to the store."""


class StoreDamagedError(StoreError):
    """A part that is missing or does not match its digest."""


class StoreUnreadableError(StoreError):
    """The disk or the network fails: it may pass, so that a task is tried again."""


class StoreUnwritableError(StoreError):
    """Disk full, read-only, no permission."""


class GpuLostError(BnsweepError):
    """A node that should have a GPU has none that works: no fault of the task's."""


class EngineError(BnsweepError):
    """The cluster cannot be reached or refuses the work."""
