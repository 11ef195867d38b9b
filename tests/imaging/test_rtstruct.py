"""RT Structure Set as written: read by dciodvfy and pydicom, and its contours filled again on the images."""

import copy
import io
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from errors import OverlappingSegments, SegmentationMismatch, UnreadableFile
from imaging import codes, parametric_map, rtstruct, rtstruct_read, seg, sr
from imaging.derived import Edition
from imaging.labelled import labelled_series
from imaging.rtstruct import outlines
from imaging.stack import Stack, to_stack
from lesions.measure import Lesion, measure
from tests.imaging.test_seg import BRIGHT, EDITION, SERIES, SHAPE, concatenation
from unetr.synthesis.phantom import to_instances


def lesion_numbers() -> np.ndarray:
    """1 a box in a corner of the image, 2 a ring with an island in its hole, 3 a single voxel, 4 pieces that
    share corners only or are joined on another slice, 5 noise with many holes."""
    numbers = np.zeros(SHAPE, np.int32)
    numbers[0:3, 0:4, 0:2] = 1
    ring = numbers[3:5, 2:11, 3:12]
    ring[:], ring[:, 1:-1, 2:-1], ring[:, 4, 5:7] = 2, 0, 2
    numbers[7, 28, 19] = 3
    numbers[2, 15:17, 4:6] = numbers[2, 17, 6:9] = numbers[2, 20, 4] = numbers[3, 15:21, 4] = 4
    noise = np.random.default_rng(4).random((3, 14, 11)) < 0.7
    numbers[5:8, 12:26, 2:13][noise] = 5
    return numbers


def segments_of(lesions: list[Lesion]) -> list[seg.Segment]:
    return [
        seg.Segment(
            lesion.number, lesion.name, lesion.tracking_id, lesion.tracking_uid,
            codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE, codes.NEOPLASM_SECONDARY,
        )
        for lesion in lesions
    ]  # fmt: skip


class Contoured:
    """A series with its SEG and the structure set, as an archive hands it back."""

    def __init__(
        self,
        numbers: np.ndarray,
        name: str = "axial",
        edition: Edition = EDITION,
        change: Callable[[seg.Segment], seg.Segment] = lambda segment: segment,
    ) -> None:
        geometry, options = SERIES[name]
        image = np.random.default_rng(1).integers(0, BRIGHT, numbers.shape).astype(np.uint16)
        image[numbers > 0] = (numbers + BRIGHT)[numbers > 0]
        self.instances = to_instances(hd.Volume(image, geometry, "PATIENT"), options)
        if name.endswith("in two parts"):
            self.instances = concatenation(self.instances[0])
        self.stack: Stack = to_stack(self.instances)
        shown = np.rint(self.stack.volume.array).astype(np.int32)
        self.labels = self.stack.volume.with_array(np.maximum(shown - BRIGHT, 0))
        self.lesions = measure(self.labels, self.stack.slices)
        segments = [change(segment) for segment in segments_of(self.lesions)]
        self.seg = seg.write(self.stack, self.labels, segments, edition)
        file = io.BytesIO()
        self.write(edition=edition).save_as(file)
        self.rtstruct = pydicom.dcmread(io.BytesIO(file.getvalue()))

    def write(self, **changed: object) -> Dataset:
        arguments = {"stack": self.stack, "seg": self.seg, "labels": self.labels, "lesions": self.lesions}
        return rtstruct.write(**{**arguments, "edition": EDITION, **changed})

    def contours(self, number: int) -> list[Dataset]:
        (item,) = [i for i in self.rtstruct.ROIContourSequence if i.ReferencedROINumber == number]
        return list(item.ContourSequence)

    def image_of(self, contour: Dataset) -> tuple[np.ndarray, np.ndarray]:
        """Pixels (rows, columns) of the image that a contour names, and its affine (3, 4) by PS3.3
        C.7.6.2.1.1: (column, row, 0, 1) -> LPS mm; its third column is the normal."""
        (named,) = contour.ContourImageSequence
        (image,) = [i for i in self.instances if i.SOPInstanceUID == named.ReferencedSOPInstanceUID]
        orientation, position, measures, pixels = image, image, image, image.pixel_array
        if "NumberOfFrames" in image:
            shared = image.SharedFunctionalGroupsSequence[0]
            frame = image.PerFrameFunctionalGroupsSequence[named.ReferencedFrameNumber - 1]
            pixels = pixels[named.ReferencedFrameNumber - 1]
            groups = shared if "PlaneOrientationSequence" in shared else frame
            orientation, measures = groups.PlaneOrientationSequence[0], groups.PixelMeasuresSequence[0]
            position = frame.PlanePositionSequence[0]
        along_row, along_column = np.array(orientation.ImageOrientationPatient, float).reshape(2, 3)
        between_rows, between_columns = measures.PixelSpacing
        columns = (along_row * between_columns, along_column * between_rows)
        normal = np.cross(along_row, along_column)
        return pixels, np.stack([*columns, normal, np.array(position.ImagePositionPatient, float)], axis=1)


