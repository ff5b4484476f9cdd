"""Every key of a sweep file, as told by the models that check it: what it takes, its default and its meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import yaml
from pydantic.json_schema import GenerateJsonSchema

from bnsweep.errors import UnknownNameError
from bnsweep.experiment.entries import PATTERNS
from bnsweep.experiment.placement import Placement
from bnsweep.experiment.search import SearchSpec
from bnsweep.experiment.spec import Spec

__all__ = ["Key", "keys", "keys_named"]

Schema = Mapping[str, Any]  # JSON Schema

# As JSON Schema calls a bound, and as pydantic does where the value is looked at before.
BOUNDS = {
    **dict.fromkeys(("minimum", "ge"), ">="),
    **dict.fromkeys(("exclusiveMinimum", "gt"), ">"),
    **dict.fromkeys(("maximum", "le"), "<="),
    **dict.fromkeys(("exclusiveMaximum", "lt"), "<"),
}
TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
    "object": "a mapping",
}


@dataclass(frozen=True, slots=True)
class Key:
    """One key by its dotted path, which has no numbers for the entries of lists."""

    name: str
    takes: str  # type, values, range
    default: str | None  # as YAML; None: the meaning says it, or the keys below have theirs
    required: bool
    meaning: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def keys() -> list[Key]:
    """All in the order of the models, those of a mapping after itself; of a search file too."""
    schema = SearchSpec.model_json_schema(schema_generator=_Defaults)
    required = [name for name, field in Spec.model_fields.items() if field.is_required()]
    return list(_Walk(schema["$defs"]).mapping({**schema, "required": required}, ""))


def keys_named(name: str) -> list[Key]:
    """A key, by its path or its last word, and those below it. Raises UnknownNameError."""
    every = keys()
    found = [key.name for key in every if key.name == name] or [
        key.name for key in every if key.name.endswith(f".{name}")
    ]
    if not found:
        names = [key.name for key in every]
        valid = names if "." in name else dict.fromkeys(each.rpartition(".")[2] for each in names)
        raise UnknownNameError("key", name, valid)
    return [key for key in every if any(f"{key.name}.".startswith(f"{each}.") for each in found)]


class _Defaults(GenerateJsonSchema):
    """Defaults as a user writes them."""

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, tuple):
            dft = [each.to_yaml() if isinstance(each, Placement) else each for each in dft]
            dft = [float(each) if isinstance(each, Decimal) else each for each in dft]
        return super().encode_default(dft)


class _Walk:
    """Through a schema and what it refers to."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions

    def mapping(self, schema: Schema, path: str, *, note: str = "", without: str = "") -> Iterator[Key]:
        """The keys of a mapping, but for one; `note` goes before their meanings."""
        for name, value in schema["properties"].items():
            if name != without:
                yield self._key(f"{path}{name}", value, required=name in schema.get("required", ()), note=note)
                if f"{path}{name}" != "models.training":  # which is `training` once more
                    yield from self._below(value, f"{path}{name}.")

    def _key(self, path: str, schema: Schema, *, required: bool, note: str) -> Key:
        meaning = schema.get("description") or self._resolved(schema)["description"]
        default = schema.get("default")
        of_mappings = "$ref" in schema or "$ref" in schema.get("items", ())
        shown = None if default is None or of_mappings else _as_yaml(default)
        return Key(path, self._takes(schema), shown, required, f"{note}{meaning}")

    def _below(self, schema: Schema, path: str) -> Iterator[Key]:
        if "discriminator" in schema:
            yield from self._tagged(schema["discriminator"], path)
        elif "$ref" in schema:
            yield from self.mapping(self._resolved(schema), path)
        else:
            for part in [*_members(schema), *([schema["items"]] if "items" in schema else [])]:
                yield from self._below(part, path)

    def _tagged(self, discriminator: Schema, path: str) -> Iterator[Key]:
        """Several mappings, told apart by what stands under one key."""
        kind = discriminator["propertyName"]
        members = {tag: self._resolved({"$ref": where}) for tag, where in discriminator["mapping"].items()}
        meaning = " ".join(f"{tag}: {member['description']}" for tag, member in members.items())
        yield Key(f"{path}{kind}", " | ".join(members), None, True, meaning)
        for tag, member in members.items():
            yield from self.mapping(member, path, note=f"{tag}: ", without=kind)

    def _takes(self, schema: Schema) -> str:
        if members := _members(schema):
            return " or ".join(dict.fromkeys(map(self._takes, members)))
        schema = self._resolved(schema)
        if values := schema.get("enum", [schema["const"]] if "const" in schema else []):
            return " | ".join(map(str, values))
        if schema["type"] == "array":
            items = schema["items"]
            if "$ref" in items:
                return "a list of mappings"
            return f"a list of: {items.get('description') or self._takes(items)}"
        bounds = [f"{sign} {_number(schema[name])}" for name, sign in BOUNDS.items() if name in schema]
        named = PATTERNS.get(schema.get("pattern", ""), TYPES[schema["type"]])
        return ", ".join([named, *bounds])

    def _resolved(self, schema: Schema) -> Schema:
        return self._definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _members(schema: Schema) -> list[Schema]:
    """Of a union; null is what is not written."""
    return [each for each in schema.get("anyOf", schema.get("oneOf", ())) if each.get("type") != "null"]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _as_yaml(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
