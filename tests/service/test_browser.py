"""The service in a real browser: Debian's chromium, driven as a person would, at the size of a desk and of a phone.

One sweep, the quickstart, is submitted in the desk's browser and watched to its end; everything after reads its rows.
Screenshots of every page are kept under out/service/.
"""

import base64
import csv
import shutil
from pathlib import Path

import pytest
import served as helpers

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.common.exceptions import ElementClickInterceptedException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (Debian: chromium, chromium-driver)"
)

OUT = Path(__file__).parent.parent.parent / "out" / "service"
DESK, PHONE = (1280, 900), (375, 812)
RUNS, TRIALS = 3 * 3, 3 * 3 * 2 * (1 + 5 * 8)  # placements x seeds; cells; eta 0 once, five levels with 8 draws
QUESTION = "SELECT placement, count(*) AS n FROM trials GROUP BY ALL ORDER BY ALL"
CELLS = ["all", str(TRIALS // 3), "first-3", str(TRIALS // 3), "none", str(TRIALS // 3)]
POINTS = "#figure-pareto svg path[role=link]"


class Browser:
    """A page and its person."""

    def __init__(self, address, size, downloads):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ):
            options.add_argument(argument)
        options.add_argument(f"--window-size={size[0]},{size[1]}")
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.address, self.name, self.downloads = address, "desk" if size == DESK else "phone", downloads
        self.width = size[0]
        if size == PHONE:
            metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 2, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, path):
        self.driver.get(self.address + path)

    def find(self, css):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def all(self, css):
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def text(self):
        return self.driver.find_element(By.TAG_NAME, "body").text

    def until(self, true, timeout_s=60):
        def calm():
            try:
                return true()
            except Exception:  # noqa: BLE001 (the page moves under our hands)
                return None

        return helpers.wait_until(calm, timeout_s, every_s=0.1)

    def drawn(self):
        """Wait until every chart of the page is a picture."""
        self.until(lambda: self.driver.execute_script("return document.documentElement.dataset.charts") == "drawn")
        boxes = self.all(".chart")
        assert boxes
        assert all(box.find_elements(By.CSS_SELECTOR, "svg") for box in boxes)

    def click_any(self, elements):
        """Click the first of these that nothing lies over."""
        for element in elements:
            try:
                element.click()
            except ElementClickInterceptedException:
                continue
            return True
        return False

    def keep(self, page):
        """Keep a picture of the whole page, and hold that nothing sticks out of it."""
        OUT.mkdir(parents=True, exist_ok=True)
        # `innerWidth` alone grows with what does not fit, on a phone.
        script = "return document.documentElement.scrollWidth - Math.min(innerWidth, arguments[0])"
        wide = self.driver.execute_script(script, self.width)
        assert wide <= 0, f"{page} is {wide} pixels wider than the {self.name}"
        size = self.driver.execute_script("return [innerWidth, Math.min(4000, document.documentElement.scrollHeight)]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        (OUT / f"{self.name}-{page}.png").write_bytes(base64.b64decode(shot["data"]))

    def complaints(self):
        """What the browser's console holds against the page, but for answers that we ask for."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def press(self, *keys):
        """Press keys where the focus is; the element that then has it."""
        self.driver.switch_to.active_element.send_keys(*keys)
        return self.driver.switch_to.active_element

    def download(self, name, rows):
        """Follow the page's link to its rows as CSV, and hold that the file has them."""
        self.find("p.forms a[href*='.csv']").click()
        file = self.until(lambda: next(iter(self.downloads.glob(f"{name}*.csv")), None))
        assert list(csv.reader(file.read_text().splitlines())) == [list(row) for row in rows]

    def sign_in(self, token):
        self.open("/signin")
        self.find("#token").send_keys(token)
        self.find("form.narrow button").click()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    tokens = helpers.make_tokens(folder / "store")
    with helpers.service(folder / "store", "--setting", "price_per_core_hour", 2) as running:
        yield folder, running, tokens


@pytest.fixture(scope="module")
def desk(place):
    browser = Browser(place[1].address, DESK, place[0] / "downloads")
    yield browser
    browser.driver.quit()


@pytest.fixture(scope="module")
def phone(place):
    browser = Browser(place[1].address, PHONE, place[0] / "phone")
    yield browser
    browser.driver.quit()


@pytest.fixture(params=["desk", "phone"])
def browser(request):
    return request.getfixturevalue(request.param)


def test_who_has_no_token_is_refused(browser):
    browser.open("/sweeps")
    assert "/signin?next=%2Fsweeps" in browser.driver.current_url
    browser.sign_in("bnsweep-00000000-guessed")
    browser.until(lambda: "That is no valid token." in browser.text())
    assert browser.driver.get_cookie("bnsweep_token") is None
    browser.keep("refused")
    browser.complaints()  # of the 401


@pytest.mark.timeout(1200)  # a minute on two quiet cores
def test_a_person_submits_the_quickstart_and_watches_it_finish(desk, place):
    desk.sign_in(place[2]["runner"])
    desk.until(lambda: "runner (runner)" in desk.text())
    cookie = desk.driver.get_cookie("bnsweep_token")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    desk.find("nav a[href='/new']").click()
    area = desk.find("#spec")
    area.clear()
    area.send_keys(helpers.TINY.replace("resnet8", "resnet21").replace("trials: 4", "trails: 4"))
    desk.until(lambda: "line 9: trails: unknown key" in desk.find(".problems").text)
    assert desk.find(".numbers .bad").text.strip() == "9"
    desk.keep("new-with-errors")
    desk.open("/new?ready=quickstart")
    desk.until(lambda: f"{RUNS} planned, 0 there already" in desk.find(".plan").text)
    assert f"{TRIALS} planned, 0 there already" in desk.find(".plan").text
    assert "Cost" in desk.find(".plan").text
    desk.keep("new")
    desk.find("button[value=submit]").click()
    desk.until(lambda: desk.driver.current_url.endswith("/sweeps/quickstart"))
    # Nobody loads the page again: the events do.
    desk.until(lambda: float(desk.find("#done-pct").text.rstrip(" %")) > 10, 600)
    desk.keep("sweep-running")
    desk.until(lambda: desk.find(".status-line .state").text == "done" and desk.all(".chart svg"), 900)
    ends = (f"{RUNS} of {RUNS} networks trained", f"{TRIALS} trials")
    desk.until(lambda: all(text in desk.find(".facts").text for text in ends), 120)
    desk.drawn()
    assert len(desk.all("#runs ~ .scroll tbody")[0].find_elements(By.TAG_NAME, "tr")) == RUNS
    desk.keep("sweep")
    assert desk.complaints() == []


def test_figures_open_runs_by_mouse(desk):
    desk.until(lambda: desk.open("/compare") or desk.all(".chart"))  # what was seen before the rows came may come once
    desk.drawn()
    desk.keep("compare")
    points = desk.all(POINTS)
    assert len(points) == RUNS * 2  # cells
    desk.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", points[0])
    desk.until(lambda: desk.click_any(points) and "/runs/" in desk.driver.current_url)
    desk.drawn()
    assert len(desk.all(".sites li")) == 9
    assert {"Training", "Accuracy over noise", "Spread of the draws"} <= {h.text for h in desk.all("h3")}
    desk.keep("run")
    assert desk.complaints() == []


def test_figures_open_runs_by_keyboard(desk):
    """A chart is one stop of the Tab key; arrows go from point to point, Enter opens, each says what it is."""
    desk.open("/compare")
    desk.drawn()
    for _ in range(60):
        point = desk.press(Keys.TAB)
        if point.get_attribute("role") == "link":
            break
    first = point.get_attribute("aria-label")
    assert "training seed" in first
    assert "baseline" in first
    second = desk.press(Keys.ARROW_RIGHT).get_attribute("aria-label")
    assert "training seed" in second
    assert second != first
    assert desk.press(Keys.HOME).get_attribute("aria-label") == first
    assert desk.press(Keys.TAB).get_attribute("role") != "link"
    desk.press(Keys.SHIFT, Keys.TAB)
    desk.press(Keys.END, Keys.ENTER)
    desk.until(lambda: "/runs/" in desk.driver.current_url)


def test_a_question_and_its_files(desk):
    desk.open("/ask")
    desk.keep("ask")
    desk.find("#sql").send_keys(QUESTION, Keys.CONTROL, Keys.ENTER)
    desk.until(lambda: "sql=SELECT" in desk.driver.current_url)
    desk.until(lambda: [cell.text for cell in desk.all("tbody td")] == CELLS)
    desk.keep("answer")
    desk.download("answer", [["placement", "n"], *zip(CELLS[::2], CELLS[1::2], strict=True)])
    again = desk.driver.current_url
    desk.open("/sweeps")
    desk.driver.get(again)  # a link is the question
    assert CELLS[1] in desk.find("tbody").text
    desk.open("/ask/accuracy")
    Select(desk.find("select[name=view]")).select_by_visible_text("chart")
    desk.find("form.row button").click()
    desk.drawn()
    desk.keep("answer-chart")
    desk.open("/ask?sql=SELECT+nothing+FROM+trials")
    assert "nothing" in desk.find(".error").text
    desk.keep("answer-error")
    assert [text for text in desk.complaints() if "400" not in text] == []


def test_everything_is_there_by_keyboard(desk):
    desk.open("/sweeps")
    assert desk.press(Keys.TAB).text == "Skip to the content"
    seen = {desk.press(Keys.TAB).text for _ in range(12)}
    assert {"Sweeps", "Compare", "Ask", "New sweep", "Sign out", "quickstart"} <= seen
    outline = desk.driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_dark_pages_are_dark(browser, place):
    if browser.name == "phone":
        browser.sign_in(place[2]["viewer"])
        browser.until(lambda: "viewer (viewer)" in browser.text())
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    for page in ("sweeps/quickstart", "compare"):
        browser.open(f"/{page}")
        browser.drawn()
        colour = browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert colour == "rgb(18, 22, 29)"
        browser.keep(f"{page.partition('/')[0]}-dark")
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_viewer_on_a_phone(phone, place):
    """Every page fits a phone; what a viewer may not do is not offered, and refused."""
    phone.open("/sweeps")
    assert not phone.all("nav a[href='/new']")
    phone.keep("sweeps")
    phone.open("/sweeps/quickstart")
    phone.drawn()
    phone.keep("sweep")
    phone.open("/compare")
    phone.drawn()
    phone.keep("compare")
    points = phone.all(POINTS)
    phone.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", points[0])
    phone.until(lambda: phone.click_any(points) and "/runs/" in phone.driver.current_url)
    phone.drawn()
    phone.keep("run")
    phone.open("/ask")
    phone.find("#sql").send_keys(QUESTION)
    phone.find("#ask button").click()
    phone.until(lambda: [cell.text for cell in phone.all("tbody td")] == CELLS)
    phone.download("answer", [["placement", "n"], *zip(CELLS[::2], CELLS[1::2], strict=True)])
    phone.open("/ask/accuracy?view=chart")
    phone.drawn()
    phone.keep("ask")
    assert phone.complaints() == []
    phone.open("/new")
    assert "this takes the role runner, but viewer is viewer" in phone.text()
    phone.keep("forbidden")
    phone.find(".who button").click()
    phone.until(lambda: "/signin" in phone.driver.current_url)
    phone.open("/sweeps")
    assert "/signin" in phone.driver.current_url
    phone.keep("signin")


def test_an_admin_on_a_phone(phone, place):
    phone.sign_in(place[2]["admin"])
    phone.until(lambda: "admin (admin)" in phone.text())
    phone.open("/audit")
    assert "submit" in phone.find("tbody").text
    phone.keep("audit")
    phone.open("/new")
    phone.until(lambda: "0 there already" not in phone.find(".plan").text and "planned" in phone.find(".plan").text)
    phone.keep("new")


@pytest.fixture(scope="module")
def visitor(served, tokens, tmp_path_factory):
    """A phone at the service of made-up sweeps."""
    browser = Browser(served.address, PHONE, tmp_path_factory.mktemp("visitor"))
    browser.sign_in(tokens["viewer"])
    browser.until(lambda: "viewer (viewer)" in browser.text())
    yield browser
    browser.driver.quit()


def test_a_long_constant_fits_a_phone(visitor):
    visitor.open("/ask/accuracy?sweep=once")
    visitor.driver.execute_script("document.querySelector('.same b').textContent = '10'.repeat(56)")
    visitor.keep("long-constant")


def test_a_wide_table_keeps_what_its_rows_are_about_in_sight_on_a_phone(visitor):
    visitor.open("/compare")
    (row, *_) = visitor.all("table.answer tbody tr")
    shown = [cell for cell in row.find_elements(By.TAG_NAME, "td") if cell.is_displayed()]
    assert shown[0].text == "resnet20, all, stale, eta 0"
    assert "The table moves sideways" in visitor.text()
    in_sight = [cell for cell in shown if cell.rect["x"] + cell.rect["width"] <= PHONE[0]]
    assert len(in_sight) >= 4  # itself, n, and the accuracies with either placement
    visitor.driver.execute_script("arguments[0].closest('.scroll').scrollLeft = 300", row)
    assert 0 <= shown[0].rect["x"] <= PHONE[0] - shown[0].rect["width"]
    assert shown[1].rect["x"] < 0
    visitor.keep("wide")


# Each script once more after the cookie is gone: of live.js's events, the one that has it load its part.
AGAIN = """
    document.getElementById("figures").dataset.part = "/sweeps/synthetic/figures";
    window.EventSource = class {
        addEventListener(name, told) { if (name === "rows") setTimeout(told); }
        close() {}
    };
    const script = document.createElement("script");
    script.src = arguments[0];
    document.body.append(script);
"""


@pytest.mark.parametrize("script", ["figures.js", "live.js"])
def test_a_page_whose_token_has_ended_leads_to_the_door(visitor, tokens, script):
    visitor.open("/signin")
    visitor.sign_in(tokens["viewer"])
    visitor.until(lambda: "viewer (viewer)" in visitor.text())
    visitor.open("/sweeps/synthetic")
    visitor.drawn()
    visitor.driver.delete_cookie("bnsweep_token")
    visitor.driver.execute_script(AGAIN, f"/static/{script}")
    visitor.until(lambda: "/signin?next=%2Fsweeps%2Fsynthetic" in visitor.driver.current_url, 20)
