"""Attributes that an object derived from a stack inherits (patient, study, clock, references to the images),
and its description of the version of the result that it shows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import highdicom as hd
import numpy as np
from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, DS, TM, validate_value

from imaging import codes
from imaging.files import UIDS
from imaging.frames import is_multi_frame, numbers
from imaging.stack import Stack
from names import plain
from version import VERSION

# Type 2 attributes of the patient and study modules: present in every object, empty without a legal value.
REQUIRED_KEYWORDS = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
OPTIONAL_KEYWORDS = ("StudyDescription", "PatientAge", "IssuerOfPatientID")
# Characters of a DICOM Long String, the VR of descriptions, labels and code meanings.
LONG_STRING = 64
RESEARCH = "research use only"
# Series numbers of a study's first result; each further result adds NUMBERS_PER_RESULT.
FIRST_SERIES_NUMBER = {"SEG": 1000, "SR": 1001, "RTSTRUCT": 1002, "OT": 1003}
NUMBERS_PER_RESULT = 10
# TimezoneOffsetFromUTC, e.g. +0900.
UTC_OFFSET = re.compile(r"([+-])(0\d|1[0-4])([0-5]\d)")
# Prefixes of the dates and times at which an object was created; a structure set has no content date.
CREATION_PREFIXES = ("InstanceCreation", "Series", "Content")


@dataclass(frozen=True)
class Algorithm:
    """The algorithm that drew the segments. sha256: of its weights, hexadecimal; parameters: of its call."""

    name: str
    version: str
    sha256: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """The segmented structures. name: for titles, at most 20 letters, digits and blanks. anatomy: the region,
    from CID 4; None: no object states it.
    """

    name: str
    anatomy: Code | None

    @property
    def in_a_sentence(self) -> str:
        """Return the name with a small first letter, for use within a sentence."""
        return self.name[0].lower() + self.name[1:]


METASTASES = Subject("Brain metastases", codes.BRAIN)


@dataclass(frozen=True)
class OpenSeries:
    """A series that takes further versions of a correction: first version, index of the result, start."""

    first_version: int
    result_index: int
    date: str
    time: str


@dataclass(frozen=True)
class Edition:
    """The version of a result that an object shows, what drew it, and the series that stores it.

    version: from 1. editor: the user who corrected or drew it; None: nobody did. corrected: by a person,
    named or not. result_index: number of results that the study had before, so that each result has its own
    series numbers. continued: the series of the previous version, for its SEG and report; None: a new series.
    subject: what the result shows. algorithm: the model that drew it; None: a person, or another's SEG.
    """

    version: int = 1
    editor: str | None = None
    corrected: bool = False
    result_index: int = 0
    continued: OpenSeries | None = None
    subject: Subject = METASTASES
    algorithm: Algorithm | None = None

    @property
    def serial_number(self) -> str:
        """Return the SHA-256 of the model's weights, which identify it: a model has no serial number."""
        return self.algorithm.sha256 if self.algorithm else "none"

    def attributes(self, modality: str, previous: Dataset | None = None) -> dict[str, Any]:
        """Return highdicom's arguments that identify a new object, its series and its equipment.

        previous: the object, or its UIDs, of the version that this one corrects.
        """
        return {
            "sop_instance_uid": hd.UID(),
            "series_instance_uid": self.series_instance_uid(previous),
            "series_number": self.series_number(modality),
            "instance_number": self.version,
            "manufacturer": "MetScope",
            "manufacturer_model_name": self.algorithm.name if self.algorithm else "MetScope",
            "software_versions": self.algorithm.version if self.algorithm else VERSION,
            "specific_character_set": "ISO_IR 192",
        }

    def series_number(self, modality: str) -> int:
        index = self.continued.result_index if self.continued else self.result_index
        return FIRST_SERIES_NUMBER[modality] + NUMBERS_PER_RESULT * index

    def series_instance_uid(self, previous: Dataset | None) -> str:
        """Return the UID of the previous version's series if that is continued, otherwise a new one."""
        return str(previous.SeriesInstanceUID) if self.continued and previous is not None else str(hd.UID())

    def series_description(self, subject: str, content: str, *, may_go_on: bool = False) -> str:
        """Return the content, version and editor of the series in at most 64 characters.

        may_go_on: the series may store later versions too.
        """
        version = str(self.continued.first_version if self.continued else self.version)
        return self._description(subject, content, version + "+" * (self.corrected and may_go_on), ", ")

    def content_description(self, subject: str, content: str) -> str:
        """Return the same description for this single instance."""
        return self._description(subject, content, str(self.version), "; ")

    def _description(self, subject: str, content: str, version: str, separator: str) -> str:
        words = f"version {version}" if self.corrected or self.version > 1 else ""
        if name := plain(self.editor or "", "\\"):
            words += f" by {name}"
        end = separator + RESEARCH
        for parts in ((subject, content, words), (subject, words)):
            description = ", ".join(part for part in parts if part)
            if len(description + end) <= LONG_STRING:
                return description + end
        return description[: LONG_STRING - len(end) - 1] + "…" + end


