"""The paper's claims as data, each with the query behind it, and what the rows say about it.

A query gives sequences: a measured value over something that is varied (no BN, BN everywhere; networks by depth; ...),
one per training seed in each stratum (data set, network). A claim says whether the value rises or falls along them.
A claim may have parts (each eta, each target set) that all have to hold. How a part is judged:

- A stratum with two or more training seeds has an interval: Student's t over the seeds' changes. All intervals on the
  claimed side: supported (each at the stated confidence: all must hold, so no correction is due). One wholly on the
  other side, at a confidence that allows for the number of looks (Bonferroni): contradicted.
- Where no stratum has two seeds, nothing is known of the spread between networks, and an interval over noise draws
  would only speak of these very networks. What is left is whether independently trained networks agree: the exact
  trend test over all of them (statistics.trend_test; for two values the sign test). Where placements are compared
  with the same other networks, they are no independent evidence: then nothing but an interval decides.
- Anything else is undecided, with what would decide it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import ceil
from shutil import get_terminal_size
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from bnsweep.analysis.deciding import SIDES, STEPS, TEMPLATE, deciding_sweep
from bnsweep.analysis.statistics import MOST_SEEDS, fitted_change, mean_interval, seeds_needed, trend_test
from bnsweep.experiment.vocabulary import TARGETS, TREATMENTS

if TYPE_CHECKING:
    from bnsweep.analysis.database import Database

__all__ = ["CLAIMS", "Claim", "Evidence", "Verdict", "judge"]

SUPPORTED, CONTRADICTED, UNDECIDED = "supported", "contradicted", "undecided"
HEAD = 14  # characters of a terminal's line before its text
SEEDS = 5  # a first try where no spread is known


@dataclass(frozen=True)
class Claim:
    """One sentence that rows can speak for or against."""

    name: str
    text: str
    query: str
    direction: int  # 1: the value rises along the sequence, -1: it falls
    see: str  # the query whose table shows it
    wants: str  # rows that it needs, in words
    change: Mapping[str, Any]  # keys of a spec that would bring them
    parts: tuple[str, ...] = ()  # parts that must be there, by the first words; others are taken as they come
    unmatched: str = "no rows"  # why rows that there are may give no sequence
    every: bool = False  # its evidence is of all placements, not of BN everywhere and the fewest layers alone
    shared: bool = False  # placements are compared with the same other network


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "baseline",
        "BN raises the accuracy of the clean network.",
        "claim_baseline",
        1,
        "accuracy",
        "networks with BN everywhere and with none",
        {"placements": SIDES},
    ),
    Claim(
        "noise",
        "Accuracy falls as eta rises.",
        "claim_noise",
        -1,
        "accuracy",
        "trials at several eta",
        {"eta": TEMPLATE["eta"]},
        every=True,
    ),
    Claim(
        "normalized",
        "BN lowers normalized accuracy at each eta.",
        "claim_normalized",
        -1,
        "normalized",
        "networks with BN everywhere and with none",
        {"placements": SIDES},
    ),
    Claim(
        "depth",
        "Networks with more BN layers keep less of their accuracy (between networks).",
        "claim_depth",
        -1,
        "depth_trend",
        "networks of one family in several depths, with BN everywhere and with none",
        {"models": TEMPLATE["models"], "placements": SIDES},
        ("A_avr with BN everywhere", "difference from the fewest BN layers"),
    ),
    Claim(
        "layers",
        "More BN layers lower the average normalized accuracy more (within one network).",
        "claim_layers",
        -1,
        "tradeoff",
        "one network with at least three different numbers of BN layers",
        {"placements": STEPS},
        every=True,
    ),
    Claim(
        "task",
        "A harder task lowers the average normalized accuracy.",
        "claim_task",
        -1,
        "task_complexity",
        "the same networks by the same recipe on data sets with fewer and with more classes",
        {"data": ["cifar10", "cifar100"]},
        unmatched="the data sets share no recipe and training seed",
        every=True,
    ),
    Claim(
        "between",
        "Part of the BN layers lies between all and none.",
        "claim_between",
        -1,
        "tradeoff",
        "one network with all, some and no BN layers",
        {"placements": STEPS},
        ("below no BN", "above BN everywhere"),
        every=True,
        shared=True,
    ),
    Claim(
        "targets",
        "BN lowers the average normalized accuracy whichever parameters the noise hits.",
        "claim_targets",
        -1,
        "average_normalized",
        "noise on each of the four target sets, with BN everywhere and with none",
        {"placements": SIDES, "noise": {"targets": list(TARGETS)}},
        tuple(f"noise on {targets}" for targets in TARGETS),
    ),
    Claim(
        "treatments",
        "BN lowers the average normalized accuracy whatever is done with BN around the noise.",
        "claim_treatments",
        -1,
        "average_normalized",
        "each of the three BN treatments, with BN everywhere and with none",
        {"placements": SIDES, "noise": {"bn_treatment": list(TREATMENTS)}},
        tuple(f"BN {treatment}" for treatment in TREATMENTS),
    ),
)


@dataclass(frozen=True)
class Evidence:
    """One stratum: how much the value changes along its sequence, in percentage points."""

    part: str
    dataset: str
    model: str
    placement: str
    steps: str  # what the sequence runs over, in order
    change_pct: float
    low_pct: float | None  # interval over training seeds; None: fewer than two
    high_pct: float | None
    seeds: int
    n: int  # noise draws
    verdict: str  # of this stratum alone; undecided where there is no interval
    means: tuple[float, ...] = field(repr=False)  # over seeds, along the sequence
    sd: float | None = field(default=None, repr=False)  # of the change, between seeds

    def to_text(self) -> str:
        """One line."""
        spread = "no interval" if self.low_pct is None else f"{self.low_pct:+.2f} to {self.high_pct:+.2f}"
        where = ", ".join(each for each in (self.part, self.dataset, self.model, self.placement) if each)
        count = f"{self.seeds} training seed{'s' if self.seeds != 1 else ''}, {self.n} trials"
        return f"{where}: {self.change_pct:+.2f} points ({spread}; {count}): {self.verdict}"


@dataclass(frozen=True)
class Verdict:
    """What the rows say about a claim."""

    claim: Claim
    verdict: str
    reason: str
    evidence: tuple[Evidence, ...]
    decide: str = ""  # what would decide it; empty unless undecided
    spec: str = ""  # the same as a sweep file to run

    @property
    def name(self) -> str:
        """The claim's name."""
        return self.claim.name

    @property
    def text(self) -> str:
        """The claim's sentence."""
        return self.claim.text

    @property
    def query(self) -> str:
        """The query whose table shows the evidence."""
        return self.claim.see

    def to_text(self, *, width: int | None = None) -> str:
        """For a terminal as wide as it is, or 100 where there is none: verdict, reason and what would decide it."""
        width = width or get_terminal_size((100, 24)).columns
        said = [(self.verdict.upper(), self.text), ("  because", self.reason), ("  to decide", self.decide)]
        said.append(("  evidence", f"bnsweep query {self.claim.query}"))
        return "\n".join(_hanging(head, text, max(width, 2 * HEAD)) for head, text in said if text)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        evidence = [{k: v for k, v in asdict(row).items() if k not in {"means", "sd"}} for row in self.evidence]
        return {
            "name": self.name,
            "claim": self.text,
            "verdict": self.verdict,
            "reason": self.reason,
            "query": self.claim.query,
            "see": self.query,
            "evidence": evidence,
            "decide": self.decide,
            "spec": self.spec,
        }


