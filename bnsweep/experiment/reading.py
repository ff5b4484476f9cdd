"""YAML text -> `Spec`, with every problem at its line.

YAML is read by `yaml.SafeLoader`'s composer, so no tag can construct an object. Anchors are refused: a
few lines of nested aliases expand to gigabytes, and no sweep needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, ValidationInfo, field_validator

from bnsweep.errors import InputError, Problem, SpecError
from bnsweep.experiment.entries import Frozen
from bnsweep.experiment.identity import canonical_json
from bnsweep.experiment.search import SearchSpec
from bnsweep.experiment.spec import MOST_CELLS, PATTERNS, Spec, expand_noise

__all__ = [
    "READY",
    "Remnant",
    "as_run",
    "compose",
    "parse_spec",
    "read_spec",
    "read_text",
    "ready_specs",
    "remnant",
    "spec_path",
    "with_lines",
]

LARGEST_BYTES = 1_000_000
DEEPEST = 20
LONGEST_NUMBER = 40  # digits
TWICE = "the key stands here twice"
SCHEDULES = ("constant", "step", "cosine")
TAGS = (*SCHEDULES, "mapping", "word", "number")  # members of unions
STAND_IN = {"name": "unnamed", "data": "unknown", "models": "unknown"}  # for required keys
MOST_TOKENS = 100_000  # words and marks: what takes 2 s to read
OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
READY = Path(__file__).parent.parent / "sweeps"


def ready_specs() -> dict[str, Path]:
    """The sweeps that ship with bnsweep, by name."""
    return {path.stem: path for path in sorted(READY.glob("*.yaml"))}


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


def spec_path(source: str | Path) -> Path:
    """The file of a spec, given as a path or as the name of a ready sweep; it need not exist."""
    path = Path(source)
    with suppress(OSError):  # where the system refuses to look, nothing is found
        if path.exists():
            return path
    return ready_specs().get(str(source), path)


def read_spec(source: str | Path) -> tuple[Spec, str]:
    """A spec and its text, from a file or by the name of a ready sweep.

    Raises:
        InputError: no such file, or not text.
        SpecError: what is wrong in it, all at once.
    """
    text = read_text(source)
    return parse_spec(text, source=str(source)), text


def read_text(source: str | Path) -> str:
    """The text of a sweep file or of the ready sweep of this name. Raises InputError: no such file, or not text."""
    path = spec_path(source)
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise InputError(
                f"{path}: a sweep file has at most {LARGEST_BYTES} bytes, but this has {path.stat().st_size}"
            )
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        ready = ready_specs()
        raise InputError(
            f"no sweep file {str(source)!r}{_did_you_mean(str(source), ready)}. Give a path, or one of the ready "
            f"sweeps: {', '.join(ready)}"
        ) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory, but a sweep file is wanted: give a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a UTF-8 text file: {error}") from None


def parse_spec(text: str, *, source: str = "the spec") -> Spec:
    """A spec from YAML text; a `SearchSpec` if it has a `search` section.

    Raises:
        SpecError: what is wrong, all at once, with line numbers.
    """
    if len(text.encode()) > LARGEST_BYTES:
        raise SpecError([Problem("", f"a sweep file has at most {LARGEST_BYTES} bytes")], source=source)
    root = compose(text, source)
    content, problems = _construct(root, source)
    kind = SearchSpec if isinstance(content, dict) and "search" in content else Spec
    try:
        spec = kind.model_validate(content)
    except ValidationError as error:
        problems += _problems(error, _as_counted(root))
    if problems:
        raise SpecError(sorted(problems, key=lambda problem: problem.line or 0), source=source)
    return spec


def with_lines(error: SpecError, text: str, *, source: str) -> SpecError:
    """The same problems, each with the line of `text` that it is about: for what only a plan can find out."""
    root = _as_counted(compose(text, source))
    problems = []
    for problem in error.problems:
        problems.append(Problem(problem.where, problem.message, problem.line or _line(root, _parts(problem.where))))
    return SpecError(problems, source=source)


class _Remains(Spec):
    """A spec whose entries need not go together."""

    @field_validator("data", "models", "train_seeds", "noise")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...], info: ValidationInfo) -> tuple[Any, ...]:
        return values

    def _check_models(self) -> None:
        pass

    @field_validator("images")
    @classmethod
    def _reachable(cls, value: Any, info: ValidationInfo) -> Any:
        return value


@dataclass(frozen=True)
class Remnant:
    """A sweep file without what is wrong in its form: no sweep to run, but one to look for more problems in."""

    spec: Spec
    filled: set[str]  # required keys that are missing or wrong, for which something stands in
    root: yaml.Node = field(repr=False)  # without the entries that were taken out
    paths: dict[int, list[str]] = field(repr=False)  # where a node stood in the file

    def located(self, problems: Sequence[Problem]) -> list[Problem]:
        """What a plan of `spec` finds, at its place in the file; nothing about what stands in."""
        found = []
        for problem in problems:
            parts = _parts(problem.where)
            if parts[0] in self.filled:
                continue
            nodes = [node for _, node in _walk(self.root, parts)]
            known = max((depth for depth, node in enumerate(nodes, start=1) if id(node) in self.paths), default=0)
            where = [*(self.paths[id(nodes[known - 1])] if known else []), *map(str, parts[known:])]
            found.append(Problem(".".join(where), problem.message, _line(self.root, parts)))
        return found


def remnant(text: str) -> Remnant | None:
    """What is left of a sweep file without the entries that `parse_spec` finds fault with; None if nothing is."""
    try:
        root = compose(text, "")
        paths = dict(_paths(root, []))
        filled: set[str] = set()
        for _ in range(DEEPEST):  # taking an entry out may leave an empty list, and so on
            content, _ = _construct(root, "")
            try:
                spec = _Remains.model_validate({**content, **{k: STAND_IN[k] for k in filled}})
                return Remnant(spec, filled, _as_counted(root), paths)
            except ValidationError as error:
                if not _take_out(root, error, filled):
                    return None
    except SpecError:
        pass
    return None


def _take_out(root: yaml.Node, error: ValidationError, filled: set[str]) -> bool:
    """Take out of the tree what each error is about, or note the required key that is missing; False if neither."""
    bad: set[int] = set()
    counted = _as_counted(root)
    for item in error.errors(include_url=False):
        path = _written(item["loc"], counted)
        entries = list(_walk(counted if len(path) > 1 else root, path))
        if entries:
            bad.add(id(entries[-1][1]))
        elif path and path[0] in STAND_IN and path[0] not in filled:
            filled.add(str(path[0]))
        else:
            return False
    _without(root, bad)
    return True


def _without(node: yaml.Node, bad: set[int]) -> None:
    """Take these nodes out of the tree below this one."""
    if isinstance(node, yaml.MappingNode):
        node.value = [(key, value) for key, value in node.value if id(value) not in bad]
        below = [value for _, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        below = node.value = [each for each in node.value if id(each) not in bad]
    else:
        return
    for each in below:
        _without(each, bad)


def _paths(node: yaml.Node, path: list[str]) -> Iterator[tuple[int, list[str]]]:
    yield id(node), path
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _paths(value, [*path, key.value])
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _paths(value, [*path, str(index)])


def _as_counted(root: yaml.Node) -> yaml.Node:
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


def compose(text: str, source: str) -> yaml.Node:
    """The nodes of YAML text, with their places in it; nothing is constructed. Raises SpecError."""
    try:
        _scan(text, source)
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


def _scan(text: str, source: str) -> None:
    """Look at the text mark by mark, and stop at the first that no sweep needs: what comes after may be a bomb."""
    depth = 0
    for count, token in enumerate(yaml.scan(text, Loader=yaml.SafeLoader)):
        depth += isinstance(token, OPENING) - isinstance(token, CLOSING)
        if isinstance(token, (yaml.AliasToken, yaml.AnchorToken)):
            message = "anchors and aliases (& and *) are not allowed"
        elif depth > DEEPEST:
            message = f"nested deeper than {DEEPEST} levels"
        elif count > MOST_TOKENS:
            message = f"a sweep file has at most {MOST_TOKENS} words and marks; write `train_seeds: N` for many seeds"
        else:
            continue
        raise SpecError([Problem("", message, token.start_mark.line + 1)], source=source)


def _construct(root: yaml.Node, source: str) -> tuple[dict[Any, Any], list[Problem]]:
    """The file's values, and keys that stand there twice. Raises SpecError for what cannot be read any further."""
    problems = list(_suspicious(root, 0))
    if any(problem.message != TWICE for problem in problems):
        raise SpecError(problems, source=source)
    try:
        content = yaml.SafeLoader("").construct_document(root)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        mark = getattr(error, "problem_mark", None)
        text = getattr(error, "problem", None) or str(error)
        raise SpecError([Problem("", f"not a value: {text}", mark.line + 1 if mark else None)], source=source) from None
    if not isinstance(content, dict):
        raise SpecError([Problem("", "a sweep file is a mapping of keys to values", 1)], source=source)
    return content, problems


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
                yield Problem(name, TWICE, key.start_mark.line + 1)
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
    said: dict[tuple[Any, ...], Problem] = {}
    items = error.errors(include_url=False, include_context=True)
    for item in items:
        # A list all of whose entries are wrong counts as empty: its entries' own errors say more.
        if item["type"] == "too_short" and any(
            other["loc"][: len(item["loc"])] == item["loc"] for other in items if other is not item
        ):
            continue
        path = _written(item["loc"], root)
        where = ".".join(str(part) for part in path)
        problem = Problem(where, _message(item, path), _line(root, path))
        # A mapping with lists stands for many cells, each with the same fault.
        said.setdefault((problem.line, path[-1] if path else "", problem.message), problem)
    return list(said.values())


