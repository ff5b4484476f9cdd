"""The tables of docs/results*.md and of the README's first screen, made from the rows under results/.

`python -m tests.results.tables` writes them anew between their marks; a test compares what stands there with what the
rows give. Under each table stands the command that gives its figures.

    <!-- table NAME -->
    ...
    <!-- end -->
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from tests.results.factors import factors
from tests.results.glance import claims, glance, recipes, verdicts
from tests.results.markdown import Lines, between, command, figure, table
from tests.results.published import (
    APART,
    DEEP_SGD,
    DEPTH,
    ENDS,
    FULL,
    HUNDRED,
    HUNDRED_SGD,
    LONG,
    LONG_SGD,
    MAIN,
    PUZZLES,
    ROOT,
    SGD,
    SMALL_HUNDRED,
    TARGETS,
    TASK,
    TASK_SGD,
    VGG,
    Answers,
    Row,
    arms,
    merged,
)
from tests.results.theory import correlation, equation_9, gradients, smoothness

__all__ = ["DOCUMENTS", "MARKED", "TABLES", "filled"]

DOCUMENTS = (
    "docs/results.md",
    "docs/results-details.md",
    "docs/results-puzzles.md",
    "docs/results-theory.md",
    "README.md",
)
MARKED = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
BN = {"all": "everywhere", "none": "none"}
TREATMENTS = ("stale", "folded", "recalibrated")


def _etas(rows: Iterable[Row]) -> list[float]:
    return sorted({row["eta"] for row in rows})


def accuracy(ask: Answers, sweep: str = MAIN) -> Lines:
    """Table II or III: accuracy per eta, ours above the paper's where it has the network."""
    rows = [row for row in ask("accuracy", sweep, bn_treatment="stale") if row["targets"] in ENDS]
    averages = ask("average_normalized", sweep, bn_treatment="stale")
    paper = ask("paper_comparison", sweep, bn_treatment="stale", targets="weights")
    etas = _etas(rows)
    heads = ["network", "BN", "noise on", *("η = 0" if eta == 0 else f"{100 * eta:g} %" for eta in etas), "A_avr", "n"]
    lines = []
    for model, placement, targets in sorted(arms(rows, "model", "placement", "targets"), key=_arm_order):
        own = [row for row in rows if (row["model"], row["placement"], row["targets"]) == (model, placement, targets)]
        cells = {row["eta"]: figure(row["accuracy_pct"], row["half_width_pct"]) for row in own}
        (average,) = (r for r in averages if (r["model"], r["placement"], r["targets"]) == (model, placement, targets))
        n = f"{average['n']} on {average['seeds']}"
        last = figure(average["average_normalized_pct"], average["half_width_pct"])
        lines.append([model, BN[placement], TARGETS[targets], *(cells.get(eta, "-") for eta in etas), last, n])
    # Without some BN its networks did not converge on CIFAR-100: it kept the fewest layers with which they did.
    fewest = "part" if sweep in (HUNDRED, HUNDRED_SGD) else "none"
    for name, bn in arms(paper, "paper_model", "bn"):
        told = {row["eta"]: row["paper_pct"] for row in paper if (row["paper_model"], row["bn"]) == (name, bn)}
        lines.append(
            [f"paper: {name}", {"with": "everywhere", "without": fewest}[bn], "?"]
            + [figure(told.get(eta), digits=2) for eta in etas]
            + [figure(told.get(None), digits=2), "-"]
        )
    return table(heads, lines) + command("accuracy", sweep)


def headline(ask: Answers) -> Lines:
    """The README's: ResNet-20 alone, without the paper's."""
    kept = [line for line in accuracy(ask, LONG_SGD)[:-2] if not line.startswith("| paper")]
    return ["| " + line.split(" | ", maxsplit=1)[1] for line in kept]


def _arm_order(arm: tuple[Any, ...]) -> tuple[Any, ...]:
    model, placement, targets = arm
    return model, list(TARGETS).index(targets), list(BN).index(placement)


def averages(ask: Answers, sweep: str = MAIN) -> Lines:
    """Table IV: A_avr for each way of putting noise on the network."""
    rows = [row for row in ask("average_normalized", sweep) if row["targets"] in ENDS]
    lines = []
    for model, placement, targets in sorted(arms(rows, "model", "placement", "targets"), key=_arm_order):
        own = {
            row["bn_treatment"]: row
            for row in rows
            if (row["model"], row["placement"], row["targets"]) == (model, placement, targets)
        }
        cells = [
            figure(own[name]["average_normalized_pct"], own[name]["half_width_pct"]) if name in own else "-"
            for name in TREATMENTS
        ]
        n = "; ".join(str(own[name]["n"]) for name in TREATMENTS if name in own)
        lines.append([model, BN[placement], TARGETS[targets], *cells, n])
    heads = ["network", "BN", "noise on", *(f"BN {t}" for t in TREATMENTS), "n"]
    return table(heads, lines) + command("average_normalized", sweep)