def polygon(contour: Dataset) -> np.ndarray:
    """LPS mm, (points, 3)."""
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    assert len(points) == contour.NumberOfContourPoints
    return points


def area(points: np.ndarray) -> float:
    """mm2 of a plane polygon in space."""
    moved = points - points[0]
    return float(np.linalg.norm(np.cross(moved, np.roll(moved, -1, axis=0)).sum(axis=0)) / 2)


def windings(corners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """How often a polygon (points, 2) of (column, row) runs around each pixel's centre; 1 or 0 if simple.

    Counted along a ray as winding and as parity, which readers use: they must agree.
    """
    row, column = np.indices(shape)
    winding, crossings = np.zeros(shape, int), np.zeros(shape, int)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if abs(y0 - y1) < 0.5:
            continue
        crossed = (min(y0, y1) < row) & (row < max(y0, y1)) & (column < (x0 + x1) / 2)
        winding += np.where(crossed, np.sign(y1 - y0), 0).astype(int)
        crossings += crossed
    assert np.array_equal(np.abs(winding), crossings % 2)
    return np.abs(winding)


@pytest.fixture(scope="module", params=SERIES)
def contoured(request: pytest.FixtureRequest) -> Contoured:
    return Contoured(lesion_numbers(), request.param)


def test_contours_filled_on_their_images_are_the_lesions_pixels(contoured):
    for number in range(1, 6):
        pixel_count = 0
        filled: dict[tuple, np.ndarray] = {}
        shown = {}
        for contour in contoured.contours(number):
            pixels, affine = contoured.image_of(contour)
            indices = np.linalg.inv(affine[:, :3]) @ (polygon(contour) - affine[:, 3]).T
            assert indices[2] == pytest.approx(0.0, abs=2e-6)  # mm off the plane of its image
            key = tuple(affine[:, 3])
            filled[key] = filled.get(key, 0) + windings(indices[:2].T, pixels.shape)
            shown[key] = pixels == BRIGHT + number
        for key, times in filled.items():
            assert np.array_equal(times, shown[key].astype(int))
            pixel_count += int(times.sum())
        assert pixel_count == np.count_nonzero(lesion_numbers() == number)


def test_volume_of_the_contours_is_that_of_the_voxels(contoured):
    between_mm = contoured.stack.volume.spacing_between_slices
    for lesion, roi in zip(contoured.lesions, contoured.rtstruct.StructureSetROISequence, strict=True):
        drawn_ml = (
            sum(area(polygon(contour)) for contour in contoured.contours(lesion.number)) * between_mm / 1000
        )
        assert drawn_ml == pytest.approx(lesion.volume_ml, rel=1e-5)
        assert roi.ROIVolume == pytest.approx(lesion.volume_ml, abs=1e-6)


def test_corners_of_a_box_and_of_a_voxel_are_where_the_geometry_puts_them(contoured, request):
    geometry, _ = SERIES[request.node.callspec.params["contoured"]]
    boxes = {1: ((0, 1, 2), (-0.5, 3.5), (-0.5, 1.5)), 3: ((7,), (27.5, 28.5), (18.5, 19.5))}
    for number, ranges in boxes.items():
        indices = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3)
        expected = indices @ geometry[:3, :3].T + geometry[:3, 3]
        corners = np.concatenate([polygon(contour) for contour in contoured.contours(number)])
        assert len(corners) == len(expected)
        distances = np.linalg.norm(corners[:, None] - expected, axis=-1)
        assert distances.min(axis=0).max() < 1e-4


