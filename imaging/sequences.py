"""Which of the usual brain sequences a series is: T1, T1 post-contrast, T2 or FLAIR."""

import re
from collections.abc import Sequence

from pydicom import Dataset

from imaging.contrast import contrast_findings, verdict
from imaging.frames import image_type, is_multi_frame, numbers, text

T1, T1_POST_CONTRAST, T2, FLAIR = "T1", "T1 post-contrast", "T2", "FLAIR"
SEQUENCES = (T1, T1_POST_CONTRAST, T2, FLAIR)

# Words of descriptions, matched whole, in lower case and with blanks for separators. Looked for in this
# order: GE's "T1 FLAIR" is a T1, "T2 FLAIR" a FLAIR, "ciss" a T2-like image that no model means by T2.
OTHER_WORDS = (
    r"localizer|localiser|loc|scout|survey|topogramm?|reperage|dwi|dti|adc|diff\w*|trace\w*|"
    r"ep2d\w*|epi|b\d{3,4}|swi|swan|t2\s?\*|t2s|t2star|hemo|haemo|tof|angio\w*|mra|mrv|venography|mip|minip|"
    r"perf\w*|dsc|dce|asl|cbf|cbv|bold|fmri|spectro\w*|svs|csi|pd|proton|ciss|fiesta|"
    r"field\s?map|phase|sub|subtr\w*"
)
T1_WORDS = r"s?t1\w*|\w*mp\s?2?rage\w*|bravo|f?spgr|vibe|tfl|tfe|fl3d|lava"
FLAIR_WORDS = r"\w*flair\w*|tirm|\w*dark\s?fl(?:uid)?\w*|t2f"
T2_WORDS = r"s?t2\w*|haste"

# Of Enhanced MR images: (0008,9209), PS3.3 C.8.13.3.1.1.
BY_ACQUISITION_CONTRAST = {"T1": T1, "T2": T2, "FLUID_ATTENUATED": FLAIR}
SAYS_NOTHING = ("", "UNKNOWN", "MIXED")

# ms. Brain protocols keep away from these limits on both sides: a T1 spin echo has echoes of 8 to 25, a T1
# gradient echo of 2 to 5, a T2* one of 15 to 40, a T2 or FLAIR of 70 to 400 (3D); fluid is nulled at an
# inversion time of 1500 to 3000, an MPRAGE has 700 to 1300.
SHORT_ECHO = 30.0
SHORT_GRADIENT_ECHO = 10.0
LONG_ECHO = 60.0
SHORT_REPETITION = 1000.0
LONG_REPETITION = 2000.0
FLUID_NULLED = 1400.0


def sequence_of(headers: Sequence[Dataset]) -> str | None:
    """One of SEQUENCES by the headers of a series; None where it is another one, or nothing tells.

    What the series is called counts first, and its protocol, as whoever named them knew; then an Enhanced
    image's AcquisitionContrast; then echo, repetition and inversion time. A T1 is post-contrast only where
    that is proven (``imaging.contrast``). Localizers, derived images and other modalities are None.
    """
    first = headers[0]
    kind = image_type(first)
    derived = kind[0] == "DERIVED" and not is_multi_frame(first)
    if text(first, "Modality") != "MR" or derived or "LOCALIZER" in kind:
        return None
    sources = (
        _by_name(text(first, "SeriesDescription")),
        _by_name(text(first, "ProtocolName")),
        _by_acquisition_contrast(first),
        _by_times(first),
    )
    named = next((source for source in sources if source != ""), None)
    if named == T1 and verdict(first, contrast_findings(first))[0] == "proven":
        return T1_POST_CONTRAST
    return named


def _by_name(name: str) -> str | None:
    """A sequence; None for one that is none of SEQUENCES; "" where the name does not tell."""
    words = re.sub(r"[\s_.,:;()\[\]/\\+-]+", " ", name.lower()).strip()

    def says(pattern: str) -> bool:
        return re.search(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9*])", words) is not None

    if says(OTHER_WORDS):
        return None
    if says(T1_WORDS):
        return T1
    if says(FLAIR_WORDS):
        return FLAIR
    return T2 if says(T2_WORDS) else ""


def _by_acquisition_contrast(first: Dataset) -> str | None:
    """As ``_by_name``, by AcquisitionContrast."""
    contrast = text(first, "AcquisitionContrast").upper()
    return "" if contrast in SAYS_NOTHING else BY_ACQUISITION_CONTRAST.get(contrast)


def _by_times(first: Dataset) -> str:
    """As ``_by_name``, by echo, repetition and inversion time."""
    echo_ms, repetition_ms = numbers(first, "EchoTime"), numbers(first, "RepetitionTime")
    technique = text(first, "ScanningSequence").split("\\")
    if echo_ms is None or repetition_ms is None or "EP" in technique:
        return ""
    inversion_ms = numbers(first, "InversionTime")
    inverted_ms = 0.0 if inversion_ms is None else float(inversion_ms[0])
    if echo_ms[0] > LONG_ECHO and repetition_ms[0] > LONG_REPETITION:
        return FLAIR if inverted_ms > FLUID_NULLED else T2
    quick = repetition_ms[0] < SHORT_REPETITION or 0.0 < inverted_ms < FLUID_NULLED
    return T1 if quick and echo_ms[0] < (SHORT_GRADIENT_ECHO if "GR" in technique else SHORT_ECHO) else ""
