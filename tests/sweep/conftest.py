"""Real sweeps on the embedded digits, small enough for seconds."""

import os

import pytest

from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec
from bnsweep.sweep.catalog import LocalCatalog
from bnsweep.sweep.progress import Silent
from bnsweep.sweep.run import run_sweep

# Before any test imports Ray, which reads it then: by itself it would start clusters under a token.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

TINY = """\
name: tiny
data: {source: digits, train_images: 200, test_images: 100}
models: resnet8
placements: [all, none]
train_seeds: 1
training: {epochs: 2, batch_size: 50, chance_epochs: null}
noise: {targets: [weights, all]}
eta: [0, 0.1, 0.3]
trials: 4
"""


@pytest.fixture
def tiny():
    return TINY


@pytest.fixture
def run(tmp_path):
    """Run a spec's text into a store; the summary."""

    def run_text(text, store, **options):
        plan = make_plan(parse_spec(text), LocalCatalog(tmp_path, allow_import=True))
        options = {"engine": "inline", "listener": Silent(), "data_root": tmp_path, **options}
        return run_sweep(plan, str(store), text=text, **options)

    return run_text
