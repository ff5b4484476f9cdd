"""Whether this process's GPU is there, and whose fault an error of CUDA's is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bnsweep.errors import GpuLostError

__all__ = ["guarded", "is_cuda_error", "require_gpu"]

PROBE = "import torch; assert torch.ones(2, device='cuda').sum().item() == 2"
PROBE_S = 120.0


def require_gpu(wanted: float) -> None:
    """Raise GpuLostError unless this process sees a GPU."""
    if torch.cuda.is_available():
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
    raise GpuLostError(
        f"the spec asks for gpu: {wanted:g}, but this process sees no GPU{seen}; set gpu: 0 or use another node"
    )


def is_cuda_error(error: BaseException) -> bool:
    """Whether CUDA failed; running out of its memory is another matter, and may pass."""
    return not _is_out_of_memory(error) and (
        isinstance(error, torch.AcceleratorError)
        or (
            isinstance(error, RuntimeError)
            and str(error).startswith(("CUDA ", "cuDNN ", "No CUDA GPUs", "Found no NVIDIA"))
        )
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """By torch's own class, or in the words of the libraries: a context or cuBLAS that finds no room has no class."""
    words = ("out of memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(each in str(error) for each in words)
    )


@contextmanager
def guarded() -> Iterator[None]:
    """For a worker: an error of CUDA's becomes GpuLostError if it is the GPU's fault; else the process ends.

    After such an error a process can use its GPU no more. A worker that ends is replaced, and counts as an attempt.
    Running out of the GPU's memory is none: it becomes MemoryError, which may pass, as others may use the same GPU.
    """
    try:
        yield
    except RuntimeError as error:
        if _is_out_of_memory(error):
            raise MemoryError(str(error).partition("\n")[0]) from error
        if not is_cuda_error(error):
            raise
        if _serves_others():
            os._exit(1)
        raise GpuLostError(f"{type(error).__name__}: {str(error).splitlines()[0]}") from error


def _serves_others() -> bool:
    """Whether a new process can use the GPU."""
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, timeout=PROBE_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
