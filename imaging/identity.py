"""Identity checks, shared by all callers: patient, study, series and content must agree between the images
that were requested, received, recorded and stored.
"""

import hashlib
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.uid import ExplicitVRBigEndian

from errors import AlreadyStored, ArchiveRefused, IdentityConflict, InconsistentImages, UnreadablePixels
from imaging.files import UIDS
from imaging.frames import frames_of, name_of, tag_name, text
from imaging.pixels import decoded, transfer_syntax

# Looser than DICOM PS3.5 section 9.1: leading zeros do occur.
UID_PATTERN = r"^[0-9]+(\.[0-9]+)*$"
UID_LENGTH = 64
# Geometry and rescaling of an image, segments, and the content of objects without PixelData.
CONTENT_KEYWORDS = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "SegmentSequence",
    "ContentSequence", "StructureSetROISequence", "ROIContourSequence",
    "FloatPixelData", "DoubleFloatPixelData",
)  # fmt: skip
# Attributes that decide how the bytes of PixelData become an image.
PIXEL_KEYWORDS = (
    "SOPInstanceUID", "FrameOfReferenceUID", "NumberOfFrames", "Rows", "Columns", "BitsAllocated",
    "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip


def is_uid(text: str) -> bool:
    """Return whether the text is a UID, which is also safe as the name of a file or folder."""
    return len(text) <= UID_LENGTH and re.fullmatch(UID_PATTERN, text) is not None and text.isascii()


def frame_of_reference(header: Dataset) -> str:
    """Return the FrameOfReferenceUID; empty if it is missing or not one UID."""
    uid = text(header, "FrameOfReferenceUID")
    return uid if is_uid(uid) else ""


class PatientKey(NamedTuple):
    """The patient that a header names. issuer: the authority that assigned the id; empty if not stated."""

    patient_id: str
    issuer: str


def patient_of(header: Dataset) -> PatientKey:
    """Return the PatientID and its issuer, each empty if missing from the header."""
    return PatientKey(_identifier(header, "PatientID"), _identifier(header, "IssuerOfPatientID"))


def same_patient(first: PatientKey, second: PatientKey) -> bool:
    """Return whether both are the same person. An issuer that only one of them names is ignored."""
    issuers_agree = first.issuer == second.issuer or "" in (first.issuer, second.issuer)
    return first.patient_id == second.patient_id and issuers_agree


def count_patients(headers: Iterable[Dataset]) -> int:
    """Return how many patients the headers name."""
    patients: list[PatientKey] = []
    # Those with an issuer first, so that one without matches them.
    for patient in sorted({patient_of(header) for header in headers}, key=lambda key: key.issuer == ""):
        if not any(same_patient(patient, counted_patient) for counted_patient in patients):
            patients.append(patient)
    return len(patients)


def check_one_patient(instances: Sequence[Dataset]) -> None:
    """Raise InconsistentImages if the instances of a series name several patients."""
    if (count := count_patients(instances)) > 1:
        raise InconsistentImages(
            f"The series holds images of {count} patients: {tag_name('PatientID')} or "
            f"{tag_name('IssuerOfPatientID')} differs between its instances."
        )


def check_image_uids(instances: Iterable[Dataset]) -> None:
    """Raise InconsistentImages if a UID of an image, to which SEG and report refer, is not a UID."""
    for instance in instances:
        for keyword in UIDS:
            if not is_uid(uid := text(instance, keyword)):
                raise InconsistentImages(
                    f"{name_of(instance)}: {tag_name(keyword)} is {uid or 'missing'}, not a UID."
                )


def check_received(instances: Sequence[Dataset], study_uid: str, series_uid: str) -> None:
    """Check that instances from the archive belong to the requested study and series.

    Raises: ArchiveRefused if one does not, InconsistentImages if they name several patients.
    """
    for keyword, asked_uid in (("StudyInstanceUID", study_uid), ("SeriesInstanceUID", series_uid)):
        for instance in instances:
            if (uid := text(instance, keyword)) != asked_uid:
                raise ArchiveRefused(
                    f"The archive was asked for series {series_uid} of study {study_uid} and served "
                    f"{name_of(instance)}, whose {tag_name(keyword)} is {uid or 'missing'}."
                )
    check_one_patient(instances)


def content_digest(instances: Iterable[Dataset]) -> str:
    """Return the hexadecimal SHA-256 of a series' images: their UIDs, encoded pixels, geometry and rescaling.

    It does not depend on the order of the instances. Raises: InputRefused unless all are MR images.
    """
    digests = sorted(_instance_digest(instance) for instance in instances)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _instance_digest(instance: Dataset) -> bytes:
    digest = hashlib.sha256(_encoding(instance).encode())
    for keyword in PIXEL_KEYWORDS:
        digest.update(f"\n{text(instance, keyword)}".encode())
    for frame in frames_of(instance):
        digest.update(frame.orientation.tobytes() + frame.position.tobytes())
        digest.update(struct.pack("<4d", *frame.spacing_mm, frame.slope, frame.intercept))
    digest.update(instance.get("PixelData") or b"")
    return digest.digest()


def _encoding(instance: Dataset) -> str:
    """Return the encoding of the pixels: one name for all native little-endian syntaxes, which share it."""
    syntax = transfer_syntax(instance)
    native = syntax.is_transfer_syntax and not syntax.is_encapsulated and syntax != ExplicitVRBigEndian
    return "native" if native else syntax


def check_storable(instances: Iterable[Dataset], present: Mapping[str, Dataset]) -> None:
    """Raise AlreadyStored if other content already exists under an instance's UIDs.

    present: the existing instances of the same series, by SOP Instance UID.
    """
    for instance in instances:
        uid = text(instance, "SOPInstanceUID")
        if uid in present and not _same_content(instance, present[uid]):
            raise AlreadyStored(
                f"Different content is stored or was sent under the UIDs of instance {uid}.",
                {"failed": [uid]},
            )


def check_sent_together(instances: Iterable[Dataset]) -> None:
    """Refuse instances of which an archive would keep only some but report all as stored.

    Raises: AlreadyStored for two contents under the same UIDs, IdentityConflict for two patients in a study.
    """
    patients: dict[str, dict[PatientKey, Dataset]] = {}
    earlier: dict[tuple[str, ...], Dataset] = {}
    for instance in instances:
        uids = tuple(text(instance, f"{level}InstanceUID") for level in ("Study", "Series", "SOP"))
        of_study = patients.setdefault(uids[0], {})
        check_study_patient(instance, of_study.values())
        of_study[patient_of(instance)] = instance
        check_storable([instance], {uids[2]: earlier.setdefault(uids, instance)})


def check_study_patient(instance: Dataset, study: Iterable[Dataset]) -> None:
    """Raise IdentityConflict if an instance's study already exists, but only under other patients.

    study: headers of the existing study, at least one for each patient.
    """
    patient = patient_of(instance)
    study_patients = [study_patient for header in study if (study_patient := patient_of(header)).patient_id]
    if study_patients and not any(same_patient(study_patient, patient) for study_patient in study_patients):
        raise IdentityConflict(
            f"Study {text(instance, 'StudyInstanceUID')} is stored or was sent under another patient than "
            f"instance {text(instance, 'SOPInstanceUID')} names."
        )


def _same_content(first: Dataset, second: Dataset) -> bool:
    """Return whether both have the same content. An archive may have changed headers and transfer syntax.

    Pixels that cannot be decoded are compared only in the same transfer syntax; otherwise they differ.
    """
    if any(text(first, keyword) != text(second, keyword) for keyword in PIXEL_KEYWORDS):
        return False
    if any(first.get(keyword) != second.get(keyword) for keyword in CONTENT_KEYWORDS):
        return False
    if "PixelData" not in first or _encoding(first) == _encoding(second):
        return bool(first.get("PixelData") == second.get("PixelData"))
    try:
        frames = zip_longest(decoded(first), decoded(second))
        return all(np.array_equal(first_frame, second_frame) for first_frame, second_frame in frames)
    except UnreadablePixels:
        return False


def check_derived(dataset: Dataset, source: Dataset) -> None:
    """Raise IdentityConflict unless an object has its source's patient, study, frame of reference and images.

    source: the header of an instance of the series that the object was made from.
    """
    if not same_patient(patient_of(dataset), patient_of(source)):
        raise IdentityConflict(
            f"An object of series {text(source, 'SeriesInstanceUID')} names another patient."
        )
    keywords = ["StudyInstanceUID"]
    if frame_of_reference(source) and "FrameOfReferenceUID" in dataset:
        keywords.append("FrameOfReferenceUID")
    for keyword in keywords:
        if text(dataset, keyword) != text(source, keyword):
            raise IdentityConflict(
                f"An object has the {tag_name(keyword)} {text(dataset, keyword)}, but the series it was "
                f"created from has {text(source, keyword)}."
            )
    # A corrected SEG also refers to the previous version.
    referenced = {text(item, "SeriesInstanceUID") for item in dataset.get("ReferencedSeriesSequence") or []}
    if referenced and text(source, "SeriesInstanceUID") not in referenced:
        raise IdentityConflict(
            f"An object created from series {text(source, 'SeriesInstanceUID')} does not refer to it."
        )


def _identifier(header: Dataset, keyword: str) -> str:
    # Some scanners pad with NUL.
    return text(header, keyword).replace("\x00", "").strip()
