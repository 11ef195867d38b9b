"""What lies on which image: several series, studies and frames of reference in a real browser."""

import re
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect
from scipy import ndimage

from bench.parts import wait_until
from bench.viewer import Site
from tests.browser import DISPLAY_SET, MEASUREMENTS, go_to, newest, open_study, segment
from tests.visits import AGAIN, DESCRIPTIONS, POST, Visit

DAYS = {"20250314": "14 Mar 2025", "20250620": "20 Jun 2025", "20250621": "21 Jun 2025"}
# Of every viewport: the series of its images, the segmentations on them, and the words beside the diameters.
VIEWPORTS = """() => {
    const { cornerstoneViewportService, viewportGridService, segmentationService } = window.services
    return [...viewportGridService.getState().viewports.keys()].map(viewportId => {
        // The viewer lists a viewport before it has made it.
        const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportId)
        const series = (viewport?.getImageIds() ?? []).map(imageId => imageId.match(/series\\/([0-9.]+)/)[1])
        return {
            series: [...new Set(series)],
            segmentations: segmentationService.getSegmentationRepresentations(viewportId).map(one =>
                window.services.displaySetService.getDisplaySetByUID(one.segmentationId).SeriesInstanceUID),
            lines: viewport?.element.querySelectorAll('.svg-layer line').length,
            words: Array.from(
                viewport?.element.querySelectorAll('.svg-layer text') ?? [], one => one.textContent),
            focalPoint: viewport?.getCamera().focalPoint,
        }
    })
}"""
# What colour the page shows at a point of the patient, on the slice through it: red, green, blue.
COLOUR_AT = """([index, point]) => {
    const { cornerstoneViewportService, viewportGridService } = window.services
    const viewportId = [...viewportGridService.getState().viewports.keys()][index]
    const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportId)
    viewport.jumpToWorld(point)
    viewport.render()
    const { canvas } = viewport
    const [x, y] = viewport.worldToCanvas(point).map(at => Math.round(at * canvas.width / canvas.clientWidth))
    return [...canvas.getContext('2d').getImageData(x, y, 1, 1).data.slice(0, 3)]
}"""
PLACE_ON_PAGE = """([index, point]) => {
    const { cornerstoneViewportService, viewportGridService } = window.services
    const viewportId = [...viewportGridService.getState().viewports.keys()][index]
    const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportId)
    const { left, top } = viewport.canvas.getBoundingClientRect()
    const [x, y] = viewport.worldToCanvas(point)
    return [left + x, top + y]
}"""
ONE_PANE = "() => window.commandsManager.run('setViewportGridLayout', { numRows: 1, numCols: 1 })"
TWO_PANES = "() => window.commandsManager.run('setViewportGridLayout', { numRows: 1, numCols: 2 })"
SHOW_IT = "Show it in the active viewport"
# Of each row of the table the colour of its square: red, green, blue.
SQUARES = """panel => [...panel.querySelectorAll('.swatch')].map(
    square => getComputedStyle(square).backgroundColor.match(/[0-9.]+/g).map(Number))"""


def expect_notice(panel: Locator, words: str) -> None:
    """Expect the panel to say this, and not as an error."""
    expect(panel.get_by_role("status").filter(has_text=words)).to_be_visible()
    expect(panel.get_by_role("button", name=SHOW_IT)).to_be_visible()
    expect(panel.get_by_role("alert")).to_have_count(0)


def expect_no_notice(panel: Locator) -> None:
    expect(panel.get_by_text("which no viewport shows")).to_have_count(0)


def expect_colours(panel: Locator, colours: list[str]) -> None:
    """Expect a square of its colour in each row, but for the rounding of the SEG."""
    expected = [list(bytes.fromhex(colour.removeprefix("#"))) for colour in colours]
    wait_until(
        lambda: np.allclose(panel.evaluate(SQUARES), expected, rtol=0, atol=2), f"the colours {expected}"
    )


