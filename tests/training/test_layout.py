"""The built-in networks on paper against the networks themselves."""

import pytest

from bnsweep.training.images import DataShape
from bnsweep.training.layout import LAYOUTS, layout_of
from bnsweep.training.models import describe

# CIFAR, digits, sides that do not halve evenly, and one that several stages share.
SHAPES = [DataShape(3, 32, 10), DataShape(1, 8, 10), DataShape(4, 33, 7), DataShape(1, 2, 2)]


@pytest.mark.parametrize("name", LAYOUTS)
def test_paper_and_network_agree_on_sites_size_and_signature(name):
    for shape in SHAPES if name != "resnet110" else SHAPES[:1]:
        assert layout_of(name, shape) == describe(name, shape)
