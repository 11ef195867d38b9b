"""SEG as written: read by dciodvfy, dcmqi and pydicom, and compared with where the lesions are in space."""

import copy
import io
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import generate_uid

from errors import SegmentationMismatch
from imaging import codes, seg
from imaging.derived import Algorithm, Edition
from imaging.stack import Stack, to_stack
from unetr.synthesis.phantom import SeriesOptions, to_instances

SHAPE = (9, 30, 22)
# Where pip puts the programs of the dcmqi package.
DCMQI = Path(sys.prefix) / "bin"
EDITION = Edition(algorithm=Algorithm("metscope-unetr-compact", "1.2", "5f" * 32, {"threshold": "0.5"}))
# Boxes (slices, rows, columns): none symmetric to another, one of a single voxel, one on a single slice.
LESIONS = (
    np.s_[1:5, 4:9, 3:6],
    np.s_[4:8, 20:24, 12:19],
    np.s_[6:7, 5:9, 15:18],
    np.s_[2:3, 27:28, 20:21],
)
# In a source image the voxels of lesion n have the value BRIGHT + n, all others less than BRIGHT.
BRIGHT = 1000


def affine(slices: tuple, rows: tuple, columns: tuple, spacing: tuple, turn_deg: float = 0.0) -> np.ndarray:
    """Index -> LPS mm from the unit vectors of the three axes, all turned about an oblique axis."""
    axis = np.array([1.0, 2.0, -1.0]) / np.sqrt(6)
    cross = np.cross(np.eye(3), axis) * -1
    angle = np.radians(turn_deg)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    result = np.eye(4)
    result[:3, :3] = turn @ np.array([slices, rows, columns], float).T * spacing
    result[:3, 3] = (-31.25, 17.5, 42.125)
    return result


L, P, S = (1, 0, 0), (0, 1, 0), (0, 0, 1)
R, A, I = (-1, 0, 0), (0, -1, 0), (0, 0, -1)  # noqa: E741 - the letters of DICOM's patient orientation
SERIES = {
    "axial": (affine(S, P, L, (1.5, 1, 1)), SeriesOptions()),
    "axial shuffled": (affine(S, P, L, (1.5, 1, 1)), SeriesOptions(order="shuffled")),
    "sagittal": (affine(R, I, P, (1, 0.9, 0.9)), SeriesOptions(order="reversed")),
    "coronal": (affine(P, I, L, (2, 0.5, 0.5)), SeriesOptions()),
    "oblique": (affine(S, P, L, (1.2, 0.9, 0.9), 23.7), SeriesOptions(orientation_jitter=6e-8)),
    "anisotropic": (affine(S, P, L, (5, 4.0, 6.4)), SeriesOptions()),
    "enhanced": (affine(S, P, L, (1.5, 1, 1)), SeriesOptions(enhanced="shared", order="shuffled")),
    "enhanced oblique": (
        affine(R, I, P, (1, 0.9, 0.9), 11.3),
        SeriesOptions(enhanced="per_frame", order="reversed"),
    ),
    "enhanced in two parts": (
        affine(S, P, L, (1.5, 1, 1), 23.7),
        SeriesOptions(enhanced="per_frame", order="shuffled"),
    ),
}


def lesion_numbers() -> np.ndarray:
    numbers = np.zeros(SHAPE, np.int32)
    for number, box in enumerate(LESIONS, start=1):
        numbers[box] = number
    return numbers


def instances_of(name: str) -> list[Dataset]:
    geometry, options = SERIES[name]
    image = np.random.default_rng(1).integers(0, BRIGHT, SHAPE).astype(np.uint16)
    image[lesion_numbers() > 0] = (lesion_numbers() + BRIGHT)[lesion_numbers() > 0]
    instances = to_instances(hd.Volume(image, geometry, "PATIENT"), options)
    return concatenation(instances[0]) if name.endswith("in two parts") else instances


def concatenation(whole: Dataset) -> list[Dataset]:
    """A multi-frame image as the two instances of a concatenation, the second with more frames."""
    parts, uid, middle = [], generate_uid(), SHAPE[0] // 2
    for number, frames in enumerate((slice(middle), slice(middle, None)), start=1):
        part = copy.deepcopy(whole)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        part.ConcatenationUID, part.SOPInstanceUIDOfConcatenationSource = uid, whole.SOPInstanceUID
        part.InConcatenationNumber, part.InConcatenationTotalNumber = number, 2
        part.ConcatenationFrameOffsetNumber = frames.start or 0
        part.PerFrameFunctionalGroupsSequence = list(whole.PerFrameFunctionalGroupsSequence)[frames]
        part.NumberOfFrames = len(part.PerFrameFunctionalGroupsSequence)
        part.PixelData = whole.pixel_array[frames].tobytes()
        parts.append(part)
    return parts


