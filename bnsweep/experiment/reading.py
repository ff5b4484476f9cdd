"""YAML text -> `Spec`, with every problem at its line.

YAML is read by `yaml.SafeLoader`'s composer, so no tag can construct an object. Anchors are refused: a
few lines of nested aliases expand to gigabytes, and no sweep needs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bnsweep.errors import InputError, Problem, SpecError
from bnsweep.experiment.spec import Spec

__all__ = ["READY", "parse_spec", "read_spec", "ready_specs", "with_lines"]

LARGEST_BYTES = 1_000_000
DEEPEST = 20
LONGEST_NUMBER = 40  # digits
READY = Path(__file__).parent.parent / "sweeps"


def ready_specs() -> dict[str, Path]:
    """The sweeps that ship with bnsweep, by name."""
    return {path.stem: path for path in sorted(READY.glob("*.yaml"))}


def read_spec(source: str | Path) -> tuple[Spec, str]:
    """A spec and its text, from a file or by the name of a ready sweep.

    Raises:
        InputError: no such file, or not text.
        SpecError: what is wrong in it, all at once.
    """
    path = Path(source)
    if not path.exists() and str(source) in ready_specs():
        path = ready_specs()[str(source)]
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError(
                f"{path}: a sweep file has at most {LARGEST_BYTES} bytes, but this has {path.stat().st_size}"
            )
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        names = ", ".join(ready_specs())
        raise InputError(f"no sweep file {str(source)!r}. Give a path, or one of the ready sweeps: {names}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a UTF-8 text file: {error}") from None
    return parse_spec(text, source=str(source)), text


def parse_spec(text: str, *, source: str = "the spec") -> Spec:
    """A spec from YAML text.

    Raises:
        SpecError: what is wrong, all at once, with line numbers.
    """
    if len(text.encode()) > LARGEST_BYTES:
        raise SpecError([Problem("", f"a sweep file has at most {LARGEST_BYTES} bytes")], source=source)
    root = _compose(text, source)
    content = _construct(root, source)
    if not isinstance(content, dict):
        raise SpecError([Problem("", "a sweep file is a mapping of keys to values", 1)], source=source)
    try:
        return Spec.model_validate(content)
    except ValidationError as error:
        raise SpecError(_problems(error, root), source=source) from None


def with_lines(error: SpecError, text: str, *, source: str) -> SpecError:
    """The same problems, each with the line of `text` that it is about: for what only a plan can find out."""
    root = _compose(text, source)
    problems = []
    for problem in error.problems:
        path = [int(part) if part.isdigit() else part for part in problem.where.split(".")]
        problems.append(Problem(problem.where, problem.message, problem.line or _line(root, path)))
    return SpecError(problems, source=source)


def _compose(text: str, source: str) -> yaml.Node:
    try:
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, (yaml.AliasToken, yaml.AnchorToken)):
                line = token.start_mark.line + 1
                raise SpecError([Problem("", "anchors and aliases (& and *) are not allowed", line)], source=source)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = f"not valid YAML: {error.problem or error.context}"
        raise SpecError([Problem("", message, mark.line + 1 if mark else None)], source=source) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError([Problem("", f"not valid YAML: {error}")], source=source) from None
    if root is None:
        raise SpecError([Problem("", "the file is empty", 1)], source=source)
    return root


def _construct(root: yaml.Node, source: str) -> Any:
    problems = list(_suspicious(root, 0))
    if problems:
        raise SpecError(problems, source=source)
    try:
        return yaml.SafeLoader("").construct_document(root)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        text = getattr(error, "problem", None) or str(error)
        raise SpecError([Problem("", f"not a value: {text}", mark.line + 1 if mark else None)], source=source) from None


def _suspicious(node: yaml.Node, depth: int) -> Iterator[Problem]:
    line = node.start_mark.line + 1
    if depth > DEEPEST:
        yield Problem("", f"nested deeper than {DEEPEST} levels", line)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if not isinstance(key, yaml.ScalarNode):
                yield Problem("", "a key is a word", key.start_mark.line + 1)
            elif name in seen:
                yield Problem(name, "the key stands here twice", key.start_mark.line + 1)
            seen.add(name)
            yield from _suspicious(value, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _suspicious(value, depth + 1)
    elif isinstance(node, yaml.ScalarNode):
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and len(node.value) > LONGEST_NUMBER:
            yield Problem("", f"a number has at most {LONGEST_NUMBER} characters, but got {len(node.value)}", line)


def _problems(error: ValidationError, root: yaml.Node) -> list[Problem]:
    problems = []
    items = error.errors(include_url=False, include_context=True)
    for item in items:
        # A list all of whose entries are wrong counts as empty: its entries' own errors say more.
        if item["type"] == "too_short" and any(
            other["loc"][: len(item["loc"])] == item["loc"] for other in items if other is not item
        ):
            continue
        path = [part for part in item["loc"] if not _is_tag(part)]
        where = ".".join(str(part) for part in path)
        problems.append(Problem(where, _message(item, path), _line(root, path)))
    return sorted(problems, key=lambda problem: problem.line or 0)


def _is_tag(part: int | str) -> bool:
    """Pydantic puts the names of union members into locations; a user wrote none of them."""
    return part in ("constant", "step", "cosine", "mapping", "word", "number")


def _message(item: Any, path: list[int | str]) -> str:
    given = item.get("input")
    context = item.get("ctx", {})
    match item["type"]:
        case "extra_forbidden":
            return f"unknown key; valid keys here: {', '.join(_valid_keys(path))}"
        case "missing":
            return "this key is required"
        case "value_error":
            return str(context.get("error", item["msg"]))
        case _:
            shown = repr(given)
            shown = shown if len(shown) <= 80 else shown[:77] + "..."
            return f"{item['msg'][0].lower()}{item['msg'][1:]}, but got {shown}"


def _valid_keys(path: list[int | str]) -> list[str]:
    """The fields of the model that the last but one part of the path leads to."""
    from bnsweep.experiment import spec

    models: dict[str, type[spec.Frozen]] = {
        "data": spec.Data,
        "models": spec.Model,
        "training": spec.Training,
        "noise": spec.NoiseCell,
        "evaluation": spec.Evaluation,
        "resources": spec.Resources,
        "trials": spec.AdaptiveTrials,
        "augment": spec.Augment,
        "train": spec.Resource,
        "trial": spec.Resource,
    }
    names = [part for part in path[:-1] if isinstance(part, str)]
    if names and names[-1] == "schedule":
        return sorted({*spec.Constant.model_fields, *spec.Step.model_fields, *spec.Cosine.model_fields})
    model: type[spec.Frozen] = models.get(names[-1], Spec) if names else Spec
    return list(model.model_fields)


def _line(root: yaml.Node, path: list[int | str]) -> int | None:
    node, line = root, root.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pairs = [(key, value) for key, value in node.value if key.value == str(part)]
            if not pairs:
                break
            key, node = pairs[0]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line
