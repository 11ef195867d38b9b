"""What kind of series a series is: T1, T1 post-contrast, T2, FLAIR, or none of them and why."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom import Dataset

import series_names
from errors import DerivedSeries, LocalizerSeries, MetScopeError, NotT1Weighted, UnsupportedModality
from imaging.contrast import Contrast, Finding, contrast_findings, verdict
from imaging.frames import first_group, image_type, is_multi_frame, items, numbers, tag_name, text

T1, T1_POST_CONTRAST, T2, FLAIR = "T1", "T1 post-contrast", "T2", "FLAIR"
SEQUENCES = (T1, T1_POST_CONTRAST, T2, FLAIR)

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

# Further values of ImageType that say what an image was computed by, as vendors write them.
COMPUTED = {
    "MPR", "MIP", "MINIP", "MAX IP", "MIN IP", "MAX_IP", "MIN_IP", "MNIP", "PROJECTION IMAGE", "REFORMATTED",
    "RESAMPLED", "SUB", "SUBTRACT", "SUBTRACTION", "ADD", "AVERAGE", "MEAN", "COMPOSED", "FUSED", "FILTERED",
    "ADC", "FA", "TRACEW", "MAP", "T1 MAP", "T2 MAP", "QUANTITATIVE", "SYNTHETIC", "SCREEN SAVE",
    "CSA 3D EDITOR", "CSA MPR", "CSAPARALLEL", "PROC", "REGISTERED", "MOCO",
}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What a series is.

    sequence: one of SEQUENCES; None where it is another one, or nothing tells. word: of its names, that says
    T1, T2 or FLAIR. refusal: why it is none of SEQUENCES; None also where nothing tells. contrast: with its
    findings, and doubt, the message to show unless contrast is proven. warnings: to be stored with a result.
    """

    sequence: str | None
    word: str
    refusal: MetScopeError | None
    contrast: Contrast
    doubt: str
    findings: Sequence[Finding]
    warnings: Sequence[str] = ()


def sequence_of(headers: Sequence[Dataset]) -> str | None:
    """Return one of SEQUENCES by the headers of a series; None where it is another one, or nothing tells."""
    return kind_of(headers[0]).sequence


def kind_of(first: Dataset) -> Kind:
    """Judge a series by one of its headers.

    Its description counts first, then its protocol's name, as whoever named them knew; then an Enhanced
    image's AcquisitionContrast; then echo, repetition and inversion time. A T1 is post-contrast only where
    that is proven. Localizers, computed images and other modalities are none of SEQUENCES.
    """
    findings = contrast_findings(first)
    contrast, doubt = verdict(first, findings)
    sequence, word = None, ""
    warnings: list[str] = []
    refusal = _refuse_by_tags(first)
    if refusal is None:
        sequence, word, refusal = _weighting(first)
    if refusal is None:
        refusal = _refuse_computed(first, warnings)
    if refusal is not None:
        sequence = None
    if sequence == T1 and contrast == "proven":
        sequence = T1_POST_CONTRAST
    return Kind(sequence, word, refusal, contrast, doubt, findings, warnings)


def _refuse_by_tags(first: Dataset) -> MetScopeError | None:
    modality = text(first, "Modality")
    if modality != "MR":
        return UnsupportedModality(f"{tag_name('Modality')} is {modality or 'missing'}, not MR.")
    if "LOCALIZER" in image_type(first):
        return LocalizerSeries(f"The series is a localizer ({_description(first)}).")
    return None


