"""The viewer in a real browser: OHIF as it is published, MetScope's panel, and everything behind them."""

import csv
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, Response, Route, expect
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from bench.parts import wait_until
from bench.viewer import Site
from db import tokens
from db.database import open_database
from db.tables import Role
from orthanc.archive import open_archive
from tests.browser import (
    ADD_SEGMENT,
    DISPLAY_SET,
    MEASUREMENTS,
    ON_SCREEN,
    go_to,
    log_in,
    newest,
    open_study,
    segment,
)
from tests.conftest import COARSE, SILENT
from tests.visits import POST
from unetr.synthesis import metastases
from unetr.synthesis.phantom import to_instances

VOXEL_MM = 2.5
# Of every segment its centre, in mm, as the viewer goes to it.
CENTRES = """id => {
    const { segments } = window.services.segmentationService.getSegmentation(id)
    return Object.fromEntries(Object.values(segments).map(one =>
        [one.segmentIndex, one.cachedStats.center?.world ?? one.cachedStats.namedStats?.center?.value]))
}"""

# Of every line on the images its ends, in mm: of the viewport, (x, y, z) twice.
LINES = """() => {
    const { cornerstoneViewportService, viewportGridService } = window.services
    return [...viewportGridService.getState().viewports.keys()].flatMap(viewportId => {
        const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportId)
        return [...viewport.element.querySelectorAll('.svg-layer line')].map(line => ({
            viewportId,
            ends: [1, 2].map(end => viewport.canvasToWorld(
                ['x', 'y'].map(axis => Number(line.getAttribute(axis + end))))),
        }))
    })
}"""
PLANES = """() => {
    const { cornerstoneViewportService, viewportGridService } = window.services
    return [...viewportGridService.getState().viewports.keys()].map(viewportId =>
        cornerstoneViewportService.getCornerstoneViewport(viewportId).getCamera())
}"""
# How many voxels each segment has in the viewer's memory.
COUNTS = """id => {
    const { getSegmentation } = window.cornerstoneTools.segmentation.state
    const { imageIds } = getSegmentation(id).representationData.Labelmap
    const counts = {}
    for (const imageId of imageIds) {
        for (const value of window.cornerstone.cache.getImage(imageId).getPixelData()) {
            if (value) counts[value] = (counts[value] ?? 0) + 1
        }
    }
    return counts
}"""
# What the viewer itself has counted in a segment.
STATISTICS = """([id, number]) =>
    JSON.stringify(window.services.segmentationService.getSegmentation(id).segments[number].cachedStats)"""
# Where a point of the patient is on the page.
ON_PAGE = """point => {
    const { cornerstoneViewportService, viewportGridService } = window.services
    const [viewportId] = viewportGridService.getState().viewports.keys()
    const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportId)
    const { left, top } = viewport.canvas.getBoundingClientRect()
    const [x, y] = viewport.worldToCanvas(point)
    return [left + x, top + y]
}"""
TOLD_LATE = """segmentationId => {
    const { segmentationService } = window.services
    segmentationService._broadcastEvent(segmentationService.EVENTS.SEGMENTATION_MODIFIED, { segmentationId })
}"""
ACTIVE_SEGMENT = "([id, number]) => window.services.segmentationService.setActiveSegment(id, number)"
ACTIVE_TOOL = "() => window.services.toolGroupService.getActivePrimaryMouseButtonTool('default')"
RADIUS = "value => window.commandsManager.runCommand('setBrushSize', { value })"
STRUCTURES = """async uid => {
    const { displaySetService, segmentationService, viewportGridService } = window.services
    const { displaySetInstanceUID } =
        displaySetService.getActiveDisplaySets().find(one => one.SOPInstanceUID === uid)
    const [viewportId] = viewportGridService.getState().viewports.keys()
    window.commandsManager.runCommand('addDisplaySetAsLayer', { viewportId, displaySetInstanceUID })
    for (let wait = 0; wait < 100; wait++) {
        const shown = segmentationService.getSegmentation(displaySetInstanceUID)
        if (shown) return Object.values(shown.segments).map(one => one.label)
        await new Promise(done => setTimeout(done, 100))
    }
}"""
LISTED = """() => window.services.displaySetService.getActiveDisplaySets().map(
    one => [one.SeriesInstanceUID, Boolean(one.unsupported)])"""
OUR_PANEL = (
    """() => window.services.panelService.activatePanel('@metscope/extension.panelModule.lesions', true)"""
)
TOOLS = """() => window.services.panelService.activatePanel(
    '@ohif/extension-cornerstone.panelModule.panelSegmentationWithToolsLabelMap', true)"""
OTHER_PANEL = """() => window.services.panelService.activatePanel(
    '@ohif/extension-cornerstone.panelModule.panelMeasurement', true)"""