def open_viewports(page: Page) -> list[dict[str, Any]]:
    viewports: list[dict[str, Any]] = page.evaluate(VIEWPORTS)
    return viewports


def show_two_panes(page: Page) -> None:
    """Split the screen, once the viewer has laid out its own."""
    expect(page.locator("[data-cy=viewport-grid] canvas").first).to_be_visible()
    page.evaluate(TWO_PANES)
    expect(page.locator("[data-cy=viewport-grid] .viewport-element")).to_have_count(2)


def is_labelled(page: Page, lesion: dict[str, Any], pane: int = 0) -> bool:
    """Whether the diameters of that lesion, and no others, are on the image, with the number of its row."""
    number = lesion["name"].removeprefix("Metastasis ")
    words = f"{number}: {lesion['long_axis_mm']:.1f} × {lesion['short_axis_mm']:.1f} mm"
    return bool(open_viewports(page)[pane]["words"] == [words])


def put(page: Page, visit: Visit, name: str, pane: int = 0) -> None:
    """Open a series in a viewport, by clicks alone."""
    page.locator("[data-cy=viewport-grid] .viewport-element").nth(pane).click()
    day = DAYS[visit.date].replace(" ", "-")
    page.get_by_role("region", name=day).get_by_text(DESCRIPTIONS[name], exact=True).dblclick()
    wait_until(lambda: open_viewports(page)[pane]["series"] == [visit.series[name]], name, limit_s=60)


def segment_visit(page: Page, site: Site, panel: Locator, visit: Visit) -> dict[str, Any]:
    """Segment the study of the active viewport; the result."""
    expect(panel.get_by_text(DAYS[visit.date]).first).to_be_visible()
    segment(panel).first.click()
    expect(panel.get_by_role("button", name="Hide")).to_be_visible()
    return newest(site, visit.study)


def settle(page: Page, expected: list[list[str]]) -> None:
    """Wait until these SEG series, and no others, lie on the viewports."""
    wait_until(
        lambda: [pane["segmentations"] for pane in open_viewports(page)] == expected,
        f"{expected}",
        limit_s=60,
    )


def fluid_and_white_matter(visit: Visit) -> list[list[float]]:
    """Two points of the head, LPS in mm: bright and dark in a T2, dark and bright in a T1."""
    image = visit.images["T2"]
    darkest, brightest = (
        choose(image.array[18].astype(float), 7)[70:130, 70:120]
        for choose in (ndimage.minimum_filter, ndimage.maximum_filter)
    )
    # What is darker than tissue in a T2 is dark in a T1 too.
    white = np.where(darkest < 400, np.inf, brightest)
    at = [np.unravel_index(np.argmax(darkest), white.shape), np.unravel_index(np.argmin(white), white.shape)]
    places = image.map_indices_to_reference(np.array([[18, 70 + row, 70 + column] for row, column in at]))
    return [[float(value) for value in place] for place in places]


def excess_of_fluid(page: Page, pane: int, visit: Visit) -> float:
    """How much brighter than white matter the screen shows fluid; of 255."""
    fluid, white = (
        sum(page.evaluate(COLOUR_AT, [pane, point])) / 3 for point in fluid_and_white_matter(visit)
    )
    return float(fluid - white)


