"""What a driver knows of tasks without torch."""

import torch

from bnsweep.sweep.tasks import versions


def test_the_torch_of_a_row_is_the_one_that_computes():
    assert f" torch {torch.__version__}, " in versions()
