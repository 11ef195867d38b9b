"""What a series says of its contrast agent: by its attributes, and by its names."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from pydicom import Dataset

import series_names
from imaging.frames import is_multi_frame, items, tag_name, text
from series_names import Contrast

__all__ = ["Contrast", "Finding", "contrast_by_name", "contrast_findings", "verdict"]

# Values of ContrastBolusAgent that name no agent and yet tell: given, not given, and nothing of it.
GIVEN = ("yes", "y", "ja", "j", "oui", "o", "si", "sí", "sim", "true")
NOT_GIVEN = ("n", "0", "false")
NOT_STATED = ("not specified", "not stated", "not recorded", "not applicable")
AMOUNTS = ("ContrastBolusVolume", "ContrastBolusTotalDose")
NOTHING = re.compile(r"\s*0+(\.0*)?\s*")


class Finding(NamedTuple):
    """What one source says of contrast, and in which words."""

    contrast: Contrast
    reason: str = ""


def verdict(first: Dataset, findings: Sequence[Finding]) -> tuple[Contrast, str]:
    """Return what all findings come to, and the message to show unless contrast is proven."""
    for finding in findings:
        if finding.contrast == "denied":
            description = text(first, "SeriesDescription") or "no description"
            return "denied", f"The series says that it is without contrast ({description}): {finding.reason}."
    if any(finding.contrast == "proven" for finding in findings):
        return "proven", ""
    keyword = "ContrastBolusAgentAdministered" if is_multi_frame(first) else "ContrastBolusAgent"
    hints = "".join(f" {finding.reason}" for finding in findings if finding.reason)
    return "unknown", f"Nothing proves that the series is post-contrast ({tag_name(keyword)}).{hints}"


def contrast_findings(first: Dataset) -> list[Finding]:
    """Return what the attributes and the description say; where both are silent, also the protocol's name.

    A protocol is often that of the whole examination (GE), so its name may deny contrast, but is proof only
    where the series has no description.
    """
    description = text(first, "SeriesDescription")
    findings = [_contrast_by_attributes(first), contrast_by_name(description)]
    if all(finding.contrast == "unknown" for finding in findings):
        protocol = contrast_by_name(text(first, "ProtocolName"))
        if protocol.contrast == "denied" or not description.strip():
            findings.append(protocol)
    return findings


def contrast_by_name(name: str) -> Finding:
    """Return what a description says of contrast; unknown where it says nothing, or both (pre and post)."""
    reading = series_names.read(name)
    if reading.contrast != "unknown":
        return Finding(reading.contrast, f"the description says {reading.contrast_words!r}")
    if not reading.not_understood:
        return Finding("unknown")
    return Finding(
        "unknown",
        f"The description's words are not all understood, so they prove nothing: {reading.not_understood}.",
    )


def _contrast_by_attributes(first: Dataset) -> Finding:
    """Return what the Contrast/Bolus module says, classic or enhanced, and the usage in functional groups.

    An agent of which a frame says that it had not been administered yet is no proof.
    """
    agents = [("ContrastBolusAgent", text(first, "ContrastBolusAgent").strip())]
    for item in items(first, "ContrastBolusAgentSequence"):
        agents.append(("ContrastBolusAgentSequence", text(item, "CodeMeaning").strip()))
    for keyword, agent in agents:
        if _of_agent(agent) == "denied":
            return Finding("denied", f"{tag_name(keyword)} is {agent}")
    administered = _administered(first)
    if False in administered:
        return Finding("unknown")
    if True in administered:
        return Finding("proven", f"{tag_name('ContrastBolusAgentAdministered')} is YES")
    for amount in AMOUNTS:
        if NOTHING.fullmatch(text(first, amount)):
            return Finding("unknown", f"{tag_name(amount)} is {text(first, amount).strip()}.")
    for keyword, agent in agents:
        if _of_agent(agent) == "proven":
            return Finding("proven", f"{tag_name(keyword)} names an agent")
    return Finding("unknown")


def _of_agent(value: str) -> Contrast:
    """Return what a ContrastBolusAgent, which people type, says; other words prove nothing."""
    plain = value.strip().lower()
    if plain in GIVEN:
        return "proven"
    if plain in NOT_GIVEN:
        return "denied"
    return "unknown" if plain in NOT_STATED else series_names.of_agent(value)


def _administered(instance: Dataset) -> set[bool]:
    """Return, over all frames that tell, whether an agent had been given before them (C.7.6.16.2.12)."""
    shared = [
        usage
        for groups in items(instance, "SharedFunctionalGroupsSequence")
        for usage in items(groups, "ContrastBolusUsageSequence")
    ]
    told = set()
    for groups in items(instance, "PerFrameFunctionalGroupsSequence"):
        usages = items(groups, "ContrastBolusUsageSequence") or shared
        if usages:
            told.add(any(_is_given(usage) for usage in usages))
    return told


def _is_given(usage: Dataset) -> bool:
    given = text(usage, "ContrastBolusAgentAdministered").strip().upper() == "YES"
    return given and text(usage, "ContrastBolusAgentPhase").strip().upper() != "PRE_CONTRAST"
