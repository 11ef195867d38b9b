"""MetScope's panel in a real browser: by keyboard, in French, with several results and versions."""

import csv
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from playwright.sync_api import Dialog, Locator, Page, Route, expect

from bench.parts import wait_until
from bench.viewer import Site
from orthanc.archive import open_archive
from tests.browser import (
    ADD_SEGMENT,
    DISPLAY_SET,
    ON_SCREEN,
    busy_machine,
    go_to,
    newest,
    open_study,
    segment,
    type_over,
    walk_to,
)
from tests.conftest import COARSE

JOB_LIMIT_S = 120
# A correction that is shown and after which the panel still waits for something else is at fault.
READY_LIMIT_MS = 15_000
LONG_NAME = "Left parieto-occipital metastasis beside the falx, before the SRS"
# Of the element that the keyboard acts on: what it is called, and whether it lies in the panel.
FOCUSED = """() => {
    const element = document.activeElement
    return [element.getAttribute('aria-label') ?? element.innerText, Boolean(element.closest('.metscope'))]
}"""
# Of each cell and button of the panel, how far it reaches beyond the panel's right edge, in pixels.
OVERHANG = """panel => [...panel.querySelectorAll('td, th, button, select, p')].map(
    element => element.getBoundingClientRect().right - panel.getBoundingClientRect().right)"""
# Of each name in the table on how many lines it is written, and how much of it is cut off, in pixels.
LINES_OF_NAMES = """panel => [...panel.querySelectorAll('td button')].map(button => {
    const range = document.createRange()
    range.selectNodeContents(button.lastChild)
    const tops = new Set([...range.getClientRects()].map(({ top }) => Math.round(top)))
    return [tops.size, Math.max(0, button.scrollHeight - button.clientHeight)]
})"""
# The scrollbar of a longer panel, which the browser of the tests hides.
NARROWED = "panel => { panel.style.paddingRight = '20px' }"
# Of each button the contrast of its text on what lies behind it, after WCAG 2.1.
CONTRASTS = """panel => {
    const channels = colour => colour.match(/[\\d.]+/g).map(Number)
    const linear = value => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    const luminance = ([red, green, blue]) =>
        0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255)
    const behind = element => {
        for (; element; element = element.parentElement) {
            const colour = channels(getComputedStyle(element).backgroundColor)
            if (colour[3] !== 0) return colour
        }
        return [0, 0, 0]
    }
    return [...panel.querySelectorAll('button:enabled, .note, td')].map(element => {
        const pair = [luminance(channels(getComputedStyle(element).color)), luminance(behind(element))]
        return [element.innerText, (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05)]
    })
}"""
# Of every viewport the SEG objects of the PACS that lie over it.
OBJECTS_ON_SCREEN = """() => {
    const { displaySetService, segmentationService, viewportGridService } = window.services
    return [...viewportGridService.getState().viewports.keys()].map(viewportId =>
        segmentationService.getSegmentationRepresentations(viewportId).map(
            one => displaySetService.getDisplaySetByUID(one.segmentationId).SOPInstanceUID))
}"""
# Of the SOP Instance UIDs those of which the viewer's list has no object.
UNLISTED = """uids => {
    const listed = window.services.displaySetService.getActiveDisplaySets().flatMap(
        one => [one, ...one.instances ?? []].map(({ SOPInstanceUID }) => SOPInstanceUID))
    return uids.filter(uid => !listed.includes(uid))
}"""
# Whether a viewport lists the object of that UID.
IS_IN_A_VIEWPORT = """uid => {
    const { displaySetService, viewportGridService } = window.services
    return [...viewportGridService.getState().viewports.values()].some(({ displaySetInstanceUIDs }) =>
        displaySetInstanceUIDs.some(id => displaySetService.getDisplaySetByUID(id).SOPInstanceUID === uid))
}"""
# An entry of the browser's history before the page, as the viewer's list of studies leaves one.
EARLIER_ENTRY = """() => {
    const { state } = history
    history.replaceState({ ...state, idx: state.idx - 1 }, '')
    history.pushState(state, '')
}"""
SEGMENTS = """id => Object.values(window.services.segmentationService.getSegmentation(id).segments)
    .map(segment => segment.segmentIndex)"""


