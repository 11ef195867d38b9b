"""Labelled studies in the layouts that data sets come in: what is where, and what is wrong with which."""

import gzip
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.sr.coding import Code

from errors import DataRefused
from tests import labelled
from tests.labelled import CENTRE, ELSEWHERE, affine_lps, sphere
from unetr.data.datasets import Case, RejectedCase, cases, sources

T1C, FLAIR = "T1 post-contrast", "FLAIR"
MAKERS = {
    "nnunet": (labelled.nnunet, "nnunet", [T1C, FLAIR], 1),
    "msd": (labelled.msd, "msd", [FLAIR, "T1", T1C, "T2"], 3),
    "brats 2021": (labelled.brats_2021, "brats", ["T1", T1C, "T2", FLAIR], 4),
    "brats 2023": (labelled.brats_2023, "brats", ["T1", T1C, "T2", FLAIR], 3),
    "dicom": (labelled.dicom, "dicom", [T1C], 1),
}
NAMES = ("BraTS-MET-00001-000", "BraTS-MET-00002-000")
BAD, GOOD = NAMES


def only_case(iterable) -> Case:
    (case,) = iterable
    assert isinstance(case, Case), case
    return case


def centroid(volume, mask) -> np.ndarray:
    """LPS mm."""
    return volume.map_indices_to_reference(np.argwhere(mask)).mean(axis=0)


@pytest.mark.parametrize("direction", labelled.DIRECTIONS)
@pytest.mark.parametrize("layout", MAKERS)
def test_the_lesion_is_where_it_was_put_in_every_layout_and_orientation(tmp_path, layout, direction):
    make, name, sequences, value = MAKERS[layout]
    make(tmp_path, direction=direction)
    case = only_case(cases(tmp_path, name))
    truth = case.truth
    assert centroid(truth, truth.array == value) == pytest.approx(CENTRE, abs=0.3)
    ball_mm3 = 4 / 3 * np.pi * labelled.RADIUS_MM**3
    assert (truth.array > 0).sum() * truth.voxel_volume == pytest.approx(ball_mm3, rel=0.05)
    assert truth.array.dtype == np.uint8
    assert list(case.images) == sequences
    for image in case.images.values():
        assert image.array.dtype == np.float32
        assert centroid(image, image.array > 300) == pytest.approx(CENTRE, abs=0.3)
        assert image.geometry_equal(truth)


def test_each_sequence_is_its_own_file_or_channel(tmp_path):
    labelled.msd(tmp_path / "msd")
    labelled.brats_2021(tmp_path / "brats")
    for layout, order in (("msd", [FLAIR, "T1", T1C, "T2"]), ("brats", ["T1", T1C, "T2", FLAIR])):
        case = only_case(cases(tmp_path / layout, layout))
        for seed, name in enumerate(order):
            affine = affine_lps("RAS")
            assert np.array_equal(case.images[name].array, labelled.head(affine, sphere(affine), seed).T)


def two_lesions(folder: Path) -> None:
    """BraTS 2021 with oedema (2) around the enhancing lesion (4) and a necrotic core (1) elsewhere."""
    labelled.brats_2021(folder)
    affine = affine_lps("RAS")
    label = 2 * sphere(affine, radius_mm=10.0).astype(np.uint8)
    label[sphere(affine)] = 4
    label[sphere(affine, ELSEWHERE, 4.0)] = 1
    labelled.save(label, affine, folder / "BraTS2021_00000" / "BraTS2021_00000_seg.nii.gz")


@pytest.mark.parametrize(
    ("labels", "values"),
    [(None, {1, 2, 4}), ({4: 3}, {1, 2, 3}), ({2: 0}, {1, 4}), ({1: 1, 4: 1, 2: 0}, {1}), ("merge", {1})],
)
def test_labels_become_what_the_caller_wants(tmp_path, labels, values):
    two_lesions(tmp_path)
    truth = only_case(cases(tmp_path, "brats", labels)).truth
    assert set(np.unique(truth.array).tolist()) == {0} | values
    kept = 10.0 if labels in (None, "merge", {4: 3}) else 7.0
    marked = sphere(affine_lps("RAS"), radius_mm=kept) | sphere(affine_lps("RAS"), ELSEWHERE, 4.0)
    assert np.array_equal(truth.array > 0, marked.T)


def test_label_values_beyond_a_byte_are_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="0 to 255"):
        cases(tmp_path, "brats", {1: 256})


def alter(name: str, ending: str, change):
    """A breaker that changes one file's array or affine."""

    def apply(folder: Path) -> None:
        path = folder / name / f"{name}-{ending}.nii.gz"
        image = nib.load(path)
        array, affine = change(np.asarray(image.dataobj), image.affine.copy())
        nib.save(nib.Nifti1Image(array, affine), path)

    return apply


