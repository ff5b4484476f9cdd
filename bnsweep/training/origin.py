"""Where in somebody's own code an error came from: the last line of its traceback that is no library's.

A task's error is a row, and travels between processes without its traceback: the place goes along as an attribute.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import walk_tb

from bnsweep.errors import BnsweepError

__all__ = ["located", "origin"]

LIBRARIES = {"bnsweep", "functorch", "numpy", "ray", "torch", "torchvision", "__main__", *sys.stdlib_module_names}
LONGEST = 60  # characters of each name
NOTED = "bnsweep_origin"


def origin(error: BaseException) -> str:
    """` (nets/own.py:12, in forward)`, to end a message with; empty where no code of one's own had part in it."""
    noted: str = getattr(error, NOTED, "")
    return noted or _found(error)


@contextmanager
def located() -> Iterator[None]:
    """Whatever is raised within knows where it came from, even once it has lost its traceback."""
    try:
        yield
    except BnsweepError:
        raise  # it says what is wrong by itself
    except Exception as error:
        with suppress(Exception):  # an exception may have no room for attributes
            setattr(error, NOTED, _found(error))
        raise


def _found(error: BaseException) -> str:
    own = [
        (frame.f_code, line)
        for frame, line in walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] not in LIBRARIES
    ]
    if not own:
        return ""
    code, line = own[-1]
    file = "/".join(part[-LONGEST:] for part in Path(code.co_filename).parts[-2:])
    return f" ({file}:{line}, in {code.co_name[:LONGEST]})"
