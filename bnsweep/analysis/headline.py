"""The accuracy table as a terminal shows it: one row per network and noise cell, one column per eta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from bnsweep.analysis.database import Database
from bnsweep.analysis.result import Result
from bnsweep.analysis.wording import WIDEST_POINTS, span

__all__ = ["accuracy_table"]

ALWAYS = ("model", "placement", "targets")
IF_SEVERAL = (
    "dataset",
    "training",
    "sigma_reference",
    "bn_treatment",
    "recalibration_images",
    "precision",
    "sampling",
)


def accuracy_table(database: Database) -> Result:
    """Mean accuracy in % and half of its 95 % interval, in the form of the paper's Tables II and III.

    n is the number of noise draws at each eta above 0, seeds that of training runs; each is a range where etas differ.
    ◦ marks a figure without an interval, or with one as wide as all that an accuracy can be; † one that stayed wider
    than its sweep wants.
    """
    rows = _telling(database.query("accuracy"))
    varying = [name for name in IF_SEVERAL if len(set(rows.column(name))) > 1]
    keep = [*varying, *ALWAYS]
    shown = rows.pivot(
        across="eta",
        value="accuracy_pct",
        spread="half_width_pct",
        mark="capped",
        runs="seeds",
        count="n",
        keep=keep,
    )
    return _column(shown, "n", pa.array(_draws(rows, shown, keep)))


def _telling(rows: Result) -> Result:
    """Two draws may give 50.0 ± 635.3 %: a half-width that says nothing is left out."""
    halves = rows.table["half_width_pct"]
    return _column(rows, "half_width_pct", pc.if_else(pc.less(halves, WIDEST_POINTS), halves, None))


def _draws(rows: Result, shown: Result, keep: Sequence[str]) -> list[str]:
    """Noise draws behind each line: those at η = 0, where one is enough, only where there is nothing else."""
    counts: dict[tuple[Any, ...], tuple[list[int], list[int]]] = {}
    for row in rows.to_dicts():
        counts.setdefault(tuple(row[name] for name in keep), ([], []))[row["eta"] > 0].append(row["n"])
    lines = zip(*map(shown.column, keep), strict=True)
    return [span(noisy or clean) for clean, noisy in map(counts.__getitem__, lines)]


def _column(rows: Result, name: str, values: Any) -> Result:
    """The answer with other values in one column."""
    return replace(rows, table=rows.table.set_column(rows.table.schema.get_field_index(name), name, values))