def cut_off(folder: Path) -> None:
    path = folder / BAD / f"{BAD}-t2w.nii.gz"
    path.write_bytes(path.read_bytes()[:5000])


def scramble(folder: Path) -> None:
    path = folder / BAD / f"{BAD}-t2w.nii.gz"
    path.write_bytes(gzip.compress(b"no NIfTI " * 1000))


def remove(ending: str):
    return lambda folder: (folder / BAD / f"{BAD}-{ending}.nii.gz").unlink()


def shift(array, affine):
    affine[0, 3] += 3.4
    return array, affine


def moved_by_two_voxels(array, affine):
    affine[:3, 3] += 2 * affine[:3, 0]
    return array, affine


def mirror(array, affine):
    affine[0] *= -1
    return array, affine


def with_value(value, dtype=np.uint8):
    def change(array, affine):
        array = array.astype(dtype)
        array[20, 20, 20] = value
        return array, affine

    return change


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut_off, ["t2w.nii.gz", "cannot be read"]),
        (scramble, ["t2w.nii.gz", "cannot be read"]),
        (remove("t2f"), ["FLAIR is missing", "t2f.nii.gz"]),
        (remove("seg"), ["label is missing", "seg.nii.gz"]),
        (alter(BAD, "t2w", shift), ["t2w.nii.gz", "mm"]),
        (alter(BAD, "t2w", moved_by_two_voxels), ["t2w.nii.gz", "from LPS", "t1n.nii.gz covers"]),
        (alter(BAD, "t2w", mirror), ["t2w.nii.gz"]),
        (alter(BAD, "t2w", lambda a, m: (a[:-1], m)), ["t2w.nii.gz", f"x {labelled.SHAPE[0] - 1} voxels"]),
        (alter(BAD, "seg", shift), ["seg.nii.gz", "mm"]),
        (alter(BAD, "seg", lambda a, m: (a[:, :-2], m)), ["seg.nii.gz", "mm"]),
        (alter(BAD, "seg", with_value(1.5, np.float32)), ["seg.nii.gz", "1.5"]),
        (alter(BAD, "seg", with_value(4)), ["seg.nii.gz", "value 4", "1, 2, 3"]),
        (alter(BAD, "seg", with_value(300, np.int16)), ["seg.nii.gz", "value 300"]),
        (alter(BAD, "t1c", with_value(np.nan, np.float32)), ["t1c.nii.gz", "not finite"]),
        (alter(BAD, "t1c", lambda a, m: (np.zeros_like(a), m)), ["t1c.nii.gz", "Every voxel"]),
    ],
)  # fmt: skip
def test_a_bad_case_says_why_and_the_next_one_follows(tmp_path, spoil, words):
    labelled.brats_2023(tmp_path, NAMES)
    spoil(tmp_path)
    bad, good = cases(tmp_path, "brats")
    assert isinstance(bad, RejectedCase)
    assert bad.id == BAD
    assert all(word in bad.reason for word in words), bad.reason
    assert bad.reason.endswith(".")
    assert isinstance(good, Case)
    assert good.id == GOOD


def test_a_case_in_which_nothing_is_labelled_is_a_case(tmp_path):
    labelled.brats_2023(tmp_path, NAMES)
    alter(BAD, "seg", lambda array, affine: (np.zeros_like(array), affine))(tmp_path)
    empty, labelled_case = cases(tmp_path, "brats")
    assert [case.truth.array.any() for case in (empty, labelled_case)] == [False, True]
    nothing_wanted = cases(tmp_path, "brats", {3: 0})
    assert [case.truth.array.any() for case in nothing_wanted] == [False, False]


def test_a_source_says_whose_it_is_and_which_files_it_is_read_from(tmp_path):
    labelled.brats_2023(tmp_path / "brats", ("BraTS-MET-00001-000", "BraTS-MET-00001-001", NAMES[1]))
    entries = list(sources(tmp_path / "brats", "brats", sequences=[T1C]))
    assert [source.patient for source in entries] == ["BraTS-MET-00001"] * 2 + ["BraTS-MET-00002"]
    assert {file.name for file in entries[2].files} == {f"{GOOD}-t1c.nii.gz", f"{GOOD}-seg.nii.gz"}
    labelled.dicom(tmp_path / "dicom", ("first", "second"))
    entries = list(sources(tmp_path / "dicom", "dicom"))
    assert entries[0].patient == entries[1].patient == "PHANTOM-1"
    assert set(entries[0].files) == set((tmp_path / "dicom" / "first").rglob("*.dcm"))


