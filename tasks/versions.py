"""Recorded versions and drawings, fetched from the archive with their images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.uid import Comprehensive3DSRStorage, ComprehensiveSRStorage, RTStructureSetStorage

from context import Connections, JobRun
from db import outbox, segmentations
from db.source import Source
from errors import InstanceNotFound, SegmentationMismatch
from imaging import seg
from imaging.frames import text
from imaging.labelled import labelled_series
from imaging.stack import Stack, to_stack
from orthanc import part10
from orthanc.archive import Archive
from schemas.results import CompanionAnswer, LesionAnswer, SegmentationAnswer
from segmentation import source_of_fetched


@dataclass(frozen=True)
class SourceSeries:
    """A series as fetched from the archive, with its patient and study (source) and its stack."""

    instances: Sequence[Dataset]
    source: Source
    stack: Stack


@dataclass(frozen=True)
class RecordedVersion:
    """The version to correct. document: as recorded. encoded: its SEG, None without lesions.

    labels: lesion numbers on the stack's grid. sources: the SEG's segments by lesion number. colours: #rrggbb
    by lesion number.
    """

    document: SegmentationAnswer
    encoded: Dataset | None
    labels: hd.Volume
    sources: Mapping[int, seg.Segment]
    colours: Mapping[int, str]

    def lesion(self, number: int) -> LesionAnswer:
        return next(lesion for lesion in self.document.lesions if lesion.number == number)

    def companion(self, modality: str) -> Dataset | None:
        """Return a data set with the UIDs of its SR or RTSTRUCT companion; None if it has none."""
        recorded = companion_of(self.document, modality)
        if recorded is None:
            return None
        in_space = any(lesion.slice.index is None for lesion in self.document.lesions)
        report_class = Comprehensive3DSRStorage if in_space else ComprehensiveSRStorage
        companion = Dataset()
        companion.SOPClassUID = report_class if modality == "SR" else RTStructureSetStorage
        companion.SOPInstanceUID = recorded.sop_instance_uid
        companion.SeriesInstanceUID = recorded.series_instance_uid
        companion.StudyInstanceUID = self.document.study_instance_uid
        return companion


def companion_of(document: SegmentationAnswer, modality: str) -> CompanionAnswer | None:
    return next((companion for companion in document.companions if companion.modality == modality), None)


def is_available(companion: CompanionAnswer, study_uid: str, archive: Archive) -> bool:
    """Tell whether a companion waits for the archive or is still there. Raises: ArchiveError."""
    return not companion.stored or archive.has_instance(study_uid, companion.sop_instance_uid)


def fetch_images(study_uid: str, series_uid: str, run: JobRun) -> SourceSeries:
    with run.stages("fetch"):
        instances = run.connections.archive.retrieve_series(study_uid, series_uid)
        source = source_of_fetched([instances], run.connections)
    with run.stages("read"):
        return SourceSeries(instances, source, to_stack(instances))


def fetch_version(segmentation_id: str, run: JobRun) -> tuple[SourceSeries, RecordedVersion]:
    """Fetch a recorded segmentation and the images that it was made of.

    Raises: SegmentationNotFound, SegmentationMismatch if the images have been replaced since.
    """
    document = segmentations.document(run.connections.sessions, segmentation_id)
    images = fetch_images(document.study_instance_uid, document.series_instance_uid, run)
    segmentations.check_images(run.connections.sessions, segmentation_id, images.source)
    return images, read_version(segmentation_id, images.stack, run.connections)


def read_version(segmentation_id: str, stack: Stack, connections: Connections) -> RecordedVersion:
    """Read a recorded segmentation of the stack. Raises: SegmentationNotFound, InstanceNotFound."""
    document = segmentations.document(connections.sessions, segmentation_id)
    segments: Sequence[seg.Segment] = ()
    encoded = None
    labels = stack.volume.with_array(np.zeros(stack.volume.spatial_shape, np.int32))
    if document.lesions:
        encoded = _recorded_seg(document, connections)
        labels, segments = seg.read(encoded, stack)
    sources = {segment.number: segment for segment in segments}
    colours = segmentations.colours(connections.sessions, segmentation_id)
    return RecordedVersion(document, encoded, labels, sources, colours)


def fetch_edited(uid: str, run: JobRun) -> tuple[Dataset, str]:
    """Fetch a SEG or structure set, and return it with the UID of the series that it was drawn on.

    Raises: InstanceNotFound, InputRefused.
    """
    study_uid = run.job.study_instance_uid
    study = run.connections.archive.series_headers(study_uid)
    headers = [header for series in study for header in series]
    header = next((header for header in headers if text(header, "SOPInstanceUID") == uid), None)
    if header is None:
        raise InstanceNotFound(f"Study {study_uid} has no object {uid} in the archive.")
    drawing = _instance(study_uid, text(header, "SeriesInstanceUID"), uid, run.connections)
    series_uid = labelled_series(drawing, study)
    if series_uid is None:
        raise SegmentationMismatch(f"Object {uid} does not say to which series of the study it belongs.")
    if not any(text(header, "SeriesInstanceUID") == series_uid for header in headers):
        raise SegmentationMismatch(
            f"Object {uid} belongs to series {series_uid}, which its study does not have."
        )
    return drawing, series_uid


def _recorded_seg(document: SegmentationAnswer, connections: Connections) -> Dataset:
    """Return the SEG of a version that has lesions, from the outbox or from the archive."""
    stored = document.segmentation
    uid, series_uid = str(stored.sop_instance_uid), str(stored.series_instance_uid)
    if encoded := outbox.pending(connections.sessions, document.id).get(uid):
        return part10.read(encoded)
    return _instance(document.study_instance_uid, series_uid, uid, connections)


def _instance(study_uid: str, series_uid: str, uid: str, connections: Connections) -> Dataset:
    for instance in connections.archive.retrieve_series(study_uid, series_uid):
        if instance.SOPInstanceUID == uid:
            return instance
    raise InstanceNotFound(f"Series {series_uid} has no object {uid} in the archive.")