def test_a_hole_is_cut_by_a_channel_and_pieces_have_contours_of_their_own(contoured):
    assert {contour.ContourGeometricType for n in range(1, 6) for contour in contoured.contours(n)} == {
        "CLOSED_PLANAR"
    }
    assert [contour.NumberOfContourPoints for contour in contoured.contours(3)] == [4]
    # On each of two slices the ring, which is 9 x 9 pixels less 7 x 6, and its island of two.
    per_pixel = contoured.stack.volume.pixel_spacing[0] * contoured.stack.volume.pixel_spacing[1]
    areas = sorted(area(polygon(contour)) / per_pixel for contour in contoured.contours(2))
    assert areas == pytest.approx([2, 2, 39, 39], rel=1e-5)
    # Three pieces on one slice, two of which share a corner; the bar that joins two on the next.
    assert len(contoured.contours(4)) == 4


def test_it_refers_to_its_images_their_series_and_the_seg(contoured):
    (frame_of_reference,) = contoured.rtstruct.ReferencedFrameOfReferenceSequence
    (study,) = frame_of_reference.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    first = contoured.instances[0]
    assert study.ReferencedSOPInstanceUID == first.StudyInstanceUID == contoured.rtstruct.StudyInstanceUID
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert {(i.ReferencedSOPClassUID, i.ReferencedSOPInstanceUID) for i in series.ContourImageSequence} == {
        (i.SOPClassUID, i.SOPInstanceUID) for i in contoured.instances
    }
    assert frame_of_reference.FrameOfReferenceUID == contoured.rtstruct.FrameOfReferenceUID
    assert contoured.rtstruct.FrameOfReferenceUID == first.FrameOfReferenceUID
    tracked = {item.SegmentNumber: item.TrackingUID for item in contoured.seg.SegmentSequence}
    for lesion, roi in zip(contoured.lesions, contoured.rtstruct.StructureSetROISequence, strict=True):
        assert roi.ReferencedFrameOfReferenceUID == first.FrameOfReferenceUID
        (source,) = roi.DefinitionSourceSequence
        assert source.ReferencedSOPInstanceUID == contoured.seg.SOPInstanceUID
        assert tracked[source.ReferencedSegmentNumber] == lesion.tracking_uid


def test_dciodvfy_finds_nothing(contoured, tmp_path):
    contoured.rtstruct.save_as(tmp_path / "rtstruct.dcm")
    checked = subprocess.run(
        ["dciodvfy", str(tmp_path / "rtstruct.dcm")], capture_output=True, text=True, check=False
    )
    assert checked.stderr.splitlines() == ["RTStructureSet"]