def bright_labels(stack: Stack) -> hd.Volume:
    return stack.volume.with_array(np.maximum(np.rint(stack.volume.array).astype(np.int32) - BRIGHT, 0))


def segments(count: int = len(LESIONS)) -> list[seg.Segment]:
    return [
        seg.Segment(
            number, f"Metastasis {number}", f"BM-{number}", generate_uid(),
            codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE, codes.NEOPLASM_SECONDARY,
        )
        for number in range(1, count + 1)
    ]  # fmt: skip


def write_legal(stack: Stack, labels: hd.Volume, segment_list: list[seg.Segment]) -> Dataset:
    """As an archive hands it back: encoded and read again."""
    dataset = seg.write(stack, labels, segment_list, EDITION)
    file = io.BytesIO()
    dataset.save_as(file)
    assert file.getvalue()[128:132] == b"DICM"
    return pydicom.dcmread(io.BytesIO(file.getvalue()))


def lps_points(indices: np.ndarray, geometry: np.ndarray) -> set[tuple[float, ...]]:
    points = (geometry[:3, :3] @ indices.T).T + geometry[:3, 3]
    return set(map(tuple, np.round(points, 2) + 0.0))


def assert_legal(dataset: Dataset, folder: Path) -> None:
    dataset.save_as(folder / "checked.dcm")
    checked = subprocess.run(
        ["dciodvfy", str(folder / "checked.dcm")], capture_output=True, text=True, check=False
    )
    assert "Segmentation" in checked.stderr.splitlines()
    assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []


@pytest.fixture(params=SERIES)
def series(request: pytest.FixtureRequest) -> tuple[list[Dataset], Stack, Dataset]:
    instances = instances_of(request.param)
    stack = to_stack(instances)
    return instances, stack, write_legal(stack, bright_labels(stack), segments())


