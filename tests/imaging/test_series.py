"""Which series of a study is taken, by names as scanners give them."""

from typing import Literal

import numpy as np
import pytest
from highdicom import Volume
from pydicom import Dataset

import errors
from imaging.series import HEAD_EXTENT_SCORE, TIE, UnreadSeries, choose, rank
from unetr.synthesis.phantom import SeriesOptions, to_instances

AFFINE = np.array([[0, 0, 8.0, -120], [0, 8.0, 0, -120], [1.2, 0, 0, -70], [0, 0, 0, 1]])


def series(
    description: str,
    contrast: bool = False,
    slices: int = 120,
    enhanced: Literal["shared", "per_frame"] | None = None,
    **attributes: object,
) -> list[Dataset]:
    """Headers of a series of small slices, 1.2 mm apart unless there are few."""
    affine = AFFINE.copy()
    affine[2, 0] *= 120 / slices
    image = np.arange(slices * 16, dtype=np.uint16).reshape(slices, 4, 4)
    instances = to_instances(
        Volume(image, affine, "PATIENT"),
        SeriesOptions(description=description, contrast=contrast, enhanced=enhanced),
    )
    for instance in instances:
        del instance.PixelData
        for keyword, value in attributes.items():
            setattr(instance, keyword, value)
    return instances


def refusal_of(instances: list[Dataset]) -> str | None:
    return rank([instances])[0].refused


def contrast_of(instances: list[Dataset]) -> str:
    """proven, denied or unknown, by what becomes of a study of this series alone."""
    try:
        chosen = choose(rank([instances]))
    except errors.ContrastAbsent:
        return "denied"
    return "unknown" if any("Nothing proves" in warning for warning in chosen.warnings) else "proven"


def usage_items(instances: list[Dataset]) -> list[Dataset]:
    """Of a shared group, the items that tell how each agent was used."""
    return list(instances[0].SharedFunctionalGroupsSequence[0].ContrastBolusUsageSequence)