CAMERA = """() => {
    const { cornerstoneViewportService, viewportGridService } = window.services
    const [viewportId] = viewportGridService.getState().viewports.keys()
    return cornerstoneViewportService.getCornerstoneViewport(viewportId).getCamera()
}"""


# Of the image in the first viewport its slice's z, mm, and its largest value; null before it is there.
SHOWN = """() => {
    const { cornerstoneViewportService, viewportGridService } = window.services
    const [viewportId] = viewportGridService.getState().viewports.keys()
    const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportId)
    const image = viewport?.getCornerstoneImage?.()
    if (!image) return null
    const { imagePositionPatient } = window.cornerstone.metaData.get('imagePlaneModule', image.imageId)
    return [imagePositionPatient[2], image.getPixelData().reduce((most, value) => Math.max(most, value))]
}"""


def segment_head(page: Page, site: Site, head: metastases.Head) -> tuple[Locator, str]:
    """The panel of a study whose lesions are on the screen, and the study."""
    study = site.add(head.image)
    panel = open_study(page, site, study)
    segment(panel).click()
    expect(panel.get_by_role("button", name="Hide")).to_be_visible()
    return panel, study


def assert_axes(lines: list[dict[str, Any]], lesion: dict[str, Any]) -> None:
    """The lines are the lesion's two axes, where the database has them, on a slice or a plane close to it."""
    endpoints = sorted(sorted(line["ends"]) for line in lines)
    stored = sorted(sorted(lesion[f"{axis}_axis_lps"]) for axis in ("long", "short"))
    away = np.abs(np.subtract(endpoints, stored))
    assert away[..., :2].max() < 0.1
    assert away[..., 2].max() <= VOXEL_MM / 2


def off_plane_mm(camera: dict[str, Any], lesion: dict[str, Any]) -> float:
    """How far the plane that is looked at is from the lesion's long axis."""
    ends = np.subtract(lesion["long_axis_lps"], camera["focalPoint"])
    return float(np.abs(ends @ camera["viewPlaneNormal"]).max())


def jobs_of(site: Site, study: str) -> list[str]:
    """The states of its jobs."""
    return [job["state"] for job in site.ask(f"/jobs?study_instance_uid={study}")["jobs"]]


@contextmanager
def paused_worker(site: Site) -> Iterator[None]:
    """Jobs wait meanwhile."""
    pid = site.service.worker_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_click_brings_the_lesions_onto_the_image_and_into_the_pacs(page, site, head):
    study = site.add(head.image)
    panel = open_study(page, site, study)
    opened_at = page.evaluate("performance.timeOrigin")
    segment(panel).click()
    expect(panel.get_by_role("button", name="Hide")).to_be_visible()
    assert page.evaluate("performance.timeOrigin") == opened_at, "the page was loaded again"

    (document,) = site.ask(f"/studies/{study}/segmentations")["segmentations"]
    stored = [h for headers in open_archive(site.settings).series_headers(study) for h in headers]
    (seg,) = [header for header in stored if header.Modality == "SEG"]
    assert seg.SOPInstanceUID == document["segmentation"]["sop_instance_uid"]
    table = [row.locator("td").all_inner_texts() for row in panel.locator("tbody tr").all()]
    assert table == [
        [
            lesion["name"],
            f"{lesion['volume_ml']:.3f}",
            f"{lesion['long_axis_mm']:.1f} × {lesion['short_axis_mm']:.1f}",
            "yes" if lesion["measurable"] else "no",
            f"{lesion['confidence'] or lesion['mean_probability']:.2f}",
        ]
        for lesion in document["lesions"]
    ]
    on_screen = page.evaluate(ON_SCREEN)
    assert on_screen
    assert {len(ids) for ids in on_screen} == {1}
    centres = page.evaluate(CENTRES, on_screen[0][0])
    for lesion in document["lesions"]:
        from_database = np.subtract(centres[str(lesion["number"])], lesion["centroid_lps_mm"])
        assert np.linalg.norm(from_database) < 1.0
    for number in range(1, len(head.lesions) + 1):
        voxels = np.argwhere(head.labels.array == number).astype(float)
        truth = head.labels.map_indices_to_reference(voxels).mean(axis=0)
        assert np.linalg.norm(np.subtract(list(centres.values()), truth), axis=1).min() < 1.0

    # A click on a row brings the viewport to the slice where the lesion was measured, with its diameters.
    for lesion in document["lesions"]:
        panel.get_by_role("cell", name=lesion["name"]).click()
        wait_until(lambda lesion=lesion: off_plane_mm(page.evaluate(CAMERA), lesion) < 0.1, "the slice")
        wait_until(lambda: len(page.evaluate(LINES)) == 2, "two diameters")
        assert_axes(page.evaluate(LINES), lesion)

    # By volume, the smallest first; the document has the largest first.
    panel.get_by_role("columnheader", name="ml").click()
    smallest_first = [row.locator("td").first.inner_text() for row in panel.locator("tbody tr").all()]
    assert smallest_first == [lesion["name"] for lesion in document["lesions"]][::-1]

    with page.expect_download() as download:
        panel.get_by_role("button", name="CSV").click()
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert [float(row["volume_ml"]) for row in rows] == [
        lesion["volume_ml"] for lesion in document["lesions"]
    ]

    panel.get_by_role("button", name="Hide").click()
    expect(panel.get_by_role("button", name="Show")).to_be_enabled()
    assert page.evaluate(ON_SCREEN) == [[]] * len(on_screen)
    panel.get_by_role("button", name="Show").click()
    expect(panel.get_by_role("button", name="Hide")).to_be_enabled()
    assert [len(ids) for ids in page.evaluate(ON_SCREEN)] == [1] * len(on_screen)
    page.reload()
    expect(panel.get_by_role("button", name="Hide")).to_be_enabled()
    assert [len(ids) for ids in page.evaluate(ON_SCREEN)] == [1] * len(on_screen)
    # Whoever comes back finds the largest lesion on the screen.
    wait_until(lambda: len(page.evaluate(LINES)) == 2, "two diameters")
    assert_axes(page.evaluate(LINES), document["lesions"][0])


