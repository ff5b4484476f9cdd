"""The service in a real browser: Debian's chromium, driven as a person would, at the size of a desk and of a phone.

Screenshots of every page are kept under out/service/.
"""

import shutil
import time
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
DESK, PHONE = (1280, 900), (390, 844)
SPEC = helpers.TINY.replace("name: tiny", "name: browsed").replace("epochs: 2", "epochs: 3")


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
        wide = self.driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{page} is {wide} pixels wider than the {self.name}"
        size = self.driver.execute_script("return [innerWidth, Math.min(4000, document.documentElement.scrollHeight)]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        shot = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        import base64

        (OUT / f"{self.name}-{page}.png").write_bytes(base64.b64decode(shot["data"]))

    def complaints(self):
        """What the browser's console holds against the page, but for answers that we ask for."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

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


def test_who_has_no_token_is_refused(desk):
    desk.open("/sweeps")
    assert "/signin?next=%2Fsweeps" in desk.driver.current_url
    desk.sign_in("bnsweep-00000000-guessed")
    assert "That is no valid token." in desk.text()
    assert desk.driver.get_cookie("bnsweep_token") is None
    desk.keep("refused")
    desk.complaints()  # of the 401


def test_a_person_submits_a_sweep_and_watches_it_finish(desk, place):
    desk.sign_in(place[2]["runner"])
    desk.until(lambda: "runner (runner)" in desk.text())
    cookie = desk.driver.get_cookie("bnsweep_token")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    desk.find("nav a[href='/new']").click()
    area = desk.find("#spec")
    area.clear()
    area.send_keys(SPEC.replace("resnet8", "resnet21").replace("trials: 4", "trails: 4"))
    desk.until(lambda: "line 9: trails: unknown key" in desk.find(".problems").text)
    assert desk.find(".numbers .bad").text.strip() == "9"
    desk.keep("new-with-errors")
    area.clear()
    area.send_keys(SPEC)
    desk.until(lambda: "4 planned, 0 there already" in desk.find(".plan").text)
    assert "Cost" in desk.find(".plan").text
    desk.keep("new")
    desk.find("button[value=submit]").click()
    desk.until(lambda: desk.driver.current_url.endswith("/sweeps/browsed"))
    desk.until(lambda: desk.find(".state").text in ("running", "done"))
    desk.keep("sweep-running")
    # Nobody loads the page again: the events do.
    desk.until(lambda: desk.find(".status-line .state").text == "done" and desk.all(".chart svg"), 120)
    desk.until(lambda: "4 of 4 networks trained" in desk.text() and "72 trials" in desk.find(".facts").text, 120)
    desk.drawn()
    assert len(desk.all("#runs + .scroll tbody tr")) == 4
    desk.keep("sweep")
    assert desk.complaints() == []


def test_figures_open_runs(desk):
    desk.until(lambda: desk.open("/compare") or desk.all(".chart"))  # what was seen before the rows came may come once
    desk.drawn()
    desk.keep("compare")
    points = desk.all("#figure-pareto svg path[aria-label*='href: /runs/']")
    assert len(points) == 4 * 2  # runs x cells
    desk.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", points[0])
    desk.until(lambda: desk.click_any(points) and "/runs/" in desk.driver.current_url)
    desk.drawn()
    assert len(desk.all(".sites li")) == 9
    assert {"Training", "Accuracy over noise", "Spread of the draws"} <= {h.text for h in desk.all("h3")}
    desk.keep("run")
    assert desk.complaints() == []


def test_a_question_and_its_files(desk, place):
    desk.open("/ask")
    desk.keep("ask")
    desk.find("#sql").send_keys(
        "SELECT placement, count(*) AS n FROM trials GROUP BY ALL ORDER BY ALL", Keys.CONTROL, Keys.ENTER
    )
    desk.until(lambda: "sql=SELECT" in desk.driver.current_url)
    desk.until(lambda: [cell.text for cell in desk.all("tbody td")] == ["all", "36", "none", "36"])
    desk.keep("answer")
    desk.find("p.forms a[href*='.csv']").click()
    file = desk.until(lambda: next(iter((place[0] / "downloads").glob("*.csv")), None))
    assert file.read_text() == "placement,n\nall,36\nnone,36\n"
    again = desk.driver.current_url
    desk.open("/sweeps")
    desk.driver.get(again)  # a link is the question
    assert "36" in desk.find("tbody").text
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
    body = desk.driver.switch_to.active_element
    body.send_keys(Keys.TAB)
    assert desk.driver.switch_to.active_element.text == "Skip to the content"
    seen = []
    for _ in range(12):
        desk.driver.switch_to.active_element.send_keys(Keys.TAB)
        seen.append(desk.driver.switch_to.active_element.text)
    assert {"Sweeps", "Compare", "Ask", "New sweep", "Sign out", "browsed"} <= set(seen)
    outline = desk.driver.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_dark_pages_are_dark(desk):
    dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    desk.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
    desk.open("/sweeps/browsed")
    desk.drawn()
    colour = desk.driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert colour == "rgb(18, 22, 29)"
    desk.keep("sweep-dark")
    desk.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_viewer_on_a_phone(phone, place):
    """Every page fits a phone; what a viewer may not do is not offered, and refused."""
    phone.sign_in(place[2]["viewer"])
    phone.until(lambda: "viewer (viewer)" in phone.text())
    assert not phone.all("nav a[href='/new']")
    phone.keep("sweeps")
    for page, path in (("sweep", "/sweeps/browsed"), ("compare", "/compare")):
        phone.open(path)
        phone.drawn()
        phone.keep(page)
    run = phone.find("a[href^='/runs/']").get_attribute("href")
    phone.driver.get(run)
    phone.drawn()
    phone.keep("run")
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
    time.sleep(0.1)
