"""The page in a real browser: every button does what it says, and the curves obey their laws."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import rankfall as rf
from rankfall.explorer._presets import PRESETS

playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser tests need Debian's chromium")
# Generous: neighbours may have the processor. Nothing waits that long where it is free.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def server():
    command = [sys.executable, "-m", "rankfall.cli", "explore", "--port", "0", "--no-browser"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        line = process.stdout.readline()
        assert line.startswith("rankfall explore: http://localhost:"), line
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()
    assert process.returncode == 0


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as tool:
        engine = tool.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield engine
        engine.close()


class Window:
    """A page, its complaints, and what it shows."""

    def __init__(self, browser, address, **look):
        self.context = browser.new_context(**({"viewport": {"width": 1440, "height": 900}} | look))
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def value(self, expression):
        return self.page.evaluate(expression)

    def wait(self, expression, seconds=PATIENCE):
        # Not page.wait_for_function: it evaluates strings in the page, which the page's policy forbids.
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = self.value(expression)
            if found:
                return found
            self.page.wait_for_timeout(30)
        raise AssertionError(f"{expression} did not become true; the page says {self.status()}")

    def status(self):
        return self.value("window.rankfallExplore?.status")

    def running(self):
        self.wait("window.rankfallExplore?.status?.generation > 0 && rankfallExplore.frames > 2")

    def curve(self, column):
        return np.array(self.value(f"rankfallExplore.film.columns[{column}].slice()"), dtype=float)

    def slide(self, name, value):
        self.page.eval_on_selector(
            f"#c-{name}", "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", str(value)
        )

    def settled(self, condition):
        self.wait(f"rankfallExplore.generation === rankfallExplore.status.generation && {condition}")

    def close(self):
        self.context.close()
        assert self.complaints == []


@pytest.fixture
def window(browser, server):
    opened = Window(browser, server)
    opened.running()
    yield opened
    opened.close()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_runs_and_its_curve_obeys_the_law(browser, server, name):
    window = Window(browser, f"{server}?preset={name}")
    window.running()
    window.page.select_option("#speed", "10")
    window.wait("rankfallExplore.status.finished")
    status = window.status()
    window.wait("document.querySelectorAll('#lights li').length > 1")
    lights = window.page.locator("#lights li").all_text_contents()
    assert len(lights) == len(status["verdicts"]) and all("PASS" in light for light in lights)
    curve, law = window.curve(2), window.curve(10)
    if name == "narrow":
        assert "det M = 0" in window.page.locator("[data-plot=log_det] .silent").inner_text()
    else:
        assert len(curve) > 40
        assert (np.abs(curve - law) <= 1e-9 * (1.0 + np.abs(law))).all()
    if status["law"] is not None and name != "narrow":
        slope = (curve[-1] - curve[0]) * math.log(10) / window.curve(0)[-1]
        assert abs(slope - status["law"]) < 1e-8
    balance, ledger = window.curve(8), window.curve(11)
    assert (np.abs(balance - ledger) <= 1e-9 * (1.0 + ledger)).all()
    story = window.page.locator("#story").inner_text()
    assert all(sentence in story for sentence in PRESETS[name].sentences)
    assert window.page.locator(f"[data-preset={name}]").get_attribute("aria-pressed") == "true"
    window.close()


def test_nothing_is_fetched_from_elsewhere(window, server):
    assert len(window.requests) >= 4
    assert all(url.startswith((server, server.replace("http", "ws"))) for url in window.requests)
    assert not re.search(r"(src|href)=.https?://", window.page.content())


def test_sliders_act_and_restart_at_once(window):
    before = window.status()["generation"]
    window.slide("delta", 8)
    window.settled(f"rankfallExplore.generation > {before} && rankfallExplore.status.values.label_noise === 8")
    window.wait("rankfallExplore.status.saved > 20")
    law = window.status()["law"]
    window.slide("delta", 4)
    window.settled("rankfallExplore.status.values.label_noise === 4")
    assert abs(window.status()["law"] / law - 0.5) < 1e-12
    window.slide("p", 7)
    window.settled("rankfallExplore.film.values === 7 && rankfallExplore.film.modes === 9")
    assert "p=7" in window.page.url
    restart = window.value("rankfallExplore.restart")
    print(f"restart after a slider change: {restart:.0f} ms")
    busy = (1.0 + os.getloadavg()[0]) / (os.cpu_count() or 1)
    assert 0 < restart < 200 * max(1.0, 2.0 * busy)  # 200 ms on a machine of one's own; a burst of others may double it
    window.page.select_option("#c-method", "gradient-flow")
    window.settled("rankfallExplore.status.values.method === 'gradient-flow'")
    assert window.page.locator("#c-delta").is_disabled()


def test_it_is_lively(window):
    """Twenty redraws a second on two processors of one's own: their share of it where others have work as well."""
    window.wait("rankfallExplore.status.saved > 10")
    begun, first = time.monotonic(), window.value("rankfallExplore.frames")
    window.page.wait_for_timeout(3000)
    rate = (window.value("rankfallExplore.frames") - first) / (time.monotonic() - begun)
    print(f"{rate:.1f} frames a second")
    share = min(1.0, (os.cpu_count() or 1) / (1.0 + os.getloadavg()[0]))
    assert rate > 20 * share