# What each description says of contrast.
PROVEN = [
    "T1 MPRAGE post Gd", "t1_mprage_sag_p2_iso_KM", "AX T1 +C", "3D T1 BRAVO POST", "T1w_TFE_GADO",
    "t1_space_sag_ce", "Cor T1 FSPGR +GD", "sT1W_3D_TFE avec contraste", "t1_mpr_tra_iso mit KM", "Ax T1 C+",
    "T1ce", "T1+C", "FSPGR+C", "AX FSPGR 3D+C", "3D T1+Gd", "AX T1 + C FS", "T1 C+FS", "SAG T1 +CONTRAST",
    "T1+CE", "T1c", "T1C+", "T1 C", "T1Gd", "T1wCE", "T1_post", "T1post", "T1_PostGd", "CE-T1 MPRAGE",
    "ceT1w", "Gd-T1w", "GdT1", "T1 GD-DTPA", "T1 gad", "T1 Gadavist", "t1_vibe_Gadovist", "T1 DOTAREM",
    "T1 Clariscan", "T1 ProHance 15ml", "T1 gadolinium", "AX T1 POST CONTRAST", "T1 postcontrast",
    "T1 post-gad", "T1 POSTGD", "T1 PC", "AX T1 PC FS", "T1 W CONTRAST", "T1 W/ CONTRAST", "T1W/ CONTRAST",
    "T1 with contrast", "T1 W/C", "AX T1 W CONT", "T1 WITH", "T1 contrast enhanced", "T1 enhanced",
    "T1 TSE tra nach KM", "T1 nach Kontrastmittel", "t1_tse_tra_km", "T1 KM-Gabe", "T1 ohne FS mit KM",
    "T1 tra fs mit", "T1 SE inj", "T1 après injection", "T1 INJECTE", "T1 injecté", "3DT1 GADO SAG",
    "T1 avec", "T1 con contrasto", "T1 mdc", "pre-op T1 +C", "T1 MPRAGE post gad pre op",
    "T1 preop STEALTH post", "T1 POST preSRS +C", "post op T1 Gd", "T1 MPRAGE postop KM", "T1 w/o FS +C",
    "T1 without fat sat post", "T1 sans FS gado", "T1 post radial vibe", "T1 post opp", "T1 nach i.v. KM",
]  # fmt: skip
DENIED = [
    "T1 MPRAGE pre", "AX T1 PRE", "T1 PRE CONTRAST", "T1 precontrast", "T1 pre-Gd", "T1 preGd", "T1 pre KM",
    "T1 W O CONTRAST", "T1 W/O CONTRAST", "T1 WO CONTRAST", "T1W/O CONTRAST", "AX T1 W/O", "AX T1 WO",
    "T1 without", "T1 without contrast", "T1 without IV contrast", "T1 w/o Gd", "T1 w/o GAD FS",
    "T1 no contrast", "T1 no Gd", "T1 non contrast", "T1 non-contrast", "T1 noncontrast", "T1 NONCON",
    "T1 NON CON", "T1 WO CON", "T1 non-enhanced", "T1 unenhanced", "T1 UNENHANCED SAG", "T1 before contrast",
    "t1_mprage_nativ", "T1 NATIV tra", "T1 native", "T1 ohne KM", "T1 ohne Kontrastmittel", "T1 kein KM",
    "T1 tra ohne", "T1 vor KM", "T1 sans gado", "T1 SANS", "T1 sans injection", "T1 sans IV",
    "T1 sans produit de contraste", "T1 non inj", "T1 non injecté", "T1 avant injection", "T1 sin contraste",
    "T1 senza mdc", "T1 C-", "AX T1 (C-)", "T1 Gd-", "T1 v. KM", "T1 KM-frei",
]  # fmt: skip
UNKNOWN = [
    "T1 MPRAGE", "t1_mprage_sag_p2_iso", "SAG T1 FLAIR", "AX T1 W", "T1w SE", "3D T1 BRAVO", "T1 tra",
    "T1 cor", "MPRAGE post op", "T1 post-op", "T1 POSTOP", "T1 postoperativ", "T1 post RT", "T1 post SRS",
    "T1 post-surgery", "T1 post treatment", "T1 post biopsy", "T1 post opératoire", "T1 posterior fossa",
    "T1 post fossa", "T1 pre-op", "T1 PREOP", "T1 pre SRS planning", "T1 prä-OP", "T1 pre gamma knife",
    "T1 mit Fettsättigung", "T1 ohne FS", "T1 w/o FS", "T1 with fat sat", "T1 without fatsat",
    "T1 sans fat sat", "T1 W/WO", "T1 W AND W/O CONTRAST", "T1 W WO CONTRAST", "T1 with and without contrast",
    "T1 mit und ohne KM", "T1 ohne und mit KM", "T1 +/- C", "T1 +/-gado", "T1 pre/post", "T1 pre and post Gd",
    "T1 C-/C+", "T1 ± KM", "T1 phase contrast", "T1 MT contrast", "T1 head injury protocol", "T1 CORONAL",
    "T1 space", "T1 cérébral", "T1 crâne", "3D PC", "T1 vor und nach KM", "T1 avant et après injection",
    "T1 mit u. ohne KM", "T1 con saturación grasa",
]  # fmt: skip
NAMES = [
    *((name, "proven") for name in PROVEN),
    *((name, "denied") for name in DENIED),
    *((name, "unknown") for name in UNKNOWN),
]


@pytest.mark.parametrize(("description", "contrast"), NAMES)
def test_a_name_proves_or_denies_contrast_or_says_nothing_of_it(description, contrast):
    assert contrast_of(series(description, slices=12)) == contrast


