"""Tables about the paper's explanation: gradient noise, smoothness, eq. 9."""

from __future__ import annotations

from collections.abc import Sequence

from bnsweep.training.images import DataShape
from bnsweep.training.layout import layout_of
from tests.results.markdown import Lines, command, figure, table
from tests.results.published import APART, ENDS, TARGETS, Answers, arms

__all__ = ["correlation", "equation_9", "gradients", "smoothness"]


def gradients(ask: Answers) -> Lines:
    """C by network, placement and learning rate, mean of the runs at the last measured epoch."""
    lines = []
    for sweep in APART:
        rate = {row["run_id"]: row["learning_rate"] for row in ask("runs", sweep)}
        rows = [
            {**row, "rate": rate[row["run_id"]]}
            for row in ask("gradient_noise", sweep, targets="weights", bn_treatment="stale")
        ]
        names = ("model", "rate", "bn_kept", "placement")
        for arm in sorted(arms(rows, *names), key=lambda a: (a[0], a[1], -a[2])):
            own = [row for row in rows if tuple(row[name] for name in names) == arm]
            noise, batch = ([row[name] for row in own if row[name] is not None] for name in ("noise", "noise_batch"))
            kept = [row["average_normalized_pct"] for row in own]
            spans = map(_span, (noise, batch, kept))
            lines.append([sweep, arm[0], arm[3], f"{arm[1]:g}", *spans, str(len(own))])
    heads = ["sweep", "network", "placement", "learning rate", "C of images: mean (range)", "C of batches", "A_avr, %"]
    return table([*heads, "networks"], lines) + command("gradient_noise", *APART)


def _span(values: Sequence[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{sum(values) / len(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def correlation(ask: Answers) -> Lines:
    """Rank correlation of C and A_avr over the networks of one recipe."""
    rates = {sweep: {row["training"]: row["learning_rate"] for row in ask("runs", sweep)} for sweep in APART}
    lines = [
        [
            sweep,
            f"{rates[sweep][row['training']]:g}",
            TARGETS[row["targets"]],
            row["bn_treatment"],
            row["measure"],
            f"{row['networks']} in {row['arms']}",
            "-" if row["rank_correlation"] is None else f"{row['rank_correlation']:+.2f}",
            "-" if row["low"] is None else f"{row['low']:+.2f} to {row['high']:+.2f}",
            row["explanation"],
        ]
        for sweep in APART
        for row in ask("gradient_noise_correlation", sweep)
        if row["bn_treatment"] == "stale" and row["targets"] in ENDS
    ]
    heads = [
        "sweep",
        "learning rate",
        "noise on",
        "BN",
        "C of",
        "networks in arms",
        "rank correlation",
        "95 % interval",
        "the paper's explanation",
    ]
    return table(heads, lines) + command("gradient_noise_correlation", *APART)


def smoothness(ask: Answers) -> Lines:
    """The paper's section on smoothness, at the last measured epoch."""
    rows = ask("smoothness")
    last = {(r["model"], r["placement"]): r for r in sorted(rows, key=lambda r: r["epoch"])}
    lines = [
        [
            row["model"],
            row["placement"],
            str(row["epoch"]),
            f"{row['norm_mean']:.2f} ({row['norm_min']:.2f} to {row['norm_max']:.2f})",
            f"{row['norm_range']:.1f}",
            f"{row['change_share']:.2f}",
            f"{row['cost_pct']:.1f} %",
            str(row["seeds"]),
        ]
        for row in sorted(last.values(), key=lambda r: (r["model"], -r["bn_kept"]))
    ]
    heads = ["network", "placement", "epoch", "norm of the gradient: mean (least to most)", "most / least"]
    return table([*heads, "distance of consecutive gradients / norm", "probes' cost", "networks"], lines) + command(
        "smoothness"
    )


def equation_9(ask: Answers) -> Lines:
    """The terms of eq. 9 at each BN site, in forward order, at the last measured epoch."""
    rows = ask("equation_9")
    last = max(row["epoch"] for row in rows)
    lines = []
    for model, placement in sorted(arms(rows, "model", "placement")):
        sites = [site.path for site in layout_of(model, DataShape(channels=3, size=32, classes=10)).sites]
        own = [row for row in rows if (row["model"], row["placement"], row["epoch"]) == (model, placement, last)]
        lines += [
            [
                model,
                row["site"],
                figure(row["scale"], digits=2),
                f"{row['mean_pct']:.3f}",
                f"{row['correlation_pct']:.3f}",
                figure(row["passed"], row["half_width"], digits=2),
                str(row["seeds"]),
            ]
            for row in sorted(own, key=lambda r, sites=sites: sites.index(r["site"]))  # type: ignore[misc]
        ]
    heads = ["network", "BN site", "γ² / σ²", "mean term, %", "correlation term, %", "gradient before / after BN"]
    return table([*heads, "networks"], lines) + command("equation_9")
