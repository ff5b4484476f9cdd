"""Sweep files: those of a user, and the ready ones that ship with bnsweep."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from bnsweep.errors import InputError

__all__ = ["LARGEST_BYTES", "READY", "did_you_mean", "read_text", "ready_specs", "spec_path"]

LARGEST_BYTES = 1_000_000
READY = Path(__file__).parent.parent / "sweeps"


def ready_specs() -> dict[str, Path]:
    """The sweeps that ship with bnsweep, by name."""
    return {path.stem: path for path in sorted(READY.glob("*.yaml"))}


def spec_path(source: str | Path) -> Path:
    """The file of a spec, given as a path or as the name of a ready sweep; it need not exist."""
    path = Path(source)
    with suppress(OSError):  # where the system refuses to look, nothing is found
        if path.exists():
            return path
    return ready_specs().get(str(source), path)


def read_text(source: str | Path) -> str:
    """The text of a sweep file or of the ready sweep of this name. Raises InputError: no such file, or not text."""
    path = spec_path(source)
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError(
                f"{path}: a sweep file has at most {LARGEST_BYTES} bytes, but this has {path.stat().st_size}"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        ready = ready_specs()
        raise InputError(
            f"no sweep file {str(source)!r}{did_you_mean(str(source), ready)}. Give a path, or one of the ready "
            f"sweeps: {', '.join(ready)}"
        ) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory, but a sweep file is wanted: give a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a UTF-8 text file: {error}") from None


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A question in brackets, with a space before it; nothing where no name is near."""
    near = get_close_matches(name, list(valid), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""
