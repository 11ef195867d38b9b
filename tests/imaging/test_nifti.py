"""NIfTI against DICOM: dcm2niix says where a series lies, nibabel's own affine where a written file does."""

import gzip
import itertools
import json
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest

import cli
from errors import (
    ConstantPixels,
    GantryTilt,
    InputRefused,
    MissingGeometry,
    SegmentationMismatch,
    SeveralStacks,
    TooFewSlices,
    UnreadableFile,
)
from imaging import nifti
from imaging.stack import Stack, to_stack
from unetr.synthesis.phantom import SeriesOptions, to_instances

SHAPE = (6, 14, 11)
RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
COS, SIN = np.cos(0.3), np.sin(0.3)
AFFINES = {
    "axial": np.array([[0, 0, 0.9, -40], [0, 0.8, 0, -55], [2, 0, 0, 12], [0, 0, 0, 1.0]]),
    "sagittal": np.array([[-2, 0, 0, 40], [0, 0, 0.9, -55], [0, -0.8, 0, 12], [0, 0, 0, 1.0]]),
    "oblique": np.array(
        [[0, 0, 0.9, -40], [-2 * SIN, 0.8 * COS, 0, -55], [2 * COS, 0.8 * SIN, 0, 12], [0, 0, 0, 1]]
    ),
}


def labels_on(geometry: np.ndarray) -> hd.Volume:
    array = np.zeros(SHAPE, np.int32)
    array[1:4, 2:5, 7:10] = 1
    array[4, 11, 2] = 2
    return hd.Volume(array, geometry, "PATIENT")


def series(geometry: np.ndarray) -> list:
    image = np.random.default_rng(4).integers(0, 500, SHAPE).astype(np.uint16)
    image[labels_on(geometry).array == 1] = 1001
    image[labels_on(geometry).array == 2] = 1002
    return to_instances(hd.Volume(image, geometry, "PATIENT"), SeriesOptions(order="reversed"))


@pytest.fixture(params=AFFINES)
def geometry(request: pytest.FixtureRequest) -> np.ndarray:
    return AFFINES[request.param]


@pytest.fixture
def stack(geometry: np.ndarray) -> Stack:
    return to_stack(series(geometry))


axial_only = pytest.mark.parametrize("geometry", [AFFINES["axial"]])


def save(array: np.ndarray, affine_ras: np.ndarray | None, path: Path) -> Path:
    image = nib.Nifti1Image(array, affine_ras)
    if affine_ras is not None:
        image.set_sform(affine_ras, 1)
    nib.save(image, path)
    return path


def points(volume: hd.Volume, value: int) -> np.ndarray:
    """LPS mm of the voxels of a value, in one order whatever the index order."""
    positions = volume.map_indices_to_reference(np.argwhere(volume.array == value))
    return positions[np.lexsort(np.round(positions, 2).T)]


def test_a_series_converted_by_dcm2niix_lies_where_the_series_lies(geometry, tmp_path):
    (tmp_path / "source").mkdir()
    for number, instance in enumerate(series(geometry)):
        instance.save_as(tmp_path / "source" / f"{number}.dcm", enforce_file_format=True)
    subprocess.run(
        [str(Path(sys.prefix) / "bin" / "dcm2niix"), "-z", "y", "-f", "series", "-o", str(tmp_path),
         str(tmp_path / "source")],
        check=True, capture_output=True,
    )  # fmt: skip
    read = nifti.read_stack(tmp_path / "series.nii.gz")
    assert read.volume.array.dtype == np.float32
    for value in (1, 2):
        expected = points(labels_on(geometry), value)
        assert points(read.volume, 1000 + value) == pytest.approx(expected, abs=1e-3)
    assert len(read.slices) == read.volume.spatial_shape[0]
    assert {slice_.sop_instance_uid for slice_ in read.slices} == {None}
    assert list(read.headers) == []
    assert read.volume.frame_of_reference_uid is None


def test_a_mask_in_any_of_48_index_orders_lands_on_the_same_voxels(geometry, stack, tmp_path):
    mask = labels_on(geometry)
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            turned = mask.permute_spatial_axes(axes).flip_spatial([a for a in range(3) if flips[a]])
            path = save(turned.array.astype(np.uint8), RAS @ turned.affine, tmp_path / "mask.nii")
            read = nifti.read_mask(path, stack)
            assert read.geometry_equal(stack.volume)
            # In the stack's own image the lesions have the values 1001 and 1002.
            assert np.array_equal(read.array, np.maximum(stack.volume.array - 1000, 0))