def test_lesions_lie_on_the_images_that_were_segmented_and_on_no_others(page, site, visits):
    visit = visits.later
    panel = open_study(page, site, visit.study)
    show_two_panes(page)
    put(page, visit, POST, 0)
    put(page, visit, "T2", 1)
    document = segment_visit(page, site, panel, visit)
    assert document["series_instance_uid"] == visit.series[POST]
    stored = document["segmentation"]["series_instance_uid"]
    settle(page, [[stored], []])
    wait_until(
        lambda: [pane["words"] != [] for pane in open_viewports(page)] == [True, False], "the diameters"
    )

    # Three more series one after the other, one of them in another frame of reference: each keeps its pixels.
    for name in ("T1", AGAIN, "FLAIR", "T2"):
        put(page, visit, name, 1)
        settle(page, [[stored], []])
        assert [pane["series"] for pane in open_viewports(page)] == [
            [visit.series[POST]],
            [visit.series[name]],
        ]
        assert open_viewports(page)[1]["lines"] == 0
    wait_until(lambda: excess_of_fluid(page, 1, visit) > 20, "the pixels of the T2")
    wait_until(lambda: excess_of_fluid(page, 0, visit) < -20, "the pixels of the T1")

    # Where nothing shows what was segmented, the panel says so and offers it, at the selected lesion.
    put(page, visit, "T1", 0)
    settle(page, [[], []])
    expect_notice(
        panel, "These lesions were found on T1 MPRAGE post Gd of 20 Jun 2025, which no viewport shows."
    )
    panel.get_by_text(document["lesions"][1]["name"], exact=True).first.click()
    panel.get_by_role("button", name=SHOW_IT).click()
    settle(page, [[stored], []])
    expect_no_notice(panel)
    wait_until(lambda: open_viewports(page)[0]["words"] != [], "the diameters")
    assert open_viewports(page)[0]["words"][0].startswith("2: ")

    # Off by the user's own hand, it stays off whatever is opened, until it is wanted again.
    panel.get_by_role("button", name="Hide").click()
    settle(page, [[], []])
    put(page, visit, "FLAIR", 0)
    put(page, visit, POST, 0)
    settle(page, [[], []])
    panel.get_by_role("button", name="Show").click()
    settle(page, [[stored], []])


def test_a_series_that_looks_unsuitable_can_be_chosen_and_its_result_names_it(page, site, visits):
    visit = visits.later
    panel = open_study(page, site, visit.study)
    chosen = segment_visit(page, site, panel, visit)
    assert chosen["series_instance_uid"] == visit.series[POST]
    panel.get_by_label("Series").select_option(f"{DESCRIPTIONS['FLAIR']} (looks unsuitable)")
    segment(panel).first.click()
    expect(panel.locator(".warning", has_text="despite this problem: The series is a FLAIR")).to_be_visible()
    assert newest(site, visit.study)["series_instance_uid"] == visit.series["FLAIR"]
    names = panel.get_by_label("Result").locator("option").all_inner_texts()
    assert {name.split(": ")[0] for name in names} == {DESCRIPTIONS["FLAIR"], DESCRIPTIONS[POST]}


def test_a_list_of_a_series_that_is_not_on_the_screen_says_so_and_keeps_its_colours(page, site, visits):
    visit = visits.later
    panel = open_study(page, site, visit.study)
    put(page, visit, "T2")
    document = segment_visit(page, site, panel, visit)
    found = "These lesions were found on T1 MPRAGE post Gd of 20 Jun 2025, which no viewport shows."
    rows = site.ask("/patients/H-1001/lesions")["lesions"]
    colours = [row["colour"] for row in rows if row["study_instance_uid"] == visit.study]
    assert len({*colours}) == len(visit.lesions)
    expect_notice(panel, found)
    expect_colours(panel, colours)
    page.reload()
    expect_notice(panel, found)
    expect_colours(panel, colours)
    panel.locator("tbody tr").nth(1).click()
    expect_notice(panel, found)
    panel.get_by_role("button", name=SHOW_IT).click()
    settle(page, [[document["segmentation"]["series_instance_uid"]]])
    expect_no_notice(panel)
    wait_until(lambda: is_labelled(page, document["lesions"][1]), "the selected lesion")
    expect_colours(panel, colours)

    # Another series has a result of its own, on the screen; then the first one is listed again.
    panel.get_by_label("Series").select_option(f"{DESCRIPTIONS['FLAIR']} (looks unsuitable)")
    segment(panel).first.click()
    expect_notice(panel, "T2 FLAIR of 20 Jun 2025, which no viewport shows.")
    put(page, visit, "FLAIR")
    expect_no_notice(panel)
    panel.get_by_label("Result").select_option(
        label=panel.get_by_label("Result").locator("option", has_text="MPRAGE").inner_text()
    )
    expect_notice(panel, found)

    # At a second visit the panel is there before the viewer knows the series.
    page.reload()
    expect(panel.get_by_label("Result").locator("option")).to_have_text(
        [re.compile("^T2 FLAIR: "), re.compile("^T1 MPRAGE post Gd: ")]
    )
    panel.get_by_label("Result").select_option(index=1)
    expect_notice(panel, found)

    # The only viewport that shows it is closed.
    show_two_panes(page)
    put(page, visit, POST, 1)
    expect_no_notice(panel)
    page.locator("[data-cy=viewport-grid] .viewport-element").nth(0).click()
    page.evaluate(ONE_PANE)
    expect_notice(panel, found)