def test_every_frame_references_the_image_that_shows_its_lesion(series):
    instances, _, dataset = series
    pixels = {instance.SOPInstanceUID: np.atleast_3d(instance.pixel_array) for instance in instances}
    enhanced = "NumberOfFrames" in instances[0]
    pixel_count = 0
    for groups, frame in zip(dataset.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        image = pixels[source.ReferencedSOPInstanceUID]
        shown = image[source.ReferencedFrameNumber - 1] if enhanced else image[..., 0]
        assert np.array_equal(frame == 1, shown == BRIGHT + number)
        pixel_count += frame.sum()
    assert pixel_count == np.count_nonzero(lesion_numbers())
    assert dataset.NumberOfFrames == 4 + 4 + 1 + 1


def test_planes_lie_where_their_source_images_lie(series):
    instances, _, dataset = series
    planes = {}
    for instance in instances:
        if "NumberOfFrames" in instance:
            for number, groups in enumerate(instance.PerFrameFunctionalGroupsSequence, start=1):
                position = groups.PlanePositionSequence[0].ImagePositionPatient
                planes[instance.SOPInstanceUID, number] = position
        else:
            planes[instance.SOPInstanceUID, None] = instance.ImagePositionPatient
    shown = set()
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        shown.add(source.ReferencedSOPInstanceUID)
        key = source.ReferencedSOPInstanceUID, source.get("ReferencedFrameNumber")
        assert groups.PlanePositionSequence[0].ImagePositionPatient == pytest.approx(planes[key], abs=1e-3)
    assert dataset.FrameOfReferenceUID == instances[0].FrameOfReferenceUID
    (referenced,) = dataset.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == instances[0].SeriesInstanceUID
    named = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert shown <= named <= {instance.SOPInstanceUID for instance in instances}


def test_dcmqi_finds_each_lesion_at_its_place_in_the_patient(series, request, tmp_path):
    _, _, dataset = series
    geometry, _ = SERIES[request.node.callspec.params["series"]]
    dataset.save_as(tmp_path / "seg.dcm")
    subprocess.run(
        [str(DCMQI / "segimage2itkimage"), "--inputDICOM", str(tmp_path / "seg.dcm"),
         "--outputDirectory", str(tmp_path), "--outputType", "nii"],
        check=True, capture_output=True,
    )  # fmt: skip
    for number in range(1, len(LESIONS) + 1):
        image = nib.load(tmp_path / f"{number}.nii.gz")
        to_lps = np.diag([-1, -1, 1, 1]) @ image.affine
        points = lps_points(np.argwhere(np.asarray(image.dataobj) > 0), to_lps)
        expected = lps_points(np.argwhere(lesion_numbers() == number), geometry)
        assert same_points(points, expected)


def same_points(points: set[tuple[float, ...]], expected: set[tuple[float, ...]]) -> bool:
    """Within the 0.05 mm that single precision and rounded headers of the file format leave."""
    if len(points) != len(expected):
        return False
    distances = np.linalg.norm(np.array(list(points))[:, None] - np.array(list(expected)), axis=-1)
    return bool((distances.min(axis=1) < 0.05).all())


def test_what_is_written_is_read_back(series):
    _, stack, dataset = series
    labels, segment_list = seg.read(dataset, stack)
    assert np.array_equal(labels.array, bright_labels(stack).array)
    assert np.array_equal(labels.affine, stack.volume.affine)
    assert [segment.tracking_id for segment in segment_list] == ["BM-1", "BM-2", "BM-3", "BM-4"]
    assert [segment.tracking_uid for segment in segment_list] == [
        i.TrackingUID for i in dataset.SegmentSequence
    ]
    assert segment_list[0].type == codes.NEOPLASM_SECONDARY


def test_dciodvfy_finds_no_error(series, tmp_path):
    assert_legal(series[2], tmp_path)


@pytest.fixture
def stack() -> Stack:
    return to_stack(instances_of("axial"))


def test_codes_are_those_of_the_dictionary():
    assert dictionary.SCT.MorphologicallyAbnormalStructure == codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE
    assert dictionary.SCT.NeoplasmSecondary == codes.NEOPLASM_SECONDARY
    assert dictionary.SCT.Brain == codes.BRAIN
    assert dictionary.DCM.ArtificialIntelligence == codes.ARTIFICIAL_INTELLIGENCE
    assert dictionary.SCT.Volume == codes.VOLUME
    assert dictionary.DCM.SumOfSegmentedVoxelMethodForVolume == codes.SUM_OF_SEGMENTED_VOXEL_VOLUMES
    assert (dictionary.SCT.LongAxis, dictionary.SCT.ShortAxis) == (codes.LONG_AXIS, codes.SHORT_AXIS)
    assert dictionary.UCUM.Millimeter == codes.MILLIMETER
    assert dictionary.UCUM.CubicMillimeter == codes.CUBIC_MILLIMETER


def test_segments_say_what_drew_them_and_what_they_are(stack):
    dataset = write_legal(stack, bright_labels(stack), segments())
    for number, item in enumerate(dataset.SegmentSequence, start=1):
        assert item.SegmentNumber == number
        assert item.SegmentLabel == f"Metastasis {number}"
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        assert item.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "49755003"
        assert item.SegmentedPropertyTypeCodeSequence[0].CodeValue == "14799000"
        assert item.AnatomicRegionSequence[0].CodeValue == "12738006"
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("metscope-unetr-compact", "1.2")
        assert f"weights_sha256={EDITION.algorithm.sha256}" in algorithm.AlgorithmParameters
        assert "threshold=0.5" in algorithm.AlgorithmParameters
        assert tuple(item.RecommendedDisplayCIELabValue) == seg.colour(number).cielab
    assert dataset.SegmentationType == "BINARY"
    assert dataset.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert "research use" in dataset.SeriesDescription
    assert dataset.Manufacturer == "MetScope"
    assert dataset.SeriesNumber == 1000
    assert (dataset.PatientID, dataset.PatientName) == ("PHANTOM-1", "Phantom^MetScope")
    assert dataset.StudyInstanceUID == stack.headers[0].StudyInstanceUID


def test_colours_are_distinct_and_stand_out_from_a_grey_image():
    lab = []
    for number in range(1, 49):
        colour = seg.colour(number)
        # PS3.3 C.10.7.1.1: L* 0..100 and a*, b* -128..127 over 0..65535.
        lightness, a, b = np.array(colour.cielab) / 65535 * [100, 255, 255] - [0, 128, 128]
        lab.append((lightness, a, b))
        assert lightness > 45
        assert np.hypot(a, b) > 35
        rgb = hd.color.CIELabColor.from_dicom_value(colour.cielab).to_rgb(clip=True)
        assert rgb == pytest.approx([int(colour.hex[i : i + 2], 16) for i in (1, 3, 5)], abs=1)
    distances = np.linalg.norm(np.array(lab)[:, None] - np.array(lab), axis=-1)
    assert distances[~np.eye(48, dtype=bool)].min() > 12
    assert seg.colour(49) == seg.colour(1)


def test_illegal_headers_of_the_source_are_not_inherited(tmp_path, caplog):
    caplog.set_level("DEBUG")
    instances = instances_of("oblique")
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for instance in instances:
            instance.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
            instance.PatientName = name
            instance.PatientID = "ID with spaces/2"
            instance.StudyID = "A study ID of 28 characters."
            instance.AccessionNumber = ["two", "parts"]
            instance.PatientBirthDate = "19701332"
            instance.StudyTime = "noon"
            instance.StudyDescription = "x" * 70
            instance.PixelSpacing = ["0.90000000000000000001", "0.90000000000000000001"]
            instance.SliceThickness = "1.2000000000000000001"
            del instance.PatientSex, instance.ReferringPhysicianName
            file = io.BytesIO()
            instance.save_as(file, enforce_file_format=True)
            instances[instances.index(instance)] = pydicom.dcmread(io.BytesIO(file.getvalue()))
        stack = to_stack(instances)
    dataset = write_legal(stack, bright_labels(stack), segments())
    assert_legal(dataset, tmp_path)
    assert dataset.PatientName == name
    assert dataset.PatientID == "ID with spaces/2"
    assert dataset.StudyDate == "20250314"
    emptied = ("StudyID", "AccessionNumber", "PatientBirthDate", "StudyTime", "PatientSex")
    assert [dataset.get(keyword) for keyword in emptied] == [""] * 5
    assert dataset.ReferringPhysicianName == ""
    assert "StudyDescription" not in dataset
    assert "Yamada" not in caplog.text


@pytest.mark.parametrize("sex", ["M", "F", "O"])
def test_legal_patient_attributes_are_inherited(sex):
    instances = instances_of("axial")
    for instance in instances:
        instance.PatientSex = sex
        instance.PatientAge = "064Y"
    stack = to_stack(instances)
    dataset = write_legal(stack, bright_labels(stack), segments())
    assert (dataset.PatientSex, dataset.PatientAge, dataset.PatientBirthDate) == (sex, "064Y", "19600101")
    assert dataset.StudyDescription == "MRI head"


def test_a_source_without_frame_of_reference_gets_the_same_one_each_time(stack):
    bare = hd.Volume(stack.volume.array, stack.volume.affine, "PATIENT")
    stack = replace(stack, volume=bare)
    first, second = (write_legal(stack, bright_labels(stack), segments()) for _ in range(2))
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    labels, _ = seg.read(first, stack)
    assert np.array_equal(labels.array, bright_labels(stack).array)
    second_stack = to_stack(instances_of("axial"))
    second_stack = replace(
        second_stack, volume=hd.Volume(second_stack.volume.array, second_stack.volume.affine, "PATIENT")
    )
    with pytest.raises(SegmentationMismatch, match="references no image of the series"):
        seg.read(first, second_stack)


@pytest.mark.parametrize(
    ("segment_list", "problem"),
    [
        ([], "numbered 1, 2, 3"),
        ([replace(segment, number=segment.number + 1) for segment in segments()], "numbered 1, 2, 3"),
        (segments(5), r"values \[1, 2, 3, 4\], the segments are \[1, 2, 3, 4, 5\]"),
        ([replace(segment, type=None) for segment in segments()], "segment 1 has no category or type"),
    ],
)
def test_segments_that_do_not_fit_the_labels_are_a_callers_mistake(stack, segment_list, problem):
    with pytest.raises(ValueError, match=problem):
        write_legal(stack, bright_labels(stack), segment_list)


def test_labels_on_another_grid_are_a_callers_mistake(stack):
    with pytest.raises(ValueError, match="own grid"):
        write_legal(stack, bright_labels(stack).flip_spatial(0), segments())


def test_more_than_255_lesions_are_written(stack):
    numbers = np.zeros(SHAPE, np.int32)
    numbers[3].flat[: 2 * 300 : 2] = np.arange(1, 301)
    dataset = write_legal(stack, stack.volume.with_array(numbers), segments(300))
    labels, segment_list = seg.read(dataset, stack)
    assert np.array_equal(labels.array, numbers)
    assert len(segment_list) == 300


@pytest.mark.parametrize("name", ["axial", "enhanced"])
@pytest.mark.parametrize("thickness", ["0.8", None])
def test_the_slice_thickness_is_what_the_images_state(name, thickness):
    """Slices may lie further apart than they are thick; without a statement it is the distance."""
    instances = instances_of(name)
    for instance in instances:
        if name == "axial":
            stating = [instance]
        else:
            stating = [instance.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]]
        for item in stating:
            item.SliceThickness = thickness
    stack = to_stack(instances)
    dataset = write_legal(stack, bright_labels(stack), segments())
    (measures,) = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    between_mm = float(measures.SpacingBetweenSlices)
    assert between_mm == pytest.approx(stack.volume.spacing[0])
    assert float(measures.SliceThickness) == pytest.approx(float(thickness or between_mm))
