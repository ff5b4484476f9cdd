"""A sweep that trains again what a search found, with more seeds: a front over few runs is partly luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from bnsweep.errors import InputError
from bnsweep.experiment.placement import name_of
from bnsweep.experiment.search import SearchSpec

__all__ = ["front_sweep"]

HEAD = """\
# The front that the search {name!r} found, to be trained with {seeds} seeds: `bnsweep run` on this file.
# Written by bnsweep; runs that the search made are in its store and are not made again.
"""


def front_sweep(spec: SearchSpec, fronts: Mapping[tuple[str, str], Sequence[str]], *, seeds: int) -> str:
    """The text of a sweep file.

    Args:
        spec: the search.
        fronts: the masks to train, by data set label and network; a network gets those of all of its data sets.
        seeds: training seeds per placement, at least; the search's own come first and are all there.

    Raises:
        InputError: there is no front yet.
    """
    masks: dict[str, list[str]] = {}
    for (_, name), found in fronts.items():
        masks.setdefault(name, []).extend(mask for mask in found if mask not in masks.get(name, []))
    if not any(masks.values()):
        if not any(spec.eta):
            raise InputError(
                f"the search {spec.name!r} has no front: it is made of accuracy under noise; give it an eta above 0"
            )
        raise InputError(f"the search {spec.name!r} has no front yet; run it first: bnsweep search FILE")
    content = _shared(spec)
    train_seeds = _seeds(spec.train_seeds, seeds)
    content["name"] = f"{spec.name[:58]}-front"
    content["description"] = f"The front of the search {spec.name}, with {len(train_seeds)} training seeds."
    models: list[dict[str, Any]] = []
    for model in spec.models:
        if masks.get(model.name):
            own = model.model_dump(mode="json", exclude_defaults=True, exclude={"placements", "training"})
            if model.training is not None:  # in full: what is left out is the sweep's
                own["training"] = model.training.model_dump(mode="json")
            fewest_first = sorted(masks[model.name], key=lambda mask: (mask.count("1"), mask))
            models.append({**own, "placements": [name_of(mask, mask) for mask in fewest_first]})
    content["models"] = models
    content["train_seeds"] = train_seeds
    content["eta"] = [float(eta) for eta in spec.eta]
    return HEAD.format(name=spec.name, seeds=len(train_seeds)) + yaml.safe_dump(content, sort_keys=False, width=120)


def _shared(spec: SearchSpec) -> dict[str, Any]:
    """What the sweep has of the search beside networks, placements and seeds, without what a spec has by default."""
    content = spec.model_dump(mode="json", exclude_defaults=True, exclude={"search", "placements", "models"})
    training = content.get("training", {})
    if "schedule" in training:  # its kind, each kind's default, is what tells it from others
        training["schedule"] = {"kind": spec.training.schedule.kind, **training["schedule"]}
    return content


def _seeds(own: Sequence[int], wanted: int) -> list[int]:
    """The search's own seeds and others, until there are enough."""
    seeds = list(own)
    candidate = 0
    while len(seeds) < wanted:
        if candidate not in seeds:
            seeds.append(candidate)
        candidate += 1
    return seeds
