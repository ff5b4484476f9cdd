"""What the searches of a store have found: the front, the sites that matter, the fewest layers that converge."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bnsweep.analysis.importance import Effect, main_effects
from bnsweep.analysis.wording import aligned, counted
from bnsweep.experiment.vocabulary import NETWORK_ENDS, cell_label
from bnsweep.placements.front import nondominated
from bnsweep.placements.means import expected_means

if TYPE_CHECKING:
    from bnsweep.analysis.database import Database

__all__ = ["Found", "Placed", "read_searches"]

Row = Mapping[str, Any]
Expected = Mapping[str, Mapping[str, tuple[float, float]]]  # by mask and measured objective: mean and sd, percent

FEWEST_RUNS = 8  # from which all runs together say more than each placement's own
SHOWN = ("accuracy", "average_normalized")
SEARCHES = "SELECT sweep, spec, spec_sha256 FROM sweep WHERE json_exists(spec, '$.search') ORDER BY sweep"
ASKED = """
SELECT proposals.* REPLACE (coalesce(label.dataset, proposals.dataset) AS dataset), proposals.dataset AS asked_as,
       run.status, run.reason, run.epochs_run
FROM proposals SEMI JOIN sweep ON proposals.sweep = sweep.sweep AND proposals.spec_sha256 = sweep.spec_sha256
LEFT JOIN run ON run.run_id = proposals.run_id
LEFT JOIN label ON label.run_id = proposals.run_id
ORDER BY sweep, dataset, model, study, number
"""
# What else of the store is of a search's own recipe and noise cells: other sweeps may have more of either.
FIELDS = (
    "dataset", "model", "training", "noise_model", "sigma_reference", "targets", "bn_treatment",
    "recalibration_images", "precision", "sampling",
)  # fmt: skip
OWN = """
SELECT DISTINCT plan.sweep, planned_point.dataset, planned_point.model, training,
       planned_point.noise_model, planned_point.sigma_reference, planned_point.targets, planned_point.bn_treatment,
       planned_point.recalibration_images, planned_point.precision, planned_point.sampling
