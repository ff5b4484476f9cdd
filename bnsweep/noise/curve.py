"""Accuracy of any trained `nn.Module` over the noise level, in one call: no spec, no store, no Ray.

`print(noise_curve(network, images, labels))` is all it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor, nn

from bnsweep.errors import InputError
from bnsweep.experiment import cautions
from bnsweep.experiment.identity import noise_seed
from bnsweep.noise.evaluate import Evaluator, Score
from bnsweep.noise.forward import full_fp32
from bnsweep.noise.perturb import check_cell

__all__ = ["Cell", "Curve", "Interval", "noise_curve"]

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Cell:
    """A noise cell without a spec."""

    sigma_reference: str = "tensor_std"
    targets: str = "weights"
    bn_treatment: str = "stale"
    model: str = "gaussian"
    images_for_recalibration: int = 0


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over noise draws with its two-sided 95 % t interval; `low` and `high` are NaN for a single draw."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """Accuracy over eta. Print it for a table.

    `rows` has one dict per eta, rising, fractions in [0, 1]:

    - `eta`, `trials`
    - `accuracy` mean over draws; `low`, `high` its 95 % t interval over draws (eta = 0: exact, no draws)
    - `std` between draws (ddof 1), `min` the worst draw
    - `nonfinite` share of scored images with a NaN or infinite logit
    - `realised_sigma_ratio` mean over draws of the noise measured on the weights, in units of the reference

    `average_normalized` is the mean over eta > 0 of accuracy over baseline accuracy (paper, eq. 14), with an
    interval over draws: one draw serves every eta, so draws are averaged over eta first. None without eta > 0
    or with a baseline of 0.

    `hit` counts the elements that the noise hits, of `parameters` that the network has (BN's running statistics are
    not among these); `notes` say what makes the figures other than they look.
    """

    cell: Cell
    images: int
    precision: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    average_normalized: Interval | None = None
    hit: int = 0
    parameters: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        cell = self.cell
        lines = [
            f"accuracy in % on {self.images} images under noise of eta x {cell.sigma_reference} on {cell.targets} "
            f"(BN {cell.bn_treatment}, {self.precision}; {self.hit:,} values hit, {self.parameters:,} parameters)",
            f"{'eta':>8} {'accuracy':>9} {'95 % interval':>17} {'std':>7} {'min':>7} {'trials':>7} {'non-finite':>11}",
        ]
        for row in self.rows:
            interval = _shown_interval(row["low"], row["high"])
            std = "-" if np.isnan(row["std"]) else f"{100 * row['std']:.2f}"
            lines.append(
                f"{row['eta']:>8g} {100 * row['accuracy']:>9.2f} {interval:>17} {std:>7} {100 * row['min']:>7.2f} "
                f"{row['trials']:>7} {100 * row['nonfinite']:>10.2f}%"
            )
        if self.average_normalized is not None:
            average = self.average_normalized
            shown = _shown_interval(average.low, average.high)
            lines.append(f"average normalized accuracy {100 * average.mean:.2f} % {shown}".rstrip(" -"))
        lines += (f"note: {note}" for note in self.notes)
        return "\n".join(lines)


def noise_curve(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    eta: Sequence[float] = (0, 0.01, 0.1, 0.2, 0.3, 0.4),
    trials: int = 20,
    targets: str = "weights",
    sigma_reference: str = "tensor_std",
    bn_treatment: str = "stale",
    calibration_images: Tensor | None = None,
    precision: str = "fp32",
    batch_size: int = 250,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Curve:
    """Score a trained network under Gaussian weight noise at several levels.

    The network is copied and left as it is: weights, buffers, mode, hooks. Its forward hooks run on the
    copy, as in any forward pass. What counts as a weight: see `bnsweep.noise.perturb`.

    Args:
        network: any trained module that maps images to logits (N, classes).
        images: (N, C, H, W) or (N, F) float, normalised as the network expects; e.g. the test set.
        labels: (N,) integer class numbers.
        eta: noise levels, as fractions of the sigma reference. 0 is the network itself and is always included.
        trials: noise draws per level; draw t is the same at every level.
        targets: weights, weights+bias, weights+bias+affine, or all (also BN's running statistics).
        sigma_reference: tensor_std (per layer), tensor_max, channel_max, global_rms or absolute.
        bn_treatment: stale, folded (into the weights, before the noise) or recalibrated (after it).
        calibration_images: training images (M, ...), all of which `recalibrated` uses.
        precision: fp32 or bf16, of the forward pass.
        batch_size: images per forward pass.
        device: where to compute; default: where the network is.
        seed: of the draws; other seeds share none of them.

    Raises:
        InputError: arguments that do not fit; the message says which and why.
        ModelError: a network without weights to perturb, or one that cannot be copied or folded.
    """
    if not isinstance(network, nn.Module):
        raise InputError(f"network must be a torch.nn.Module, but got {type(network).__name__}")
    network = getattr(network, "_orig_mod", network)  # what torch.compile wraps
    levels = _levels(eta)
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise InputError(f"`trials >= 1` must hold, but got trials={trials!r}")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise InputError(f"seed must be a whole number, but got {seed!r}")
    cell = Cell(
        sigma_reference, targets, bn_treatment, images_for_recalibration=_calibration_count(calibration_images, images)
    )
    check_cell(cell)
    if bn_treatment == "recalibrated" and calibration_images is None:
        raise InputError(
            "bn_treatment='recalibrated' needs calibration_images: training images as the network takes them"
        )
    evaluator = Evaluator(
        network,
        images,
        labels.to(torch.int64) if isinstance(labels, Tensor) and not labels.is_floating_point() else labels,
        precision=precision,
        batch_size=batch_size,
        device=_device(network, device),
        calibration_inputs=calibration_images,
    )
    # The same seeds at every level: levels differ by the noise's size, not by luck.
    seeds = [noise_seed(f"curve {seed}", trial) for trial in range(trials)]
    with full_fp32():  # as a sweep has it; nothing else where the passes are bf16
        scores = {level: evaluator.trials(cell, level, seeds) for level in levels if level > 0}
        baseline = evaluator.baseline()
    rows = [_row(0.0, [baseline]), *(_row(level, scores[level]) for level in levels if level > 0)]
    hit, beyond = evaluator.reach(cell)
    parameters = sum(values.numel() for values in network.parameters())
    return Curve(
        cell,
        len(labels),
        precision,
        rows,
        _average_normalized(baseline, list(scores.values())),
        hit,
        parameters,
        tuple(_notes(cell, levels, beyond, parameters)),
    )


def _notes(cell: Cell, levels: Sequence[float], beyond: Mapping[str, int], parameters: int) -> Iterator[str]:
    large = [f"{level:g}" for level in levels if level > 1]
    if large and cell.sigma_reference != "absolute":
        yield cautions.on_eta(large)
    if note := cautions.on_reach("the network", beyond, parameters):
        yield note


def _levels(eta: Sequence[float]) -> list[float]:
    try:
        levels = sorted({0.0, *(float(level) for level in eta)})
    except (TypeError, ValueError):
        raise InputError(f"eta must be a sequence of numbers, but got {eta!r}") from None
    if bad := [level for level in levels if not 0 <= level < float("inf")]:
        raise InputError(f"`0 <= eta` must hold and eta be finite, but got {bad[0]}")
    return levels


def _calibration_count(given: Tensor | None, images: Tensor) -> int:
    """How many images BN's statistics are estimated from."""
    if given is None:
        return 0
    if not (isinstance(given, Tensor) and given.is_floating_point()):
        what = given.dtype if isinstance(given, Tensor) else type(given).__name__
        raise InputError(f"calibration_images must be a tensor of floats, as the network takes them, but got {what}")
    wanted = images.shape[1:] if isinstance(images, Tensor) else given.shape[1:]  # images are checked later
    if len(given) < 2 or given.shape[1:] != wanted:
        raise InputError(
            f"calibration_images must be two or more of shape {tuple(wanted)}, as images are, "
            f"but got {tuple(given.shape)}"
        )
    return len(given)


def _device(network: nn.Module, wanted: torch.device | str | None) -> torch.device:
    """The device that was asked for, if one can compute on it; else where the network is."""
    if wanted is None:
        return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device).sum().item()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device must be one that this machine has ({', '.join(there)}), but got {str(wanted)!r}: {reason}"
        ) from None
    return device