def _hanging(head: str, text: str, width: int) -> str:
    """The text behind its head, wrapped: further lines begin below its own first word."""
    return fill(text, width, initial_indent=f"{head:<{HEAD}}", subsequent_indent=" " * HEAD, break_on_hyphens=False)


def judge(database: Database, *, confidence: float = 0.95) -> list[Verdict]:
    """A verdict on every claim."""
    return [_judge(database, claim, confidence) for claim in CLAIMS]


def _judge(database: Database, claim: Claim, confidence: float) -> Verdict:
    rows = database.query(claim.query).to_dicts()
    evidence = _evidence(rows, claim, confidence)
    parts = _parts(claim, list(dict.fromkeys(row.part for row in evidence)))
    by_part = {part: [row for row in evidence if row.part == part] for part in parts}
    missing = claim.unmatched if rows else "no rows"
    judged = {part: _judge_part(own, claim, confidence, len(parts), missing) for part, own in by_part.items()}
    verdicts = [verdict for verdict, _ in judged.values()]
    verdict = SUPPORTED if set(verdicts) == {SUPPORTED} else UNDECIDED
    if CONTRADICTED in verdicts:
        verdict = CONTRADICTED
    reason = _reason(judged)
    if verdict != UNDECIDED:
        return Verdict(claim, verdict, reason, evidence)
    open_parts = {part: by_part[part] for part in parts if judged[part][0] == UNDECIDED}
    decide, seeds = _decide(claim, open_parts, confidence)
    change = claim.change if not all(open_parts.values()) else {}  # else it takes no other runs, only more of them
    placements = "every" if claim.every and evidence else "ends"
    spec = deciding_sweep(database, claim.name, change, seeds=seeds, placements=placements)
    return Verdict(claim, verdict, reason, evidence, decide, spec)


