"""Instances to a volume: every pixel where the scanner saw it, or a refusal that names what is wrong."""

import copy
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest
from pydicom import DataElement, Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from scipy.spatial.transform import Rotation

import errors
from imaging.stack import to_stack
from unetr.synthesis.phantom import SeriesOptions, compress, to_instances

CODECS = (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless)
MARKER = (7, 20, 9)
SHAPE = (12, 30, 24)
DIRECTIONS = {  # of the slices, rows and columns of increasing index, LPS
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "axial, feet last": ((0, 0, -1), (0, 1, 0), (-1, 0, 0)),
    "sagittal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
}


def phantom(directions: str = "axial", spacing=(2.5, 1.0, 0.7), turn_deg: float = 0.0) -> hd.Volume:
    """Noise, and one bright pixel off every axis of symmetry."""
    turn = Rotation.from_euler("xyz", [turn_deg, turn_deg / 2, -turn_deg], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array(DIRECTIONS[directions], dtype=float).T * spacing
    affine[:3, 3] = [-41.5, 12.25, 30.125]
    array = np.random.default_rng(3).integers(0, 200, SHAPE).astype(np.uint16)
    array[MARKER] = 4000
    return hd.Volume(array, affine, "PATIENT", frame_of_reference_uid=generate_uid())


def marker_lps_mm(volume: hd.Volume) -> np.ndarray:
    return volume.map_indices_to_reference(np.argwhere(volume.array == volume.array.max()))[0]


VARIANTS = {
    "as acquired": SeriesOptions(),
    "shuffled": SeriesOptions(order="shuffled", seed=5),
    "reversed": SeriesOptions(order="reversed"),
    "rounded": SeriesOptions(orientation_jitter=6e-8),
    "enhanced, shared groups": SeriesOptions(enhanced="shared", order="shuffled"),
    "enhanced, per-frame groups": SeriesOptions(enhanced="per_frame"),
    "RLE": SeriesOptions(transfer_syntax=RLELossless),
    "JPEG-LS": SeriesOptions(transfer_syntax=JPEGLSLossless),
    "JPEG 2000": SeriesOptions(transfer_syntax=JPEG2000Lossless),
    "JPEG Lossless": SeriesOptions(transfer_syntax=JPEGLosslessSV1),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gives_the_same_pixels_at_the_same_places(variant):
    volume = phantom()
    stack = to_stack(to_instances(volume, VARIANTS[variant]))
    assert stack.volume.affine == pytest.approx(volume.affine, abs=1e-4)
    assert np.array_equal(stack.volume.array, volume.array)
    assert stack.volume.frame_of_reference_uid == volume.frame_of_reference_uid


@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize("turn_deg", [0.0, 17.0])
def test_every_orientation_keeps_the_marker_in_place(directions, turn_deg):
    volume = phantom(directions, turn_deg=turn_deg)
    stack = to_stack(to_instances(volume, SeriesOptions(order="shuffled")))
    assert marker_lps_mm(stack.volume) == pytest.approx(marker_lps_mm(volume), abs=1e-4)


def in_parts(instances: list[Dataset]) -> list[Dataset]:
    """A multi-frame image as two: the odd frames in one instance, the even ones in another."""
    (whole,) = instances
    parts = []
    for start in (0, 1):
        part = copy.deepcopy(whole)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        part.PerFrameFunctionalGroupsSequence = list(whole.PerFrameFunctionalGroupsSequence)[start::2]
        part.NumberOfFrames = len(part.PerFrameFunctionalGroupsSequence)
        part.PixelData = whole.pixel_array[start::2].tobytes()
        parts.append(part)
    return parts


@pytest.mark.parametrize(
    "instances",
    [
        to_instances(phantom(), SeriesOptions(order="shuffled")),
        to_instances(phantom(), SeriesOptions(enhanced="shared", order="reversed")),
        in_parts(to_instances(phantom(), SeriesOptions(enhanced="shared", order="shuffled"))),
    ],
    ids=["single-frame", "multi-frame", "two multi-frame"],
)
def test_each_slice_remembers_the_instance_and_frame_that_holds_its_pixels(instances):
    by_uid = {str(instance.SOPInstanceUID): instance for instance in instances}
    stack = to_stack(instances)
    for index, reference in enumerate(stack.slices):
        pixels = by_uid[reference.sop_instance_uid].pixel_array
        frame = pixels if reference.frame is None else pixels[reference.frame - 1]
        assert np.array_equal(stack.volume.array[index], frame)


@pytest.mark.parametrize("directions", DIRECTIONS)
@pytest.mark.parametrize("turn_deg", [0.0, 12.0])
def test_the_affine_is_the_one_that_dcm2niix_gives(directions, turn_deg, tmp_path):
    volume = phantom(directions, turn_deg=turn_deg)
    for number, instance in enumerate(to_instances(volume, SeriesOptions(order="shuffled"))):
        instance.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    program = Path(sys.executable).parent / "dcm2niix"
    subprocess.run([program, "-f", "out", "-z", "n", tmp_path], check=True, capture_output=True)
    image = nibabel.load(tmp_path / "out.nii")
    stack = to_stack(to_instances(volume, SeriesOptions()))
    # From dcm2niix's index to RAS mm, to LPS mm, to ours: an exchange of axes and nothing else.
    between = stack.volume.inverse_affine @ np.diag([-1, -1, 1, 1]) @ image.affine
    assert between == pytest.approx(np.rint(between), abs=1e-3)
    index = np.indices(image.shape).reshape(3, -1)
    ours = np.rint(between[:3, :3] @ index + between[:3, 3:]).astype(int)
    assert np.array_equal(stack.volume.array[tuple(ours)], np.asarray(image.dataobj).ravel())


@pytest.mark.parametrize("directions", DIRECTIONS)
def test_jitter_of_real_headers_moves_nothing(directions):
    options = SeriesOptions(orientation_jitter=1e-4, order="shuffled")
    volume = phantom(directions, turn_deg=17.0)
    assert marker_lps_mm(to_stack(to_instances(volume, options)).volume) == pytest.approx(
        marker_lps_mm(volume), abs=0.01
    )


@pytest.mark.parametrize("spacing", [(1.0, 0.5, 0.5), (0.55, 0.45, 0.45), (5.0, 0.9, 0.9)])
@pytest.mark.parametrize("decimals", [1, 2])
def test_positions_rounded_to_a_tenth_of_a_millimetre_place_a_stack(spacing, decimals):
    volume = phantom(spacing=spacing, turn_deg=17.0)
    instances = to_instances(volume)
    for instance in instances:
        instance.ImagePositionPatient = [round(float(x), decimals) for x in instance.ImagePositionPatient]
    assert marker_lps_mm(to_stack(instances).volume) == pytest.approx(
        marker_lps_mm(volume), abs=10.0**-decimals
    )


def test_pixels_are_rescaled_slice_by_slice():
    instances = to_instances(phantom(), SeriesOptions())
    for number, instance in enumerate(instances):
        instance.RescaleSlope, instance.RescaleIntercept = 1.0 + number, -10.0
    array = to_stack(instances).volume.array
    assert array[3] == pytest.approx(phantom().array[3] * 4.0 - 10.0)


def corrupt(**attributes: object) -> list[Dataset]:
    """The series with these attributes in its sixth instance."""
    instances = to_instances(phantom(), SeriesOptions())
    # The phantom's instances share what is the same in all of them.
    instances[5] = copy.deepcopy(instances[5])
    for keyword, value in attributes.items():
        setattr(instances[5], keyword, value)
    return instances


def everywhere(**attributes: object) -> list[Dataset]:
    instances = to_instances(phantom(), SeriesOptions())
    for instance in instances:
        for keyword, value in attributes.items():
            setattr(instance, keyword, value)
    return instances


def drop(keyword: str) -> list[Dataset]:
    instances = to_instances(phantom(), SeriesOptions())
    delattr(instances[5], keyword)
    return instances


def gap() -> list[Dataset]:
    return [i for n, i in enumerate(to_instances(phantom(), SeriesOptions())) if n != 6]


def double(**second: object) -> list[Dataset]:
    """The series and a copy of it under other SOP Instance UIDs."""
    first = to_instances(phantom(), SeriesOptions())
    copies = copy.deepcopy(first)
    for instance in copies:
        instance.SOPInstanceUID = generate_uid()
        for keyword, value in second.items():
            setattr(instance, keyword, value)
    return first + copies


def shift(*offsets_mm: tuple[float, float, float]) -> list[Dataset]:
    """The series, each slice moved by its offset; those without one stay."""
    instances = to_instances(phantom(), SeriesOptions())
    for instance, offset in zip(instances, offsets_mm, strict=False):
        position = np.array(instance.ImagePositionPatient, float) + offset
        instance.ImagePositionPatient = [round(float(value), 6) for value in position]
    return instances


def one_moved(*offset_mm: float) -> list[Dataset]:
    """The sixth slice moved by (x, y, z); z is along the normal, 2.5 mm a slice, pixels are 0.7 x 1 mm."""
    return shift(*[(0.0, 0.0, 0.0)] * 5, offset_mm)


def turn_slice(angle_deg: float) -> list[Dataset]:
    """The sixth slice turned about its rows."""
    cosine, sine = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return corrupt(ImageOrientationPatient=[1, 0, 0, 0, round(cosine, 9), round(sine, 9)])


def multi_frame(**attributes: object) -> list[Dataset]:
    (instance,) = to_instances(phantom(), SeriesOptions(enhanced="shared"))
    for keyword, value in attributes.items():
        setattr(instance, keyword, value)
    return [instance]


def with_private_count() -> list[Dataset]:
    """Siemens' number of images in a mosaic."""
    instances = to_instances(phantom(), SeriesOptions())
    for instance in instances:
        block = instance.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0A, "US", 48)
    return instances


def mix() -> list[Dataset]:
    """The first half of the series single-frame, the second multi-frame."""
    volume = phantom()
    later = hd.Volume(
        volume.array[6:], volume[6:].affine, "PATIENT", frame_of_reference_uid=volume.frame_of_reference_uid
    )
    return to_instances(volume)[:6] + to_instances(later, SeriesOptions(enhanced="shared"))


def with_frames(count: int, *, offset_table: bool = True) -> list[Dataset]:
    """Twelve frames are stated; the JPEG-LS pixel data holds that many, the first ones repeated at need."""
    (instance,) = to_instances(phantom(), SeriesOptions(enhanced="shared", transfer_syntax=JPEGLSLossless))
    frames = list(generate_frames(instance.PixelData, number_of_frames=12))
    instance.PixelData = encapsulate((frames + frames)[:count], has_bot=offset_table)
    return [instance]


def without_groups() -> list[Dataset]:
    instances = to_instances(phantom(), SeriesOptions(enhanced="shared"))
    del instances[0].PerFrameFunctionalGroupsSequence
    return instances


REFUSALS = {
    "gap": (gap, errors.MissingSlices, r"5\.0 mm between slices 6 and 7, 2\.5 mm elsewhere"),
    "uneven": (
        lambda: one_moved(0, 0, 0.8), errors.UnevenSlices,
        r"Slice 6 \(Instance \.\.\.[\d.]{12}\) lies 0\.7\d mm .* 2\.50 mm apart \(ImagePositionPatient",
    ),
    "drifting distance": (
        # 2.3 mm in the first half, 2.7 mm in the second: the middle is 1 mm off the grid through the ends.
        lambda: shift(*[(0, 0, -0.2 * min(n, 11 - n)) for n in range(12)]), errors.UnevenSlices,
        r"Slice \d+ .* lies 0\.[4-6]\d mm from its position",
    ),
    "turned slice": (
        lambda: corrupt(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), errors.MixedOrientations,
        r"\(0020,0037\)",
    ),
    "slice turned by half a degree": (
        lambda: turn_slice(0.5), errors.MixedOrientations, r"is 1\\0\\0\\0\\1\\0\.008727, that of"
    ),
    "tilt": (
        lambda: shift(*[(0, 0.4 * n, 0) for n in range(12)]), errors.GantryTilt,
        r"Slice 1 .* lies 2\.20 mm sideways",
    ),
    "slice moved sideways": (
        lambda: one_moved(3.0, 0, 0), errors.GantryTilt, r"Slice 6 .* lies 2\.75 mm sideways"
    ),
    "slice moved by half a pixel": (
        lambda: one_moved(0.35, 0, 0), errors.GantryTilt, r"Slice 6 .* lies 0\.32 mm sideways"
    ),
    "same place": (double, errors.DuplicateSlices, r"12 slices|13 slices"),
    "two echoes": (lambda: double(EchoTime="80"), errors.SeveralStacks, r"EchoTime \(0018,0081\)"),
    "two acquisitions": (
        lambda: double(AcquisitionNumber=2), errors.SeveralStacks, r"AcquisitionNumber \(0020,0012\)"
    ),
    "two frames of reference": (
        lambda: corrupt(FrameOfReferenceUID="1.2.3"), errors.InconsistentImages,
        r"FrameOfReferenceUID \(0020,0052\) is 1\.2\.3, that of",
    ),
    "a study that is no UID": (
        lambda: everywhere(StudyInstanceUID="abc"), errors.InconsistentImages,
        r"Instance \.\.\..*: StudyInstanceUID \(0020,000D\) is abc, not a UID",
    ),
    "a series without a UID": (
        lambda: everywhere(SeriesInstanceUID=""), errors.InconsistentImages,
        r"SeriesInstanceUID \(0020,000E\) is missing, not a UID",
    ),
    "an image that is no UID": (
        lambda: corrupt(SOPInstanceUID="../1"), errors.InconsistentImages,
        r"SOPInstanceUID \(0008,0018\) is \.\./1, not a UID",
    ),
    "other size": (
        lambda: corrupt(Rows=31), errors.InconsistentImages, r"Rows \(0028,0010\) is 31, that of .* 30"
    ),
    "single-frame and multi-frame": (
        mix, errors.InconsistentImages, r"mixes single-frame and multi-frame images"
    ),
    "MR spectroscopy": (
        lambda: everywhere(SOPClassUID="1.2.840.10008.5.1.4.1.1.4.2"), errors.UnsupportedModality,
        r"\(0008,0016\) is MR Spectroscopy Storage, not an MR image",
    ),
    "CT": (lambda: everywhere(Modality="CT"), errors.UnsupportedModality, r"\(0008,0060\) is CT"),
    "mosaic": (
        lambda: everywhere(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), errors.MosaicImage,
        r"\(0008,0008\)",
    ),
    "mosaic by Siemens' private tag": (
        with_private_count, errors.MosaicImage, r"NumberOfImagesInMosaic is there, several"
    ),
    "inverted": (
        lambda: everywhere(PhotometricInterpretation="MONOCHROME1"), errors.ColourImages,
        r"is MONOCHROME1, not MONOCHROME2",
    ),
    "colour": (lambda: everywhere(PhotometricInterpretation="RGB"), errors.ColourImages, r"is RGB"),
    "no position": (
        lambda: drop("ImagePositionPatient"), errors.MissingGeometry, r"\(0020,0032\) is missing"
    ),
    "no spacing": (lambda: drop("PixelSpacing"), errors.MissingGeometry, r"\(0028,0030\) is missing"),
    "other spacing": (
        lambda: corrupt(PixelSpacing=[1.0, 0.9]), errors.InconsistentImages,
        r"PixelSpacing \(0028,0030\) is 1",
    ),
    "truncated": (
        lambda: corrupt(PixelData=b"\0" * 100), errors.UnreadablePixels, r"100 bytes of 1440"
    ),
    "slope 0": (
        lambda: corrupt(RescaleSlope="0"), errors.InconsistentImages, r"RescaleSlope \(0028,1053\) is 0"
    ),
    "two slopes": (
        lambda: corrupt(RescaleSlope=["1", "2"]), errors.InconsistentImages,
        r"RescaleSlope \(0028,1053\) is 1\\2",
    ),
    "fewer frames than stated": (
        lambda: with_frames(10), errors.UnreadablePixels,
        r"Instance \.\.\.[\d.]{12} \(1 of 1\) decodes to 10 frames; NumberOfFrames \(0028,0008\) says 12",
    ),
    "fewer fragments than frames": (
        lambda: with_frames(10, offset_table=False), errors.UnreadablePixels, r"could not be decoded"
    ),
    "one fragment": (
        lambda: with_frames(1, offset_table=False), errors.UnreadablePixels, r"decodes to 1 frame.* says 12"
    ),
    "more frames than stated": (
        lambda: with_frames(14), errors.UnreadablePixels, r"decodes to 14 frames; .* says 12"
    ),
    "several frames in a single-frame image": (
        lambda: corrupt(NumberOfFrames="2", PixelData=b"\0" * 2880), errors.MissingGeometry,
        r"NumberOfFrames \(0028,0008\) is 2 in an? MR Image Storage",
    ),
    "no frame in a single-frame image": (
        lambda: corrupt(NumberOfFrames="0"), errors.MissingGeometry, r"NumberOfFrames \(0028,0008\) is 0"
    ),
    "another number of functional groups": (
        lambda: multi_frame(NumberOfFrames="11"), errors.MissingGeometry, r"is 11, but .* has 12 items"
    ),
    "few": (lambda: to_instances(phantom(), SeriesOptions())[:4], errors.TooFewSlices, r"4 slices"),
    "constant": (
        lambda: everywhere(PixelData=b"\7\0" * 720), errors.ConstantPixels, r"value 7"
    ),
    "more voxels than a head has": (
        lambda: everywhere(Rows=8192, Columns=8192), errors.VolumeTooLarge,
        r"12 x 8192 x 8192 voxels .* at most 335544320",
    ),
    "larger than a patient": (
        lambda: everywhere(PixelSpacing=["50", "50"]), errors.VolumeTooLarge,
        "measures 30 x 1500 x 1200 mm .* at most 1000 mm",
    ),
    "no functional groups": (without_groups, errors.MissingGeometry, r"\(5200,9230\)"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", REFUSALS)
def test_a_stack_that_is_none_is_refused_with_its_fault(name):
    make, kind, sentence = REFUSALS[name]
    with pytest.raises(kind, match=sentence) as refusal:
        to_stack(make())
    print(f"{name}: {refusal.value.code}: {refusal.value.message}")
    assert "Phantom" not in refusal.value.message


@pytest.mark.parametrize(
    "attributes",
    [
        {"AcquisitionNumber": 9},
        {"InstanceNumber": 1},
        {"SliceThickness": "9"},
        {"SpacingBetweenSlices": "-2.5"},
    ],
)
def test_attributes_that_do_not_place_a_slice_do_not_matter(attributes):
    volume = to_stack(corrupt(**attributes)).volume
    assert marker_lps_mm(volume) == pytest.approx(marker_lps_mm(phantom()), abs=1e-4)


ABOVE = {"zeros": 0, "ones or the sign": 0xFFFF, "an overlay in bit 15": 0x8000}


# pydicom warns where noise is compressed to as many bytes as it had.
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("above", ABOVE)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, *CODECS], ids=lambda syntax: syntax.keyword
)
def test_bits_above_those_stored_say_nothing(syntax, bits, signed, above):
    """Whether the codec is told of the sign and of the bits, or of neither."""
    lowest, end = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    values = np.random.default_rng(bits).integers(lowest, end, SHAPE, np.int16 if signed else np.uint16)
    kept = (1 << bits) - 1
    sign = values < 0 if above.endswith("sign") else True
    whole = (values.view(np.uint16) & kept) | np.where(sign, ABOVE[above] & ~kept, 0).astype(np.uint16)
    for codec_signed in {signed, False}:
        for precision in (bits, 16):
            if precision < 16 and above == "an overlay in bit 15":
                continue  # The codec would not carry it.
            instances = to_instances(phantom(), SeriesOptions())
            for index, instance in enumerate(instances):
                instance.BitsStored, instance.HighBit = bits, bits - 1
                instance.PixelRepresentation = int(signed)
                instance.file_meta.TransferSyntaxUID = syntax
                frame = whole[index].astype("<u2" if syntax.is_little_endian else ">u2").tobytes()
                if syntax.is_encapsulated:
                    frame = encapsulate([compress(frame, instance, syntax, precision, codec_signed)])
                instance["PixelData"] = DataElement("PixelData", "OB", frame)
            assert np.array_equal(to_stack(instances).volume.array, values), (codec_signed, precision)


def test_the_same_instance_twice_counts_once():
    instances = to_instances(phantom(), SeriesOptions())
    assert to_stack([*instances, copy.deepcopy(instances[4])]).volume.spatial_shape == SHAPE


@pytest.mark.parametrize(
    "attributes", [{"ImagePositionPatient": [0, 0, 500]}, {"PixelData": bytes(2 * 30 * 24)}]
)
def test_different_images_under_one_uid_are_refused_with_it(attributes):
    instances = to_instances(phantom(), SeriesOptions())
    duplicate = copy.deepcopy(instances[4])
    for keyword, value in attributes.items():
        setattr(duplicate, keyword, value)
    with pytest.raises(errors.InconsistentImages, match=instances[4].SOPInstanceUID):
        to_stack([*instances, duplicate])


@pytest.mark.parametrize("enhanced", [None, "shared"])
def test_every_second_slice_of_a_3d_acquisition_left_out_is_a_warning(enhanced):
    volume = phantom()
    options = SeriesOptions(enhanced=enhanced)
    for kind, kept, warned in (("3D", 2, True), ("3D", 1, False), ("2D", 2, False)):
        instances = to_instances(volume[::kept], options)
        for instance in instances:
            instance.MRAcquisitionType = kind
            measures = instance
            if enhanced:
                (measures,) = instance.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
            measures.SliceThickness = "2.5"
        warnings = " ".join(to_stack(instances).warnings)
        assert ("5.00 mm apart and 2.50 mm thick" in warnings) == warned


def test_a_missing_frame_of_reference_is_a_warning():
    instances = everywhere()
    for instance in instances:
        del instance.FrameOfReferenceUID
    assert "FrameOfReferenceUID (0020,0052)" in to_stack(instances).warnings[0]


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("value", ["abc", ["1.2", "1.3"], "1." * 33 + "1"], ids=["word", "two", "long"])
def test_a_frame_of_reference_that_is_no_uid_counts_as_missing(value):
    stack = to_stack(everywhere(FrameOfReferenceUID=value))
    assert stack.volume.frame_of_reference_uid is None
    assert stack.warnings == [
        "The series has no valid FrameOfReferenceUID (0020,0052); MetScope creates one for the SEG."
    ]


def test_a_lossy_compression_is_a_warning():
    warning = "The images were compressed with loss (LossyImageCompression (0028,2110) is 01)."
    assert to_stack(corrupt(LossyImageCompression="01")).warnings == [warning]
    assert to_stack(everywhere()).warnings == []