@pytest.fixture
def study(site: Site, head: Any) -> Iterator[str]:
    """A study that was segmented: three lesions."""
    study = site.add(head.image)
    ask_and_wait(site, study, f"/segmentation/{study}", {})
    yield study
    site.clear(study)


def ask_and_wait(site: Site, study: str, path: str, form: dict[str, Any]) -> None:
    """Ask for a job of the study and wait for its end."""
    site.ask_for(path, form)
    active = {"queued", "running"}
    wait_until(
        lambda: all(
            job["state"] not in active for job in site.ask(f"/jobs?study_instance_uid={study}")["jobs"]
        ),
        "the end of the job",
        JOB_LIMIT_S,
    )


def wait_for_overlay(page: Page) -> None:
    """Wait until one segmentation lies over every viewport."""
    # The page's policy forbids what Playwright's own waiting does with an expression.
    wait_until(lambda: all(len(ids) == 1 for ids in page.evaluate(ON_SCREEN)), "the overlay", JOB_LIMIT_S)


def open_panel(page: Page, site: Site, study: str) -> Locator:
    """The panel with a result on the images."""
    panel = go_to(page, site, study)
    expect(panel.locator("button[data-toggle]")).to_be_enabled()
    wait_for_overlay(page)
    return panel


def correct(site: Site, study: str, **changes: Any) -> None:
    """What somebody at another workplace does."""
    ask_and_wait(site, study, f"/segmentations/{newest(site, study)['id']}/corrections", changes)


def shown_names(panel: Locator) -> Locator:
    return panel.locator("tbody td:first-child")


def rename(panel: Locator, index: int, name: str) -> None:
    """Rename the lesion of that row."""
    shown_names(panel).nth(index).click()
    panel.get_by_role("button", name="Rename").click()
    type_over(panel.get_by_label("Name", exact=True), name)
    panel.page.keyboard.press("Enter")


def test_the_keyboard_alone_walks_through_the_panel_sorts_and_selects(site, study, page):
    panel = open_panel(page, site, study)
    names = [lesion["name"] for lesion in newest(site, study)["lesions"]]
    # From the start of the page the panel is two keys away.
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    assert page.evaluate(FOCUSED)[0] == "Go to MetScope’s panel"
    page.keyboard.press("Enter")
    assert page.evaluate(FOCUSED) == ["MetScope", True]
    expect(page.get_by_role("main")).to_have_count(1)
    walk = []
    while page.evaluate(FOCUSED)[1]:
        walk.append(page.evaluate(FOCUSED)[0].strip())
        assert len(walk) < 40, f"Tab does not leave the panel: {walk}"
        page.keyboard.press("Tab")
    assert [name for name in walk if name in names] == names
    assert [name for name in walk if name.startswith(("Lesion", "Volume"))] == ["Lesion", "Volume (ml)"]

    head_cell = panel.get_by_role("columnheader", name="Volume")
    for key, order, first in (("Space", "ascending", names[-1]), ("Enter", "descending", names[0])):
        head_cell.get_by_role("button").focus()
        page.keyboard.press(key)
        expect(head_cell).to_have_attribute("aria-sort", order)
        expect(shown_names(panel).first).to_have_text(first)
        assert page.evaluate(FOCUSED)[0].startswith("Volume")
    first, second, _ = (panel.get_by_role("button", name=name, exact=True) for name in names)
    for key in ("Space", "Enter"):
        second.focus()
        page.keyboard.press(key)
        expect(second).to_have_attribute("aria-pressed", "true")
        expect(second).to_be_focused()
        first.press(key)
        expect(second).to_have_attribute("aria-pressed", "false")
    walk_to(panel.get_by_role("button", name="Rename"))


def test_images_that_come_after_the_panel_are_the_main_part_of_the_page(site, head, page):
    study = site.add(head.image)

    def late(route: Route) -> None:
        time.sleep(4)
        route.continue_()

    page.route("**/dicom-web/**/metadata*", late)
    open_study(page, site, study)
    expect(page.get_by_role("main")).to_have_count(1)