def test_in_three_planes_every_one_shows_the_lesions_and_goes_to_them(page, site, head):
    panel, study = segment_head(page, site, head)
    page.locator("[data-cy=Layout]").click()
    page.get_by_text("MPR", exact=True).click()
    expect(page.locator(".viewport-element")).to_have_count(3)
    page.wait_for_function(f"({ON_SCREEN})().every(ids => ids.length === 1)")
    for lesion in newest(site, study)["lesions"]:
        panel.get_by_role("cell", name=lesion["name"]).click()
        middle = np.mean(lesion["long_axis_lps"], axis=0)
        wait_until(
            lambda middle=middle: all(
                abs(np.dot(np.subtract(plane["focalPoint"], middle), plane["viewPlaneNormal"])) < 0.1
                for plane in page.evaluate(PLANES)
            ),
            "three planes through the lesion",
        )
        wait_until(lambda: len(page.evaluate(LINES)) == 2, "two diameters")
        axial = [line for line in page.evaluate(LINES) if "axial" in line["viewportId"]]
        assert_axes(axial, lesion)
    expect(panel.get_by_role("button", name="Save and measure")).to_be_hidden()


def paint(page: Page, shown: str, tool: str, shape: str, radius_mm: float, at: list[float]) -> None:
    """One dab of the viewer's own brush or eraser."""
    before = page.evaluate(COUNTS, shown)
    page.locator(f"[data-cy={tool}]").click()
    page.get_by_role("tab", name=shape).click()
    tool_name = {"Circle": "Circular", "Sphere": "Sphere"}[shape] + tool.removeprefix("MetScope")
    wait_until(lambda: page.evaluate(ACTIVE_TOOL) == tool_name, "the tool")
    page.evaluate(RADIUS, radius_mm)
    x, y = page.evaluate(ON_PAGE, at)

    def dab() -> bool:
        # The viewer takes up a tool in a frame after it has said so: a dab before that does nothing.
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 2, y + 2, steps=5)
        page.mouse.up()
        return bool(page.evaluate(COUNTS, shown) != before)

    wait_until(dab, "a dab of the brush")


