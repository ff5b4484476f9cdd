"""All errors of a sweep file at once: those of its form and those that only a plan can find, each at its line."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bnsweep.errors import InputError, SpecError
from bnsweep.experiment.checking import plan_from_text
from bnsweep.experiment.reading import parse_spec
from bnsweep.experiment.remnant import remnant
from bnsweep.sweep.catalog import LocalCatalog

BROKEN = """\
nam: mine
data:
  - {source: "parquet:/nowhere"}
  - {source: digits, siz: 8}
models:
  - {names: x}
  - resnet21
  - resnet8
  - {name: resnet20, placements: [{first: 99}, {frst: 3}, {first: 30}]}
  - "import:nothing.here:make"
  - torchvision:resnt18
placements: [all, {first: 8}, {first: 10}]
trials: {half_width: 2}
eta: [0.1]
eta: [0.2]
"""


def problems_of(text, tmp_path, **options):
    with pytest.raises(SpecError, match="has .* problem") as caught:
        plan_from_text(text, LocalCatalog(tmp_path, allow_import=True), **options)
    return [(problem.line, problem.where, problem.message) for problem in caught.value.problems]


def test_form_names_placements_and_data_come_together_each_at_its_place(tmp_path):
    found = problems_of(BROKEN, tmp_path)
    places = [(line, where) for line, where, _ in found]
    assert places == [
        (1, "nam"),
        (1, "name"),
        (3, "data.0"),
        (4, "data.1.siz"),
        (6, "models.0.name"),
        (6, "models.0.names"),
        (7, "models.1"),
        (9, "models.3.placements.0"),
        (9, "models.3.placements.1"),
        (9, "models.3.placements.2"),
        (10, "models.4"),
        (11, "models.5"),
        (12, "placements.2"),
        (13, "trials.half_width"),
        (15, "eta"),
    ]
    messages = {where: message for _, where, message in found}
    assert "/nowhere: no such directory" in messages["data.0"]
    assert "unknown model 'resnet21'" in messages["models.1"]
    assert "'first-30' does not fit resnet20: it has 21 sites" in messages["models.3.placements.2"]
    assert "cannot import nothing.here" in messages["models.4"]
    assert "Did you mean 'resnet18'" in messages["models.5"]
    assert "'first-10' does not fit resnet8: it has 9 sites" in messages["placements.2"]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("name: a\ndata: nothing\nmodels: resnet21\n", [(2, "data.0"), (3, "models.0")]),
        ("name: a\nmodels: [resnet21]\n", [(1, "data"), (2, "models.0")]),
        ("name: a\ndata: {size: 8}\nmodels: resnet21\n", [(2, "data.0.source"), (3, "models.0")]),
        ("name: a\ndata: digits\nmodel: x\n", [(1, "models"), (3, "model")]),
        ("name: a\ndata: nothing\nmodels: 3\n", [(2, "data.0"), (3, "models.0")]),
        ("name: a\ndata: digits\nmodels: [resnet8, resnet8, resnet21]\n", [(3, "models"), (3, "models.2")]),
        ("name: a\ndata: digits\nmodels: resnet21\nimages: auto\n", [(3, "models.0"), (4, "images")]),
        ("name: a\ndata: digits\nmodels: resnet8\nimages: 500\ntrails: 3\n", [(4, "images"), (5, "trails")]),
        ("name: a\ndata: nothing\nmodels: torchvision:inception_v3\n", [(2, "data.0")]),
        (
            "name: a\ndata: digits\nmodels: resnet21\nnoise:\n- targets: [weights, all]\n- targets: [all, odd]\n",
            [(3, "models.0"), (6, "noise.3.targets")],
        ),
        ("nam: a\n", [(1, "data"), (1, "models"), (1, "nam"), (1, "name")]),
    ],
)
def test_nothing_hides_anything_else(tmp_path, text, places):
    assert [(line, where) for line, where, _ in problems_of(text, tmp_path)] == places


def test_files_of_another_layout_are_the_data_s_fault(tmp_path):
    table = pa.table({"picture": [1, 2], "label": [0, 1]})
    for half in ("train", "test"):
        pq.write_table(table, tmp_path / f"{half}.parquet")
    text = f"name: a\ndata: {{source: 'parquet:{tmp_path}'}}\nmodels: [resnet8, resnet21]\n"
    (line, where, message), model = problems_of(text, tmp_path)
    assert (line, where) == (2, "data.0")
    assert "has no column img or image" in message
    assert model[:2] == (3, "models.1")


def test_images_from_elsewhere_count_for_the_rest_of_a_broken_file_too(tmp_path):
    text = "name: a\ndata: cifar10\nmodels: resnet8\nimages: 500\ntrails: 3\n"
    assert [place for place, *_ in problems_of(text, tmp_path, images="digits")] == [4, 5]
    with pytest.raises(InputError, match="one source can stand in for one data set"):
        plan_from_text("name: a\ndata: [digits, cifar10]\nmodels: resnet8\n", LocalCatalog(tmp_path), images="digits")


def test_what_cannot_be_read_has_no_remnant_and_what_is_right_is_its_own():
    assert remnant("a: [") is None
    assert remnant("- a\n") is None
    text = "name: a\ndata: digits\nmodels: [resnet8, vgg-small]\n"
    left = remnant(text)
    assert left is not None
    assert left.spec.model_dump() == parse_spec(text).model_dump()
    assert not left.filled
