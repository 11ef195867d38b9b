"""The real parts that tests run against: Debian's Orthanc and PostgreSQL, and the viewer with all of them.

Each runs on free loopback ports. No fixture skips: a machine without the packages fails, because a green run
without them proves nothing.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from bench.parts import Orthanc, PostgreSQL
from bench.viewer import CHROMIUM, FLAGS, NEWEST, OLDEST, Site
from settings import load
from tests.browser import opened_page
from tests.visits import BRIGHTEST_TISSUE, LESION, Visits, make_visits, save_bright_model
from unetr.synthesis import metastases
from unetr.synthesis.anatomy import HeadOptions

# A model that finds nothing.
SILENT = "silent"
# One that finds only what is large, in no time.
COARSE = "coarse"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of one version of the viewer share a process, and go first: they take longest.

    Every other file goes to a process of its own.
    """

    def viewer_of(item: pytest.Item) -> str | None:
        callspec = getattr(item, "callspec", None)
        version = callspec.params.get("site") if callspec else None
        # Other files have a fixture of that name too.
        return version if version in [OLDEST, NEWEST] else None

    for item in items:
        item.add_marker(pytest.mark.xdist_group(viewer_of(item) or item.path.name))
    items.sort(key=lambda item: viewer_of(item) is None)


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A running Orthanc with the shipped orthanc.json and its DICOM port open; empty at first."""
    running = Orthanc(tmp_path_factory.mktemp("orthanc"), METSCOPE_ORTHANC_DICOM="true")
    running.start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """A running PostgreSQL cluster."""
    running = PostgreSQL()
    try:
        running.start()
        yield running
    finally:
        running.remove()


@pytest.fixture(scope="session")
def postgresql(postgresql_server: PostgreSQL) -> str:
    """SQLAlchemy URL of a fresh, empty PostgreSQL database."""
    return postgresql_server.create("metscope")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of one run of the tests share."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if own.name.startswith("popen-") else own) / "cache"
    shared.mkdir(exist_ok=True)
    return shared


@pytest.fixture(scope="session", params=[OLDEST, NEWEST])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The running viewer of that version; by default its model finds bright voxels.

    The shipped models are there too.
    """
    models = tmp_path_factory.mktemp("models")
    for path in load().models_dir.iterdir():
        (models / path.name).symlink_to(path)
    save_bright_model(models, COARSE, 4.0)
    save_bright_model(models, SILENT, 4.0, threshold=2 * LESION)
    running = Site(request.param, MODELS_DIR=str(models), MODEL_PATH=str(save_bright_model(models)))
    yield running
    running.close()


@pytest.fixture(scope="session")
def all_visits(site: Site, cache: Path) -> Visits:
    """The visits, in the site's archive."""
    visits = make_visits(cache)
    for visit in visits:
        site.store(visit.instances)
    return visits


@pytest.fixture
def visits(site: Site, all_visits: Visits) -> Iterator[Visits]:
    """The visits, not segmented yet."""
    yield all_visits
    for visit in all_visits:
        site.clear(visit.study)


@pytest.fixture(scope="session")
def head() -> metastases.Head:
    """A small head whose three lesions are brighter than all else."""
    options = HeadOptions(lesion_count=(3, 3), diameter_mm=(18, 30), pose=False)
    dim = metastases.head(metastases.grid((64, 96, 96), (2.5, 2.4, 2.4)), 2026, options)
    tissue = np.clip(dim.image.array / dim.image.array.max() * BRIGHTEST_TISSUE, 0, BRIGHTEST_TISSUE)
    bright = np.where(dim.labels.array > 0, LESION, tissue).round().astype(np.uint16)
    return replace(dim, image=dim.image.with_array(bright))


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A running browser."""
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page in English."""
    with opened_page(browser, may_complain=bool(request.node.get_closest_marker("away"))) as opened:
        yield opened


@pytest.fixture
def french_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page in French."""
    may_complain = bool(request.node.get_closest_marker("away"))
    with opened_page(browser, "fr-FR", may_complain=may_complain) as opened:
        yield opened