def test_what_is_drawn_in_the_viewer_becomes_the_next_version(page, site, head):
    """One lesion erased, one enlarged, one drawn."""
    panel, study = segment_head(page, site, head)
    panel.get_by_role("button", name="RTSTRUCT").click()
    expect(panel.get_by_role("button", name="RTSTRUCT")).to_be_hidden()
    first = newest(site, study)
    erased, enlarged, kept = first["lesions"]
    ((shown,),) = page.evaluate(ON_SCREEN)

    panel.get_by_role("cell", name=erased["name"]).click()
    page.evaluate(TOOLS)
    paint(page, shown, "MetScopeEraser", "Sphere", erased["feret_mm"] / 2 + 3, erased["centroid_lps_mm"])
    page.evaluate(OUR_PANEL)
    panel.get_by_role("cell", name=enlarged["name"]).click()
    page.evaluate(TOOLS)
    page.evaluate(ACTIVE_SEGMENT, [shown, enlarged["number"]])
    counted = page.evaluate(STATISTICS, [shown, enlarged["number"]])
    paint(page, shown, "MetScopeBrush", "Circle", 5, enlarged["long_axis_lps"][0])
    # Once it has counted what was drawn, the viewer builds its list anew: a segment added before is lost.
    wait_until(
        lambda: page.evaluate(STATISTICS, [shown, enlarged["number"]]) != counted, "the viewer's count"
    )
    page.evaluate(ADD_SEGMENT, shown)
    expect(page.get_by_text("Segment 4", exact=True)).to_be_visible()
    paint(page, shown, "MetScopeBrush", "Sphere", 6, far_from(first["lesions"], enlarged["centroid_lps_mm"]))
    counts = page.evaluate(COUNTS, shown)
    assert str(erased["number"]) not in counts
    page.evaluate(OUR_PANEL)
    # What is stored cannot be corrected while something else is drawn.
    panel.get_by_role("cell", name=kept["name"]).click()
    expect(panel.get_by_role("button", name="Rename")).to_be_hidden()
    panel.get_by_role("button", name="Save and measure").click()
    # The viewer may tell late of what was drawn before.
    panel.get_by_role("progressbar").wait_for()
    page.evaluate(TOLD_LATE, shown)
    expect(panel.get_by_text("Version 2, corrected by first:")).to_be_visible()
    expect(panel.get_by_role("button", name="Hide")).to_be_visible()

    second = newest(site, study)
    voxel_ml = VOXEL_MM * 2.4 * 2.4 / 1000
    volumes = {lesion["name"]: lesion["volume_ml"] for lesion in second["lesions"]}
    assert volumes == {
        enlarged["name"]: pytest.approx(counts[str(enlarged["number"])] * voxel_ml),
        kept["name"]: pytest.approx(kept["volume_ml"]),
        "Metastasis 4": pytest.approx(counts["4"] * voxel_ml),
    }
    assert volumes[enlarged["name"]] > enlarged["volume_ml"]
    identities = {lesion["name"]: lesion["tracking_uid"] for lesion in second["lesions"]}
    assert identities[kept["name"]] == kept["tracking_uid"]
    assert identities[enlarged["name"]] == enlarged["tracking_uid"]
    assert sorted((row["change"], row["name"] or row["previous_name"]) for row in second["changes"]) == [
        ("deleted", erased["name"]), ("drawn", "Metastasis 4"), ("redrawn", enlarged["name"]),
    ]  # fmt: skip
    history = site.ask(f"/studies/{study}/segmentations")["segmentations"]
    assert [(version["version"], version["corrects"]) for version in history] == [(2, first["id"]), (1, None)]
    expect(panel.locator("tbody td:first-child")).to_have_text(
        [lesion["name"] for lesion in second["lesions"]]
    )
    assert [len(ids) for ids in page.evaluate(ON_SCREEN)] == [1]
    # What the viewer saved for it to be measured is gone.
    assert series_of(site, study, "SEG") == {
        "Brain metastases, AI segmentation, research use only": [1],
        "Brain metastases, version 2+ by first, research use only": [2],
    }

    assert_companions_open(page, second)


def test_where_no_lesion_is_left_a_missed_one_is_drawn(page, site, head):
    panel, study = segment_head(page, site, head)
    first = newest(site, study)
    for lesion in first["lesions"]:
        panel.get_by_role("cell", name=lesion["name"]).click()
        panel.get_by_role("button", name="Delete").click()
        panel.get_by_role("button", name="Delete").click()
        expect(panel.get_by_role("cell", name=lesion["name"], exact=True)).to_be_hidden()
        expect(panel.get_by_role("progressbar")).to_be_hidden()
    expect(panel.get_by_text("No lesion was found.")).to_be_visible()
    assert newest(site, study)["lesions"] == []
    panel.get_by_role("button", name="Draw").evaluate("draw => { draw.click(); draw.click() }")
    wait_until(lambda: page.evaluate(ON_SCREEN) != [[]], "a segmentation to draw on")
    ((shown,),) = page.evaluate(ON_SCREEN)
    # The viewer stays where the last one was.
    place = first["lesions"][-1]["centroid_lps_mm"]
    paint(page, shown, "MetScopeBrush", "Sphere", 6, place)
    (count,) = page.evaluate(COUNTS, shown).values()
    page.evaluate(OUR_PANEL)
    panel.get_by_role("button", name="Save and measure").click()
    expect(panel.get_by_text("Version 5, corrected by first:")).to_be_visible()
    (drawn_lesion,) = newest(site, study)["lesions"]
    assert drawn_lesion["volume_ml"] == pytest.approx(count * VOXEL_MM * 2.4 * 2.4 / 1000)
    assert drawn_lesion["centroid_lps_mm"] == pytest.approx(place, abs=VOXEL_MM)
    expect(panel.get_by_role("button", name="Hide")).to_be_visible()
    # What was drawn on is gone: the stored one alone lies over the images.
    ((stored,),) = page.evaluate(ON_SCREEN)
    assert stored != shown


