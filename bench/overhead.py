"""The time that the service itself adds to a job: `python -m bench.overhead`.

Jobs go one after the other through the API, Redis, a worker with the shipped model, PostgreSQL and Orthanc.
The overhead of a job is the time from its creation to its end, minus its stages (fetch, read, predict,
measure, encode) and minus storing a SEG of the same content in Orthanc, timed separately after the job. The
exit status is 1 if the median is above the goal.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import requests
from numpy.typing import NDArray
from pydicom.uid import generate_uid

from bench.parts import Orthanc, wait_until
from bench.service import api, backends, settings_in, working
from db import jobs, segmentations
from db.database import open_database
from db.tables import ACTIVE_STATES
from orthanc.archive import Archive, open_archive
from settings import Settings
from unetr.synthesis import metastases
from unetr.synthesis.anatomy import HeadOptions
from unetr.synthesis.phantom import to_instances

JOBS = 20
GOAL_S = 0.5
JOB_LIMIT_S = 300.0
HEAD = HeadOptions(lesion_count=(5, 5), diameter_mm=(10.0, 25.0))


def store_s(archive: Archive, study_uid: str, seg_series_uid: str) -> float:
    """Measure the seconds to store a copy of the SEG, which stays in the archive under a new UID."""
    (seg,) = archive.retrieve_series(study_uid, seg_series_uid)
    seg.SOPInstanceUID = seg.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    started = time.perf_counter()
    archive.store([seg])
    return time.perf_counter() - started


def run_job(api_url: str, headers: dict[str, str], settings: Settings, study_uid: str) -> list[float]:
    """Run a job; return seconds: whole, waiting for the worker, stages, storing the SEG, overhead."""
    address = f"{api_url}/segmentation/{study_uid}"
    job_id = requests.post(address, json={"force": True}, headers=headers, timeout=30).json()["id"]
    sessions = open_database(settings.sqlalchemy_url)
    wait_until(lambda: jobs.get(sessions, job_id).state not in ACTIVE_STATES, "a job", JOB_LIMIT_S)
    job = jobs.get(sessions, job_id)
    if job.segmentation_id is None or job.started_at is None or job.finished_at is None:
        raise RuntimeError(f"{job.error_code}: {job.error_message}")
    document = segmentations.document(sessions, job.segmentation_id)
    sessions.kw["bind"].dispose()
    whole = (job.finished_at - job.created_at).total_seconds()
    waiting = (job.started_at - job.created_at).total_seconds()
    stages = sum(document.timings_s.values())
    stored = store_s(open_archive(settings), study_uid, str(document.segmentation.series_instance_uid))
    return [whole, waiting, stages, stored, whole - stages - stored]


def measure(folder: Path) -> NDArray[np.float64]:
    """Run the jobs and return the rows of ``run_job``, one for each job."""
    orthanc = Orthanc(folder)
    orthanc.start()
    try:
        with backends() as (postgresql, redis):
            settings = settings_in(
                folder,
                database_url=postgresql.create("overhead"),
                broker_url=redis.url,
                **orthanc.access,
            )
            head = metastases.head(metastases.grid((60, 256, 256), (3.0, 0.9, 0.9)), 2026, HEAD)
            instances = to_instances(head.image)
            open_archive(settings).store(instances)
            study_uid = str(instances[0].StudyInstanceUID)
            with api(settings) as (url, headers), working(settings, [None]):
                return np.array([run_job(url, headers, settings, study_uid) for _ in range(JOBS)])
    finally:
        orthanc.stop()


def main() -> int:
    argparse.ArgumentParser(description="Time what the service itself adds to a job.").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(Path(folder))
    names = ("whole", "of it waiting for the worker", "its stages", "storing the SEG", "overhead")
    for name, column in zip(names, seconds.T, strict=True):
        print(f"{name}: median {np.median(column):.3f} s, worst {column.max():.3f} s")
    print(f"jobs: {len(seconds)}; goal: median overhead of at most {GOAL_S} s")
    return int(np.median(seconds[:, -1]) > GOAL_S)


if __name__ == "__main__":
    sys.exit(main())
