"""Objects of a segmentation that is recorded in a test."""

from db.recording import NewObject


def seg_object(uid: str, encoded: bytes = b"a DICOM file") -> NewObject:
    """A SEG with that SOP Instance UID; nothing reads the file."""
    return NewObject("SEG", uid, f"{uid}.1", encoded)