@pytest.mark.away
def test_a_measurement_that_failed_elsewhere_leaves_no_drawing_to_be_saved_here(site, study, page):
    stored = [header for series in open_archive(site.settings).series_headers(study) for header in series]
    image = next(header.SOPInstanceUID for header in stored if header.Modality == "MR")
    of_no_seg = {"sop_instance_uid": image, "corrects": newest(site, study)["id"]}
    ask_and_wait(site, study, f"/measurements/{study}", of_no_seg)
    panel = open_panel(page, site, study)
    expect(panel.get_by_role("alert")).to_be_visible()
    expect(panel.get_by_role("button", name="Save and measure")).to_be_hidden()
    shown_names(panel).first.click()
    expect(panel.get_by_role("button", name="Rename")).to_be_visible()


def test_the_selection_a_name_begun_and_the_order_outlive_what_arrives_later(page, site, head):
    study = site.add(head.image)
    panel = open_study(page, site, study)
    held: list[Route] = []

    def hold_companions(route: Route) -> None:
        """Let the SEG through, and keep back what was stored beside it."""
        if newest(site, study)["segmentation"]["series_instance_uid"] in route.request.url:
            route.continue_()
        else:
            held.append(route)

    page.route("**/series/*/metadata*", hold_companions)
    segment(panel).click()
    row = panel.get_by_role("row", name="Metastasis 2")
    row.click()
    wait_until(lambda: page.evaluate("true") and held != [], "the request for a companion")
    for route in held:
        route.continue_()
    page.unroute("**/series/*/metadata*")
    panel.get_by_role("button", name="Rename").click()
    expect(panel.get_by_text("New name of Metastasis 2")).to_be_visible()
    field = panel.get_by_label("Name", exact=True)
    type_over(field, "left fron")
    panel.get_by_role("columnheader", name="Volume").get_by_role("button").click()
    field.focus()
    page.keyboard.press("End")
    page.keyboard.type("tal")
    page.keyboard.press("Enter")
    expect(panel.get_by_text("Metastasis 2 renamed to left frontal")).to_be_visible()
    expect(panel.get_by_role("columnheader", name="Volume")).to_have_attribute("aria-sort", "ascending")
    expect(shown_names(panel)).to_have_text(["Metastasis 3", "left frontal", "Metastasis 1"])


def test_a_name_is_typed_key_by_key_and_no_two_lesions_bear_one(site, study, page):
    panel = open_panel(page, site, study)
    shown_names(panel).nth(1).click()
    panel.get_by_role("button", name="Rename").click()
    field = panel.get_by_label("Name", exact=True)
    expect(field).to_be_focused()
    # Where the machine is slow, what the viewer does meanwhile must not take the keyboard away.
    with busy_machine():
        type_over(field, "metastasis 1")
        page.keyboard.press("Enter")
        expect(field).to_have_js_property(
            "validationMessage", "Another lesion has this name. Choose another one."
        )
        type_over(field, "left frontal")
        page.keyboard.press("Enter")
        expect(panel.get_by_text("Metastasis 2 renamed to left frontal")).to_be_visible()
    assert [lesion["name"] for lesion in newest(site, study)["lesions"]][1] == "left frontal"
    with pytest.raises(requests.HTTPError) as refused:
        correct(site, study, rename=[{"number": 3, "name": "LEFT FRONTAL"}])
    assert refused.value.response.json()["error"]["code"] == "lesion_name_taken"


def test_a_long_name_pushes_nothing_out_of_the_panel_and_is_told_whole(site, study, page):
    correct(site, study, rename=[{"number": 1, "name": LONG_NAME[:64]}])
    panel = open_panel(page, site, study)
    expect(shown_names(panel).first).to_have_text(LONG_NAME[:64])
    expect(shown_names(panel).first.get_by_role("button")).to_have_attribute("title", LONG_NAME[:64])
    assert max(panel.evaluate(OVERHANG)) <= 0
    dim = [(name, ratio) for name, ratio in panel.evaluate(CONTRASTS) if ratio < 4.5]
    assert dim == []