def test_buttons_and_keys(window):
    page = window.page
    page.keyboard.press("Space")
    window.wait("rankfallExplore.status.running === false")
    stood = window.status()["saved"]
    page.keyboard.press("s")
    window.wait(f"rankfallExplore.status.saved === {stood + 1}")
    page.keyboard.press("r")
    window.wait("rankfallExplore.status.saved === 1 && !rankfallExplore.status.running")
    window.slide("delta", 6)  # what was stopped stays so
    window.settled("rankfallExplore.status.values.label_noise === 6")
    assert window.status()["running"] is False and window.status()["saved"] == 1
    page.keyboard.press("l")
    window.wait("rankfallExplore.status.linear === true")
    dark = window.value("document.documentElement.dataset.theme")
    page.keyboard.press("d")
    assert window.value("document.documentElement.dataset.theme") != dark
    # From the top of the page every control can be reached, and the focus is seen.
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(window.value("document.activeElement.id || document.activeElement.dataset.preset || ''"))
    for wanted in ("theme", "noise", "c-method", "c-delta", "c-seed", "run", "step", "reset", "speed", "share"):
        assert wanted in reached
    assert window.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.focus("#c-delta")
    value = window.status()["values"]["label_noise"]
    page.keyboard.press("ArrowRight")
    window.settled(f"rankfallExplore.status.values.label_noise > {value}")
    page.keyboard.press("Space")  # on a slider as well
    window.wait("rankfallExplore.status.running === true")


def test_an_address_is_a_run(browser, server):
    window = Window(browser, server + "?method=label-noise-descent&delta=1.5&eta=0.05&p=4&duration=20&seed=3")
    window.running()
    window.page.click("#share")
    address = window.page.input_value("#address")
    other = Window(browser, address)
    other.running()
    assert other.status()["values"] == window.status()["values"]
    assert other.status()["values"]["seed"] == 3
    other.close()
    window.close()


def test_a_bad_address_is_refused_with_a_message(browser, server):
    window = Window(browser, server + "?delta=%3Cscript%3Ealert(1)%3C/script%3E")
    window.running()
    words = window.page.locator("#problem").inner_text()
    assert "δ" not in words and "delta (label noise, variance) must be a number from 0 to 10" in words
    assert "<script>" in words  # as text
    assert window.status()["preset"] == "noise"
    window.close()


def test_downloads_open(window, tmp_path):
    window.page.select_option("#speed", "10")
    window.wait("rankfallExplore.status.finished")
    files = {}
    for link in window.page.locator("[data-file]").all():
        window.page.click("#downloads summary")
        with window.page.expect_download() as kept:
            link.click()
        path = tmp_path / kept.value.suggested_filename
        kept.value.save_as(path)
        files[path.suffix] = path
    run = rf.open_run(files[".nc"])
    assert (run.outcome == "completed").all() and run.sizes["time"] == 301
    assert [verdict.status for verdict in rf.laws.check(run)] == ["PASS"] * 3
    assert ElementTree.parse(files[".svg"]).getroot().tag.endswith("svg")
    assert files[".png"].read_bytes().startswith(b"\x89PNG")
    compile(files[".py"].read_text(encoding="utf-8"), "run", "exec")


def test_two_visitors_do_not_disturb_each_other(window, browser, server):
    other = Window(browser, server + "?preset=narrow")
    other.running()
    window.slide("delta", 1)
    window.settled("rankfallExplore.status.values.label_noise === 1")
    other.page.click("#run")
    other.wait("rankfallExplore.status.running === false")
    assert other.status()["values"]["label_noise"] == PRESETS["narrow"].settings.label_noise
    assert window.status()["running"] is True
    assert window.status()["token"] != other.status()["token"]
    stood = other.status()["saved"]
    window.wait(f"rankfallExplore.status.saved > {window.status()['saved'] + 5}")
    assert other.status()["saved"] == stood
    other.close()


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_it_fits(browser, server, look, tmp_path):
    size = {"width": 390, "height": 844} if look == "phone" else {"width": 1440, "height": 900}
    window = Window(browser, server, viewport=size, color_scheme="dark" if look == "dark" else "light")
    window.running()
    assert window.value("document.documentElement.scrollWidth <= innerWidth")
    assert window.value("document.documentElement.dataset.theme") == ("dark" if look == "dark" else "light")
    ground = window.value("getComputedStyle(document.body).backgroundColor")
    assert ground == ("rgb(13, 17, 23)" if look == "dark" else "rgb(255, 255, 255)")
    folder = Path(os.environ.get("RANKFALL_SCREENSHOTS", tmp_path))
    window.wait("rankfallExplore.status.saved > 60")
    window.page.screenshot(path=folder / f"explore-{look}.png", full_page=True)
    window.close()


def request(address, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


def test_headers_and_refusals(server):
    for path in ("", "assets/explore.js", "static/js/bokeh.min.js", "nothing"):
        _, headers, _ = request(server + path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe-eval" not in policy and "script-src 'self';" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
    assert request(server + "autoload.js")[0] == 404
    assert request(server + "metadata")[0] == 404
    assert request(server + "static/js/../../x")[0] == 404
    assert request(server, Host="evil.example.org")[0] == 403
    assert request(server, Origin="http://evil.example.org")[0] == 403
    assert request(server + "?bokeh-session-id=guess")[0] == 403
    assert request(server + "download/" + "x" * 32 + "/rankfall-run.nc")[0] == 404
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    assert request(server + "ws", **upgrade)[0] == 403
    assert request(server + "ws", **upgrade, Origin="http://evil.example.org")[0] == 403
    status, _, page = request(server + "?preset=%3Cb%3E")
    assert status == 200 and "got <b>" not in page
    assert json.loads(re.search(r'id="setup">(.*?)</script>', page, re.S)[1])["preset"] == "noise"
