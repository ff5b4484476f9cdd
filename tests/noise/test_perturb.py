"""Draws: what they depend on, what they hit, and how large they are."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from bnsweep.errors import InputError, ModelError, UnknownNameError
from bnsweep.noise.perturb import _PIECE, BN_TREATMENTS, SIGMA_REFERENCES, TARGETS, Perturber, _Normals, standard_normal
from bnsweep.training.sites import ChannelBias
from tests.noise import plain


@dataclass(frozen=True)
class Cell:
    sigma_reference: str = "tensor_std"
    targets: str = "weights"
    bn_treatment: str = "stale"
    model: str = "gaussian"


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_a_draw_depends_on_seed_name_and_shape_alone():
    draw = standard_normal("conv.weight", (16, 3, 3, 3), seed=7)
    assert draw.shape == (16, 3, 3, 3)
    assert draw.dtype == torch.float32
    assert torch.equal(draw, standard_normal("conv.weight", (16, 3, 3, 3), seed=7))
    assert not torch.equal(draw, standard_normal("conv.bias", (16, 3, 3, 3), seed=7))
    # Seeds that share their low 32 bits are as different as any.
    assert not torch.equal(draw, standard_normal("conv.weight", (16, 3, 3, 3), seed=7 + 2**32))


def test_draws_of_a_gpu_do_not_depend_on_how_large_it_is():
    # Up to a number of elements that follows from its size a GPU fills all at once; no fill may be larger than that.
    normals, sizes = _Normals(torch.device("cpu")), []

    class Counted(torch.Generator):
        def manual_seed(self, seed):
            sizes.append(seed)
            return super().manual_seed(seed)

    normals._cuda = Counted()
    large, small = torch.empty(70_000), torch.empty(_PIECE)
    normals.fill(large, "a", 1)
    assert len(set(sizes)) == 3
    normals.fill(small, "a", 1)
    assert torch.equal(large[:_PIECE], small)
    pieces = large[: 2 * _PIECE].view(2, -1)
    assert abs(float(torch.corrcoef(pieces)[0, 1])) < 4 / _PIECE**0.5


def test_draws_are_standard_normal_and_independent():
    draws = np.stack([standard_normal("w", (20_000,), seed=seed).numpy() for seed in range(5)])
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-4
    # 5 standard errors of a correlation of 20,000 independent pairs
    correlation = np.corrcoef(draws) - np.eye(5)
    assert np.abs(correlation).max() < 5 / np.sqrt(20_000)


@pytest.mark.parametrize("sigma_reference", SIGMA_REFERENCES)
def test_noise_has_the_size_of_its_reference(trained, sigma_reference):
    eta, z = 0.1, []
    perturber = Perturber(trained.network, Cell(sigma_reference, "all"), example=trained.inputs[:2])
    ratio = perturber.perturb(eta, seed=11)
    written = perturber.network.state_dict()
    for name, (kind, tensor) in plain.kinds(trained.network).items():
        if not kind:
            assert torch.equal(written[name], tensor), name
            continue
        sigma = plain.reference(sigma_reference, tensor, trained.network)
        difference = (written[name].double() - tensor.detach().double()).numpy()
        assert not difference[sigma == 0].any()
        z.append((difference[sigma > 0] / sigma[sigma > 0]) / eta)
    z = np.concatenate(z)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.std() - 1) < 5 / np.sqrt(2 * z.size)
    assert ratio == pytest.approx(eta * np.sqrt(np.mean(z**2)), rel=1e-4)


@pytest.mark.parametrize("targets", TARGETS)
def test_a_target_set_hits_what_it_names(trained, targets):
    perturber = Perturber(trained.partial, Cell("absolute", targets), example=trained.inputs[:2])
    perturber.perturb(0.5, seed=2)
    written = perturber.network.state_dict()
    for name, (kind, tensor) in plain.kinds(trained.partial).items():
        changed = not torch.equal(written[name], tensor)
        assert changed == (kind in plain.HIT[targets]), name


def test_a_draw_starts_from_pristine_values_and_leaves_the_network_alone(trained):
    before = state(trained.network)
    perturber = Perturber(trained.network, Cell(targets="all"), example=trained.inputs[:2])
    perturber.perturb(0.3, seed=1)
    first = state(perturber.network)
    for eta, seed in ((0.4, 2), (0.01, 1), (0.3, 1)):
        perturber.perturb(eta, seed)
    assert all(torch.equal(tensor, first[name]) for name, tensor in perturber.network.state_dict().items())
    assert perturber.perturb(0.0, seed=5) == 0.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in perturber.network.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained.network.state_dict().items())


def test_one_draw_serves_every_eta_and_every_placement(trained):
    full, partial = trained.network, trained.partial
    noise = {}
    for label, network, eta in (("full", full, 0.2), ("louder", full, 0.4), ("partial", partial, 0.2)):
        perturber = Perturber(network, Cell("absolute", "weights+bias+affine"), example=trained.inputs[:2])
        perturber.perturb(eta, seed=9)
        pristine = network.state_dict()
        noise[label] = {
            n: (t - pristine[n]) / eta for n, t in perturber.network.state_dict().items() if t.is_floating_point()
        }
    assert all(torch.allclose(noise["louder"][n], t, atol=1e-5) for n, t in noise["full"].items())
    shared = {n for n, _ in partial.named_parameters()}
    biases = {n for n in shared if isinstance(partial.get_submodule(n.rpartition(".")[0]), ChannelBias)}
    assert biases  # a site has the same draw on its bias whether BN or ChannelBias stands there
    assert shared <= set(noise["full"])
    assert all(torch.allclose(noise["partial"][n], noise["full"][n], atol=1e-5) for n in shared)


def test_folded_noise_hits_folded_weights(trained):
    perturber = Perturber(trained.network, Cell("tensor_std", "weights+bias", "folded"), example=trained.inputs[:2])
    assert not any(isinstance(module, plain.BN) for module in perturber.network.modules())
    perturber.perturb(0.0, seed=0)
    with torch.no_grad():
        assert torch.allclose(perturber.network(trained.inputs), trained.network(trained.inputs), atol=1e-3)
    folded = copy.deepcopy(perturber.network)
    perturber.perturb(0.1, seed=4)
    expected = plain.noisy(folded, sigma_reference="tensor_std", targets="weights+bias", eta=0.1, seed=4)
    for name, tensor in perturber.network.state_dict().items():
        assert torch.allclose(tensor, expected.state_dict()[name], atol=1e-5), name


def test_recalibration_averages_the_statistics_of_all_batches(trained):
    batches = list(trained.training_inputs[:96].split(32))
    cell = Cell("tensor_std", "all", "recalibrated")
    perturber = Perturber(trained.network, cell, example=trained.inputs[:2], calibration=batches)
    perturber.perturb(0.2, seed=3)
    path, bn = next((n, m) for n, m in perturber.network.named_modules() if isinstance(m, nn.BatchNorm2d))
    seen = []
    hook = bn.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double()))
    with torch.no_grad():
        for batch in batches:
            perturber.network(batch)
    hook.remove()
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1, correction=1) for x in seen]).mean(0)
    assert torch.allclose(bn.running_mean.double(), mean, atol=1e-5), path
    assert torch.allclose(bn.running_var.double(), variance, rtol=1e-4), path
    assert not any(module.training for module in perturber.network.modules())


def test_recalibrating_a_network_without_bn_needs_no_images():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    perturber = Perturber(network, Cell(bn_treatment="recalibrated"), example=torch.zeros(2, 1, 2, 2))
    assert perturber.perturb(0.1, seed=0) > 0


@pytest.mark.parametrize("groups", [1, 2])
def test_channel_max_of_a_transposed_convolution_is_per_output_channel(groups):
    network = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=groups))
    perturber = Perturber(network, Cell("channel_max"), example=torch.zeros(1, 4, 5, 5))
    perturber.perturb(1.0, seed=0)
    weight = network[0].weight.detach().numpy()  # (inputs, outputs / groups, 3, 3)
    draw = standard_normal("0.weight", weight.shape, seed=0).numpy()
    got = (perturber.network[0].weight.numpy() - weight) / draw
    for group in range(groups):
        rows = slice(group * 4 // groups, (group + 1) * 4 // groups)
        for output in range(6 // groups):
            highest = np.abs(weight[rows, output]).max()
            assert np.allclose(got[rows, output], highest, rtol=1e-3)


def test_tied_weights_are_hit_once():
    network = nn.Sequential(nn.Linear(8, 8, bias=False), nn.ReLU(), nn.Linear(8, 8, bias=False))
    network[2].weight = network[0].weight
    perturber = Perturber(network, Cell("absolute"), example=torch.zeros(1, 8))
    assert perturber.perturb(0.1, seed=5) > 0
    expected = network[0].weight + 0.1 * standard_normal("0.weight", (8, 8), seed=5)
    assert torch.allclose(perturber.network[2].weight, expected, atol=1e-6)
    assert perturber.network[2].weight is perturber.network[0].weight


def test_computed_weights_are_hit_as_what_they_are():
    network = nn.Sequential(weight_norm(nn.Linear(6, 5)))
    weight = network[0].weight.detach().clone()
    perturber = Perturber(network, Cell("absolute"), example=torch.zeros(1, 6))
    perturber.perturb(0.1, seed=5)
    assert torch.allclose(
        perturber.network[0].weight, weight + 0.1 * standard_normal("0.weight", (5, 6), seed=5), atol=1e-6
    )


def test_a_kernel_that_hooks_compute_is_refused_with_the_way_out():
    pruned = nn.Sequential(nn.Linear(6, 5))
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    with torch.no_grad():
        pruned(torch.zeros(1, 6))  # now `weight` is a plain tensor, and the network can be copied
    with pytest.raises(ModelError, match=r"0: `weight` is computed from `weight_orig`.*prune.remove"):
        Perturber(pruned, Cell(), example=torch.zeros(1, 6))
    prune.remove(pruned[0], "weight")
    Perturber(pruned, Cell(), example=torch.zeros(1, 6))


def test_a_buffer_of_a_layer_is_no_weight():
    network = nn.Sequential(nn.Linear(6, 5))
    network[0].register_buffer("mask", torch.ones(5, 6))
    perturber = Perturber(network, Cell(targets="all"), example=torch.zeros(1, 6))
    perturber.perturb(0.1, seed=0)
    assert torch.equal(perturber.network[0].mask, torch.ones(5, 6))


def test_a_channel_that_has_all_but_vanished_is_left_out_of_the_measured_ratio():
    network = nn.Sequential(nn.Linear(64, 64, bias=False))
    with torch.no_grad():
        network[0].weight[0] = 1e-40  # whose inverse is infinite in fp32
    perturber = Perturber(network, Cell("channel_max"), example=torch.zeros(1, 64))
    assert perturber.perturb(0.1, seed=0) == pytest.approx(0.1, rel=0.1)


def test_attention_and_recurrent_weights_are_weights():
    network = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "memory": nn.LSTM(8, 4)})
    perturber = Perturber(network, Cell("absolute"), example=torch.zeros(1, 8))
    perturber.perturb(0.1, seed=0)
    changed = {n for n, t in perturber.network.named_parameters() if not torch.equal(t, network.get_parameter(n))}
    assert changed == {
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "memory.weight_ih_l0",
        "memory.weight_hh_l0",
    }


def test_a_diverged_network_is_perturbed_without_complaint():
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        network[0].weight.fill_(float("nan"))
    perturber = Perturber(network, Cell(), example=torch.zeros(1, 4))
    assert perturber.perturb(0.1, seed=0) == pytest.approx(0.1, abs=0.1)
    assert perturber.network[0].weight.isnan().all()


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ("sigma_reference", "sigma reference"),
        ("targets", "target set"),
        ("bn_treatment", "BN treatment"),
        ("model", "noise model"),
    ],
)
def test_unknown_names_are_refused_with_the_valid_ones(field, kind):
    with pytest.raises(UnknownNameError, match=f"unknown {kind} 'wheights'.*Valid: "):
        Perturber(nn.Linear(2, 2), Cell(**{field: "wheights"}), example=torch.zeros(1, 2))


def test_registries_name_what_a_spec_may_name():
    from bnsweep.experiment import vocabulary

    assert tuple(SIGMA_REFERENCES) == vocabulary.SIGMA_REFERENCES
    assert tuple(TARGETS) == vocabulary.TARGETS
    assert BN_TREATMENTS == vocabulary.TREATMENTS


def test_a_network_that_cannot_be_perturbed_says_why(trained):
    with pytest.raises(ModelError, match="no weights to perturb"):
        Perturber(nn.Sequential(nn.ReLU()), Cell(), example=torch.zeros(1, 2))
    with pytest.raises(ModelError, match="run one forward pass first"):
        Perturber(nn.LazyLinear(3), Cell(), example=torch.zeros(1, 2))
    with pytest.raises(InputError, match="needs calibration inputs"):
        Perturber(trained.network, Cell(bn_treatment="recalibrated"), example=trained.inputs[:2])
    before_activation = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    with pytest.raises(ModelError, match="cannot be folded"):
        Perturber(before_activation, Cell(bn_treatment="folded"), example=torch.zeros(2, 3))
    stuck = nn.Linear(2, 2)
    stuck.cache = stuck(torch.zeros(1, 2))
    with pytest.raises(ModelError, match="cannot be copied"):
        Perturber(stuck, Cell(), example=torch.zeros(1, 2))
    with warnings.catch_warnings(action="ignore"):  # it is deprecated, and still met
        scripted = torch.jit.script(nn.Linear(2, 2))
    with pytest.raises(ModelError, match="the network was scripted or traced"):
        Perturber(scripted, Cell(), example=torch.zeros(1, 2))