def test_two_studies_side_by_side_keep_their_own_lesions_and_the_panel_follows(page, site, visits):
    earlier, later = visits.earlier, visits.later
    panel = go_to(page, site, later.study, earlier.study)
    expect(panel.get_by_text("This study has not been segmented.")).to_be_visible()
    show_two_panes(page)
    put(page, earlier, POST, 0)
    put(page, later, POST, 1)
    current = segment_visit(page, site, panel, later)
    now = current["segmentation"]["series_instance_uid"]
    settle(page, [[], [now]])
    assert site.ask(f"/studies/{earlier.study}/segmentations") == {"segmentations": []}

    page.locator("[data-cy=viewport-grid] .viewport-element").nth(0).click()
    expect(panel.get_by_text("This study has not been segmented.")).to_be_visible()
    prior = segment_visit(page, site, panel, earlier)
    before = prior["segmentation"]["series_instance_uid"]
    settle(page, [[before], [now]])
    for document, visit, pane in ((prior, earlier, 0), (current, later, 1)):
        page.locator("[data-cy=viewport-grid] .viewport-element").nth(pane).click()
        expect(panel.locator("tbody tr")).to_have_count(len(visit.lesions))
        expect(panel.get_by_text(f"T1 MPRAGE post Gd of {DAYS[visit.date]}")).to_be_visible()
        expect(panel.get_by_label("Result")).to_contain_text(f"version {document['version']}")
        focal_point = open_viewports(page)[1 - pane]["focalPoint"]
        for lesion, row in zip(document["lesions"], panel.locator("tbody tr").all(), strict=True):
            row.click()
            wait_until(
                lambda lesion=lesion, pane=pane: is_labelled(page, lesion, pane), "the lesion's diameters"
            )
            # It is where the patient has it, in the frame of reference of this visit.
            away = [
                np.linalg.norm(np.subtract(lesion["centroid_lps_mm"], centre)) for centre, _ in visit.lesions
            ]
            assert min(away) < 1.0
        assert open_viewports(page)[1 - pane]["focalPoint"] == focal_point
    assert [viewport["lines"] for viewport in open_viewports(page)] == [2, 2]

    # Another patient of the same name has nothing of hers.
    namesake = visits.namesake
    page.goto(f"{site.url}/metscope?StudyInstanceUIDs={namesake.study}")
    expect(panel.get_by_text("This study has not been segmented.")).to_be_visible()
    settle(page, [[]])
    document = segment_visit(page, site, panel, namesake)
    settle(page, [[document["segmentation"]["series_instance_uid"]]])
    expect(panel.locator("tbody tr")).to_have_count(len(namesake.lesions))
    assert [newest(site, visit.study) for visit in (earlier, later)] == [prior, current]
    rows = site.ask("/patients/H-1001/lesions")["lesions"]
    assert {row["study_instance_uid"] for row in rows} == {earlier.study, later.study}