def test_the_panel_is_usable_soon_after_every_correction(site, study, page):
    """From the third version on, an object of the PACS joins a series that the viewer lists already."""
    panel = open_panel(page, site, study)

    def expect_usable(told: str) -> None:
        expect(panel.get_by_text(told)).to_be_visible()
        for name in ("Segment", "RTSTRUCT", "Uncertainty map", "Rename", "Delete", "Back to version 1"):
            expect(panel.get_by_role("button", name=name)).to_be_enabled(timeout=READY_LIMIT_MS)
        uids = [companion["sop_instance_uid"] for companion in newest(site, study)["companions"]]
        wait_until(lambda: page.evaluate(UNLISTED, uids) == [], "the report in the viewer's list")

    for index, name in enumerate(("left frontal", "pons")):
        rename(panel, index, name)
        expect(panel.get_by_text(f"Version {index + 2}, corrected by first:")).to_be_visible()
        panel.get_by_text(re.compile("History: ")).click()
        expect_usable(f"Metastasis {index + 1} renamed to {name}")
        panel.get_by_text(re.compile("History: ")).click()
    shown_names(panel).nth(2).click()
    panel.get_by_role("button", name="Delete").click()
    panel.get_by_role("button", name="Delete").click()
    expect(panel.get_by_text("Version 4, corrected by first:")).to_be_visible()
    shown_names(panel).first.click()
    panel.get_by_text(re.compile("History: ")).click()
    expect_usable("Metastasis 3 deleted")


def test_a_correction_ends_while_the_viewport_shows_another_object_than_images(site, study, page):
    correct(site, study, rename=[{"number": 1, "name": "left frontal"}])
    ask_and_wait(site, study, f"/segmentations/{newest(site, study)['id']}/rtstruct", {})
    panel = open_panel(page, site, study)
    uid = newest(site, study)["companions"][1]["sop_instance_uid"]
    wait_until(lambda: page.evaluate(DISPLAY_SET, uid) is not None, "the structure set's thumbnail")
    page.locator(f"[id='thumbnail-{page.evaluate(DISPLAY_SET, uid)}']").dblclick()
    wait_until(lambda: page.evaluate(IS_IN_A_VIEWPORT, uid), "the structure set in the viewport")
    rename(panel, 1, "pons")
    expect(panel.get_by_text("Metastasis 2 renamed to pons")).to_be_visible()
    expect(segment(panel)).to_be_enabled(timeout=READY_LIMIT_MS)
    expect(panel.get_by_role("alert")).to_have_count(0)


def test_a_generated_name_is_on_one_line_and_a_long_one_is_not_cut(site, study, page, french_page):
    correct(site, study, rename=[{"number": 3, "name": "Metastasis 12"}])
    for at in (page, french_page):
        panel = open_panel(at, site, study)
        panel.evaluate(NARROWED)
        assert panel.evaluate(LINES_OF_NAMES) == [[1, 0]] * 3
        assert max(panel.evaluate(OVERHANG)) <= 0
    correct(site, study, rename=[{"number": 1, "name": LONG_NAME[:64]}])
    page.reload()
    expect(shown_names(page.locator(".metscope")).first).to_have_text(LONG_NAME[:64])
    assert [cut for _, cut in page.locator(".metscope").evaluate(LINES_OF_NAMES)] == [0, 0, 0]


def test_an_earlier_version_comes_back_from_the_history(site, study, page):
    first = newest(site, study)
    correct(site, study, rename=[{"number": 2, "name": "left frontal"}])
    correct(site, study, delete=[1, 3])
    panel = open_panel(page, site, study)
    expect(shown_names(panel)).to_have_text(["left frontal"])
    panel.get_by_text("History: 3 versions").click()
    expect(panel.get_by_role("listitem")).to_have_count(3)
    expect(panel.get_by_role("listitem").nth(1)).to_contain_text("Metastasis 2 renamed to left frontal")
    panel.get_by_role("button", name="Back to version 1").click()
    expect(panel.get_by_text("Version 4, corrected by first:")).to_be_visible()
    expect(shown_names(panel)).to_have_text([lesion["name"] for lesion in first["lesions"]])
    assert newest(site, study)["lesions"] == first["lesions"]
    wait_for_overlay(page)
    page.reload()
    expect(panel.get_by_text("History: 4 versions")).to_be_visible()


