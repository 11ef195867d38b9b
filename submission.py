"""Job requests from any route: validated, queued, and announced to the workers."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session, sessionmaker

from db import batches, jobs, segmentations
from db.tables import Batch, Job
from errors import InvalidForm, LesionNameTaken, LesionNotFound
from schemas.jobs import SegmentationForm
from schemas.results import ModelReference, SegmentationAnswer
from schemas.tasks import (
    CorrectTask,
    MeasureTask,
    RestoreTask,
    SegmentTask,
    StructureSetTask,
    Task,
    UncertaintyTask,
)
from unetr.spec import ModelSpec


@dataclass(frozen=True)
class Submission:
    """The requests of one caller. announce: tells the workers about a job. actor: the caller's name."""

    sessions: sessionmaker[Session]
    announce: Callable[[str], None]
    actor: str | None

    def segment(self, study_uid: str, spec: ModelSpec, form: SegmentationForm) -> Job:
        """Segment a study with a model; the job selects the series that the form leaves open.

        Raises: InvalidForm.
        """
        _check_series(form, spec)
        task = SegmentTask(inputs=form.inputs)
        return self._submit(study_uid, form.series_instance_uid, spec.id, task, form.force)

    def segment_batch(self, study_uids: Sequence[str], spec: ModelSpec, force: bool) -> Batch:
        """Segment several studies with a model."""
        batch = batches.submit(self.sessions, study_uids, spec.id, force=force, requested_by=self.actor)
        for job in batch.jobs:
            self.announce(job.id)
        return batch

    def correct(self, segmentation_id: str, rename: Mapping[int, str], delete: Sequence[int]) -> Job:
        """Rename and delete lesions. rename: new names by lesion number.

        Raises: SegmentationNotFound, SegmentationSuperseded, LesionNotFound, LesionNameTaken.
        """
        document = segmentations.document(self.sessions, segmentation_id)
        segmentations.require_newest_version(self.sessions, segmentation_id)
        unknown = {*rename, *delete} - {lesion.number for lesion in document.lesions}
        if unknown:
            raise LesionNotFound(f"Segmentation {segmentation_id} has no lesion {min(unknown)}.")
        lesions = [lesion for lesion in document.lesions if lesion.number not in delete]
        names = Counter(rename.get(lesion.number, lesion.name).casefold() for lesion in lesions)
        if duplicates := [name for name in rename.values() if names[name.casefold()] > 1]:
            raise LesionNameTaken(f"Another lesion is called {duplicates[0]!r}.")
        task = CorrectTask(
            segmentation_id=segmentation_id, rename=dict(sorted(rename.items())), delete=tuple(sorted(delete))
        )
        return self._extend(document, task)

    def restore(self, segmentation_id: str) -> Job:
        """Restore the lesions of an earlier version. Raises: SegmentationNotFound."""
        document = segmentations.document(self.sessions, segmentation_id)
        newest = segmentations.newest_version(self.sessions, segmentation_id)
        return self._extend(document, RestoreTask(segmentation_id=segmentation_id, corrects=newest))

    def measure(self, study_uid: str, sop_instance_uid: str, corrects: str | None = None) -> Job:
        """Measure a SEG or structure set in the archive.

        corrects: the segmentation that was edited; None: the newest of the SEG's series. The job fails if
        that segmentation has a newer version; its drawing is deleted after the next job that succeeds.
        Raises: SegmentationNotFound.
        """
        task = MeasureTask(sop_instance_uid=sop_instance_uid, corrects=corrects)
        if corrects is None:
            return self._submit(study_uid, None, segmentations.BY_HAND.id, task)
        edited = segmentations.document(self.sessions, corrects)
        return self._submit(study_uid, edited.series_instance_uid, edited.model.id, task)

    def add_structure_set(self, segmentation_id: str) -> Job:
        """Store the lesions also as an RT Structure Set.

        Raises: SegmentationNotFound; LesionNotFound if there are no lesions.
        """
        document = segmentations.document(self.sessions, segmentation_id)
        if not document.lesions:
            raise LesionNotFound(f"Segmentation {segmentation_id} has no lesions.")
        return self._extend(document, StructureSetTask(segmentation_id=segmentation_id))

    def add_uncertainty_map(self, segmentation_id: str, served: Sequence[ModelReference]) -> Job:
        """Store the model's uncertainty. served: the models in use.

        Raises: SegmentationNotFound, UncertaintyUnavailable.
        """
        document = segmentations.document(self.sessions, segmentation_id)
        segmentations.require_served_model(document, served)
        return self._extend(document, UncertaintyTask(segmentation_id=segmentation_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job. Raises: JobNotFound, JobNotCancellable."""
        # The worker that hears of it deletes the drawing that the job was to measure.
        return self._announce(jobs.cancel(self.sessions, job_id, self.actor))

    def retry(self, job_id: str) -> Job:
        """Submit the job's request again, as a new job. Raises: JobNotFound, JobNotRetryable."""
        return self._announce(jobs.retry(self.sessions, job_id, self.actor))

    def _extend(self, document: SegmentationAnswer, task: Task) -> Job:
        return self._submit(
            document.study_instance_uid, document.series_instance_uid, document.model.id, task
        )

    def _submit(
        self, study_uid: str, series_uid: str | None, model_id: str, task: Task, force: bool = False
    ) -> Job:
        job = jobs.submit(
            self.sessions,
            study_uid,
            model_id,
            series_instance_uid=series_uid,
            force=force,
            requested_by=self.actor,
            task=task,
        )
        return self._announce(job)

    def _announce(self, job: Job) -> Job:
        self.announce(job.id)
        return job


def _check_series(form: SegmentationForm, spec: ModelSpec) -> None:
    """Check that the form's series fit each other and the model's inputs. Raises: InvalidForm."""
    unknown = sorted(form.inputs.keys() - set(spec.inputs))
    if unknown:
        raise InvalidForm(f"inputs: {spec.id} has no {unknown[0]!r}; it has: {', '.join(spec.inputs)}.")
    if len(set(form.inputs.values())) < len(form.inputs):
        raise InvalidForm("inputs: one series is given twice.")
    first = form.inputs.get(spec.inputs[0])
    if first and form.series_instance_uid and first != form.series_instance_uid:
        raise InvalidForm(f"series_instance_uid: inputs gives another series as {spec.inputs[0]}.")
