"""The paragraph that says how much of a loss is noise on the weights, and how much noise on BN's own parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnsweep.analysis.database import Database

__all__ = ["attribution_paragraph"]

STEPS = {
    "weights": "the weights",
    "weights+bias": "biases",
    "weights+bias+affine": "BN's gamma and beta",
    "all": "BN's running mean and variance",
}
LEVELS = {"seeds": "over training seeds and draws", "draws": "over draws on one network"}

Row = Mapping[str, Any]


def attribution_paragraph(database: Database, *, confidence: float = 0.95) -> str:
    """For each network with BN everywhere: a loss and its steps. Empty without rows for more than one target set.

    eta is the lowest at which noise on the largest set costs at least half of what it costs at worst: on the cliff the
    steps can be told apart, and beyond it every set costs everything.
    """
    rows = database.query("target_attribution", confidence=confidence).to_dicts()
    # Without clean rows (given up, or yet to come) there is nothing that a loss could be measured from.
    measured = [row for row in rows if row["loss_pct"] is not None]
    wanted = [row for row in measured if row["bn_treatment"] == "stale" and _everywhere(row)]
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in wanted:
        key = ("dataset", "model", "training", "noise_model", "sigma_reference", "precision", "sampling")
        groups.setdefault(tuple(row[name] for name in key), []).append(row)
    return " ".join(text for text in map(_sentences, groups.values()) if text)


def _everywhere(row: Row) -> bool:
    return bool(row["placement"] == "all" or (row["bn_kept"] and row["bn_kept"] == row["bn_sites"]))


def _sentences(rows: Sequence[Row]) -> str:
    """One network: the loss from noise on the largest set, and its steps."""
    order = list(STEPS)
    widest = max((row["targets"] for row in rows), key=order.index)
    if widest == "weights":
        return ""
    on_widest = [row for row in rows if row["targets"] == widest]
    worst = max(row["loss_pct"] for row in on_widest)
    whole = min((row for row in on_widest if row["loss_pct"] >= worst / 2), key=lambda row: row["eta"])
    steps = sorted((row for row in rows if row["eta"] == whole["eta"]), key=lambda row: order.index(row["targets"]))
    if len(steps) < 2:
        return ""
    head = (
        f"{whole['model']} on {whole['dataset']} with BN everywhere, eta = {100 * whole['eta']:g} % of "
        f"{whole['sigma_reference']}: noise on {_hit(widest, None)} costs {_amount(whole, 'loss')} of "
        f"{whole['baseline_pct']:.1f} % accuracy"
    )
    parts = "; ".join(f"{_step(row)} {_amount(row, 'added')}" for row in steps)
    share = _share(steps[0], whole)
    level = LEVELS.get(str(whole["level"]), "no interval: one draw on one network")
    count = f"n = {whole['n']} trials on {whole['seeds']} training run{'s' if whole['seeds'] != 1 else ''}, {level}"
    nonfinite = (
        f" {whole['nonfinite_pct']:.1f} % of the images scored had a non-finite output." if _known(whole) else ""
    )
    return f"{head}. Step by step: {parts}. {share}{nonfinite} ({count}.)"


def _known(row: Row) -> bool:
    return row["nonfinite_pct"] is not None


def _hit(targets: str, beyond: str | None) -> str:
    names = list(STEPS)
    first = 0 if beyond is None else names.index(beyond) + 1
    parts = [STEPS[name] for name in names[first : names.index(targets) + 1]]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _step(row: Row) -> str:
    return _hit(row["targets"], row["beyond"])


def _amount(row: Row, name: str) -> str:
    low, high = row[f"{name}_low_pct"], row[f"{name}_high_pct"]
    if row[f"{name}_pct"] is None:
        return "not paired"
    spread = "no interval" if low is None else f"{low:.1f} to {high:.1f}"
    return f"{row[f'{name}_pct']:.1f} points ({spread})"


def _share(first: Row, whole: Row) -> str:
    if whole["loss_pct"] <= 0:
        return "Nothing was lost."
    share = 100 * first["loss_pct"] / whole["loss_pct"]
    return f"Noise on {_hit(first['targets'], None)} alone costs {share:.0f} % of that."
