"""YAML text -> its nodes, each with its place in the text.

YAML is read by `yaml.SafeLoader`'s composer, so no tag can construct an object. Anchors are refused: a few lines of
nested aliases expand to gigabytes, and no sweep needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from bnsweep.errors import Problem, SpecError

__all__ = ["DEEPEST", "compose", "construct", "line_of", "parts_of", "walk"]

DEEPEST = 20
LONGEST_NUMBER = 40  # digits
MOST_TOKENS = 100_000  # words and marks: what takes 2 s to read
TWICE = "the key stands here twice"
OPENING = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
CLOSING = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)


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


def construct(root: yaml.Node, source: str) -> tuple[dict[Any, Any], list[Problem]]:
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


def line_of(root: yaml.Node, path: Sequence[int | str]) -> int:
    """Where the deepest entry stands that the path leads to: its key, if it has one."""
    parent, node = [(root, root), *walk(root, path)][-1]
    keys = [key for key, value in parent.value if value is node] if isinstance(parent, yaml.MappingNode) else []
    return int((keys[0] if keys else node).start_mark.line) + 1


def walk(root: yaml.Node, path: Sequence[int | str]) -> Iterator[tuple[yaml.Node, yaml.Node]]:
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


def parts_of(where: str) -> list[int | str]:
    """The parts of a dotted path, those of lists as numbers."""
    return [int(part) if part.isdigit() else part for part in where.split(".")]
