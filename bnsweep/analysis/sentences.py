"""What a report says in words: the headline, and how much of a loss is due to what the noise hit."""

# ruff: noqa: RUF001 - Greek letters are the paper's.

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bnsweep.analysis import charts, figures
from bnsweep.analysis.figures import CELL_WORDS, panel_of
from bnsweep.analysis.inputs import Inputs
from bnsweep.analysis.series import placement_label
from bnsweep.analysis.wording import counted, digits, eta_pct, listed, number, span, tells, with_spread
from bnsweep.experiment.chance import BY_CHANCE, is_guess
from bnsweep.experiment.vocabulary import TARGETS

__all__ = ["attribution", "headline", "widest_gap"]

Row = Mapping[str, Any]

MOST_NAMED = 4  # kinds of networks in a sentence
NETWORK = ("dataset", "model", "sigma_reference")
CELL = ("targets", "bn_treatment", "recalibration_images")
# What else may tell rows of one network apart: said where it does.
APART = {"training": "recipe", **{name: CELL_WORDS[name] for name in ("noise_model", "precision", "sampling")}}


def headline(inputs: Inputs) -> Iterator[str]:
    """Networks that guess; then a sentence per target set, at the eta where BN everywhere and no BN differ most."""
    if not inputs.accuracy:
        yield (
            "This store holds no noise trial for this sweep, so there is nothing to show about noise. "
            "`bnsweep run SPEC` computes what is missing; `bnsweep status` shows what is planned."
        )
        return
    yield from _no_better_than_chance(inputs.clean)
    if all(row["eta"] == 0 for row in inputs.accuracy):
        yield "No η above 0 was measured for this sweep, only clean accuracy: there is nothing to say about noise."
        return
    found = False
    for targets in ("weights", "all"):
        best = widest_gap(inputs.accuracy, targets)
        if best:
            found = True
            yield _gap_sentence(*best, _difference(*best, inputs.paired))
    if not found:
        yield from _kept(inputs.accuracy)
        yield "No network of this sweep was measured both with BN everywhere and without BN: nothing to compare."


def _no_better_than_chance(networks: Sequence[Row]) -> Iterator[str]:
    """Which networks know nothing that noise could take from them: a ratio to their accuracy is one of guesses."""
    guessing = [row for row in networks if is_guess(row["correct"], row["images"], row["classes"])]
    if not guessing:
        return
    names = list(dict.fromkeys(f"{row['model']} on {row['dataset']}, {placement_label(row)}" for row in guessing))
    beyond = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    one = len(guessing) == 1
    yield (
        f"{len(guessing)} of {counted(len(networks), 'network')} {'is' if one else 'are'} no better than chance "
        f"({'; '.join([*names[:MOST_NAMED], *beyond])}; clean accuracy, one-sided binomial test against one in as many "
        f"as there are classes, p > {BY_CHANCE}): {'its' if one else 'their'} normalized accuracy means nothing."
    )


def widest_gap(rows: Sequence[Row], targets: str) -> tuple[Row, Row] | None:
    pairs: dict[tuple[Any, ...], dict[str, Row]] = {}
    for row in rows:
        if row["targets"] == targets and row["bn_treatment"] == "stale" and row["eta"] > 0:
            key = tuple(row[c] for c in (*NETWORK, *APART, "eta"))
            pairs.setdefault(key, {})[placement_label(row)] = row
    both = [
        (p[charts.EVERYWHERE], p[charts.NOWHERE])
        for p in pairs.values()
        if charts.EVERYWHERE in p and charts.NOWHERE in p
    ]
    return max(both, key=lambda pair: abs(pair[0]["value"] - pair[1]["value"]), default=None)


def _kept(rows: Sequence[Row]) -> Iterator[str]:
    """Accuracy at the largest eta: for sweeps without BN everywhere beside no BN. The paper's cell comes first."""
    curves: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        curves.setdefault(tuple(row[name] for name in (*NETWORK, *APART, *CELL, "placement")), []).append(row)
    ends = [tuple(pick(curve, key=lambda row: row["eta"]) for pick in (min, max)) for curve in curves.values()]
    ends = [(clean, noisy) for clean, noisy in ends if clean["eta"] == 0 < noisy["eta"]]
    ends.sort(key=lambda pair: (pair[1]["targets"], pair[1]["bn_treatment"]) != ("weights", "stale"))
    keys = [tuple(noisy[name] for name in (*NETWORK, *APART)) for _, noisy in ends]
    for (clean, noisy), key in zip(ends[:MOST_NAMED], keys, strict=False):
        yield (
            f"{noisy['model']} on {noisy['dataset']}, {placement_label(noisy)}{_told_apart(key, keys)}, "
            f"{panel_of(noisy)} at η = {eta_pct(noisy['eta'])} %: accuracy is {with_spread(noisy, unit=' %')}, clean "
            f"{with_spread(clean, unit=' %')} (n = {counted(noisy['n'], 'trial')} on {_runs([noisy['seeds']])})."
        )
    if len(ends) > MOST_NAMED:
        yield f"{len(ends) - MOST_NAMED} more stand in the tables."


def _gap_sentence(everywhere: Row, nowhere: Row, difference: Row | None) -> str:
    trials = span([everywhere["n"], nowhere["n"]])
    n = f"n = {counted(trials, 'trial')} on {_runs([everywhere['seeds'], nowhere['seeds']])} each"
    return (
        f"{everywhere['model']} on {everywhere['dataset']}, {panel_of(everywhere)} at η = {eta_pct(everywhere['eta'])}"
        f" %, where the two differ most: accuracy is {with_spread(everywhere, unit=' %')} with BN everywhere and "
        f"{with_spread(nowhere, unit=' %')} without BN ({n}). {_verdict(difference)}{_broken(everywhere, nowhere)}"
    )


