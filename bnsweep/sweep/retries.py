"""What one process does about a task that fails: it tries again where that may help, and says why it gave up."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from typing import TypeVar

from bnsweep.errors import BnsweepError, GpuLostError, StoreUnreadableError, StoreUnwritableError
from bnsweep.training.origin import origin

__all__ = ["ATTEMPTS", "PASSING", "GivenUpError", "first_line", "persevere", "said"]

ATTEMPTS = 3  # of a task that fails for a reason that may pass: disk, network, memory
RETRY_S = 1.0  # before the second attempt at a store that cannot be read; twice as long before the third

# Disk, memory, network: the next try may find them well. A block that raises something else would raise it again; a
# training run is tried again whatever it raises, as Tune does it, for it has more to lose.
PASSING = (OSError, MemoryError, StoreUnreadableError)

T = TypeVar("T")


class GivenUpError(Exception):
    """A task that is not tried again. Its text is what the task's row says."""

    def __init__(self, said: str, attempts: int) -> None:
        super().__init__(said)
        self.attempts = attempts


def persevere(do: Callable[[], T], *, passing: tuple[type[Exception], ...] = (Exception,)) -> T:
    """Do it, and what fails for a reason that may pass, again: an error of those types, unless it is one of ours.

    Raises:
        GivenUpError: it cannot be done, or not in so many attempts.
        GpuLostError, StoreUnwritableError: no fault of the task's: its sweep or search stops, and goes on once this is
            put right.
    """
    from bnsweep.sweep import gpu  # torch: not for those who only want to know what an engine is

    for attempt in range(1, ATTEMPTS + 1):
        try:
            return do()
        except (GpuLostError, StoreUnwritableError):
            raise
        except StoreUnreadableError as error:
            last: Exception = error
            sleep(RETRY_S * attempt if attempt < ATTEMPTS else 0)
        except BnsweepError as error:
            raise GivenUpError(said(error), attempt) from error
        except Exception as error:  # whatever a network of the user's raises becomes a row
            if gpu.is_cuda_error(error):  # this process can use its GPU no more
                first = str(error).partition("\n")[0]
                raise GpuLostError(f"{type(error).__name__}: {first}") from error
            if not isinstance(error, passing):
                raise GivenUpError(said(error), attempt) from error
            last = error.with_traceback(None)  # its frames hold the network, and so a GPU's memory
    raise GivenUpError(said(last), ATTEMPTS)


def said(error: BaseException) -> str:
    """An error, as a row has it."""
    if isinstance(error, BnsweepError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}{origin(error)}"


def first_line(error: BaseException) -> str:
    """What an error says, without what follows."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