FROM plan JOIN planned_point USING (point_id)
WHERE planned_point.eta > 0
"""
RUNS = "SELECT *, a0 AS accuracy FROM curve WHERE average_normalized IS NOT NULL ORDER BY bn_mask, train_seed, curve"
DIVERGED = """
SELECT dataset, model, training, bn_mask, count(DISTINCT train_seed) AS seeds
FROM run
WHERE status = 'diverged'
GROUP BY ALL
"""
SITES = "SELECT dataset, model, bn_sites, site, path, stage, shortcut FROM sites ORDER BY ALL"


@dataclass(frozen=True, slots=True)
class Placed:
    """One placement by its means over training seeds, and what all runs together take those for; percent."""

    mask: str
    placement: str
    kept: int
    seeds: int
    baseline: float
    baseline_low: float | None
    baseline_high: float | None
    normalized: float  # A_avr, the mean over the search's noise cells
    low: float | None  # with several cells: none
    high: float | None
    paper: str | None
    front: bool  # no other one is better in what all runs take the means for
    expected_baseline: float | None = None  # None: too few runs to say
    expected_baseline_sd: float | None = None
    expected_normalized: float | None = None
    expected_normalized_sd: float | None = None
    diverged: int = 0  # training seeds; with any it is on no front


@dataclass(frozen=True, slots=True)
class Found:
    """One network on one data set of one search."""

    sweep: str
    spec: Mapping[str, Any]
    dataset: str
    model: str
    placed: Sequence[Placed]
    effects: Sequence[tuple[Row, Effect, Effect]]  # site, effect on the baseline, on A_avr; points
    asked: Sequence[Row]  # proposals with the end of their run

    @property
    def front_masks(self) -> list[str]:
        """The masks on the front."""
        return [each.mask for each in self.placed if each.front]

    @property
    def told_apart(self) -> Sequence[tuple[Row, Effect, Effect]]:
        """The sites whose effects the placements tell from those of the rest."""
        return [each for each in self.effects if each[1].effect is not None]

    @property
    def left_out(self) -> str:
        """How many sites are not told apart, and why; empty if none."""
        count = len(self.effects) - len(self.told_apart)
        if not count:
            return ""
        sites, there = ("1 site is", "there") if count == 1 else (f"{count} sites are", "at each")
        placed = len(self.placed)
        return f"{sites} left out: {placed} placements do not tell what BN does {there} from what it does elsewhere"

    def to_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "sweep": self.sweep,
            "dataset": self.dataset,
            "model": self.model,
            "objectives": list(self.spec["search"]["objectives"]),
            "asked": dict(Counter(row["study"] for row in self.asked)),
            "ends": dict(Counter(row["status"] or "open" for row in self.asked)),
            "front": [asdict(each) for each in self.placed if each.front],
            "sites": [
                {**site, "baseline": asdict(baseline), "normalized": asdict(normalized)}
                for site, baseline, normalized in self.effects
            ],
            "minimal": self._minimal(),
        }

    def to_text(self) -> str:
        """For people."""
        ends = Counter(row["status"] or "open" for row in self.asked)
        search = self.spec["search"]
        lines = [
            f"search {self.sweep}: {self.model} on {self.dataset}, {search['sampler']} for "
            f"{', '.join(search['objectives'])}",
            f"{len(self.asked)} runs asked for: " + ", ".join(f"{n} {end}" for end, n in sorted(ends.items())),
        ]
        if not self.placed and not any(float(eta) for eta in self.spec.get("eta", [1])):
            lines += ["", "no front: it is made of accuracy under noise, and the file has no eta above 0"]
        if self.placed:
            lines += [
                "",
                f"front, {sum(p.front for p in self.placed)} of {len(self.placed)} placements; 95 % intervals",
            ]
            front = [_HEADS, *(_cells(each) for each in self.placed if each.front)]
            told = any(each.expected_baseline_sd is not None for each in self.placed)
            lines += aligned(front if told else [cells[:-_EXPECTED] for cells in front])
            lines += self._cautions()
        if self.told_apart:
            lines += ["", "what BN at a site changes, points (least squares over placements, 95 % intervals)"]
            heads = ["site", "path", "accuracy", "", "A_avr", ""]
            lines += aligned([heads, *(_effect_cells(*each) for each in self.told_apart)])
        if self.left_out:
            lines.append(self.left_out)
        for row in self._minimal():
            lines.append(f"{row['kept']} BN layers: {row['failed']} runs failed, {row['ended']} ended well")
        return "\n".join(lines)

    def _cautions(self) -> list[str]:
        """What the means do not say."""
        front, seeds = [each for each in self.placed if each.front], {each.seeds for each in self.placed}
        wanted = max(len(self.spec["train_seeds"]), *seeds)
        lines = []
        if all(each.expected_baseline_sd is None for each in self.placed):
            lines.append(
                f"the front is judged by these means; from {FEWEST_RUNS} runs on that have rows of every noise cell it "
                "is judged by what all runs together take the means for"
            )
        elif any(each.expected_baseline_sd for each in front):
            lines += [
                "expected: what a model of all runs takes the means over all seeds for, and what is left open (95 %);",
                "the front is judged by it, since the best of many means of few runs is mostly the luckiest",
            ]
        if len(seeds) > 1:
            lines.append("what a seed does to all placements alike is taken out: not all have had the same seeds")
        if few := sum(each.seeds < wanted for each in front):
            lines.append(
                f"{few} of the {len(front)} have had fewer than {wanted} seeds: their place may be luck; "
                "--emit FILE writes the sweep that finds out"
            )
        if lost := sum(bool(each.diverged) for each in self.placed):
            lines.append(f"{counted(lost, 'placement')} on no front, since a run diverged")
        return lines

    def _minimal(self) -> list[dict[str, int]]:
        """Evidence by number of layers, for `--minimal`."""
        counts: dict[int, Counter[str]] = {}
        for row in self.asked:
            if row["study"] == "minimal" and row["status"]:
                good = row["status"] in NETWORK_ENDS
                counts.setdefault(row["bn_kept"], Counter())["ended" if good else "failed"] += 1
        return [{"kept": k, "failed": c["failed"], "ended": c["ended"]} for k, c in sorted(counts.items())]


def read_searches(database: Database) -> list[Found]:
    """Every search in the database's scope, network by network."""
    searches = database.sql(SEARCHES, limit=None).to_dicts()
    if not searches:
        return []
    asked = database.sql(ASKED, limit=None).to_dicts()
    sites = database.sql(SITES, limit=None).to_dicts()
    placed = database.query("pareto").to_dicts()
    runs, diverged = database.sql(RUNS, limit=None).to_dicts(), database.sql(DIVERGED, limit=None).to_dicts()
    own = database.sql(OWN, limit=None).to_dicts()
    found = []
    for search in searches:
        spec = json.loads(search["spec"])
        mine = [row for row in asked if row["sweep"] == search["sweep"]]
        for dataset, model in dict.fromkeys((row["dataset"], row["model"]) for row in mine):
            about = [row for row in mine if (row["dataset"], row["model"]) == (dataset, model)]
            masks = {row["bn_mask"] for row in about}
            fields = {
                tuple(row[name] for name in FIELDS)
                for row in own
                if (row["sweep"], row["dataset"], row["model"]) == (search["sweep"], dataset, model)
            }
            recipes = {field[:3] for field in fields}
            lost = {row["bn_mask"]: row["seeds"] for row in diverged if _within(row, recipes, 3)}
            ended = [row for row in runs if row["bn_mask"] in masks and _within(row, fields)]
            rows = [row for row in placed if row["bn_mask"] in masks and _within(row, fields)]
            points = _placed(rows, spec["search"]["objectives"], _expected(ended, spec), lost)
            where = [row for row in sites if (row["dataset"], row["model"]) == (about[0]["asked_as"], model)]
            found.append(Found(search["sweep"], spec, dataset, model, points, _effects(points, where), about))
    return found


