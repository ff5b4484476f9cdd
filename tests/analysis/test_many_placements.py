"""Reports of searches, and of sweeps with dozens of placements: what is drawn can be told apart."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import synthetic
import vl_convert
import yaml

from bnsweep.analysis import figures, panels
from bnsweep.analysis.charts import EVERYWHERE, NOWHERE
from bnsweep.analysis.claims import judge
from bnsweep.analysis.contents import all_figures
from bnsweep.analysis.crowd import cut, name_sides
from bnsweep.analysis.database import Database, open_database
from bnsweep.analysis.deciding import deciding_sweep
from bnsweep.analysis.figures import Figure
from bnsweep.analysis.inputs import Inputs, read_inputs
from bnsweep.analysis.report import report_html
from bnsweep.analysis.series import MOST, placement_label, select, short_labels
from bnsweep.analysis.theme import LIGHT, chart_config
from bnsweep.experiment.reading import parse_spec
from bnsweep.experiment.spec import Spec
from bnsweep.store.store import Store

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SMALL = tuple(f"{number:07b}" for number in (0, 127, *range(1, 64, 5)))  # of resnet8's 7 sites
# Of resnet20's 19: the first six sites as in a counter, the rest all alike, so that no effect of those is known.
LARGE = ("0" * 19, "1" * 19, "0" * 18 + "1", *(f"{number:06b}" + "0" * 13 for number in range(1, 64, 5)))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    store = Store.create(tmp_path_factory.mktemp("many") / "store")
    store.commit(synthetic.search_tables({"resnet8": SMALL, "resnet20": LARGE}, diverged=(f"resnet20 {LARGE[0]}",)))
    with open_database(store, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def inputs(searched: Database) -> Inputs:
    return read_inputs(searched)


@pytest.fixture(scope="module")
def drawn(inputs: Inputs) -> dict[str, list[Figure]]:
    return all_figures(inputs)


def labels(figure: Figure) -> set[str]:
    return {row["label"] for row in figure.rows}


def test_no_figure_has_more_series_than_colours(drawn: dict[str, list[Figure]]) -> None:
    small, large = drawn["accuracy"]
    assert (len(labels(small)), len(labels(large))) == (MOST, MOST - 1)  # no BN was not measured: its place is free
    assert {EVERYWHERE, NOWHERE} < labels(small)
    assert small.caption.startswith(f"8 of {len(SMALL)} placements: BN everywhere, no BN and the 6 with the highest")
    assert large.caption.startswith(f"7 of {len(LARGE) - 1} placements: BN everywhere and the 6 with the highest")
    assert all(len(labels(figure)) <= MOST for figure in [*drawn["normalized"], *drawn["attribution"]])
    (headline,) = drawn["headline"]
    assert labels(headline) == {EVERYWHERE, NOWHERE}


def test_those_drawn_are_the_most_accurate_at_the_largest_noise(inputs: Inputs) -> None:
    rows = [row for row in inputs.accuracy if row["model"] == "resnet8"]
    last = [row for row in rows if row["eta"] == max(each["eta"] for each in rows)]
    values: dict[str, list[float]] = {}
    for row in last:  # a mean over the panels
        values.setdefault(placement_label(row), []).append(row["value"])
    means = {label: sum(own) / len(own) for label, own in values.items() if label not in (EVERYWHERE, NOWHERE)}
    kept, _ = select(rows, what="highest accuracy")
    assert {placement_label(row) for row in kept} - {EVERYWHERE, NOWHERE} == set(
        sorted(means, key=means.__getitem__)[-6:]
    )


def test_up_to_eight_placements_are_all_drawn_as_they_come(inputs: Inputs) -> None:
    few = [row for row in inputs.accuracy if row["placement"] in ("all", "none")]
    assert few
    assert select(few, what="highest accuracy") == (few, "")
    (figure, *_) = figures.accuracy_figures(few)
    assert figure.caption.startswith("n = ")
    assert all("placement" not in row for row in figure.rows)


def test_long_masks_have_short_names_and_are_in_the_table(drawn: dict[str, list[Figure]]) -> None:
    _, large = drawn["accuracy"]
    assert max(map(len, labels(large))) < 20
    assert ("placement", "Placement") in large.table
    assert {len(row["placement"]) for row in large.rows} == {3, 19}  # all, and masks
    rows = [{"placement": mask, "bn_kept": 2, "bn_sites": 19} for mask in ("11" + "0" * 17, "0" * 17 + "11")]
    assert list(short_labels(rows).values()) == ["2 of 19, no. 2", "2 of 19, no. 1"]
    names: dict[str, set[str]] = {}  # one name for one placement, whichever figure it is in
    for figure in (large, drawn["normalized"][1]):
        for row in figure.rows:
            names.setdefault(row["placement"], set()).add(row["label"])
    assert all(len(own) == 1 for own in names.values())


def test_the_line_over_depth_goes_through_the_mean_at_each_number(drawn: dict[str, list[Figure]]) -> None:
    figure = next(each for each in drawn["overview"] if each.name.startswith("depth-within"))
    numbers = {(row["label"], row["layers"]) for row in figure.rows}
    assert len(numbers) < len(figure.rows)
    assert "Lines go through the mean" in figure.caption
    spec = {**figure.specification(), "config": chart_config(LIGHT)}
    picture = ElementTree.fromstring(vl_convert.vegalite_to_svg(json.dumps(spec)))
    paths = [path.get("d", "") for group in picture.iter() if "mark-line" in group.get("class", "") for path in group]
    assert sorted(path.count("L") + 1 for path in paths) == sorted(
        len({layers for label, layers in numbers if label == model}) for model in ("resnet8", "resnet20")
    )


def test_training_and_coverage_of_many_placements(drawn: dict[str, list[Figure]]) -> None:
    (training,) = drawn["training"]
    assert '"field": "kept_pct"' in json.dumps(training.specification())
    assert {row["kept_pct"] for row in training.rows} >= {0.0, 100.0}
    coverage = drawn["work"][0]
    assert {row["what"] for row in coverage.rows} == {"resnet8", "resnet20"}  # 26 bars would be too many


def test_the_service_s_figures_of_many_placements(searched: Database, inputs: Inputs) -> None:
    (curves,) = panels.loss_curves(inputs.epochs)
    assert '"field": "kept_pct"' in json.dumps(curves.specification())
    (pareto,) = panels.pareto(searched.query("tradeoff").to_dicts(), [])
    assert "Named: the ends" in pareto.caption
    for panel in {row["panel"] for row in pareto.rows}:
        own = [row for row in pareto.rows if row["panel"] == panel]
        named = {row["label"] for row in own if "name" in row}
        assert named >= {EVERYWHERE, NOWHERE} & {row["label"] for row in own}
        assert len(named) < len(own)
    assert vl_convert.vegalite_to_vega(
        json.dumps({**pareto.specification(validate=True), "config": chart_config(LIGHT)})
    )


def test_every_specification_compiles_without_warnings(
    drawn: dict[str, list[Figure]], capfd: pytest.CaptureFixture[str]
) -> None:
    for figure in (figure for section in drawn.values() for figure in section):
        spec = {**figure.specification(validate=True), "config": chart_config(LIGHT)}
        assert vl_convert.vegalite_to_vega(json.dumps(spec), show_warnings=True)["marks"], figure.name
    assert "WARN" not in capfd.readouterr().err


def test_intervals_do_not_stretch_the_axes() -> None:
    rows: list[dict[str, Any]] = [
        {"x": 90.0, "x_low": 89.0, "x_high": 91.0},
        {"x": 100.0, "x_low": 20.0, "x_high": 100.0},
        {"x": 95.0, "x_low": None, "x_high": None},
    ]
    assert cut(rows, "x", low="x_low", high="x_high") == 1
    assert [(row["x_from"], row["x_to"]) for row in rows] == [(89.0, 91.0), (88.0, 100.0), (None, None)]
    assert rows[1]["x_low"] == 20.0, "the table keeps the interval"


def test_names_stand_where_they_cover_no_point() -> None:
    ends = {"x_from": None, "x_to": None, "y_from": None, "y_to": None}
    wall = [{"x": 50.0 + dx, "y": 62.0, **ends} for dx in range(-20, 21, 2)]  # right above the point
    rows = [{"x": 50.0, "y": 55.0, **ends}, {"x": 0.0, "y": 0.0, **ends}, {"x": 100.0, "y": 100.0, **ends}, *wall]
    ((side, covered),) = name_sides(rows, {0: "BN everywhere"}, y="y", width=300, height=200).values()
    assert (side, covered) == ("right", 0)


def test_effects_that_are_not_told_apart_are_left_out_and_counted(inputs: Inputs) -> None:
    found = {each.model: each for each in inputs.searches}
    text = found["resnet20"].to_text()
    table = text.split("what BN at a site changes")[1]
    lines = table.splitlines()[2:]
    assert [line.split()[0] for line in lines[:7]] == ["1", "2", "3", "4", "5", "6", "19"]
    assert lines[7].startswith("12 sites are left out: ")  # 7 to 18 have BN in BN everywhere alone
    assert "left out" not in found["resnet8"].to_text()


def test_what_decides_a_searchs_claims_is_a_sweep_of_what_they_compare(searched: Database) -> None:
    specs = {verdict.name: verdict.spec for verdict in judge(searched) if verdict.spec}
    assert "baseline" in specs
    for text in specs.values():
        assert type(parse_spec(text)) is Spec
        assert "search" not in yaml.safe_load(text)
    ends = yaml.safe_load(specs["baseline"])["models"]
    # Without BN resnet20 diverged: the contrast is the placement with the fewest layers that were trained.
    assert ends == [
        {"name": "resnet8", "placements": ["all", "none"]},
        {"name": "resnet20", "placements": ["all", *(mask for mask in sorted(LARGE) if mask.count("1") == 1)]},
    ]
    every = yaml.safe_load(deciding_sweep(searched, "noise", {}, seeds=5, placements="every"))
    small, large = (set(model["placements"]) for model in every["models"])
    assert small == {"all", "none", *SMALL[2:]}
    assert large == {"all", *LARGE[2:]}


@pytest.fixture(scope="module")
def browser(searched: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A report of the search on a phone."""
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver")
    page: Path = tmp_path_factory.mktemp("page") / "report.html"
    page.write_text(report_html(searched), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get(page.as_uri())
    until(lambda: driver.execute_script("return document.documentElement.dataset.charts") == "drawn")
    yield driver
    driver.quit()


def until(true: Any, timeout_s: float = 60) -> Any:
    end = time.monotonic() + timeout_s
    while not (found := true()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def test_a_long_name_does_not_widen_the_page(browser: Any) -> None:
    browser.execute_script("document.querySelector('h1').textContent = 'on torchvision:' + 'shufflenet_v2'.repeat(9)")
    wide = browser.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0


def test_files_are_folded_and_printed(browser: Any) -> None:
    height = (
        "return document.querySelector('details.file pre').checkVisibility({contentVisibilityAuto: true}) &&"
        " document.querySelector('details.file pre').getBoundingClientRect().height > 0"
    )
    assert not browser.execute_script(height)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    until(lambda: browser.execute_script(height))  # the page is laid out anew for print, a frame later
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_mouse_on_a_placement_shows_its_network(browser: Any, inputs: Inputs) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    placed = next(each for each in inputs.searches if each.model == "resnet8").placed
    figure = browser.find_element(By.CSS_SELECTOR, "figure[id^='figure-front-'][id*='resnet8']")
    browser.execute_script("arguments[0].scrollIntoView()", figure)
    points = figure.find_elements(By.CSS_SELECTOR, ".mark-symbol.role-mark path")
    assert len(points) == len(placed)
    ActionChains(browser).move_to_element(points[-1]).perform()
    tip = until(lambda: next(iter(browser.find_elements(By.CSS_SELECTOR, "#vg-tooltip-element.visible")), None))
    rows = {row.text.split(":")[0]: row.text for row in tip.find_elements(By.TAG_NAME, "tr")}
    picture = tip.find_element(By.TAG_NAME, "img")
    until(lambda: browser.execute_script("return arguments[0].naturalWidth", picture))
    head, _, content = picture.get_attribute("src").partition(",")
    assert head == "data:image/svg+xml;base64"
    boxes = [each for each in ElementTree.fromstring(base64.b64decode(content)) if each.tag.endswith("rect")]
    mask = "".join("0" if box.get("fill") == "none" else "1" for box in boxes)
    assert mask in {each.mask for each in placed}
    assert mask in tip.text, rows
