"""One entry of a sweep file, read and written in its text: all else stays as it is.

Comments too, but for those between an entry's key and the end of its value.
"""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from bnsweep.errors import InputError, SpecError
from bnsweep.experiment.yaml_tree import compose

__all__ = ["entry", "with_entry"]


def entry(text: str, path: Sequence[str]) -> str | None:
    """An entry's value on one line, a list without its brackets; None if it is not there.

    Raises:
        SpecError: the text is not YAML.
    """
    found = _find(compose(text, "the spec"), path)
    if found is None:
        return None
    node = found[1]
    if isinstance(node, yaml.SequenceNode) and len(node.value) > 1:
        return ", ".join(_line(text, item) for item in node.value)
    return _line(text, node)


def with_entry(text: str, path: Sequence[str], value: str) -> str:
    """The text with an entry changed, or added. `value`: as `entry` gives it.

    Raises:
        SpecError: the text is not YAML.
        InputError: the value is none, or its place is taken by something else.
    """
    root = compose(text, "the spec")
    values = _listed(value)
    line = f"[{value.strip()}]" if len(values.value) > 1 else value.strip()
    found = _find(root, path)
    if found:
        changed = text[: found[0].end_mark.index] + f": {line}" + text[_end(found[1]) :]
    else:
        changed = _added(text, root, path, line)
    try:
        written = entry(changed, path)
    except SpecError:
        written = None
    if not values.value or written is None or _flow(_listed(written)) != _flow(values):
        raise InputError(f"{'.'.join(path)} cannot be {value!r} here: write it into the file itself")
    return changed


def _added(text: str, root: yaml.Node, path: Sequence[str], line: str) -> str:
    parent, rest = root, list(path)
    while len(rest) > 1 and (found := _find(parent, rest[:1])):
        parent, rest = found[1], rest[1:]
    for key in reversed(rest[1:]):
        line = f"{{{key}: {line}}}"
    if not isinstance(parent, yaml.MappingNode):
        raise InputError(f"{'.'.join(path)} cannot be set here: write it into the file itself")
    new = f"{rest[0]}: {line}"
    if not parent.value:  # {}
        return text[: parent.start_mark.index] + f"{{{new}}}" + text[parent.end_mark.index :]
    first = parent.value[0][0].start_mark
    if parent.flow_style:
        return text[: first.index] + f"{new}, " + text[first.index :]
    if parent is root:
        return text.rstrip() + f"\n{new}\n"
    return text[: first.index] + f"{new}\n{' ' * first.column}" + text[first.index :]


def _find(node: yaml.Node, path: Sequence[str]) -> tuple[yaml.Node, yaml.Node] | None:
    """The key and the value at a path."""
    found = None
    for key in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((pair for pair in pairs if pair[0].value == key), None)
        if found is None:
            return None
        node = found[1]
    return found


def _end(node: yaml.Node) -> int:
    """Where a node's text ends; what YAML takes for the end of a block is where the next thing begins."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return int(node.end_mark.index)


def _line(text: str, node: yaml.Node) -> str:
    written = text[node.start_mark.index : _end(node)]
    block = isinstance(node, yaml.CollectionNode) and not node.flow_style
    return _flow(node) if block or "\n" in written else written


def _flow(node: yaml.Node) -> str:
    """A node in one line."""
    text: str = yaml.serialize(_in_line(node), width=1_000_000, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _in_line(node: yaml.Node) -> yaml.Node:
    if isinstance(node, yaml.CollectionNode):
        node.flow_style = True
        for item in node.value:
            for each in item if isinstance(item, tuple) else (item,):
                _in_line(each)
    elif isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        node.style = '"'
    return node


def _listed(text: str) -> yaml.SequenceNode:
    """What was typed: one value or several. Raises InputError."""
    try:
        node = compose(f"[{text}]", "the value")
    except SpecError:
        node = None
    if not isinstance(node, yaml.SequenceNode) or "\n" in text:
        raise InputError(f"{text!r} is not a value as a sweep file has them")
    return node
