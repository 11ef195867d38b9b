"""SR as written: read by dciodvfy and pydicom, and its axes compared with where the lesions are in space."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from imaging import codes, seg, sr
from imaging.derived import Edition
from imaging.stack import Stack, to_stack
from lesions.measure import Lesion, components, measure
from tests.imaging.test_seg import EDITION
from unetr.synthesis.phantom import SeriesOptions, to_instances

EDEMA = Code("79654002", "SCT", "Edema")
SHAPE = (24, 60, 70)
# Semi-axes and centre in voxels of 1 mm (slice, row, column); none at a place that a flip would keep.
ELLIPSOIDS = (((4, 5, 9), (8, 15, 20)), ((3, 8, 4), (15, 40, 50)))


def affine(turn_deg: float) -> np.ndarray:
    """Axial, 1 mm, turned about the patient's left-right axis."""
    angle = np.radians(turn_deg)
    turned = np.eye(4)
    turned[:3, 0] = (0, -np.sin(angle), np.cos(angle))
    turned[:3, 1] = (0, np.cos(angle), np.sin(angle))
    turned[:3, 2] = (1, 0, 0)
    turned[:3, 3] = (-31.25, 17.5, 42.125)
    return turned


class Reported:
    """A series with its SEG and the report on it."""

    def __init__(self, turn_deg: float, options: SeriesOptions) -> None:
        index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
        image = np.full(SHAPE, 100.0)
        image[0, 0, 0] = 0.0
        for axes, centre in ELLIPSOIDS:
            image[(((index - centre) / axes) ** 2).sum(-1) <= 1.0] = 900.0
        volume = hd.Volume(image, affine(turn_deg), "PATIENT", frame_of_reference_uid=generate_uid())
        self.instances = to_instances(volume, options)
        self.stack: Stack = to_stack(self.instances)
        labels = components(self.stack.volume.with_array(self.stack.volume.array > 500))
        self.lesions: list[Lesion] = measure(labels, self.stack.slices)
        segments = [
            seg.Segment(
                lesion.number, lesion.name, lesion.tracking_id, lesion.tracking_uid,
                codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE, codes.NEOPLASM_SECONDARY,
            )
            for lesion in self.lesions
        ]  # fmt: skip
        self.seg = seg.write(self.stack, labels, segments, EDITION)
        self.sr = sr.write(self.stack, self.seg, self.lesions, EDITION)


def items(node: Dataset, meaning: str) -> list[Dataset]:
    """Content items directly below that are named so."""
    return [
        item
        for item in node.get("ContentSequence", ())
        if item.ConceptNameCodeSequence[0].CodeMeaning == meaning
    ]


def groups(report: Dataset) -> list[Dataset]:
    (measurements,) = items(report, "Imaging Measurements")
    return items(measurements, "Measurement Group")


def content(node: Dataset) -> Iterator[Dataset]:
    """All content items below."""
    for item in node.get("ContentSequence", ()):
        yield item
        yield from content(item)


def lps_of(coordinates: Dataset, instances: list[Dataset]) -> np.ndarray:
    """End points in LPS mm, by the header of the image that the item names (PS3.3 C.7.6.2.1.1)."""
    (reference,) = coordinates.ContentSequence[0].ReferencedSOPSequence
    (image,) = [i for i in instances if i.SOPInstanceUID == reference.ReferencedSOPInstanceUID]
    orientation, position, spacing = image, image, image
    if "NumberOfFrames" in image:
        shared = image.SharedFunctionalGroupsSequence[0]
        frame = image.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
        orientation, spacing = shared.PlaneOrientationSequence[0], shared.PixelMeasuresSequence[0]
        position = frame.PlanePositionSequence[0]
    along_row = np.array(orientation.ImageOrientationPatient[:3]) * spacing.PixelSpacing[1]
    along_column = np.array(orientation.ImageOrientationPatient[3:]) * spacing.PixelSpacing[0]
    points = np.array(coordinates.GraphicData).reshape(2, 2) - 0.5
    return np.array(position.ImagePositionPatient) + points @ [along_row, along_column]