def test_a_folder_that_is_no_case_is_named(tmp_path):
    labelled.brats_2021(tmp_path)
    (tmp_path / "notes").mkdir()
    good, bad = cases(tmp_path, "brats")
    assert (type(good), type(bad)) == (Case, RejectedCase)
    assert "notes-t1c.nii.gz" in bad.reason


def test_sequences_that_are_not_wanted_may_be_missing_or_broken(tmp_path):
    labelled.brats_2023(tmp_path, NAMES[:1])
    cut_off(tmp_path)
    remove("t1n")(tmp_path)
    assert list(only_case(cases(tmp_path, "brats", sequences=[T1C])).images) == [T1C]
    labelled.msd(tmp_path / "msd")
    assert list(only_case(cases(tmp_path / "msd", "msd", sequences=["T2", T1C])).images) == ["T2", T1C]
    with pytest.raises(DataRefused, match="no SWI among FLAIR"):
        list(cases(tmp_path / "msd", "msd", sequences=["SWI"]))


def test_a_case_is_read_when_it_is_its_turn_and_not_before(tmp_path):
    labelled.brats_2023(tmp_path, NAMES)
    iterator = cases(tmp_path, "brats")
    assert next(iterator).id == BAD
    (tmp_path / GOOD / f"{GOOD}-t1c.nii.gz").write_bytes(b"now it is broken")
    assert "t1c.nii.gz" in next(iterator).reason


def test_a_source_can_be_sent_to_another_process(tmp_path):
    labelled.nnunet(tmp_path, ("a", "b"))
    listed = [pickle.loads(pickle.dumps(source)) for source in sources(tmp_path, "nnunet")]  # noqa: S301
    assert [source.id for source in listed] == ["a", "b"]
    assert isinstance(listed[1].load(), Case)


def test_nnunet_names_what_is_missing_on_either_side(tmp_path):
    labelled.nnunet(tmp_path, ("a", "b", "c"))
    (tmp_path / "labelsTr" / "a.nii.gz").unlink()
    (tmp_path / "imagesTr" / "b_0001.nii.gz").unlink()
    # What macOS leaves in an archive.
    (tmp_path / "labelsTr" / "._c.nii.gz").write_bytes(b"\0\5\x16\7")
    a, b, c = cases(tmp_path, "nnunet")
    assert "labelsTr/a.nii.gz" in a.reason
    assert "FLAIR is missing" in b.reason
    assert "imagesTr/b_0001.nii.gz" in b.reason
    assert isinstance(c, Case)


def test_nnunet_of_the_first_version_and_with_regions(tmp_path):
    labelled.nnunet(tmp_path)
    names = {"0": "background", "1": "tumour"}
    labelled.describe(tmp_path, {"modality": {"0": "T1ce", "1": "CT"}, "labels": names})
    assert list(only_case(cases(tmp_path, "nnunet")).images) == [T1C, "CT"]
    regions = {"background": 0, "whole": [1, 2], "core": 2}
    labelled.describe(tmp_path, {"channel_names": {"0": "T1", "1": "T1w"}, "labels": regions})
    assert list(only_case(cases(tmp_path, "nnunet")).images) == ["T1", "T1w"]
    other = {"background": 0, "lesion": 2}
    labelled.describe(tmp_path, {"channel_names": {"0": "T1", "1": "T2"}, "labels": other})
    (bad,) = cases(tmp_path, "nnunet")
    assert "value 1" in bad.reason


def test_msd_names_missing_files_and_channels(tmp_path):
    labelled.msd(tmp_path, ("BRATS_001", "BRATS_002", "BRATS_003"))
    (tmp_path / "labelsTr" / "BRATS_001.nii.gz").unlink()
    affine = affine_lps("RAS")
    labelled.save(labelled.head(affine, sphere(affine)), affine, tmp_path / "imagesTr" / "BRATS_002.nii.gz")
    first, second, third = cases(tmp_path, "msd")
    assert "labelsTr/BRATS_001.nii.gz" in first.reason
    assert "1 channels" in second.reason
    assert "4: FLAIR" in second.reason
    assert isinstance(third, Case)


@pytest.mark.parametrize("layout", ["nnunet", "msd", "brats", "dicom"])
def test_a_folder_of_another_layout_is_refused(tmp_path, layout):
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(DataRefused):
            list(cases(folder, layout))


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"modality": {"0": "T1"}}', '{"labels": {}, "modality": "T1"}']
)
def test_a_description_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(DataRefused, match=r"dataset\.json does not follow"):
        list(cases(tmp_path, "msd"))