def test_each_roi_says_what_it_is_and_what_drew_it():
    contoured = Contoured(lesion_numbers())
    dataset = contoured.rtstruct
    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.481.3"
    assert (dataset.Modality, dataset.SeriesNumber, dataset.ApprovalStatus) == (
        "RTSTRUCT", 1002, "UNAPPROVED",
    )  # fmt: skip
    assert "research use" in dataset.SeriesDescription
    assert "research use" in dataset.StructureSetDescription
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyDate"):
        assert dataset[keyword].value == contoured.instances[0][keyword].value
    rois, observations = dataset.StructureSetROISequence, dataset.RTROIObservationsSequence
    for number, roi, shown, observation in zip(
        range(1, 6), rois, dataset.ROIContourSequence, observations, strict=True
    ):
        assert (roi.ROINumber, roi.ROIName) == (number, f"Metastasis {number}")
        assert roi.ROIGenerationAlgorithm == "AUTOMATIC"
        assert roi.ROIDerivationAlgorithmIdentificationSequence[0].AlgorithmName == EDITION.algorithm.name
        assert "#" + bytes(shown.ROIDisplayColor).hex() == seg.colour(number).hex
        assert tuple(shown.RecommendedDisplayCIELabValue) == seg.colour(number).cielab
        assert (observation.ReferencedROINumber, observation.RTROIInterpretedType) == (number, "GTV")
        assert observation.RTROIIdentificationCodeSequence[0].CodeValue == "14799000"


def test_what_a_person_drew_and_is_no_metastasis_is_said_to_be_so():
    oedema = hd.sr.CodedConcept("79654002", "SCT", "Edema")
    contoured = Contoured(
        lesion_numbers(), edition=Edition(), change=lambda segment: replace(segment, type=oedema)
    )
    assert contoured.rtstruct.ManufacturerModelName == "MetScope"
    for roi in contoured.rtstruct.StructureSetROISequence:
        assert roi.ROIGenerationAlgorithm == "MANUAL"
        assert "ROIDerivationAlgorithmIdentificationSequence" not in roi
    for observation in contoured.rtstruct.RTROIObservationsSequence:
        assert observation.RTROIInterpretedType == ""
        assert observation.RTROIIdentificationCodeSequence[0].CodeMeaning == "Edema"


def test_a_contour_of_more_than_64_kilobytes_is_read_back():
    numbers = np.zeros((5, 110, 110), np.int32)
    numbers[2, 5:105, 5:105] = np.random.default_rng(2).random((100, 100)) < 0.85
    contoured = Contoured(numbers, "oblique")
    (pixel_mm, _), contours = contoured.stack.volume.pixel_spacing, contoured.contours(1)
    assert contoured.rtstruct.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert max(len("\\".join(map(str, contour.ContourData))) for contour in contours) > 65536
    assert sum(area(polygon(contour)) for contour in contours) == pytest.approx(
        numbers.sum() * pixel_mm**2, rel=1e-5
    )


def test_slices_a_little_off_their_places_keep_their_contours():
    contoured = Contoured(lesion_numbers())
    for index, instance in enumerate(contoured.instances):
        instance.ImagePositionPatient[2] += 0.06 * (index % 2)
    contoured.stack = to_stack(contoured.instances)
    contoured.labels = contoured.stack.volume.with_array(contoured.labels.array)
    contoured.rtstruct = contoured.write()
    for contour in contoured.contours(5):
        _, affine = contoured.image_of(contour)
        assert polygon(contour)[:, 2] == pytest.approx(affine[2, 3], abs=1e-6)


@pytest.mark.parametrize("density", [0.2, 0.5, 0.7, 0.9, 1.0])
def test_outlines_of_any_mask_enclose_its_pixels_once_and_turn_at_every_point(density):
    random = np.random.default_rng(3)
    for _ in range(60):
        mask = random.random(random.integers(1, 13, 2)) <= density
        times = np.zeros(mask.shape, int)
        for corners in outlines(mask):
            times += windings(corners - 0.5, mask.shape)
            steps = np.diff(corners, axis=0, append=corners[:1])
            assert ((steps != 0).sum(axis=1) == 1).all()
            assert (np.roll(steps, 1, axis=0) * steps == 0).all()
        assert np.array_equal(times, mask.astype(int))