@pytest.fixture(scope="module", params=["axial", "axial shuffled", "enhanced", "oblique"])
def reported(request: pytest.FixtureRequest) -> Reported:
    options = {
        "axial shuffled": SeriesOptions(order="shuffled"),
        "enhanced": SeriesOptions(enhanced="shared", order="shuffled"),
    }
    return Reported(40.0 if request.param == "oblique" else 0.0, options.get(request.param, SeriesOptions()))


def test_each_lesion_has_a_volume_and_two_axes_with_its_identity(reported):
    names = [item.TextValue for group in groups(reported.sr) for item in items(group, "Tracking Identifier")]
    uids = [item.UID for group in groups(reported.sr) for item in items(group, "Tracking Unique Identifier")]
    assert names == [f"{prefix}BM-{n}" for n in (1, 2) for prefix in (f"{sr.BIDIRECTIONAL}:", "")]
    assert uids == [item.TrackingUID for item in reported.seg.SegmentSequence for _ in range(2)]


def test_volumes_and_segments_are_those_of_the_seg(reported):
    frames = reported.seg.pixel_array
    numbers = [
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for frame in reported.seg.PerFrameFunctionalGroupsSequence
    ]
    volumes_mm3 = {}
    for group in groups(reported.sr)[1::2]:
        (reference,) = items(group, "Referenced Segment")[0].ReferencedSOPSequence
        assert reference.ReferencedSOPInstanceUID == reported.seg.SOPInstanceUID
        (volume,) = items(group, "Volume")
        assert volume.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "mm3"
        volumes_mm3[reference.ReferencedSegmentNumber] = float(volume.MeasuredValueSequence[0].NumericValue)
    voxel_counts = {
        n: float(sum(f.sum() for f, m in zip(frames, numbers, strict=True) if m == n)) for n in (1, 2)
    }
    assert volumes_mm3 == pytest.approx(voxel_counts)  # voxels of 1 mm3


def test_axes_lie_on_the_lesions_where_the_source_image_lies(reported):
    for lesion, group in zip(reported.lesions, groups(reported.sr)[::2], strict=True):
        axes, centre = ELLIPSOIDS[lesion.number - 1]
        middle = (reported.stack.volume.affine @ [*centre, 1])[:3]
        for name, semi_axis in (("Long Axis", max(axes)), ("Short Axis", sorted(axes)[1])):
            (measured,) = items(group, name)
            length_mm = float(measured.MeasuredValueSequence[0].NumericValue)
            (coordinates,) = measured.ContentSequence
            if coordinates.ValueType == "SCOORD3D":
                ends = np.array(coordinates.GraphicData).reshape(2, 3)
                assert coordinates.ReferencedFrameOfReferenceUID == reported.instances[0].FrameOfReferenceUID
            else:
                ends = lps_of(coordinates, reported.instances)
                assert length_mm == pytest.approx(2 * semi_axis, abs=1.5)
            assert np.linalg.norm(ends[1] - ends[0]) == pytest.approx(length_mm, abs=0.01)
            assert ends.mean(0) == pytest.approx(middle, abs=1.5)


def test_axes_on_a_resampled_plane_are_given_in_space_and_the_others_on_their_image(request, reported):
    oblique = request.node.callspec.params["reported"] == "oblique"
    assert reported.sr.SOPClassUID.name == (
        "Comprehensive 3D SR Storage" if oblique else "Comprehensive SR Storage"
    )
    kinds = {
        item.ValueType
        for group in groups(reported.sr)[::2]
        for name in ("Long Axis", "Short Axis")
        for measured in items(group, name)
        for item in measured.ContentSequence
    }
    assert kinds == {"SCOORD3D" if oblique else "SCOORD"}


def complaints(report: Dataset, folder: Path) -> list[str]:
    """Errors that dciodvfy finds."""
    report.save_as(folder / "sr.dcm")
    checked = subprocess.run(
        ["dciodvfy", str(folder / "sr.dcm")], capture_output=True, text=True, check=False
    ).stderr.splitlines()
    assert checked[0].endswith("SR")
    return [line for line in checked if line.startswith("Error")]


def test_dciodvfy_finds_no_error(reported, tmp_path):
    assert complaints(reported.sr, tmp_path) == []