def result_index_of(seg: Dataset) -> int:
    """Return the index (see ``Edition``) of the result that a MetScope SEG shows."""
    return (int(seg.SeriesNumber) - FIRST_SERIES_NUMBER["SEG"]) // NUMBERS_PER_RESULT


def bare(header: Dataset, stack: Stack) -> Dataset:
    """Return the source image reduced to what highdicom needs to refer to it.

    highdicom copies patient and study unchecked, logs unusual patient names and breaks on unexpected header
    values, so it never sees the real headers.
    """
    source = Dataset()
    for keyword in UIDS:
        setattr(source, keyword, header[keyword].value)
    source.FrameOfReferenceUID = stack.volume.frame_of_reference_uid or generate_uid(
        entropy_srcs=["frame of reference", header.SeriesInstanceUID]
    )
    source.Rows, source.Columns = stack.volume.shape[1:]
    for keyword in REQUIRED_KEYWORDS:
        setattr(source, keyword, None)
    if header.get("LossyImageCompression") == "01":
        for keyword in ("", "Ratio", "Method"):
            if f"LossyImageCompression{keyword}" in header:
                source[f"LossyImageCompression{keyword}"] = header[f"LossyImageCompression{keyword}"]
    return source


def inherit(dataset: Dataset, header: Dataset, edition: Edition) -> None:
    """Write the source's patient and study and the creation time, in place.

    Values that are not legal DICOM are written empty. The time is in the time zone that the source's header
    states, otherwise in the local one.
    """
    _set_times(dataset, header, edition)
    # pydicom would log illegal values, which here are a birth date or an ID.
    with config.disable_value_validation():
        for keyword in REQUIRED_KEYWORDS:
            setattr(dataset, keyword, _legal_value(header, keyword))
        for keyword in OPTIONAL_KEYWORDS:
            if value := _legal_value(header, keyword):
                setattr(dataset, keyword, value)
        # Archives file a study under its patient ID: any other value, legal or not, separates SEG and source.
        dataset.PatientID = header.get("PatientID", "")


def _set_times(dataset: Dataset, header: Dataset, edition: Edition) -> None:
    offset = _legal_value(header, "TimezoneOffsetFromUTC")
    zone = None
    if match := UTC_OFFSET.fullmatch(offset):
        # It applies to all dates and times of the object, including those of the source's study.
        dataset.TimezoneOffsetFromUTC = offset
        distance = timedelta(hours=int(match[2]), minutes=int(match[3]))
        zone = timezone(-distance if match[1] == "-" else distance)
    now = datetime.now(zone)
    dataset.SeriesDate = dataset.SeriesTime = None
    for name in CREATION_PREFIXES:
        if f"{name}Date" in dataset:
            setattr(dataset, f"{name}Date", now.strftime("%Y%m%d"))
            setattr(dataset, f"{name}Time", now.strftime("%H%M%S.%f"))
    if edition.continued:
        dataset.SeriesDate, dataset.SeriesTime = edition.continued.date, edition.continued.time


def person_name(user: str) -> str:
    """Return a user's name as a DICOM Person Name, without the characters that have a meaning there."""
    return plain(user, "\\^=")[:LONG_STRING].strip()


def drawn_part(stack: Stack, volume: hd.Volume) -> tuple[Stack, hd.Volume]:
    """Crop both to the span of slices that are not all 0, so that no frame shows or references the others."""
    slices = np.flatnonzero(volume.array.any(axis=(1, 2)))
    part = slice(int(slices[0]), int(slices[-1]) + 1)
    # A multi-frame image has one header for all its slices.
    headers = stack.headers if stack.slices[0].frame is not None else stack.headers[part]
    shown = replace(stack, volume=stack.volume[part], slices=stack.slices[part], headers=headers)
    return shown, volume[part]