def comparison(ask: Answers, sweep: str = MAIN) -> Lines:
    """Ours less the paper's, where the paper has the network."""
    lines = [
        [
            row["model"],
            BN.get(row["placement"], row["placement"]),
            TARGETS[row["targets"]],
            "A_avr" if row["eta"] is None else f"η = {100 * row['eta']:g} %",
            figure(row["ours_pct"], row["half_width_pct"]),
            figure(row["paper_pct"], digits=2),
            f"{row['difference_pct']:+.1f}",
            {True: "yes", False: "no", None: "-"}[row["agrees"]],
        ]
        for row in ask("paper_comparison", sweep, bn_treatment="stale")
        if row["targets"] in ENDS and (row["eta"] is None or row["eta"] == 0)
    ]
    heads = ["network", "BN", "noise on", "quantity", "ours", "paper", "difference", "agrees"]
    return table(heads, lines) + command("paper_comparison", sweep)


def task(ask: Answers, both: str = TASK) -> Lines:
    """Figure 4 in numbers: the same network and recipe on an easier and a harder data set."""
    rows = [row for row in ask("task_complexity", both, bn_treatment="stale") if row["targets"] in ENDS]
    averages = ask("average_normalized", both, bn_treatment="stale")
    names = ("placement", "targets", "dataset", "model", "training")
    etas = [eta for eta in _etas(rows) if eta]
    lines = []
    for arm in sorted(arms(rows, *names), key=_task_order):
        own = {row["eta"]: row for row in rows if tuple(row[name] for name in names) == arm}
        (average,) = (row for row in averages if tuple(row[name] for name in names) == arm)
        lines.append(
            [BN[arm[0]], TARGETS[arm[1]], arm[2], figure(own[etas[0]]["baseline_pct"])]
            + [figure(own[eta]["normalized_pct"], own[eta]["half_width_pct"]) for eta in etas]
            + [figure(average["average_normalized_pct"], average["half_width_pct"])]
            + [f"{average['n']} on {average['seeds']}"]
        )
    heads = ["BN", "noise on", "data set", "clean, %", *(f"{100 * eta:g} %" for eta in etas), "A_avr", "n"]
    return [*table(heads, lines), "", f"{merged(both)}; `bnsweep query task_complexity --store {both}`"]


def _task_order(arm: tuple[Any, ...]) -> tuple[Any, ...]:
    placement, targets, dataset, *_ = arm
    return list(TARGETS).index(targets), list(BN).index(placement), dataset


def effect(ask: Answers, sweep: str = MAIN) -> Lines:
    """How much of the paper's effect each noise cell has."""
    lines = [
        [
            row["model"],
            TARGETS[row["targets"]],
            row["bn_treatment"],
            figure(row["everywhere_pct"]),
            figure(row["fewest_pct"]),
            between(row, "effect_points", "low_points", "high_points"),
            between(row, "change_points", "change_low_points", "change_high_points"),
            f"{row['n']} on {row['seeds']}",
        ]
        for row in sorted(ask("bn_effect", sweep), key=_effect_order)
    ]
    heads = ["network", "noise on", "BN", "A_avr with BN", "A_avr without", "effect of BN on A_avr, points"]
    heads += ["less that of noise on all parameters, BN stale", "n"]
    return table(heads, lines) + command("bn_effect", sweep)


def _effect_order(row: Row) -> tuple[Any, ...]:
    return row["model"], TREATMENTS.index(row["bn_treatment"]), list(TARGETS).index(row["targets"])


def lost(ask: Answers, sweep: str = MAIN) -> Lines:
    """Draws in which every output is NaN."""
    lines = [
        [
            row["model"],
            row["placement"],
            TARGETS[row["targets"]],
            row["bn_treatment"],
            f"{100 * row['eta']:g} %",
            f"{row['lost']} of {row['n']}",
            f"{row['least_pct']:.0f} to {row['most_pct']:.0f} %",
            figure(row["accuracy_pct"]),
            figure(row["finite_pct"]),
            figure(row["lost_accuracy_pct"]),
        ]
        for row in ask("nonfinite", sweep)
    ]
    heads = ["network", "placement", "noise on", "BN", "η", "lost draws", "by network", "accuracy, all draws"]
    return table([*heads, "finite draws", "lost draws"], lines) + command("nonfinite", sweep)


def layers(ask: Answers) -> Lines:
    """Number of BN layers at fixed depth."""
    rows = ask("tradeoff", PUZZLES, bn_treatment="stale")
    partial = {row["training"] for row in rows if 0 < row["bn_kept"] < row["bn_sites"]}
    rows = [row for row in rows if row["training"] in partial]  # not the other learning rates
    lines = [
        [
            row["model"],
            f"{row['bn_kept']} of {row['bn_sites']} ({row['placement']})",
            TARGETS[row["targets"]],
            figure(row["baseline_pct"]),
            figure(row["average_normalized_pct"], row["half_width_pct"]),
            f"{row['n']} on {row['seeds']}",
        ]
        for row in sorted(rows, key=lambda r: (r["bn_sites"], list(TARGETS).index(r["targets"]), -r["bn_kept"]))
    ]
    return table(["network", "BN layers", "noise on", "η = 0", "A_avr", "n"], lines) + command("tradeoff", PUZZLES)