def _difference(everywhere: Row, nowhere: Row, paired: Sequence[Row]) -> Row | None:
    """The row of query paired about these two."""
    same = (*NETWORK, *APART, "targets", "bn_treatment", "recalibration_images", "eta")
    for row in paired:
        if (row["a"], row["b"]) == (everywhere["placement"], nowhere["placement"]) and all(
            row[name] == everywhere[name] for name in same
        ):
            return row
    return None


def _verdict(difference: Row | None) -> str:
    """What BN does to accuracy there, by the pairs: intervals on the two means say less, since draws are shared."""
    if difference is None:
        return "No training seed has noise draws with both, so the difference has no interval."
    points = number(difference["value"], digits=digits(difference) if tells(difference) else 1)
    said = f"The difference, draw by draw over the {difference['n']} that both have, is {points} points"
    if not tells(difference):
        return f"{said} (no interval, so no verdict)."
    low, high = (number(difference[end], digits=digits(difference)) for end in ("low", "high"))
    zero = "which includes 0" if difference["low"] <= 0 <= difference["high"] else "which leaves out 0"
    # An interval over the draws on one network is narrow, and less evidence than a wide one over several.
    over = ", but is over draws alone: other trainings may differ" if difference["seeds"] == 1 else ""
    return f"{said} (95 % interval {low} to {high}, {zero}{over})."


def _broken(everywhere: Row, nowhere: Row) -> str:
    """That outputs were NaN or infinite: accuracy was lost in another way than by shifted weights."""
    shares = [
        (row["nonfinite_pct"], where) for row, where in ((everywhere, "with BN everywhere"), (nowhere, "without BN"))
    ]
    told = [f"{share:.1f} % {where}" for share, where in shares if (share or 0) >= 0.05]
    return f" Of the scored images {listed(told)} had a non-finite output." if told else ""


def _runs(seeds: Sequence[int]) -> str:
    return counted(span(seeds), "training run")


def attribution(losses: Sequence[Row]) -> Iterator[str]:
    """Per network with BN everywhere: how much of the loss is the weights, how much is BN's own parameters."""
    groups: dict[tuple[Any, ...], dict[float, dict[str, Row]]] = {}
    for row in losses:
        if row["bn_treatment"] == "stale" and row["eta"] > 0 and placement_label(row) == charts.EVERYWHERE:
            key = tuple(row[c] for c in (*NETWORK, *APART))
            groups.setdefault(key, {}).setdefault(row["eta"], {})[row["targets"]] = row
    for key, levels in groups.items():
        # Without clean rows (given up, or yet to come) there is nothing that a loss could be measured from.
        both = {
            eta: sets
            for eta, sets in levels.items()
            if all(name in sets and sets[name]["value"] is not None for name in ("all", "weights"))
        }
        if both:
            eta = max(both, key=lambda eta: both[eta]["all"]["value"] - both[eta]["weights"]["value"])
            about = f"{_about(key, groups)}, η = {eta_pct(eta)} %"
            yield f"{about} (where noise on BN's own parameters matters most): {_split(both[eta])}"


def _about(key: tuple[Any, ...], among: Iterable[tuple[Any, ...]]) -> str:
    """Which network it is, and by what its rows differ from others of the same network."""
    dataset, model, reference = key[: len(NETWORK)]
    return f"{model} on {dataset} with BN everywhere, σ reference {reference}{_told_apart(key, among)}"


def _told_apart(key: tuple[Any, ...], among: Iterable[tuple[Any, ...]]) -> str:
    """By what a network's rows, of which `key` has NETWORK and APART, differ from others of the same network."""
    alike = [other[len(NETWORK) :] for other in among if other[: len(NETWORK)] == key[: len(NETWORK)]]
    told = (
        f", {words} {value}"
        for words, value, values in zip(APART.values(), key[len(NETWORK) :], zip(*alike, strict=True), strict=True)
        if len(set(values)) > 1
    )
    return "".join(told)


def _split(sets: Mapping[str, Row]) -> str:
    """One sentence on the loss at one eta."""
    weights, everything = sets["weights"], sets["all"]
    added = [
        f"noise on {_parts(row['beyond'], row['targets'])} adds {with_spread(_added(row))}"
        for row in (sets[name] for name in TARGETS if name in sets)
        if row["beyond"]
    ]
    text = (
        f"noise on all parameters costs {with_spread(everything)} points of accuracy, "
        f"noise on the weights alone {with_spread(weights)}"
    )
    if everything["value"] > 1 and weights["value"] >= 0:
        text += f" ({100 * weights['value'] / everything['value']:.0f} % of it)"
    odd = everything["nonfinite_pct"]
    return (
        f"{text}; {listed(added)}. With noise on all parameters {odd:.1f} % of the scored images had a non-finite "
        f"output, with noise on the weights {weights['nonfinite_pct']:.1f} %. "
        f"n = {counted(everything['n'], 'trial')} on {_runs([everything['seeds']])}{_over(everything)}."
    )


def _added(row: Row) -> dict[str, Any]:
    return {"value": row["added"], "half": row["added_half"]}


def _parts(smaller: str, larger: str) -> str:
    """What a target set has that a smaller one has not."""
    parts = ("weights", "biases", "BN's γ and β", "BN's running statistics")
    return listed(parts[TARGETS.index(smaller) + 1 : TARGETS.index(larger) + 1])


def _over(row: Row) -> str:
    chances = figures.covers([row])
    return f"; the intervals are{chances}" if chances else ""
