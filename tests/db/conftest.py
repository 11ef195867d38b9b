"""Every test here runs on a fresh SQLite file and on a fresh database of a real PostgreSQL."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.orm import Session, sessionmaker

from db import jobs, recording
from db.database import open_database
from db.source import source_of
from db.tables import Base
from imaging.stack import SliceReference
from lesions.measure import Lesion, components, measure
from tests.recorded import seg_object


@pytest.fixture(params=["sqlite", "postgresql"])
def system(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def empty_url(system: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables."""
    if system == "sqlite":
        yield f"sqlite:///{tmp_path / 'metscope.sqlite'}"
        return
    with temporary_database(request.getfixturevalue("postgresql"), f"empty_{uuid.uuid4().hex}") as url:
        yield url


@pytest.fixture
def url(system: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A migrated database without rows; migrating one for each test would take most of the time."""
    if system == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "metscope.sqlite")
        yield f"sqlite:///{tmp_path / 'metscope.sqlite'}"
        return
    engine = request.getfixturevalue("migrated_postgresql").kw["bind"]
    yield engine.url.render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(Base.metadata.tables)}"))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "metscope.sqlite"
    open_database(f"sqlite:///{path}").kw["bind"].dispose()
    return path


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: str) -> Iterator[sessionmaker[Session]]:
    with temporary_database(postgresql, f"migrated_{uuid.uuid4().hex}") as url:
        opened = open_database(url)
        yield opened
        opened.kw["bind"].dispose()


@contextmanager
def temporary_database(server: str, name: str) -> Iterator[str]:
    """The URL of a new database beside the one that server names, dropped in the end."""
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def sessions(system: str, url: str, request: pytest.FixtureRequest) -> Iterator[sessionmaker[Session]]:
    if system == "postgresql":
        yield request.getfixturevalue("migrated_postgresql")
        return
    opened = open_database(url)
    yield opened
    opened.kw["bind"].dispose()


@pytest.fixture
def job_id(sessions: sessionmaker[Session]) -> str:
    return jobs.submit(sessions, "1.2.3", "unetr").id


@pytest.fixture(scope="session")
def two_boxes() -> list[Lesion]:
    """Measured by the real code: 8 x 12 x 20 mm and 4 x 3 x 3 mm, so 1.92 ml and 0.036 ml."""
    mask = np.zeros((20, 40, 40), np.uint8)
    mask[2:6, 5:17, 5:25] = 1
    mask[10:12, 30:33, 30:33] = 1
    axial = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
    labels = components(hd.Volume(mask, axial, coordinate_system="PATIENT"))
    return measure(labels, [SliceReference(f"1.2.3.4.{index}") for index in range(20)])


@pytest.fixture
def header() -> Dataset:
    dataset = Dataset()
    dataset.PatientID = "MS-1"
    dataset.IssuerOfPatientID = "Hospital A"
    dataset.PatientName = "Müller^Änne"
    dataset.PatientBirthDate = "19500412"
    dataset.PatientSex = "F"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.StudyDate = "20240229"
    dataset.StudyTime = "101112.5"
    dataset.StudyDescription = "MR Brain"
    dataset.SeriesInstanceUID = "1.2.3.4"
    dataset.SeriesDescription = "T1 MPRAGE +Gd"
    dataset.Modality = "MR"
    return dataset


@pytest.fixture
def new(header: Dataset, two_boxes: list[Lesion]) -> recording.NewSegmentation:
    return recording.NewSegmentation(
        source=source_of(header),
        model_id="unetr",
        model_version="1",
        model_sha256="ab" * 32,
        reasons=["post-contrast", "3D"],
        warnings=["Slice thickness differs from spacing."],
        lesions=two_boxes,
        seg=seg_object(generate_uid()),
        idempotency_key="key-1",
        timings_s={"fetch": 0.25, "predict": 3.5},
        peak_memory_mb=812.5,
        software_version="0.1.0",
    )
