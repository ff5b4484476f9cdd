"""Random numbers by name: the same name gives the same numbers, in any order, on any machine."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["stream"]


def stream(*name: str | int) -> np.random.Generator:
    """A generator whose numbers depend on the parts of `name` alone.

    Philox is counter-based, so streams under different 128-bit keys are independent and cost nothing to
    start. (torch's CPU generator keeps only 32 bits of its seed.)
    """
    # A separator that no part holds keeps ("ab", "c") apart from ("a", "bc").
    digest = hashlib.sha256("\x1f".join(map(str, name)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))
