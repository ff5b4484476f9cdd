"""Noise on trained parameters: what it multiplies, what it hits, and one draw of it.

The model is additive Gaussian noise (paper, eq. 10-12): w' = w + eta * reference(w) * z, with z standard
normal and independent per element. A draw is a pure function of (parameters, cell, eta, seed):

- each parameter has its own stream, keyed by (seed, parameter name), so the same draw serves every eta
  and every placement that has that parameter;
- each draw starts from pristine values and never from the draw before it;
- what was really added is measured on the values written: the realised sigma ratio.

A CPU draws with NumPy's Philox, a GPU with its own generator (15 million normals per VGG16 trial would
starve it otherwise). The keys are the same and the numbers are not: rows of the two are equal in
distribution only. Kinds of GPU share their draws, as far as their arithmetic rounds alike.

Which parameters count: `bnsweep.training.targets`.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bnsweep.errors import InputError, ModelError, UnknownNameError
from bnsweep.training.sites import BATCH_NORM, fold
from bnsweep.training.targets import NOISY_LAYERS, Target, check_open, targets_of

__all__ = [
    "BN_TREATMENTS",
    "NOISE_MODELS",
    "SIGMA_REFERENCES",
    "TARGETS",
    "CellLike",
    "Perturber",
    "check_cell",
    "standard_normal",
    "working_copy",
]

NOISE_MODELS = ("gaussian",)
BN_TREATMENTS = ("stale", "folded", "recalibrated")


class CellLike(Protocol):
    """What is read of a noise cell: `bnsweep.experiment.noise_cell.NoiseCell` is one."""

    @property
    def model(self) -> str: ...
    @property
    def sigma_reference(self) -> str: ...
    @property
    def targets(self) -> str: ...
    @property
    def bn_treatment(self) -> str: ...
    @property
    def images_for_recalibration(self) -> int: ...


def standard_normal(name: str, shape: Sequence[int], *, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """The draw of `seed` for the parameter `name`: fp32 tensor of `shape` on `device`, contiguous.

    On one kind of device it depends on (seed, name, shape) alone. CPU and CUDA give different numbers.
    """
    out = torch.empty(tuple(shape), dtype=torch.float32, device=device)
    _Normals(out.device).fill(out, name, seed)
    return out


# A GPU spreads a fill over as many threads as it has multiprocessors for, and the numbers follow the threads: a piece
# that a small GPU (or a seventh of a large one) fills at one go is filled alike by all.
_PIECE = 32_768
_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 over the golden ratio: keeps the pieces' keys apart from those of other parameters


class _Normals:
    """Fills buffers with keyed draws, reusing one generator."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = None if device.type == "cpu" else torch.Generator(device)
        self._philox = np.random.Philox(0)
        self._numpy = np.random.Generator(self._philox)

    def fill(self, out: Tensor, name: str, seed: int) -> None:
        # torch's CPU generator keeps 32 bits of a seed, too few to keep millions of streams apart; Philox keeps 128.
        key = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:16]
        if self._cuda is not None:
            first = int.from_bytes(key[:8], "little")
            for index, piece in enumerate(torch.split(out.view(-1), _PIECE)):
                self._cuda.manual_seed((first + index * _GOLDEN) % 2**64)
                piece.normal_(generator=self._cuda)
            return
        self._philox.state = {
            "bit_generator": "Philox",
            "state": {"counter": np.zeros(4, np.uint64), "key": np.frombuffer(key, np.uint64)},
            "buffer": np.zeros(4, np.uint64),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._numpy.standard_normal(dtype=np.float32, out=out.view(-1).numpy())


Reference = Callable[[Target, float], Tensor]


def _tensor_std(target: Target, global_rms: float) -> Tensor:
    return target.tensor.std(correction=0)


def _tensor_max(target: Target, global_rms: float) -> Tensor:
    return target.tensor.abs().max()


def _channel_max(target: Target, global_rms: float) -> Tensor:
    values = target.tensor.abs()
    if not target.groups:
        return values.amax(tuple(range(1, values.ndim)), keepdim=True) if values.ndim > 1 else values
    # (groups, inputs, outputs, kernel...): a group's output channel is reached from its inputs only.
    grouped = values.view(target.groups, -1, *values.shape[1:])
    highest = grouped.amax((1, *range(3, grouped.ndim)), keepdim=True)
    return highest.expand(-1, grouped.shape[1], *highest.shape[2:]).flatten(0, 1)


def _global_rms(target: Target, global_rms: float) -> Tensor:
    return target.tensor.new_tensor(global_rms)


def _absolute(target: Target, global_rms: float) -> Tensor:
    return target.tensor.new_ones(())


# All are taken of the values just before the noise (after folding, if BN is folded). For a vector (a bias,
# BN's parameters) `channel_max` is the element's own magnitude.
SIGMA_REFERENCES: dict[str, Reference] = {
    "tensor_std": _tensor_std,  # population standard deviation of the tensor's elements (the paper)
    "tensor_max": _tensor_max,  # largest magnitude in the tensor
    "channel_max": _channel_max,  # largest magnitude per output channel
    "global_rms": _global_rms,  # root mean square over all kernels of the network
    "absolute": _absolute,  # 1
}

TARGETS: dict[str, Callable[[Target], bool]] = {
    "weights": lambda target: target.kind == "kernel",
    "weights+bias": lambda target: target.kind in ("kernel", "bias"),
    "weights+bias+affine": lambda target: target.kind in ("kernel", "bias", "affine"),
    "all": lambda target: True,
}


def working_copy(network: nn.Module, device: torch.device | str) -> nn.Module:
    """A copy to write into: fp32, in eval mode, without gradients; computed weights are made plain ones.

    Raises:
        ModelError: the network cannot be copied, or holds parameters that are not there yet.
    """
    check_open(network, "the network")
    for name, values in (*network.named_parameters(), *network.named_buffers()):
        if values.is_complex():
            raise ModelError(
                f"noise is made for real numbers, but {name} is complex: keep its two parts in a real tensor"
            )
    for path, module in network.named_modules():
        if isinstance(module, NOISY_LAYERS):
            _check_plain(path, module)
    try:
        clone = copy.deepcopy(network)
    except Exception as error:
        raise ModelError(
            f"the network cannot be copied ({type(error).__name__}: {error}); tensors that a forward pass leaves in "
            "attributes must be detached or removed first"
        ) from error
    clone.to(device=device, dtype=torch.float32)
    clone.eval()  # not chained: a `train` of the user's own may give None
    for module in list(clone.modules()):
        if parametrize.is_parametrized(module):
            # Not by `remove_parametrizations`: it takes the property off the class, which the original shares.
            computed = {name: getattr(module, name).detach().clone() for name in module.parametrizations}  # type: ignore[union-attr]
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
            for name, value in computed.items():
                setattr(module, name, nn.Parameter(value))
    return clone.requires_grad_(False)


def _check_plain(path: str, module: nn.Module) -> None:
    """Refuse a layer whose kernel hooks compute from other parameters before each pass: noise would hit those."""
    own = {name for name, _ in module.named_parameters(recurse=False)}
    for name in own:
        for ending in ("_orig", "_g"):
            kernel = name.removesuffix(ending)
            if name != kernel and kernel not in own and hasattr(module, kernel):
                raise ModelError(
                    f"{path or type(module).__name__}: `{kernel}` is computed from `{name}` before each pass (pruning, "
                    "or the older weight or spectral normalization); make it a plain parameter first, by "
                    "torch.nn.utils.prune.remove, remove_weight_norm or remove_spectral_norm"
                )


class _Hit:
    """One tensor that the noise hits: where it is written, what it was, and what eta multiplies."""

    def __init__(self, target: Target, sigma_reference: str, global_rms: float, scratch: Tensor) -> None:
        self.name = target.name
        self.written = target.tensor
        self.pristine = target.tensor.clone(memory_format=torch.contiguous_format)
        reference = SIGMA_REFERENCES[sigma_reference](target, global_rms)
        # A reference of a diverged network may be NaN or infinite: then there is nothing to measure noise in.
        # One too small for its inverse to be finite is as good as 0.
        usable = reference.isfinite() & (reference >= torch.finfo(reference.dtype).tiny)
        self.reference = torch.where(usable, reference, torch.zeros_like(reference))
        self.inverse = torch.where(self.reference > 0, 1 / self.reference, torch.zeros_like(reference))
        self.count = int((self.reference > 0).expand(self.pristine.shape).sum())
        self.finite = bool(self.pristine.isfinite().all())
        self.noise = scratch[: self.pristine.numel()].view(self.pristine.shape)


class Perturber:
    """Draws of one noise cell on one network.

    `network` holds the perturbed network after each `perturb`: fp32, eval mode, never the caller's; `elements` counts
    what is hit of it: the elements with a reference above 0.

    Args:
        network: a trained network; left untouched.
        cell: noise model, sigma reference, targets, BN treatment.
        example: (B, ...) float32 inputs that the network takes; used to find out what BN follows.
        calibration: inputs in batches, for `recalibrated`; may be empty if the network has no BN.
        device: where draws are made and the copy lives.

    Raises:
        UnknownNameError: the cell names something unknown.
        ModelError: no parameter to hit, or `folded` on a network whose BN cannot be folded.
        InputError: `recalibrated` without calibration inputs.
    """

    def __init__(
        self,
        network: nn.Module,
        cell: CellLike,
        *,
        example: Tensor,
        calibration: Sequence[Tensor] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        check_cell(cell)
        self.network = working_copy(network, device)
        if cell.bn_treatment == "folded":
            self.network = fold(self.network, example=example.to(device)).requires_grad_(False)
            self.network.eval()
        self._averaging = _running_norms(self.network) if cell.bn_treatment == "recalibrated" else []
        self._calibration = calibration
        if self._averaging and not calibration:
            raise InputError("bn_treatment 'recalibrated' needs calibration inputs, but got none; give training images")
        self._hits, self._scratch = _hits(self.network, cell)
        self.elements = sum(hit.count for hit in self._hits)
        self._normals = _Normals(self._scratch.device)

    @torch.no_grad()
    def perturb(self, eta: float, seed: int) -> float:
        """Write the draw of `seed` at noise level `eta` into `network`.

        Returns:
            The realised sigma ratio: sqrt(mean(((w' - w) / reference)^2)) over all elements with a
            reference above 0; about eta.
        """
        total = torch.zeros((), dtype=torch.float64, device=self._scratch.device)
        for hit in self._hits:
            self._normals.fill(hit.noise, hit.name, seed)
            torch.add(hit.pristine, hit.noise.mul_(hit.reference), alpha=eta, out=hit.written)
            measured = torch.sub(hit.written, hit.pristine, out=hit.noise).mul_(hit.inverse)
            if not hit.finite:
                measured.nan_to_num_(0.0, 0.0, 0.0)
            total += measured.square_().sum(dtype=torch.float64)
        if self._averaging:
            recalibrate(self.network, self._averaging, self._calibration)
        return float(total.div_(max(self.elements, 1)).sqrt_())


def check_cell(cell: CellLike) -> None:
    """Refuse a cell that names something unknown."""
    for kind, name, valid in (
        ("noise model", cell.model, NOISE_MODELS),
        ("sigma reference", cell.sigma_reference, tuple(SIGMA_REFERENCES)),
        ("target set", cell.targets, tuple(TARGETS)),
        ("BN treatment", cell.bn_treatment, BN_TREATMENTS),
    ):
        if name not in valid:
            raise UnknownNameError(kind, str(name), valid)


def _hits(network: nn.Module, cell: CellLike) -> tuple[list[_Hit], Tensor]:
    targets = list(targets_of(network))
    kernels = [target.tensor for target in targets if target.kind == "kernel"]
    if not kernels:
        raise ModelError(
            "the network has no weights to perturb: no convolution, linear, recurrent or attention layer with "
            f"parameters was found among its {sum(1 for _ in network.modules())} modules (a quantized network "
            "hides its own: pass the original one)"
        )
    squares = sum(float(kernel.square().sum(dtype=torch.float64)) for kernel in kernels)
    global_rms = (squares / sum(kernel.numel() for kernel in kernels)) ** 0.5
    targets = [target for target in targets if TARGETS[cell.targets](target)]
    # Parameters are hit one at a time, so one buffer as large as the largest serves all.
    largest = max(target.tensor.numel() for target in targets)
    scratch = torch.empty(largest, dtype=torch.float32, device=kernels[0].device)
    hits = (_Hit(target, cell.sigma_reference, global_rms, scratch) for target in targets)
    return [hit for hit in hits if hit.count], scratch


def _running_norms(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, BATCH_NORM) and m.running_mean is not None]


def recalibrate(network: nn.Module, norms: Sequence[nn.Module], batches: Sequence[Tensor]) -> None:
    """Re-estimate the running statistics of `norms` as the average over `batches`; all else stays in eval mode."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()  # type: ignore[operator]
        norm.momentum = None  # type: ignore[assignment] # cumulative: every batch counts alike
        norm.train()
    for batch in batches:
        network(batch.clone())  # it may write into it, and the next draw takes the same images
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