def _weighting(first: Dataset) -> tuple[str | None, str, MetScopeError | None]:
    """Return T1, T2 or FLAIR with the word that says so, or why it is another kind of image."""
    for keyword in ("SeriesDescription", "ProtocolName"):
        reading = series_names.read(text(first, keyword))
        if reading.other == "localizer":
            return None, "", LocalizerSeries(f"The series is a localizer ({_description(first)}).")
        if reading.other:
            return None, "", NotT1Weighted(f"The description says {reading.word!r} ({_description(first)}).")
        if reading.sequence:
            return reading.sequence, reading.word, None
    contrast = text(
        first_group(first, "MRImageFrameTypeSequence", "AcquisitionContrast"), "AcquisitionContrast"
    )
    if contrast.upper() not in SAYS_NOTHING:
        sequence = BY_ACQUISITION_CONTRAST.get(contrast.upper())
        other = NotT1Weighted(f"{tag_name('AcquisitionContrast')} is {contrast} ({_description(first)}).")
        return sequence, "", None if sequence else other
    return _by_times(first), "", None


def _by_times(first: Dataset) -> str | None:
    """Return T1, T2 or FLAIR by echo, repetition and inversion time, which enhanced images have in groups."""
    echo_ms = _milliseconds(first, "EchoTime", "MREchoSequence", "EffectiveEchoTime")
    repetition_ms = _milliseconds(
        first, "RepetitionTime", "MRTimingAndRelatedParametersSequence", "RepetitionTime"
    )
    technique = text(first, "ScanningSequence").split("\\")
    planar = "EP" in technique or text(first, "EchoPlanarPulseSequence") == "YES"
    if echo_ms is None or repetition_ms is None or planar:
        return None
    inverted_ms = _milliseconds(first, "InversionTime", "MRModifierSequence", "InversionTimes") or 0.0
    if echo_ms > LONG_ECHO and repetition_ms > LONG_REPETITION:
        return FLAIR if inverted_ms > FLUID_NULLED else T2
    gradient_echo = "GR" in technique or text(first, "EchoPulseSequence") == "GRADIENT"
    quick = repetition_ms < SHORT_REPETITION or 0.0 < inverted_ms < FLUID_NULLED
    return T1 if quick and echo_ms < (SHORT_GRADIENT_ECHO if gradient_echo else SHORT_ECHO) else None


def _milliseconds(first: Dataset, keyword: str, sequence: str, keyword_in_group: str) -> float | None:
    values = numbers(first_group(first, sequence, keyword_in_group), keyword_in_group)
    if values is None:
        values = numbers(first, keyword)
    return None if values is None else float(values[0])


def _refuse_computed(first: Dataset, warnings: list[str]) -> MetScopeError | None:
    """Return why the image was computed from others; add a warning where only its first word says so."""
    description = text(first, "SeriesDescription")
    derived = series_names.read(description).derived
    # Siemens' "t1_mpr" and "t1_mpr_sag" are its MPRAGE, not a reformat.
    if derived and not ("t1_mpr" in description.lower() or "mprage" in description.lower()):
        return DerivedSeries(f"The description says {derived!r} ({description}).")
    types = image_type(first)
    if types[0] != "DERIVED" or is_multi_frame(first):
        return None
    if computed := sorted(COMPUTED & set(types[1:])):
        return DerivedSeries(
            f"{tag_name('ImageType')} says DERIVED and {computed[0]} ({_description(first)})."
        )
    if not _is_derived_in_name_only(first):
        return DerivedSeries(f"{tag_name('ImageType')} says DERIVED ({_description(first)}).")
    warnings.append(
        f"{tag_name('ImageType')} says DERIVED, but nothing else does: as after anonymisation or compression."
    )
    return None


def _is_derived_in_name_only(first: Dataset) -> bool:
    """Return whether an anonymiser or a lossy compression explains ImageType, and nothing names a source."""
    explained = (
        "PRIMARY" in image_type(first)
        or text(first, "PatientIdentityRemoved") == "YES"
        or bool(text(first, "DeidentificationMethod"))
        or text(first, "LossyImageCompression") == "01"
    )
    acquired = numbers(first, "EchoTime") is not None and numbers(first, "RepetitionTime") is not None
    named = items(first, "SourceImageSequence") or text(first, "DerivationDescription")
    return explained and acquired and not named


def _description(first: Dataset) -> str:
    return text(first, "SeriesDescription") or "no description"