def test_a_caller_who_breaks_the_rules_is_told():
    contoured = Contoured(lesion_numbers())
    ghost = replace(contoured.lesions[0], number=6)
    contoured.seg.SegmentSequence.append(copy.deepcopy(contoured.seg.SegmentSequence[0]))
    contoured.seg.SegmentSequence[-1].SegmentNumber = 6
    for changed, problem in (
        ({"lesions": []}, "needs lesions"),
        ({"stack": replace(contoured.stack, headers=[])}, "DICOM headers"),
        ({"labels": contoured.labels.flip_spatial(0)}, "own grid"),
        ({"lesions": [*contoured.lesions, ghost]}, "lesion 6 has no voxels"),
    ):
        with pytest.raises(ValueError, match=problem):
            contoured.write(**changed)


def moment(dataset: Dataset, name: str) -> datetime:
    """When the object says that it was made."""
    stated = dataset[f"{name}Date"].value + dataset[f"{name}Time"].value + dataset.TimezoneOffsetFromUTC
    return datetime.strptime(stated, "%Y%m%d%H%M%S.%f%z")


@pytest.mark.parametrize("offset", ["+0900", "-0330"])
def test_every_object_tells_its_time_on_the_clock_of_the_scanner(offset, monkeypatch):
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    try:
        shown = Contoured(lesion_numbers())
        for header in shown.stack.headers:
            header.TimezoneOffsetFromUTC = offset
        before = datetime.now(UTC)
        encoded = seg.write(shown.stack, shown.labels, segments_of(shown.lesions), EDITION)
        entropy = shown.stack.volume.with_array((shown.labels.array > 0).astype(np.float32))
        datasets = {
            "SEG": encoded,
            "SR": sr.write(shown.stack, encoded, shown.lesions, EDITION),
            "RTSTRUCT": shown.write(seg=encoded),
            "OT": parametric_map.write(shown.stack, entropy, EDITION),
        }
        after = datetime.now(UTC)
    finally:
        monkeypatch.undo()
        time.tzset()
    for modality, dataset in datasets.items():
        names = ["Series", "InstanceCreation", "StructureSet" if modality == "RTSTRUCT" else "Content"]
        for name in names:
            assert before <= moment(dataset, name) <= after, (modality, name)
        assert dataset.TimezoneOffsetFromUTC == offset
        assert (dataset.StudyDate, dataset.StudyTime) == (encoded.StudyDate, encoded.StudyTime)


@pytest.mark.parametrize("offset", [None, "", "0900", "+2500", "UTC"])
def test_without_a_legal_time_zone_of_the_scanner_no_object_claims_one(offset):
    shown = Contoured(lesion_numbers())
    if offset is not None:
        with pydicom.config.disable_value_validation():
            shown.stack.headers[0].TimezoneOffsetFromUTC = offset
    dataset = shown.write()
    assert "TimezoneOffsetFromUTC" not in dataset
    assert dataset.SeriesDate


# Read back


def test_our_own_contours_are_the_same_voxels_and_lesions_again(contoured):
    labels, segments = rtstruct_read.read(contoured.rtstruct, contoured.stack)
    np.testing.assert_array_equal(labels.array, contoured.labels.array)
    for segment, lesion in zip(segments, contoured.lesions, strict=True):
        assert (segment.name, segment.tracking_id, segment.tracking_uid) == (
            lesion.name,
            lesion.tracking_id,
            lesion.tracking_uid,
        )
        assert segment.type == codes.NEOPLASM_SECONDARY
        assert segment.described.SegmentAlgorithmName == EDITION.algorithm.name


