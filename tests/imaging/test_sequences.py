"""Which sequence a series is, by headers as scanners and radiographers write them."""

import pytest
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from imaging.sequences import FLAIR, T1, T1_POST_CONTRAST, T2, sequence_of

MPRAGE = {"ScanningSequence": ["GR", "IR"], "EchoTime": 2.98, "RepetitionTime": 2300, "InversionTime": 900}
SPIN_ECHO_T1 = {"ScanningSequence": "SE", "EchoTime": 9, "RepetitionTime": 550}
TURBO_T2 = {"ScanningSequence": "SE", "EchoTime": 96, "RepetitionTime": 4500}
FLAIR_3D = {"ScanningSequence": ["SE", "IR"], "EchoTime": 388, "RepetitionTime": 5000, "InversionTime": 1800}
EPI = {"ScanningSequence": "EP", "EchoTime": 80, "RepetitionTime": 5200}
T2_STAR = {"ScanningSequence": "GR", "EchoTime": 20, "RepetitionTime": 650}


def header(description: str, **attributes: object) -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.Modality = MRImageStorage, "MR"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
    ds.SeriesDescription = description
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize(
    ("description", "attributes", "sequence"),
    [
        ("t1_mprage_sag_p2_iso", MPRAGE, T1),
        ("t1_mprage_sag_p2_iso", MPRAGE | {"ContrastBolusAgent": "Gadovist"}, T1_POST_CONTRAST),
        ("T1 MPRAGE nach KM", MPRAGE, T1_POST_CONTRAST),
        ("t1_tse_tra_nativ", SPIN_ECHO_T1 | {"ContrastBolusAgent": "Dotarem"}, T1),
        ("AX T1 APRES INJECTION", SPIN_ECHO_T1, T1_POST_CONTRAST),
        ("3D T1 EG GADO", MPRAGE, T1_POST_CONTRAST),
        ("SAG T1 sans injection", SPIN_ECHO_T1, T1),
        ("T1 senza mdc", SPIN_ECHO_T1, T1),
        ("Ax T1 FSE con contraste", SPIN_ECHO_T1, T1_POST_CONTRAST),
        ("sT1W_3D_TFE", {"ScanningSequence": "GR", "EchoTime": 3.4, "RepetitionTime": 7.4}, T1),
        # GE's T1 FLAIR nulls no fluid worth the name; its T2 FLAIR does.
        ("Ax T1 FLAIR", {"EchoTime": 24, "RepetitionTime": 2100, "InversionTime": 860}, T1),
        ("Ax T2 FLAIR FS", {"EchoTime": 120, "RepetitionTime": 9000, "InversionTime": 2400}, FLAIR),
        ("t2_tirm_tra_dark-fluid", {"EchoTime": 86, "RepetitionTime": 8000, "InversionTime": 2370}, FLAIR),
        ("3D_Brain_VIEW_FLAIR", FLAIR_3D | {"ContrastBolusAgent": "Gadovist"}, FLAIR),
        ("t2_tse_tra_320", TURBO_T2, T2),
        ("T2w TSE transversal nach KM", TURBO_T2, T2),
        # Neither description nor protocol tells: the times do.
        ("SAG 3D", MPRAGE, T1),
        ("", SPIN_ECHO_T1 | {"ContrastBolusAgent": "Clariscan"}, T1_POST_CONTRAST),
        ("AX", TURBO_T2, T2),
        ("AX", FLAIR_3D, FLAIR),
        ("", MPRAGE | {"ProtocolName": "t2_tse_tra"}, T2),
        # What is none of the four.
        ("ep2d_diff_b1000_ADC", EPI, None),
        ("", EPI, None),
        ("T2* GRE", T2_STAR, None),
        ("", T2_STAR, None),
        ("SWI_Images", T2_STAR, None),
        ("TOF 3D multi-slab", {"EchoTime": 3.7, "RepetitionTime": 21}, None),
        ("PD_TSE", {"EchoTime": 15, "RepetitionTime": 3000}, None),
        ("AX", {"EchoTime": 15, "RepetitionTime": 3000}, None),
        ("AX", {}, None),
    ],
)
def test_a_series_is_what_its_name_or_its_times_say(description, attributes, sequence):
    assert sequence_of([header(description, **attributes)]) == sequence


@pytest.mark.parametrize(
    "attributes",
    [
        {"Modality": "CT"},
        {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        {"ImageType": ["DERIVED", "SECONDARY", "MPR"]},
    ],
)
def test_localizers_reformats_and_other_modalities_are_none(attributes):
    assert sequence_of([header("T1 MPRAGE", **attributes)]) is None


@pytest.mark.parametrize(
    ("contrast", "sequence"), [("T1", T1), ("T2", T2), ("FLUID_ATTENUATED", FLAIR), ("DIFFUSION", None)]
)
def test_an_enhanced_image_says_its_contrast_where_its_name_does_not(contrast, sequence):
    enhanced = header("Brain iso", SOPClassUID=EnhancedMRImageStorage, AcquisitionContrast=contrast)
    assert sequence_of([enhanced]) == sequence
    enhanced.SeriesDescription = "T2 FLAIR"
    assert sequence_of([enhanced]) == FLAIR