def sources(stack: Stack) -> list[Dataset]:
    """Return the source images for highdicom, reduced to what it needs, with the geometry of the volume."""
    volume = stack.volume
    positions = volume.get_plane_positions()
    if stack.slices[0].frame is None:
        images = [bare(header, stack) for header in stack.headers]
        for source, position in zip(images, positions, strict=True):
            source.ImageOrientationPatient = volume.get_plane_orientation()[0].ImageOrientationPatient
            source.ImagePositionPatient = position[0].ImagePositionPatient
            source.update(volume.get_pixel_measures()[0])
        return images
    # highdicom takes one multi-frame image, so its frames are the slices of the volume, whatever instances
    # they come from. _reference_frames translates them to the frames of the real images.
    source = bare(stack.headers[0], stack)
    shared = Dataset()
    shared.PlaneOrientationSequence = volume.get_plane_orientation()
    shared.PixelMeasuresSequence = volume.get_pixel_measures()
    source.SharedFunctionalGroupsSequence = [shared]
    source.PerFrameFunctionalGroupsSequence = []
    for position in positions:
        frame = Dataset()
        frame.PlanePositionSequence = position
        source.PerFrameFunctionalGroupsSequence.append(frame)
    source.NumberOfFrames = len(positions)
    return [source]


def finished(encoded: hd.SOPClass, stack: Stack, edition: Edition) -> Dataset:
    """Return a plain dataset with the patient and study of the source, and its real instances and frames."""
    dataset = Dataset(encoded)
    dataset.file_meta, dataset.preamble = encoded.file_meta, encoded.preamble
    inherit(dataset, stack.headers[0], edition)
    if edition.editor:
        dataset.ContentCreatorName = person_name(edition.editor)
    if stack.slices[0].frame is not None:
        _reference_frames(dataset, stack)
    thickness_mm = _slice_thickness_mm(stack)
    if thickness_mm is not None:
        # highdicom only knows the distance between slices.
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SliceThickness = DS(thickness_mm, auto_format=True)
    return dataset


def _thickness(item: Dataset) -> tuple[float, ...]:
    values = numbers(item, "SliceThickness")
    return () if values is None else tuple(values.tolist())


def _slice_thickness_mm(stack: Stack) -> float | None:
    """Return the SliceThickness that all images of the source state; None if they do not agree."""
    values = set()
    for header in stack.headers:
        if is_multi_frame(header):
            groups = [*(header.get("SharedFunctionalGroupsSequence") or [])]
            groups += header.get("PerFrameFunctionalGroupsSequence") or []
            measures = [item for group in groups for item in group.get("PixelMeasuresSequence") or []]
        else:
            measures = [header]
        values |= {_thickness(item) for item in measures}
    stated = values.pop() if len(values) == 1 else ()
    return float(stated[0]) if len(stated) == 1 and stated[0] > 0 else None


def _reference_frames(dataset: Dataset, stack: Stack) -> None:
    """Replace the frames of ``sources`` by the instance and frame of each slice, in place."""
    references = {header.SOPInstanceUID: reference(header) for header in stack.headers}
    dataset.SourceImageSequence = list(references.values())
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = list(references.values())
    groups = dataset.PerFrameFunctionalGroupsSequence
    images = [item for group in groups for item in group.DerivationImageSequence[0].SourceImageSequence]
    # By identity: highdicom shares one item among the frames of all segments of a slice.
    for image in {id(image): image for image in images}.values():
        slice_ = stack.slices[image.ReferencedFrameNumber - 1]
        image.update(references[slice_.sop_instance_uid])
        image.ReferencedFrameNumber = slice_.frame


def reference(header: Dataset) -> Dataset:
    """Return an item that names the image by its SOP class and instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def _legal_value(header: Dataset, keyword: str) -> str:
    """Return the header's value as text, or "" if it is missing, illegal for its VR or has several parts.

    Bytes that are not in the header's character set are illegal too.
    """
    value = header.get(keyword)
    if value is None or isinstance(value, MultiValue):
        return ""
    text = str(value)
    vr = dictionary_VR(keyword)
    try:
        validate_value(vr, text, config.RAISE)
        if vr in ("DA", "TM"):
            {"DA": DA, "TM": TM}[vr](text)
    except ValueError:
        return ""
    if (
        not text.isprintable()
        or "\N{REPLACEMENT CHARACTER}" in text
        or (keyword == "PatientSex" and text not in ("M", "F", "O"))
    ):
        return ""
    return text