def test_the_brush_draws_the_selected_lesion_and_is_put_down_after_it(page, site, head):
    panel, study = segment_head(page, site, head)
    _, second, _ = newest(site, study)["lesions"]
    ((shown,),) = page.evaluate(ON_SCREEN)
    before = page.evaluate(COUNTS, shown)
    panel.get_by_role("cell", name=second["name"]).click()
    panel.get_by_role("button", name="Draw").click()
    paint(page, shown, "MetScopeBrush", "Circle", 5, second["long_axis_lps"][0])
    counts = page.evaluate(COUNTS, shown)
    assert counts["2"] > before["2"]
    assert (counts["1"], counts["3"]) == (before["1"], before["3"])
    page.evaluate(OUR_PANEL)
    expect(panel.get_by_role("button", name="Save and measure")).to_be_visible()
    wait_until(lambda: page.evaluate(ACTIVE_TOOL) == "WindowLevel", "the usual tool")
    # What is drawn is given up: the images have what is stored.
    page.once("dialog", lambda dialog: dialog.accept())
    panel.get_by_role("button", name="Discard").click()
    expect(panel.get_by_role("button", name="Save and measure")).to_be_hidden()
    wait_until(lambda: page.evaluate(ON_SCREEN) not in ([[]], []), "the overlay")
    ((stored_id,),) = page.evaluate(ON_SCREEN)
    wait_until(lambda: page.evaluate(COUNTS, stored_id) == before, "the voxels that are stored")


def test_a_dab_on_a_head_of_the_usual_size_is_saved_and_measured(page, site, all_visits):
    """The object that the viewer saves is larger than what nginx lets pass to the API itself."""
    study = site.add(all_visits.later.images[POST])
    site.ask_for(f"/segmentation/{study}", {"wait_s": 60})
    panel = go_to(page, site, study)
    expect(panel.get_by_role("button", name="Hide")).to_be_visible()
    first = newest(site, study)
    enlarged = first["lesions"][0]
    ((shown,),) = page.evaluate(ON_SCREEN)
    panel.get_by_role("cell", name=enlarged["name"]).click()
    panel.get_by_role("button", name="Draw").click()
    page.evaluate(ACTIVE_SEGMENT, [shown, enlarged["number"]])
    paint(page, shown, "MetScopeBrush", "Circle", 5, enlarged["long_axis_lps"][0])
    page.evaluate(OUR_PANEL)
    panel.get_by_role("button", name="Save and measure").click()
    expect(panel.get_by_text("Version 2, corrected by first:")).to_be_visible()
    second = newest(site, study)
    assert [change["change"] for change in second["changes"]] == ["redrawn"]
    assert second["lesions"][0]["volume_ml"] > enlarged["volume_ml"]


def assert_companions_open(page: Page, document: dict[str, Any]) -> None:
    """What is stored beside the second version says the same, and the viewer opens it."""
    assert [companion["modality"] for companion in document["companions"]] == ["SR", "RTSTRUCT"]
    report, structures = (companion["sop_instance_uid"] for companion in document["companions"])
    expect(page.get_by_text("Brain metastases, contours")).to_have_count(1)
    expect(page.get_by_text("Brain metastases, version 2 by first")).to_have_count(1)
    page.locator(f"[id='thumbnail-{page.evaluate(DISPLAY_SET, report)}']").dblclick()
    wait_until(lambda: len(page.evaluate(MEASUREMENTS)) == len(document["lesions"]), "the measurements")
    measured = page.evaluate(MEASUREMENTS)
    assert {measurement["toolName"] for measurement in measured} == {"Bidirectional"}
    by_label = {measurement["label"]: measurement["points"] for measurement in measured}
    assert set(by_label) == {f"{lesion['name']} ({lesion['tracking_id']})" for lesion in document["lesions"]}
    for lesion in document["lesions"]:
        points = by_label[f"{lesion['name']} ({lesion['tracking_id']})"]
        lines = [{"ends": points[:2]}, {"ends": points[2:]}]
        assert_axes(lines, lesion)
    assert sorted(page.evaluate(STRUCTURES, structures)) == sorted(
        lesion["name"] for lesion in document["lesions"]
    )


