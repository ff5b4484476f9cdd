"""The sweep file that would decide a claim: the store's own sweep, changed where the claim needs it.

A search's file asks for placements that a sampler proposes; what decides is a sweep over those that are compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from bnsweep.experiment.vocabulary import NETWORK_ENDS

if TYPE_CHECKING:
    from bnsweep.analysis.database import Database

__all__ = ["SIDES", "STEPS", "TEMPLATE", "deciding_sweep"]

SIDES = ["all", "none"]
STEPS = ["all", {"every": 2}, {"every": 4}, "none"]
TEMPLATE: dict[str, Any] = {
    "version": 1,
    "data": ["cifar10"],
    "models": ["resnet20", "resnet32", "resnet44", "resnet56"],
    "placements": SIDES,
    "training": {"epochs": 100},
    "eta": [0, 0.01, 0.1, 0.2, 0.3, 0.4],
    "trials": 20,
}
WRITTEN = "SELECT spec_yaml FROM sweep ORDER BY sweep"
TRAINED = f"""
SELECT model, bn_mask, bn_kept, bn_sites, bool_and(ended) AS ended
FROM (
    SELECT dataset, model, bn_mask, bn_kept, bn_sites, bool_or(status IN {NETWORK_ENDS}) AS ended
    FROM run
    WHERE status <> 'pruned'
    GROUP BY ALL
)
GROUP BY ALL
ORDER BY model, bn_kept, bn_mask
"""  # noqa: S608 (ours)


def deciding_sweep(
    database: Database, name: str, change: Mapping[str, Any], *, seeds: int, placements: str = "ends"
) -> str:
    """The text of the sweep file.

    Args:
        database: whose first sweep it starts from; without one it starts from the paper's.
        name: of the claim.
        change: keys of the file that the claim needs otherwise.
        seeds: training seeds of each placement; the sweep's own come first.
        placements: of a network that was searched: its `ends`, or `every` one that was trained.
    """
    written = [row["spec_yaml"] for row in database.sql(WRITTEN).to_dicts()]
    base = next((spec for spec in map(_loaded, written) if spec), dict(TEMPLATE))
    searched = "search" in base
    wanted = {key: json.loads(json.dumps(value)) for key, value in change.items()}
    if "noise" in wanted and isinstance(base.get("noise"), dict):
        wanted["noise"] = {**base["noise"], **wanted["noise"]}
    left_out = {"version", "name", "description", "search"}
    spec = {
        "version": 1,
        "name": f"decide-{name}",
        **{key: value for key, value in base.items() if key not in left_out},
        **wanted,
        "train_seeds": _seeds(base.get("train_seeds"), seeds),
    }
    if searched and wanted.get("placements") != STEPS:
        spec |= {"models": _searched(database, spec["models"], every=placements == "every"), "placements": SIDES}
    return yaml.safe_dump(spec, sort_keys=False, allow_unicode=True, width=120)


def _loaded(text: str) -> dict[str, Any] | None:
    try:
        spec = yaml.safe_load(text)
    except yaml.YAMLError:
        return None
    return spec if isinstance(spec, dict) and spec.get("data") and spec.get("models") else None


def _seeds(own: Any, wanted: int) -> Any:
    """A number of seeds, as files mostly have it, or a file's own seeds and others, until there are enough."""
    if not isinstance(own, list):
        return wanted
    others = (seed for seed in range(wanted + len(own)) if seed not in own)
    return [*own, *(seed for seed, _ in zip(others, range(wanted - len(own)), strict=False))]


def _searched(database: Database, models: Any, *, every: bool) -> list[Any]:
    """The file's networks, each with the placements to train; one that the store does not know, as it is."""
    trained: dict[str, list[Mapping[str, Any]]] = {}
    for row in database.sql(TRAINED, limit=None).to_dicts():
        trained.setdefault(row["model"], []).append(row)
    found: list[Any] = []
    for model in models if isinstance(models, list) else [models]:
        own = dict(model) if isinstance(model, dict) else {"name": model}
        runs = trained.get(own["name"], [])
        ended = [row for row in runs if row["ended"]]
        chosen = [_written(row) for row in ended] if every and ended else _ends(runs, ended)
        found.append({**own, "placements": chosen} if runs else model)
    return found


def _ends(runs: Sequence[Mapping[str, Any]], ended: Sequence[Mapping[str, Any]]) -> list[str]:
    """BN everywhere and no BN; the fewest layers that could be trained where training without BN failed."""
    failed = any(row["bn_kept"] == 0 for row in runs) and not any(row["bn_kept"] == 0 for row in ended)
    some = [row for row in ended if row["bn_kept"] < row["bn_sites"]]
    fewest = [_written(row) for row in some if row["bn_kept"] == some[0]["bn_kept"]]
    return ["all", *(fewest if failed and fewest else ["none"])]


def _written(row: Mapping[str, Any]) -> str:
    """The placement as a sweep file has it."""
    return {0: "none", row["bn_sites"]: "all"}.get(row["bn_kept"], str(row["bn_mask"]))
