"""Writer of DICOM Structured Reports (TID 1500): measured lesions, stored with the SEG that shows them, or
the absence of lesions, which no SEG can show.

Each lesion has two measurement groups with one tracking UID: its two axes (TID 1501), which OHIF opens as an
editable bidirectional measurement, and a volume with its segment (TID 1411). OHIF merges the two and decides
by the identifier of the first whether it can open the report, so the axes come first.

A report without lesions has no measurement group, which a reader would take for a lesion. Each kind of lesion
that was searched for is a qualitative evaluation (PS3.16 TID 1500, rows 12 to 14) with the value Absent.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from imaging import codes
from imaging.derived import (
    LONG_STRING,
    RESEARCH,
    Algorithm,
    Edition,
    Subject,
    bare,
    inherit,
    person_name,
)
from imaging.grid import MM3_PER_ML
from imaging.seg_read import first_code
from imaging.stack import Stack
from names import plain
from version import VERSION

# OHIF recognises its own tools by this prefix and keeps the text after it.
BIDIRECTIONAL = "Cornerstone3DTools@^0.1.0:Bidirectional"
Line = tuple[tuple[float, float, float], tuple[float, float, float]]


class SliceIndex(Protocol):
    """The slice of the stack that the axes lie on; without an index, they lie on a resampled plane."""

    @property
    def index(self) -> int | None: ...


class MeasuredLesion(Protocol):
    """A lesion to report, e.g. ``lesions.measure.Lesion``. number: of its segment."""

    @property
    def number(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def tracking_id(self) -> str: ...
    @property
    def tracking_uid(self) -> str: ...
    @property
    def volume_ml(self) -> float: ...
    @property
    def long_axis_mm(self) -> float: ...
    @property
    def short_axis_mm(self) -> float: ...
    @property
    def long_axis_lps(self) -> Line: ...
    @property
    def short_axis_lps(self) -> Line: ...
    @property
    def slice(self) -> SliceIndex: ...


def write(
    stack: Stack,
    seg: Dataset,
    lesions: Sequence[MeasuredLesion],
    edition: Edition,
    previous: Dataset | None = None,
) -> Dataset:
    """Write a report on the lesions, ready for ``save_as``: Comprehensive SR, or Comprehensive 3D SR.

    seg: the SEG of the same stack, whose segments have the lesions' numbers and state the type and site of
    each. Axes on an acquired slice are given in its pixels, the others (on
    a resampled plane) in LPS mm, which only a 3D SR may hold. previous: the report, or its UIDs, of the
    version that this one corrects.
    Raises: ValueError without lesions, or for a stack without headers.
    """
    if not lesions or not stack.headers:
        raise ValueError("a report needs lesions, and the DICOM headers of their source")
    in_space = any(lesion.slice.index is None for lesion in lesions)
    dataset = _document(
        sr.Comprehensive3DSR if in_space else sr.ComprehensiveSR,
        [*(bare(header, stack) for header in _measured_images(stack, lesions)), _bare_seg(seg, stack)],
        _content(stack, seg, lesions, edition),
        stack,
        edition,
        previous,
    )
    name = edition.subject.name
    dataset.SeriesDescription = edition.series_description(name, "measurements", may_go_on=True)
    if seg.get("SeriesDate"):
        # Later versions continue both series together, so both have the same start.
        dataset.SeriesDate, dataset.SeriesTime = seg.SeriesDate, seg.SeriesTime
    return dataset


def write_negative(
    stack: Stack, lesion_codes: Sequence[Code], edition: Edition, previous: Dataset | None = None
) -> Dataset:
    """Write a report that nothing was found, ready for ``save_as``: a Comprehensive SR in its own series.

    The codes name the lesions searched for in every image of the stack, as segments would be coded.
    previous: as for ``write``.
    Raises: ValueError for a stack without headers.
    """
    if not stack.headers:
        raise ValueError("a report needs the DICOM headers of the images")
    edition = replace(edition, continued=None)
    dataset = _document(
        sr.ComprehensiveSR,
        [bare(header, stack) for header in stack.headers],
        _negative_content(lesion_codes, edition),
        stack,
        edition,
        previous,
    )
    dataset.SeriesDescription = edition.series_description(edition.subject.name, "none found")
    return dataset


def _document(
    sop_class: type[sr.ComprehensiveSR | sr.Comprehensive3DSR],
    evidence: Sequence[Dataset],
    content: Dataset,
    stack: Stack,
    edition: Edition,
    previous: Dataset | None,
) -> Dataset:
    report = sop_class(
        evidence=evidence,
        content=content,
        is_complete=True,
        previous_versions=None if previous is None else [previous],
        **edition.attributes("SR", previous),
    )
    dataset = Dataset(report)
    dataset.file_meta, dataset.preamble = report.file_meta, report.preamble
    inherit(dataset, stack.headers[0], edition)
    return dataset


def _measured_images(stack: Stack, lesions: Sequence[MeasuredLesion]) -> list[Dataset]:
    """Return the headers of the images that axes lie on."""
    uids = {
        stack.slices[lesion.slice.index].sop_instance_uid
        for lesion in lesions
        if lesion.slice.index is not None
    }
    return [header for header in stack.headers if header.SOPInstanceUID in uids]


def _bare_seg(seg: Dataset, stack: Stack) -> Dataset:
    source = bare(stack.headers[0], stack)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"):
        setattr(source, keyword, seg[keyword].value)
    return source


def _context(edition: Edition) -> sr.ObservationContext:
    """Return the observers: MetScope, and the person for a correction."""
    device = sr.ObserverContext(
        observer_type=dictionary.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=["MetScope", VERSION]),
            name="MetScope",
            manufacturer_name="MetScope",
            model_name=f"MetScope {VERSION}, research use only",
        ),
    )
    person = None
    if edition.editor:
        person = sr.ObserverContext(
            observer_type=dictionary.DCM.Person,
            observer_identifying_attributes=sr.PersonObserverIdentifyingAttributes(
                # highdicom requires the separator of family and given name.
                name=f"{person_name(edition.editor)}^",
                login_name=plain(edition.editor),
            ),
        )
    return sr.ObservationContext(observer_person_context=person, observer_device_context=device)


def _content(
    stack: Stack,
    seg: Dataset,
    lesions: Sequence[MeasuredLesion],
    edition: Edition,
) -> Dataset:
    report = sr.MeasurementReport(
        observation_context=_context(edition),
        procedure_reported=codes.MAGNETIC_RESONANCE_IMAGING,
        imaging_measurements=[
            group
            for lesion in lesions
            for group in (
                _axes(stack, _segment(seg, lesion), lesion, edition.algorithm),
                _volume(stack, seg, lesion, edition.algorithm),
            )
        ],
        title=dictionary.DCM.ImagingMeasurementReport,
    )
    item: Dataset = report[0]
    return item


def _negative_content(lesion_codes: Sequence[Code], edition: Edition) -> Dataset:
    # OHIF shows a report with this title from CID 7021 as text; under ImagingMeasurementReport it looks for a
    # first measurement, and shows nothing.
    report = sr.ContainerContentItem(name=dictionary.DCM.OncologyMeasurementReport, template_id="1500")
    procedure = sr.CodeContentItem(
        name=dictionary.DCM.ProcedureReported,
        value=codes.MAGNETIC_RESONANCE_IMAGING,
        relationship_type=sr.RelationshipTypeValues.HAS_CONCEPT_MOD,
    )
    evaluations = sr.ContainerContentItem(
        name=codes.QUALITATIVE_EVALUATIONS, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    comment = sr.TextContentItem(
        name=dictionary.DCM.Comment,
        value=f"{edition.subject.name}: none found, {RESEARCH}.",
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
    absences = [_absence(code, edition.subject) for code in dict.fromkeys(lesion_codes)]
    evaluations.ContentSequence = sr.ContentSequence(
        [*(_identification(edition.algorithm) or ()), *absences, comment]
    )
    # highdicom's MeasurementReport has no evaluations without a measurement group.
    english = sr.CodedConcept("en-US", "RFC5646", "English (United States)")
    language = sr.LanguageOfContentItemAndDescendants(english)
    report.ContentSequence = sr.ContentSequence([*language, *_context(edition), procedure, evaluations])
    return report


def _absence(code: Code, subject: Subject) -> sr.CodeContentItem:
    evaluation = sr.CodeContentItem(
        name=code, value=codes.ABSENT, relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    if subject.anatomy is not None:
        evaluation.ContentSequence = sr.ContentSequence([sr.FindingSite(subject.anatomy)])
    return evaluation


def _segment(seg: Dataset, lesion: MeasuredLesion) -> Dataset:
    segment: Dataset = next(item for item in seg.SegmentSequence if item.SegmentNumber == lesion.number)
    return segment


def _finding(segment: Dataset) -> dict[str, Any]:
    """Return the type and site that a segment states; a foreign one may state neither."""
    site = _legal_code(first_code(segment.get("AnatomicRegionSequence")))
    return {
        "finding_type": _legal_code(first_code(segment.SegmentedPropertyTypeCodeSequence)),
        "finding_sites": None if site is None else [sr.FindingSite(site)],
    }


def _legal_code(code: Code | None) -> Code | None:
    if code is None or not code.scheme_designator or not code.meaning:
        return None
    return Code(code.value, code.scheme_designator, code.meaning[:LONG_STRING])


def _volume(
    stack: Stack, seg: Dataset, lesion: MeasuredLesion, algorithm: Algorithm | None
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    segment = _segment(seg, lesion)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=lesion.tracking_uid, identifier=lesion.tracking_id),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=seg.SOPClassUID,
            sop_instance_uid=seg.SOPInstanceUID,
            segment_number=lesion.number,
            source_series=sr.SourceSeriesForSegmentation(stack.headers[0].SeriesInstanceUID),
        ),
        **_finding(segment),
        algorithm_id=_identification(algorithm),
        measurements=[
            sr.Measurement(
                name=codes.VOLUME,
                value=lesion.volume_ml * MM3_PER_ML,
                unit=codes.CUBIC_MILLIMETER,
                method=codes.SUM_OF_SEGMENTED_VOXEL_VOLUMES,
            )
        ],
    )


def _axes(
    stack: Stack, segment: Dataset, lesion: MeasuredLesion, algorithm: Algorithm | None
) -> sr.MeasurementsAndQualitativeEvaluations:
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=lesion.tracking_uid, identifier=f"{BIDIRECTIONAL}:{lesion.tracking_id}"
        ),
        **_finding(segment),
        algorithm_id=_identification(algorithm),
        measurements=[
            sr.Measurement(
                name=name,
                value=length_mm,
                unit=codes.MILLIMETER,
                referenced_coordinates=[_coordinates(stack, line, lesion.slice.index)],
            )
            for name, length_mm, line in (
                (codes.LONG_AXIS, lesion.long_axis_mm, lesion.long_axis_lps),
                (codes.SHORT_AXIS, lesion.short_axis_mm, lesion.short_axis_lps),
            )
        ],
    )
    # The text that a viewer writes next to the measurement.
    comment = sr.TextContentItem(
        name=dictionary.DCM.Comment,
        value=f"{lesion.name} ({lesion.tracking_id})",
        relationship_type=sr.RelationshipTypeValues.CONTAINS,
    )
    group[0].ContentSequence.append(comment)
    return group


def _coordinates(
    stack: Stack, line: Line, index: int | None
) -> sr.CoordinatesForMeasurement | sr.CoordinatesForMeasurement3D:
    """Return a line by its end points: (column, row) on a slice of the stack, or LPS mm without an index.

    On a slice, (0, 0) is the first pixel's corner (PS3.3 C.18.6).
    """
    if index is None:
        return sr.CoordinatesForMeasurement3D(
            graphic_type=sr.GraphicTypeValues3D.POLYLINE,
            graphic_data=np.array(line),
            frame_of_reference_uid=bare(stack.headers[0], stack).FrameOfReferenceUID,
        )
    # A multi-frame image has one header for all its slices.
    header = next(h for h in stack.headers if h.SOPInstanceUID == stack.slices[index].sop_instance_uid)
    frame = stack.slices[index].frame
    voxels = stack.volume.map_reference_to_indices(np.array(line))
    return sr.CoordinatesForMeasurement(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=voxels[:, [2, 1]] + 0.5,
        source_image=sr.SourceImageForRegion(
            referenced_sop_class_uid=header.SOPClassUID,
            referenced_sop_instance_uid=header.SOPInstanceUID,
            referenced_frame_numbers=None if frame is None else [frame],
        ),
    )


def _identification(algorithm: Algorithm | None) -> sr.AlgorithmIdentification | None:
    if algorithm is None:
        return None
    return sr.AlgorithmIdentification(
        name=algorithm.name,
        version=algorithm.version,
        parameters=[f"weights_sha256={algorithm.sha256}"],
        family=codes.ARTIFICIAL_INTELLIGENCE,
    )