@pytest.mark.parametrize(
    ("description", "refused"),
    [
        ("T2 FLAIR tra", "not_t1_weighted"), ("DWI b1000", "not_t1_weighted"), ("ADC", "not_t1_weighted"),
        ("SWI mIP", "not_t1_weighted"), ("TOF 3D", "not_t1_weighted"), ("ax T2 TSE", "not_t1_weighted"),
        ("localizer", "localizer_series"), ("3-plane loc", "localizer_series"),
        ("AAHead_Scout", "localizer_series"),
        ("AAHScout", "localizer_series"), ("gre_field_mapping", "not_t1_weighted"),
        ("B0map", "not_t1_weighted"), ("T1 VIBE +C MIP", "not_t1_weighted"),
        ("T1 perf +C", "not_t1_weighted"), ("T1 csi +C", "not_t1_weighted"),
        ("T1 3D zonder contrast", "contrast_absent"),
        ("T1 SUB post-pre", "derived_series"), ("T1 post MPR cor", "derived_series"),
        ("T1 MPRAGE pre", "contrast_absent"), ("T1 C-Spine post", "not_head"),
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


@pytest.mark.parametrize("enhanced", ["shared", "per_frame"])
def test_an_enhanced_image_proves_contrast_by_its_agent_and_its_usage(enhanced):
    candidate = choose(rank([series("T1 MPRAGE sag", contrast=True, enhanced=enhanced)]))
    assert candidate.warnings == ()
    assert "ContrastBolusAgentAdministered (0018,9342) is YES" in candidate.reasons
    assert contrast_of(series("T1 MPRAGE sag", enhanced=enhanced)) == "unknown"


def test_an_agent_without_usage_is_proof_in_an_enhanced_and_in_a_classic_image():
    enhanced = series("T1 MPRAGE sag", contrast=True, enhanced="shared")
    del enhanced[0].SharedFunctionalGroupsSequence[0].ContrastBolusUsageSequence
    assert contrast_of(enhanced) == "proven"
    assert "ContrastBolusAgentSequence (0018,0012) names an agent" in rank([enhanced])[0].reasons
    agents = list(enhanced[0].ContrastBolusAgentSequence)
    assert contrast_of(series("T1 MPRAGE sag", ContrastBolusAgentSequence=agents)) == "proven"
    assert contrast_of(series("T1 MPRAGE sag", ContrastBolusAgentSequence=[])) == "unknown"
    assert contrast_of(series("T1 MPRAGE sag", ContrastBolusAgentSequence=[Dataset()])) == "unknown"


def test_an_agent_not_yet_administered_is_no_proof():
    planned = series("T1 MPRAGE sag", contrast=True, enhanced="shared")
    usage_items(planned)[0].ContrastBolusAgentAdministered = "NO"
    assert contrast_of(planned) == "unknown"
    planned[0].SeriesDescription = "T1 MPRAGE post Gd"
    assert contrast_of(planned) == "proven"

    before = series("T1 MPRAGE sag", contrast=True, enhanced="shared")
    usage_items(before)[0].ContrastBolusAgentPhase = "PRE_CONTRAST"
    assert contrast_of(before) == "unknown"

    second = series("T1 MPRAGE sag", contrast=True, enhanced="shared")
    agent = Dataset()
    agent.ContrastBolusAgentNumber, agent.ContrastBolusAgentAdministered = 2, "NO"
    second[0].SharedFunctionalGroupsSequence[0].ContrastBolusUsageSequence = [*usage_items(second), agent]
    assert contrast_of(second) == "proven"


def test_frames_from_before_the_agent_are_no_proof():
    begun = series("T1 MPRAGE sag", contrast=True, enhanced="shared")
    usage = Dataset()
    usage.ContrastBolusAgentNumber, usage.ContrastBolusAgentAdministered = 1, "NO"
    begun[0].PerFrameFunctionalGroupsSequence[5].ContrastBolusUsageSequence = [usage]
    assert contrast_of(begun) == "unknown"


@pytest.mark.parametrize(
    ("agent", "contrast"),
    [
        ("Gadobutrol", "proven"), ("8 ml Gadovist", "proven"), ("YES", "proven"), ("NONE", "denied"),
        ("No", "denied"), ("no contrast", "denied"), ("ohne", "denied"), ("", "unknown"), ("n/a", "unknown"),
        ("GADOLINIUM 0.1 mmol/kg", "proven"), ("gadopentetate dimeglumine", "proven"),
        ("8mlGadoxyz", "proven"), ("IV contrast", "proven"), ("KM", "proven"), ("Y", "proven"),
        ("NOT GIVEN", "denied"), ("Not administered", "denied"), ("None given", "denied"), ("N", "denied"),
        ("(none)", "denied"), ("none.", "denied"), ("refused", "denied"), ("No agent", "denied"),
        ("nicht gegeben", "denied"), ("no Gadovist", "denied"), ("Gadovist (not given)", "denied"),
        ("Gadovist 0ml", "denied"), ("PRE", "denied"), ("0", "denied"), ("0 ml", "denied"),
        ("null", "unknown"), ("saline", "unknown"), ("?", "unknown"), ("test", "unknown"),
        ("10 ml", "unknown"), ("not specified", "unknown"),
    ],
)  # fmt: skip
def test_the_agent_of_a_classic_image_proves_or_denies_contrast(agent, contrast):
    assert contrast_of(series("T1 MPRAGE", slices=12, ContrastBolusAgent=agent)) == contrast


@pytest.mark.parametrize("keyword", ["ContrastBolusVolume", "ContrastBolusTotalDose"])
def test_an_agent_of_which_nothing_was_given_is_no_proof(keyword):
    described = series("T1 MPRAGE", slices=12, ContrastBolusAgent="Gadovist", **{keyword: "0.0"})
    assert contrast_of(described) == "unknown"
    assert keyword in str(rank([described])[0].warnings)
    images = series("T1 MPRAGE", slices=12, ContrastBolusAgent="Gadovist", **{keyword: "0.1"})
    assert contrast_of(images) == "proven"


def test_a_series_that_says_pre_is_refused_although_an_agent_is_named():
    pre = series("T1 MPRAGE pre", contrast=True)
    assert contrast_of(pre) == "denied"
    assert choose(rank([pre, series("t1_tse_tra_post", slices=28)])).description == "t1_tse_tra_post"


def test_the_protocol_name_may_deny_contrast_but_proves_it_only_where_there_is_no_description():
    assert contrast_of(series("SAG T1", ProtocolName="BRAIN W CONTRAST")) == "unknown"
    assert contrast_of(series("SAG T1", ProtocolName="BRAIN W WO CONTRAST")) == "unknown"
    assert contrast_of(series("SAG T1", ProtocolName="Kopf nativ")) == "denied"
    assert contrast_of(series("SAG T1 +C", ProtocolName="Kopf nativ")) == "proven"
    assert contrast_of(series("", ProtocolName="t1_mprage_km")) == "proven"


def test_proven_contrast_outranks_every_series_without_proof():
    volume, proven = series("t1_mprage_sag"), series("t1_tse_tra_km", slices=28, MRAcquisitionType="2D")
    ranked = rank([volume, proven])
    assert [candidate.description for candidate in ranked] == ["t1_tse_tra_km", "t1_mprage_sag"]
    assert ranked[0].score > ranked[1].score
    assert choose(ranked).description == "t1_tse_tra_km"
    # The least that a series with proof can have against the most that one without can.
    least = rank([series("brain km", slices=12, MRAcquisitionType="2D")])[0].score - HEAD_EXTENT_SCORE
    assert least - rank([volume])[0].score > TIE


def test_several_t1_series_without_proof_are_refused_and_listed_whatever_their_scores():
    study = [series("t1_mprage_sag"), series("t1_tse_tra", slices=28), series("T2 tra")]
    ranked = rank(study)
    assert ranked[0].score - ranked[1].score > 1
    with pytest.raises(errors.AmbiguousSeries, match=r"proven.*t1_mprage_sag.*t1_tse_tra") as refusal:
        choose(ranked)
    assert all(str(instances[0].SeriesInstanceUID) in refusal.value.message for instances in study[:2])
    assert len(refusal.value.details["candidates"]) == 3
    chosen = choose(ranked, str(study[0][0].SeriesInstanceUID))
    assert "Nothing proves" in chosen.warnings[0]


def test_a_tie_is_refused_and_lists_the_candidates():
    tied = [series("T1 MPRAGE post", contrast=True), series("T1 MPRAGE post", contrast=True)]
    with pytest.raises(errors.AmbiguousSeries) as refusal:
        choose(rank(tied))
    uids = {str(instances[0].SeriesInstanceUID) for instances in tied}
    assert {c["series_instance_uid"] for c in refusal.value.details["candidates"]} == uids
    # A job's error has no details: the message must say what a request may name.
    assert all(uid in refusal.value.message for uid in uids)


@pytest.mark.parametrize(("slices", "tied"), [(65, True), (63, False)])
def test_scores_that_differ_by_less_than_a_quarter_are_a_tie(slices, tied):
    """A millimetre between slices is a point: 2.00 mm against 2.22 mm, and against 2.29 mm."""
    thin, thick = series("T1 post", True, 72), series("T1 post", True, slices)
    if tied:
        with pytest.raises(errors.AmbiguousSeries):
            choose(rank([thin, thick]))
    else:
        assert choose(rank([thin, thick])).series_instance_uid == thin[0].SeriesInstanceUID


def test_a_volume_that_covers_110_mm_may_be_a_whole_head():
    instances = series("T1 post", contrast=True)
    assert "covers 110 mm" in rank([instances[:92]])[0].reasons
    assert not any("covers" in reason for reason in rank([instances[:91]])[0].reasons)
    two_mm_apart = series("T1 post", contrast=True, slices=72)
    assert "covers 110 mm" in rank([two_mm_apart[:55]])[0].reasons
    assert not any("covers" in reason for reason in rank([two_mm_apart[:54]])[0].reasons)


def test_slices_of_3_5_mm_and_more_are_all_thick():
    scores = [rank([series("T1 post", True, slices)])[0].score for slices in (28, 41, 42)]
    assert scores[0] == scores[1] < scores[2]


@pytest.mark.parametrize(
    ("description", "agent", "slices", "dimensions", "score"),
    [
        # A volume of 144 mm in slices up to 1.5 mm is worth 2 + 1 points, its acquisition in 3D half a point.
        ("T1 MPRAGE", False, 120, "3D", 2 + 3.5),
        ("T1 MPRAGE", False, 120, "2D", 2 + 3),
        # Contrast: 8 points by an agent, 7 by the description alone, half a point more by both.
        ("SAG 3D", True, 120, "3D", 8 + 3.5),
        ("SAG T1", True, 120, "3D", 8 + 2 + 3.5),
        ("T1 MPRAGE +C", False, 120, "3D", 7 + 2 + 3.5),
        ("T1 MPRAGE +C", True, 120, "3D", 8 + 0.5 + 2 + 3.5),
        # Slices of 1.5 mm, just above, 2, 3 and 3.6 mm.
        ("T1 MPRAGE", False, 96, "3D", 2 + 3.5),
        ("T1 MPRAGE", False, 95, "3D", 2 + 3.48),
        ("T1 MPRAGE", False, 72, "3D", 2 + 3),
        ("T1 MPRAGE", False, 48, "3D", 2 + 2),
        ("T1 MPRAGE", False, 40, "3D", 2 + 1.5),
        # Refused: no points at all.
        ("T2 tra", True, 120, "3D", 0),
        ("T1 MPRAGE +C", True, 4, "3D", 0),
    ],
)
def test_the_score_is_the_sum_of_the_evidence(description, agent, slices, dimensions, score):
    (candidate,) = rank([series(description, agent, slices, MRAcquisitionType=dimensions)])
    assert candidate.score == score


def test_the_reasons_name_each_piece_of_evidence_with_contrast_first():
    (full,) = rank([series("T1 MPRAGE +C", contrast=True)])
    assert full.reasons == (
        "ContrastBolusAgent (0018,0010) names an agent", "the description says '+c'",
        "the description says 't1'", "120 slices, 1.2 mm apart", "acquired in 3D", "covers 144 mm",
    )  # fmt: skip
    (thick,) = rank([series("T1 MPRAGE", slices=40, MRAcquisitionType="2D")])
    assert thick.reasons == ("the description says 't1'", "40 slices, 3.6 mm apart", "covers 144 mm")


def unread(
    instances: list[Dataset], error: type[errors.MetScopeError] = errors.ArchiveRefused
) -> list[Dataset]:
    """The series, as an archive lists it that does not serve its headers."""
    return UnreadSeries(instances[0], error("The archive answers 500."))


def test_a_series_that_the_archive_does_not_serve_is_refused_for_the_archive_s_reason():
    for error, code in (
        (errors.ArchiveRefused, "archive_refused"), (errors.ArchiveIncomplete, "archive_incomplete")
    ):  # fmt: skip
        instances = series("T1 MPRAGE post", contrast=True)
        ranked = rank([unread(instances, error)])
        assert (ranked[0].refused, ranked[0].message) == (code, "The archive answers 500.")
        assert not ranked[0].selectable
        with pytest.raises(error, match="The archive answers 500"):
            choose(ranked, ranked[0].series_instance_uid)


@pytest.mark.parametrize(
    ("description", "attributes", "served", "sentence"),
    [
        ("T1 tra", {}, False, "Another series was not considered (T1 tra, "),
        ("STEALTH 3D", {"EchoTime": None}, False, "Another series was not considered (STEALTH 3D, "),
        ("STEALTH 3D", {"EchoTime": None}, True, "Another series was not considered (STEALTH 3D, "),
        ("", {"EchoTime": None}, True, "Another series was not considered (no description, "),
        ("T2 FLAIR", {"contrast": True}, True, "Another series is post-contrast (T2 FLAIR, "),
        ("T2 tra", {}, False, None),
        ("T2 tra", {}, True, None),
        ("T1 tra", {"slices": 4}, True, None),
    ],
)
def test_a_t1_without_proof_is_chosen_with_a_warning_of_each_series_that_may_be_the_right_one(
    description, attributes, served, sentence
):
    other_series = series(description, **{"slices": 12} | attributes)
    chosen = choose(rank([series("T1 MPRAGE", slices=12), other_series if served else unread(other_series)]))
    assert chosen.description == "T1 MPRAGE"
    about_the_other = [
        warning.partition(other_series[0].SeriesInstanceUID)[0] for warning in chosen.warnings[1:]
    ]
    assert about_the_other == ([sentence] if sentence else [])


def test_a_proven_series_that_the_archive_does_not_serve_is_not_passed_over_silently():
    proven = series("T1 MPRAGE post", contrast=True)
    with pytest.raises(errors.NoCandidateSeries, match="but is refused: The archive answers 500"):
        choose(rank([series("T1 MPRAGE"), unread(proven)]))


@pytest.mark.parametrize(
    ("description", "attributes", "selectable"),
    [
        ("T1 MPRAGE", {}, True), ("T2 tra", {}, True), ("T1 pre", {}, True), ("localizer", {}, True),
        ("T1 neck", {}, True), ("T1 mpr cor", {}, True), ("T1 MPRAGE", {"Modality": "CT"}, False),
        ("T1 MPRAGE", {"slices": 4}, False),
    ],
)  # fmt: skip
def test_a_request_may_name_any_mr_that_is_a_stack(description, attributes, selectable):
    (candidate,) = rank([series(description, **{"slices": 12} | attributes)])
    assert candidate.selectable is selectable


@pytest.mark.parametrize(
    ("description", "attributes", "message"),
    [
        ("SAG 3D", {"EchoTime": None}, "Nothing proves that the series is T1-weighted (SAG 3D)."),
        ("", {"EchoTime": None}, "Nothing proves that the series is T1-weighted (no description)."),
        ("T2 tra", {}, "The series is a T2 (T2 tra)."),
        ("T1 post", {"BodyPartExamined": "ABDOMEN"}, "The series shows abdomen, not the head."),
        ("T1 C-Spine", {"BodyPartExamined": "HEAD"}, "The series shows T1 C-Spine, not the head."),
        ("T1 C-Spine", {"BodyPartExamined": None}, "The series shows T1 C-Spine, not the head."),
        ("SAG T1", {"ProtocolName": "C-Spine"}, "The series shows C-Spine, not the head."),
    ],
)
def test_a_refusal_says_what_the_series_is(description, attributes, message):
    (candidate,) = rank([series(description, slices=12, **attributes)])
    assert candidate.message == message


def test_a_study_without_candidates_names_three_refusals_the_most_likely_series_first():
    study = [
        series("report", slices=5, Modality="SR"), series("T2 tra", slices=12),
        series("T1 MPRAGE", slices=4), series("localizer", slices=12),
    ]  # fmt: skip
    with pytest.raises(errors.NoCandidateSeries) as refusal:
        choose(rank(study))
    places = [refusal.value.problem.find(name) for name in ("T1 MPRAGE:", "T2 tra:", "localizer:", "report:")]
    assert 0 < places[0] < min(places[1:3])
    assert places[3] == -1
    assert refusal.value.problem.endswith(" ...")
    with pytest.raises(errors.NoCandidateSeries) as refusal:
        choose(rank(study[:3]))
    assert "report:" in refusal.value.problem
    assert not refusal.value.problem.endswith("...")


def test_only_pre_contrast_is_refused_as_such_and_nothing_suitable_as_that():
    with pytest.raises(errors.ContrastAbsent):
        choose(rank([series("T1 pre"), series("T2")]))
    with pytest.raises(errors.NoCandidateSeries):
        choose(rank([series("T2"), series("FLAIR")]))


def test_a_candidate_that_the_caller_chooses_is_taken_as_it_is():
    ranked = rank([series("T1 post", contrast=True, slices=12), series("T1 MPRAGE", slices=12)])
    for candidate in ranked:
        assert choose(ranked, candidate.series_instance_uid) == candidate
    assert ranked[0].warnings == ()


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


@pytest.mark.parametrize(
    ("description", "slices", "refused"),
    [
        ("T1 mpr cor", 12, "derived_series"), ("T2 tra", 12, "not_t1_weighted"),
        ("T1 localizer", 12, "localizer_series"), ("T1 neck", 12, "not_head"),
        ("T1 tra", 4, "too_few_slices"),
    ],
)  # fmt: skip
def test_the_callers_choice_keeps_the_warning_that_contrast_is_unproven(description, slices, refused):
    ranked = rank([series(description, slices=slices)])
    assert ranked[0].refused == refused
    chosen = choose(ranked, ranked[0].series_instance_uid)
    assert "Nothing proves that the series is post-contrast" in chosen.warnings[0]
    assert chosen.warnings[1].startswith("Chosen by the user despite this problem: ")


def test_the_callers_choice_says_once_that_a_series_denies_contrast_and_warns_of_no_proven_one():
    pre, derived, proven = series("T1 pre"), series("T1 pre mpr cor"), series("T1 mpr post cor")
    ranked = rank([pre, derived, proven])
    says_so = "According to its headers, the series was acquired without contrast"
    of_pre, of_derived, of_proven = (
        choose(ranked, str(instances[0].SeriesInstanceUID)).warnings for instances in (pre, derived, proven)
    )
    assert [says_so in warning for warning in of_pre] == [True]
    assert [says_so in warning for warning in of_derived] == [True, False]
    assert [warning.split(":")[0] for warning in of_proven] == ["Chosen by the user despite this problem"]


JUDGED_ALIKE = [
    ("T1 VIBE +C MIP", {}), ("T1 perf +C", {}), ("T1 csi +C", {}), ("T1 MAP", {}), ("T2 MAP", {}),
    ("3D post Gd", {"EchoTime": 4, "RepetitionTime": 2300, "InversionTime": 1350}),
    ("3D", {"EchoTime": 4, "RepetitionTime": 2300, "InversionTime": 1350}), ("SAG 3D", {}),
    ("T1 MPRAGE +C", {}), ("T2 FLAIR +C", {}), ("t1_mp2rage_INV1", {}), ("T1 phase", {}), ("ax T2 EG", {}),
    ("gre_field_mapping", {}),
]  # fmt: skip


@pytest.mark.parametrize(("description", "attributes"), JUDGED_ALIKE)
def test_what_is_taken_for_segmentation_is_a_t1_and_every_t1_can_be_taken(description, attributes):
    (candidate,) = rank([series(description, slices=12, **attributes)])
    assert (candidate.refused is None) == (candidate.sequence in ("T1", "T1 post-contrast"))


def test_an_mprage_with_a_long_inversion_time_is_a_t1():
    instances = series("3D post Gd", slices=12, EchoTime=4, RepetitionTime=2300, InversionTime=1350)
    assert choose(rank([instances])).sequence == "T1 post-contrast"


def enhanced_series(description: str, acquisition: str | None = None, **options: object) -> list[Dataset]:
    """An enhanced series that has its times in functional groups alone. acquisition: AcquisitionContrast."""
    instances = series(description, enhanced="shared", **options)
    frame_type = instances[0].SharedFunctionalGroupsSequence[0].MRImageFrameTypeSequence[0]
    del instances[0].AcquisitionContrast, frame_type.AcquisitionContrast
    if acquisition:
        frame_type.AcquisitionContrast = acquisition
    return instances


@pytest.mark.parametrize("acquisition", [None, "T1"])
def test_the_enhanced_series_with_the_agent_is_taken_whatever_it_is_called(acquisition):
    pre = enhanced_series("Sag T1 MPRAGE", acquisition)
    post = enhanced_series("STEALTH 3D +C", acquisition, contrast=True)
    chosen = choose(rank([pre, post]))
    assert chosen.series_instance_uid == post[0].SeriesInstanceUID
    assert (chosen.sequence, chosen.warnings) == ("T1 post-contrast", ())


def test_times_in_functional_groups_tell_t2_and_flair_too():
    for echo_ms, inversion_ms, sequence in ((96.0, 0.0, "T2"), (380.0, 1800.0, "FLAIR")):
        instances = enhanced_series("Brain iso")
        groups = instances[0].SharedFunctionalGroupsSequence[0]
        groups.MREchoSequence[0].EffectiveEchoTime = echo_ms
        groups.MRTimingAndRelatedParametersSequence[0].RepetitionTime = "4800"
        groups.MRModifierSequence[0].InversionTimes = inversion_ms
        assert rank([instances])[0].sequence == sequence


def test_a_proven_series_of_which_nothing_tells_the_weighting_is_not_passed_over_silently():
    pre = enhanced_series("Sag T1 MPRAGE")
    post = enhanced_series("STEALTH 3D +C", contrast=True)
    del post[0].SharedFunctionalGroupsSequence[0].MREchoSequence
    with pytest.raises(
        errors.NoCandidateSeries, match=f"{post[0].SeriesInstanceUID} is proven to be post-con"
    ):
        choose(rank([pre, post]))
    assert choose(rank([pre, post]), str(pre[0].SeriesInstanceUID)).description == "Sag T1 MPRAGE"


def test_a_t1_of_unknown_contrast_beside_a_post_contrast_flair_says_so():
    chosen = choose(rank([series("T1 MPRAGE"), series("T2 FLAIR", contrast=True)]))
    assert chosen.description == "T1 MPRAGE"
    assert any("Another series is post-contrast (T2 FLAIR" in warning for warning in chosen.warnings)


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImageType": ["DERIVED", "PRIMARY", "M", "ND"]},
        {"ImageType": ["DERIVED", "SECONDARY"], "PatientIdentityRemoved": "YES"},
        {"ImageType": ["DERIVED", "SECONDARY", "OTHER"], "DeidentificationMethod": "defaced"},
        {"ImageType": ["DERIVED", "SECONDARY"], "LossyImageCompression": "01"},
    ],
)
def test_derived_by_an_anonymisers_word_alone_is_a_warning(attributes):
    chosen = choose(rank([series("T1 MPRAGE post", contrast=True, **attributes)]))
    assert ["ImageType (0008,0008) says DERIVED" in warning for warning in chosen.warnings] == [True]