def _within(row: Row, fields: Container[tuple[Any, ...]], count: int | None = None) -> bool:
    return tuple(row[name] for name in FIELDS[:count]) in fields


def _placed(
    rows: Iterable[Row], objectives: Sequence[str], expected: Expected, diverged: Mapping[str, int]
) -> list[Placed]:
    """Cells averaged; the front, in the search's own objectives, of those of which no run diverged."""
    by_mask: dict[str, list[Row]] = {}
    for row in rows:
        by_mask.setdefault(row["bn_mask"], []).append(row)
    points, values = [], []
    for mask, cells in by_mask.items():
        first, single = cells[0], len(cells) == 1
        point = Placed(
            mask,
            first["placement"],
            first["bn_kept"],
            min(row["seeds"] for row in cells),
            first["baseline_pct"],
            first["baseline_low_pct"],
            first["baseline_high_pct"],
            sum(row["average_normalized_pct"] for row in cells) / len(cells),
            first["low_pct"] if single else None,
            first["high_pct"] if single else None,
            first["paper"],
            False,
            diverged=diverged.get(mask, 0),
            **_shown(expected.get(mask, {})),
        )
        points.append(point)
        values.append(_values(point, cells, objectives, expected.get(mask, {})))
    sound = np.array([not point.diverged for point in points], dtype=np.bool_)
    on = sound.copy()
    on[sound] = nondominated(np.array(values).reshape(len(points), len(objectives))[sound])
    marked = [replace(point, front=bool(each)) for point, each in zip(points, on, strict=True)]
    return sorted(marked, key=lambda each: (not each.front, each.kept, -each.baseline, each.mask))


