"""Where a store's files lie: a local or shared folder, or a bucket of an object store.

The store needs few promises: `write` shows either the old or the new bytes, never a mixture, and `create` lets exactly
one of several processes make a file. A folder keeps them with a temporary name, fsync and rename or link; an object
store with one PUT, plain or conditional. Names are relative to the store, with "/" between their parts.
"""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from bnsweep.errors import StoreError, StoreUnreadableError, StoreUnwritableError

__all__ = ["KEPT", "Entry", "Files", "LocalFiles", "ObjectFiles", "one_line", "quarantine_name", "unwritable"]

UNWRITABLE = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "disk quota used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "not permitted",
    errno.ENOTDIR: "part of the path is a file, not a folder",
}
KEPT = "What was committed before is kept; put this right and run again."
EMPTY_WAITS_S = (0.05, 0.1, 0.2, 0.4)  # until a file that is empty has its content: see `_create_exclusively`
_COUNTER = itertools.count()


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a store."""

    name: str  # relative to the store
    size: int  # bytes
    modified: float  # seconds since the epoch, by the clock of the file system


class Files(ABC):
    """The files of one store. Safe to use from several threads.

    Travels to other processes by where it is: what its class was given, and no open connection or credential.
    """

    def __init__(self, location: str, root: str, arrow: fs.FileSystem) -> None:
        self.location = location  # as a user wrote it
        self.root = root  # as `arrow` wants it
        self.arrow = arrow

    @abstractmethod
    def __reduce__(self) -> tuple[object, ...]:
        """What makes the same files in another process."""

    def path(self, name: str) -> str:
        """The path that `arrow` opens; refuses names that leave the store."""
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or "\\" in name or "\0" in name:
            raise StoreError(f"a file of a store lies inside it, but got the name {name!r}")
        return f"{self.root}/{name}"

    def url(self, name: str) -> str:
        """The address for other programs: an absolute path, or e.g. s3://bucket/key."""
        return self.path(name)

    def read(self, name: str) -> bytes:
        """All bytes of a file; FileNotFoundError if there is none."""
        try:
            with self.arrow.open_input_file(self.path(name)) as stream:
                return bytes(stream.read())
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise StoreUnreadableError(f"cannot read {self.url(name)}: {one_line(error)}") from error

    def list(self, folder: str) -> list[Entry]:
        """The files below a folder, by name; those with a hidden name are unfinished and left out."""
        selector = fs.FileSelector(self.path(folder), allow_not_found=True, recursive=True)
        try:
            found = self.arrow.get_file_info(selector)
        except (OSError, pa.ArrowException) as error:
            raise StoreUnreadableError(f"cannot list {self.url(folder)}: {one_line(error)}") from error
        skip = len(self.root) + 1
        entries = [
            Entry(info.path[skip:], int(info.size or 0), info.mtime.astimezone(UTC).timestamp() if info.mtime else 0.0)
            for info in found
            if info.type == fs.FileType.File and not info.base_name.startswith(".")
        ]
        return sorted(entries, key=lambda entry: entry.name)

    def stat(self, name: str) -> Entry | None:
        """Size and time of one file, or None."""
        try:
            info = self.arrow.get_file_info(self.path(name))
        except (OSError, pa.ArrowException) as error:
            raise StoreUnreadableError(f"cannot look at {self.url(name)}: {one_line(error)}") from error
        if info.type != fs.FileType.File:
            return None
        return Entry(name, int(info.size or 0), info.mtime.astimezone(UTC).timestamp() if info.mtime else 0.0)

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None if there is none."""
        entry = self.stat(name)
        return None if entry is None else entry.size

    @abstractmethod
    def write(self, name: str, data: bytes | memoryview) -> None:
        """Make or replace a file in one step. Raises StoreUnwritableError."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Make a file unless it exists: True for exactly one of all processes that try. Raises StoreUnwritableError."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file if it exists. Raises StoreUnwritableError."""

    def move(self, name: str, to: str) -> None:
        """Keep a file, if it exists, under another name. Raises StoreUnreadableError, StoreUnwritableError."""
        with suppress(FileNotFoundError):
            self.write(to, self.read(name))
            self.delete(name)

    def set_aside(self, name: str) -> None:
        """Move a file to quarantine/, for inspection. Raises as `move` does."""
        self.move(name, quarantine_name(name))

    def sweep(self, older_than: float) -> int:
        """Remove unfinished files last touched before this time; how many."""
        return 0

    def strangers(self, own: frozenset[str]) -> Sequence[str] | None:
        """What lies in the folder beside what a store calls its own; None if it is no folder. Buckets are not asked."""
        return []


class LocalFiles(Files):
    """A folder on a disk or a shared file system such as NFS."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root), str(root), fs.LocalFileSystem())

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (Path(self.root),)

    def read(self, name: str) -> bytes:
        path = Path(self.path(name))
        try:
            for wait_s in EMPTY_WAITS_S:  # nothing in a store is empty but a name that was just taken
                if data := path.read_bytes():
                    return data
                time.sleep(wait_s)
            return path.read_bytes()
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreUnreadableError(f"cannot read {self.url(name)}: {one_line(error)}") from error

    def write(self, name: str, data: bytes | memoryview) -> None:
        final = Path(self.path(name))
        with unwritable(str(final)), _temporary(final, data) as temporary:
            temporary.replace(final)
            _sync_folder(final.parent)

    def create(self, name: str, data: bytes) -> bool:
        final = Path(self.path(name))
        with unwritable(str(final)):
            if final.exists():
                return False
            with _temporary(final, data) as temporary:
                made = _link(temporary, final)
            if made:
                _sync_folder(final.parent)
            return made

    def delete(self, name: str) -> None:
        with unwritable(self.path(name)):
            Path(self.path(name)).unlink(missing_ok=True)

    def move(self, name: str, to: str) -> None:
        old, new = Path(self.path(name)), Path(self.path(to))
        if not os.path.lexists(old):
            return
        with unwritable(str(new)):
            new.parent.mkdir(parents=True, exist_ok=True)
            old.rename(new)  # what the disk cannot read can be moved still
            _sync_folder(new.parent)
            _sync_folder(old.parent)

    def sweep(self, older_than: float) -> int:
        removed = 0
        for path in Path(self.root).rglob(".*.tmp"):
            with suppress(FileNotFoundError), unwritable(str(path)):
                if path.stat().st_mtime < older_than:
                    path.unlink()
                    removed += 1
        return removed

    def strangers(self, own: frozenset[str]) -> Sequence[str] | None:
        root = Path(self.root)
        try:
            names = [path.name for path in root.iterdir()]
        except NotADirectoryError:
            return None
        except OSError:  # not there, or not to be read: whoever writes will hear of it
            return []
        return sorted(name for name in names if name not in own and not name.startswith(".") and name != "lost+found")


