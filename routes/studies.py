"""DICOM files sent by people without a DICOMweb client."""

from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, cast

from flask import Response, g
from pydicom import Dataset

import schemas
from db import audit
from db.database import writing
from imaging import incoming
from imaging.files import MIB
from routes.shared import answer, blueprint, context

# Each part of a form is an open file; who has more slices sends a ZIP archive of them.
MOST_FILES = 500
STORED_AT_ONCE_BYTES = 64 * MIB

routes = blueprint("studies")


@routes.post("/studies", responses={200: schemas.UploadAnswer})
def upload_studies(form: schemas.UploadForm) -> Response:
    """Store DICOM files, and ZIP archives of them, in the archive

    Every file is read before the first one is stored. Where the archive fails on the way, send them again.
    """
    files = [(str(number), cast(BinaryIO, file.stream)) for number, file in enumerate(form.files)]
    with context().uploading:
        for instance in incoming.instances(files):
            del instance
        stored: Counter[str] = Counter()
        for some in _portions(incoming.instances(files)):
            context().archive.store(some)
            uids = Counter(str(instance.StudyInstanceUID) for instance in some)
            some.clear()
            stored += uids
            with writing(context().sessions) as session:
                for uid, count in uids.items():
                    audit.note(session, g.actor, "study.upload", uid, instances=count)
    studies = [{"study_instance_uid": uid, "instances": count} for uid, count in sorted(stored.items())]
    return answer(schemas.UploadAnswer.model_validate({"studies": studies}))


def _portions(instances: Iterator[Dataset]) -> Iterator[list[Dataset]]:
    some: list[Dataset] = []
    size = 0
    for instance in instances:
        some.append(instance)
        size += len(instance.get("PixelData") or b"")
        if size > STORED_AT_ONCE_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some
