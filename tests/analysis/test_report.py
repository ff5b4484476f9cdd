"""The report is one file that loads nothing, shows the store's numbers, and keeps hostile names harmless."""

# ruff: noqa: RUF001 - reports have true minus signs, dashes and the paper's Greek letters.

from __future__ import annotations

import importlib.util
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from bnsweep.analysis.database import open_database, open_paper
from bnsweep.analysis.inputs import read_inputs
from bnsweep.analysis.page import Table
from bnsweep.analysis.report import report_html, write_figures, write_report
from bnsweep.analysis.tables import evidence
from bnsweep.analysis.wording import close, number
from bnsweep.errors import InputError, StoreUnwritableError
from bnsweep.store.store import Store

_spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).with_name("synthetic.py"))
assert _spec is not None
assert _spec.loader is not None
synthetic = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic)

VOID = {"meta", "br", "link", "img", "input", "hr"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Tags in balance, what they load, ids and links, and the text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "action", "data", "poster") or (name == "href" and tag != "a"):
                self.loads.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value or "")
            if name == "href" and tag == "a":
                self.targets.append(value or "")
            assert not name.startswith("on"), f"{tag} has a handler {name}={value}"

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        {"script": self.scripts, "style": self.styles}.get(inside, self.text).append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).replace("\u00a0", " ").split())

    @property
    def charts(self) -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = json.loads(self.scripts[0])
        return found


def make_store(folder: Path, *sweeps: dict[str, pa.Table]) -> Store:
    store = Store.create(folder)
    with store.claim():
        for tables in sweeps:
            store.commit(tables)
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make_store(tmp_path_factory.mktemp("report") / "store", synthetic.tables(trials=5, seeds=3))


@pytest.fixture(scope="module")
def html(store: Store) -> str:
    with open_database(store) as database:
        return report_html(database)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_is_balanced_and_loads_nothing(html: str, page: Page) -> None:
    assert page.open == []
    assert page.loads == []
    assert not re.search(r"url\(|@import", "".join(page.styles))
    assert "default-src 'none'" in html
    assert {"link", "img", "iframe", "object", "embed"}.isdisjoint(page.tags)


def test_ids_are_unique_and_links_lead_somewhere(page: Page) -> None:
    assert len(set(page.ids)) == len(page.ids)
    for target in page.targets:
        assert target.startswith("#"), target
        assert target[1:] in page.ids


def test_every_chart_has_its_specification_once(html: str, page: Page) -> None:
    boxes = re.findall(r'data-chart="([^"]+)"', html)
    assert boxes
    assert sorted(page.charts["specs"]) == sorted(boxes)
    assert html.count("vegaEmbed=") == 1, "the libraries are there once"


def test_the_headline_says_the_store_s_numbers(page: Page) -> None:
    rows = synthetic.tables(trials=5, seeds=3)["trials"].to_pylist()

    def mean(placement: str, eta: float) -> float:
        per_seed: dict[int, list[float]] = {}
        for row in rows:
            wanted = ("resnet20", placement, "weights", "stale", eta)
            if (row["model"], row["placement"], row["targets"], row["bn_treatment"], float(row["eta"])) == wanted:
                per_seed.setdefault(row["train_seed"], []).append(row["correct"] / row["images"])
        return 100 * sum(sum(v) / len(v) for v in per_seed.values()) / len(per_seed)

    found = re.search(
        r"resnet20 on digits, noise on weights at η = (\d+) %, where the two differ most: accuracy is "
        r"([\d.]+) ± [\d.]+ % with BN everywhere and ([\d.]+) ± [\d.]+ % without BN \(n = 15 trials on 3 training "
        r"runs each",
        page.words,
    )
    assert found, page.words[:800]
    eta = int(found[1]) / 100
    assert float(found[2]) == pytest.approx(mean("all", eta), abs=0.05)
    assert float(found[3]) == pytest.approx(mean("none", eta), abs=0.05)