def _written(location: Sequence[int | str], root: yaml.Node) -> list[int | str]:
    """Pydantic puts the names of union members into locations: without those, unless a user wrote them as keys."""
    path: list[int | str] = []
    for part in location:
        steps = [*_walk(root, [*path, part])]
        if part not in TAGS or len(steps) == len(path) + 1:
            path.append(part)
    return path


def _message(item: Any, path: list[int | str]) -> str:
    given = item.get("input")
    context = item.get("ctx", {})
    match item["type"]:
        case "extra_forbidden":
            valid = _valid_keys(path)
            return f"unknown key{_did_you_mean(str(path[-1]), valid)}; valid keys here: {', '.join(valid)}"
        case "string_pattern_mismatch" if letters := PATTERNS.get(context.get("pattern", "")):
            return f"{letters}, but got {_short(given)}"
        case "literal_error" if path[-1] == "augment":
            return f"auto, or a mapping such as {{flip: true, shift: 0.1}} ({{}}: none), but got {given!r}"
        case "union_tag_invalid" | "union_tag_not_found" | "model_attributes_type" if path[-1] == "schedule":
            guess = _did_you_mean(str(given.get("kind", "")), SCHEDULES) if isinstance(given, dict) else ""
            forms = f"one of {', '.join(SCHEDULES)}, or a mapping such as {{kind: cosine, warmup: 0.05}}"
            return f"{forms}, but got {_short(given)}{guess}"
        case "missing":
            return "this key is required"
        case "value_error":
            return str(context.get("error", item["msg"]))
        case _:
            return f"{item['msg'][0].lower()}{item['msg'][1:]}, but got {_short(given)}"


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def _did_you_mean(name: str, valid: Iterable[str]) -> str:
    near = get_close_matches(name, list(valid), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _valid_keys(path: list[int | str]) -> list[str]:
    """The fields of the model that the last but one part of the path leads to."""
    from bnsweep.experiment import recipe, search, spec

    models: dict[str, type[Frozen]] = {
        "data": spec.Data,
        "models": spec.Model,
        "training": recipe.Training,
        "noise": spec.NoiseCell,
        "evaluation": spec.Evaluation,
        "resources": spec.Resources,
        "trials": spec.AdaptiveTrials,
        "augment": recipe.Augment,
        "train": spec.Resource,
        "trial": spec.Resource,
        "search": search.Search,
        "early_stopping": search.Stopping,
        "minimal": search.Minimal,
        "probes": spec.Probes,
    }
    names = [part for part in path[:-1] if isinstance(part, str)]
    if names and names[-1] == "schedule":
        return sorted({*recipe.Constant.model_fields, *recipe.Step.model_fields, *recipe.Cosine.model_fields})
    model: type[Frozen] = models.get(names[-1], search.SearchSpec) if names else search.SearchSpec
    return list(model.model_fields)


def _line(root: yaml.Node, path: Sequence[int | str]) -> int:
    """Where the deepest entry stands that the path leads to: its key, if it has one."""
    parent, node = [(root, root), *_walk(root, path)][-1]
    keys = [key for key, value in parent.value if value is node] if isinstance(parent, yaml.MappingNode) else []
    return int((keys[0] if keys else node).start_mark.line) + 1


def _walk(root: yaml.Node, path: Sequence[int | str]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """(container, entry) of each part of the path, as far as it leads: a single value may stand for a list."""
    node = root
    for part in path:
        entry: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            entry = next((value for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            entry = node.value[part]
        if entry is None:
            return
        yield node, entry
        node = entry


def _parts(where: str) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in where.split(".")]
