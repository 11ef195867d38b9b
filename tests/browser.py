"""What the tests do in a browser: open, segment, type, walk by keyboard, and ask the viewer what it shows."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect

from bench.viewer import Site

ADD_SEGMENT = "segmentationId => window.commandsManager.run('addSegment', { segmentationId })"
# What an object of the PACS is called by the viewer, and what became measurements of the viewer.
DISPLAY_SET = """uid => window.services.displaySetService.getActiveDisplaySets().find(
    one => one.SOPInstanceUID === uid)?.displaySetInstanceUID"""
MEASUREMENTS = """() => window.services.measurementService.getMeasurements().map(
    ({ toolName, label, points }) => ({ toolName, label, points }))"""
LIMIT_MS = 120_000
BUSY_LIMIT_S = 300
# What the viewer says of answers of 400 and above, of our files missing, of its tour without images.
ASKED_FOR = (
    "Failed to load resource",
    "MetScope is not loaded",
    "No element was found for the selector supplied to advanceOn",
    "The element for this Shepherd step was not found",
)
# A bug of Cornerstone3D in both viewer versions, fixed in cornerstonejs/cornerstone3D#2884: a change of
# slice, delayed by 40 ms, meets a viewport that is gone.
UPSTREAM = "The stack viewport has been destroyed and is no longer usable."
# Of every viewport: which segmentations lie over it.
ON_SCREEN = """() => {
    const { viewportGridService, segmentationService } = window.services
    return [...viewportGridService.getState().viewports.keys()].map(viewportId =>
        segmentationService.getSegmentationRepresentations(viewportId).map(one => one.segmentationId))
}"""
IS_FOCUSED = "element => element === document.activeElement"


@contextmanager
def opened_page(browser: Browser, locale: str = "en-GB", may_complain: bool = False) -> Iterator[Page]:
    """A page in that language, with cookies of its own. Raises: AssertionError for errors in its console."""
    # The processor draws: a quarter of the pixels take half of the time, in the same layout.
    context = browser.new_context(
        viewport={"width": 1600, "height": 900}, device_scale_factor=0.5, locale=locale
    )
    page = context.new_page()
    page.set_default_timeout(LIMIT_MS)
    expect.set_options(timeout=LIMIT_MS)
    trouble: list[str] = []
    refused: list[str] = []
    page.on("pageerror", lambda error: UPSTREAM in str(error) or trouble.append(str(error)))
    page.on("console", lambda message: trouble.extend(_troubling(message)))
    # What lay behind an error, where something did not arrive.
    page.on("requestfailed", lambda request: refused.append(f"{request.failure} {request.url}"))
    page.on(
        "response",
        lambda response: response.status < 400 or refused.append(f"{response.status} {response.url}"),
    )
    yield page
    # Closing aborts what is still being fetched, of which the page complains.
    complaints = list(trouble)
    context.close()
    assert complaints == [] or may_complain, (complaints, refused[:5])


def _troubling(message: ConsoleMessage) -> list[str]:
    """Errors, but for those that some tests ask for."""
    asked_for = message.text.startswith(ASKED_FOR)
    return [message.text] if message.type == "error" and not asked_for else []


def go_to(page: Page, site: Site, *studies: str, token: str | None = None) -> Locator:
    """Open the studies side by side and return the panel; on the way there nginx leads to the login."""
    page.goto(f"{site.url}/metscope?StudyInstanceUIDs={','.join(studies)}")
    log_in(page, token or site.token)
    return page.locator(".metscope")


def log_in(page: Page, token: str) -> None:
    """Type the token into the login's page."""
    type_over(page.locator("#token"), token)
    page.keyboard.press("Enter")


def open_study(page: Page, site: Site, study: str, token: str | None = None) -> Locator:
    """The panel of a study that was not segmented yet."""
    panel = go_to(page, site, study, token=token)
    expect(panel.get_by_text("This study has not been segmented.")).to_be_visible()
    return panel


def segment(panel: Locator) -> Locator:
    return panel.get_by_role("button", name="Segment")


def newest(site: Site, study: str) -> dict[str, Any]:
    document: dict[str, Any] = site.ask(f"/studies/{study}/segmentations")["segmentations"][0]
    return document


def type_over(field: Locator, words: str) -> None:
    """Replace a field's content key by key, as a person does."""
    field.focus()
    field.page.keyboard.press("Control+A")
    field.page.keyboard.type(words)


def walk_to(target: Locator, key: str = "Tab", limit: int = 60) -> int:
    """Go there by the keyboard alone; the number of keys. Raises: AssertionError where it is not reached."""
    for pressed in range(limit):
        if target.evaluate(IS_FOCUSED):
            return pressed
        target.page.keyboard.press(key)
    raise AssertionError(f"{limit} times {key} did not lead to {target}")


@contextmanager
def busy_machine(loops: int = 4) -> Iterator[None]:
    """Four busy loops beside; they end by themselves where nobody ends them."""
    program = f"import time\nend = time.monotonic() + {BUSY_LIMIT_S}\nwhile time.monotonic() < end: pass"
    processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
