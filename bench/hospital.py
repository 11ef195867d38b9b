"""The whole service on loopback, whose parts can be stopped, killed and restarted one by one.

Orthanc, PostgreSQL, Redis, the API under gunicorn as docker-compose.yml starts it, and workers with a tiny
model. ``faults`` compares by UID the content of the database and of Orthanc.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
from sqlalchemy import NullPool, create_engine, text

from bench.models import tiny_model
from bench.parts import Orthanc, Part, PostgreSQL, Redis
from bench.service import Api, Worker, made
from orthanc.archive import open_archive
from settings import Settings, load
from unetr.synthesis.phantom import SeriesOptions, to_instances

MODEL = "tiny"
LEASE_S = 3.0
RESULTS = """
    SELECT g.id, g.sop_instance_uid FROM segmentations g
    JOIN series s ON s.id = g.series_ref JOIN studies t ON t.id = s.study_ref
    WHERE t.study_instance_uid = :study"""
JOBS = "SELECT id, state, force, segmentation_id, error_code FROM jobs WHERE study_instance_uid = :study"
# Faults: sentence -> query for the rows of a study's results and jobs that have it.
FAULTS = {
    "segmentations belong to no job": """
        SELECT id FROM results WHERE id NOT IN
        (SELECT segmentation_id FROM asked WHERE segmentation_id IS NOT NULL)""",
    "results are shared by jobs that each asked for their own": """
        SELECT segmentation_id FROM asked WHERE force AND segmentation_id IS NOT NULL
        GROUP BY segmentation_id HAVING count(*) > 1""",
    "done jobs have no result": "SELECT id FROM asked WHERE state = 'done' AND segmentation_id IS NULL",
    "jobs that failed or were cancelled have a result": """
        SELECT id FROM asked WHERE state IN ('failed', 'cancelled') AND segmentation_id IS NOT NULL""",
    "failed jobs do not say why": """
        SELECT id FROM asked
        WHERE state = 'failed' AND coalesce(error_code, 'internal_error') = 'internal_error'""",
    "segmentations lack lesions or measurements": """
        SELECT results.id FROM results LEFT JOIN lesions l ON l.segmentation_ref = results.id
        LEFT JOIN measurements m ON m.lesion_ref = l.id WHERE m.id IS NULL""",
    "SEG objects wait though no job is at work": """
        SELECT segmentation_ref FROM outbox WHERE segmentation_ref IN (SELECT id FROM results)
        AND NOT EXISTS (SELECT 1 FROM asked WHERE state IN ('queued', 'running'))""",
}


class Hospital:
    """The running service. variables: settings of API and workers besides the addresses of the parts."""

    def __init__(self, workers: int = 1, **variables: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="metscope-hospital-"))
        self.orthanc = Orthanc(made(self.folder / "orthanc"))
        self.database = PostgreSQL()
        self.redis = Redis(made(self.folder / "redis"), "a-password")
        self._stores: Sequence[Part] = (self.orthanc, self.database, self.redis)
        for part in self._stores:
            part.start()
        self.variables = {
            "DATA_DIR": str(self.folder / "data"),
            "DICOMWEB_URL": self.orthanc.url,
            "DICOMWEB_USER": self.orthanc.user,
            "DICOMWEB_PASSWORD": self.orthanc.password,
            "DICOMWEB_READ_TIMEOUT_S": "4",
            "ORTHANC_URL": self.orthanc.rest_url,
            "DATABASE_URL": self.database.create("hospital"),
            "BROKER_URL": self.redis.url,
            "MODELS_DIR": str(tiny_model(self.folder / "models", MODEL, 500.0)),
            "LEASE_S": str(LEASE_S),
            "AUTH": "off",
        } | variables
        self.settings: Settings = load(**{name.lower(): value for name, value in self.variables.items()})
        self.engine = create_engine(self.settings.sqlalchemy_url, poolclass=NullPool)
        self.api = Api(made(self.folder / "api"), self.variables)
        self.workers = [self.new_worker() for _ in range(workers)]
        for ours in (self.api, *self.workers):
            ours.start()

    def new_worker(self, **variables: str) -> Worker:
        """Return a new worker, not started yet."""
        folder = Path(tempfile.mkdtemp(prefix="worker-", dir=self.folder))
        return Worker(folder, self.variables | variables)

    def new_study(self) -> str:
        """Store a study in Orthanc and return its UID: a ball in noise, 40 slices of 64 x 64."""
        index = np.stack(np.meshgrid(np.arange(40), np.arange(64), np.arange(64), indexing="ij"), -1)
        from_centre_mm = (index - [20, 32, 32]) * [4.0, 3.0, 3.0]
        image = np.where(np.linalg.norm(from_centre_mm, axis=-1) < 80, 300.0, 5.0)
        image += np.random.default_rng(0).normal(0, 6, image.shape).clip(-4, 20)
        affine = np.array([[0, 0, 3.0, -96], [0, 3.0, 0, -96], [4.0, 0, 0, -80], [0, 0, 0, 1]])
        instances = to_instances(hd.Volume(image.round().clip(0), affine, "PATIENT"), SeriesOptions())
        open_archive(self.settings).store(instances)
        return str(instances[0].StudyInstanceUID)

    def rows(self, query: str, **parameters: object) -> Sequence[Any]:
        with self.engine.connect() as connection:
            return connection.execute(text(query), parameters).all()

    def segs(self, study_instance_uid: str) -> list[str]:
        """Return the SOP Instance UIDs of the study's SEG objects in Orthanc."""
        series = open_archive(self.settings).series_headers(study_instance_uid)
        return [str(h.SOPInstanceUID) for headers in series for h in headers if h.Modality == "SEG"]

    def faults(self, studies: Sequence[str]) -> list[str]:
        """Return sentences about what was lost or duplicated; empty if all is well."""
        sentences = []
        for study in studies:
            recorded_uids = sorted(str(uid) for _, uid in self.rows(RESULTS, study=study))
            stored = sorted(self.segs(study))
            if recorded_uids != stored:
                sentences.append(
                    f"study {study}: the database knows SEG {recorded_uids}, Orthanc holds {stored}"
                )
            for sentence, query in FAULTS.items():
                rows = self.rows(f"WITH results AS ({RESULTS}), asked AS ({JOBS}) {query}", study=study)
                if rows:
                    sentences.append(f"study {study}: {len(rows)} {sentence}")
        return sentences

    def close(self) -> None:
        for part in (*self.workers, self.api, *self._stores):
            part.stop()
        self.database.remove()
        shutil.rmtree(self.folder)
