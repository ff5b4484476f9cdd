"""Ids and seeds from content: adding a value to an axis renumbers nothing.

An id is the first 64 bits of SHA-256 over canonical JSON, in hex; at 10 million ids two collide with a
probability of 3e-6. Seeds are the first 63 bits of the same digest, so that they fit a signed column.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["canonical_json", "digest", "noise_seed", "seed_of"]


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no blanks, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(*parts: str) -> str:
    """16 hex digits that stand for the parts, in order."""
    return _sha256(parts).hex()[:16]


def seed_of(*parts: str) -> int:
    """A seed in [0, 2**63) that stands for the parts, in order."""
    return int.from_bytes(_sha256(parts)[:8], "big") >> 1


def noise_seed(stream: str, trial: int) -> int:
    """The seed of one noise draw.

    `stream` stands for root seed, data, model and training seed: one draw serves every placement, noise
    cell and eta (common random numbers), and networks trained from different seeds get independent ones.
    """
    return seed_of("noise", stream, str(trial))


def _sha256(parts: tuple[str, ...]) -> bytes:
    # A separator that cannot occur in canonical JSON keeps ("ab", "c") apart from ("a", "bc").
    return hashlib.sha256("\x1f".join(parts).encode()).digest()