def depth(ask: Answers) -> Lines:
    """Depth at as many BN layers, and BN layers at one depth."""
    lines = [
        [
            TARGETS[row["targets"]],
            row["model"],
            f"{row['bn_kept']} of {row['bn_sites']}",
            figure(row["baseline_pct"]),
            figure(row["average_normalized_pct"], row["half_width_pct"]),
            between(row, "depth_points", "depth_low_points", "depth_high_points"),
            between(row, "layers_points", "layers_low_points", "layers_high_points"),
            f"{row['n']} on {row['seeds']}",
        ]
        for row in sorted(ask("depth_or_layers", DEPTH, bn_treatment="stale"), key=_depth_order)
        if row["targets"] in ENDS
    ]
    heads = ["noise on", "network", "BN layers", "η = 0", "A_avr", "by depth: less resnet8 with as many BN layers"]
    return table([*heads, "by layers: less the same network without BN", "n"], lines) + command(
        "depth_or_layers", DEPTH
    )


def _depth_order(row: Row) -> tuple[Any, ...]:
    return list(TARGETS).index(row["targets"]), row["bn_sites"], row["bn_kept"]


def rates(ask: Answers) -> Lines:
    """Learning rates, matched and tuned."""
    rows = ask("learning_rates", PUZZLES, bn_treatment="stale", targets="weights")
    lines = [
        [
            BN[row["placement"]],
            f"{row['learning_rate']:g}",
            figure(row["train_loss"], digits=2),
            figure(row["baseline_pct"]),
            figure(row["average_normalized_pct"], _half(row)),
            "yes" if row["tuned"] else "",
            f"{row['n']} on {row['seeds']}",
        ]
        for row in rows
    ]
    heads = ["BN", "learning rate", "training loss", "η = 0", "A_avr", "best rate of this arm", "n"]
    return table(heads, lines) + command("learning_rates", PUZZLES)


def _half(row: Row) -> float | None:
    return None if row["high_pct"] is None else float(row["high_pct"] - row["average_normalized_pct"])


def work(ask: Answers) -> Lines:
    """What was trained and scored, and how long it took."""
    lines = [
        [
            sweep,
            row["model"],
            row["placement"],
            f"{row['learning_rate']:g}",
            str(row["networks"]),
            f"{row['test_accuracy_pct']:.1f} ({row['least_pct']:.1f} to {row['most_pct']:.1f})",
            figure(row["train_loss"], digits=2),
            f"{row['train_s']:.0f}",
            f"{row['trials']:,}",
            f"{row['trial_s']:.0f}",
        ]
        for sweep in APART
        for row in ask("work", sweep)
    ]
    heads = [
        "sweep",
        "network",
        "placement",
        "learning rate",
        "networks",
        "test accuracy: mean (range)",
        "training loss",
    ]
    return table([*heads, "training, s", "draws", "scoring, s"], lines) + command("work", *APART)


# Sweeps whose tables II and IV stand in a document, by what the tables' names end with.
TOLD = {
    "": MAIN,
    "_full": FULL,
    "_sgd": SGD,
    "_deep_sgd": DEEP_SGD,
    "_long": LONG,
    "_long_sgd": LONG_SGD,
    "_hundred": HUNDRED,
    "_hundred_sgd": HUNDRED_SGD,
}
TABLES: dict[str, Callable[[Answers], Lines]] = {
    **{
        f"{name}{ending}": partial(tell, sweep=sweep)
        for name, tell in (
            ("accuracy", accuracy),
            ("averages", averages),
            ("comparison", comparison),
            ("effect", effect),
        )
        for ending, sweep in TOLD.items()
    },
    "headline": headline,
    "glance": glance,
    "recipes": recipes,
    "factors": factors,
    "claims": claims,
    "effect_small_hundred": partial(effect, sweep=SMALL_HUNDRED),
    "hit": partial(effect, sweep=DEPTH),  # where all four sets of targets were scored
    "lost": lost,
    "lost_full": partial(lost, sweep=FULL),
    "lost_long": partial(lost, sweep=LONG),
    "lost_long_sgd": partial(lost, sweep=LONG_SGD),
    "lost_vgg16": partial(lost, sweep=VGG),
    "layers": layers,
    "depth": depth,
    "rates": rates,
    "task": task,
    "task_sgd": partial(task, both=TASK_SGD),
    "gradients": gradients,
    "correlation": correlation,
    "smoothness": smoothness,
    "equation_9": equation_9,
    "verdicts": verdicts,
    "work": work,
}


def filled(text: str, ask: Answers) -> str:
    """A document with every marked table as the rows give it."""

    def written(match: re.Match[str]) -> str:
        return match[1] + "\n".join([*TABLES[match[2]](ask), match[3]])

    return MARKED.sub(written, text)


def main() -> None:
    with Answers() as ask:
        for name in DOCUMENTS:
            path = ROOT / name
            path.write_text(filled(path.read_text(encoding="utf-8"), ask), encoding="utf-8")


if __name__ == "__main__":
    main()
