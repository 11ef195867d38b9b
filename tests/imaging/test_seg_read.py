"""SEG objects of other tools, and the odd ones that viewers write, read onto the stack's grid."""

import copy
import io
import json
import subprocess
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import RLELossless, generate_uid

from errors import OverlappingSegments, SegmentationMismatch, UnreadableFile, UnreadablePixels
from imaging import codes, seg
from imaging.derived import Algorithm, Edition
from imaging.stack import Stack, to_stack
from tests.imaging.test_seg import DCMQI
from unetr.synthesis.phantom import SeriesOptions, to_instances

SHAPE = (7, 18, 13)
# Index -> LPS mm of a sagittal series: no two spacings, sizes or positions alike.
AFFINE = np.array([[-1.5, 0, 0, 61.5], [0, 0, 0.75, -40.25], [0, -1, 0, 33], [0, 0, 0, 1]])


def numbers(*values: int) -> np.ndarray:
    """Two boxes and a single voxel, none in the first two slices."""
    array = np.zeros(SHAPE, np.int32)
    first, second, third = values
    array[2:5, 3:9, 2:5] = first
    array[4:7, 11:17, 6:12] = second
    array[5, 1, 10] = third
    return array


@pytest.fixture(params=["single-frame", "enhanced"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def instances(kind: str) -> list[Dataset]:
    image = np.random.default_rng(2).integers(0, 900, SHAPE).astype(np.uint16)
    options = SeriesOptions(order="reversed", enhanced="shared" if kind == "enhanced" else None)
    return to_instances(hd.Volume(image, AFFINE, "PATIENT"), options)


@pytest.fixture
def stack(instances: list[Dataset]) -> Stack:
    return to_stack(instances)


single_frame_only = pytest.mark.parametrize("kind", ["single-frame"], indirect=True)


def on(stack: Stack, array: np.ndarray) -> np.ndarray:
    """An array on AFFINE's grid, as the stack has it (the slices of a stack may run the other way)."""
    return hd.Volume(array, AFFINE, "PATIENT").match_geometry(stack.volume.get_geometry()).array


def our_seg(stack: Stack) -> Dataset:
    """Segments 1, 2, 3 as written by MetScope, for the tests to break."""
    segments = [
        seg.Segment(
            number, f"Metastasis {number}", f"BM-{number}", generate_uid(),
            codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE, codes.NEOPLASM_SECONDARY,
        )
        for number in (1, 2, 3)
    ]  # fmt: skip
    labels = stack.volume.with_array(on(stack, numbers(1, 2, 3)))
    return seg.write(stack, labels, segments, Edition(algorithm=Algorithm("test", "1", "0" * 64)))


def renumber(dataset: Dataset, new: dict[int, int]) -> Dataset:
    for item in dataset.SegmentSequence:
        item.SegmentNumber = new[item.SegmentNumber]
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        identification = groups.SegmentIdentificationSequence[0]
        identification.ReferencedSegmentNumber = new[identification.ReferencedSegmentNumber]
    return dataset


def as_edited_in_ohif(dataset: Dataset, positions: bool = False) -> Dataset:
    """The same segments as cornerstone and dcmjs save them: Label Map, RLE, a frame per slice, last first."""
    edited = copy.deepcopy(dataset)
    edited.SOPClassUID = edited.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
    edited.SegmentationType = "LABELMAP"
    frames: dict[tuple, tuple[np.ndarray, Dataset]] = {}
    for groups, frame in zip(edited.PerFrameFunctionalGroupsSequence, dataset.pixel_array, strict=True):
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        key = tuple(groups.PlanePositionSequence[0].ImagePositionPatient)
        pixels, _ = frames.setdefault(key, (np.zeros(frame.shape, np.uint8), groups))
        pixels[frame == 1] = number
        del groups.SegmentIdentificationSequence
        if not positions:
            del groups.PlanePositionSequence
    ordered = list(frames.values())[::-1]
    edited.PerFrameFunctionalGroupsSequence = [groups for _, groups in ordered]
    edited.NumberOfFrames = len(ordered)
    edited.BitsAllocated = edited.BitsStored = 8
    edited.HighBit = 7
    edited.PixelData = np.stack([pixels for pixels, _ in ordered]).tobytes()
    edited.compress(RLELossless, generate_instance_uid=False)
    return edited


def by_highdicom(instances: list[Dataset], pixels: np.ndarray | hd.Volume, **kind: object) -> Dataset:
    count = pixels.shape[3] if pixels.ndim == 4 else 3
    described = [
        hd.seg.SegmentDescription(
            number, f"lesion {number}", codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE, codes.NEOPLASM_SECONDARY,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in range(1, count + 1)
    ]  # fmt: skip
    return hd.seg.Segmentation(
        instances, pixels, segment_descriptions=described, series_instance_uid=generate_uid(),
        series_number=9,
        sop_instance_uid=generate_uid(), instance_number=1, manufacturer="x", manufacturer_model_name="x",
        software_versions="1", device_serial_number="1", **kind,
    )  # fmt: skip


def volume(array: np.ndarray, channels: bool = False) -> hd.Volume:
    names = {"SegmentNumber": list(range(1, array.shape[3] + 1))} if channels else None
    return hd.Volume(array, AFFINE, "PATIENT", channels=names)


def save_and_read(dataset: Dataset) -> Dataset:
    file = io.BytesIO()
    dataset.save_as(file)
    return pydicom.dcmread(io.BytesIO(file.getvalue()))


def test_gaps_in_segment_numbers_are_kept(stack):
    labels, segments = seg.read(save_and_read(renumber(our_seg(stack), {1: 2, 2: 5, 3: 40})), stack)
    assert np.array_equal(labels.array, on(stack, numbers(2, 5, 40)))
    assert [segment.number for segment in segments] == [2, 5, 40]
    assert [segment.tracking_id for segment in segments] == ["BM-1", "BM-2", "BM-3"]


@pytest.mark.parametrize("positions", [False, True])
def test_a_label_map_edited_in_ohif_lies_on_the_slices_that_it_references(stack, positions):
    edited = as_edited_in_ohif(renumber(our_seg(stack), {1: 2, 2: 5, 3: 40}), positions)
    labels, segments = seg.read(save_and_read(edited), stack)
    assert np.array_equal(labels.array, on(stack, numbers(2, 5, 40)))
    assert [segment.number for segment in segments] == [2, 5, 40]


def test_frames_may_come_in_any_order(stack):
    dataset = our_seg(stack)
    order = np.random.default_rng(3).permutation(dataset.NumberOfFrames)
    frames = dataset.pixel_array[order]
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    dataset.PerFrameFunctionalGroupsSequence = [groups[i] for i in order]
    dataset.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
    labels, _ = seg.read(dataset, stack)
    assert np.array_equal(labels.array, on(stack, numbers(1, 2, 3)))


def test_a_fraction_of_half_and_more_is_drawn(instances, stack):
    fractions = np.zeros((*SHAPE, 1))
    fractions[3, 4:7, 5, 0] = (0.49, 0.5, 0.51)
    dataset = by_highdicom(
        instances, volume(fractions, channels=True),
        segmentation_type="FRACTIONAL", fractional_type="PROBABILITY", max_fractional_value=200,
    )  # fmt: skip
    labels, segments = seg.read(save_and_read(dataset), stack)
    expected = np.zeros(SHAPE, np.int32)
    expected[3, 5:7, 5] = 1
    assert np.array_equal(labels.array, on(stack, expected))
    assert segments[0].name == "lesion 1"
    del dataset.MaximumFractionalValue
    with pytest.raises(UnreadableFile, match="MaximumFractionalValue"):
        seg.read(dataset, stack)


@pytest.mark.parametrize(
    "transfer_syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"]
)
def test_a_label_map_by_highdicom_is_read(instances, stack, transfer_syntax):
    dataset = by_highdicom(
        instances, volume(numbers(1, 2, 3).astype(np.uint8)),
        segmentation_type="LABELMAP", transfer_syntax_uid=transfer_syntax,
    )  # fmt: skip
    labels, segments = seg.read(save_and_read(dataset), stack)
    assert np.array_equal(labels.array, on(stack, numbers(1, 2, 3)))
    assert [segment.number for segment in segments] == [1, 2, 3]


@pytest.mark.parametrize("axes", [(0, 2, 1), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("flipped", [(), (1,), (0, 2)])
def test_frames_cut_along_other_axes_of_the_grid_are_read(instances, stack, axes, flipped):
    turned = volume(numbers(1, 2, 3).astype(np.uint8)).permute_spatial_axes(axes).flip_spatial(flipped)
    labels, _ = seg.read(by_highdicom(instances, turned, segmentation_type="BINARY"), stack)
    assert np.array_equal(labels.array, on(stack, numbers(1, 2, 3)))


@pytest.mark.parametrize(
    "options",
    [[], ["--segmentationType", "labelmap"], ["--compress", "deflate"]],
    ids=["binary", "labelmap", "deflate"],
)
@single_frame_only
def test_a_segmentation_by_dcmqi_is_read(instances, stack, tmp_path, options):
    to_ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE
    nib.save(nib.Nifti1Image(numbers(1, 2, 3).astype(np.uint8), to_ras), tmp_path / "labels.nii.gz")
    (tmp_path / "source").mkdir()
    for number, instance in enumerate(instances):
        instance.save_as(tmp_path / "source" / f"{number}.dcm", enforce_file_format=True)
    code = {"CodeValue": "14799000", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Neoplasm, Secondary"}
    described = [
        {
            "labelID": number, "SegmentDescription": f"lesion {number}", "SegmentAlgorithmType": "MANUAL",
            "SegmentedPropertyCategoryCodeSequence": {
                "CodeValue": "49755003", "CodingSchemeDesignator": "SCT",
                "CodeMeaning": "Morphologically Abnormal Structure",
            },
            "SegmentedPropertyTypeCodeSequence": code,
        }
        for number in (1, 2, 3)
    ]  # fmt: skip
    metadata = {
        "ContentCreatorName": "Reader", "SeriesDescription": "edited", "SeriesNumber": "7",
        "InstanceNumber": "1", "segmentAttributes": [described],
    }  # fmt: skip
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    subprocess.run(
        [str(DCMQI / "itkimage2segimage"), "--inputImageList", str(tmp_path / "labels.nii.gz"),
         "--inputDICOMDirectory", str(tmp_path / "source"),
         "--inputMetadata", str(tmp_path / "metadata.json"),
         "--outputDICOM", str(tmp_path / "seg.dcm"), "--skip", "1", *options],
        check=True, capture_output=True,
    )  # fmt: skip
    labels, segments = seg.read(pydicom.dcmread(tmp_path / "seg.dcm"), stack)
    assert np.array_equal(labels.array, on(stack, numbers(1, 2, 3)))
    assert segments[0].type == codes.NEOPLASM_SECONDARY


def test_a_segment_without_tracking_shows_that_it_has_none(instances, stack):
    array = numbers(1, 2, 3).astype(np.uint8)
    _, segments = seg.read(by_highdicom(instances, volume(array), segmentation_type="BINARY"), stack)
    assert [(segment.tracking_id, segment.tracking_uid) for segment in segments] == [(None, None)] * 3


def test_a_segment_without_codes_is_still_read(stack):
    dataset = our_seg(stack)
    del dataset.SegmentSequence[0].SegmentedPropertyCategoryCodeSequence
    dataset.SegmentSequence[0].SegmentedPropertyTypeCodeSequence = []
    _, segments = seg.read(dataset, stack)
    assert (segments[0].category, segments[0].type) == (None, None)
    assert segments[1].category == codes.MORPHOLOGICALLY_ABNORMAL_STRUCTURE


def test_an_empty_segmentation_has_no_segments(instances, stack):
    nothing = volume(np.zeros(SHAPE, np.uint8))
    labels, segments = seg.read(by_highdicom(instances, nothing, segmentation_type="BINARY"), stack)
    assert (labels.array.max(), segments) == (0, [])
    bare = our_seg(stack)
    del bare.SegmentSequence, bare.PerFrameFunctionalGroupsSequence, bare.NumberOfFrames, bare.PixelData
    assert seg.read(bare, stack)[1] == []


def test_a_real_world_value_mapping_without_first_value_does_no_harm(stack):
    dataset = our_seg(stack)
    dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence = [Dataset()]
    labels, _ = seg.read(save_and_read(dataset), stack)
    assert np.array_equal(labels.array, on(stack, numbers(1, 2, 3)))


def test_overlapping_segments_are_refused_by_name(instances, stack):
    layers = np.stack([numbers(1, 1, 1), numbers(0, 0, 1), numbers(0, 0, 0)], axis=3).astype(np.uint8)
    dataset = by_highdicom(instances, volume(layers, channels=True), segmentation_type="BINARY")
    with pytest.raises(OverlappingSegments, match='Segments 1 "lesion 1" and 2 "lesion 2" overlap'):
        seg.read(dataset, stack)


@single_frame_only
@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("left\x85frontal\u2028", "left frontal"),
        ("a\\b", "a b"),
        ("\u202eabc", "abc"),
        ("\u200b", ""),
        ("é", "é"),
    ],
)
def test_the_label_of_a_segment_is_read_as_the_name_that_it_shows(stack, stated, name):
    dataset = our_seg(stack)
    dataset.SegmentSequence[0].SegmentLabel = stated
    _, segments = seg.read(dataset, stack)
    assert [segment.name for segment in segments] == [name, "Metastasis 2", "Metastasis 3"]


@single_frame_only
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("value", ["abc", ["1.2", "1.3"]], ids=["word", "two"])
def test_a_tracking_uid_that_is_no_uid_does_not_identify_a_segment(stack, value):
    dataset = our_seg(stack)
    dataset.SegmentSequence[0].TrackingUID = value
    _, segments = seg.read(dataset, stack)
    assert [segment.tracking_uid is None for segment in segments] == [True, False, False]


def test_another_frame_of_reference_is_refused(stack):
    dataset = our_seg(stack)
    dataset.FrameOfReferenceUID = "1.2.3"
    with pytest.raises(SegmentationMismatch, match=r"FrameOfReferenceUID is 1\.2\.3, that of the series"):
        seg.read(dataset, stack)


def test_without_frame_of_reference_the_referenced_images_decide(stack):
    dataset = our_seg(stack)
    del dataset.FrameOfReferenceUID
    labels, _ = seg.read(dataset, stack)
    assert np.array_equal(labels.array, on(stack, numbers(1, 2, 3)))
    elsewhere = replace(stack, slices=[replace(s, sop_instance_uid=generate_uid()) for s in stack.slices])
    with pytest.raises(SegmentationMismatch, match="missing in the segmentation"):
        seg.read(dataset, elsewhere)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda a: a @ np.diag([1.0, 2, 2, 1]), r"2 x 1.5 mm apart, those of the series 1 x 0.75 mm"),
        (lambda a: a @ np.diag([1.0, 1.02, 1, 1]), r"1.02 x 0.75 mm apart"),
        (lambda a: a + shift_lps(columns_mm=0.375), "0.375 mm away from those of the series"),
        (lambda a: a + shift_lps(rows_mm=300.0), "reaches beyond the series, at LPS"),
        (lambda a: turned_about_x(3.0) @ a, "rotated by 3.00 degrees"),
    ],
    ids=["twice as coarse", "two per cent", "half a voxel", "far away", "turned"],
)
@single_frame_only
def test_another_grid_is_refused_with_what_differs(instances, stack, change, difference):
    moved = hd.Volume(numbers(1, 2, 3).astype(np.uint8), change(AFFINE), "PATIENT")
    dataset = by_highdicom(instances, moved, segmentation_type="BINARY")
    with pytest.raises(SegmentationMismatch, match=difference):
        seg.read(dataset, stack)


