"""Trials of one trained network: perturb, score, count. Fast, and the same rows every time.

The images are laid out once. A trial writes the noisy weights into buffers that exist already, folds BN
into them where that is exact, and makes one pass; nothing is copied per trial but the weights.

A network is scored as `argmax` scores it: an image whose logits are all NaN counts as class 0, and images
with any non-finite logit are counted, so that the paper's protocol can be followed to the letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnsweep.errors import InputError, UnknownNameError
from bnsweep.noise.forward import Forward
from bnsweep.noise.perturb import CellLike, Perturber, check_cell, working_copy
from bnsweep.noise.sampling import chosen_images, strata, strata_sizes, stratified_accuracy
from bnsweep.training.inputs import Inputs
from bnsweep.training.targets import beyond_reach

__all__ = ["PRECISIONS", "Evaluator", "Score", "calibration_subset"]

PRECISIONS: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
_EXAMPLES = 4  # images that structural checks are made on
# Images per pass of a re-estimation. Not the batch size of the scoring: variances are averages over batches, and what
# is measured must not depend on a setting of memory and speed.
_RECALIBRATION_BATCH = 250


@dataclass(frozen=True, slots=True)
class Score:
    """One trial."""

    images: int  # scored
    correct: int  # of those, classified right
    nonfinite: int  # of those, with a NaN or infinite logit
    accuracy: float  # unbiased estimate for all test images, in [0, 1]
    realised_sigma_ratio: float
    duration_s: float
    strata_images: tuple[int, ...] | None = None  # scored per stratum; None unless stratified
    strata_correct: tuple[int, ...] | None = None


class Evaluator:
    """Scores noise draws of one trained network on one set of images.

    Args:
        network: a trained network; left untouched (it is copied).
        inputs: (N, C, H, W) or (N, F) float32, normalised as the network was trained; or `Inputs`, which make a batch
            when it is asked for, so that processes can share the pixels.
        labels: (N,) int64 class numbers.
        precision: of the forward pass, fp32 or bf16; noise is always drawn and added in fp32.
        batch_size: images per forward pass. On a CPU 25-100 keep a small network's activations in cache.
        device: where to compute.
        calibration_inputs: (M, ...) float32 training inputs, for BN treatment `recalibrated`.
        strata: (N,) stratum of each image, as decided when the network was trained; default: from its margins now.

    Raises:
        InputError: shapes, dtypes or labels that do not fit together, or do not fit the network.
        ModelError: the network cannot be copied.
    """

    def __init__(
        self,
        network: nn.Module,
        inputs: Tensor | Inputs,
        labels: Tensor,
        *,
        precision: str = "fp32",
        batch_size: int = 250,
        device: torch.device | str = "cpu",
        calibration_inputs: Tensor | None = None,
        strata: NDArray[np.int64] | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise UnknownNameError("precision", precision, tuple(PRECISIONS))
        _check_images(inputs, labels, batch_size)
        if strata is not None and strata.shape != (len(labels),):
            raise InputError(f"there must be one stratum per image, but got {strata.shape} and {len(labels)} images")
        self._dtype, self._device, self._batch_size = PRECISIONS[precision], torch.device(device), batch_size
        self._network = working_copy(network, self._device)
        self._example = inputs[:_EXAMPLES].to(self._device, torch.float32)
        self._inputs: Tensor | Inputs
        if isinstance(inputs, Inputs):
            self._inputs = inputs.to(self._device)
        else:
            self._inputs = _laid_out(inputs, self._device, self._dtype)
            self._gathered = torch.empty_like(self._inputs[:batch_size])
        self._labels = labels.to(self._device)
        self._writes = _check_output(self._network, self._example, labels)
        self._calibration_inputs = calibration_inputs
        self._forwards: dict[bool, Forward] = {}
        self._perturber: tuple[object, Perturber] | None = None
        self._right = torch.empty(len(labels), dtype=torch.bool, device=self._device)
        self._finite = torch.empty_like(self._right)
        self._baseline: Score | None = None
        self._strata = strata

    def baseline(self) -> Score:
        """All images on the network as it was trained, with no treatment of any kind."""
        if self._baseline is None:
            begin = perf_counter()
            with torch.inference_mode():
                self._score(self._clean(), None)
            self._baseline = self._counted(None, 0.0, begin)
        return self._baseline

    def margins(self) -> NDArray[np.float64]:
        """(N,) logit of the true class less the largest other one, without noise; -inf where not finite."""
        forward = self._clean()
        margins = np.empty(len(self._labels))
        with torch.inference_mode():
            for start in range(0, len(margins), self._batch_size):
                part = slice(start, start + self._batch_size)
                logits = forward(self._batch(part)).double()
                own = self._labels[part, None]
                true = logits.gather(1, own)[:, 0]
                margin = true - logits.scatter(1, own, -torch.inf).amax(1)
                margins[part] = margin.cpu().numpy()
        return np.where(np.isfinite(margins), margins, -np.inf)

    def strata(self) -> NDArray[np.int64]:
        """(N,) stratum of each image: those given, else from the clean network's margins (`sampling.strata`)."""
        if self._strata is None:
            self._strata = strata(self.margins())
        return self._strata

    def strata_sizes(self) -> tuple[int, ...]:
        """Images per stratum: the `strata_sizes` column of a run."""
        return strata_sizes(self.strata())

    def reach(self, cell: CellLike) -> tuple[int, dict[str, int]]:
        """Elements that noise of this cell hits; name -> elements of the parameters that no target set names."""
        return self._prepared(cell).elements, beyond_reach(self._network)

    def trials(
        self,
        cell: CellLike,
        eta: Decimal | float,
        seeds: Sequence[int],
        *,
        samples: int | Sequence[int] | None = None,
    ) -> list[Score]:
        """One score per seed.

        Args:
            cell: the noise cell.
            eta: noise level as a fraction of the cell's sigma reference; 0 gives the baseline, whatever the cell.
            seeds: one draw each, in [0, 2**63).
            samples: None for all images; a number for a random subset per draw; images per stratum for
                a stratified one. Subsets follow from the seed.

        Raises:
            InputError: an impossible eta, more images than there are, or no calibration inputs.
        """
        check_cell(cell)
        level = float(eta)
        if not 0 <= level < float("inf"):
            raise InputError(f"`0 <= eta` must hold and eta be finite, but got eta={eta}")
        if level == 0:
            return [self.baseline() for _ in seeds]
        perturber = self._prepared(cell)
        forward = self._forward(perturber.network, folded=cell.bn_treatment == "folded")
        return [self._trial(perturber, forward, level, seed, samples) for seed in seeds]

    def correctness(self, cell: CellLike, eta: Decimal | float, seed: int) -> NDArray[np.bool_]:
        """(N,) whether each image is classified right under one draw: a row of a draw x image matrix."""
        if float(eta) == 0:
            self._score(self._clean(), None)
        else:
            self.trials(cell, eta, [seed])
        return self._right.cpu().numpy().copy()

    def _trial(
        self, perturber: Perturber, forward: Forward, eta: float, seed: int, samples: int | Sequence[int] | None
    ) -> Score:
        begin = perf_counter()
        chosen = None
        if samples is not None:
            chosen = chosen_images(
                samples, seed, None if isinstance(samples, int) else self.strata(), len(self._labels)
            )
        with torch.inference_mode():
            ratio = perturber.perturb(eta, seed)
            forward.load(perturber.network)
            self._score(forward, chosen)
        return self._counted(chosen, ratio, begin, stratified=isinstance(samples, Sequence))

    def _score(self, forward: Forward, chosen: NDArray[np.int64] | None) -> None:
        """Fill `_right` and `_finite` for the chosen images, or for all."""
        picks = None if chosen is None else torch.from_numpy(chosen).to(self._device)
        count = len(self._labels) if chosen is None else len(chosen)
        for start in range(0, count, self._batch_size):
            part = slice(start, min(start + self._batch_size, count))
            which = part if picks is None else picks[part]
            logits = forward(self._batch(which))
            torch.eq(logits.argmax(1), self._labels[which], out=self._right[part])
            torch.all(logits.isfinite(), 1, out=self._finite[part])

    def _batch(self, part: slice | Tensor) -> Tensor:
        """Images by a slice or by indices, as the network takes them."""
        if isinstance(self._inputs, Inputs):
            return _laid_out(self._inputs[part], self._device, self._dtype)
        if isinstance(part, slice):
            return self._inputs[part].clone() if self._writes else self._inputs[part]
        return torch.index_select(self._inputs, 0, part, out=self._gathered[: len(part)])

    def _counted(
        self, chosen: NDArray[np.int64] | None, ratio: float, begin: float, *, stratified: bool = False
    ) -> Score:
        images = len(self._labels) if chosen is None else len(chosen)
        right = self._right[:images].cpu().numpy()
        correct, finite = int(right.sum()), int(self._finite[:images].sum())
        per_stratum = None
        accuracy = correct / images
        if stratified and chosen is not None:
            sizes, own = self.strata_sizes(), self.strata()[chosen]
            scored = tuple(np.bincount(own, minlength=len(sizes)).tolist())
            hits = tuple(np.bincount(own[right], minlength=len(sizes)).tolist())
            accuracy, per_stratum = stratified_accuracy(sizes, scored, hits), (scored, hits)
        return Score(
            images, correct, images - finite, accuracy, ratio, perf_counter() - begin, *(per_stratum or (None, None))
        )

    def _clean(self) -> Forward:
        forward = self._forward(self._network, folded=False)
        with torch.inference_mode():
            forward.load(self._network)
        return forward

    def _forward(self, network: nn.Module, *, folded: bool) -> Forward:
        if folded not in self._forwards:
            self._forwards[folded] = Forward(network, example=self._example, dtype=self._dtype)
        return self._forwards[folded]

    def _prepared(self, cell: CellLike) -> Perturber:
        # The last cell only: each keeps two copies of the weights, and a block has one cell.
        recalibrated = cell.bn_treatment == "recalibrated"
        images = cell.images_for_recalibration if recalibrated else 0
        key = (cell.model, cell.sigma_reference, cell.targets, cell.bn_treatment, images)
        if self._perturber is None or self._perturber[0] != key:
            self._perturber = None
            batches = self._calibration(images) if recalibrated else []
            perturber = Perturber(self._network, cell, example=self._example, calibration=batches, device=self._device)
            self._perturber = (key, perturber)
        return self._perturber[1]

    def _calibration(self, images: int) -> list[Tensor]:
        """In equal batches."""
        inputs = self._calibration_inputs
        if inputs is None:
            return []
        laid_out = _laid_out(inputs[calibration_subset(images, len(inputs))], self._device, torch.float32)
        return list(laid_out.tensor_split(max(1, images // _RECALIBRATION_BATCH)))


def calibration_subset(images: int, of: int) -> Tensor:
    """(images,) int64: which training images BN's statistics are estimated from.

    Always the same, and a random choice: training images may come sorted by class. Raises InputError.
    """
    if images > of:
        raise InputError(f"`recalibration_images <= training images` must hold, but got {images} and {of}")
    return torch.from_numpy(np.random.Generator(np.random.Philox(0)).permutation(of)[:images])


def _laid_out(inputs: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    layout = torch.channels_last if inputs.ndim == 4 else torch.contiguous_format
    return inputs.detach().to(device=device, dtype=dtype).contiguous(memory_format=layout)


def _check_images(inputs: Tensor | Inputs, labels: Tensor, batch_size: int) -> None:
    if not (isinstance(inputs, (Tensor, Inputs)) and isinstance(labels, Tensor)):
        raise InputError(f"images and labels must be tensors, but got {type(inputs).__name__}, {type(labels).__name__}")
    if isinstance(inputs, Tensor) and (not inputs.is_floating_point() or inputs.ndim < 2):
        raise InputError(
            "images must be what the network takes: float, (N, C, H, W) or (N, F), normalised as in training, but "
            f"got {inputs.dtype}, {tuple(inputs.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.ndim != 1:
        raise InputError(f"labels must be class numbers: integers, (N,), but got {labels.dtype}, {tuple(labels.shape)}")
    if len(inputs) != len(labels) or len(labels) == 0:
        raise InputError(f"there must be one label per image, at least one, but got {len(inputs)} and {len(labels)}")
    if batch_size < 1:
        raise InputError(f"`batch_size >= 1` must hold, but got {batch_size}")


def _check_output(network: nn.Module, example: Tensor, labels: Tensor) -> bool:
    """Check that one forward pass and the labels agree on the classes; whether the network writes into its input."""
    try:
        with torch.inference_mode(mode=False), torch.no_grad():  # tensors of inference mode do not count writes
            given = example.clone()
            before = given._version
            logits = network(given)
            writes = given._version != before
    except Exception as error:
        raise InputError(
            f"the network does not take images of shape (N, {', '.join(map(str, example.shape[1:]))}): "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(example):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the network must return logits of shape (N, classes), but returned {got}")
    low, high, classes = int(labels.min()), int(labels.max()), logits.shape[1]
    if low < 0 or high >= classes:
        raise InputError(f"labels must be from 0 to {classes - 1} for {classes} logits, but range from {low} to {high}")
    return writes