def test_the_page_has_all_its_parts(html: str, page: Page) -> None:
    for part in (
        "BN everywhere against no BN", "in the form of the paper's Tables II and III", "Normalized accuracy in %",
        "Average normalized accuracy (eq. 14", "What the noise hit", "Training runs, failed ones included",
        "What was given up", "Planned points: done, missing, diverged, failed", "The sweep file", "Words and units",
        "MemoryError: 2.0 GiB asked for", "no better than chance", "bnsweep 0.1.0, torch 2.15.0",
    ):  # fmt: skip
        assert part in page.words, part
    assert "SQL behind this (accuracy)" in page.words
    assert "prefers-color-scheme: dark" in html
    assert 'name="viewport"' in html


def test_the_attribution_paragraph_splits_the_loss(page: Page) -> None:
    found = re.search(
        r"noise on all parameters costs ([\d.]+) ± [\d.]+ points of accuracy, noise on the weights alone ([\d.]+) ± "
        r"[\d.]+ \((\d+) % of it\); noise on biases adds (−?[\d.]+) ± [\d.]+, noise on BN's γ and β adds (−?[\d.]+) ± "
        r"[\d.]+ and noise on BN's running statistics adds (−?[\d.]+) ±",
        page.words,
    )
    assert found, page.words
    values = [float(v.replace("−", "-")) for v in found.groups()]
    everything, weights, share, *added = values
    assert weights + sum(added) == pytest.approx(everything, abs=0.25)  # rounding of five figures
    assert share == pytest.approx(100 * weights / everything, abs=1)


def test_no_two_lines_of_a_claim_s_evidence_are_alike(store: Store) -> None:
    with open_database(store) as database:
        blocks = [block for block in evidence(read_inputs(database)) if isinstance(block, Table)]
    heads = {block.anchor: [column.title for column in block.columns] for block in blocks}
    for block in blocks:
        told = [tuple(cell.text for cell in row[: heads[block.anchor].index("From, to") + 1]) for row in block.rows]
        assert len(set(told)) == len(told), block.anchor
    (noise,) = (block for block in blocks if block.anchor == "claim-noise")
    at = heads["claim-noise"].index("Placement")
    assert {row[at].text for row in noise.rows} == {"BN everywhere", "no BN", "first: 4"}
    assert "Placement" not in heads["claim-baseline"]


def test_one_run_and_few_trials_are_marked(tmp_path: Path) -> None:
    tables = synthetic.tables(trials=1, seeds=1, failures=False, models=("resnet8",))
    with open_database(make_store(tmp_path / "store", tables)) as database:
        page = Page(report_html(database))
    assert "◦ marks a figure without one" in page.words
    assert "(no interval)" in page.words
    assert "hollow points have no interval" in page.words


def test_an_empty_store_gives_a_report_that_says_so(tmp_path: Path) -> None:
    with open_database(Store.create(tmp_path / "store")) as database:
        path = write_report(database, tmp_path / "report.html")
        assert write_figures(database, tmp_path / "figures") == []
    page = Page(path.read_text(encoding="utf-8"))
    assert "No noise trials yet" in page.words
    assert page.scripts == []


def test_the_paper_s_own_report(tmp_path: Path) -> None:
    with open_paper() as database:
        page = Page(report_html(database))
    assert "66.16 ◦" in page.words, "Table II, ResNet_20 with BN at 20 %, without interval"
    assert "Computed with" in page.words


HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>{{7*7}}"


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    tables = synthetic.tables(sweep=HOSTILE, dataset=HOSTILE, models=("resnet8",), trials=2, seeds=2)
    renamed = {}
    for name, table in tables.items():
        changed = table
        for column in ("model", "reason", "error"):
            if column in table.column_names:
                index = table.column_names.index(column)
                values = pa.array([HOSTILE] * table.num_rows)
                changed = changed.set_column(index, table.schema.field(column), values)
        renamed[name] = changed
    with open_database(make_store(tmp_path / "store", renamed)) as database:
        html = report_html(database)
        written = write_figures(database, tmp_path / "figures")
    page = Page(html)
    assert page.open == []
    assert page.loads == []
    assert "img" not in page.tags
    assert page.tags.count("script") == 3, "the charts' data, the libraries, ours"
    assert HOSTILE in page.words, "shown as it is"
    assert "</script" not in page.scripts[0].lower()
    assert HOSTILE in json.dumps(page.charts, ensure_ascii=False)
    assert all(re.fullmatch(r"[a-z0-9.-]+\.(pdf|svg|png)", path.name) for path in written)
    assert all(path.parent == tmp_path / "figures" for path in written)


