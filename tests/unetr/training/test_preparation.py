"""What is learnt from: readers' cases beside made ones, prepared once, whole patients held out."""

import os
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pytest
from pydantic import ValidationError

from errors import DataRefused
from imaging.sequences import FLAIR, T1_POST_CONTRAST
from orthanc.__main__ import main as orthanc
from tests import labelled
from tests.labelled import CENTRE, ELSEWHERE
from unetr.preprocess import prepare
from unetr.spec import Crop
from unetr.training import config, preparation, train

TINY = config.load_config("tiny").spec
PATIENTS = tuple(f"Case_{number:03}" for number in range(12))


def labelled_config(folder: Path, layout: str = "nnunet", **more) -> config.Labelled:
    return config.Labelled(folder=folder, layout=layout, **{"validation": 0.25, **more})


def gather(data: config.Labelled, out: Path) -> preparation.Group:
    return preparation.gather(data, TINY, out, processes=0)


def test_cases_are_divided_by_patient_and_stay_where_they_are_as_others_come(tmp_path):
    few = preparation.held_out_patients(set(PATIENTS[:6]), 0.3, seed=1)
    many = preparation.held_out_patients({f"Case_{number:03}" for number in range(1000)}, 0.3, seed=1)
    assert few == many & set(PATIENTS[:6])
    assert 250 < len(many) < 350
    assert preparation.held_out_patients(set(PATIENTS), 0.3, seed=2) != few
    assert len(preparation.held_out_patients({"one", "other"}, 1e-6, seed=1)) == 1
    assert preparation.held_out_patients(set(PATIENTS), 0.0, seed=1) == set()

    names = [f"BraTS-MET-{number:05}-{time:03}" for number in range(6) for time in range(2)]
    labelled.brats_2023(tmp_path, names)
    data = labelled_config(tmp_path, "brats", labels="merge")
    training, held_out, bad = preparation.labelled(data, TINY)
    assert bad == []
    sides = [{case.id.rsplit("-", 1)[0] for case in side} for side in (training, held_out)]
    assert sides[0] & sides[1] == set()
    assert len(training) + len(held_out) == 12
    assert {case.id for case in held_out} == {name for name in names if name.rsplit("-", 1)[0] in sides[1]}


def test_bad_cases_are_named_and_those_without_a_label_teach_too(tmp_path, capsys):
    labelled.nnunet(tmp_path / "data", PATIENTS)
    (tmp_path / "data" / "labelsTr" / "Case_000.nii.gz").unlink()
    (tmp_path / "data" / "imagesTr" / "Case_001_0000.nii.gz").write_bytes(b"broken")
    empty = tmp_path / "data" / "labelsTr" / "Case_002.nii.gz"
    image = nib.load(empty)
    nib.save(nib.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), empty)
    group = gather(labelled_config(tmp_path / "data"), tmp_path / "cases")
    assert {case.id: "missing" in case.reason for case in group.bad} == {"Case_000": True, "Case_001": False}
    assert len(group.training) + len(group.held_out) == 10
    assert group.negatives == 1
    train.tell(group)
    stdout = capsys.readouterr().out
    assert "1 without labels; 2 unusable and skipped" in stdout
    assert "Case_000: The label is missing" in stdout


def test_a_folder_of_bad_cases_alone_is_refused_with_a_reason(tmp_path):
    labelled.brats_2023(tmp_path / "data")
    with pytest.raises(DataRefused, match=r"None of the cases of data .* value 3; tiny has 1 to 1"):
        gather(labelled_config(tmp_path / "data", "brats", validation=0.0), tmp_path / "cases")
    with pytest.raises(DataRefused, match="the only patient is held out"):
        gather(labelled_config(tmp_path / "data", "brats", labels="merge"), tmp_path / "cases")


def test_cases_are_prepared_once_and_anew_when_a_file_or_what_is_wanted_changes(tmp_path):
    labelled.nnunet(tmp_path / "data", PATIENTS[:3])
    out = tmp_path / "cases"

    def gather_times(**more) -> dict[Path, int]:
        gather(labelled_config(tmp_path / "data", **more), out)
        return {path: path.stat().st_mtime_ns for path in out.iterdir()}

    first = gather_times()
    assert len(first) == 3
    assert gather_times() == first
    label = tmp_path / "data" / "labelsTr" / "Case_001.nii.gz"
    os.utime(label, ns=(1, 1))
    second = gather_times()
    assert len(second) == 4
    assert second.items() >= first.items()
    assert len(gather_times(labels={1: 0})) == 7


def test_a_case_that_was_half_prepared_is_prepared(tmp_path):
    labelled.nnunet(tmp_path / "data", PATIENTS[:3])
    data = labelled_config(tmp_path / "data")
    training, *_ = preparation.labelled(data, TINY)
    unfinished = preparation.path_of(tmp_path / "cases", training[0], TINY).with_suffix(".part")
    unfinished.mkdir(parents=True)
    (unfinished / "image.npy").write_bytes(b"half")
    group = gather(data, tmp_path / "cases")
    assert all(sample.image.shape[0] == 1 for sample in group.training)
    assert not unfinished.exists()


