"""The placement language: which BN sites a network keeps.

    all | none | shortcuts        every site, no site, only those after shortcut projections
    first: k | last: k            k sites from the input's or the output's side
    every: k                      sites 1, 1 + k, 1 + 2k, ...
    stages: [1, 3]                every site of these stages (1-based; a stage is a feature-map resolution)
    sites: [path, "layer1.*"]     by module path, with wildcards
    "1011..."                     a 0/1 mask, one digit per site in forward order

A `Placement` is written for any network; `mask(architecture)` fits it to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from bnsweep.errors import PlacementError
from bnsweep.experiment.architecture import Architecture
from bnsweep.experiment.entries import in_short

__all__ = ["Placement", "add_label", "name_of"]

ENDS = ("all", "none")
WORDS = (*ENDS, "shortcuts")
COUNTED = ("first", "last", "every")
FORMS = "all, none, shortcuts, {first: k}, {last: k}, {every: k}, {stages: [..]}, {sites: [..]} or a 0/1 mask in quotes"
MOST_SITES = 10_000


@dataclass(frozen=True, slots=True)
class Placement:
    """One rule. `arguments` holds a count, stage numbers, path patterns or nothing."""

    kind: str
    arguments: tuple[Any, ...] = ()

    @classmethod
    def parse(cls, value: Any) -> Placement:
        """From what YAML gives: a word, a mask, or a mapping with one key.

        Raises:
            ValueError: the value is none of the forms.
        """
        if isinstance(value, Placement):
            return value
        if isinstance(value, str):
            return cls._parse_word(value)
        if isinstance(value, dict) and len(value) == 1:
            kind, argument = next(iter(value.items()))
            if kind in COUNTED:
                return cls._parse_count(kind, argument)
            if kind in ("stages", "sites"):
                return cls._parse_list(kind, argument)
        if isinstance(value, int):
            raise ValueError(f"a mask must stand in quotes (YAML reads 0110 as a number), but got {value!r}")
        raise ValueError(f"a placement is one of {FORMS}, but got {in_short(value)}")

    @classmethod
    def _parse_word(cls, word: str) -> Placement:
        if word in WORDS:
            return cls(word)
        if word and set(word) <= {"0", "1"}:
            if len(word) > MOST_SITES:
                raise ValueError(f"a mask has at most {MOST_SITES} digits, but got {len(word)}")
            return cls("mask", (word,))
        raise ValueError(f"unknown placement {in_short(word)}; a placement is one of {FORMS}")

    @classmethod
    def _parse_count(cls, kind: str, count: Any) -> Placement:
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MOST_SITES:
            raise ValueError(f"`{kind}` takes a whole number from 1 to {MOST_SITES}, but got {in_short(count)}")
        return cls(kind, (count,))

    @classmethod
    def _parse_list(cls, kind: str, items: Any) -> Placement:
        wanted: type = int if kind == "stages" else str
        if not isinstance(items, (list, tuple)) or not items or len(items) > MOST_SITES:
            raise ValueError(f"`{kind}` takes a list with at least one entry, but got {in_short(items)}")
        for item in items:
            if isinstance(item, bool) or not isinstance(item, wanted):
                what = "stage numbers" if wanted is int else "module paths"
                raise ValueError(f"`{kind}` takes a list of {what}, but it holds {in_short(item)}")
        return cls(kind, tuple(items))

    @property
    def label(self) -> str:
        """The `placement` column: `all`, `first-3`, `stages-1-3`, `sites-...`, a mask."""
        if self.kind == "mask":
            return str(self.arguments[0])
        return "-".join([self.kind, *map(str, self.arguments)])

    def to_yaml(self) -> str | dict[str, Any]:
        """What `parse` reads back."""
        if self.kind in WORDS:
            return self.kind
        if self.kind == "mask":
            return str(self.arguments[0])
        if self.kind in COUNTED:
            return {self.kind: self.arguments[0]}
        return {self.kind: list(self.arguments)}

    def mask(self, architecture: Architecture) -> str:
        """The 0/1 mask over the network's sites in forward order; "1" keeps BN.

        Raises:
            PlacementError: the placement does not fit; the message lists the network's sites.
        """
        sites = architecture.sites
        kept = self._kept(architecture)
        return "".join("1" if index in kept else "0" for index in range(len(sites)))

    def _kept(self, architecture: Architecture) -> set[int]:
        count = len(architecture.sites)
        everything = range(count)
        match self.kind:
            case "all":
                return set(everything)
            case "none":
                return set()
            case "shortcuts":
                return self._shortcuts(architecture)
            case "first" | "last" | "every":
                number = self.arguments[0]
                if number > count:
                    raise self._misfit(architecture, f"it has {count} sites")
                picks = {
                    "first": everything[:number],
                    "last": everything[count - number :],
                    "every": everything[::number],
                }
                return set(picks[self.kind])
            case "stages":
                stages = sorted({site.stage for site in architecture.sites})
                if unknown := [stage for stage in self.arguments if stage not in stages]:
                    raise self._misfit(architecture, f"it has no stage {unknown[0]}, only {stages}")
                return {i for i, site in enumerate(architecture.sites) if site.stage in self.arguments}
            case "sites":
                return self._matching(architecture)
            case _:
                digits = self.arguments[0]
                if len(digits) != count:
                    raise self._misfit(architecture, f"the mask has {len(digits)} digits for {count} sites")
                return {i for i, digit in enumerate(digits) if digit == "1"}

    def _shortcuts(self, architecture: Architecture) -> set[int]:
        kept = {i for i, site in enumerate(architecture.sites) if site.shortcut}
        if not kept:
            raise self._misfit(architecture, "no site of it is on a shortcut")
        return kept

    def _matching(self, architecture: Architecture) -> set[int]:
        kept: set[int] = set()
        for pattern in self.arguments:
            hits = {i for i, site in enumerate(architecture.sites) if fnmatchcase(site.path, pattern)}
            if not hits:
                raise self._misfit(architecture, f"no site is named {pattern!r}")
            kept |= hits
        return kept

    def _misfit(self, architecture: Architecture, why: str) -> PlacementError:
        paths = ", ".join(site.path for site in architecture.sites) or "(none)"
        return PlacementError(f"placement {self.label!r} does not fit {architecture.name}: {why}. Its sites: {paths}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(cls.to_yaml)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"description": FORMS, "anyOf": [{"type": "string"}, {"type": "object"}]}


def add_label(labels: dict[str, str], mask: str, label: str) -> None:
    """What a mask is called: `all` or `none` if that is what it is, else the first of its names."""
    label = name_of(mask, label)
    if mask not in labels or label in ENDS:
        labels[mask] = label


def name_of(mask: str, otherwise: str) -> str:
    """`all` or `none` if that is what the mask is; of no site it is neither, or both."""
    if len(set(mask)) == 1:
        return "all" if "1" in mask else "none"
    return otherwise
