"""A person at the pad: a real browser, a real `fedhw client --pad`, strokes of a real hand.

The strokes are a UNIPEN writer's where that file lies beside the repository, and one allograph of
the synthetic writers with a little tremor elsewhere.
"""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from fedhw.handwriting.allographs import allographs
from fedhw.handwriting.alphabet import BYCLASS
from fedhw.handwriting.stroke_file import StrokeFile
from fedhw.handwriting.strokes import Stroke, rasterise
from fedhw.personalization.person import FIRST_LEARNING_SAMPLES
from fedhw.personalization.stream import Personalizer
from fedhw.release.release import Release
from tests.places import SHARED
from tests.waiting import PATIENCE

pytestmark = pytest.mark.needs("chromium")

READ_AFTER = 400  # milliseconds that the pen rests before the pad reads

Strokes = list[Stroke]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def url(release_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a new agent serves its pad."""
    fedhw = Path(sys.executable).with_name("fedhw")
    home = tmp_path_factory.mktemp("home")
    command = [fedhw, "client", "--home", home, "--release", release_directory, "--pad"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as agent:
        try:
            impatience = threading.Timer(PATIENCE, agent.kill)
            impatience.start()
            said = (line.partition("pad: ") for line in agent.stdout)
            address = next((address.strip() for _, found, address in said if found), None)
            impatience.cancel()
            assert address, "the agent does not say where its pad is"
            yield address
        finally:
            agent.terminate()
            agent.wait(30)


Open = Callable[..., Page]


@pytest.fixture
def open_pad(browser: Browser, url: str) -> Iterator[Open]:
    """Opens the pad; afterwards nothing may have been asked elsewhere or have gone wrong."""
    contexts: list[BrowserContext] = []
    troubles: list[str] = []
    origin = url[: url.index("/", len("http://"))]

    def on_request(request) -> None:
        if not request.url.startswith((origin + "/", "data:")):
            troubles.append(f"asked {request.url}")

    def on_console(message) -> None:
        if message.type == "error":
            troubles.append(message.text)

    def open_pad(**settings) -> Page:
        context = browser.new_context(**settings)
        context.set_default_timeout(1000 * PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.clock.install()
        page.on("request", on_request)
        page.on("console", on_console)
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(url)
        expect(page.locator("#status")).to_contain_text("Release")
        page.clock.pause_at(datetime.now() + timedelta(hours=1))
        return page

    expect.set_options(timeout=1000 * PATIENCE)
    yield open_pad
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture(scope="module")
def hand(release: Release) -> tuple[str, list[Strokes]]:
    """A character and eight samples of one hand, each of which the global expert misreads."""
    person = Personalizer(release.expert, release.sketch, release.labels)
    for label, samples in _hands():
        read = {person.predict_one(rasterise(strokes)).ge_label.lower() for strokes in samples}
        if label.lower() not in read and not read & set("l1io0"):
            return label, samples
    raise AssertionError("the global expert reads every hand")


def _hands() -> Iterator[tuple[str, list[Strokes]]]:
    if not (SHARED / "unipen62_strokes.npz").exists():
        rng = np.random.default_rng(0)
        for allograph in allographs():
            tremors = np.eye(2) + rng.normal(0, 0.08, (8, 2, 2))
            yield (
                allograph.character,
                [[stroke @ tremor for stroke in allograph.strokes] for tremor in tremors],
            )
        return
    strokes = StrokeFile.read(SHARED / "unipen62_strokes.npz")
    with np.load(SHARED / "unipen62.npz") as written:
        kinds = written["writer"].astype(int) * len(BYCLASS) + written["labels"]
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        if len(rows) >= 8:
            yield BYCLASS[kind % len(BYCLASS)], [strokes[row] for row in rows[:8]]


def write(page: Page, strokes: Strokes) -> None:
    """Draw strokes on the paper with the mouse."""
    points = np.concatenate(strokes)
    low, extent = points.min(axis=0), np.ptp(points, axis=0).max()
    box = page.locator("#paper").bounding_box()
    for stroke in strokes:
        placed = 0.2 + 0.6 * (stroke - low) / extent
        (x, y), *rest = placed * [box["width"], box["height"]] + [box["x"], box["y"]]
        page.mouse.move(x, y)
        page.mouse.down()
        for x, y in rest:
            page.mouse.move(x, y)
        page.mouse.up()


def has_been_read(page: Page) -> None:
    """Let the pen rest, and wait for the reading; the pad's clock stands still but for that."""
    page.clock.run_for(READ_AFTER)
    expect(page.locator("#reading[data-state=read]")).to_be_visible()


def has_been_kept(page: Page, label: str) -> None:
    expect(page.locator("#verdict")).to_have_text(re.compile(f"^Kept as [a-z]+ {label}$"))


def kept(page: Page, count: int) -> None:
    expect(page.locator("#recent li")).to_have_count(count)


def test_a_hand_is_learned(open_pad, hand):
    label, samples = hand
    page = open_pad()
    write(page, samples[0])
    has_been_read(page)
    expect(page.locator("#letter")).not_to_have_text(label)
    expect(page.locator("#reason")).to_have_text("The global expert decided.")
    for number, strokes in enumerate(samples[:6], 1):
        page.keyboard.press("Escape")
        write(page, strokes)
        has_been_read(page)
        page.keyboard.press(label)
        has_been_kept(page, label)
        if number == FIRST_LEARNING_SAMPLES:  # what comes meanwhile would make it a stale one
            expect(page.locator("#status")).to_contain_text("your version")
    expect(page.locator("#status")).not_to_contain_text("Learning")

    write(page, samples[6])
    has_been_read(page)
    expect(page.locator("#letter")).to_have_text(label)
    expect(page.locator("#reason")).to_have_text("Your local expert decided.")
    expect(page.locator("#le-says")).to_have_text(label)
    expect(page.locator("#ge-says")).not_to_have_text(label)
    assert float(page.locator("#gate").get_attribute("aria-valuenow")) > 0.5
    page.locator("#candidates button").first.click()
    has_been_kept(page, label)
    kept(page, 7)
    expect(page.locator("#chart circle")).to_have_count(2)
    expect(page.locator("#rows tr")).to_have_count(1)
    expect(page.locator("#course")).to_contain_text("alone reads 0")


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def letter_t(page: Page) -> None:
    """Draw a T with the keys: two strokes."""
    press(page, *["ArrowUp"] * 6, "Space", *["ArrowDown"] * 10, "Space")
    press(page, *["ArrowUp"] * 10, *["ArrowLeft"] * 4, "Space", *["ArrowRight"] * 8, "Space")


def test_the_keyboard_alone(open_pad):
    page = open_pad()
    asked: list[dict] = []
    page.on("request", lambda request: request.method == "POST" and asked.append(request))
    letter_t(page)
    press(page, "Enter")
    has_been_read(page)
    assert len(asked[-1].post_data_json["strokes"]) == 2
    expect(page.locator("#heard")).to_contain_text("The global expert decided.")
    shown = page.locator("#letter").text_content()
    press(page, "Enter")
    has_been_kept(page, shown)
    kept(page, 1)
    press(page, "Control+z")
    kept(page, 0)
    expect(page.locator("#note")).to_contain_text("Taken back")

    letter_t(page)
    press(page, "T")
    has_been_kept(page, "T")
    letter_t(page)
    press(page, "Backspace")
    expect(page.locator("#verdict")).to_have_text("Nothing written yet")

    letter_t(page)
    has_been_read(page)
    tab_to(page, "other")
    press(page, "Enter")
    expect(page.locator("#picker")).to_be_visible()
    press(page, "Escape")
    expect(page.locator("#picker")).to_be_hidden()
    page.locator("#other").focus()
    press(page, "Enter")
    expect(page.locator("#picker")).to_be_visible()
    press(page, "q")
    has_been_kept(page, "q")
    kept(page, 2)

    tab_to(page, "forget-all")
    press(page, "Enter")
    expect(page.locator("#keep")).to_be_focused()
    press(page, "Tab", "Enter")
    kept(page, 0)


def tab_to(page: Page, wanted: str) -> None:
    """Go there with the tab key; every place on the way shows that it has the focus."""
    for _ in range(60):
        press(page, "Tab")
        focus = page.locator(":focus")
        assert focus.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
        if focus.get_attribute("id") == wanted:
            return
    raise AssertionError(f"the tab key does not reach {wanted}")


def test_letters_pressed_elsewhere_correct_nothing(open_pad):
    page = open_pad()
    write(page, [np.array([[0, 0], [0, 100]])])
    has_been_read(page)
    page.locator("#forget-all").focus()
    press(page, "x")
    page.locator("#paper").focus()
    press(page, "y")
    has_been_kept(page, "y")
    kept(page, 1)


def test_a_phone(open_pad):
    page = open_pad(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    finger = page.context.new_cdp_session(page)
    box = page.locator("#paper").bounding_box()

    def touch(kind: str, *heights: float) -> None:
        x = box["x"] + box["width"] / 2
        points = [{"x": x, "y": box["y"] + box["height"] * height} for height in heights]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", 0.2)
    for height in np.linspace(0.25, 0.8, 8):
        touch("touchMove", height)
    touch("touchEnd")
    has_been_read(page)
    assert page.evaluate("() => scrollY") == 0
    last = page.locator("#candidates button").last.bounding_box()
    assert last["y"] + last["height"] <= 740
    assert last["width"] >= 44

    page.click("#other")
    page.click("#picker button:text-is('w')")
    has_been_kept(page, "w")
    kept(page, 1)
    page.click("#figures summary")
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360

    page.click("#recent button")
    expect(page.locator("#question")).to_have_text("Forget this small w?")
    page.click("#keep")
    kept(page, 1)
    page.click("#recent button")
    page.click("#forget")
    kept(page, 0)


def test_all_of_one_character_is_forgotten(open_pad):
    page = open_pad()
    for label in "aba":
        write(page, [np.array([[0, 0], [60, 100], [120, 0]])])
        press(page, label)
        has_been_kept(page, label)
    kept(page, 3)
    page.click("#forget-label")
    page.click("#picker button:text-is('a')")
    page.click("#forget")
    kept(page, 1)
    expect(page.locator("#recent li")).to_contain_text("b")


def test_a_pen_that_presses_harder_leaves_more_ink(open_pad):
    page = open_pad()
    pen = page.context.new_cdp_session(page)
    box = page.locator("#paper").bounding_box()

    def ink(force: float) -> int:
        press(page, "Escape")
        for kind, x in (("Pressed", 0.2), ("Moved", 0.5), ("Moved", 0.8), ("Released", 0.8)):
            event = {"type": f"mouse{kind}", "pointerType": "pen", "force": force, "buttons": 1}
            place = {"x": box["x"] + box["width"] * x, "y": box["y"] + box["height"] / 2}
            pen.send("Input.dispatchMouseEvent", event | place | {"button": "left"})
        has_been_read(page)
        return page.locator("#paper").evaluate(
            "paper => paper.getContext('2d')"
            ".getImageData(0, 0, paper.width, paper.height).data.filter((v, i) => i % 4 == 3 && v)"
            ".length"
        )

    assert ink(1.0) > 1.5 * ink(0.2) > 0


def test_dark_follows_the_system(open_pad):
    def paper(scheme: str) -> str:
        page = open_pad(color_scheme=scheme)
        return page.evaluate("() => getComputedStyle(document.body).backgroundColor")

    assert paper("light") != paper("dark")