@contextmanager
def _temporary(final: Path, data: bytes | memoryview) -> Iterator[Path]:
    """A synced file beside the final one, with a name no reader looks at, gone afterwards."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.parent / f".{final.name}.{os.getpid()}-{next(_COUNTER)}-{os.urandom(4).hex()}.tmp"
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, final: Path) -> bool:
    """Give a finished file its final name unless that is taken."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        # NFS may lose the answer to a link that was made: then the file has two names.
        return temporary.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}:
            raise
        return _create_exclusively(temporary, final)
    return True


def _create_exclusively(temporary: Path, final: Path) -> bool:
    """For file systems without hard links: an empty file takes the name, then the finished one takes its place.

    A crash in between leaves the empty file, which no digest matches.
    """
    try:
        final.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        temporary.replace(final)
    except OSError:
        final.unlink(missing_ok=True)  # the name was ours
        raise
    return True


def _sync_folder(folder: Path) -> None:
    """Make a new name in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some shared file systems sync no folders
            raise
    finally:
        os.close(handle)


class ObjectFiles(Files):
    """A bucket that pyarrow reads. What writes to it must offer a create-if-absent."""

    def __init__(self, location: str, root: str, arrow: fs.FileSystem) -> None:
        super().__init__(location, root, arrow)
        self._connecting = threading.Lock()
        self._connection: Any = None

    @abstractmethod
    def _connect(self) -> Any:
        """What writes to the bucket, for all threads; StoreError if its library is not installed."""

    @property
    def _client(self) -> Any:
        """What `_connect` makes, once and only for who writes: it takes a library that readers need not have."""
        with self._connecting:
            if self._connection is None:
                self._connection = self._connect()
            return self._connection

    def _key(self, name: str) -> str:
        """The name of a file within its bucket."""
        return self.path(name).partition("/")[2]

    def _unwritable(self, name: str, error: Exception) -> StoreUnwritableError:
        return StoreUnwritableError(f"cannot write {self.url(name)}: {one_line(error).rstrip('.')}. {KEPT}")

    def write(self, name: str, data: bytes | memoryview) -> None:
        if not self._put(name, bytes(data), only_if_absent=False):
            raise StoreUnwritableError(
                f"cannot write {self.url(name)}: the object store refuses to, as if it were in use. {KEPT}"
            )

    def create(self, name: str, data: bytes) -> bool:
        if self._put(name, data, only_if_absent=True):
            return True
        # The answer to a PUT that was carried out may be lost and the PUT repeated: then what is there is ours.
        with suppress(FileNotFoundError):
            return self.read(name) == data
        return False

    @abstractmethod
    def _put(self, name: str, data: bytes, *, only_if_absent: bool) -> bool:
        """One upload, seen when all of it is there; False if it was to be absent and is not. StoreUnwritableError."""

    def url(self, name: str) -> str:
        return f"{urlsplit(self.location).scheme}://{self.path(name)}"


@contextmanager
def unwritable(path: str) -> Iterator[None]:
    """Turn what the system says about a write into one line."""
    try:
        yield
    except OSError as error:
        reason = UNWRITABLE.get(error.errno or 0, one_line(error))
        raise StoreUnwritableError(f"cannot write {path}: {reason}. {KEPT}") from error


def quarantine_name(name: str) -> str:
    """Where a file is kept that is set aside: by the time, so that what is set aside later does not replace it."""
    return f"quarantine/{time.time_ns()}/{name}"


def one_line(error: BaseException) -> str:
    """The text of an error without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
