"""Which series of a study are the inputs of a model, by names as scanners give them."""

import highdicom as hd
import numpy as np
import pytest
from pydicom import Dataset

import errors
from imaging.inputs import choose_inputs, covered
from unetr.synthesis.phantom import SeriesOptions, to_instances

SEQUENCES = ("FLAIR", "T1", "T1 post-contrast", "T2")


def series(description: str, slices: int = 100, **attributes: object) -> list[Dataset]:
    """Headers of a series of small slices that cover 150 mm, in one frame of reference."""
    affine = np.array([[0, 0, 8.0, -16], [0, 8.0, 0, -16], [150 / slices, 0, 0, -75], [0, 0, 0, 1]])
    image = np.arange(slices * 16, dtype=np.uint16).reshape(slices, 4, 4)
    volume = hd.Volume(image, affine, "PATIENT", frame_of_reference_uid="1.2.3")
    instances = to_instances(volume, SeriesOptions(description=description, contrast=False))
    for instance in instances:
        del instance.PixelData
        for keyword, value in attributes.items():
            setattr(instance, keyword, value)
    return instances


def choose(study: list[list[Dataset]], names=SEQUENCES, choices=None, *, head: bool = True) -> list[str]:
    return [candidate.description for candidate in choose_inputs(study, names, choices or {}, head=head)]


STUDY = [
    "localizer", "t2_tse_tra", "t2_tirm_tra_dark-fluid", "ep2d_diff_b1000", "t1_se_tra", "T1 MPRAGE +C",
]  # fmt: skip


def test_each_input_is_its_sequence_in_the_order_of_the_model():
    study = [series(description) for description in STUDY]
    assert choose(study) == ["t2_tirm_tra_dark-fluid", "t1_se_tra", "T1 MPRAGE +C", "t2_tse_tra"]
    assert choose(study, ("T2", "FLAIR")) == ["t2_tse_tra", "t2_tirm_tra_dark-fluid"]


@pytest.mark.parametrize("name", ["gre_field_mapping", "Field Map", "fmap", "B0map", "AAHScout"])
def test_a_field_map_or_a_scout_is_no_t1(name):
    times = {"EchoTime": 4.92, "RepetitionTime": 400, "InversionTime": None}
    with pytest.raises(errors.MissingSequence, match="None of the study's 2 series is a T1"):
        choose([series("T1 +C"), series(name, **times)], ("T1", "T1 post-contrast"))


def test_of_one_sequence_the_thin_one_is_taken_and_of_equals_the_newest():
    study = [series("t1 thin"), series("t1 thick", 25), series("t2 first"), series("t2 again")]
    for number, instances in enumerate(study):
        for instance in instances:
            instance.SeriesTime = f"10{number}000"
    assert choose(study, ("T1", "T2")) == ["t1 thin", "t2 again"]


def test_a_series_in_the_frame_of_reference_of_the_first_goes_before_a_newer_one():
    study = [series("FLAIR"), series("t2 here"), series("t2 elsewhere", FrameOfReferenceUID="4.5")]
    for instance in study[2]:
        instance.SeriesTime = "235900"
    assert choose(study, ("FLAIR", "T2")) == ["FLAIR", "t2 here"]
    with pytest.raises(errors.InputsApart, match=r"of the T2 \(t2 elsewhere\) is 4.5, but that of the first"):
        choose(study, ("FLAIR", "T2"), {"T2": study[2][0].SeriesInstanceUID})


def test_the_neck_is_no_brain():
    study = [series("t2 tra"), series("t2 sag c-spine", BodyPartExamined="CSPINE", SeriesNumber=9)]
    assert choose(study, ("T2",)) == ["t2 tra"]
    assert choose(study, ("T2",), head=False) == ["t2 sag c-spine"]
    with pytest.raises(errors.MissingSequence, match="None of the study's 1 series is a T2"):
        choose(study[1:], ("T2",))


def test_a_series_of_the_sequence_whose_geometry_is_broken_is_named_with_its_fault():
    whole = series("ax FLAIR")
    with pytest.raises(errors.MissingSequence, match=r"ax FLAIR: 3.0 mm between slices 50 and 51"):
        choose([whole[:50] + whole[51:]], ("FLAIR",))


def test_an_input_of_another_name_is_the_only_series_there_is():
    sagittal = series("STIR sag")
    assert choose([series("localizer"), sagittal], ("spine",), head=False) == ["STIR sag"]
    with pytest.raises(
        errors.AmbiguousSeries, match=r"2 series may be the spine: t1 sag \([\d.]+\), STIR sag \([\d.]+\)"
    ):
        choose([sagittal, series("t1 sag")], ("spine",), head=False)
    with pytest.raises(errors.MissingSequence, match="ADC is not a sequence"):
        choose([sagittal, series("t1 sag")], ("T1", "ADC"))


def test_what_the_caller_chose_for_one_input_is_not_taken_for_another():
    study = [series("t2 flair like"), series("t2 a")]
    uid = str(study[1][0].SeriesInstanceUID)
    with pytest.raises(errors.MissingSequence, match="is a T2"):
        choose(study, ("T1", "T2"), {"T1": uid})
    with pytest.raises(errors.SeriesNotFound):
        choose(study, ("T1", "T2"), {"T1": "9.9"})


def test_the_share_covered_is_that_of_the_boxes():
    cube = hd.Volume(np.zeros((20, 20, 20), np.float32), np.eye(4), "PATIENT")
    half = np.eye(4)
    half[0, 3] = 10.0
    fine = np.diag([0.5, 0.5, 0.5, 1.0])
    fine[:3, 3] = -0.25
    assert covered(cube, hd.Volume(np.zeros((20, 20, 20), np.float32), half, "PATIENT")) == 0.5
    assert covered(cube, hd.Volume(np.zeros((40, 40, 40), np.float32), fine, "PATIENT")) == 1.0
