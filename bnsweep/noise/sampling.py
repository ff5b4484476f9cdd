"""How many noise draws and test images an interval needs. Rows in, decisions out; no torch, no clock.

**What is estimated.** A draw d has an accuracy p_d on the whole test set; the wanted figure is its mean over
draws. A trial gives an unbiased estimate of p_d: from all images, from a random subset, or from a stratified
one. The plain mean over a fixed number of trials is unbiased whatever the subsets, so rounds may use different ones.

**Sequential design.** Trials come in rounds. After each one the half-width

    q(m) * sqrt(spread / m),   spread = s^2 + 3 * e^2 / m,   q(m) = 1.05 * t(m - 1)

is compared with the wanted one (m trials with standard deviation s, the most extreme of which lies e from the
mean). It is a group-sequential form of the fixed-width interval of Chow and Robbins (Ann. Math. Stat. 36:457,
1965), which is valid as the width shrinks, with two corrections for stopping early on a variance that looks small
by luck: the most extreme draw counts four times, since others as far off may not have come up yet, and the quantile
of Student's t is raised by a twentieth. Both are chosen by simulation (docs/sampling.md). A round adds a quarter at
most: planning ahead on little covers worse.

**Rare draws.** What happens in fewer than 3 of m draws may not have been seen after m (the rule of three). So no
point stops before it has seen enough draws for what one may cost: taking that at five times the mean loss L that noise
has caused so far, 5 * L * 3 / m must not exceed the half-width h, hence m >= 15 * L / h. 48 draws are enough in
any case, and where 48 cost no more than `min` draws scored on all images they are taken at once. What remains unseen
after that, no rule that looks at draws alone can know.

**Images.** With `auto`, images are stratified by the clean network's margin on the true class (an image with a
large margin hardly ever flips). The pilot round spreads images evenly over strata; from its rows follow the
variance within a draw, per stratum, and between draws. Later rounds give stratum h a share proportional
to W_h * S_h (Neyman 1934; Cochran, Sampling Techniques, section 5.5), and as many images per draw as reach the
half-width at the least cost, a draw costing as much as `draw_cost` images (two-stage sampling, Cochran section 10.6).
Costs are fixed numbers of the design, not measurements, so that rows do not depend on the machine.

Decisions follow from rows alone, the run's (strata, clean accuracy) and those of its trials in their order: not from
engine, workers, retries or resume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, floor, inf, sqrt
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bnsweep.errors import InputError

Floats = NDArray[np.float64]

__all__ = [
    "DRAW_COST",
    "ENOUGH",
    "Design",
    "Interval",
    "Observation",
    "Round",
    "Stop",
    "chosen_images",
    "interval",
    "most_strata",
    "next_round",
    "rounds",
    "strata",
    "strata_sizes",
    "stratified_accuracy",
]

ENOUGH = 48  # draws after which any point may stop: something in a tenth of draws is missed in 0.6 % of samples
LOSSES = 15  # draws before a point may stop, per half-width of mean loss
PILOT_IMAGES = 4  # per stratum and draw
GROWTH = 1.25  # most trials after a round, as a multiple of those before it
PSEUDO_FLIPS = 0.1  # images that are taken to have flipped in a stratum beyond those seen to
DRAW_COST = 16.0  # images: what drawing and folding costs (ResNet-20 on one CPU core: about 10)
CAUTION = 1.05  # times the quantile of Student's t
EXTREMES = 3  # further draws as far off as the most extreme one

# Strata lie around the margin 0, finer where images flip more: cuts at these shares of all images to either side.
WRONG_SIDE = (0.15, 0.07, 0.03, 0.01)
RIGHT_SIDE = (0.01, 0.03, 0.07, 0.15, 0.31, 0.55)
SMALLEST_STRATUM = 8  # images


def strata(margins: Floats) -> NDArray[np.int64]:
    """(N,) stratum number per image, rising with the margin; every stratum has at least 8 images, or is the only one.

    Args:
        margins: (N,) clean logit of the true class less the largest other one.
    """
    count = len(margins)
    zero = int((margins <= 0).sum())
    wanted = [zero, *(zero - share * count for share in WRONG_SIDE), *(zero + share * count for share in RIGHT_SIDE)]
    cuts: list[int] = []
    for cut in map(round, wanted):  # margin 0 first: the cut that matters most
        if 0 < cut < count and all(abs(cut - other) >= SMALLEST_STRATUM for other in (0, count, *cuts)):
            cuts.append(cut)
    labels = np.empty(count, np.int64)
    labels[np.argsort(margins, kind="stable")] = np.searchsorted(sorted(cuts), np.arange(count), side="right")
    return labels


def most_strata(count: int) -> tuple[int, ...]:
    """Images per stratum where `count` images have as many strata as there can be, of even size."""
    number = max(1, min(len(WRONG_SIDE) + len(RIGHT_SIDE) + 2, count // SMALLEST_STRATUM))
    return tuple(count // number + (index < count % number) for index in range(number))


def strata_sizes(labels: NDArray[np.int64]) -> tuple[int, ...]:
    """Images per stratum."""
    return tuple(np.bincount(labels).tolist())


def stratified_accuracy(sizes: Sequence[int], images: Sequence[int], correct: Sequence[int]) -> float:
    """Unbiased estimate for all images: the strata's accuracies, weighted by their sizes."""
    return sum(n * k / m for n, m, k in zip(sizes, images, correct, strict=True)) / sum(sizes)