def far_from(lesions: list[dict[str, Any]], beside: list[float]) -> list[float]:
    """A point in the slice of ``beside``, in the head, 25 mm or more from every lesion's centre."""
    x, y, z = beside
    for across, along in ((0, 45), (0, -45), (40, 0), (-40, 0), (30, 30), (-30, -30)):
        point = [x + across, y + along, z]
        centres = [lesion["centroid_lps_mm"] for lesion in lesions]
        if (
            min(np.linalg.norm(np.subtract(centre, point)) for centre in centres) > 25
            and np.hypot(*point[:2]) < 70
        ):
            return point
    raise AssertionError("no such point")


@pytest.mark.away
def test_what_is_drawn_and_undone_changes_nothing(page, site, head):
    panel, study = segment_head(page, site, head)
    first = newest(site, study)
    ((shown,),) = page.evaluate(ON_SCREEN)
    before = page.evaluate(COUNTS, shown)
    page.evaluate(TOOLS)
    paint(page, shown, "MetScopeBrush", "Circle", 5, first["lesions"][0]["long_axis_lps"][0])
    page.evaluate("window.commandsManager.run('undo')")
    wait_until(lambda: page.evaluate(COUNTS, shown) == before, "the dab undone")
    page.evaluate(OUR_PANEL)
    # What is drawn is not lost sight of while it is hidden.
    panel.get_by_role("button", name="Hide").click()
    panel.get_by_role("cell", name="Metastasis 1").click()
    expect(panel.get_by_role("button", name="Rename")).to_be_hidden()

    # A PACS that does not take it is no reason to say that images are missing.
    def refuse(route: Route) -> None:
        if route.request.method == "POST":
            route.fulfill(status=503)
        else:
            route.fallback()

    page.route("**/dicom-web/studies*", refuse)
    panel.get_by_role("button", name="Save and measure").click()
    expect(panel.get_by_role("alert")).to_contain_text("failed")
    expect(page.get_by_text("Not all images of this study were received.")).to_have_count(0)
    page.unroute("**/dicom-web/studies*")
    panel.get_by_role("button", name="Save and measure").click()
    expect(panel.get_by_text("Nothing has changed.")).to_be_visible()
    expect(panel.get_by_role("button", name="Save and measure")).to_be_hidden()
    expect(panel.get_by_role("button", name="Rename")).to_be_visible()
    assert len(site.ask(f"/studies/{study}/segmentations")["segmentations"]) == 1


def test_a_lesion_is_renamed_and_another_deleted_after_a_question(page, site, head):
    panel, study = segment_head(page, site, head)
    panel.get_by_role("cell", name="Metastasis 2").click()
    panel.get_by_role("button", name="Rename").click()
    panel.get_by_label("Name", exact=True).fill("left frontal")
    panel.get_by_role("button", name="Rename").click()
    expect(panel.get_by_text("Metastasis 2 renamed to left frontal")).to_be_visible()
    # The viewer takes the panel away, and brings another one.
    page.evaluate(TOOLS)
    expect(panel).to_be_hidden()
    page.evaluate(OUR_PANEL)
    expect(panel.get_by_role("button", name="Hide")).to_be_visible()
    assert [len(ids) for ids in page.evaluate(ON_SCREEN)] == [1]
    panel.get_by_role("cell", name="Metastasis 3").click()
    panel.get_by_role("button", name="Delete").click()
    expect(panel.get_by_text("Delete Metastasis 3?")).to_be_visible()
    assert newest(site, study)["version"] == 2
    panel.get_by_role("button", name="Delete").click()
    expect(panel.get_by_text("Version 3, corrected by first:")).to_be_visible()
    document = newest(site, study)
    assert [lesion["name"] for lesion in document["lesions"]] == ["Metastasis 1", "left frontal"]
    names = panel.locator("tbody tr td:first-child")
    expect(names).to_have_text(["Metastasis 1", "left frontal"])
    expect(panel.get_by_role("button", name="Hide")).to_be_visible()
    ((shown,),) = page.evaluate(ON_SCREEN)
    assert sorted(page.evaluate(CENTRES, shown)) == ["1", "2"]
    panel.get_by_label("Filter by name").fill("FRONT")
    expect(names).to_have_text(["left frontal"])
    # The two corrections share a series, of which the viewer shows the last one.
    corrections = "Brain metastases, version 2+ by first, research use only"
    assert series_of(site, study, "SEG") == {
        "Brain metastases, AI segmentation, research use only": [1],
        corrections: [2, 3],
    }
    page.reload()
    expect(panel.get_by_role("button", name="Hide")).to_be_enabled()
    ((shown,),) = page.evaluate(ON_SCREEN)
    assert sorted(page.evaluate(CENTRES, shown)) == ["1", "2"]
    expect(page.get_by_text(corrections).first).to_be_visible()