@pytest.mark.parametrize(
    "attributes",
    [
        {"ImageType": ["DERIVED", "SECONDARY"]},
        {"ImageType": ["DERIVED", "PRIMARY", "MPR", "NORM"]},
        {"ImageType": ["DERIVED", "PRIMARY", "M", "SUB"], "PatientIdentityRemoved": "YES"},
        {"ImageType": ["DERIVED", "PRIMARY"], "DerivationDescription": "resampled"},
        {"ImageType": ["DERIVED", "SECONDARY"], "PatientIdentityRemoved": "YES", "EchoTime": None},
    ],
)
def test_an_image_that_was_computed_stays_refused(attributes):
    assert refusal_of(series("T1 MPRAGE post", contrast=True, **attributes)) == "derived_series"


def test_the_reason_of_the_only_mr_is_named_beside_segs_and_reports():
    others = [
        series(f"MetScope {modality}", slices=5, Modality=modality) for modality in ("SEG", "SR", "SR", "SEG")
    ]
    with pytest.raises(errors.NoCandidateSeries, match="T2 tra: The series is a T2") as refusal:
        choose(rank([*others, series("T2 tra")]))
    assert refusal.value.problem.index("T2 tra") < refusal.value.problem.index("MetScope")


def test_words_that_are_not_understood_are_named():
    chosen = choose(rank([series("T1 qwertz Gd")]))
    assert "qwertz" in chosen.warnings[0]