def test_figures_are_real_pictures(tmp_path: Path) -> None:
    tables = synthetic.tables(trials=3, seeds=2, models=("resnet8",), partial=False, failures=False)
    with open_database(make_store(tmp_path / "store", tables)) as database:
        written = write_figures(database, tmp_path / "figures")
    assert {path.suffix for path in written} == {".pdf", ".svg", ".png"}
    for svg in (path for path in written if path.suffix == ".svg"):
        root = ET.fromstring(svg.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert len(list(root.iter())) > 20
        assert "Sweep synthetic. " in "".join(root.itertext()), "a picture says of itself what it shows"
        assert not [e for e in root.iter() if e.tag.endswith("image")]
        with Image.open(io.BytesIO(svg.with_suffix(".png").read_bytes())) as picture:
            assert picture.width == pytest.approx(2 * float(root.get("width") or 0), abs=2)
            assert len(picture.convert("RGB").resize((120, 80)).getcolors(9600) or []) > 10, "not blank"
        pdf = svg.with_suffix(".pdf").read_bytes()
        assert pdf.startswith(b"%PDF-")
        assert pdf.rstrip().endswith(b"%%EOF")
        assert b"/Font" in pdf, "text stays text"


def test_places_that_cannot_be_written_to(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with open_database(store) as database:
        with pytest.raises(InputError, match=r"is a directory; name a file in it, e\.g\. .*report\.html"):
            write_report(database, tmp_path)
        with pytest.raises(InputError, match="figures go into a directory, but .*file is a file"):
            write_figures(database, tmp_path / "file")
        with pytest.raises(
            StoreUnwritableError,
            match=r"cannot write .*report\.html: part of the path is a file, not a folder; put this",
        ):
            write_report(database, tmp_path / "file" / "report.html")


def test_numbers_as_people_write_them() -> None:
    assert number(-0.04) == "0.0"
    assert number(-1.25, digits=2) == "−1.25"
    assert number(1234567) == "1\u202f234\u202f567"
    assert number(None) == number(float("nan")) == "–"
    assert close("3 ± 1 %") == "3\u00a0±\u00a01\u00a0%"


# --- in a real browser -----------------------------------------------------------------------------------------------

PROBE = """<script>
(() => {
  const root = document.documentElement;
  const done = () => {
    const boxes = [...document.querySelectorAll(".chart")];
    const wide = (box) => box.querySelector("svg").getBoundingClientRect().width > box.clientWidth + 1;
    parent.postMessage({
      width: window.innerWidth,
      overflow: root.scrollWidth - root.clientWidth,
      boxes: boxes.length,
      drawn: boxes.filter((box) => box.querySelector("svg.marks path")).length,
      wide: boxes.filter(wide).map((box) => box.dataset.chart).join(" "),
      background: getComputedStyle(document.body).backgroundColor,
    }, "*");
  };
  const wait = () => (root.dataset.charts === "drawn" ? done() : setTimeout(wait, 50));
  wait();
})();
</script></body>"""
# A headless window has a least width of 500 pixels, so a phone is a frame.
FRAME = """<!DOCTYPE html><body style="margin:0"><iframe src="report.html" style="border:0;height:900px;width:WIDTHpx">
</iframe><script>onmessage = (event) => { document.body.textContent = "FOUND" + JSON.stringify(event.data) + "END"; }
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_browser_draws_every_chart_without_complaint(html: str, tmp_path: Path, width: int, dark: bool) -> None:
    path = tmp_path / "report.html"
    before, after = html.rsplit("</body>", 1)  # the last one: the libraries' code has more
    path.write_text(before + PROBE + after, encoding="utf-8")
    assert CHROMIUM is not None
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--virtual-time-budget=60000",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []), "--dump-dom", frame.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    told = re.search(r"FOUND(.*)END</body>", done.stdout)
    assert told, done.stderr[-2000:]
    found = json.loads(told[1])
    assert found["width"] == width
    assert found["overflow"] == 0
    assert found["boxes"] > 5
    assert found["drawn"] == found["boxes"]
    assert found["wide"] == ""
    assert found["background"] == ("rgb(18, 22, 29)" if dark else "rgb(255, 255, 255)")