def test_it_joins_the_study_and_the_patient_of_its_source(reported):
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate"):
        assert reported.sr[keyword].value == reported.instances[0][keyword].value
    series = reported.sr.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    named = {
        (item.SeriesInstanceUID, sop.ReferencedSOPInstanceUID)
        for item in series
        for sop in item.ReferencedSOPSequence
    }
    measured = {
        reference.ReferencedSOPInstanceUID
        for item in content(reported.sr)
        for reference in item.get("ReferencedSOPSequence", ())
    }
    series_uids = {i.SOPInstanceUID: i.SeriesInstanceUID for i in (*reported.instances, reported.seg)}
    assert {(series_uids[uid], uid) for uid in measured} == named


def test_without_lesions_there_is_nothing_to_measure():
    reported = Reported(0.0, SeriesOptions())
    with pytest.raises(ValueError, match="needs lesions"):
        sr.write(reported.stack, reported.seg, [], EDITION)


def negative(stack: Stack, edition: Edition = EDITION, previous: Dataset | None = None) -> Dataset:
    """A report that a model for metastases and oedema found neither."""
    return sr.write_negative(stack, [codes.NEOPLASM_SECONDARY, EDEMA, EDEMA], edition, previous)


def test_that_nothing_was_found_is_said_in_codes_without_a_measurement(reported, tmp_path):
    report = negative(reported.stack)
    assert complaints(report, tmp_path) == []
    # PS3.16 TID 1500, rows 12 to 14: neither measurements nor groups that could be taken for lesions.
    assert items(report, "Imaging Measurements") == []
    (evaluations,) = items(report, "Qualitative Evaluations")
    assert evaluations.ConceptNameCodeSequence[0].CodeValue == "C0034375"
    concepts = {
        (item.ConceptNameCodeSequence[0].CodeValue, item.ConceptCodeSequence[0].CodeValue)
        for item in evaluations.ContentSequence
        if item.ValueType == "CODE" and item.RelationshipType == "CONTAINS"
    }
    # SNOMED CT: secondary neoplasm, oedema; absent.
    assert concepts == {("14799000", "272519000"), ("79654002", "272519000")}
    assert len(items(evaluations, "Edema")) == 1
    (site,) = items(items(evaluations, "Neoplasm, Secondary")[0], "Finding Site")
    assert site.ConceptCodeSequence[0].CodeMeaning == "Brain"
    names = {name: items(evaluations, name)[0].TextValue for name in ("Algorithm Name", "Algorithm Version")}
    assert names == {"Algorithm Name": "metscope-unetr-compact", "Algorithm Version": "1.2"}


def test_a_reader_of_another_maker_shows_in_words_that_nothing_was_found(reported, tmp_path):
    negative(reported.stack).save_as(tmp_path / "sr.dcm")
    command = ["dsrdump", "--print-long-values", str(tmp_path / "sr.dcm")]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 'Neoplasm, Secondary")=(272519000,SCT,"Absent")' in shown.stdout
    assert "Brain metastases: none found, research use only" in shown.stdout


def test_a_negative_report_names_every_image_that_was_looked_at_and_nothing_else(reported):
    report = negative(reported.stack)
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "PatientBirthDate"):
        assert report[keyword].value == reported.instances[0][keyword].value
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    named = {
        (series.SeriesInstanceUID, sop.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    }
    assert named == {(instance.SeriesInstanceUID, instance.SOPInstanceUID) for instance in reported.instances}
    assert report.SeriesDescription == "Brain metastases, none found, research use only"


def test_a_person_who_deleted_every_lesion_is_the_observer_and_no_algorithm_is_named(reported, tmp_path):
    report = negative(reported.stack, Edition(2, "dr", corrected=True), reported.sr)
    assert complaints(report, tmp_path) == []
    (evaluations,) = items(report, "Qualitative Evaluations")
    assert items(evaluations, "Algorithm Name") == []
    (name,) = items(report, "Person Observer Name")
    assert str(name.PersonName).startswith("dr")
    (before,) = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert before.ReferencedSOPInstanceUID == reported.sr.SOPInstanceUID
