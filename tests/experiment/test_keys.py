"""What `bnsweep spec --keys` says, against what a spec takes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import yaml

from bnsweep.errors import SpecError, UnknownNameError
from bnsweep.experiment.files import ready_specs
from bnsweep.experiment.keys import keys, keys_named
from bnsweep.experiment.reading import parse_spec

SMALL = {"name": "a", "data": "digits", "models": {"name": "resnet8"}}
NEEDED = {  # beside what is tried
    "models": {"name": "resnet8"},
    "trials": {"half_width": 0.01},
    "search.early_stopping": {"grace_epochs": 1},
}
KEYS = {key.name: key for key in keys()}


def written(name: str, value: Any) -> str:
    """A sweep file with a value under a key."""
    content: dict[str, Any] = deepcopy(SMALL)
    inner, path = content, name.split(".")
    for depth, word in enumerate(path[:-1], start=1):
        inner = inner.setdefault(word, dict(NEEDED.get(".".join(path[:depth]), {})))
    inner[path[-1]] = value
    return yaml.safe_dump(content)


def test_every_key_says_what_it_takes_and_means():
    assert all(key.takes and key.meaning for key in KEYS.values())
    assert [key.name for key in KEYS.values() if key.required and "." not in key.name] == ["name", "data", "models"]


@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if key.default and not key.required])
def test_a_default_that_is_written_changes_nothing(name):
    if name.startswith(("training.schedule.", "training.augment.")):  # whose own default is another
        return
    parent = name.rpartition(".")[0]
    bare = written(parent, NEEDED.get(parent, {})) if parent else yaml.safe_dump(SMALL)
    assert parse_spec(written(name, yaml.safe_load(KEYS[name].default))) == parse_spec(bare)


@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if " | " in key.takes and " or " not in key.takes])
def test_the_values_told_are_those_that_are_taken(name):
    for value in KEYS[name].takes.split(" | "):
        parse_spec(written(name, value))
    with pytest.raises(SpecError, match=name.rpartition(".")[2]):
        parse_spec(written(name, "another"))


@pytest.mark.parametrize(
    ("name", "takes", "refused"),
    [
        ("training.epochs", "a whole number, >= 0, <= 100,000", (-1, 100_001)),
        ("training.bn_epsilon", "a number, > 0, <= 1", (0, 1.5)),
        ("eta", "a list of: a number, >= 0, <= 100", ([-1], [101])),
    ],
)
def test_ranges_are_those_that_hold(name, takes, refused):
    assert KEYS[name].takes == takes
    for value in refused:
        with pytest.raises(SpecError, match="but got|number"):
            parse_spec(written(name, value))


@pytest.mark.parametrize("ready", ready_specs())
def test_every_key_of_the_ready_sweeps_is_told(ready):
    def used(content: Any, path: str) -> set[str]:
        path = path.removeprefix("models.") if path.startswith("models.training") else path
        if isinstance(content, list):
            return {name for each in content for name in used(each, path)}
        if not isinstance(content, dict) or path.endswith("placements"):
            return {path}
        return {path}.union(*(used(value, f"{path}.{key}".lstrip(".")) for key, value in content.items()))

    assert used(yaml.safe_load(ready_specs()[ready].read_text()), "") <= {"", *KEYS}


def test_a_key_is_found_by_its_last_word_too():
    assert [key.name for key in keys_named("schedule")] == [key.name for key in keys_named("training.schedule")]
    assert {key.name for key in keys_named("precision")} == {"training.precision", "evaluation.precision"}
    assert [key.name for key in keys_named("images")] == ["images"]
    for name, meant in (("trails", "trials"), ("epoch", "epochs"), ("training.epoch", "training.epochs")):
        with pytest.raises(UnknownNameError, match=f"unknown key '{name}'. Did you mean '{meant}'"):
            keys_named(name)