def test_what_a_person_corrected_comes_before_what_another_model_found_later(site, study, page):
    correct(site, study, rename=[{"number": 1, "name": "left frontal"}])
    panel = open_panel(page, site, study)
    results = panel.get_by_label("Result")
    expect(results.locator("option")).to_have_text([re.compile("version 2, corrected by first")])
    panel.get_by_label("Model").select_option(COARSE)
    segment(panel).click()
    expect(results.locator("option")).to_have_count(2)
    documents = site.ask(f"/studies/{study}/segmentations")["segmentations"]
    (coarse,) = [document for document in documents if document["model"]["id"] == COARSE]
    names = [lesion["name"] for lesion in coarse["lesions"]]
    expect(shown_names(panel)).to_have_text(names)
    expect(results.locator("option").first).to_have_text(re.compile("corrected by first"))
    page.reload()
    expect(shown_names(panel).first).to_have_text("left frontal")
    results.select_option(index=1)
    expect(shown_names(panel)).to_have_text(names)
    results.select_option(index=0)
    expect(shown_names(panel).first).to_have_text("left frontal")
    # Whoever chooses faster than the viewer draws gets what was chosen last, on the images too.
    results.select_option(index=1)
    results.select_option(index=0)
    expect(panel.get_by_role("button", name="Hide")).to_be_enabled()
    expect(shown_names(panel).first).to_have_text("left frontal")
    (corrected,) = [document for document in documents if document["corrected_by"]]
    uid = corrected["segmentation"]["sop_instance_uid"]
    wait_until(lambda: page.evaluate(OBJECTS_ON_SCREEN) == [[uid]], "the chosen result on the images")


def test_who_segments_again_is_told_that_nothing_is_new_and_may_insist(site, study, page):
    panel = open_panel(page, site, study)
    segment(panel).click()
    expect(panel.get_by_text("These images have already been segmented.")).to_be_visible()
    expect(panel.get_by_role("alert")).to_have_count(0)
    assert newest(site, study)["version"] == 1
    panel.get_by_role("button", name="Segment again all the same").click()
    expect(panel.get_by_text("History: 2 versions")).to_be_visible()
    expect(panel.get_by_role("alert")).to_have_count(0)


def test_a_page_with_an_unsaved_drawing_is_not_left_without_a_question(site, study, page):
    panel = open_panel(page, site, study)
    questions: list[str] = []

    def agree(dialog: Dialog) -> None:
        questions.append(dialog.type)
        dialog.accept()

    page.on("dialog", agree)
    shown_names(panel).first.click()
    page.reload()
    expect(panel.locator("button[data-toggle]")).to_be_enabled()
    assert questions == []
    wait_for_overlay(page)
    shown_names(panel).first.click()
    ((shown,),) = page.evaluate(ON_SCREEN)
    page.evaluate(ADD_SEGMENT, shown)
    expect(panel.get_by_role("button", name="Save and measure")).to_be_visible()
    page.reload()
    assert questions == ["beforeunload"]


def test_the_viewers_own_ways_out_ask_before_they_lose_a_drawing(site, study, page):
    panel = open_panel(page, site, study)
    page.evaluate(EARLIER_ENTRY)
    ((shown,),) = page.evaluate(ON_SCREEN)
    page.evaluate(ADD_SEGMENT, shown)
    save = panel.get_by_role("button", name="Save and measure")
    expect(save).to_be_visible()
    questions: list[str] = []
    answers = iter(["stay", "stay", "leave"])

    def reply(dialog: Dialog) -> None:
        questions.append(dialog.message)
        if next(answers) == "leave":
            dialog.accept()
        else:
            dialog.dismiss()

    page.on("dialog", reply)
    address = page.evaluate("location.href")
    page.locator("[data-cy=return-to-work-list]").click()
    assert len(questions) == 1
    page.evaluate("history.back()")
    # Questions arrive only while the page is asked something.
    wait_until(
        lambda: page.evaluate("location.href") == address and len(questions) == 2,
        "another question, and the same page",
    )
    expect(save).to_be_visible()
    assert set(questions) == {"The segmentation has unsaved edits. Leave without saving them?"}
    page.locator("[data-cy=return-to-work-list]").click()
    expect(panel).to_have_count(0)
    assert len(questions) == 3


