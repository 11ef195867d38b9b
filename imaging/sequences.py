"""The kind of a series (T1, T1 post-contrast, T2, FLAIR, or why it is another one) and its contrast."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydicom import Dataset

import series_names
from errors import DerivedSeries, LocalizerSeries, MetScopeError, NotT1Weighted, UnsupportedModality
from imaging.frames import first_group, image_type, is_multi_frame, items, numbers, tag_name, text
from series_names import Contrast

T1, T1_POST_CONTRAST, T2, FLAIR = "T1", "T1 post-contrast", "T2", "FLAIR"
SEQUENCES = (T1, T1_POST_CONTRAST, T2, FLAIR)

# AcquisitionContrast of Enhanced MR images, (0008,9209), PS3.3 C.8.13.3.1.1.
BY_ACQUISITION_CONTRAST = {"T1": T1, "T2": T2, "FLUID_ATTENUATED": FLAIR}
SAYS_NOTHING = ("", "UNKNOWN", "MIXED")

# ms. Brain protocols stay away from these limits on both sides. Echo times: T1 spin echo 8 to 25, T1 gradient
# echo 2 to 5, T2* gradient echo 15 to 40, T2 or FLAIR 70 to 400 (3D). Inversion times: nulling of fluid 1500
# to 3000, MPRAGE 700 to 1300.
SHORT_ECHO = 30.0
SHORT_GRADIENT_ECHO = 10.0
LONG_ECHO = 60.0
SHORT_REPETITION = 1000.0
LONG_REPETITION = 2000.0
FLUID_NULLED = 1400.0

# Further values of ImageType, as vendors write them, that state how an image was computed.
COMPUTED_IMAGE_TYPES = {
    "MPR", "MIP", "MINIP", "MAX IP", "MIN IP", "MAX_IP", "MIN_IP", "MNIP", "PROJECTION IMAGE", "REFORMATTED",
    "RESAMPLED", "SUB", "SUBTRACT", "SUBTRACTION", "ADD", "AVERAGE", "MEAN", "COMPOSED", "FUSED", "FILTERED",
    "ADC", "FA", "TRACEW", "MAP", "T1 MAP", "T2 MAP", "QUANTITATIVE", "SYNTHETIC", "SCREEN SAVE",
    "CSA 3D EDITOR", "CSA MPR", "CSAPARALLEL", "PROC", "REGISTERED", "MOCO",
}  # fmt: skip
# Values of ContrastBolusAgent that name no agent but state: given, not given, not stated.
GIVEN_VALUES = ("yes", "y", "ja", "j", "oui", "o", "si", "sí", "sim", "true")

NOT_GIVEN_VALUES = ("n", "0", "false")

NOT_STATED_VALUES = ("not specified", "not stated", "not recorded", "not applicable")

AMOUNTS = ("ContrastBolusVolume", "ContrastBolusTotalDose")

ZERO_AMOUNT = re.compile(r"\s*0+(\.0*)?\s*")


class ContrastEvidence(NamedTuple):
    """The statement of one source on contrast, and its wording."""

    contrast: Contrast
    reason: str = ""


@dataclass(frozen=True)
class SeriesKind:
    """The kind of a series.

    sequence: one of SEQUENCES; None if it is another one or unknown. word: of its names, that states T1, T2
    or FLAIR. refusal: why it is not one of SEQUENCES; None also if unknown. contrast: with its findings, and
    doubt, the message to show unless contrast is proven. warnings: to be stored with a result.
    """

    sequence: str | None
    word: str
    refusal: MetScopeError | None
    contrast: Contrast
    doubt: str
    findings: Sequence[ContrastEvidence]
    warnings: Sequence[str] = ()


def sequence_of(headers: Sequence[Dataset]) -> str | None:
    """Return one of SEQUENCES by the headers of a series; None if it is another one or unknown."""
    return kind_of(headers[0]).sequence


def kind_of(first: Dataset) -> SeriesKind:
    """Determine the kind of a series by one of its headers.

    Its description counts first, then its protocol's name, because the people who named them knew; then an
    Enhanced image's AcquisitionContrast; then echo, repetition and inversion time. A T1 is post-contrast only
    if that is proven. Localizers, computed images and other modalities are not one of SEQUENCES.
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
    return SeriesKind(sequence, word, refusal, contrast, doubt, findings, warnings)


def _refuse_by_tags(first: Dataset) -> MetScopeError | None:
    modality = text(first, "Modality")
    if modality != "MR":
        return UnsupportedModality(f"{tag_name('Modality')} is {modality or 'missing'}, not MR.")
    if "LOCALIZER" in image_type(first):
        return LocalizerSeries(f"The series is a localizer ({_description(first)}).")
    return None


def _weighting(first: Dataset) -> tuple[str | None, str, MetScopeError | None]:
    """Return T1, T2 or FLAIR with the word that states it, or the refusal of another kind of image."""
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
        refusal = NotT1Weighted(f"{tag_name('AcquisitionContrast')} is {contrast} ({_description(first)}).")
        return sequence, "", None if sequence else refusal
    return _by_times(first), "", None