def test_windows_come_from_each_entry_by_its_weight(tmp_path):
    groups = []
    for name, count, weight in (("a", 2, 3.0), ("b", 6, 1.0)):
        labelled.nnunet(tmp_path / name, [f"{name}{number}" for number in range(count + 1)])
        data = labelled_config(tmp_path / name, weight=weight, validation=0.01)
        groups.append(gather(data, tmp_path / "cases"))
    of_first = {id(sample) for sample in groups[0].training}
    picks = []

    def cut(sample, rng, augment):
        picks.append(id(sample) in of_first)
        return train.window_of(TINY, course)(sample, rng, augment)

    course = config.load_config("tiny").courses[0].model_copy(update={"batch": 4})
    windows = train.Windows(groups, cut, course, (1, 0))
    for step in range(60):
        windows.batch(step)
    # Three quarters of 240, whatever their number of cases; the standard deviation is 0.028.
    assert np.mean(picks) == pytest.approx(0.75, abs=0.09)


def middles_lps(group: preparation.Group, study: hd.Volume) -> list[np.ndarray]:
    """LPS mm of the lesions of the group's only case, whose grid covers that volume."""
    (sample,) = group.training
    prepared = prepare(study, TINY).volume
    assert sample.search_mask.shape == prepared.spatial_shape
    return [prepared.map_indices_to_reference(place[None].astype(float))[0] for place in sample.places]


def test_what_readers_corrected_in_the_archive_is_what_is_learnt(tmp_path, monkeypatch):
    """The archive of a PACS, ``python -m orthanc fetch``, and the training's entry for that folder."""
    instances = labelled.images(uid_seed="corrections")
    archive = tmp_path / "archive"
    labelled.write([*instances, labelled.segmentation(instances, "20250314 101500", ELSEWHERE)], archive)
    monkeypatch.setenv("DICOMWEB_URL", archive.as_uri())
    study = str(instances[0].StudyInstanceUID)
    volume = labelled.volume("LPS").astype(np.float32)
    data = labelled_config(tmp_path / "fetched", "dicom", validation=0.0)
    for segmentation, centre in (
        (None, ELSEWHERE),
        (labelled.segmentation(instances, "20250601 090000"), CENTRE),
    ):
        if segmentation is not None:
            labelled.write([segmentation], archive)
        assert orthanc(["fetch", "--out", str(tmp_path / "fetched"), study]) == 0
        (middle,) = middles_lps(gather(data, tmp_path / "cases"), volume)
        assert middle == pytest.approx(centre, abs=3.0)


def test_several_sequences_lie_on_the_grid_of_the_first():
    """The second is acquired on another, coarser grid, in another orientation, and brighter."""
    first, second = labelled.volume("LPS"), labelled.volume("PIR")
    coarser = second.with_array(second.array * 7)[::2]
    spec = TINY.model_copy(
        update={"inputs": (T1_POST_CONTRAST, FLAIR), "crop": Crop(to="head", margin_mm=0.0)}
    )
    prepared = prepare(first, spec, [coarser])
    for channel in prepared.array:
        bright = np.argwhere(channel > 3.0)
        place = prepared.volume.map_indices_to_reference(bright.astype(float)).mean(0)
        assert place == pytest.approx(CENTRE, abs=1.5)
    twice = prepare(first, spec, [first]).array
    assert np.array_equal(twice[0], prepared.array[0])
    assert twice[1] == pytest.approx(twice[0], abs=1e-4)


def test_a_brain_that_is_unknown_is_not_learnt_and_all_is_sought(tmp_path):
    labelled.nnunet(tmp_path / "data", PATIENTS[:3])
    described_unet = config.load_config("metscope-unet")
    spec = described_unet.spec.model_copy(update={"spacing_mm": (3.0, 3.0, 3.0)})
    group = preparation.gather(labelled_config(tmp_path / "data"), spec, tmp_path / "cases", 0)
    assert all(sample.brain is None and sample.search_mask.all() for sample in group.training)
    brain, lesion = described_unet.courses
    assert train.groups_of(lesion, [group]) == [group]
    with pytest.raises(DataRefused, match="brain is not known"):
        train.groups_of(brain, [group])


def test_what_no_synthesis_has_cannot_be_left_out_of_it():
    counts = {"training": 1, "validation": 1}
    config.Generated(generator="metastases", without="vessels", **counts)
    for generator, without in (("metastases", "colour"), ("glioma", "vessels")):
        with pytest.raises(ValidationError, match="without is for metastases, and one of contrast, noise"):
            config.Generated(generator=generator, without=without, **counts)