def shift_lps(rows_mm: float = 0.0, columns_mm: float = 0.0) -> np.ndarray:
    """What moves an affine's origin along the patient's x and y."""
    moved = np.zeros((4, 4))
    moved[:2, 3] = rows_mm, columns_mm
    return moved


def turned_about_x(angle_deg: float) -> np.ndarray:
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return np.array([[1, 0, 0, 0], [0, cosine, -sine, 0], [0, sine, cosine, 0], [0, 0, 0, 1]])


def no_place(dataset: Dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        del groups.PlanePositionSequence, groups.DerivationImageSequence


def smaller_without_place(dataset: Dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        del groups.PlanePositionSequence
    dataset.Columns -= 1
    # Seven frames of 18 x 12 bits.
    dataset.PixelData = dataset.PixelData[:190]


def another_class(dataset: Dataset) -> None:
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"


def segment_undescribed(dataset: Dataset) -> None:
    del dataset.SegmentSequence[0]


def segment_unnumbered(dataset: Dataset) -> None:
    del dataset.SegmentSequence[0].SegmentNumber


def frame_unnumbered(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence


def frame_undescribed(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[0]


def truncate(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:20]


def without_pixels(dataset: Dataset) -> None:
    del dataset.PixelData


def set_raw_value(of: Dataset, keyword: str, vr: str, value: bytes) -> None:
    """Put in a value as it stands in a file, legal or not."""
    of[keyword] = RawDataElement(Tag(keyword), vr, len(value), value, 0, False, True)


def segment_of_two_numbers(dataset: Dataset) -> None:
    set_raw_value(dataset.SegmentSequence[0], "SegmentNumber", "US", b"\1\0\2\0")


def frame_of_two_segments(dataset: Dataset) -> None:
    identification = dataset.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0]
    set_raw_value(identification, "ReferencedSegmentNumber", "US", b"\1\0\2\0")


def two_largest_fractions(dataset: Dataset) -> None:
    dataset.SegmentationType = "FRACTIONAL"
    set_raw_value(dataset, "MaximumFractionalValue", "US", b"\1\0\2\0")


def oriented_by(value: bytes) -> Callable[[Dataset], None]:
    def damage(dataset: Dataset) -> None:
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            del groups.DerivationImageSequence
        plane = dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
        set_raw_value(plane, "ImageOrientationPatient", "DS", value)

    return damage


def groups_that_are_a_text(dataset: Dataset) -> None:
    set_raw_value(dataset, "PerFrameFunctionalGroupsSequence", "LO", b"abcdefg ")


@pytest.mark.parametrize(
    ("damage", "refusal", "sentence"),
    [
        (segment_of_two_numbers, UnreadableFile, "no SegmentNumber"),
        (frame_of_two_segments, UnreadableFile, "Frame 1 has no ReferencedSegmentNumber"),
        (two_largest_fractions, UnreadableFile, "MaximumFractionalValue"),
        (
            oriented_by(b"1 "),
            SegmentationMismatch,
            "references 0 slices of the series, so its position is unknown",
        ),
        (oriented_by(b"1\\0\\0\\0\\1\\nan "), SegmentationMismatch, "so its position is unknown"),
        (groups_that_are_a_text, UnreadableFile, "has 0 items"),
        (no_place, SegmentationMismatch, "references 0 slices of the series, so its position is unknown"),
        (smaller_without_place, SegmentationMismatch, "18 x 12 pixels, the slices of the series 18 x 13"),
        (another_class, UnreadableFile, "SOPClassUID 1.2.840.10008.5.1.4.1.1.4 is not a Segmentation"),
        (segment_undescribed, UnreadableFile, "shows segment 1, which SegmentSequence lacks"),
        (segment_unnumbered, UnreadableFile, "no SegmentNumber"),
        (frame_unnumbered, UnreadableFile, "Frame 1 has no ReferencedSegmentNumber"),
        (frame_undescribed, UnreadableFile, "NumberOfFrames is 7, but .* has 6 items"),
        (truncate, UnreadablePixels, "cannot be decoded"),
        (without_pixels, UnreadablePixels, "cannot be decoded"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_broken_segmentation_is_refused_with_a_sentence(stack, damage, refusal, sentence):
    dataset = save_and_read(our_seg(stack))
    damage(dataset)
    with pytest.raises(refusal, match=sentence):
        seg.read(dataset, stack)


def test_our_reader_and_highdicoms_agree_on_our_own_output(stack):
    dataset = save_and_read(our_seg(stack))
    theirs = hd.seg.Segmentation.from_dataset(dataset).get_volume(combine_segments=True)
    labels, _ = seg.read(dataset, stack)
    point_sets = [
        {tuple(np.round(point, 3)) for point in mask.map_indices_to_reference(np.argwhere(mask.array == 2))}
        for mask in (theirs, labels)
    ]
    assert point_sets[0] == point_sets[1]


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_the_number_of_a_frame_is_needed_only_of_a_multi_frame_image(stack, kind):
    dataset = our_seg(stack)
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        del groups.PlanePositionSequence
        set_raw_value(
            groups.DerivationImageSequence[0].SourceImageSequence[0], "ReferencedFrameNumber", "IS", b"abc "
        )
    if kind == "single-frame":
        labels, _ = seg.read(dataset, stack)
        assert np.array_equal(labels.array, on(stack, numbers(1, 2, 3)))
    else:
        with pytest.raises(SegmentationMismatch, match="references 7 slices of the series"):
            seg.read(dataset, stack)


@single_frame_only
def test_frames_with_a_margin_around_the_series_are_read(instances, stack):
    wider = volume(numbers(1, 2, 3).astype(np.uint8)).pad([[1, 1], [9, 8], [6, 5]])
    labels, _ = seg.read(by_highdicom(instances, wider, segmentation_type="BINARY"), stack)
    assert np.array_equal(labels.array, on(stack, numbers(1, 2, 3)))


def one_huge_frame(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence[1:]
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = 1, HUGE, HUGE
    dataset.PixelData = b"\xff" * (HUGE * HUGE // 8)


def one_huge_compressed_frame(dataset: Dataset) -> None:
    one_huge_frame(dataset)
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.SegmentationType, dataset.MaximumFractionalValue = 7, "FRACTIONAL", 255
    dataset.PixelData = np.zeros((HUGE, HUGE), np.uint8).tobytes()
    dataset.compress(RLELossless, generate_instance_uid=False)


def frames_without_end(dataset: Dataset) -> None:
    first = dataset.PerFrameFunctionalGroupsSequence[0]
    dataset.PerFrameFunctionalGroupsSequence = [first] * FRAMES
    dataset.NumberOfFrames = FRAMES
    dataset.PixelData = bytes((SHAPE[1] * SHAPE[2] * FRAMES + 7) // 8)


HUGE, FRAMES = 2048, 1000


@pytest.mark.parametrize("change", [one_huge_frame, one_huge_compressed_frame, frames_without_end])
@single_frame_only
def test_frames_that_cannot_be_of_the_series_are_refused_and_no_memory_taken_for_them(stack, change):
    dataset = save_and_read(our_seg(stack))
    change(dataset)
    tracemalloc.start()
    with pytest.raises(SegmentationMismatch, match=r"\d frames of \d+ x \d+ pixels"):
        seg.read(dataset, stack)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < HUGE * HUGE // 4
