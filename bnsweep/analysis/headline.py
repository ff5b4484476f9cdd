"""The accuracy table as a terminal shows it: one row per network and noise cell, one column per eta."""

from __future__ import annotations

from bnsweep.analysis.database import Database
from bnsweep.analysis.result import Result

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
    ◦ marks a figure without an interval, † one that stayed wider than its sweep wants.
    """
    rows = database.query("accuracy")
    varying = [name for name in IF_SEVERAL if len(set(rows.column(name))) > 1]
    return rows.pivot(
        across="eta",
        value="accuracy_pct",
        spread="half_width_pct",
        mark="capped",
        runs="seeds",
        count="n",
        keep=[*varying, *ALWAYS],
    )