def chosen_images(
    samples: int | Sequence[int], seed: int, labels: NDArray[np.int64] | None, count: int
) -> NDArray[np.int64]:
    """Rising indices of the images that the trial with this seed scores, drawn without replacement.

    Args:
        samples: how many images, or how many per stratum.
        seed: of the trial; the subset has a stream of its own.
        labels: (N,) stratum per image; needed for `samples` per stratum.
        count: images there are.

    Raises:
        InputError: more images than there are, or none of a stratum.
    """
    key = np.frombuffer(hashlib.sha256(f"{seed}:images".encode()).digest()[:16], np.uint64)
    rng = np.random.Generator(np.random.Philox(key=key))
    if isinstance(samples, int):
        if not 1 <= samples <= count:
            raise InputError(f"`1 <= images <= test images` must hold, but got {samples} and {count}")
        return np.sort(rng.choice(count, samples, replace=False, shuffle=False))
    sizes = strata_sizes(labels) if labels is not None else ()
    if len(samples) != len(sizes) or not all(1 <= n <= size for n, size in zip(samples, sizes, strict=False)):
        raise InputError(
            f"an allocation has 1 image to all images of each stratum, but got {tuple(samples)} for strata of {sizes}"
        )
    members = (np.flatnonzero(labels == stratum) for stratum in range(len(sizes)))
    parts = [rng.choice(own, n, replace=False, shuffle=False) for own, n in zip(members, samples, strict=True)]
    return np.sort(np.concatenate(parts))


@dataclass(frozen=True, slots=True)
class Design:
    """What is wanted of one point, and what it may cost.

    Raises:
        InputError: values that contradict each other.
    """

    half_width: float  # of the interval on mean accuracy, as a fraction
    confidence: float = 0.95
    min: int = 8  # fewest trials
    max: int = 1000
    aim: int = 1000  # trials: where the half-width is out of reach with so many, they get more images instead
    images: Literal["all", "auto"] | int = "all"
    test_images: int = 10_000
    strata_sizes: tuple[int, ...] = ()  # of the run; needed for `auto`
    clean_accuracy: float | None = None  # of the network without noise; None: unknown, and its loss counts for nothing
    draw_cost: float = DRAW_COST

    def __post_init__(self) -> None:
        if not 0 < self.half_width < 0.5:
            raise InputError(f"`0 < half_width < 0.5` must hold, but got half_width={self.half_width}")
        if not 0 < self.confidence < 1:
            raise InputError(f"`0 < confidence < 1` must hold, but got confidence={self.confidence}")
        if not 2 <= self.min <= self.max:
            raise InputError(f"`2 <= min <= max` must hold, but got min={self.min}, max={self.max}")
        if isinstance(self.images, int) and not 1 <= self.images <= self.test_images:
            raise InputError(
                f"`1 <= images <= test images` must hold, but got images={self.images}, test images={self.test_images}"
            )
        if self.images == "auto" and (
            sum(self.strata_sizes) != self.test_images or min(self.strata_sizes, default=0) < 1
        ):
            raise InputError(
                "`images: auto` needs strata that hold every test image, but got "
                f"strata_sizes={self.strata_sizes}, test images={self.test_images}"
            )

    @property
    def first_images(self) -> int:
        """Images of each trial of the first round."""
        if self.images == "auto":
            return sum(_pilot(self))
        return self.test_images if self.images == "all" else self.images

    @property
    def first_look(self) -> int:
        """Trials of the first round: ENOUGH if they cost no more than `min` trials on all images would."""
        affordable = self.min * (self.test_images + self.draw_cost) / (self.first_images + self.draw_cost)
        return min(self.max, max(self.min, min(ENOUGH, floor(affordable))))


