"""Networks as people bring them: what `noise_curve` leaves as it was, does right, or refuses with the way out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bnsweep.errors import InputError, ModelError, PlacementError
from bnsweep.noise.curve import noise_curve
from bnsweep.training.sites import find_sites, fold, place


def images(count: int = 40, *shape: int) -> Tensor:
    return torch.randn(count, *(shape or (3, 8, 8)), generator=torch.Generator().manual_seed(1))


def lively(network: nn.Module) -> nn.Module:
    """With BN constants that are not those of a new network."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if hasattr(module, "running_var") and module.running_var is not None:
            module.running_mean.copy_(torch.rand(module.running_mean.shape, generator=generator) - 0.5)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return network.eval()


def after(norm: nn.Module, dimensions: int = 2) -> nn.Module:
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    torch.manual_seed(0)
    size = {2: 8, 3: 4}[dimensions]
    return lively(
        nn.Sequential(
            convolution(3, 6, 3, padding=1), norm, nn.ReLU(), nn.Flatten(), nn.Linear(6 * size**dimensions, 5)
        )
    )


def own_answers(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return network(inputs).argmax(1)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_a_parametrized_network_works_as_before_afterwards(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), getattr(parametrizations, name)(nn.Linear(192, 5))).eval()
    inputs = images()
    with torch.no_grad():
        before = network(inputs)
    labels = before.argmax(1)
    curves = [str(noise_curve(network, inputs, labels, eta=[0.5], trials=3)) for _ in range(2)]
    assert curves[0] == curves[1]
    with torch.no_grad():
        assert torch.equal(network(inputs), before)
    assert isinstance(network[1].parametrizations, nn.ModuleDict)


class Clamped(nn.BatchNorm2d):
    """A BN that does more: what comes out has a range, as a converter's does."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (torch's name)
        return super().forward(input).clamp(-0.2, 0.2)


def hooked() -> nn.Module:
    norm = nn.BatchNorm2d(6)
    norm.register_forward_hook(lambda _module, _inputs, output: output.clamp(-0.2, 0.2))
    return norm


@pytest.mark.parametrize("norm", [lambda: Clamped(6), hooked], ids=["subclass", "hook"])
def test_a_bn_that_does_more_is_not_folded_away(norm: Callable[[], nn.Module]) -> None:
    network = after(norm())
    inputs = images()
    inputs[:4] *= 1e-3  # on the first four the range is not reached: the fold would look right
    labels = own_answers(network, inputs)
    curve = noise_curve(network, inputs, labels, eta=[], trials=1)
    assert curve.rows[0]["accuracy"] == 1
    with pytest.raises(ModelError, match=r"1 or the layer before it has hooks"):
        fold(network, example=inputs[:4])


def test_what_lives_in_a_bn_is_not_taken_out_with_it() -> None:
    network = after(Clamped(6))
    (site,) = find_sites(network, images(2))
    assert place(network, "1", example=images(2))
    with pytest.raises(PlacementError, match=f"{site.path} cannot be taken out: Clamped does more than BN"):
        place(network, "0", example=images(2))


@pytest.mark.parametrize(("norm", "dimensions"), [(nn.SyncBatchNorm(6), 2), (nn.BatchNorm3d(6), 3)], ids=["sync", "3d"])
def test_every_kind_of_bn_is_folded(norm: nn.Module, dimensions: int) -> None:
    network = after(norm, dimensions)
    example = images(4, 3, *[{2: 8, 3: 4}[dimensions]] * dimensions)
    folded = fold(network, example=example)
    assert not any(isinstance(module, type(norm)) for module in folded.modules())
    with torch.no_grad():
        assert torch.allclose(folded(example), network(example), atol=1e-5)


def test_complex_parameters_are_refused() -> None:
    network = after(nn.BatchNorm2d(6))
    network.register_parameter("filter", nn.Parameter(torch.zeros(3, dtype=torch.cfloat)))
    with pytest.raises(ModelError, match="filter is complex"):
        noise_curve(network, images(), torch.zeros(40, dtype=torch.int64), eta=[0.1], trials=1)


def test_neither_the_default_dtype_nor_a_train_that_gives_none_matters() -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> None:  # type: ignore[override]
            super().train(mode)

    torch.manual_seed(0)
    network = Frozen(nn.Flatten(), nn.Linear(192, 5))
    inputs = images()
    labels = own_answers(network, inputs)
    usual = str(noise_curve(network, inputs, labels, eta=[0.3], trials=3))
    torch.set_default_dtype(torch.float64)
    try:
        assert str(noise_curve(network, inputs, labels, eta=[0.3], trials=3)) == usual
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    "given",
    [images()[:0], images()[:1], (images() * 10).to(torch.uint8), images().numpy(), images(40, 3, 9, 9)],
    ids=["none", "one", "uint8", "numpy", "size"],
)
def test_bad_images_for_recalibration_are_refused(given: Tensor) -> None:
    network, inputs = after(nn.BatchNorm2d(6)), images()
    with pytest.raises(InputError, match="calibration_images must be"):
        noise_curve(
            network, inputs, own_answers(network, inputs), eta=[0.1], trials=1,
            bn_treatment="recalibrated", calibration_images=given,
        )  # fmt: skip
