"""Charts across networks and data sets join no recipes, and no families of networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
from handmade import START, Handmade

from bnsweep.analysis.contents import all_figures
from bnsweep.analysis.database import open_database
from bnsweep.analysis.figures import Figure
from bnsweep.analysis.inputs import read_inputs
from bnsweep.analysis.sentences import attribution, widest_gap
from bnsweep.store.store import Store

SITES = {"resnet8": 2, "resnet20": 3, "vgg11": 4, "vgg16": 5, "cnn": 6}
KEEPS = {"a": 0.8, "b": 0.4}  # of its accuracy, by recipe


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Figure]]:
    """Five networks with and without BN by two recipes on two data sets, with gradient noise."""
    made = Handmade()
    for dataset, classes in (("easy", 10), ("hard", 100)):
        for recipe, keeps in KEEPS.items():
            for model, sites in SITES.items():
                for mask in ("1" * sites, "0" * sites, *(["100"] if sites == 3 else [])):
                    data = {"dataset": dataset, "classes": classes, "recipe": recipe}
                    made.cell(0.9, [0.9 * keeps, 0.88 * keeps], model=model, mask=mask, **data)
    probe = {"epoch": 1, "probe": "gradient_noise", "site": "", "samples": 8, "duration_s": 0.1, "committed_at": START}
    made.rows["probes"] = [{**probe, "run_id": run["run_id"], "value": 1.0} for run in made.rows["runs"]]
    store = Store.create(tmp_path_factory.mktemp("recipes") / "store")
    store.commit(made.tables)
    with open_database(store, threads=1) as database:
        return all_figures(read_inputs(database))


def named(drawn: Mapping[str, list[Figure]], section: str, name: str) -> list[Figure]:
    return [figure for figure in drawn[section] if figure.name.startswith(name)]


def most_alike(figure: Figure, *columns: str) -> int:
    """How many rows share a place in the chart."""
    return max(Counter(tuple(row[column] for column in columns) for row in figure.rows).values())


@pytest.mark.parametrize(
    ("section", "name", "charts", "place"),
    [
        ("overview", "depth-between", 4, ("panel", "label", "layers")),
        ("overview", "depth-within", 4, ("panel", "label", "layers")),
        ("overview", "tradeoff", 4, ("panel", "label")),
        ("overview", "task-complexity", 2, ("panel", "label", "eta_pct")),
        ("theory", "gradient-noise", 4, ("panel", "run", "label")),
    ],
)
def test_no_two_values_share_a_place(
    section: str, name: str, charts: int, place: tuple[str, ...], drawn: Mapping[str, list[Figure]]
) -> None:
    """A chart per data set and recipe; those of tasks hold both data sets."""
    found = named(drawn, section, name)
    assert len(found) == len({figure.title for figure in found}) == charts
    for figure in found:
        assert most_alike(figure, *place) == 1
        figure.specification(validate=True)


def test_networks_of_another_family_are_on_no_line_of_this_one(drawn: Mapping[str, list[Figure]]) -> None:
    for figure in named(drawn, "overview", "depth-between"):
        of = {panel: {row["model"] for row in figure.rows if row["panel"] == panel} for panel in ("resnet", "vgg")}
        assert of == {"resnet": {"resnet8", "resnet20"}, "vgg": {"vgg11", "vgg16"}}  # and no cnn: it has one depth
        assert figure.panels == 2


def test_a_task_chart_compares_data_sets(drawn: Mapping[str, list[Figure]]) -> None:
    for figure, keeps in zip(named(drawn, "overview", "task-complexity"), KEEPS.values(), strict=True):
        assert {row["label"] for row in figure.rows} == {"easy", "hard"}
        noisy = {round(row["value"], 6) for row in figure.rows if row["eta_pct"]}
        assert noisy == {round(100 * keeps * 0.89 / 0.9, 6)}


def loss(sampling: str, targets: str, value: float, **other: Any) -> dict[str, Any]:
    """A row of query target_attribution, as `Inputs` has it."""
    row = {"dataset": "ten", "model": "resnet8", "training": "abc", "noise_model": "gaussian", "precision": "fp32"}
    row |= {"sigma_reference": "tensor_std", "bn_treatment": "stale", "placement": "all", "bn_kept": 2, "bn_sites": 2}
    row |= {"beyond": None if targets == "weights" else "weights", "eta": 0.1, "n": 5, "seeds": 1, "level": None}
    row |= {"low": None, "half": None, "added": value, "added_half": None, "nonfinite_pct": 0.0}
    return {**row, "sampling": sampling, "targets": targets, "value": value, **other}


@pytest.mark.parametrize(
    ("column", "other", "told"),
    [
        ("sampling", "random", "sampling"),
        ("noise_model", "uniform", "noise model"),
        ("training", "def", "recipe"),
    ],
)
def test_two_ways_of_scoring_are_two_sentences(column: str, other: str, told: str) -> None:
    first = [loss("full", "weights", 2.0), loss("full", "all", 10.0)]
    second = [{**row, column: other, "value": row["value"] + 20} for row in first]
    (alone,) = attribution(first)
    assert "σ reference tensor_std, η" in alone  # noqa: RUF001
    one, two = attribution([*first, *second])
    assert "costs 10.0 points" in one.replace(" (no interval)", "")
    assert "costs 30.0 points" in two.replace(" (no interval)", "")
    assert f", {told} {first[0][column]}, η" in one
    assert f", {told} {other}, η" in two


def test_two_kinds_of_noise_are_no_pair() -> None:
    everywhere = loss("full", "weights", 60.0)
    nowhere = {**everywhere, "placement": "none", "bn_kept": 0, "value": 90.0}
    assert widest_gap([everywhere, nowhere], "weights") == (everywhere, nowhere)
    assert widest_gap([everywhere, {**nowhere, "noise_model": "uniform"}], "weights") is None
