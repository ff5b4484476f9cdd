"""What this machine can do: multiply-adds of a large matrix product, bytes of a large copy; and what it is.

The product is that of the better of two libraries: torch's for matrices, and its one for convolutions.

A floor is the longer of two times: the operations that some work needs over the product's speed, and the bytes that it
must move between memory and cores over the copy's. Nothing on this machine can be quicker, and caches, layers of
software and small shapes only add to it. Processor time is measured, not wall time: it is the same while others work.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import process_time
from typing import Any

import torch

from bnsweep.sweep.timing import computes_bf16

MATRIX = 2048  # side: 16 MB in fp32, beyond the second-level caches
COPY_MB = 256
REPEATS = 10
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Speeds:
    """The best of several repetitions, by all of `threads` together."""

    threads: int
    products: dict[str, float]  # multiply-adds/s by precision; bf16 only where the processor computes it
    copy: float  # bytes/s, read and written both counted

    def floor_s(self, multiply_adds: float, bytes_moved: float, precision: str = "fp32") -> float:
        """Seconds below which work of this size cannot come."""
        return max(multiply_adds / self.products[precision], bytes_moved / self.copy)


@cache
def speeds(threads: int) -> Speeds:
    """Measure; once per process and number of threads."""
    with torch_threads(threads):
        products = {}
        for name in precisions():
            matrix = torch.randn(MATRIX, MATRIX).to(DTYPES[name])
            seconds = min(_best(partial(torch.mm, matrix, matrix), threads), _best(_as_convolution(matrix), threads))
            products[name] = MATRIX**3 / seconds
        source = torch.ones(COPY_MB << 18)
        target = torch.empty_like(source)
        moved = 2 * source.numel() * source.element_size()
        return Speeds(threads, products, moved / _best(lambda: target.copy_(source), threads))


def _as_convolution(matrix: torch.Tensor) -> Callable[[], object]:
    """The same product by the library that computes convolutions: on some processors it is the quicker one."""
    side = 32
    pixels = matrix.t().reshape(1, MATRIX, MATRIX // side, side).contiguous(memory_format=torch.channels_last)
    return partial(torch.conv2d, pixels, matrix.view(MATRIX, MATRIX, 1, 1))


def precisions() -> list[str]:
    """bf16 only where the processor has instructions for it: emulated, one product of this size takes minutes."""
    return [name for name in DTYPES if name == "fp32" or computes_bf16()]


def facts() -> dict[str, Any]:
    """What is said beside every figure of the history."""
    words = set(_cpuinfo("flags").split())
    return {
        "processor": _cpuinfo("model name") or platform.processor() or platform.machine(),
        "cpu_features": " ".join(name for name in FEATURES if name in words),
        "cores": os.cpu_count(),
        "torch": str(torch.__version__),
    }


def rows() -> list[dict[str, Any]]:
    """The two numbers themselves, as figures."""
    found = []
    for threads in sorted({1, os.cpu_count() or 1}):
        here = speeds(threads)
        cores = f"{threads} thread{'s' if threads > 1 else ''}"
        for name, rate in here.products.items():
            found.append(_row(f"machine: {MATRIX}x{MATRIX} matrix product, {name}, {cores}", rate / 1e9, "G madd/s"))
        found.append(_row(f"machine: copy of {COPY_MB} MB, {cores}", here.copy / 1e9, "GB/s"))
    return found


@contextmanager
def torch_threads(count: int) -> Any:
    """torch on so many threads, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _row(figure: str, value: float, unit: str) -> dict[str, Any]:
    return {"figure": figure, "value": value, "unit": unit, "baseline": None, "ratio": None, "n": REPEATS}


def _cpuinfo(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _best(work: Callable[[], object], threads: int) -> float:
    """Seconds of each thread, which all work alike."""
    work()
    seconds = []
    for _ in range(REPEATS):
        start = process_time()
        work()
        seconds.append(process_time() - start)
    return min(seconds) / threads
