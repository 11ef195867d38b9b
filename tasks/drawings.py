"""What the panel in the viewer saves in the archive to have it measured, and when that is deleted."""

import logging

from context import Connections
from db import audit, jobs
from db.database import writing
from db.tables import ACTIVE_STATES, Job
from db.tasks import MeasureTask
from errors import (
    DeletionUnavailable,
    MetScopeError,
)
from imaging.labelled import is_seg, labelled_series

logger = logging.getLogger("metscope.drawings")

# Content Label of what MetScope's panel in the viewer saves in the archive only for it to be measured.
DRAWING = "METSCOPE_DRAWING"

RECENT_JOBS = 500


def discard_drawing(job: Job, connections: Connections, after_success: bool) -> None:
    """Delete in the archive what the panel in the viewer saved for the job.

    After a success, which holds all that was drawn, what the same person drew on the same series for earlier
    jobs that failed goes too. It stays in an archive that MetScope may not delete in,
    that is away, or that has the study no more as it was.
    """
    if not isinstance(job.task, MeasureTask):
        return
    uid = job.task.sop_instance_uid
    try:
        drawings = _drawings(job.study_instance_uid, connections)
        if uid not in drawings:
            return
        done = {uid}
        if after_success:
            done |= {
                other.task.sop_instance_uid
                for other in jobs.list_jobs(connections.sessions, RECENT_JOBS, None, job.study_instance_uid)
                if isinstance(other.task, MeasureTask)
                and other.state not in ACTIVE_STATES
                and other.requested_by == job.requested_by
            }
        for drawing, series_uid in drawings.items():
            if drawing in done and series_uid == drawings[uid]:
                connections.archive.delete_instance(job.study_instance_uid, drawing)
                with writing(connections.sessions) as session:
                    audit.note(session, job.requested_by, "drawing.delete", drawing)
    except DeletionUnavailable:
        pass
    except MetScopeError as error:
        logger.warning("job %s: what was drawn stays in the archive: %s", job.id, error.code)


def _drawings(study_uid: str, connections: Connections) -> dict[str, str | None]:
    """Return what the panel has saved in a study: by SOP Instance UID the series that it was drawn on."""
    study = connections.archive.series_headers(study_uid)
    return {
        str(header.SOPInstanceUID): labelled_series(header, study)
        for series in study
        for header in series
        if is_seg(header) and header.get("ContentLabel") == DRAWING
    }
