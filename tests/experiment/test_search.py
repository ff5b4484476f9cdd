"""Search files: what is said of wrong ones, and what a study starts from."""

from dataclasses import replace
from pathlib import Path

import pytest

from bnsweep.errors import SpecError
from bnsweep.experiment.files import ready_specs
from bnsweep.experiment.plan import make_plan
from bnsweep.experiment.reading import parse_spec, read_spec
from bnsweep.experiment.search import SearchSpec, known_placements, subjects
from bnsweep.sweep.catalog import LocalCatalog

SEARCH = """\
name: s
data: {source: digits, size: 8}
models: resnet8
eta: [0, 0.1]
search: {SEARCH}
"""


def spec(search="trainings: 5"):
    return parse_spec(SEARCH.replace("SEARCH", search))


def found(text):
    return subjects(parse_spec(text), LocalCatalog(Path()))


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("objectives: []", r"line 5: search.objectives: a search needs at least one objective of accuracy, .*got none"),
        ("objectives: [speed]", r"line 5: search.objectives: the rows have no objective 'speed'; there are accuracy"),
        ("objectives: ['kept:x']", r"the rows have no objective 'kept:x'"),
        ("objectives: [kept, kept]", r"`objectives` names one twice"),
        ("objectives: ['average_normalized:a/b/c']", r"no such noise cell; there are tensor_std/weights/stale"),
        ("sampler: annealing", r"search.sampler: .*'surrogate', 'tpe'"),
        ("tries: 3", r"search.tries: unknown key; valid keys here: objectives, sampler"),
        ("early_stopping: {}", r"search.early_stopping.grace_epochs: this key is required"),
    ],
)
def test_what_is_wrong_with_a_search_is_said(search, message):
    with pytest.raises(SpecError, match=message):
        spec(search)


def test_an_objective_needs_rows_to_be_made_from():
    with pytest.raises(SpecError, match="has average_normalized, but `eta` has no level above 0; add one"):
        parse_spec(SEARCH.replace("SEARCH", "").replace("[0, 0.1]", "0"))
    assert parse_spec(SEARCH.replace("SEARCH", "objectives: accuracy").replace("[0, 0.1]", "0"))


def test_networks_that_cannot_be_searched_are_refused_with_the_way_out():
    large = SEARCH.replace("size: 8", "size: 64")
    with pytest.raises(SpecError, match=r"models.0: torchvision:alexnet has no BN layer, .*take a network with BN"):
        found(large.replace("resnet8", "torchvision:alexnet").replace("SEARCH", ""))
    with pytest.raises(SpecError, match=r"resnet8 has 9 sites, hence 512 placements, and most_placements is 511"):
        found(SEARCH.replace("SEARCH", "sampler: exhaustive, most_placements: 511"))
    assert found(SEARCH.replace("SEARCH", "sampler: exhaustive, most_placements: 512, trainings: 512"))
    with pytest.raises(SpecError, match=r"hence 512 placements, and trainings is 60; raise it, or choose another"):
        found(SEARCH.replace("SEARCH", "sampler: exhaustive"))
    with pytest.raises(SpecError, match=r"search.trainings: a search has at most 200,000 trainings"):
        found(SEARCH.replace("resnet8", "resnet20").replace("SEARCH", "trainings: 1_000_000"))
    two = "[resnet8, {name: resnet8, training: {epochs: 1}}]"
    with pytest.raises(SpecError, match="`models` names resnet8 twice; a search has one study per network"):
        parse_spec(SEARCH.replace("models: resnet8", "models: " + two).replace("SEARCH", ""))


def test_two_cells_of_one_name_are_no_objective():
    noise = "noise: {bn_treatment: recalibrated, recalibration_images: [2, 128]}\neta:"
    two = SEARCH.replace("eta:", noise)
    with pytest.raises(SpecError, match="several noise cells are called so: they differ in `recalibration_images`"):
        parse_spec(two.replace("SEARCH", "objectives: ['average_normalized:tensor_std/weights/recalibrated']"))
    assert parse_spec(two.replace("SEARCH", "objectives: [average_normalized, kept]"))


def test_a_search_knows_how_many_trainings_there_are_at_most():
    (subject,) = found(SEARCH.replace("SEARCH", "trainings: 5000").replace("eta:", "train_seeds: 3\neta:"))
    assert subject.trainings == 3 * 2**9
    (subject,) = found(SEARCH.replace("SEARCH", "trainings: 50"))
    assert subject.trainings == 50


def test_the_known_placements_of_a_network_are_those_that_fit_it():
    (subject,) = found(SEARCH.replace("SEARCH", ""))
    single = replace(subject.architecture, sites=subject.architecture.sites[:1])
    assert [each.label for each in known_placements(single)] == ["all", "none", "first-1", "last-1", "stages-1"]
    # A network's own placements stand instead of the file's, as in a sweep.
    text = SEARCH.replace("SEARCH", "").replace("models: resnet8", "models: {name: resnet8, placements: [all]}")
    assert found(text.replace("eta:", "placements: [{first: 99}]\neta:"))


def test_a_search_is_no_sweep():
    with pytest.raises(SpecError, match="this file describes a search, not a sweep; run it with: bnsweep search FILE"):
        make_plan(spec(), LocalCatalog(Path()))


def test_known_placements_come_first_and_once():
    text = SEARCH.replace("SEARCH", "").replace("eta:", "placements: [{first: 3}]\neta:")
    (subject,) = found(text)
    assert list(subject.known.items()) == [
        ("111000000", "first-3"),  # the file's own; also the first stage
        ("111111111", "all"),
        ("000000000", "none"),
        ("100000000", "first-1"),
        ("000000001", "last-1"),
        ("101010101", "every-2"),
        ("000001001", "shortcuts"),
        ("000111000", "stages-2"),
        ("000000111", "stages-3"),
    ]


def test_a_network_without_shortcuts_has_no_placement_of_them():
    (subject,) = found(SEARCH.replace("resnet8", "vgg-small").replace("SEARCH", ""))
    assert "shortcuts" not in subject.known.values()


def test_a_run_of_a_search_is_that_of_a_sweep():
    (subject,) = found(SEARCH.replace("SEARCH", ""))
    plan = make_plan(
        parse_spec(SEARCH.replace("search: {SEARCH}", "placements: ['110000000']\ntrain_seeds: [3]")),
        LocalCatalog(Path()),
    )
    assert subject.run("110000000", 3) == plan.runs[0]


def test_only_words_machines_and_length_may_change_within_a_study():
    before = spec().identity()
    assert before == spec("trainings: 500").identity()
    assert before != spec("trainings: 5, sampler: tpe").identity()
    assert before == parse_spec(SEARCH.replace("SEARCH", "trainings: 5") + "description: other words\n").identity()
    assert before != parse_spec(SEARCH.replace("SEARCH", "trainings: 5") + "train_seeds: 3\n").identity()


def test_the_ready_search_can_be_read():
    parsed, _ = read_spec("placement-search")
    assert "placement-search" in ready_specs()
    assert isinstance(parsed, SearchSpec)
