"""Instances to a volume: every pixel where the scanner saw it, or a refusal that names what is wrong."""

import copy
import subprocess
import sys
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from scipy.spatial.transform import Rotation

import errors
from imaging.stack import to_stack
from unetr.phantom import SeriesOptions, to_instances

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


@pytest.mark.parametrize(
    "options", [SeriesOptions(order="shuffled"), SeriesOptions(enhanced="shared", order="reversed")]
)
def test_each_slice_remembers_the_instance_and_frame_that_holds_its_pixels(options):
    instances = to_instances(phantom(), options)
    by_uid = {str(instance.SOPInstanceUID): instance for instance in instances}
    stack = to_stack(instances)
    for index, reference in enumerate(stack.slices):
        pixels = by_uid[reference.sop_instance_uid].pixel_array
        frame = pixels if reference.frame is None else pixels[reference.frame - 1]
        assert np.array_equal(stack.volume.array[index], frame)


def test_the_affine_is_the_one_that_dcm2niix_gives(tmp_path):
    volume = phantom("sagittal", turn_deg=12.0)
    for number, instance in enumerate(to_instances(volume, SeriesOptions(order="shuffled"))):
        instance.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    program = Path(sys.executable).parent / "dcm2niix"
    subprocess.run([program, "-f", "out", "-z", "n", tmp_path], check=True, capture_output=True)
    image = nibabel.load(tmp_path / "out.nii")
    bright = np.argwhere(np.asarray(image.dataobj) == 4000)[0]
    ras = image.affine @ [*bright, 1]
    stack = to_stack(to_instances(volume, SeriesOptions()))
    assert marker_lps_mm(stack.volume) * [-1, -1, 1] == pytest.approx(ras[:3], abs=1e-3)


def test_pixels_are_rescaled_slice_by_slice():
    instances = to_instances(phantom(), SeriesOptions())
    for number, instance in enumerate(instances):
        instance.RescaleSlope, instance.RescaleIntercept = 1.0 + number, -10.0
    array = to_stack(instances).volume.array
    assert array[3] == pytest.approx(phantom().array[3] * 4.0 - 10.0)


def corrupted(**attributes: object) -> list[Dataset]:
    """The series with these attributes in its sixth instance."""
    instances = to_instances(phantom(), SeriesOptions())
    for keyword, value in attributes.items():
        setattr(instances[5], keyword, value)
    return instances


def everywhere(**attributes: object) -> list[Dataset]:
    instances = to_instances(phantom(), SeriesOptions())
    for instance in instances:
        for keyword, value in attributes.items():
            setattr(instance, keyword, value)
    return instances


def without(keyword: str) -> list[Dataset]:
    instances = to_instances(phantom(), SeriesOptions())
    delattr(instances[5], keyword)
    return instances


def gap() -> list[Dataset]:
    return [i for n, i in enumerate(to_instances(phantom(), SeriesOptions())) if n != 6]


def doubled(**second: object) -> list[Dataset]:
    """The series and a copy of it under other SOP Instance UIDs."""
    first = to_instances(phantom(), SeriesOptions())
    copies = copy.deepcopy(first)
    for instance in copies:
        instance.SOPInstanceUID = generate_uid()
        for keyword, value in second.items():
            setattr(instance, keyword, value)
    return first + copies


def tilted() -> list[Dataset]:
    instances = to_instances(phantom(), SeriesOptions())
    for number, instance in enumerate(instances):
        x, y, z = instance.ImagePositionPatient
        instance.ImagePositionPatient = [x, float(y) + 0.4 * number, z]
    return instances


def uneven() -> list[Dataset]:
    instances = to_instances(phantom(), SeriesOptions())
    x, y, z = instances[5].ImagePositionPatient
    instances[5].ImagePositionPatient = [x, y, float(z) + 0.8]
    return instances


def without_groups() -> list[Dataset]:
    instances = to_instances(phantom(), SeriesOptions(enhanced="shared"))
    del instances[0].PerFrameFunctionalGroupsSequence
    return instances


REFUSALS = {
    "gap": (gap, errors.MissingSlices, r"5\.0 mm between slices 6 and 7, 2\.5 mm elsewhere"),
    "uneven": (uneven, errors.UnevenSlices, r"between slices"),
    "turned slice": (
        lambda: corrupted(ImageOrientationPatient=[0, 1, 0, 0, 0, -1]), errors.MixedOrientations,
        r"\(0020,0037\)",
    ),
    "tilt": (tilted, errors.GantryTilt, r"4\.4 mm sideways"),
    "same place": (doubled, errors.DuplicateSlices, r"12 slices|13 slices"),
    "two echoes": (lambda: doubled(EchoTime="80"), errors.SeveralStacks, r"EchoTime \(0018,0081\)"),
    "two acquisitions": (
        lambda: doubled(AcquisitionNumber=2), errors.SeveralStacks, r"AcquisitionNumber \(0020,0012\)"
    ),
    "CT": (lambda: everywhere(Modality="CT"), errors.UnsupportedModality, r"\(0008,0060\) is CT"),
    "mosaic": (
        lambda: everywhere(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]), errors.MosaicImage,
        r"\(0008,0008\)",
    ),
    "colour": (lambda: everywhere(PhotometricInterpretation="RGB"), errors.ColourImages, r"is RGB"),
    "no position": (
        lambda: without("ImagePositionPatient"), errors.MissingGeometry, r"\(0020,0032\) is missing"
    ),
    "no spacing": (lambda: without("PixelSpacing"), errors.MissingGeometry, r"\(0028,0030\) is missing"),
    "other spacing": (
        lambda: corrupted(PixelSpacing=[1.0, 0.9]), errors.InconsistentImages,
        r"PixelSpacing \(0028,0030\) is 1",
    ),
    "truncated": (
        lambda: corrupted(PixelData=b"\0" * 100), errors.UnreadablePixels, r"100 bytes of 1440"
    ),
    "few": (lambda: to_instances(phantom(), SeriesOptions())[:4], errors.TooFewSlices, r"4 slices"),
    "constant": (
        lambda: everywhere(PixelData=b"\7\0" * 720), errors.ConstantPixels, r"value 7"
    ),
    "no functional groups": (without_groups, errors.MissingGeometry, r"\(5200,9230\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_stack_that_is_none_is_refused_with_its_fault(name):
    make, kind, sentence = REFUSALS[name]
    with pytest.raises(kind, match=sentence) as refusal:
        to_stack(make())
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
    volume = to_stack(corrupted(**attributes)).volume
    assert marker_lps_mm(volume) == pytest.approx(marker_lps_mm(phantom()), abs=1e-4)


def test_the_same_instance_twice_counts_once():
    instances = to_instances(phantom(), SeriesOptions())
    assert to_stack([*instances, copy.deepcopy(instances[4])]).volume.spatial_shape == SHAPE


def test_a_missing_frame_of_reference_is_a_warning():
    instances = everywhere()
    for instance in instances:
        del instance.FrameOfReferenceUID
    assert "FrameOfReferenceUID (0020,0052)" in to_stack(instances).warnings[0]
