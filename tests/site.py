"""A site within this process: archive, database, API and worker, on a data folder of its own."""

from functools import cached_property
from pathlib import Path

from api import create_app
from bench import rows
from db import jobs
from orthanc.archive import open_archive
from settings import Settings
from tests.documents import document_of
from unetr.served import find_spec
from worker import Runner

# Of a voxel of 2 mm, as in the studies of ``bench.rows``.
VOXEL_ML = 0.008


class Killed(BaseException):
    """What a process does not survive; nothing in our code catches it."""


class Site:
    """A data folder with all that works on it; without an opener, a threshold stands for the model."""

    def __init__(self, folder: Path, opener=None, **settings: object) -> None:
        self.settings = Settings(_env_file=None, data_dir=folder, **settings)
        self.runner = Runner(self.settings, opener) if opener else rows.threshold_runner(self.settings)
        self.sessions, self.archive = self.runner.sessions, open_archive(self.settings)

    @cached_property
    def app(self):
        return create_app(self.settings)

    @cached_property
    def model(self) -> str:
        """The id of the default model."""
        return find_spec(self.settings, None).id

    def submit(self, study: str, **options: object) -> str:
        return jobs.submit(self.sessions, study, self.model, **options).id

    def job(self, job_id: str):
        return jobs.get(self.sessions, job_id)

    def run_job(self, job_id: str):
        self.runner.run(job_id)
        return self.job(job_id)

    def document(self, job) -> dict:
        assert (job.state, job.error_code) == ("done", None), job.error_message
        return document_of(self.sessions, job.segmentation_id)
