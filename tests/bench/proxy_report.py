"""What the cheap measures of proxies.py say of full trainings.

    python -m tests.bench.proxy_report NETWORK

What comes from the trainings of one seed is compared with the means over the *other* seeds, so that luck does not
count. Intervals are 95 % bootstrap intervals over placements. Costs are in units of one training with its scoring,
measured in the same process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import rankdata

from tests.bench.encodings import codes, correlation, ridge
from tests.bench.every_placement import NETWORKS, Network
from tests.bench.proxies import EARLY, NOISES, Row, measured

RESAMPLES = 1000
RUNS, DRAWS = 32, 40  # that the linear model is fitted to, and how often they are drawn

Floats = NDArray[np.float64]

# What is compared: a title, a function of a row (of this file, and of every_placement's for the same seed), and the
# cost in seconds: per placement, and once for all.
Cost = Callable[[Row], float]


def _once(*names: str) -> Cost:
    return lambda row: sum(row[name] for name in names)


def ideas() -> list[tuple[str, Callable[[Row], float | None], Cost, Cost]]:
    """Every idea: larger is meant to be better."""
    nothing = _once()
    found: list[tuple[str, Callable[[Row], float | None], Cost, Cost]] = [
        ("a full training: accuracy", lambda row: row["accuracy"], _once("full s"), nothing),
        ("a full training: A_avr", lambda row: row["average_normalized"], _once("full s"), nothing),
        ("fewer BN layers", lambda row: -row["bn_mask"].count("1"), nothing, nothing),
    ]
    for epoch in range(1, 7):
        part = partial(lambda row, epoch: epoch / 6 * (row["full s"] - row["scoring s"]), epoch=epoch)
        loss = partial(_minus_loss, epoch=epoch)
        found.append((f"training loss of epoch {epoch}, lower", loss, part, nothing))
    for kind in NOISES:
        for epoch in range(EARLY + 1):
            name = f"{kind} after {epoch}"
            value = partial(lambda row, name: -row[name] if row[name] is not None else None, name=name)
            found.append((f"{name} epochs, lower", value, _once(f"noise after {epoch} s"), nothing))
    for name, cost in (
        ("folded A_avr", "folded s"),
        ("tuned 0.1 accuracy", "tuned 0.1 s"),
        ("tuned 0.1 A_avr", "tuned 0.1 s"),
    ):
        found.append((name, partial(lambda row, name: row[name], name=name), _once(cost), _once("parent s")))
    found += [
        (
            "training loss while tuned, lower",
            lambda row: -row["tuned 0.1 loss"],
            _once("tuned 0.1 s"),
            _once("parent s"),
        ),
        ("trace, lower", lambda row: -row["trace"], _once("trace s"), _once("parent s")),
        ("trace by site, lower", lambda row: -row["trace by site"], nothing, _once("parent s", "other parent s")),
    ]
    for name in ("supernet accuracy", "supernet A_avr"):
        value = partial(lambda row, name: row[name], name=name)
        found.append((name, value, _once("supernet s"), _once("supernet training s")))
    return found


def _minus_loss(row: Row, epoch: int) -> float | None:
    return -row["epoch_train_loss"][epoch - 1] if len(row["epoch_train_loss"]) >= epoch else None


def report(network: Network) -> None:
    """Print, per idea, the rank correlations with accuracy and with A_avr, what it adds to runs, and the cost."""
    runs = {(row["bn_mask"], row["train_seed"]): row for row in pq.read_table(network.file).to_pylist()}
    rows = [row | runs[row["bn_mask"], row["train_seed"]] for row in measured(network)]
    rows = [row for row in rows if row["train_seed"] == rows[0]["train_seed"]]
    seeds, random = sorted({seed for _, seed in runs}), np.random.default_rng(0)
    full_s = float(np.median([row["full s"] for row in rows if row["full s"]]))
    typical = {name: float(np.median([row[name] for row in rows if row[name] is not None])) for name in _times(rows)}
    kept = np.array([row["bn_mask"].count("1") for row in rows], dtype=float)
    sites = np.array([[float(digit) for digit in row["bn_mask"]] for row in rows])
    plain = codes(network, sites)["sites and numbers per stage"]
    drawn = random.integers(len(rows), size=(RESAMPLES, len(rows)))
    print(f"{network.name}: {len(rows)} placements; a training with its scoring took {full_s:.2f} s of a core (median)")
    print(f"per objective: rank correlation [95 %], among placements of equal size, what it adds to {RUNS} runs")
    for title, value, each, once in ideas():
        values = _ranked([value(row) for row in rows])
        cells = [f"{title:<42}"]
        for target in ("accuracy", "average_normalized"):
            others = [[runs[row["bn_mask"], s][target] for s in seeds if s != row["train_seed"]] for row in rows]
            truth = _ranked([None if None in pair else float(np.mean(pair)) for pair in others])
            own = _ranked([row[target] for row in rows])
            low, high = np.nanquantile(_correlations(values[drawn], truth[drawn]), (0.025, 0.975))
            known = bool(np.array_equal(values, own))  # by the runs that the model is fitted to
            more = "" if known else "{:+.3f} ({:.3f})".format(*_added(plain, values, own, truth))
            plainly = f"{correlation(values, truth):+.2f} [{low:+.2f}, {high:+.2f}]"
            cells.append(f"{plainly} {_given(values, truth, kept):+.2f} {more:<14}")
        cells.append(f"{each(typical) / full_s:.2f} each, {once(typical) / full_s:.1f} once")
        print("  ".join(cells))


def _correlations(a: Floats, b: Floats) -> Floats:
    """Spearman's, row by row."""
    a, b = (rankdata(each, axis=1) for each in (a, b))
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (a, b))
    return np.asarray((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)))


def _given(a: Floats, b: Floats, c: Floats) -> float:
    """Spearman's partial correlation of a and b given c."""
    ab, ac, bc = correlation(a, b), correlation(a, c), correlation(b, c)
    return float((ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2))) if max(abs(ac), abs(bc)) < 1 else 0.0


def _added(plain: Floats, values: Floats, own: Floats, truth: Floats) -> tuple[float, float]:
    """How much better a linear model of `RUNS` runs ranks all placements if it knows the idea's value of each.

    The mean over draws of the runs, and its standard error.
    """
    rank = rankdata(values)
    more = np.column_stack([plain, (rank - rank.mean()) / (rank.std() or 1.0)])
    gains = []
    for draw in range(DRAWS):
        whole = np.flatnonzero(np.isfinite(own))
        chosen = np.random.default_rng(draw).permutation(whole)[:RUNS]
        said = [correlation(ridge(code, chosen, own[chosen]), truth) for code in (more, plain)]
        gains.append(said[0] - said[1])
    return float(np.mean(gains)), float(np.std(gains, ddof=1) / np.sqrt(DRAWS))


def _times(rows: list[Row]) -> list[str]:
    return [name for name in rows[0] if name.endswith(" s")]


def _ranked(values: list[float | None]) -> Floats:
    """What diverged is worse than anything."""
    return np.array([-np.inf if value is None or np.isnan(value) else value for value in values])


if __name__ == "__main__":
    report(NETWORKS[sys.argv[1]])
