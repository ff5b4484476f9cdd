"""What the paper's theory is about, measured while a network trains: gradient noise, smoothness, BN's share in both.

Nothing here changes a training: every random number has a stream of its own, BN's running statistics are left as they
were, and gradients are taken on copies or read where they are. All of it is float32.

**Gradient noise** (eq. 6), C = E ||grad L_i - grad L_D||^2 over training images i, without augmentation.

- `gradient_noise`: BN in evaluation mode, where the loss of one image is a function of that image. Images come in
  groups of `GROUP`, drawn without replacement; each group's sample variance, summed over the parameters, is an
  unbiased estimate of C (for a finite set the one with N - 1 in the denominator).
- `gradient_noise_batch`: BN in training mode, where only the loss of a batch is a function. For two disjoint batches
  of b images, b ||g_1 - g_2||^2 / 2 is an unbiased estimate of b tr Var(g), which is C where there is no BN.

Both are means over independent estimates, with a t interval over them.

**Smoothness** (the paper after Santurkar et al., NeurIPS 2018), over the steps of one epoch as it is trained:
`gradient_norm_min`, `_mean`, `_max` and `gradient_change_mean`, `_max`, the l2 distance between the gradients of
consecutive steps.

**Eq. 9** (Santurkar et al., theorem 4.1), per BN site, from one batch in training mode. With y the site's input, z its
output, y_hat the normalised input, s^2 = var + eps, m values per channel and G = dL/dz:

    ||dL/dy||^2 = gamma^2 / s^2 * (||G||^2 - <1, G>^2 / m - <G, y_hat>^2 / m)        per channel, for eps -> 0

`eq9_scale` is gamma^2 / s^2 (mean over channels), `eq9_gradient` sum ||G||^2, `eq9_mean_term` and
`eq9_correlation_term` the two squared terms as shares of it, `eq9_gradient_in` sum ||dL/dy||^2.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf, sqrt
from time import monotonic
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from bnsweep.training.sites import BATCH_NORM, input_of
from bnsweep.training.streams import stream

__all__ = ["GradientWatch", "Moment", "Sizes", "measure", "moments", "per_image_gradients", "sizes"]

GROUP = 16  # images per estimate of `gradient_noise`
PER_IMAGE_COST = 2.0  # of an image's own gradient, as a multiple of an image's share in a batch's gradient
# What a measurement costs beyond that, in training steps on as many images: it is made in fp32, in slices,
# and eq. 9 comes on top.
OVERHEAD = {"fp32": 1.5, "bf16": 3.0}
MOST_GROUPS, MOST_PAIRS = 32, 16
FEWEST = 3  # estimates behind an interval
CONFIDENCE = 0.95

Row = dict[str, Any]
Images = Callable[[Tensor], Tensor]  # (B,) int64 indices -> (B, C, H, W) float32 normalised training images


@dataclass(frozen=True, slots=True)
class Moment:
    """When a measurement is made."""

    epoch: int  # epochs completed
    seed: int  # of the training run


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much one measurement takes."""

    groups: int  # of `GROUP` images each
    pairs: int  # of batches


def moments(at: Sequence[float], epochs: int) -> frozenset[int]:
    """After which epochs to measure; `at` are fractions of all epochs, 0: before the first."""
    return frozenset(ceil(round(fraction * epochs, 9)) for fraction in at)  # 0.07 * 100 is a little more than 7