def series_of(site: Site, study: str, modality: str) -> dict[str, list[int]]:
    """By description the instance numbers of the archive's series."""
    series = [
        headers
        for headers in open_archive(site.settings).series_headers(study)
        if headers[0].Modality == modality
    ]
    return {
        str(headers[0].SeriesDescription): sorted(int(h.InstanceNumber) for h in headers)
        for headers in series
    }


def test_a_map_of_the_uncertainty_is_stored_once_and_the_viewer_goes_on(page, site, head):
    study = site.add(head.image)
    panel = open_study(page, site, study)
    panel.get_by_label("Model").select_option(COARSE)
    segment(panel).click()
    expect(panel.get_by_role("button", name="Hide")).to_be_visible()
    before = newest(site, study)
    button = panel.get_by_role("button", name="Uncertainty map")
    button.click()
    expect(button).to_have_count(0)
    expect(panel.get_by_role("progressbar")).to_have_count(0)
    expect(panel.get_by_role("alert")).to_have_count(0)

    after = newest(site, study)
    assert [companion["modality"] for companion in after["companions"]] == ["SR", "OT"]
    assert after | {"companions": []} == before | {"companions": []}
    # The viewer lists it, and shows none such; left to itself it goes black over one that is opened.
    series = after["companions"][1]["series_instance_uid"]
    wait_until(
        lambda: [unsupported for uid, unsupported in page.evaluate(LISTED) if uid == series] == [True],
        "the map in the list",
    )
    page.get_by_text("Brain metastases, uncertainty").dblclick()
    expect(page.get_by_text("could not be added")).to_be_visible()
    assert [len(ids) for ids in page.evaluate(ON_SCREEN)] == [1]
    panel.get_by_role("cell", name="Metastasis 1").click()
    expect(panel.get_by_role("button", name="Rename")).to_be_visible()


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless], ids=lambda uid: uid.keyword)
def test_the_page_s_policy_lets_the_viewer_decode_and_show_images(page, site, head, syntax):
    # The decoders are WebAssembly in workers; what the policy refuses is an error in the browser's console.
    image = head.image.with_array(np.rint(head.image.array).astype(np.uint16))
    study = site.add(image, transfer_syntax=syntax)
    policies: list[str] = []

    def note_policy(answer: Response) -> None:
        # The first answer leads to the login.
        if answer.url.startswith(f"{site.url}/metscope?") and answer.status == 200:
            policies.append(answer.headers.get("content-security-policy", ""))

    page.on("response", note_policy)
    open_study(page, site, study)
    assert policies
    assert all("default-src 'self'" in policy and "connect-src 'self'" in policy for policy in policies)
    z_mm, largest = page.wait_for_function(SHOWN).json_value()
    stored = to_instances(image)
    (shown,) = {
        int(instance.pixel_array.max()) for instance in stored if instance.ImagePositionPatient[2] == z_mm
    }
    assert largest == shown


@pytest.mark.parametrize("missing", ["mode.js", "texts.js"])
def test_a_viewer_without_our_files_still_shows_images(page, site, head, missing):
    study = site.add(head.image)
    open_study(page, site, study)
    page.route(f"**/ohif/{missing}", lambda route: route.fulfill(status=404))
    page.goto(f"{site.url}/viewer?StudyInstanceUIDs={study}")
    expect(page.get_by_text("T1 MPRAGE post Gd").first).to_be_visible()
    expect(page.locator("canvas").first).to_be_visible()
    expect(page.locator(".metscope")).to_be_hidden()


def test_the_viewer_opens_in_whatever_order_its_files_arrive(page, site, head):
    # By that order the browser knows which script is running, or does not.
    page.add_init_script("Object.defineProperty(document, 'currentScript', { get: () => null })")
    open_study(page, site, site.add(head.image))


@pytest.mark.away
def test_images_that_do_not_arrive_are_told(page, site, head):
    study = site.add(head.image)
    page.route("**/frames/1", lambda route: route.fulfill(status=503))
    go_to(page, site, study)
    expect(page.get_by_text("Not all images of this study were received.")).to_be_visible()


def test_a_study_without_lesions_says_so(page, site, head):
    study = site.add(head.image)
    panel = open_study(page, site, study)
    panel.get_by_label("Model").select_option(SILENT)
    segment(panel).click()
    expect(panel.get_by_text("No lesion was found.")).to_be_visible()
    assert page.evaluate(ON_SCREEN) == [[]]
    page.reload()
    expect(panel.get_by_text("No lesion was found.")).to_be_visible()
    expect(panel.get_by_label("Model")).to_have_value(SILENT)
    (document,) = site.ask(f"/studies/{study}/segmentations")["segmentations"]
    assert document["model"]["id"] == SILENT


