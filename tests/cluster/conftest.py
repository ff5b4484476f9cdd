"""Helper modules of these tests, and those of the fault tests, can be imported here."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "faults")]
