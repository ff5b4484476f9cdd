"""A sweep file's text -> `Spec`, with every problem at its line."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bnsweep.errors import Problem, SpecError
from bnsweep.experiment.entries import PATTERNS, in_short
from bnsweep.experiment.files import LARGEST_BYTES, did_you_mean, read_text
from bnsweep.experiment.identity import canonical_json
from bnsweep.experiment.noise_cell import MOST_CELLS, expand_noise
from bnsweep.experiment.recipe import Constant, Cosine, Step
from bnsweep.experiment.search import SearchSpec
from bnsweep.experiment.spec import Spec
from bnsweep.experiment.yaml_tree import compose, construct, line_of, parts_of, walk

__all__ = ["as_counted", "as_run", "parse_spec", "read_spec", "with_lines", "written"]

SCHEDULES = tuple(str(each.model_fields["kind"].default) for each in (Constant, Step, Cosine))
TAGS = (*SCHEDULES, "mapping", "word", "number")  # members of unions


def as_run(text: str, spec: str) -> str:
    """A sweep file that says what was run.

    That is the file as it was written or, where it was run with other images than it names (`--data`), its spec
    (canonical JSON, as the store keeps it) as YAML.
    """
    try:
        if _canonical(text) == spec:
            return text
        anew = yaml.safe_dump(yaml.safe_load(spec), sort_keys=False)
        return anew if _canonical(anew) == spec else text
    except SpecError:  # of another version of bnsweep, perhaps
        return text


def _canonical(text: str) -> str:
    return canonical_json(parse_spec(text).model_dump(mode="json"))


def read_spec(source: str | Path) -> tuple[Spec, str]:
    """A spec and its text, from a file or by the name of a ready sweep.

    Raises:
        InputError: no such file, or not text.
        SpecError: what is wrong in it, all at once.
    """
    text = read_text(source)
    return parse_spec(text, source=str(source)), text


def parse_spec(text: str, *, source: str = "the spec") -> Spec:
    """A spec from YAML text; a `SearchSpec` if it has a `search` section.

    Raises:
        SpecError: what is wrong, all at once, with line numbers.
    """
    if len(text.encode()) > LARGEST_BYTES:
        raise SpecError([Problem("", f"a sweep file has at most {LARGEST_BYTES} bytes")], source=source)
    root = compose(text, source)
    content, problems = construct(root, source)
    kind = SearchSpec if isinstance(content, dict) and "search" in content else Spec
    try:
        spec = kind.model_validate(content)
    except ValidationError as error:
        problems += _problems(error, as_counted(root))
    if problems:
        raise SpecError(sorted(problems, key=lambda problem: problem.line or 0), source=source)
    return spec


def with_lines(error: SpecError, text: str, *, source: str) -> SpecError:
    """The same problems, each with the line of `text` that it is about: for what only a plan can find out."""
    root = as_counted(compose(text, source))
    problems = []
    for problem in error.problems:
        problems.append(Problem(problem.where, problem.message, problem.line or line_of(root, parts_of(problem.where))))
    return SpecError(problems, source=source)


def as_counted(root: yaml.Node) -> yaml.Node:
    """The tree as a spec counts its entries: a noise entry with lists is there once per cell that it stands for."""
    pairs = [(key, _cells(value) if key.value == "noise" else value) for key, value in root.value]
    return yaml.MappingNode(root.tag, pairs, root.start_mark, root.end_mark)


def _cells(node: yaml.Node) -> yaml.Node:
    cells: list[yaml.Node] = []
    for entry in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        count = 1
        if len(cells) < MOST_CELLS:
            with suppress(ValueError):  # too many cells or none: an error of its own
                count = len(expand_noise([yaml.SafeLoader("").construct_document(entry)]))
        cells += [entry] * count
    return yaml.SequenceNode(node.tag, cells, node.start_mark, node.end_mark)


def _problems(error: ValidationError, root: yaml.Node) -> list[Problem]:
    said: dict[tuple[Any, ...], Problem] = {}
    items = error.errors(include_url=False, include_context=True)
    for item in items:
        # A list all of whose entries are wrong counts as empty: its entries' own errors say more.
        if item["type"] == "too_short" and any(
            other["loc"][: len(item["loc"])] == item["loc"] for other in items if other is not item
        ):
            continue
        path = written(item["loc"], root)
        where = ".".join(str(part) for part in path)
        problem = Problem(where, _message(item, path), line_of(root, path))
        # A mapping with lists stands for many cells, each with the same fault.
        said.setdefault((problem.line, path[-1] if path else "", problem.message), problem)
    return list(said.values())


def written(location: Sequence[int | str], root: yaml.Node) -> list[int | str]:
    """Pydantic puts the names of union members into locations: without those, unless a user wrote them as keys."""
    path: list[int | str] = []
    for part in location:
        steps = [*walk(root, [*path, part])]
        if part not in TAGS or len(steps) == len(path) + 1:
            path.append(part)
    return path


def _message(item: Any, path: list[int | str]) -> str:
    given = item.get("input")
    context = item.get("ctx", {})
    match item["type"]:
        case "extra_forbidden":
            valid = _valid_keys(path)
            return f"unknown key{did_you_mean(str(path[-1]), valid)}; valid keys here: {', '.join(valid)}"
        case "string_pattern_mismatch" if letters := PATTERNS.get(context.get("pattern", "")):
            return f"{letters}, but got {in_short(given)}"
        case "literal_error" if path[-1] == "augment":
            return f"auto, or a mapping such as {{flip: true, shift: 0.1}} ({{}}: none), but got {given!r}"
        case "union_tag_invalid" | "union_tag_not_found" | "model_attributes_type" if path[-1] == "schedule":
            guess = did_you_mean(str(given.get("kind", "")), SCHEDULES) if isinstance(given, dict) else ""
            forms = f"one of {', '.join(SCHEDULES)}, or a mapping such as {{kind: cosine, warmup: 0.05}}"
            return f"{forms}, but got {in_short(given)}{guess}"
        case "missing":
            return "this key is required"
        case "value_error":
            return str(context.get("error", item["msg"]))
        case _:
            return f"{item['msg'][0].lower()}{item['msg'][1:]}, but got {in_short(given)}"


def _valid_keys(path: list[int | str]) -> list[str]:
    """The keys of the mapping that the last but one part of the path leads to."""
    from bnsweep.experiment.keys import keys

    names = [part for part in path[:-1] if isinstance(part, str)]
    if names[:2] == ["models", "training"]:  # which is `training` once more
        names = names[1:]
    above = "".join(f"{name}." for name in names)
    below = [key.name.removeprefix(above) for key in keys() if key.name.startswith(above)]
    return [name for name in below if "." not in name]
