"""The sweep that a search's front is written to can be read, and is about the same networks."""

import pytest
import yaml

from bnsweep.errors import InputError
from bnsweep.experiment.reading import parse_spec
from bnsweep.sweep.search.emit import front_sweep

PLAIN = """\
name: s
data: digits
models: resnet8
training: {schedule: SCHEDULE}
search: {}
"""
SCHEDULES = (
    "{kind: cosine}",
    "{kind: cosine, warmup: 0.1}",
    "{kind: constant}",
    "{kind: step}",
    "{kind: step, milestones: [0.3], factors: [0.5]}",
)
FULL = """\
name: s
data: [{source: digits, name: small, size: 8}, {source: digits, name: large, size: 16}]
models: [resnet8, {name: resnet20, training: {epochs: 3, schedule: {kind: constant}}}]
train_seeds: [7, 1]
training: {epochs: 4, schedule: {kind: step}, augment: {}}
noise: [{targets: [weights, all]}, {bn_treatment: recalibrated, recalibration_images: 50}]
eta: [0, 0.000001, 0.1]
trials: {half_width: 0.02}
images: auto
noise_seed: 3
evaluation: {precision: bf16}
resources: {train: {cpu: 2}, trial: {cpu: 0, gpu: 0.5}}
probes: {}
search: {sampler: tpe, early_stopping: {grace_epochs: 1}, minimal: {places: 2}}
"""
MASK = "101010101"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_front_is_trained_by_the_searchs_schedule(schedule):
    spec = parse_spec(PLAIN.replace("SCHEDULE", schedule))
    emitted = parse_spec(front_sweep(spec, {("digits", "resnet8"): [MASK]}, seeds=2))
    assert emitted.training == spec.training


def test_what_a_search_says_by_default_is_not_written():
    spec = parse_spec(PLAIN.replace("SCHEDULE", "{kind: cosine}"))
    text = front_sweep(spec, {("digits", "resnet8"): [MASK]}, seeds=2)
    assert set(yaml.safe_load(text)) == {"name", "description", "data", "models", "train_seeds", "eta"}


def test_the_front_has_all_else_of_the_search():
    """Also what is told by its form or its kind, and a mapping that says nothing."""
    spec = parse_spec(FULL)
    emitted = parse_spec(front_sweep(spec, {("small", "resnet8"): [MASK], ("large", "resnet20"): ["1" * 19]}, seeds=3))
    for name in ("data", "training", "noise", "eta", "trials", "images", "noise_seed", "evaluation"):
        assert getattr(emitted, name) == getattr(spec, name), name
    assert (emitted.resources, emitted.probes) == (spec.resources, spec.probes)
    assert [(model.name, model.training) for model in emitted.models] == [(m.name, m.training) for m in spec.models]
    assert emitted.train_seeds == (7, 1, 0)
    assert [placement.label for model in emitted.models for placement in model.placements] == [MASK, "all"]
    assert not emitted.is_search


def test_a_search_without_a_front_says_what_to_do():
    with pytest.raises(InputError, match=r"'s' has no front yet; run it first: bnsweep search FILE"):
        front_sweep(parse_spec(PLAIN.replace("SCHEDULE", "{kind: step}")), {("digits", "resnet8"): []}, seeds=2)