def test_a_drawing_is_discarded_after_a_question(site, study, page):
    panel = open_panel(page, site, study)
    ((shown,),) = page.evaluate(ON_SCREEN)
    page.evaluate(ADD_SEGMENT, shown)
    discard = panel.get_by_role("button", name="Discard")
    page.once("dialog", lambda dialog: dialog.dismiss())
    discard.click()
    expect(discard).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    discard.click()
    expect(discard).to_be_hidden()
    wait_for_overlay(page)
    shown_names(panel).first.click()
    expect(panel.get_by_role("button", name="Rename")).to_be_visible()
    # It is what is stored: three lesions, and no fourth segment.
    ((stored_id,),) = page.evaluate(ON_SCREEN)
    assert page.evaluate(SEGMENTS, stored_id) == [1, 2, 3]
    assert newest(site, study)["version"] == 1


@pytest.mark.away
def test_a_correction_that_came_too_late_leads_to_the_newest_version(site, study, page):
    panel = open_panel(page, site, study)
    correct(site, study, rename=[{"number": 3, "name": "pons"}])
    shown_names(panel).nth(1).click()
    panel.get_by_role("button", name="Rename").click()
    type_over(panel.get_by_label("Name", exact=True), "left frontal")
    page.keyboard.press("Enter")
    expect(panel.get_by_role("alert")).to_contain_text("Your change was not stored.")
    assert newest(site, study)["id"] not in panel.get_by_role("alert").inner_text()
    panel.get_by_role("button", name="Show the newest version").click()
    expect(shown_names(panel).nth(2)).to_have_text("pons")
    expect(panel.get_by_role("alert")).to_have_count(0)


def test_the_file_of_the_lesions_says_when_where_and_by_whom_and_names_no_patient(site, study, page):
    correct(site, study, rename=[{"number": 1, "name": "left frontal"}])
    panel = open_panel(page, site, study)
    with page.expect_download() as download:
        panel.get_by_role("button", name="CSV").click()
    document = newest(site, study)
    date, model = document["study_date"], document["model"]["id"]
    assert download.value.suggested_filename == f"lesions-{date}-{model}-v2.csv"
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    for row, lesion in zip(rows, document["lesions"], strict=True):
        assert (row["name"], row["version"], row["study_date"]) == (lesion["name"], "2", date)
        assert int(row["slice_index"]) == lesion["slice"]["index"]
        assert row["measurable_reason"] == lesion["measurable_reason"]


def test_in_french_every_sentence_number_and_name_is_french(site, study, french_page):
    page = french_page
    page.goto(f"{site.url}/metscope?StudyInstanceUIDs={study}")
    expect(page.locator("label")).to_have_text("Votre jeton")
    panel = open_panel(page, site, study)
    lesions = newest(site, study)["lesions"]
    expect(shown_names(panel)).to_have_text([f"Métastase {lesion['number']}" for lesion in lesions])
    volumes = panel.locator("tbody td:nth-child(2)")
    expect(volumes).to_have_text([f"{lesion['volume_ml']:.3f}".replace(".", ",") for lesion in lesions])
    expect(panel.get_by_text(re.compile(r"3 lésions, \d+,\d{3} ml en tout"))).to_be_visible()
    assert max(panel.evaluate(OVERHANG)) <= 0


@pytest.mark.away
def test_in_french_an_error_of_the_api_is_told_in_french(site, head, french_page):
    study = site.add(head.image)
    page = french_page
    panel = go_to(page, site, study)
    expect(panel.get_by_text("Cet examen n’a pas été segmenté.")).to_be_visible()
    site.orthanc.stop()
    try:
        panel.get_by_role("button", name="Segmenter").click()
        expect(panel.get_by_role("alert")).to_contain_text("contactez l’administrateur du PACS")
    finally:
        site.orthanc.start()
