"""Paths as a user types them, and files that are written there whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bnsweep.errors import InputError, StoreUnwritableError

__all__ = ["home_expanded", "whole"]

STREAMS = range(10)  # that a shell opens by number: `--out /dev/stdout > file`, `--out /dev/fd/3 3>> file`


def home_expanded(path: str | Path) -> Path:
    """The path with the home directory in place of its `~`. Raises InputError where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"the system knows no home directory for {str(path)!r}: write it in full, or with ./ before a ~ that is "
            "part of a name"
        ) from None


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what `path` is to hold: a file beside it, which takes its place at the end.

    After an error or Ctrl-C, `path` is what it was before. A link stays one, and a file keeps its permissions. What is
    no regular file, a pipe say, or is open as a stream already is written itself. The folder is made.

    Raises:
        StoreUnwritableError: the place cannot be written to.
    """
    try:
        if _is_stream(path):
            yield path
            return
        final = Path(os.path.realpath(path))
        final.parent.mkdir(parents=True, exist_ok=True)
        mode = _mode_of_writable(final)
        temporary = final.with_name(f".bnsweep-{os.getpid()}-{os.urandom(4).hex()}.tmp")  # names have a length limit
        try:
            yield temporary
            if mode is not None:
                temporary.chmod(mode)
            temporary.replace(final)
        finally:
            temporary.unlink(missing_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise _unwritable(path, "part of the path is a file, not a folder") from error
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error


def _unwritable(path: Path, reason: str) -> StoreUnwritableError:
    return StoreUnwritableError(f"cannot write {path}: {reason}; put this right or choose another place")


def _is_stream(path: Path) -> bool:
    """Whether others hold it open, who would write on into a file that is nowhere any more."""
    if not path.exists():
        return False
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        return True
    for stream in STREAMS:
        with suppress(OSError):  # closed
            if os.path.samestat(found, os.fstat(stream)):
                return True
    return False


def _mode_of_writable(path: Path) -> int | None:
    """Permissions of a file that may be written, which its folder does not tell; None: there is none."""
    if not path.exists():
        return None
    with path.open("r+b") as file:
        return stat.S_IMODE(os.fstat(file.fileno()).st_mode)
