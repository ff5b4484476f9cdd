"""What is left of a faulty sweep file without its faults: a plan of it finds more of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError, ValidationInfo, field_validator

from bnsweep.errors import Problem, SpecError
from bnsweep.experiment.reading import as_counted, written
from bnsweep.experiment.spec import Spec
from bnsweep.experiment.yaml_tree import DEEPEST, compose, construct, line_of, parts_of, walk

__all__ = ["Remnant", "remnant"]

STAND_IN = {"name": "unnamed", "data": "unknown", "models": "unknown"}  # for required keys


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
            parts = parts_of(problem.where)
            if parts[0] in self.filled:
                continue
            nodes = [node for _, node in walk(self.root, parts)]
            known = max((depth for depth, node in enumerate(nodes, start=1) if id(node) in self.paths), default=0)
            where = [*(self.paths[id(nodes[known - 1])] if known else []), *map(str, parts[known:])]
            found.append(Problem(".".join(where), problem.message, line_of(self.root, parts)))
        return found


def remnant(text: str) -> Remnant | None:
    """What is left of a sweep file without the entries that `parse_spec` finds fault with; None if nothing is."""
    try:
        root = compose(text, "")
        paths = dict(_paths(root, []))
        filled: set[str] = set()
        for _ in range(DEEPEST):  # taking an entry out may leave an empty list, and so on
            content, _ = construct(root, "")
            try:
                spec = _Remains.model_validate({**content, **{k: STAND_IN[k] for k in filled}})
                return Remnant(spec, filled, as_counted(root), paths)
            except ValidationError as error:
                if not _take_out(root, error, filled):
                    return None
    except SpecError:
        pass
    return None


def _take_out(root: yaml.Node, error: ValidationError, filled: set[str]) -> bool:
    """Take out of the tree what each error is about, or note the required key that is missing; False if neither."""
    bad: set[int] = set()
    counted = as_counted(root)
    for item in error.errors(include_url=False):
        path = written(item["loc"], counted)
        entries = list(walk(counted if len(path) > 1 else root, path))
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
