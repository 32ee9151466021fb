"""Pages in a headless browser: nothing fails, nothing is loaded, chips open, all is there."""

import json
import re
import subprocess
import sys
import time

import pytest

from tests.browser import emulate, missing, open_browser, show
from tests.command.decode_command import environment

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

LONG = "a_prompt_that_is_one_very_long_word_" * 12


def written(path, module, *arguments):
    words = [sys.executable, "-m", module, *arguments, "--report", str(path)]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def estimated(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "estimate.html"
    slow = ("--slow-chip", "3,1,1.5", "--slow-link", "2,0,row,4")
    return written(path, "galaxy_mpi.estimate", "--model", "llama3-70b", *slow)


@pytest.fixture(scope="module")
def decoded(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "decode.html"
    mesh = ("--mesh", "2x2", "--chips-per-rank", "4", "--max-new-tokens", "6")
    prompts = ("--prompt", "It is a truth", "--prompt", LONG)
    return written(path, "galaxy_mpi.decode", *mesh, *prompts, "--against", "float32")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages") / "compare.html"
    return written(path, "galaxy_mpi.compare", "--timing-only", "--model", "llama3-8b")


@pytest.fixture(scope="module")
def validated(tmp_path_factory):
    return written(tmp_path_factory.mktemp("pages") / "validate.html", "galaxy_mpi.validate")


@pytest.fixture(scope="module")
def one_browser():
    with open_browser() as found:
        yield found


@pytest.fixture
def browser(one_browser):
    yield one_browser
    emulate(one_browser)


def text_of(browser):
    return browser.find_element("css selector", "body").text


@pytest.mark.parametrize("name", ["estimated", "decoded", "compared", "validated"])
def test_a_page_is_drawn_without_an_error_and_without_the_network(name, request, browser):
    page = request.getfixturevalue(name)
    browser.get_log("performance")
    show(browser, page)
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = {
        message["params"]["request"]["url"].split(":")[0]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert asked <= {"file", "data", "blob"}
    charts = browser.find_elements("css selector", ".chart")
    assert len(charts) >= 2
    for chart in charts:
        assert chart.find_elements("css selector", "svg .bars path, svg .scatter path")


def test_the_mesh_is_drawn_with_what_is_slow(estimated, browser):
    show(browser, estimated)
    chips = browser.find_elements("css selector", ".mesh-picture a.chip")
    assert len(chips) == 32
    assert all(chip.rect["width"] > 50 for chip in chips)
    (marked,) = browser.find_elements("css selector", "a.chip.marked")
    assert marked.get_attribute("data-row") == "3"
    assert marked.get_attribute("data-col") == "1"
    (wire,) = browser.find_elements("css selector", ".wire.slow")
    assert "(2, 0)" in wire.find_element("css selector", "title").get_attribute("textContent")
    for word in ("llama3-70b", "Memory of a chip", "busbw", "all_reduce_wo", "KV cache"):
        assert word in text_of(browser)


def test_a_click_opens_a_chip_and_keys_go_on(estimated, browser):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def opened():
        return [
            one.get_attribute("id")
            for one in browser.find_elements("css selector", ".chip-details")
            if one.is_displayed()
        ]

    show(browser, estimated)
    assert opened() == []
    browser.find_element("css selector", 'a.chip[data-row="3"][data-col="1"]').click()
    assert opened() == ["chip-3-1"]
    details = browser.find_element("id", "chip-3-1")
    assert "ops x1.5" in details.text
    assert re.search(r"busy\s+[\d.]+ us", details.text)
    # Right, down, and open that one; then close it: all without a mouse.
    browser.execute_script("document.querySelector('a.chip[data-row=\"3\"]').focus()")
    keys = ActionChains(browser)
    keys.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.ENTER).perform()
    assert opened() == ["chip-4-2"]
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert opened() == []


def test_texts_have_probabilities_and_the_other_run(decoded, browser):
    show(browser, decoded)
    text = text_of(browser)
    assert "It is a truth" in text
    assert "departs most" in text
    tokens = browser.find_elements("css selector", "#user-0 .token")
    assert len(tokens) == 6
    assert re.search(r": [\d.]+%\n", tokens[0].get_attribute("title"))


@pytest.mark.parametrize("width", [1100, 400])
def test_nothing_is_wider_than_the_window(width, decoded, browser):
    emulate(browser, width=width)
    show(browser, decoded)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_a_page_is_readable_without_scripts(estimated):
    with open_browser(scripts=False) as browser:
        browser.get(estimated.as_uri() + "#chip-3-1")
        time.sleep(0.2)
        text = text_of(browser)
        assert "w1_w3_matmul_reduce_scatter_w1" in text  # of the table of ops
        assert browser.find_element("id", "chip-3-1").is_displayed()


def test_charts_follow_dark_light_and_paper(estimated, browser):
    """Without loading the page again, as when the user changes the scheme or prints."""

    def colour(selector, name):
        style = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
        return browser.execute_script(style, selector, name)

    show(browser, estimated)
    for dark, on_paper, ground, letters in (
        (False, False, "rgb(255, 255, 255)", "rgb(27, 33, 39)"),
        (True, False, "rgb(20, 24, 28)", "rgb(230, 234, 238)"),
        (True, True, "rgb(255, 255, 255)", "rgb(0, 0, 0)"),
    ):
        emulate(browser, dark=dark, on_paper=on_paper)
        waiting = WebDriverWait(browser, 20)
        waiting.until(lambda _, it=letters: colour(".chart .ytick text", "fill") == it)
        assert colour("body", "backgroundColor") == ground


def test_a_page_prints_with_what_is_folded(estimated, browser):
    def shut():
        return len(browser.find_elements("css selector", "details:not([open])"))

    show(browser, estimated)
    before = shut()
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    while_printing = shut()
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    assert (before > 0, while_printing, shut()) == (True, 0, before)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 100_000