def sizes(*, cost_frac: float, epochs: int, images: int, batch_size: int, moments: int, precision: str) -> Sizes:
    """How many images a measurement may take, if all of them are to cost at most `cost_frac` of the training's time.

    A number of images, not a time: what is measured must not depend on how fast the machine is. Half goes to each
    kind of gradient noise. With small budgets the fewest that an interval can rest on are taken, whatever they cost.
    """
    budget = cost_frac * epochs * images / OVERHEAD[precision] / max(1, moments)
    groups = min(int(budget / 2 / PER_IMAGE_COST / GROUP), MOST_GROUPS, images // GROUP)
    pairs = min(int(budget / 2 / (2 * batch_size)), MOST_PAIRS, images // (2 * batch_size))
    return Sizes(max(groups, FEWEST), max(pairs, FEWEST))


def measure(
    network: nn.Module, images: Images, labels: Tensor, moment: Moment, *, size: Sizes, batch_size: int
) -> list[Row]:
    """Rows of the `probes` table, without `run_id`: gradient noise of both kinds, and eq. 9 per BN site.

    Args:
        network: as it is after `moment.epoch` epochs; left untouched.
        images: gives training images by index.
        labels: (N,) int64, of the training images.
        moment: epoch and seed; the images that are drawn follow from them alone.
        size: how much to take.
        batch_size: of the training, images.
    """
    probe = copy.deepcopy(network).float()
    chosen = stream("probes", moment.seed, moment.epoch)
    rows = [
        _row(moment, "gradient_noise", *_noise_of_images(probe, images, labels, chosen, size.groups)),
        _row(moment, "gradient_noise_batch", *_noise_of_batches(probe, images, labels, chosen, size.pairs, batch_size)),
    ]
    begin = monotonic()
    batch = _draw(chosen, len(labels), min(batch_size, len(labels)), labels.device)
    for site, terms in _equation_9(probe, images(batch), labels[batch]).items():
        rows += [_row(moment, name, [value], monotonic() - begin, site=site) for name, value in terms.items()]
        begin = monotonic()
    return rows


class GradientWatch:
    """Norms of the gradients of consecutive steps, and the distances between them; read without waiting for a GPU."""

    def __init__(self, network: nn.Module) -> None:
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._before: list[Tensor] | None = None
        self._norms: list[Tensor] = []
        self._changes: list[Tensor] = []

    def step(self) -> None:
        """Read the gradients as they are after a backward pass."""
        # No gradient: a layer that this step left out, as stochastic depth does.
        now = [torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for p in self._parameters]
        self._norms.append(_norm(now))
        if self._before is not None:
            self._changes.append(_norm(torch._foreach_sub(now, self._before)))
        self._before = now

    def rows(self, moment: Moment) -> list[Row]:
        """Rows of the `probes` table, without `run_id`."""
        found: list[Row] = []
        for name, values in (("gradient_norm", self._norms), ("gradient_change", self._changes)):
            if not values:
                continue
            all_ = torch.stack(values).double().cpu().numpy()
            named = {"mean": all_.mean(), "max": all_.max(), **({"min": all_.min()} if name.endswith("norm") else {})}
            found += [
                _row(moment, f"{name}_{what}", [float(value)], 0.0, samples=len(all_)) for what, value in named.items()
            ]
        return found


def _noise_of_images(
    network: nn.Module, images: Images, labels: Tensor, numbers: np.random.Generator, groups: int
) -> tuple[list[float], float]:
    """Unbiased estimates of C with BN in evaluation mode, and the seconds that they took."""
    begin = monotonic()
    network.eval()
    chosen = _draw(numbers, len(labels), min(groups * GROUP, len(labels)), labels.device)
    estimates: list[float] = []
    for group in torch.split(chosen, GROUP):
        if len(group) == GROUP:
            try:
                gradients = per_image_gradients(network, images(group), labels[group])
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise
                return [], monotonic() - begin  # a BN without running statistics: single images have no gradient
            estimates.append(sum(float(values.reshape(len(values), -1).var(0).double().sum()) for values in gradients))
    return estimates, monotonic() - begin


def per_image_gradients(network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    """Gradient of each image's own cross-entropy: one (B, *shape) tensor per trainable parameter.

    Vectorised by `torch.func` where the network allows it, one image after the other where it does not (control flow
    that depends on values, operations without a batching rule).
    """
    parameters = {name: p.detach() for name, p in network.named_parameters() if p.requires_grad}
    fixed = {name: p.detach() for name, p in network.named_parameters() if not p.requires_grad}
    fixed |= dict(network.named_buffers())

    def loss(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(network, {**values, **fixed}, (image[None],))
        return functional.cross_entropy(logits.float(), label[None])

    try:
        found: dict[str, Tensor] = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    except RuntimeError:
        each = [grad(loss)(parameters, image, label) for image, label in zip(images, labels, strict=True)]
        found = {name: torch.stack([one[name] for one in each]) for name in parameters}
    return list(found.values())


def _noise_of_batches(
    network: nn.Module, images: Images, labels: Tensor, numbers: np.random.Generator, pairs: int, batch_size: int
) -> tuple[list[float], float]:
    """Unbiased estimates of b tr Var(g) with BN in training mode, and the seconds that they took."""
    begin = monotonic()
    network.train()
    count = min(batch_size, len(labels) // 2)
    estimates = []
    for _ in range(pairs):
        both = _draw(numbers, len(labels), 2 * count, labels.device)
        one, other = (_batch_gradient(network, images(half), labels[half]) for half in torch.split(both, count))
        estimates.append(count * float(_norm(torch._foreach_sub(one, other))) ** 2 / 2)
    return estimates, monotonic() - begin


def _batch_gradient(network: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    parameters = [p for p in network.parameters() if p.requires_grad]
    loss = functional.cross_entropy(network(images).float(), labels)
    return list(torch.autograd.grad(loss, parameters, materialize_grads=True))


def _equation_9(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
    """Path of each BN layer -> its terms."""
    network.train()
    seen: dict[str, tuple[nn.Module, Tensor, Tensor]] = {}

    def watch(path: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], Tensor]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor:
            # A copy, so that an activation that works in place does not overwrite what the gradient is asked for.
            seen[path] = (module, input_of(inputs, named), output)
            return output.clone()

        return hook

    def asked_for(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> tuple[Any, Any]:
        # A copy of BN's own: what goes beside it, over a shortcut, has a share in the gradient of the original.
        given = input_of(inputs, named)
        # Images, or what a frozen layer made of them, have no gradient by themselves.
        own = given.clone() if given.requires_grad else given.detach().requires_grad_()
        return ((own,), {}) if inputs else ((), {next(iter(named)): own})

    sites = [(path, module) for path, module in network.named_modules() if isinstance(module, BATCH_NORM)]
    handles: list[Any] = [module.register_forward_pre_hook(asked_for, with_kwargs=True) for _, module in sites]
    handles += [module.register_forward_hook(watch(path), with_kwargs=True) for path, module in sites]
    try:
        loss = functional.cross_entropy(network(images).float(), labels)
        wanted = [tensor for _, y, z in seen.values() for tensor in (y, z)]
        gradients = iter(torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True) if wanted else ())
    finally:
        for handle in handles:
            handle.remove()
    return {path: _terms(module, y, next(gradients), next(gradients)) for path, (module, y, _) in seen.items()}


@torch.no_grad()
def _terms(module: Any, y: Tensor, given: Tensor, above: Tensor) -> dict[str, float]:
    """The terms of eq. 9 for one site; the loss is the batch's mean."""
    rows, upper, lower = (t.transpose(0, 1).flatten(1).double() for t in (y, above, given))  # (channels, m)
    m = rows.shape[1]
    centred = rows - rows.mean(1, keepdim=True)
    variance = centred.square().mean(1) + module.eps
    normalised = centred / variance.sqrt()[:, None]
    gamma = torch.ones_like(variance) if module.weight is None else module.weight.double()
    total = upper.square().sum()
    whole = max(float(total), np.finfo(float).tiny)
    return {
        "eq9_scale": float((gamma.square() / variance).mean()),
        "eq9_gradient": float(total),
        "eq9_mean_term": float((upper.sum(1).square() / m).sum()) / whole,
        "eq9_correlation_term": float(((upper * normalised).sum(1).square() / m).sum()) / whole,
        "eq9_gradient_in": float(lower.square().sum()),
    }


def _draw(numbers: np.random.Generator, images: int, count: int, device: torch.device) -> Tensor:
    return torch.from_numpy(numbers.choice(images, count, replace=False)).to(device)


def _norm(values: Sequence[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(values))))
    return norm


def _row(
    moment: Moment, name: str, estimates: Sequence[float], seconds: float, *, site: str = "", samples: int | None = None
) -> Row:
    """The mean of independent estimates, with its interval where there are several."""
    values = np.array(estimates)
    half = inf
    if len(values) >= 2:
        half = float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)) * float(values.std(ddof=1)) / sqrt(len(values))
    mean = float(values.mean()) if len(values) else None
    known = mean is not None and half < inf
    return {
        "epoch": moment.epoch,
        "probe": name,
        "site": site,
        "value": mean,
        "low": max(mean - half, 0.0) if known and mean is not None else None,  # no quantity here is negative
        "high": mean + half if known and mean is not None else None,
        "samples": samples if samples is not None else len(values),
        "duration_s": seconds,
    }