def test_written_labels_lie_where_they_were(geometry, tmp_path):
    labels = labels_on(geometry)
    nifti.write_labels(labels, tmp_path / "labels.nii.gz")
    image = nib.load(tmp_path / "labels.nii.gz")
    assert image.get_data_dtype() == np.uint8
    assert image.shape == SHAPE[::-1]
    assert image.header.get_xyzt_units()[0] == "mm"
    stored = np.asarray(image.dataobj)
    for form in (image.get_sform(coded=True), image.get_qform(coded=True)):
        matrix, code = form
        assert code == 1
        for value in (1, 2):
            ras = nib.affines.apply_affine(matrix, np.argwhere(stored == value))
            positions = ras * [-1, -1, 1]
            positions = positions[np.lexsort(np.round(positions, 2).T)]
            assert positions == pytest.approx(points(labels, value), abs=1e-3)


def test_what_is_written_is_read_as_a_mask(stack, tmp_path):
    labels = stack.volume.with_array(np.maximum(stack.volume.array - 1000, 0).astype(np.int32))
    nifti.write_labels(labels, tmp_path / "labels.nii.gz")
    assert np.array_equal(nifti.read_mask(tmp_path / "labels.nii.gz", stack).array, labels.array)


@axial_only
def test_more_than_255_labels_are_written(geometry, tmp_path):
    array = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE)
    nifti.write_labels(hd.Volume(array, geometry, "PATIENT"), tmp_path / "labels.nii")
    image = nib.load(tmp_path / "labels.nii")
    assert image.get_data_dtype() == np.uint16
    assert np.asarray(image.dataobj).max() == np.prod(SHAPE) - 1


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (np.diag([1, 1, 1.25, 1]), r"voxels are .*2\.5.* mm apart, those of the series .*2 .*mm"),
        (np.array([[1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), r"0\.400 mm away"),
        (np.array([[1, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), r"begins at 0 x 0 x 9 mm"),
        (
            np.array([[COS, SIN, 0, 0], [-SIN, COS, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
            r"rotated by 17\.19 degr",
        ),
    ],
    ids=["other spacing", "shifted by half a voxel", "shifted by ten voxels", "turned"],
)
@axial_only
def test_a_mask_on_another_grid_is_refused_with_what_differs(stack, tmp_path, change, difference):
    mask = labels_on(AFFINES["axial"])
    path = save(mask.array.astype(np.uint8), RAS @ change @ mask.affine, tmp_path / "mask.nii")
    with pytest.raises(SegmentationMismatch, match=difference):
        nifti.read_mask(path, stack)


@axial_only
def test_a_cropped_mask_is_refused(stack, tmp_path):
    mask = labels_on(AFFINES["axial"])[1:]
    path = save(mask.array.astype(np.uint8), RAS @ mask.affine, tmp_path / "mask.nii")
    expected = r"begins at 2 x 0 x 0 mm and covers 10 x 11\.2 x 9\.9 mm, the series covers 12 x"
    with pytest.raises(SegmentationMismatch, match=expected):
        nifti.read_mask(path, stack)


# 255 x 1/255 in single precision, and what other tools' scaling leaves of a label.
@pytest.mark.parametrize("factor", [np.float32(255) * np.float32(1 / 255), 1.00002, 0.9996])
@axial_only
def test_labels_that_scaling_moved_off_whole_numbers_are_rounded(stack, tmp_path, factor):
    mask = labels_on(AFFINES["axial"])
    path = save(mask.array.astype(np.float32) * np.float32(factor), RAS @ mask.affine, tmp_path / "mask.nii")
    assert np.array_equal(nifti.read_mask(path, stack).array, mask.array)


@pytest.mark.parametrize("value", [0.5, -1.0, 1.01])
@axial_only
def test_a_mask_of_other_than_labels_is_refused(stack, tmp_path, value):
    mask = labels_on(AFFINES["axial"])
    path = save((mask.array == 1).astype(np.float32) * value, RAS @ mask.affine, tmp_path / "mask.nii")
    with pytest.raises(UnreadableFile, match=f"holds the value {value:g}"):
        nifti.read_mask(path, stack)


@axial_only
def test_an_empty_mask_is_read(stack, tmp_path):
    path = save(np.zeros(SHAPE, np.uint8), RAS @ AFFINES["axial"], tmp_path / "mask.nii")
    assert nifti.read_mask(path, stack).array.max() == 0


NOISE = np.random.default_rng(5).normal(100, 10, (8, 9, 7)).astype(np.float32)
NOT_FINITE = np.where(np.arange(NOISE.size).reshape(NOISE.shape) == 3, np.nan, NOISE)
SHEARED = np.array([[1, 0, 0.05, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(
    ("array", "affine_ras", "refusal", "sentence"),
    [
        (np.stack([NOISE, NOISE], axis=3), np.eye(4), SeveralStacks, "has 4 axes, 8 x 9 x 7 x 2"),
        (NOISE.astype(np.complex64), np.eye(4), UnreadableFile, "values of type complex64"),
        (np.zeros(NOISE.shape, [(c, "u1") for c in "RGB"]), np.eye(4), UnreadableFile, "values of type"),
        (NOT_FINITE, np.eye(4), UnreadableFile, "1 voxels of the NIfTI file are not finite"),
        (NOISE, SHEARED, GantryTilt, r"sheared by 2\.86 degrees"),
        (NOISE, None, MissingGeometry, "neither sform nor qform"),
        (np.full(NOISE.shape, 7.0), np.eye(4), ConstantPixels, "has the value 7"),
        (NOISE[..., :3], np.eye(4), TooFewSlices, "has 3 slices"),
        (NOISE[..., 0], np.eye(4), UnreadableFile, r"shape \(8, 9\), which is not a volume"),
    ],
    ids=["4D", "complex", "colour", "NaN", "sheared", "no affine", "constant", "thin", "2D"],
)
def test_what_is_no_single_volume_of_real_numbers_is_refused(tmp_path, array, affine_ras, refusal, sentence):
    path = save(array, affine_ras, tmp_path / "image.nii.gz")
    with pytest.raises(refusal, match=sentence) as refused:
        nifti.read_stack(path)
    assert isinstance(refused.value, InputRefused)


FORMS = {
    "a shift": (
        np.array([[1, 0, 0, 30], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), r"differ by up to 30\.0 mm;"),
    "left and right": (np.diag([-1.0, 1, 1, 1]), r"differ by up to 14\.0 mm, mirrored against each other;"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_sform_and_qform_that_differ_are_a_warning_that_names_both(tmp_path, name):
    change, sentence = FORMS[name]
    image = nib.Nifti1Image(NOISE, np.eye(4))
    image.set_sform(change, 2)
    image.set_qform(np.eye(4), 1)
    nib.save(image, tmp_path / "image.nii.gz")
    stack = nifti.read_stack(tmp_path / "image.nii.gz")
    (warning,) = stack.warnings
    assert re.search(rf"sform \(code 2\) and the qform \(code 1\) of image.nii.gz {sentence}", warning)
    assert "the sform was used" in warning
    ras = RAS @ stack.volume.affine @ [0, 0, 1, 1]
    assert ras == pytest.approx(change @ [1, 0, 0, 1])
    assert nifti.form_warnings(tmp_path / "image.nii.gz") == [warning]


def test_forms_that_differ_by_their_rounding_alone_are_no_warning(geometry, tmp_path):
    nifti.write_values(hd.Volume(labels_on(geometry).array, geometry, "PATIENT"), tmp_path / "image.nii")
    assert nifti.read_stack(tmp_path / "image.nii").warnings == []


def test_a_file_is_read_by_its_content_not_by_its_name(tmp_path):
    plain = save(NOISE, np.eye(4), tmp_path / "plain.nii").read_bytes()
    packed = gzip.compress(plain)
    contents = {"a.nii.gz": plain, "b.nii": packed, "C.NII.GZ": packed, "D.NII": plain,
                "e.nii.gz": gzip.compress(plain[:900]) + gzip.compress(plain[900:])}  # fmt: skip
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(nifti.read_stack(tmp_path / name).volume.array, NOISE.transpose(2, 1, 0))
        assert cli.main([str(tmp_path / name), "--dry-run"]) == 0


def test_lengths_other_than_mm_are_refused(tmp_path):
    image = nib.Nifti1Image(NOISE, np.eye(4))
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "image.nii")
    with pytest.raises(MissingGeometry, match="measures in micron"):
        nifti.read_stack(tmp_path / "image.nii")


def test_a_single_time_point_and_rounded_axes_are_accepted(tmp_path):
    rounded = np.eye(4)
    rounded[0, 1] = 4e-4
    read = nifti.read_stack(save(NOISE[..., None], rounded, tmp_path / "image.nii"))
    assert np.array_equal(read.volume.array, NOISE.transpose(2, 1, 0))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x1f\x8b\x08 not really gzip"])
@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
def test_other_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile, match="cannot be read as NIfTI"):
        nifti.read_stack(tmp_path / name)


@pytest.mark.parametrize("offset", [np.inf, np.nan, -1e9])
def test_an_impossible_offset_is_refused(tmp_path, offset):
    (tmp_path / "image.nii").write_bytes(header(SMALL, offset).binaryblock + bytes(4 + 64**3))
    with pytest.raises(UnreadableFile, match="cannot be read as NIfTI"):
        nifti.read_stack(tmp_path / "image.nii")


@pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
def test_a_truncated_file_and_a_missing_one_are_refused(tmp_path, name):
    path = save(NOISE, np.eye(4), tmp_path / name)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UnreadableFile):
        nifti.read_stack(path)
    with pytest.raises(UnreadableFile, match=r"There is no .*absent\.nii"):
        nifti.read_stack(tmp_path / "absent.nii")


# Bombs: small files that would take gigabytes


def bomb(header: nib.Nifti1Header, extension: bytes, zeros: int) -> bytes:
    """A .nii.gz whose zeros are compressed once and repeated."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    start = packer.compress(header.binaryblock + extension) + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(2**24)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + block * (zeros // 2**24) + packer.flush()


def header(shape: tuple[int, int, int], offset: float = 352, dtype: type = np.uint8) -> nib.Nifti1Header:
    nifti_header = nib.Nifti1Header()
    nifti_header.set_data_dtype(dtype)
    nifti_header.set_data_shape(shape)
    nifti_header.set_sform(np.eye(4), 1)
    nifti_header["vox_offset"], nifti_header["magic"] = offset, b"n+1"
    return nifti_header


NO_EXTENSION, EXTENSION = bytes(4), b"\1\0\0\0"
SMALL = (64, 64, 64)
GB = 10**9
BOMBS = {
    "8 GB of zeros": (header((2000, 2000, 2000)), NO_EXTENSION, 8 * GB, "takes 30518 MiB; at most 1024 MiB"),
    "all that a header can claim": (
        header((32767,) * 3, dtype=np.float64), NO_EXTENSION, 2**24, "takes 268410881 MiB; at most 1024 MiB"),
    "8 GB beyond the voxels": (header(SMALL), NO_EXTENSION, 8 * GB, "has the value 0"),
    "an extension of 2 GB": (
        header(SMALL, 2**31), EXTENSION + struct.pack("<ii", 2**31 - 16, 6), 4 * GB,
        "voxels begin at byte 2147483648; at most 67108864"),
    "an extension without a length": (
        header(SMALL, 416), EXTENSION + struct.pack("<ii", 0, 6), 4 * GB, "has the value 0"),
}  # fmt: skip
READER = """
import json, re, sys
from pathlib import Path
from errors import MetScopeError
from imaging import nifti

def peak_mb():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1000

idle = peak_mb()
try:
    nifti.read_stack(Path(sys.argv[1]))
except MetScopeError as error:
    print(json.dumps([error.problem, peak_mb() - idle]))
"""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_little_cost(tmp_path, name):
    head, extension, zeros, sentence = BOMBS[name]
    (tmp_path / "image.nii.gz").write_bytes(bomb(head, extension, zeros))
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path / "image.nii.gz")],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    message, peak_mb = json.loads(done.stdout)
    print(f"\n{name} | {message} | {peak_mb:.0f}")
    assert sentence in message
    # The volume itself has 1 MB as float32; a GB is what any of the bombs would take.
    assert peak_mb < 30


def test_extensions_are_passed_over(tmp_path):
    image = nib.Nifti1Image(NOISE, np.eye(4))
    image.set_sform(np.eye(4), 1)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"made by a tool" * 100))
    nib.save(image, tmp_path / "image.nii.gz")
    read = nifti.read_stack(tmp_path / "image.nii.gz")
    assert np.array_equal(read.volume.array, NOISE.transpose(2, 1, 0))


def test_nifti_2_and_scaled_big_endian_files_are_read(tmp_path):
    second = nib.Nifti2Image(NOISE, np.eye(4))
    scaled = nib.Nifti1Image(NOISE, np.eye(4), nib.Nifti1Header(endianness=">"))
    scaled.set_data_dtype(np.int16)
    for image, tolerance in ((second, 0), (scaled, 0.01)):
        image.set_sform(np.eye(4), 1)
        nib.save(image, tmp_path / "image.nii.gz")
        read = nifti.read_stack(tmp_path / "image.nii.gz")
        np.testing.assert_allclose(read.volume.array, NOISE.transpose(2, 1, 0), rtol=0.0, atol=tolerance)


def test_a_fourth_axis_is_as_many_volumes_of_one_place(tmp_path):
    ras = RAS @ AFFINES["oblique"][:, [2, 1, 0, 3]]
    channels = np.random.default_rng(5).integers(0, 900, (*SHAPE[::-1], 3)).astype(np.int16)
    path = save(channels, ras, tmp_path / "four.nii.gz")
    stacks = nifti.read_channels(path)
    assert len(stacks) == 3
    for number, stack in enumerate(stacks):
        assert np.array_equal(stack.volume.array, channels[..., number].T)
        assert stack.volume.affine == pytest.approx(AFFINES["oblique"], abs=1e-5)
    with pytest.raises(SeveralStacks, match="4 axes"):
        nifti.read_stack(path)
    with pytest.raises(SeveralStacks, match="5 axes"):
        nifti.read_channels(save(channels[..., None].repeat(2, -1), ras, tmp_path / "five.nii.gz"))
    assert len(nifti.read_channels(save(channels[..., 0], ras, tmp_path / "three.nii.gz"))) == 1
