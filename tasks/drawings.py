"""Drawings that the viewer's panel stores in the archive to be measured, and their deletion."""

import logging

from context import Connections
from db import audit, jobs
from db.database import writing
from db.tables import ACTIVE_STATES, Job
from errors import DeletionUnavailable, MetScopeError
from imaging.labelled import is_seg, labelled_series
from schemas.tasks import MeasureTask

logger = logging.getLogger("metscope.drawings")

# Content Label of the SEG objects that MetScope's panel stores in the archive only to be measured.
DRAWING = "METSCOPE_DRAWING"

RECENT_JOBS = 500


def discard_drawing(job: Job, connections: Connections, after_success: bool) -> None:
    """Delete from the archive the drawing that the viewer's panel stored for the job.

    After a success, whose result holds all that was drawn, the same user's drawings on the same series for
    earlier ended jobs are deleted too. Drawings stay if the archive does not let MetScope delete, is not
    available, or has changed the study.
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
        logger.warning("job %s: the drawing could not be deleted from the archive: %s", job.id, error.code)


def _drawings(study_uid: str, connections: Connections) -> dict[str, str | None]:
    """Return the panel's drawings in a study: SOP Instance UID -> UID of the series that it was drawn on."""
    study = connections.archive.series_headers(study_uid)
    return {
        str(header.SOPInstanceUID): labelled_series(header, study)
        for series in study
        for header in series
        if is_seg(header) and header.get("ContentLabel") == DRAWING
    }