class Observation(Protocol):
    """What is read of a trial; `evaluate.Score` is one."""

    @property
    def accuracy(self) -> float: ...
    @property
    def images(self) -> int: ...
    @property
    def strata_images(self) -> Sequence[int] | None: ...
    @property
    def strata_correct(self) -> Sequence[int] | None: ...


@dataclass(frozen=True, slots=True)
class Round:
    """Trials to do next, all scored alike. Some may be done already: a round cut short is given whole."""

    trials: range
    images: int | None = None  # random subset of so many; None: all, or by allocation
    allocation: tuple[int, ...] | None = None  # images per stratum


@dataclass(frozen=True, slots=True)
class Stop:
    """The point is done."""

    reason: Literal["half_width", "max"]
    trials: int  # that the decision rests on
    half_width: float  # reached


@dataclass(frozen=True, slots=True)
class Interval:
    """Mean accuracy over draws with its interval, within [0, 1]."""

    mean: float
    low: float
    high: float
    half_width: float  # before it is cut at 0 and 1


def interval(design: Design, scores: Sequence[Observation]) -> Interval:
    """The interval that the design's half-width is about, valid at its stopping time. At least 2 trials."""
    summary = _Summary(design, scores)
    half = _quantile(design.confidence, len(scores)) * sqrt(summary.spread / len(scores))
    return Interval(summary.mean, max(0.0, summary.mean - half), min(1.0, summary.mean + half), half)


def next_round(design: Design, scores: Sequence[Observation]) -> Round | Stop:
    """What follows from the trials 0, 1, ... that have landed, in that order, without gaps.

    Rounds are replayed from the first one, so that the answer is the same whenever it is asked for: with a
    round half done it is that round, and rows beyond the stopping time change nothing.
    """
    for step in rounds(design, scores):
        if isinstance(step, Stop) or step.trials.stop > len(scores):
            return step
    raise AssertionError("rounds end with a Stop or an open round")


def rounds(design: Design, scores: Sequence[Observation]) -> Iterator[Round | Stop]:
    """All rounds, then a `Stop`. Add the trials of a round to `scores` before asking for the next one."""
    images = design.images if isinstance(design.images, int) else None
    allocation = _pilot(design) if design.images == "auto" else None
    yield Round(range(design.first_look), images, allocation)
    done = design.first_look
    while True:
        summary = _Summary(design, scores[:done])
        half_width = _quantile(design.confidence, done) * sqrt(summary.spread / done)
        enough = _enough(design, summary)
        if half_width <= design.half_width and done >= enough:
            yield Stop("half_width", done, half_width)
            return
        if done >= design.max:
            yield Stop("max", done, half_width)
            return
        if design.images == "auto":
            allocation, needed = _cheapest(design, summary, enough)
        else:
            needed = float(_needed(design, summary, np.array(summary.variance)))
        upto = max(min(max(ceil(needed), done + ceil(done / 8)), floor(done * GROWTH)), enough, done + 1)
        upto = min(upto, design.max)
        yield Round(range(done, upto), images, allocation)
        done = upto