def _parts(claim: Claim, found: Sequence[str]) -> list[str]:
    """The parts to judge, required ones first: "BN recalibrated on 128 images" stands for "BN recalibrated"."""
    of = {part: [each for each in found if each == part or each.startswith(f"{part} ")] for part in claim.parts}
    required = [each for part, own in of.items() for each in own or [part]]
    return list(dict.fromkeys([*required, *found])) or [""]


def _evidence(rows: Sequence[Mapping[str, Any]], claim: Claim, confidence: float) -> tuple[Evidence, ...]:
    """One row per part and stratum that has a sequence."""
    strata: dict[tuple[str, str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        strata.setdefault((row["part"], row["dataset"], row["model"].strip(), row["placement"]), []).append(row)
    complete = [(key, own, _sequences(own)) for key, own in strata.items()]
    complete = [each for each in complete if each[2] is not None]
    looks = max(1, sum(len(sequences or {}) >= 2 for _, _, sequences in complete))
    strict = 1 - (1 - confidence) / looks
    return tuple(
        _stratum(key, own, sequences, direction=claim.direction, confidence=confidence, strict=strict)
        for key, own, sequences in complete
        if sequences
    )


def _sequences(rows: Sequence[Mapping[str, Any]]) -> dict[int, dict[float, float]] | None:
    """Values over x per training seed, of the seeds that have every x of one set; None if there are no two x.

    The set is that of a seed by which most values count: one more x of one seed must not cost the others their say.
    """
    values: dict[int, dict[float, float]] = {}
    for row in rows:
        values.setdefault(row["train_seed"], {})[row["x"]] = row["value_pct"]

    def counting(xs: frozenset[float]) -> tuple[int, int]:
        return len(xs) * sum(xs <= own.keys() for own in values.values()), len(xs)

    sets = [frozenset(own) for own in values.values() if len(own) > 1]
    if not sets:
        return None
    chosen = max(sets, key=counting)
    return {seed: {x: own[x] for x in sorted(chosen)} for seed, own in sorted(values.items()) if chosen <= own.keys()}


def _stratum(
    key: tuple[str, str, str, str],
    rows: Sequence[Mapping[str, Any]],
    sequences: Mapping[int, Mapping[float, float]],
    *,
    direction: int,
    confidence: float,
    strict: float,
) -> Evidence:
    labels = {row["x"]: row["x_label"] for row in rows}
    xs = list(next(iter(sequences.values())))
    values = [list(sequence.values()) for sequence in sequences.values()]
    changes = [fitted_change(xs, sequence) for sequence in values]
    interval = mean_interval([[change] for change in changes], confidence=confidence)
    verdict = UNDECIDED
    if interval.half_width is not None:
        wider = mean_interval([[change] for change in changes], confidence=strict).half_width or 0.0
        if direction * interval.mean - interval.half_width > 0:
            verdict = SUPPORTED
        elif direction * interval.mean + wider < 0:
            verdict = CONTRADICTED
    return Evidence(
        *key,
        steps=" > ".join(str(labels[x]) for x in xs),
        change_pct=interval.mean,
        low_pct=interval.low,
        high_pct=interval.high,
        seeds=len(changes),
        n=sum(row["n"] for row in rows if row["x"] in sequences.get(row["train_seed"], ())),
        verdict=verdict,
        means=tuple(np.mean(values, axis=0).tolist()),
        sd=float(np.std(changes, ddof=1)) if len(changes) > 1 else None,
    )


def _judge_part(rows: Sequence[Evidence], claim: Claim, confidence: float, parts: int, missing: str) -> tuple[str, str]:
    """Verdict on one part, and why. `missing`: why there may be no rows."""
    if not rows:
        return UNDECIDED, f"{missing}: it takes {claim.wants}"
    agree = sum(claim.direction * row.change_pct > 0 for row in rows)
    tally = f"{agree} of {len(rows)} on the claimed side"
    verdicts = [row.verdict for row in rows]
    if CONTRADICTED in verdicts:
        worst = next(row for row in rows if row.verdict == CONTRADICTED)
        return CONTRADICTED, f"{worst.to_text()}; {tally}"
    if set(verdicts) == {SUPPORTED}:
        return SUPPORTED, f"{tally}, every interval over training seeds too ({_range(rows)})"
    if any(row.low_pct is not None for row in rows):
        return UNDECIDED, f"{tally}, but {_still_open(rows)} ({_range(rows)})"
    if claim.shared and len({(row.dataset, row.model) for row in rows}) < len(rows):
        return UNDECIDED, f"{tally} ({_range(rows)}); no spread is known, and they share a network"
    score, p = trend_test([row.means for row in rows])
    why = f"{tally} ({_range(rows)}); no spread is known, exact trend test over networks p = {p:.2g}"
    if claim.direction * score > 0 and p < 1 - confidence:
        return SUPPORTED, why
    if claim.direction * score < 0 and p * parts < 1 - confidence:
        return CONTRADICTED, why
    return UNDECIDED, why


def _still_open(rows: Sequence[Evidence]) -> str:
    """What the undecided ones lack: those on the other side need an interval that allows for all comparisons."""
    undecided = [(row.low_pct, row.high_pct) for row in rows if row.verdict == UNDECIDED]
    against = sum(low is not None and high is not None and low * high > 0 for low, high in undecided)
    unclear = len(undecided) - against
    told = [f"{unclear} without an interval that leaves out 0"] if unclear else []
    if against:
        told.append(f"{against} on the other side by its own interval, not by one that allows for all comparisons")
    return " and ".join(told)


def _range(rows: Sequence[Evidence]) -> str:
    changes = [row.change_pct for row in rows]
    least, most = min(changes), max(changes)
    return f"{least:+.1f} points" if len(rows) == 1 else f"{least:+.1f} to {most:+.1f} points"


def _reason(judged: Mapping[str, tuple[str, str]]) -> str:
    if len(judged) == 1:
        return next(iter(judged.values()))[1]
    texts: dict[tuple[str, str], list[str]] = {}
    for part, (verdict, why) in judged.items():
        texts.setdefault((verdict, why), []).append(part)
    return "; ".join(f"{', '.join(parts)}: {verdict}, {why}" for (verdict, why), parts in texts.items())


def _decide(claim: Claim, parts: Mapping[str, Sequence[Evidence]], confidence: float) -> tuple[str, int]:
    """What would decide the parts that are open, and how many training seeds that takes."""
    missing = [part for part, rows in parts.items() if not rows]
    rows = [row for own in parts.values() for row in own if row.verdict == UNDECIDED]
    texts, seeds = [], SEEDS
    if missing:
        what = ", ".join(part for part in missing if part)
        texts.append(f"{claim.wants}{f' (missing: {what})' if what else ''}")
    known = [row for row in rows if row.sd is not None]
    if known:
        needed = [seeds_needed(row.change_pct, row.sd or 0.0, confidence=confidence) for row in known]
        wrong = [row for row in known if claim.direction * row.change_pct <= 0]
        seeds = max([SEEDS, *(each or MOST_SEEDS for each in needed)])
        if None in needed:
            texts.append(f"more than {MOST_SEEDS} training seeds for the smallest difference, at the spread seen")
        else:
            texts.append(f"{seeds} training seeds, at the differences and the spread seen{_more(rows, seeds)}")
        if wrong:
            texts.append(f"{len(wrong)} of the open ones lie on the other side so far")
    if len(known) < len(rows):
        more = "" if known else _more(rows, seeds)
        texts.append(f"at least {SEEDS} training seeds, so that the spread between networks is known{more}")
    return "; ".join(texts), seeds


def _more(rows: Sequence[Evidence], seeds: int) -> str:
    """Runs and trials beyond those there are, with as many trials per run as there are now."""
    runs = max(seeds - row.seeds for row in rows)
    trials = sum((seeds - row.seeds) * ceil(row.n / row.seeds) for row in rows)
    return f" ({runs} more of each network, {trials} more trials)" if runs > 0 else ""
