"""The paper's explanation, tested: does a network whose gradient was less noisy in training resist noise less?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bnsweep.analysis import charts
from bnsweep.analysis.figures import Figure, charts_of, panel_of, slug
from bnsweep.analysis.series import kept_pct, placement_label
from bnsweep.analysis.wording import counted

__all__ = ["explanation", "noise_figures"]

Row = Mapping[str, Any]

CELL = ("dataset", "noise_model", "sigma_reference", "targets", "bn_treatment")
VERDICTS = {
    "supported": "which is what the paper's explanation says",
    "contradicted": "which is the opposite of what the paper's explanation says",
    "undecided": "so these runs do not decide whether the paper's explanation holds",
}
MEASURES = {"images": "of single images, BN in evaluation mode", "batches": "of batches, BN in training mode"}


def noise_figures(rows: Sequence[Row]) -> Iterator[Figure]:
    """Gradient noise C against A_avr, a point per run: a chart per data set and recipe, a panel per noise cell.

    By eq. 7 C says nothing across learning rates (query gradient_noise_correlation).
    """
    for group in charts_of(rows, "dataset"):
        drawn = [
            {
                "panel": panel_of(row),
                "label": placement_label(row),
                "kept_pct": kept_pct(row),
                "model": row["model"],
                "run": f"{row['model']}, seed {row['train_seed']}",
                "x": row["noise"],
                "x_low": row["noise_low"],
                "x_high": row["noise_high"],
                "value": row["average_normalized_pct"],
                "n": row["n"],
            }
            for row in group.rows
            if row["noise"] and row["average_normalized_pct"] is not None
        ]
        if not drawn:
            continue
        runs = len({row["run_id"] for row in group.rows})
        yield Figure(
            name=slug("gradient-noise", *group.names),
            title=f"Gradient noise and noise resistance: {group.names[0]}{group.words}",
            caption=(
                f"n = {counted(runs, 'training run')}, a point each, not pooled over seeds; bars: 95 % interval of C, "
                "eq. 6 of the paper, of single images at the last epoch that was measured."
            ),
            chart=charts.gradient_noise(drawn),
            rows=drawn,
            query="gradient_noise",
            panels=len({row["panel"] for row in drawn}),
            table=(
                ("panel", "Noise"),
                ("label", "Placement"),
                ("run", "Run"),
                ("x", "C"),
                ("x_low", "from"),
                ("x_high", "to"),
                ("value", "A_avr, %"),
            ),
        )


def explanation(correlations: Sequence[Row]) -> list[str]:
    """A sentence per data set, noise cell and way of measuring C; cells without a correlation are left out."""
    return [_sentence(row, correlations) for row in correlations if row["rank_correlation"] is not None]


def _sentence(row: Row, among: Sequence[Row]) -> str:
    recipe = f", recipe {row['training']}" if len({each["training"] for each in among}) > 1 else ""
    if row["low"] is None:
        interval = "without an interval, which takes four arms (networks and placements) and more"
    else:
        interval = f"95 % interval {row['low']:+.2f} to {row['high']:+.2f} by {counted(row['arms'], 'arm')}"
    return (
        f"{row['dataset']}{recipe}, {panel_of(row, among=among)}: over {counted(row['networks'], 'training run')} the "
        f"rank correlation between gradient noise C ({MEASURES[row['measure']]}) and A_avr is "
        f"{row['rank_correlation']:+.2f}, {interval}, "
        f"{VERDICTS[row['explanation']]} (less gradient noise, less "
        "resistance: a correlation above 0)."
    )
