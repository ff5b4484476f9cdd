"""Tables of many sweeps at once: the effect of BN by recipe, and what became of the paper's claims."""

from __future__ import annotations

from functools import cache

from bnsweep.analysis.claims import Verdict, judge
from tests.results.markdown import Lines, command, figure, table
from tests.results.published import (
    DEEP_SGD,
    DEPTH,
    FULL,
    HUNDRED,
    HUNDRED_SGD,
    LONG,
    LONG_SGD,
    MAIN,
    PUZZLES,
    RECIPE,
    SGD,
    STORES,
    TASKS,
    Answers,
    Row,
    arms,
    merged,
)

__all__ = ["COSTS", "claims", "glance", "recipes", "verdicts"]

GLANCED = (LONG_SGD, LONG, SGD, DEEP_SGD, FULL, MAIN, HUNDRED_SGD, HUNDRED)
# Of the smaller sweeps those claims that the main ones say little or nothing about.
JUDGED = dict.fromkeys((LONG_SGD, FULL, SGD, DEEP_SGD, MAIN, HUNDRED_SGD, HUNDRED)) | {
    PUZZLES: ("layers",),
    DEPTH: ("layers", "depth", "targets"),
}
OPTIMIZERS = {"adam": "Adam", "sgd": "SGD"}
WORDS = ("supported", "contradicted", "undecided")
COSTS = (("weights", "stale"), ("all", "stale"), ("all", "folded"), ("weights", "recalibrated"))


def glance(ask: Answers) -> Lines:
    """Clean accuracy and the effect of BN, one line for each network of a sweep."""
    lines = []
    for sweep in GLANCED:
        recipes = {row["model"]: row for row in ask("runs", sweep)}
        for model, run in sorted(recipes.items()):
            effects = {(r["targets"], r["bn_treatment"]): r for r in ask("bn_effect", sweep, model=model)}
            clean = {
                row["placement"]: row["baseline_pct"]
                for row in ask("average_normalized", sweep, model=model, targets="all", bn_treatment="stale")
            }
            both = effects["all", "stale"]
            lines.append(
                [
                    sweep,
                    f"{model}, {run['train_images']:,} images of {run['dataset'].upper().replace('CIFAR', 'CIFAR-')}",
                    f"{OPTIMIZERS[run['optimizer']]}, {run['epochs']}",
                    str(both["seeds"]),
                    f"{figure(clean['all'])} / {figure(clean['none'])}",
                    f"{figure(both['everywhere_pct'])} / {figure(both['fewest_pct'])}",
                    *(_cost(effects[cell]) for cell in COSTS),
                ]
            )
    paper = ask("paper_comparison", FULL, bn_treatment="stale", targets="all")
    told = {(row["bn"], row["eta"]): row["paper_pct"] for row in paper}
    pairs = [f"{figure(told['with', eta], digits=2)} / {figure(told['without', eta], digits=2)}" for eta in (0, None)]
    cost = told["without", None] - told["with", None]
    pairs[1] += ", noise on ?"
    costs = ["", f"{cost:.1f}, noise on ?", "", ""]
    lines.append(["**the paper**", "ResNet-20, CIFAR-10", "Adam, ?", "?", *pairs, *costs])
    heads = ["sweep", "network and images", "recipe, epochs", "seeds", "clean: BN / none"]
    heads += ["A_avr, noise on all: BN / none", "BN costs, noise on weights", "on all parameters", "on all, BN folded"]
    return table([*heads, "on weights, statistics anew"], lines) + command("bn_effect", *GLANCED)


def recipes(ask: Answers) -> Lines:
    """What BN costs by each of the four recipes of optimizers and L2 terms."""
    lines = []
    for optimizer, decay, training in sorted(arms(ask("runs", RECIPE), "optimizer", "weight_decay", "training")):
        effects = {(r["targets"], r["bn_treatment"]): r for r in ask("bn_effect", RECIPE, training=training)}
        networks = {row["placement"]: row for row in ask("work", RECIPE, training=training)}
        pair = networks["all"], networks["none"]
        on_weights = effects["weights", "stale"]
        lines.append(
            [
                OPTIMIZERS[optimizer],
                f"{decay:g}",
                " / ".join(figure(row["test_accuracy_pct"]) for row in pair),
                " / ".join(figure(row["train_loss"], digits=2) for row in pair),
                f"{figure(on_weights['everywhere_pct'])} / {figure(on_weights['fewest_pct'])}",
                *(_cost(effects[cell]) for cell in COSTS),
            ]
        )
    heads = ["optimizer", "L2", "clean: BN / none", "training loss", "A_avr, noise on weights: BN / none"]
    heads += ["BN costs, noise on weights", "on all parameters", "on all, BN folded", "on weights, statistics anew"]
    return table(heads, lines) + command("bn_effect", RECIPE)


def _cost(row: Row) -> str:
    """Points of A_avr that BN takes, and their interval."""
    ends = "" if row["low_points"] is None else f" ({-row['high_points']:.1f} to {-row['low_points']:.1f})"
    return f"{-row['effect_points']:.1f}{ends}"


@cache
def _judged(ask: Answers) -> list[tuple[str, Verdict]]:
    """(sweep, verdict) of every claim with evidence."""
    told = [
        (sweep, verdict)
        for sweep, names in JUDGED.items()
        for verdict in judge(ask.database(sweep))
        if verdict.evidence and (names is None or verdict.name in names)
    ]
    harder = [
        (", ".join(sweeps), verdict)
        for task, sweeps in TASKS.items()
        for verdict in judge(ask.database(task))
        if verdict.name == "task"
    ]
    return [*told, *harder]


def claims(ask: Answers) -> Lines:
    """Each claim of the paper's, and its verdict by sweep."""
    told: dict[str, list[tuple[str, str]]] = {}
    for sweep, verdict in _judged(ask):
        told.setdefault(verdict.text.rstrip("."), []).append((sweep, verdict.verdict))
    lines = []
    for text, verdicts in told.items():
        by_word: dict[str, list[str]] = {}
        for sweep, word in verdicts:
            by_word.setdefault(word, []).append(sweep)
        lines.append([text, *("; ".join(by_word.get(word, ["-"])) for word in WORDS)])
    return table(["the paper's claim", *(f"**{word}** in" for word in WORDS)], lines)


def verdicts(ask: Answers) -> Lines:
    """Every verdict with its reason."""
    lines = [
        [sweep, verdict.text.rstrip("."), f"**{verdict.verdict}**", verdict.reason] for sweep, verdict in _judged(ask)
    ]
    commands = [f"`bnsweep claims --store {STORES[sweep]} --sweep {sweep}`" for sweep in JUDGED]
    commands += [f"{merged(task)} and `bnsweep claims --store {task}`" for task in TASKS]
    return [*table(["sweep", "claim", "verdict", "because"], lines), "", "; ".join(commands)]