class _Summary:
    """What a set of trials says about variances. Accuracies are fractions."""

    def __init__(self, design: Design, scores: Sequence[Observation]) -> None:
        accuracy = np.array([score.accuracy for score in scores])
        self.trials = len(accuracy)
        self.mean = float(accuracy.mean())
        deviation = accuracy - self.mean
        sample = float(deviation @ deviation) / (self.trials - 1)
        # Draws that all agree may still differ by what the test set cannot show: half an image.
        self.variance = max(sample, 0.25 / design.test_images**2 / self.trials)
        self.spread = self.variance + EXTREMES * float((deviation * deviation).max()) / self.trials
        if design.images == "auto":
            # Variance between draws comes on top of that of sampling images, which many images make well known.
            self.within_by_stratum, sampling = self._within(design, scores)
            self.between = max(sample - sampling, 0.0)

    @staticmethod
    def _within(design: Design, scores: Sequence[Observation]) -> tuple[Floats, float]:
        """Variance of one image by stratum, and of a trial's accuracy from its random subset, averaged over trials."""
        sizes = np.array(design.strata_sizes, float)
        images = np.array([score.strata_images for score in scores], float)
        correct = np.array([score.strata_correct for score in scores], float)
        # Unbiased within a draw that has two images of the stratum or more; one image says nothing and counts for 0.
        weighed = (correct * (images - correct) / images).sum(0) / np.maximum((images - 1).sum(0), 1)
        # A stratum in which nothing has flipped yet may still flip: it keeps a few images in later rounds.
        one = weighed + PSEUDO_FLIPS / images.sum(0)
        weights = sizes / sizes.sum()
        return one, float((weights**2 * one / images * (1 - images / sizes)).sum(1).mean())


@lru_cache(maxsize=4096)
def _quantile(confidence: float, trials: int) -> float:
    from scipy.special import stdtrit  # slow to load, and a plan needs the first round alone

    return float(stdtrit(trials - 1, 0.5 + confidence / 2)) * CAUTION


def _enough(design: Design, summary: _Summary) -> int:
    """Trials before which the point must not stop, given what noise has cost so far."""
    clean = design.clean_accuracy
    loss = 0.0 if clean is None else max(clean - summary.mean, 0.0)
    return min(max(design.min, min(ENOUGH, ceil(LOSSES * loss / design.half_width))), design.max)


def _needed(design: Design, summary: _Summary, variance: Floats) -> Floats:
    """All trials needed if those to come have `variance` each: the m that solves the half-width's equation.

    The quantile and the caution for extremes are taken as they are now; the next look will know better.
    """
    caution = summary.spread / summary.variance
    wanted = (design.half_width / _quantile(design.confidence, summary.trials)) ** 2 / caution
    gap = summary.trials * (summary.variance - variance)
    needed: Floats = (variance + np.sqrt(np.maximum(variance**2 + 4 * wanted * gap, 0.0))) / (2 * wanted)
    return needed


def _pilot(design: Design) -> tuple[int, ...]:
    return tuple(min(size, PILOT_IMAGES) for size in design.strata_sizes)


def _cheapest(design: Design, summary: _Summary, enough: int) -> tuple[tuple[int, ...], float]:
    """Images per stratum that reach the half-width at the least cost, and all trials needed with them."""
    sizes = np.array(design.strata_sizes, float)
    weights, within = sizes / sizes.sum(), summary.within_by_stratum
    table = _neyman(weights * np.sqrt(within), sizes, _geometric(len(sizes), design.test_images))
    variances = summary.between + (weights**2 * within / table * (1 - table / sizes)).sum(1)
    prices = table.sum(1) + design.draw_cost
    least = max(summary.trials + 1, enough)
    needed = np.maximum(_needed(design, summary, np.maximum(variances, 1e-12)), least)
    costs = np.where(needed <= min(design.max, design.aim), (needed - summary.trials) * prices, inf)
    # Out of reach within so many trials: then the most precision for each image.
    best = int(np.argmin(costs) if np.isfinite(costs).any() else np.argmin(variances * prices))
    return tuple(int(n) for n in table[best]), float(needed[best])


def _geometric(low: int, high: int) -> list[int]:
    """Numbers of images to consider; between neighbours the cost differs by a few percent."""
    steps = [low]
    while steps[-1] < high:
        steps.append(min(high, ceil(steps[-1] * 1.5)))
    return steps


def _neyman(shares: Floats, sizes: Floats, images: Sequence[int]) -> Floats:
    """(len(images), strata) images in proportion to `shares`, at least 1 and at most all of each stratum."""
    # What a stratum cannot take goes to the others. The limited shares add up to a piecewise linear function of the
    # factor that is common to them: invert it.
    factors = np.sort(np.concatenate([1 / shares, sizes / shares]))
    factor = np.interp(images, np.clip(factors[:, None] * shares, 1, sizes).sum(1), factors)
    table: Floats = np.floor(np.clip(factor[:, None] * shares, 1, sizes) + 0.5)
    return table
