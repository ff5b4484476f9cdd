"""Sizes and sites against figures derived by hand, and every network on both kinds of image."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import register_parametrization

from bnsweep.errors import ModelError, UnknownNameError
from bnsweep.training.images import DataShape
from bnsweep.training.initial import KERNEL_LAYERS, initialise
from bnsweep.training.models import MODELS, build, describe
from bnsweep.training.origin import located, origin
from bnsweep.training.sites import BATCH_NORM, find_sites

CIFAR = DataShape(3, 32, 10)
DIGITS = DataShape(1, 16, 10)


def resnet_by_hand(blocks: tuple[int, ...], width: int) -> tuple[int, int]:
    """Parameters and sites for 3 channels and 10 classes, from the definition.

    Stem: 27 w weights. A block with c channels: 9 c_in c + 9 c^2. A projection: c_in c. Each convolution's BN: 2 c.
    Output: 10 c + 10.
    """
    parameters, sites, channels_in = 27 * width + 2 * width, 1, width
    for stage, count in enumerate(blocks):
        channels = width * 2**stage
        for index in range(count):
            inner = channels_in if index == 0 else channels
            parameters += 9 * inner * channels + 9 * channels**2 + 2 * 2 * channels
            sites += 2
            if inner != channels:
                parameters += inner * channels + 2 * channels
                sites += 1
        channels_in = channels
    return parameters + 10 * channels_in + 10, sites


@pytest.mark.parametrize(
    ("name", "blocks", "width"),
    [
        ("resnet8", (1, 1, 1), 16),
        ("resnet20", (3, 3, 3), 16),
        ("resnet32", (5, 5, 5), 16),
        ("resnet36", (6, 6, 5), 16),
        ("resnet44", (7, 7, 7), 16),
        ("resnet56", (9, 9, 9), 16),
        ("resnet110", (18, 18, 18), 16),
        ("resnet18", (2, 2, 2, 2), 64),
        ("resnet34", (3, 4, 6, 3), 64),
    ],
)
def test_resnets_have_the_size_of_their_definition(name, blocks, width):
    architecture = describe(name, CIFAR)
    assert (architecture.parameters, len(architecture.sites)) == resnet_by_hand(blocks, width)
    assert sum(site.shortcut for site in architecture.sites) == len(blocks) - 1
    assert {site.stage for site in architecture.sites} == set(range(1, len(blocks) + 1))


def test_resnet20_line_by_line():
    # stem 3*16*9 = 432; stage 1: 6 * 16*16*9 = 13,824; stage 2: 16*32*9 + 5 * 32*32*9 = 50,688, projection 512;
    # stage 3: 32*64*9 + 5 * 64*64*9 = 202,752, projection 2,048; BN: 2 * (7*16 + 7*32 + 7*64) = 1,568; output 650.
    by_hand = 432 + 13_824 + 50_688 + 512 + 202_752 + 2_048 + 1_568 + 650
    assert by_hand == 272_474
    # The same sums without BN and output, times the 1024, 256 or 64 places at which a kernel is applied.
    products = (432 + 13_824) * 1024 + (50_688 + 512) * 256 + (202_752 + 2_048) * 64 + 640
    architecture = describe("resnet20", CIFAR)
    assert (architecture.parameters, architecture.multiply_adds) == (by_hand, products)


def test_resnet18_has_the_known_size_of_its_cifar_form():
    assert describe("resnet18", CIFAR).parameters == 11_173_962  # kuangliu/pytorch-cifar's ResNet18


def test_vgg16_line_by_line():
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    kernels = sum(9 * a * b for a, b in pairwise(widths)) + 2 * 512 * 512
    norms = 2 * (sum(widths[1:]) + 2 * 512)
    architecture = describe("vgg16", CIFAR)
    assert architecture.parameters == kernels + norms + 512 * 10 + 10
    assert len(architecture.sites) == 13 + 2
    # Five resolutions of convolutions, then the linear layers, which have none.
    assert [site.stage for site in architecture.sites] == [1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6, 6]


def test_vgg_small_line_by_line():
    kernels = 9 * (3 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128) + 128 * 128
    norms = 2 * (2 * 32 + 2 * 64 + 2 * 128 + 128)
    architecture = describe("vgg-small", CIFAR)
    assert (architecture.parameters, len(architecture.sites)) == (kernels + norms + 128 * 10 + 10, 7)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shape", [CIFAR, DIGITS], ids=["32x32x3", "16x16x1"])
def test_every_convolution_and_hidden_linear_has_a_site_and_no_bias(name, shape):
    with torch.device("meta"):
        network = MODELS[name](shape)
        sites = find_sites(network, torch.zeros(2, shape.channels, shape.size, shape.size))
    kernels = [module for module in network.modules() if isinstance(module, KERNEL_LAYERS)]
    assert len(sites) == len(kernels) - 1
    biased = [path for path, module in network.named_modules() if getattr(module, "bias", None) is not None]
    assert [path for path in biased if not isinstance(network.get_submodule(path), BATCH_NORM)] == ["output"]
    assert len(describe(name, shape).sites) == len(sites)


@pytest.mark.parametrize("name", ["resnet8", "resnet20", "vgg-small"])
@pytest.mark.parametrize("shape", [CIFAR, DIGITS], ids=["32x32x3", "16x16x1"])
def test_small_networks_run_forward_and_backward(name, shape):
    network = build(name, shape, seed=0)
    logits = network(torch.randn(4, shape.channels, shape.size, shape.size))
    logits.square().sum().backward()
    assert logits.shape == (4, 10)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_site_names_are_readable():
    paths = [site.path for site in describe("resnet8", CIFAR).sites]
    assert paths[:3] == ["stem.site", "stages.0.0.site1", "stages.0.0.site2"]
    assert paths[-1] == "stages.2.0.shortcut.site"
    assert [site.path for site in describe("vgg-small", CIFAR).sites][-2:] == ["groups.2.1.site", "hidden.0.site"]


def test_initial_values_depend_on_seed_and_name_alone():
    small, large, other = (
        build(name, DIGITS, seed=seed) for name, seed in (("resnet8", 3), ("resnet20", 3), ("resnet8", 4))
    )
    shared = "stages.0.0.conv1.weight"
    assert torch.equal(small.get_parameter(shared), large.get_parameter(shared))
    assert not torch.equal(small.get_parameter(shared), other.get_parameter(shared))
    assert not torch.equal(small.get_parameter(shared), small.get_parameter("stages.0.0.conv2.weight"))


@pytest.mark.parametrize(("init", "variance"), [("glorot_uniform", 2 / (64 * 9 + 64 * 9)), ("he_normal", 2 / (64 * 9))])
def test_kernels_have_the_variance_of_their_initialiser(init, variance):
    kernel = build("resnet20", DIGITS, seed=1, init=init).get_parameter("stages.2.1.conv1.weight").detach().double()
    # 36,864 draws: the sample variance is within 5 of its standard deviations, at most sqrt(2 / n) of itself.
    assert float(kernel.var()) == pytest.approx(variance, rel=5 * (2 / kernel.numel()) ** 0.5)
    assert abs(float(kernel.mean())) < 5 * (variance / kernel.numel()) ** 0.5


def test_a_transposed_convolution_s_inputs_are_counted_as_such():
    # 64 channels in, 4 groups, windows of 9: each output has 16 x 9 inputs.
    network = nn.Sequential(nn.ConvTranspose2d(64, 32, 3, groups=4))
    initialise(network, "he_normal", seed=0)
    kernel = network[0].weight.detach().double()
    assert float(kernel.var()) == pytest.approx(2 / (16 * 9), rel=5 * (2 / kernel.numel()) ** 0.5)


def test_a_computed_kernel_is_initialised_through_what_gives_it():
    plain, normed = nn.Sequential(nn.Linear(8, 4)), nn.Sequential(weight_norm(nn.Linear(8, 4)))
    for network in (plain, normed):
        initialise(network, "glorot_uniform", seed=3)
    torch.testing.assert_close(normed[0].weight, plain[0].weight)

    class Doubled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    odd = nn.Sequential(nn.Linear(8, 4))
    register_parametrization(odd[0], "weight", Doubled())
    with pytest.raises(ModelError, match="the kernel of 0 cannot be given initial values: .*a right_inverse"):
        initialise(odd, "glorot_uniform", seed=3)


def test_bn_takes_epsilon_and_momentum():
    network = build("torchvision:resnet18", CIFAR, seed=0, bn_epsilon=0.5, bn_momentum=0.25)
    assert {(m.eps, m.momentum) for m in network.modules() if isinstance(m, BATCH_NORM)} == {(0.5, 0.25)}


def test_torchvision_stems_fit_small_images():
    resnet = build("torchvision:resnet18", DIGITS, seed=0)
    assert (resnet.conv1.kernel_size, resnet.conv1.stride, resnet.conv1.in_channels) == ((3, 3), (1, 1), 1)
    assert isinstance(resnet.maxpool, nn.Identity)
    # So adapted it is the CIFAR form of resnet18.
    assert describe("torchvision:resnet18", CIFAR).parameters == describe("resnet18", CIFAR).parameters
    assert describe("torchvision:resnet18", DataShape(3, 64, 1000)).parameters == 11_689_512  # torchvision's own figure


def test_torchvision_names_are_checked():
    every = "'resnet101' or 'resnet152' or 'resnet18' or 'resnet34' or 'resnet50'"
    for name in ("resnet", "resnt"):
        with pytest.raises(UnknownNameError, match=rf"Did you mean {every}\? Valid: "):
            describe(f"torchvision:{name}", CIFAR)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'googlenet'\? Valid: "):
        describe("torchvision:googlnet", CIFAR)
    with pytest.raises(UnknownNameError, match=r"unknown torchvision architecture 'resnet19'. Valid: "):
        build("torchvision:resnet19", CIFAR, seed=0)
    with pytest.raises(ModelError, match="does not take 1x16x16 images"):
        describe("torchvision:convnext_tiny", DIGITS)


def test_unknown_model_names_the_valid_ones():
    with pytest.raises(UnknownNameError, match=r"unknown model 'resnet21'.*vgg16, torchvision:NAME"):
        describe("resnet21", CIFAR)


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\n"
        "def small(classes, channels, size):\n"
        "    return nn.Sequential(nn.Conv2d(channels, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(),\n"
        "                         nn.Linear(4 * (size - 2) ** 2, classes))\n"
        "def five(classes, channels, size):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, 5))\n"
        "def wrong(**_):\n    return 'a network'\n"
        "def failing(**_):\n    raise KeyError('weights')\n"
        "class Nameless(nn.Module):\n"
        "    def forward(self, images):\n"
        "        return self.body(images)\n"
        "def nameless(**_):\n    return Nameless()\n"
        "def scripted(**_):\n"
        "    import torch, warnings\n"
        "    with warnings.catch_warnings(action='ignore'):\n"  # it is deprecated, and still met
        "        return nn.Sequential(nn.Flatten(), torch.jit.script(nn.Linear(2, 2)))\n"
        "def lazy(**_):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(10))\n"
        "ready = nn.Linear(2, 2)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own_module")
def test_a_network_of_ones_own():
    architecture = describe("import:own_networks:small", DIGITS, allow_import=True)
    assert architecture.parameters == 9 * 4 + 2 * 4 + 4 * 14**2 * 10 + 10
    assert [site.path for site in architecture.sites] == ["1"]
    first, second = (build("import:own_networks:small", DIGITS, seed=s, allow_import=True) for s in (0, 0))
    assert torch.equal(first[3].weight, second[3].weight)


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("own_networks:wrong", "must return a torch.nn.Module, but returned str"),
        ("own_networks:failing", r"the factory failed: KeyError: 'weights' \(.*/own_networks.py:10, in failing\)"),
        ("own_networks:nameless", r"AttributeError: .* 'body' \(.*/own_networks.py:13, in forward\)\. Set"),
        ("own_networks:scripted", "1 of import:own_networks:scripted was scripted or traced, which hides its layers"),
        ("own_networks:lazy", "import:own_networks:lazy has lazy parameters without values; run one forward pass"),
        ("own_networks:ready", "'ready' is a network; name a function that makes a new one each time: def make"),
        ("own_networks:absent", "has no function 'absent'"),
        ("own_networks:five", r"must return logits of shape \(images, 10\), but returns \(2, 5\)"),
        ("no_such_module:f", "cannot import no_such_module"),
        ("own_networks", "must have the form import:PACKAGE.MODULE:FACTORY"),
    ],
)
def test_what_can_be_wrong_with_it(target, message):
    with pytest.raises(ModelError, match=message):
        describe(f"import:{target}", DIGITS, allow_import=True)


def test_the_place_of_an_error_travels_without_its_traceback():
    def trouble():
        torch.zeros(2) @ torch.zeros(3)

    with pytest.raises(RuntimeError) as caught, located():
        trouble()
    travelled = pickle.loads(pickle.dumps(caught.value))
    line = trouble.__code__.co_firstlineno + 1
    assert travelled.__traceback__ is None
    assert origin(travelled) == f" (training/test_models.py:{line}, in trouble)"
    with pytest.raises(ModelError) as ours, located():
        describe("import:nothing", DIGITS)
    assert origin(ValueError("never raised")) == ""
    assert not hasattr(ours.value, "bnsweep_origin")


@pytest.mark.usefixtures("own_module")
def test_import_runs_nothing_unless_allowed():
    for refused in (build, describe):
        with pytest.raises(ModelError, match="allowed from the command line only"):
            refused("import:own_networks:small", DIGITS)
