"""Which series of a study is taken, by names as scanners give them."""

import numpy as np
import pytest
from highdicom import Volume
from pydicom import Dataset

import errors
from imaging.series import choose, rank
from unetr.phantom import SeriesOptions, to_instances

AFFINE = np.array([[0, 0, 8.0, -120], [0, 8.0, 0, -120], [1.2, 0, 0, -70], [0, 0, 0, 1]])


def series(
    description: str, contrast: bool = False, slices: int = 120, **attributes: object
) -> list[Dataset]:
    """Headers of a series of small slices, 1.2 mm apart unless there are few."""
    affine = AFFINE.copy()
    affine[2, 0] *= 120 / slices
    image = np.arange(slices * 16, dtype=np.uint16).reshape(slices, 4, 4)
    instances = to_instances(
        Volume(image, affine, "PATIENT"), SeriesOptions(description=description, contrast=contrast)
    )
    for instance in instances:
        del instance.PixelData
        for keyword, value in attributes.items():
            setattr(instance, keyword, value)
    return instances


def refusal_of(instances: list[Dataset]) -> str | None:
    return rank([instances])[0].refused


@pytest.mark.parametrize(
    "description",
    [
        "T1 MPRAGE post Gd", "t1_mprage_sag_p2_iso_KM", "AX T1 +C", "3D T1 BRAVO POST", "T1w_TFE_GADO",
        "t1_space_sag_ce",
        "Cor T1 FSPGR +GD", "sT1W_3D_TFE avec contraste", "t1_mpr_tra_iso mit KM", "Ax T1 C+", "T1ce",
    ],
)  # fmt: skip
def test_post_contrast_names_are_taken_without_a_warning(description):
    candidate = choose(rank([series(description)]))
    assert candidate.warnings == ()
    assert candidate.reasons


@pytest.mark.parametrize(
    ("description", "refused"),
    [
        ("T2 FLAIR tra", "not_t1_weighted"), ("DWI b1000", "not_t1_weighted"), ("ADC", "not_t1_weighted"),
        ("SWI mIP", "not_t1_weighted"), ("TOF 3D", "not_t1_weighted"), ("ax T2 TSE", "not_t1_weighted"),
        ("localizer", "localizer_series"), ("3-plane loc", "localizer_series"),
        ("AAHead_Scout", "localizer_series"),
        ("T1 SUB post-pre", "derived_series"), ("T1 post MPR cor", "derived_series"),
        ("T1 MPRAGE pre", "contrast_absent"), ("T1 without contrast", "contrast_absent"),
        ("T1 ohne KM", "contrast_absent"), ("T1 sans gado", "contrast_absent"),
        ("T1 nativ", "contrast_absent"),
        ("AX T1 W/O", "contrast_absent"),
        ("T1 C-Spine post", "not_head"),
    ],
)  # fmt: skip
def test_other_names_are_refused_by_kind(description, refused):
    assert refusal_of(series(description)) == refused


def test_other_modalities_localizers_derived_images_and_bodies_are_refused_by_their_tags():
    assert refusal_of(series("T1 post", Modality="CT")) == "unsupported_modality"
    assert refusal_of(series("T1 post", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])) == "localizer_series"
    assert refusal_of(series("T1 post", ImageType=["DERIVED", "SECONDARY", "MPR"])) == "derived_series"
    assert refusal_of(series("T1 post", BodyPartExamined="ABDOMEN")) == "not_head"
    assert refusal_of(series("T1 post", contrast=True, BodyPartExamined="HEAD")) is None


def test_the_thin_post_contrast_volume_wins_over_the_rest_of_a_study():
    study = [
        series("localizer", slices=9),
        series("T1 MPRAGE pre"),
        series("T1 tse tra post", contrast=True, slices=24),
        series("T2 FLAIR"),
        series("T1 MPRAGE post", contrast=True),
    ]
    ranked = rank(study)
    assert choose(ranked).description == "T1 MPRAGE post"
    assert [candidate.description for candidate in ranked][1] == "T1 tse tra post"
    assert {candidate.refused for candidate in ranked[2:]} == {
        "localizer_series", "contrast_absent", "not_t1_weighted"
    }  # fmt: skip


def test_a_single_t1_of_unknown_contrast_runs_with_a_warning():
    candidate = choose(rank([series("T1 MPRAGE sag"), series("T2 tra")]))
    assert candidate.description == "T1 MPRAGE sag"
    assert "(0018,0010)" in candidate.warnings[0]


def test_a_tie_is_refused_and_lists_the_candidates():
    tied = [series("T1 MPRAGE post", contrast=True), series("T1 MPRAGE post", contrast=True)]
    with pytest.raises(errors.AmbiguousSeries) as refusal:
        choose(rank(tied))
    assert {c["series_instance_uid"] for c in refusal.value.details["candidates"]} == {
        str(instances[0].SeriesInstanceUID) for instances in tied
    }


def test_only_pre_contrast_is_refused_as_such_and_nothing_suitable_as_that():
    with pytest.raises(errors.ContrastAbsent):
        choose(rank([series("T1 pre"), series("T2")]))
    with pytest.raises(errors.NoCandidateSeries):
        choose(rank([series("T2"), series("FLAIR")]))


def test_the_callers_choice_overrules_the_ranking_but_not_the_modality():
    pre, ct = series("T1 pre"), series("T1 post", Modality="CT")
    ranked = rank([pre, ct, series("T1 post", contrast=True)])
    chosen = choose(ranked, str(pre[0].SeriesInstanceUID))
    assert (chosen.description, chosen.refused) == ("T1 pre", None)
    assert "without contrast" in chosen.warnings[-1]
    with pytest.raises(errors.UnsupportedModality):
        choose(ranked, str(ct[0].SeriesInstanceUID))
    with pytest.raises(errors.SeriesNotFound):
        choose(ranked, "1.2.3")