def test_a_click_on_a_lesion_in_three_planes_selects_its_row(page, site, visits):
    visit = visits.earlier
    panel = open_study(page, site, visit.study)
    put(page, visit, POST)
    document = segment_visit(page, site, panel, visit)
    page.locator("[data-cy=Layout]").click()
    page.get_by_text("MPR", exact=True).click()
    settle(page, [[document["segmentation"]["series_instance_uid"]]] * 3)
    for row, lesion in reversed([*enumerate(document["lesions"])]):
        middle = np.mean(lesion["long_axis_lps"], axis=0).tolist()
        for pane in range(3):
            page.evaluate(COLOUR_AT, [pane, middle])
        page.mouse.click(*page.evaluate(PLACE_ON_PAGE, [0, middle]))
        expect(panel.locator("tbody tr").nth(row)).to_have_class("selected")


def test_what_was_found_is_on_the_screen_at_the_second_visit_and_a_click_on_it_selects_its_row(
    page, site, visits
):
    visit = visits.earlier
    panel = open_study(page, site, visit.study)
    put(page, visit, POST)
    document = segment_visit(page, site, panel, visit)
    stored = document["segmentation"]["series_instance_uid"]
    settle(page, [[stored]])
    first, second = document["lesions"]
    middles = [np.mean(lesion["long_axis_lps"], axis=0).tolist() for lesion in (first, second)]

    # The fill hides what is small; the outline does not.
    def is_filled() -> bool:
        return bool(np.ptp(page.evaluate(COLOUR_AT, [0, beside])) > 30)

    across = np.subtract(*first["long_axis_lps"]) / 6 + np.subtract(*first["short_axis_lps"]) / 6
    beside = (np.array(middles[0]) + across).tolist()
    wait_until(is_filled, "the fill")
    panel.get_by_role("button", name="Outlines").click()
    wait_until(lambda: not is_filled(), "no fill")
    panel.get_by_role("button", name="Outlines").click()
    wait_until(is_filled, "the fill again")

    panel.locator("tbody tr").nth(1).click()
    wait_until(lambda: is_labelled(page, second), "the second")
    page.evaluate(COLOUR_AT, [0, middles[0]])
    page.mouse.click(*page.evaluate(PLACE_ON_PAGE, [0, middles[0]]))
    expect(panel.locator("tbody tr").nth(0)).to_have_class("selected")

    # The report beside it becomes measurements by a double click, and the images come back.
    (report,) = [
        companion["sop_instance_uid"] for companion in document["companions"] if companion["modality"] == "SR"
    ]
    wait_until(lambda: page.evaluate(DISPLAY_SET, report) is not None, "the report's thumbnail")
    page.locator(f"[id='thumbnail-{page.evaluate(DISPLAY_SET, report)}']").dblclick()
    wait_until(lambda: len(page.evaluate(MEASUREMENTS)) == 2, "the report's measurements", limit_s=60)
    measured = {measurement["label"]: measurement for measurement in page.evaluate(MEASUREMENTS)}
    assert {measurement["toolName"] for measurement in measured.values()} == {"Bidirectional"}
    for lesion in (first, second):
        points = measured[f"{lesion['name']} ({lesion['tracking_id']})"]["points"]
        ends = [*lesion["long_axis_lps"], *lesion["short_axis_lps"]]
        assert np.sort(points, axis=0) == pytest.approx(np.sort(ends, axis=0), abs=0.1)
    wait_until(lambda: open_viewports(page)[0]["series"] == [visit.series[POST]], "the images")

    page.reload()
    expect(panel.get_by_role("button", name="Hide")).to_be_visible()
    expect(panel.get_by_text(f"T1 MPRAGE post Gd of {DAYS[visit.date]}, segmented")).to_be_visible()
    expect_notice(panel, "These lesions were found on T1 MPRAGE post Gd")
    put(page, visit, POST)
    settle(page, [[stored]])
    expect_no_notice(panel)
    panel.locator("tbody tr").nth(0).click()
    wait_until(lambda: is_labelled(page, first), "the slice of the largest lesion")
