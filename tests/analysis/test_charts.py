"""Every figure is a valid specification that says its n and its interval, in colours that can be told apart."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from bnsweep.analysis import charts, figures, panels
from bnsweep.analysis.contents import all_figures
from bnsweep.analysis.database import open_database, open_paper
from bnsweep.analysis.figures import Figure
from bnsweep.analysis.inputs import Inputs, read_inputs
from bnsweep.analysis.theme import DARK, LIGHT, chart_config
from bnsweep.store.store import Store

CUT = ("value_from", "value_to", "x_from", "x_to")
_spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).with_name("synthetic.py"))
assert _spec is not None
assert _spec.loader is not None
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    store = Store.create(tmp_path_factory.mktemp("charts") / "store")
    with store.claim():
        store.commit(synthetic.tables(trials=5, seeds=3))
        store.commit(synthetic.tables(sweep="harder", dataset="cifar10", models=("resnet20",), trials=5, seeds=3))
    with open_database(store) as database:
        return read_inputs(database)


@pytest.fixture(scope="module")
def drawn(inputs: Inputs) -> list[Figure]:
    return [figure for section in all_figures(inputs).values() for figure in section]


def test_the_sweep_has_every_kind_of_figure(drawn: list[Figure]) -> None:
    kinds = {
        "headline", "accuracy", "normalized", "attribution", "tradeoff", "depth-between", "depth-within",
        "task-complexity", "training", "coverage", "timeline",
    }  # fmt: skip
    found = {next(kind for kind in kinds if figure.name.startswith(kind)) for figure in drawn}
    assert found == kinds
    assert len({figure.name for figure in drawn}) == len(drawn)


def test_each_specification_is_valid_vega_lite_and_compiles_without_warnings(
    drawn: list[Figure], capfd: pytest.CaptureFixture[str]
) -> None:
    import vl_convert

    for figure in drawn:
        spec = figure.specification(validate=True)  # altair checks it against the Vega-Lite schema
        compiled = vl_convert.vegalite_to_vega(json.dumps({**spec, "config": chart_config(DARK)}), show_warnings=True)
        assert compiled["marks"], figure.name
    assert "WARN" not in capfd.readouterr().err


def test_each_figure_says_how_much_is_behind_it(drawn: list[Figure]) -> None:
    for figure in drawn:
        assert re.search(r"\bn = \d", figure.caption), figure.name
        assert figure.table, figure.name
        assert "interval" in figure.caption or figure.name in ("coverage", "timeline"), figure.name


def test_weights_and_all_come_first_with_bn_everywhere_against_no_bn(inputs: Inputs) -> None:
    first = next(iter(figures.accuracy_figures(inputs.accuracy)))
    panels = list(dict.fromkeys(row["panel"] for row in first.rows))
    assert panels[:2] == ["noise on weights", "noise on all parameters"]
    assert '"domain": ["BN everywhere", "no BN"' in json.dumps(first.specification()), "the first two colours"


def test_values_are_the_store_s_means(inputs: Inputs) -> None:
    rows = synthetic.tables(trials=5, seeds=3)["trials"].to_pylist()
    wanted = ("resnet20", "all", "weights", "stale", 0.2)
    per_seed: dict[int, list[float]] = {}
    for row in rows:
        if (row["model"], row["placement"], row["targets"], row["bn_treatment"], float(row["eta"])) == wanted:
            per_seed.setdefault(row["train_seed"], []).append(row["correct"] / row["images"])
    mean = 100 * sum(sum(v) / len(v) for v in per_seed.values()) / len(per_seed)
    figure = next(f for f in figures.accuracy_figures(inputs.accuracy) if "digits-resnet20" in f.name)
    drawn = next(
        row
        for row in figure.rows
        if (row["panel"], row["label"], row["eta_pct"]) == ("noise on weights", charts.EVERYWHERE, 20.0)
    )
    assert drawn["value"] == pytest.approx(mean)
    assert drawn["low"] <= mean <= drawn["high"]
    assert (drawn["n"], drawn["seeds"]) == (15, 3)


def test_a_value_without_interval_is_a_hollow_point() -> None:
    row = {
        "panel": "", "label": "x", "source": "bnsweep", "model": "m", "eta_pct": 0.0, "value": 90.0, "low": None,
        "high": None, "n": 1, "seeds": 1,
    }  # fmt: skip
    firm = {**row, "eta_pct": 10.0, "low": 80.0, "high": 85.0, "value": 83.0}

    def fills(rows: list[dict[str, Any]]) -> list[bool]:
        layers = charts.curves(rows, title="accuracy, %").to_dict()["layer"]
        return [layer["mark"]["filled"] for layer in layers if layer["mark"]["type"] == "point"]

    assert fills([row]) == [False]
    assert fills([firm]) == [True]
    assert sorted(fills([row, firm])) == [False, True]
    assert "hollow points have no interval" in figures.behind([row, firm])


def _ticks(figure: Figure) -> list[list[str]]:
    """What stands at the ticks of each axis, as drawn."""
    import vl_convert

    spec = {**figure.specification(), "config": chart_config(LIGHT)}
    svg = vl_convert.vegalite_to_svg(json.dumps(spec))
    axes = re.findall(r'role-axis-label"[^>]*>(.*?)</g>', svg)
    return [re.findall(r">([^<]*)</text>", axis) for axis in axes]


@pytest.mark.parametrize("last", [1, 2, 3, 4, 12])
def test_an_axis_of_few_whole_numbers_has_each_of_them_once(last: int) -> None:
    known = {"panel": "p", "label": "x", "kept_pct": 100.0, "run": "r", "model": "m", "n": 1, "seeds": 1}
    ends = {"value": 80.0, "low": 70.0, "high": 90.0}
    counted = [{**known, **ends, "epoch": number, "layers": number} for number in range(1, last + 1)]
    planned = [{"what": "m", "status": "done", "points": last, "rank": 0}]
    draws = [{"targets": "all", "bn_treatment": "stale", "eta": 0.1, "trial": 0, "accuracy_pct": 50.0}] * last
    answer = [{"bn_kept": number, "loss": 0.5} for number in range(last + 1)]
    from_0 = [str(number) for number in range(last + 1)]

    def of(chart: Any, rows: list[dict[str, Any]]) -> list[str]:
        return _ticks(Figure(name="x", title="", caption="", chart=chart, rows=rows))[0]

    assert of(charts.training(counted), counted) == from_0[1:]
    assert of(charts.depth_trend(counted, axis="BN layers", legend=""), counted) == from_0
    assert of(charts.coverage(planned), planned) == from_0
    assert _ticks(next(panels.training_curve([{
        "epoch": number, "train_loss": 1.0, "train_accuracy": 0.5, "test_correct": 1, "test_images": 2,
    } for number in range(1, last + 1)])))[0] == from_0[1:]  # fmt: skip
    (figure,) = panels.of_result(answer, x="bn_kept", y="loss", colour=None)
    figure.chart.width = 600  # as wide as the page, there
    assert _ticks(figure)[0] == from_0
    (histogram,) = panels.histogram(draws)
    (upright,) = _ticks(histogram)[1:]
    assert upright == list(dict.fromkeys(upright))
    assert set(upright) <= set(from_0)


def test_the_axis_says_in_plain_words_what_noise_is_a_share_of(drawn: list[Figure]) -> None:
    said = json.dumps([figure.specification() for figure in drawn], ensure_ascii=False)
    assert said.count("noise η, % of each tensor's standard deviation") > 3
    assert charts.OVER_ETA not in said
    others = [{"sigma_reference": name} for name in ("tensor_std", "tensor_max")]
    assert charts.eta_title(others) == charts.OVER_ETA


def test_the_paper_s_curve_is_dashed_beside_ours(inputs: Inputs) -> None:
    figure = next(
        f for f in figures.accuracy_figures(inputs.accuracy, paper=inputs.paper_accuracy) if "cifar10" in f.name
    )
    paper = [row for row in figure.rows if row["source"] == "paper" and row["panel"] == "noise on weights"]
    # Table II, ResNet_20 with BN at 20 % and without at 10 %
    by_key = {(row["label"], row["eta_pct"]): row["value"] for row in paper}
    assert by_key["BN everywhere", 20.0] == pytest.approx(66.16)
    assert "dashed" in figure.caption
    assert "strokeDash" in json.dumps(figure.specification())


def test_the_paper_itself_can_be_drawn() -> None:
    with open_paper() as database:
        drawn = [figure for section in all_figures(read_inputs(database)).values() for figure in section]
    assert any(figure.name.startswith("accuracy-cifar10-resnet-20") for figure in drawn)
    assert any(figure.name.startswith("task-complexity") for figure in drawn)
    for figure in drawn:
        figure.specification()


def _contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", [LIGHT, DARK])
def test_a_placement_has_one_colour_in_all_charts(look: dict[str, Any]) -> None:
    import vl_convert

    placements = [("all", 7), ("first: 4", 4), ("first: 2", 2), ("none", 0)]
    labels = [charts.EVERYWHERE, "first: 4 (4 of 7)", "first: 2 (2 of 7)", charts.NOWHERE]
    first, second, third, fourth, *_ = look["category"]
    wanted = dict(zip(labels, (first, third, fourth, second), strict=True))
    network = {"model": "m", "dataset": "d", "bn_sites": 7, "train_seed": 0, "train_loss": 1.0, "training": "t"}
    values = {"value": 60.0, "low": 50.0, "high": 70.0, "x": 80.0, "x_low": None, "x_high": None, "n": 3, "seeds": 2}
    epochs = [
        {**network, "placement": name, "bn_kept": kept, "run_id": name, "epoch": epoch, "test_accuracy_pct": 50.0}
        for name, kept in placements
        for epoch in (1, 2)
    ]
    points = [{**values, "panel": "", "label": label, "source": "bnsweep", "eta_pct": 0.0} for label in labels]
    answer = [{"placement": name, "eta": eta, "y": 1.0} for name, _ in sorted(placements) for eta in (0.0, 0.1)]

    def colours(figure: Figure) -> dict[str, set[str]]:
        svg = vl_convert.vegalite_to_svg(json.dumps({**figure.specification(), "config": chart_config(look)}))
        marked = re.findall(r'aria-label="[^"]*?(?:[Pp]lacement|series): ([^";]+)[^>]*?(?:fill|stroke)="([^"]+)"', svg)
        return {label: {colour for name, colour in marked if name == label} for label in {name for name, _ in marked}}

    def of(chart: Any, rows: list[dict[str, Any]]) -> Figure:
        return Figure(name="x", title="", caption="", chart=chart, rows=rows)

    same = {label: {colour} for label, colour in wanted.items()}
    assert colours(next(panels.loss_curves(epochs))) == same
    assert colours(of(charts.curves(points, title="accuracy, %"), points)) == same
    assert colours(of(charts.tradeoff(points), points)) == same
    (figure,) = panels.of_result(answer, x="eta", y="y", colour="placement")
    figure.chart.width = 600
    assert colours(figure)["all"] == {first}
    assert colours(figure)["none"] == {second}
    ends = [
        {**points[i], "kept_pct": kept, "side": "left", "name": "x", **dict.fromkeys(CUT, 50.0)}
        for i, kept in ((0, 100), (-1, 0))
    ]
    drawn = colours(of(charts.tradeoff(ends), ends))
    rgb = {
        label: f"rgb({', '.join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))})"
        for label, colour in wanted.items()
    }
    assert drawn == {label: {rgb[label]} for label in (charts.EVERYWHERE, charts.NOWHERE)}


@pytest.mark.parametrize(("look", "page"), [(LIGHT, "#ffffff"), (DARK, "#12161d")])
def test_colours_stand_out_from_the_page(look: dict[str, Any], page: str) -> None:
    assert all(_contrast(colour, page) >= 3 for colour in look["category"])  # WCAG 1.4.11, graphics
    assert _contrast(look["ink"], page) >= 7
    assert _contrast(look["soft"], page) >= 4.5


@pytest.mark.parametrize("look", [LIGHT, DARK])
def test_the_two_main_colours_differ_for_every_colour_vision(look: dict[str, Any]) -> None:
    # Viénot, Brettel and Mollon 1999: projections to what protanopes and deuteranopes see, in linear RGB.
    protan = ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0))
    deutan = ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0))
    first, second = ([(int(c[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)] for c in look["category"][:2])
    for matrix in (protan, deutan):
        seen = [[sum(m * c for m, c in zip(row, colour, strict=True)) for row in matrix] for colour in (first, second)]
        assert max(abs(a - b) for a, b in zip(*seen, strict=True)) > 0.2


def test_an_axis_of_huge_whole_numbers_is_no_trouble() -> None:
    for ends in ([], [0, 2**63 - 1], [10**18, 17579757374727843376]):
        assert charts.whole_axis(ends).to_dict()["format"] == "d"