def _by_times(first: Dataset) -> str | None:
    """Return T1, T2 or FLAIR by echo, repetition and inversion time; None if they do not decide.

    Enhanced images have these times in functional groups.
    """
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
    """Return the refusal of a computed image, or None; add a warning if only ImageType says DERIVED."""
    description = text(first, "SeriesDescription")
    derived = series_names.read(description).derived
    # Siemens' "t1_mpr" and "t1_mpr_sag" are its MPRAGE, not a reformat.
    if derived and not ("t1_mpr" in description.lower() or "mprage" in description.lower()):
        return DerivedSeries(f"The description says {derived!r} ({description}).")
    types = image_type(first)
    if types[0] != "DERIVED" or is_multi_frame(first):
        return None
    if computed := sorted(COMPUTED_IMAGE_TYPES & set(types[1:])):
        return DerivedSeries(
            f"{tag_name('ImageType')} says DERIVED and {computed[0]} ({_description(first)})."
        )
    if not _is_derived_in_name_only(first):
        return DerivedSeries(f"{tag_name('ImageType')} says DERIVED ({_description(first)}).")
    warnings.append(
        f"{tag_name('ImageType')} says DERIVED, but no other attribute does. "
        "Anonymisation or compression can cause this."
    )
    return None


def _is_derived_in_name_only(first: Dataset) -> bool:
    """Return whether an anonymiser or lossy compression explains ImageType, and no source is named."""
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


def verdict(first: Dataset, findings: Sequence[ContrastEvidence]) -> tuple[Contrast, str]:
    """Return the combined verdict of all findings, and the message to show unless contrast is proven."""
    for finding in findings:
        if finding.contrast == "denied":
            description = text(first, "SeriesDescription") or "no description"
            return (
                "denied",
                f"According to its headers, the series was acquired without contrast ({description}): "
                f"{finding.reason}.",
            )
    if any(finding.contrast == "proven" for finding in findings):
        return "proven", ""
    keyword = "ContrastBolusAgentAdministered" if is_multi_frame(first) else "ContrastBolusAgent"
    hints = "".join(f" {finding.reason}" for finding in findings if finding.reason)
    return "unknown", f"Nothing proves that the series is post-contrast ({tag_name(keyword)}).{hints}"


def contrast_findings(first: Dataset) -> list[ContrastEvidence]:
    """Return the findings of attributes and description; if both are silent, also of the protocol's name.

    A protocol often belongs to the whole examination (GE), so its name may deny contrast, but proves it only
    for a series without a description.
    """
    description = text(first, "SeriesDescription")
    findings = [_contrast_by_attributes(first), contrast_by_name(description)]
    if all(finding.contrast == "unknown" for finding in findings):
        protocol = contrast_by_name(text(first, "ProtocolName"))
        if protocol.contrast == "denied" or not description.strip():
            findings.append(protocol)
    return findings


def contrast_by_name(name: str) -> ContrastEvidence:
    """Return the contrast that a name states; unknown if it states none, or both (pre and post)."""
    reading = series_names.read(name)
    if reading.contrast != "unknown":
        return ContrastEvidence(reading.contrast, f"the description says {reading.contrast_words!r}")
    if not reading.not_understood:
        return ContrastEvidence("unknown")
    return ContrastEvidence(
        "unknown",
        f"The description is not proof, because it contains unknown words: {reading.not_understood}.",
    )


def _contrast_by_attributes(first: Dataset) -> ContrastEvidence:
    """Return the finding of the Contrast/Bolus module, classic or enhanced, and of its functional groups.

    An agent proves nothing if a frame states that it had not been administered yet.
    """
    agents = [("ContrastBolusAgent", text(first, "ContrastBolusAgent").strip())]
    for item in items(first, "ContrastBolusAgentSequence"):
        agents.append(("ContrastBolusAgentSequence", text(item, "CodeMeaning").strip()))
    for keyword, agent in agents:
        if _of_agent(agent) == "denied":
            return ContrastEvidence("denied", f"{tag_name(keyword)} is {agent}")
    administered = _find_administered(first)
    if False in administered:
        return ContrastEvidence("unknown")
    if True in administered:
        return ContrastEvidence("proven", f"{tag_name('ContrastBolusAgentAdministered')} is YES")
    for amount in AMOUNTS:
        if ZERO_AMOUNT.fullmatch(text(first, amount)):
            return ContrastEvidence("unknown", f"{tag_name(amount)} is {text(first, amount).strip()}.")
    for keyword, agent in agents:
        if _of_agent(agent) == "proven":
            return ContrastEvidence("proven", f"{tag_name(keyword)} names an agent")
    return ContrastEvidence("unknown")


def _of_agent(value: str) -> Contrast:
    """Return the contrast that a ContrastBolusAgent, typed by hand, states; other words prove nothing."""
    plain = value.strip().lower()
    if plain in GIVEN_VALUES:
        return "proven"
    if plain in NOT_GIVEN_VALUES:
        return "denied"
    return "unknown" if plain in NOT_STATED_VALUES else series_names.of_agent(value)


def _find_administered(instance: Dataset) -> set[bool]:
    """Return, for all frames that state it, whether an agent had been given before them (C.7.6.16.2.12)."""
    shared = [
        usage
        for groups in items(instance, "SharedFunctionalGroupsSequence")
        for usage in items(groups, "ContrastBolusUsageSequence")
    ]
    statements = set()
    for groups in items(instance, "PerFrameFunctionalGroupsSequence"):
        usages = items(groups, "ContrastBolusUsageSequence") or shared
        if usages:
            statements.add(any(_is_given(usage) for usage in usages))
    return statements


def _is_given(usage: Dataset) -> bool:
    is_administered = text(usage, "ContrastBolusAgentAdministered").strip().upper() == "YES"
    return is_administered and text(usage, "ContrastBolusAgentPhase").strip().upper() != "PRE_CONTRAST"