def _shown(expected: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """What a placement is expected to have, by the names of `Placed`."""
    if not expected:
        return {}
    (baseline, baseline_sd), (normalized, normalized_sd) = (expected[name] for name in SHOWN)
    return {
        "expected_baseline": baseline,
        "expected_baseline_sd": baseline_sd,
        "expected_normalized": normalized,
        "expected_normalized_sd": normalized_sd,
    }


def _values(
    point: Placed, cells: Sequence[Row], objectives: Sequence[str], expected: Mapping[str, tuple[float, float]]
) -> list[float]:
    """The objectives, all to be made larger: what all runs take them for, or else the placement's own means."""
    own = {f"average_normalized:{_cell(row)}": row["average_normalized_pct"] for row in cells}
    own |= {"accuracy": point.baseline, "average_normalized": point.normalized, "kept": -float(point.kept)}
    return [expected[name][0] if name in expected else own[name] for name in objectives]


def _expected(runs: Iterable[Row], spec: Mapping[str, Any]) -> Expected:
    """Of every placement with a run, if there are enough runs to say."""
    by_run: dict[tuple[str, int], dict[tuple[str, int], Row]] = {}
    for row in runs:
        cell = _cell(row), row["recalibration_images"]
        by_run.setdefault((row["bn_mask"], row["train_seed"]), {})[cell] = row
    names = [*SHOWN, *(name for name in spec["search"]["objectives"] if ":" in name)]
    cells = {cell for found in by_run.values() for cell in found}
    whole = {run: found for run, found in by_run.items() if len(found) == len(cells)}
    if len(whole) < FEWEST_RUNS:
        return {}
    values = np.array([[_measured(found, name) for name in names] for found in whole.values()])
    seeds = sorted({*spec["train_seeds"], *(seed for _, seed in whole)})
    places, means, deviations = expected_means(
        [mask for mask, _ in whole],
        [seeds.index(seed) for _, seed in whole],
        values,
        all_seeds=len(seeds),
    )
    return {
        place: {
            name: (100.0 * float(mean), 100.0 * float(sd))
            for name, mean, sd in zip(names, means[n], deviations[n], strict=True)
        }
        for n, place in enumerate(places)
    }


def _measured(cells: Mapping[tuple[str, int], Row], name: str) -> float:
    """One objective of one run; a fraction."""
    name, _, wanted = name.partition(":")
    found = [row for (cell, _), row in cells.items() if wanted in ("", cell)]
    return sum(float(row[name]) for row in found) / len(found)


def _cell(row: Row) -> str:
    return cell_label(row["sigma_reference"], row["targets"], row["bn_treatment"])


def _effects(points: Sequence[Placed], sites: Sequence[Row]) -> list[tuple[Row, Effect, Effect]]:
    if not points or len(sites) != len(points[0].mask):
        return []
    masks, weights = [each.mask for each in points], [each.seeds for each in points]
    baseline = main_effects(masks, [each.baseline for each in points], weights=weights)
    normalized = main_effects(masks, [each.normalized for each in points], weights=weights)
    return list(zip(sites, baseline, normalized, strict=True))


_HEADS = ["kept", "mask", "placement", "seeds", "accuracy, %", "", "A_avr, %", "", "expected: accuracy", "A_avr"]
_EXPECTED = 2  # columns


def _cells(point: Placed) -> list[str]:
    name = point.placement if point.placement != point.mask else ""
    return [
        str(point.kept),
        point.mask,
        f"{name} ({point.paper})" if point.paper and point.paper != name else name,
        str(point.seeds),
        f"{point.baseline:.2f}",
        _between(point.baseline_low, point.baseline_high),
        f"{point.normalized:.2f}",
        _between(point.low, point.high),
        _about(point.expected_baseline, point.expected_baseline_sd),
        _about(point.expected_normalized, point.expected_normalized_sd),
    ]


def _effect_cells(site: Row, baseline: Effect, normalized: Effect) -> list[str]:
    cells = [str(site["site"]), str(site["path"])]
    for effect in (baseline, normalized):
        cells += ["" if effect.effect is None else f"{effect.effect:+.2f}", _between(effect.low, effect.high)]
    return cells


def _about(mean: float | None, sd: float | None) -> str:
    if mean is None or sd is None:
        return ""
    return f"{mean:.2f} ± {1.96 * sd:.2f}" if sd else f"{mean:.2f}"  # with all seeds nothing is left open


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
