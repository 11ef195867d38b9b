"""The upload of DICOM files by users without a DICOMweb client."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from flask import Response, g
from flask_openapi3.models.file import FileStorage
from pydicom import Dataset

from db import audit
from db.database import writing
from errors import UploadBusy
from imaging import uploads
from imaging.files import MIB
from routes.shared import answer, blueprint, context
from schemas.uploads import UploadAnswer, UploadForm

# Each part of a form is an open file. Users with more slices send a ZIP archive.
MAX_FILES = 500
MAX_UPLOAD_WAIT_S = 60
STORED_AT_ONCE_BYTES = 64 * MIB

routes = blueprint("studies")


@dataclass(frozen=True)
class StoredInstance:
    """An instance that the archive has confirmed."""

    study_instance_uid: str
    sop_instance_uid: str
    modality: str


@routes.post("/studies", responses={200: UploadAnswer})
def upload_studies(form: UploadForm) -> Response:
    """Store DICOM files, and ZIP archives of them, in the archive

    All files are read before the first is stored. If the archive fails in between, send them again.
    """
    counts = Counter(instance.study_instance_uid for instance in store_files(form.files))
    studies = [{"study_instance_uid": uid, "instances": count} for uid, count in sorted(counts.items())]
    return answer(UploadAnswer.model_validate({"studies": studies}))


def store_files(uploaded: Sequence[FileStorage]) -> list[StoredInstance]:
    """Store the files once all have been read. Raises: UploadRefused, UploadBusy, ArchiveError."""
    files = [(str(number), cast(BinaryIO, file.stream)) for number, file in enumerate(uploaded)]
    stored: list[StoredInstance] = []
    with _turn():
        for instance in uploads.instances(files):
            del instance
        for instances in _portions(uploads.instances(files)):
            context().archive.store(instances)
            records = [_stored_instance(instance) for instance in instances]
            instances.clear()
            stored += records
            with writing(context().sessions) as session:
                for uid, count in Counter(record.study_instance_uid for record in records).items():
                    audit.note(session, g.actor, "study.upload", uid, instances=count)
    return stored


@contextmanager
def _turn() -> Iterator[None]:
    """Let one upload at a time be read and stored while a few wait. Raises: UploadBusy."""
    if not context().uploads.acquire(blocking=False):
        raise UploadBusy("Too many uploads are in progress.")
    try:
        if not context().uploading.acquire(timeout=MAX_UPLOAD_WAIT_S):
            raise UploadBusy(f"Another upload is still in progress after {MAX_UPLOAD_WAIT_S} s.")
        try:
            yield
        finally:
            context().uploading.release()
    finally:
        context().uploads.release()


def _stored_instance(instance: Dataset) -> StoredInstance:
    return StoredInstance(
        study_instance_uid=str(instance.StudyInstanceUID),
        sop_instance_uid=str(instance.SOPInstanceUID),
        modality=str(instance.get("Modality", "")),
    )


def _portions(instances: Iterator[Dataset]) -> Iterator[list[Dataset]]:
    portion: list[Dataset] = []
    size = 0
    for instance in instances:
        portion.append(instance)
        size += uploads.size_bytes(instance)
        if size > STORED_AT_ONCE_BYTES:
            yield portion
            portion, size = [], 0
    if portion:
        yield portion