def _row(eta: float, scores: list[Score]) -> dict[str, Any]:
    accuracy = np.array([score.accuracy for score in scores])
    interval = _interval(accuracy) if eta else Interval(accuracy[0], accuracy[0], accuracy[0])
    return {
        "eta": eta,
        "accuracy": float(interval.mean),
        "low": float(max(interval.low, 0.0)),
        "high": float(min(interval.high, 1.0)),
        "std": float(accuracy.std(ddof=1)) if len(accuracy) > 1 else float("nan"),
        "min": float(accuracy.min()),
        "trials": len(scores),
        "nonfinite": sum(score.nonfinite for score in scores) / sum(score.images for score in scores),
        "realised_sigma_ratio": float(np.mean([score.realised_sigma_ratio for score in scores])),
    }


def _interval(values: NDArray[np.float64]) -> Interval:
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stdtrit(count - 1, 0.5 + _CONFIDENCE / 2) * values.std(ddof=1) / count**0.5)
    return Interval(mean, mean - half, mean + half)


def _average_normalized(baseline: Score, scores: list[list[Score]]) -> Interval | None:
    if not scores or baseline.correct == 0:
        return None
    table = np.array([[score.accuracy for score in level] for level in scores]) / baseline.accuracy
    average = _interval(table.mean(0))
    return replace(average, low=max(average.low, 0.0))  # a NaN stays


def _shown_interval(low: float, high: float) -> str:
    return "-" if np.isnan(low) else f"{100 * low:.2f} to {100 * high:.2f}"
