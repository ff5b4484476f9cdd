"""One entry of a sweep file is changed, and nothing else."""

import pytest
import yaml

from bnsweep.errors import InputError
from bnsweep.experiment.editing import entry, with_entry
from bnsweep.experiment.files import read_text, ready_specs
from bnsweep.experiment.reading import parse_spec

FILE = """\
# what this is
name: mine
data: digits
models: [resnet8]  # one is enough
placements:
- all
- {first: 3}  # why
training:
    epochs: 10  # short
noise:
  - targets: [weights, all]
trials: 8
"""


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("name", "mine"),
        ("models", "[resnet8]"),
        ("placements", "all, {first: 3}"),
        ("training", "{epochs: 10}"),
        ("training.epochs", "10"),
        ("training.batch_size", None),
        ("noise.targets", None),
        ("eta", None),
    ],
)
def test_an_entry_in_one_line(path, shown):
    assert entry(FILE, path.split(".")) == shown


@pytest.mark.parametrize(
    ("path", "value", "lines"),
    [
        ("name", "other", {"name: other"}),
        ("placements", "none", {"placements: none  # why"}),
        ("placements", "none, {every: 2}", {"placements: [none, {every: 2}]  # why"}),
        ("training.epochs", "3", {"    epochs: 3  # short"}),
        ("training.batch_size", "64", {"    batch_size: 64"}),
        ("eta", "0, 0.5", {"eta: [0, 0.5]"}),
        ("evaluation.precision", "bf16", {"evaluation: {precision: bf16}"}),
        ("trials", "{half_width: 0.01}", {"trials: {half_width: 0.01}"}),
    ],
)
def test_an_entry_is_changed_and_nothing_else(path, value, lines):
    changed = with_entry(FILE, path.split("."), value)
    assert set(changed.splitlines()) - set(FILE.splitlines()) == lines
    before, after = yaml.safe_load(FILE), yaml.safe_load(changed)
    assert {key for key in before | after if before.get(key) != after.get(key)} == {path.partition(".")[0]}


@pytest.mark.parametrize("name", ready_specs())
def test_what_is_read_can_be_written_back(name):
    text = read_text(name)
    for path in (("name",), ("placements",), ("eta",), ("training", "epochs"), ("train_seeds",)):
        value = entry(text, path)
        if value is not None:
            assert parse_spec(with_entry(text, path, value)) == parse_spec(text)


@pytest.mark.parametrize(
    ("path", "value", "error"),
    [
        ("trials", "]", "'\\]' is not a value as a sweep file has them"),
        ("trials", "8 # much", "'8 # much' is not a value"),
        ("trials", "8\nname: x", "is not a value"),
        ("trials", "&a 8", "is not a value"),
        ("trials", "", "trials cannot be '' here"),
        ("name.first", "x", "name.first cannot be set here: write it into the file itself"),
        ("noise.targets", "all", "noise.targets cannot be set here"),
    ],
)
def test_what_is_no_value_is_refused(path, value, error):
    with pytest.raises(InputError, match=error):
        with_entry(FILE, path.split("."), value)
