"""What a series says of its contrast agent: by its attributes, and by its names in four languages."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from pydicom import Dataset
from pydicom.sequence import Sequence as DicomSequence

from imaging.frames import is_multi_frame, tag_name, text

# What names say of contrast, in lower case and with blanks for most separators (see `contrast_by_name`).
WITH = r"(?:with|w/?|mit|avec)"
WITHOUT = r"(?:without|(?:t1)?w\s?/?\s?o|ohne|sans|sin|senza)"
AGENT = (
    r"(?:gd|gad\w*|km|[ck]ontrast\w*|mdc|inj(?:e[ck]t\w*)?|enhanc\w*|"
    r"dotarem|clariscan|prohance|magnevist|multihance|omniscan|elucirem|vueway)"
)
# With abbreviations that mean an agent only behind such a word as "without".
ANY_AGENT = rf"(?:{AGENT}|ce|c|cont?)"
POST = rf"post{ANY_AGENT}?"
AND = r"[\s/+&]*(?:and|und|u|et|or)?[\s/+&]*"
OCCASION = (
    r"(?:op(?!p)|surg|radi(?!al)|treat|ther|chemo|biops|resec|craniot|trauma|implant|cyber|proc)\w*|"
    r"x?rt|srs|srt|gk|gamma|tx|dbs|stroke|fossa|scan"
)
# Phrases that say nothing of contrast although a word in them would: both, other techniques, other occasions.
NEUTRAL = (
    rf"(?:{WITH}{AND}{WITHOUT}|{WITHOUT}{AND}{WITH}|(?:vor|before|avant|pre){AND}(?:nach|after|apr[eè]s|post))"
    rf"(?:[\s/-]*{ANY_AGENT})?|"
    rf"{WITHOUT}[\s-]*(?:fs|fat|fett|sat|mt|motion|filter|norm|gating|flow|suppr)\w*|"
    rf"(?:pre|post)[\s-]*(?:{OCCASION})|"
    r"(?:phase|transfer|mt|tissue|high)[\s-]*contrast|pc[\s-]*(?:mra|mrv|angio\w*|ven\w*)"
)
PRE_CONTRAST = (
    rf"(?:{WITHOUT}|no|non|not|un|kein\w*|pre|before|vor|(?<!i\s)v|avant)[\s/-]*"
    rf"(?:(?:iv|the|der|produit de)\s)?{ANY_AGENT}|"
    rf"{AGENT}[\s-]*(?:frei|free)|{WITHOUT}|pre|nativ\w*|(?:t1w?\s?)?(?:c|gd|gado)-"
)
POST_CONTRAST = (
    rf"{AGENT}|{POST}|ce|t1w?[\s-]?(?:{AGENT}|ce|c|{POST}|pc)|(?:ce|gd)t1w?|"
    # "pc" is post contrast behind a T1, else phase contrast.
    rf"t1\w*\s(?:.*\s)?pc|{WITH}[\s/]*{ANY_AGENT}|(?:with|mit|avec)$"
)
# These need no blank before or behind them.
PLUS_OR_MINUS = rf"(?:\+\s?/?\s?-|±)\s?{ANY_AGENT}(?!\w)"
PLUS = rf"\+\s?{ANY_AGENT}(?!\w)|(?<!\w)c\+"
# Values of ContrastBolusAgent that deny contrast, and those that say nothing of it.
NO_AGENT = ("no", "none", "nein", "non", "nil", "keine", "aucun", "0")
NOT_STATED = ("", "-", "n/a", "na", "unknown")

Contrast = Literal["proven", "denied", "unknown"]


class Finding(NamedTuple):
    """What one source says of contrast, and in which words."""

    contrast: Contrast
    reason: str = ""


def verdict(first: Dataset, findings: Sequence[Finding]) -> tuple[Contrast, str]:
    """What all findings come to, and the sentence that is owed where contrast is not proven."""
    for finding in findings:
        if finding.contrast == "denied":
            description = text(first, "SeriesDescription") or "no description"
            return "denied", f"The series says that it is without contrast ({description}): {finding.reason}."
    if any(finding.contrast == "proven" for finding in findings):
        return "proven", ""
    keyword = "ContrastBolusAgentAdministered" if is_multi_frame(first) else "ContrastBolusAgent"
    return "unknown", f"Nothing proves that the series is post-contrast ({tag_name(keyword)})."


def contrast_findings(first: Dataset) -> list[Finding]:
    """By the attributes and by the description; where both are silent, by the protocol's name.

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
    """What a description says of contrast; unknown where it says nothing, or both (pre and post)."""
    words = re.sub(r"[\s_.,:;()\[\]\\]+", " ", name.lower()).strip()
    words = re.sub(rf"(?<!\w)(?:{NEUTRAL})(?!\w)|{PLUS_OR_MINUS}", ";", words)
    denial = rf"(?<!\w)(?:{PRE_CONTRAST})(?!\w)"
    denied = re.search(denial, words)
    proof = re.search(rf"(?<!\w)(?:{POST_CONTRAST})(?!\w)|{PLUS}", re.sub(denial, ";", words))
    if denied and not proof:
        return Finding("denied", f"the description says {denied.group()!r}")
    if proof and not denied:
        return Finding("proven", f"the description says {proof.group()!r}")
    return Finding("unknown")


def _contrast_by_attributes(first: Dataset) -> Finding:
    """By the Contrast/Bolus module, classic or enhanced, and by the usage that the functional groups tell.

    An agent of which a frame says that it had not been administered yet is no proof.
    """
    agents = [("ContrastBolusAgent", text(first, "ContrastBolusAgent").strip())]
    for item in _items(first, "ContrastBolusAgentSequence"):
        agents.append(("ContrastBolusAgentSequence", text(item, "CodeMeaning").strip()))
    for keyword, agent in agents:
        if agent.lower() in NO_AGENT or contrast_by_name(agent).contrast == "denied":
            return Finding("denied", f"{tag_name(keyword)} is {agent}")
    administered = _administered(first)
    if False in administered:
        return Finding("unknown")
    if True in administered:
        return Finding("proven", f"{tag_name('ContrastBolusAgentAdministered')} is YES")
    for keyword, agent in agents:
        if agent.lower() not in NOT_STATED:
            return Finding("proven", f"{tag_name(keyword)} names an agent")
    return Finding("unknown")


def _administered(instance: Dataset) -> set[bool]:
    """Over all frames that tell: whether an agent had been given when they were acquired (C.7.6.16.2.12)."""
    shared = [
        usage
        for groups in _items(instance, "SharedFunctionalGroupsSequence")
        for usage in _items(groups, "ContrastBolusUsageSequence")
    ]
    told = set()
    for groups in _items(instance, "PerFrameFunctionalGroupsSequence"):
        usages = _items(groups, "ContrastBolusUsageSequence") or shared
        if usages:
            told.add(any(_is_given(usage) for usage in usages))
    return told


def _is_given(usage: Dataset) -> bool:
    given = text(usage, "ContrastBolusAgentAdministered").strip().upper() == "YES"
    return given and text(usage, "ContrastBolusAgentPhase").strip().upper() != "PRE_CONTRAST"


def _items(ds: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none where it is missing or illegal."""
    try:
        value = ds.get(keyword)
    except (ValueError, TypeError, OverflowError):
        return []
    return list(value) if isinstance(value, DicomSequence) else []