def test_the_newest_version_of_a_seg_counts(tmp_path):
    instances = labelled.images()
    labelled.write(instances, tmp_path / "study" / "images")
    earlier = labelled.segmentation(instances, "20250314 101500", ELSEWHERE)
    later = labelled.segmentation(instances, "20250314 101500.25")
    # Whatever the files' order: the earlier one is read last and has the greater UID.
    last = f"{later.SOPInstanceUID[:50]}.9999"
    earlier.SOPInstanceUID = earlier.file_meta.MediaStorageSOPInstanceUID = last
    labelled.write([later], tmp_path / "study" / "1")
    labelled.write([earlier], tmp_path / "study" / "2")
    truth = only_case(cases(tmp_path, "dicom")).truth
    assert centroid(truth, truth.array > 0) == pytest.approx(CENTRE, abs=0.3)


def test_oedema_is_another_value_than_a_lesion(tmp_path):
    instances = labelled.images()
    label = labelled.segmentation(instances, "20250314 101500")
    kind = label.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning = Code("M-36300", "SRT", "Edema")[:3]
    labelled.write([*instances, label], tmp_path / "study")
    truth = only_case(cases(tmp_path, "dicom")).truth
    assert np.unique(truth.array).tolist() == [0, 2]


def test_series_on_the_same_grid_belong_to_the_case_and_others_do_not(tmp_path):
    t1 = labelled.images()
    study, frame = t1[0].StudyInstanceUID, t1[0].FrameOfReferenceUID
    joined = {"study_instance_uid": study, "contrast": False}
    flair = labelled.images(description="T2 FLAIR", **joined)
    t2 = labelled.images("PIR", description="t2_tse", **joined)
    localizer = labelled.images(description="localizer", **joined)
    for instance in flair + t2 + localizer:
        instance.FrameOfReferenceUID = frame
    label = labelled.segmentation(t1, "20250314 101500")
    labelled.write([*t1, *flair, *t2, *localizer, label], tmp_path / "study")
    assert list(only_case(cases(tmp_path, "dicom")).images) == [T1C, FLAIR]
    (bad,) = cases(tmp_path, "dicom", sequences=[T1C, "T2"])
    assert "no T2 among" in bad.reason


@pytest.mark.parametrize(
    ("options", "sequence"),
    [
        ({"description": "t1_mprage_sag", "contrast": False}, T1C),
        ({"description": "t1_mprage_sag nativ", "contrast": False}, "T1"),
        ({"description": "T2 FLAIR"}, FLAIR),
    ],
)
def test_a_labelled_t1_is_post_contrast_unless_it_denies_it(tmp_path, options, sequence):
    instances = labelled.images(**options)
    labelled.write([*instances, labelled.segmentation(instances, "20250314 101500")], tmp_path / "study")
    assert list(only_case(cases(tmp_path, "dicom")).images) == [sequence]


def test_a_bad_study_says_why_and_the_next_one_follows(tmp_path):
    labelled.dicom(tmp_path, ("damaged", "empty", "gap", "good", "lost", "unlabelled"))
    files = sorted((tmp_path / "damaged" / "images").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:400])
    for file in (tmp_path / "empty").rglob("*.dcm"):
        file.unlink()
    in_order = sorted((tmp_path / "gap" / "images").iterdir(), key=_place)
    in_order[20].unlink()
    for file in (tmp_path / "lost" / "images").iterdir():
        file.unlink()
    for file in (tmp_path / "unlabelled" / "seg").iterdir():
        file.unlink()
    reasons = {case.id: getattr(case, "reason", "") for case in cases(tmp_path, "dicom")}
    assert "Damaged files" in reasons["damaged"]
    assert "no DICOM image" in reasons["empty"]
    assert "between slices" in reasons["gap"]
    assert reasons["good"] == ""
    assert "is missing" in reasons["lost"]
    assert "No DICOM SEG" in reasons["unlabelled"]


def _place(file: Path) -> float:
    return float(dcmread(file, stop_before_pixels=True).ImagePositionPatient[2])


def test_no_reason_says_where_the_studies_lie(tmp_path):
    labelled.dicom(tmp_path, ("broken", "notes"))
    for file in (tmp_path / "notes").rglob("*.dcm"):
        file.write_text("no image")
    broken, notes = sources(tmp_path, "dicom")
    broken.files[-1].write_text("no image")
    assert notes.reason.startswith("notes contains no DICOM image.")
    assert broken.load().reason.startswith(f"{broken.files[-1].name} is not a DICOM file")
    assert str(tmp_path) not in notes.reason + broken.load().reason
