"""The common entries of a sweep file as a form. What is filled in is written into the file; the rest stays there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bnsweep.errors import InputError, SpecError
from bnsweep.experiment.editing import entry, with_entry
from bnsweep.experiment.vocabulary import SIGMA_REFERENCES, TARGETS

__all__ = ["FIELDS", "Field", "fields_of", "written"]


@dataclass(frozen=True, slots=True)
class Field:
    """One entry. `default`: what holds where the file says nothing; empty: the file must say it."""

    name: str
    path: tuple[str, ...]
    label: str
    hint: str
    default: str = ""
    choices: tuple[str, ...] = ()  # to begin with; anything may be typed


FIELDS = (
    Field("name", ("name",), "Name", "a name of your own begins a new sweep"),
    Field("data", ("data",), "Images", "one or several", choices=("digits", "cifar10", "cifar100")),
    Field("models", ("models",), "Networks", "one or several; bnsweep models lists them"),
    Field(
        "placements", ("placements",), "BN stays at", "one or several: all, none, {first: 3}, {every: 2}, ...",
        "all, none", ("all, none", "all, {first: 3}, none", "shortcuts", "{every: 2}"),
    ),
    Field("train_seeds", ("train_seeds",), "Training seeds", "how many; a list in brackets", "1"),
    Field("epochs", ("training", "epochs"), "Epochs", "passes over the training images", "30"),
    Field("batch_size", ("training", "batch_size"), "Batch size", "images per step", "128"),
    Field("learning_rate", ("training", "learning_rate"), "Learning rate", "at the beginning", "0.001"),
    Field("targets", ("noise", "targets"), "Noise on", "one or several", "weights", TARGETS),
    Field(
        "sigma_reference", ("noise", "sigma_reference"), "Noise scale", "what η multiplies", "tensor_std",
        SIGMA_REFERENCES,
    ),
    Field("eta", ("eta",), "Noise levels η", "fractions of the noise scale", "0, 0.01, 0.1, 0.2, 0.3, 0.4"),
    Field("trials", ("trials",), "Trials per point", "a number, or {half_width: 0.01}", "10"),
)  # fmt: skip


def fields_of(text: str) -> list[dict[str, Any]]:
    """The form for a file: each field with the value that the file has. None of them if the file is not YAML."""
    try:
        return [{"field": field, "value": entry(text, field.path) or ""} for field in FIELDS]
    except SpecError:
        return []


def written(text: str, *, was: str, given: Sequence[tuple[str, str]]) -> str:
    """The file with what somebody changed in its form.

    `was`: the file that the form was filled from; `given`: names of fields and what stands there now.
    Raises SpecError: the file is not YAML. InputError: a value is none.
    """
    before = {each["field"].name: each["value"] for each in fields_of(was)}
    known = {field.name: field for field in FIELDS}
    for name, typed in given:
        field, value = known.get(name), typed.strip()
        if field is None or value == before.get(name, ""):
            continue
        if not value and not field.default:
            raise InputError(f"{field.label}: a sweep must have one")
        try:
            text = with_entry(text, field.path, value or field.default)
        except InputError as error:
            raise InputError(f"{field.label}: {error}") from None
    return text