def test_a_second_click_starts_no_second_job_and_a_reload_finds_the_first(page, site, head):
    study = site.add(head.image)
    panel = open_study(page, site, study)
    panel.get_by_label("Model").select_option(SILENT)
    with paused_worker(site):
        segment(panel).dblclick()
        expect(panel.get_by_role("progressbar")).to_be_visible()
        expect(segment(panel)).to_be_disabled()
        page.reload()
        expect(panel.get_by_role("progressbar")).to_be_visible()
        expect(segment(panel)).to_be_disabled()
        assert jobs_of(site, study) == ["queued"]
    expect(panel.get_by_text("No lesion was found.")).to_be_visible()
    expect(segment(panel)).to_be_enabled()
    assert jobs_of(site, study) == ["done"]


def test_a_job_is_cancelled_and_leaves_nothing(page, site, head):
    study = site.add(head.image)
    panel = open_study(page, site, study)
    with paused_worker(site):
        page.locator("[data-cy=MetScopeSegment]").click()
        panel.get_by_role("button", name="Cancel").click()
        expect(panel.get_by_text("The segmentation was cancelled.")).to_be_visible()
    assert jobs_of(site, study) == ["cancelled"]
    assert site.ask(f"/studies/{study}/segmentations") == {"segmentations": []}


def test_a_job_that_another_workplace_asked_for_is_found(page, site, head):
    study = site.add(head.image)
    with paused_worker(site):
        site.ask_for(f"/segmentation/{study}", {"model": SILENT})
        panel = go_to(page, site, study)
        expect(panel.get_by_role("progressbar")).to_be_visible()
        expect(segment(panel)).to_be_disabled()
    expect(panel.get_by_text("No lesion was found.")).to_be_visible()
    assert jobs_of(site, study) == ["done"]


def test_a_panel_that_was_closed_in_mid_job_finds_it_again(page, site, head):
    study = site.add(head.image)
    panel = open_study(page, site, study)
    panel.get_by_label("Model").select_option(SILENT)
    with paused_worker(site):
        segment(panel).click()
        expect(panel.get_by_role("progressbar")).to_be_visible()
        page.evaluate(OTHER_PANEL)
        expect(panel).to_be_hidden()
    page.locator("[data-cy=MetScopeSegment]").click()
    expect(panel.get_by_text("No lesion was found.")).to_be_visible()
    assert jobs_of(site, study) == ["done"]


def test_a_reader_may_look_and_not_segment(page, site, head):
    study = site.add(head.image)
    sessions = open_database(site.settings.sqlalchemy_url)
    secret = tokens.create(sessions, f"reader of {site.url}", Role.READER, "test")
    panel = open_study(page, site, study, secret)
    expect(segment(panel)).to_be_disabled()
    expect(segment(panel)).to_have_attribute(
        "title", "Your access is read-only. You cannot start segmentations."
    )


@pytest.mark.away
def test_a_login_that_has_ended_is_told_and_leads_back_to_the_study(page, site, head):
    study = site.add(head.image)
    panel = open_study(page, site, study)
    page.context.clear_cookies()
    segment(panel).click()
    expect(panel.get_by_role("alert")).to_contain_text("Your session has expired.")
    panel.get_by_role("link", name="Log in again").click()
    log_in(page, site.token)
    expect(panel.get_by_text("This study has not been segmented.")).to_be_visible()
    assert jobs_of(site, study) == []


def test_who_logs_out_is_led_to_the_login_and_sees_nothing_any_more(page, site, head):
    study = site.add(head.image)
    panel = open_study(page, site, study)
    expect(panel.get_by_text("Logged in as first")).to_be_visible()
    panel.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Your token")).to_be_visible()
    page.goto(f"{site.url}/metscope?StudyInstanceUIDs={study}")
    expect(page.get_by_label("Your token")).to_be_visible()


@pytest.mark.away
def test_a_pacs_that_is_away_is_told_with_what_to_do(page, site, head):
    study = site.add(head.image)
    panel = open_study(page, site, study)
    site.orthanc.stop()
    try:
        segment(panel).click()
        expect(panel.get_by_role("alert")).to_contain_text("contact the PACS administrator")
    finally:
        site.orthanc.start()
    panel.get_by_label("Model").select_option(SILENT)
    segment(panel).click()
    expect(panel.get_by_text("No lesion was found.")).to_be_visible()
    expect(panel.get_by_role("alert")).to_be_hidden()


@pytest.mark.away
def test_a_service_that_is_away_is_told_with_what_to_do(page, site, head):
    study = site.add(head.image)
    panel = open_study(page, site, study)
    site.service.stop()
    try:
        segment(panel).click()
        expect(panel.get_by_role("alert")).to_contain_text("MetScope does not answer.")
    finally:
        site.service.start()
    assert jobs_of(site, study) == []