def drawn_elsewhere(stack: Stack, rois: dict[str, tuple[str, list[np.ndarray]]]) -> Dataset:
    """A structure set by another tool. rois: by name the type and the contours, (points, 3) LPS mm."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.Manufacturer = "1.2.840.10008.5.1.4.1.1.481.3", "A planning system"
    dataset.FrameOfReferenceUID = stack.volume.frame_of_reference_uid
    for keyword in ("PatientID", "StudyInstanceUID"):
        setattr(dataset, keyword, stack.headers[0][keyword].value)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    dataset.RTROIObservationsSequence = []
    for number, (name, (kind, contours)) in enumerate(rois.items()):
        roi, roi_contour, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber = roi_contour.ReferencedROINumber = observation.ReferencedROINumber = number
        roi.ROIName, roi.ROIGenerationAlgorithm = name, "SEMIAUTOMATIC"
        roi.ReferencedFrameOfReferenceUID = stack.volume.frame_of_reference_uid
        observation.RTROIInterpretedType = kind
        roi_contour.ContourSequence = []
        for points in contours:
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = np.round(points, 2).ravel().tolist()
            roi_contour.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(roi_contour)
        dataset.RTROIObservationsSequence.append(observation)
    return dataset


@pytest.mark.parametrize("number", [b"", b"abc ", b"1\\2 "])
@pytest.mark.parametrize(
    ("sequence", "keyword"),
    [
        ("StructureSetROISequence", "ROINumber"),
        ("ROIContourSequence", "ReferencedROINumber"),
        ("RTROIObservationsSequence", "ReferencedROINumber"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_roi_without_one_number_is_refused(sequence, keyword, number):
    contoured = Contoured(lesion_numbers())
    roi = contoured.rtstruct[sequence].value[0]
    roi[keyword] = RawDataElement(Tag(keyword), "IS", len(number), number, 0, True, True)
    for read in (lambda: labelled_series(contoured.rtstruct, [contoured.instances]),
                 lambda: rtstruct_read.read(contoured.rtstruct, contoured.stack)):  # fmt: skip
        with pytest.raises(UnreadableFile, match=f"An item of {sequence} has no {keyword}"):
            read()


CENTRE_MM = np.array([3.3, -4.1, 7.2])


@pytest.fixture(scope="module", params=["axial", "oblique"])
def fine(request: pytest.FixtureRequest) -> Stack:
    """Voxels of 1 mm around a centre that is on none of them."""
    axes = SERIES[request.param][0][:3, :3]
    geometry = np.eye(4)
    geometry[:3, :3] = axes / np.linalg.norm(axes, axis=0)
    geometry[:3, 3] = CENTRE_MM - geometry[:3, :3] @ [20.2, 29.6, 30.3]
    image = np.random.default_rng(1).integers(0, BRIGHT, (40, 60, 60)).astype(np.uint16)
    return to_stack(to_instances(hd.Volume(image, geometry, "PATIENT")))


def circle(stack: Stack, index: float, radius_mm: float, centre: tuple[float, float]) -> np.ndarray:
    """Points around a centre (row, column) on a slice."""
    angle = np.linspace(0.0, 2.0 * np.pi, 90, endpoint=False)
    rows, columns = centre[0] + radius_mm * np.sin(angle), centre[1] + radius_mm * np.cos(angle)
    indices = np.stack([np.full(90, index), rows, columns], axis=1)
    return np.asarray(stack.volume.map_indices_to_reference(indices))


def ball(stack: Stack, radius_mm: float) -> list[np.ndarray]:
    """The circles in which a ball around CENTRE_MM cuts the slices."""
    # Slice 0 is the lowest one, whatever the order in which the geometry was written.
    centre = stack.volume.map_reference_to_indices(CENTRE_MM[None])[0]
    off = np.arange(40) - centre[0]
    return [
        circle(stack, index, float(np.sqrt(radius_mm**2 - off[index] ** 2)), tuple(centre[1:]))
        for index in np.flatnonzero(np.abs(off) < radius_mm)
    ]


@pytest.mark.parametrize("radius_mm", [8.0, 15.0])
def test_a_ball_has_its_volume_and_its_place(fine, radius_mm):
    dataset = drawn_elsewhere(fine, {"left frontal": ("GTV", ball(fine, radius_mm))})
    labels, (segment,) = rtstruct_read.read(dataset, fine)
    assert (segment.name, segment.type) == ("left frontal", codes.NEOPLASM)
    (lesion,) = measure(labels, fine.slices)
    assert lesion.volume_ml == pytest.approx(4 / 3 * np.pi * radius_mm**3 / 1000, rel=0.02)
    assert lesion.centroid_lps_mm == pytest.approx(CENTRE_MM, abs=0.1)


def test_a_contour_within_another_and_a_channel_both_leave_a_hole(fine):
    outer, inner = circle(fine, 20, 12.0, (29.6, 30.3)), circle(fine, 20, 6.0, (29.6, 30.3))
    ring = np.pi * (12.0**2 - 6.0**2)
    keyhole = np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])
    for contours in ([outer, inner], [keyhole]):
        labels, _ = rtstruct_read.read(drawn_elsewhere(fine, {"one": ("", contours)}), fine)
        assert np.count_nonzero(labels.array) == pytest.approx(ring, rel=0.02)
        assert labels.array[20, 30, 30] == 0


def test_of_a_planning_system_s_regions_the_tumours_are_the_lesions(fine):
    small, large = ball(fine, 8.0), ball(fine, 15.0)
    rois = {"Brain": ("ORGAN", large), "PTV": ("PTV", large), "met": ("GTV", small), "x": ("", large)}
    labels, segments = rtstruct_read.read(drawn_elsewhere(fine, rois), fine)
    assert [segment.name for segment in segments] == ["met"]
    assert set(np.unique(labels.array)) == {0, segments[0].number}
    with pytest.raises(UnreadableFile, match="no closed contour of a GTV"):
        rtstruct_read.read(drawn_elsewhere(fine, {"Brain": ("ORGAN", large)}), fine)


def test_the_name_of_a_region_is_read_as_it_shows(fine):
    drawn = drawn_elsewhere(fine, {"a\\b\x9b": ("GTV", ball(fine, 8.0))})
    assert [segment.name for segment in rtstruct_read.read(drawn, fine)[1]] == ["a b"]


def test_contours_that_do_not_fit_the_series_are_refused(fine):
    between = drawn_elsewhere(fine, {"a": ("GTV", [circle(fine, 20.4, 8.0, (29.6, 30.3))])})
    with pytest.raises(SegmentationMismatch, match=r'Contour 1 of ROI 1 "a" lies 0\.4\d mm off the slices'):
        rtstruct_read.read(between, fine)
    for beyond in (circle(fine, 45, 8.0, (29.6, 30.3)), circle(fine, 20, 8.0, (2.0, 30.3))):
        with pytest.raises(SegmentationMismatch, match="reaches beyond the images"):
            rtstruct_read.read(drawn_elsewhere(fine, {"a": ("GTV", [beyond])}), fine)
    elsewhere = drawn_elsewhere(fine, {"a": ("GTV", ball(fine, 8.0))})
    elsewhere.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"
    with pytest.raises(SegmentationMismatch, match=r"FrameOfReferenceUID is 1\.2\.3"):
        rtstruct_read.read(elsewhere, fine)
    for keyword, value, sentence in (
        ("PatientID", "another", "belong to different patients"),
        ("StudyInstanceUID", "1.2.3", r"StudyInstanceUID is 1\.2\.3"),
        ("FrameOfReferenceUID", "", "references no image of the series"),
    ):
        foreign = drawn_elsewhere(fine, {"a": ("GTV", ball(fine, 8.0))})
        del foreign.StructureSetROISequence[0].ReferencedFrameOfReferenceUID
        setattr(foreign, keyword, value)
        with pytest.raises(SegmentationMismatch, match=sentence):
            rtstruct_read.read(foreign, fine)
    twice = {"a": ("GTV", ball(fine, 8.0)), "b": ("GTV", ball(fine, 9.0))}
    with pytest.raises(OverlappingSegments, match='ROIs 1 "a" and 2 "b" overlap'):
        rtstruct_read.read(drawn_elsewhere(fine, twice), fine)
