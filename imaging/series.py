"""Which series of a study is the post-contrast T1: candidates with a score, reasons and refusals."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom import Dataset

from errors import (
    AmbiguousSeries,
    ContrastAbsent,
    DerivedSeries,
    LocalizerSeries,
    MetScopeError,
    NoCandidateSeries,
    NotHead,
    NotT1Weighted,
    SeriesNotFound,
    UnsupportedModality,
)
from imaging.contrast import Contrast, Finding, contrast_findings, verdict
from imaging.frames import Frame, image_type, is_multi_frame, numbers, tag_name, text
from imaging.sequences import sequence_of
from imaging.stack import check_headers

# Words of series descriptions in English, French and German, matched whole and without regard to case.
T1 = r"t1\w*|mp2?rage|\w*mprage\w*|bravo|spgr|fspgr|vibe|tfe|tfl\w*|space\s?t1|cube\s?t1"
OTHER_WEIGHTING = (
    r"t2\w*|flair|stir|dwi|dti|adc|diff\w*|trace\w*|swi|swan|mip|minip|tof|angio\w*|mra|mrv|perf\w*|dsc|dce|cbf|cbv|"
    r"asl|bold|fmri|pd|fgre|gre|spectro\w*|svs|csi|phase|field\s?map|flow|ciss|fiesta"
)
LOCALIZER = (
    r"loc|localizer|localiser|scout|survey|3\W?plane|topo\w*|reperage|aahead\w*|aascout\w*|calib\w*|asset"
)
DERIVED = r"sub|subtr\w*|mpr|reformat\w*|recon\w*|projection|mean|average|collapsed|screen\s?save"
OTHER_BODY = (
    r"c?spine|neck|abdomen|pelvis|liver|breast|chest|thorax|knee|heart|prostate|hals|wirbel\w*|rachis"
)
HEAD_BODY = r"head|brain|skull|cerveau|tete|kopf|hirn|neuro\w*|cerebr\w*|encephal\w*"

# Proof of contrast weighs more than everything else together.
CONTRAST_SCORE = 8.0
CONTRAST_WORD_SCORE = 7.0
CONTRAST_TWICE_SCORE = 0.5
T1_SCORE = 2.0
VOLUME_SCORE = 2.0
THREE_D_SCORE = 0.5
HEAD_EXTENT_SCORE = 1.0
HEAD_EXTENT_MM = 110.0
THIN_MM = 1.5
THICK_MM = 3.5
# Candidates whose scores differ by less are a tie.
TIE = 0.25
# What a series is refused for whatever its geometry.
REFUSED_BY_KIND = {
    error.code
    for error in (
        UnsupportedModality, LocalizerSeries, DerivedSeries, NotHead, NotT1Weighted, ContrastAbsent,
    )
}  # fmt: skip
# How many refused series a message names.
REFUSED_NAMED = 3


@dataclass(frozen=True)
class Candidate:
    """A series and what speaks for it. refused: an error code and message where it is not a candidate.

    score: higher is better. warnings: to be stored with a result. sequence: by its headers, one of
    ``imaging.sequences.SEQUENCES`` or None.
    """

    series_instance_uid: str
    description: str
    modality: str
    score: float
    reasons: tuple[str, ...]
    refused: str | None
    message: str | None
    warnings: tuple[str, ...]
    contrast: Contrast
    sequence: str | None


def rank(series: Iterable[Sequence[Dataset]]) -> list[Candidate]:
    """Judge each series by the headers of its instances; candidates first, the best of them first."""
    candidates = [_judge(instances) for instances in series if instances]
    return sorted(candidates, key=lambda c: (c.refused is not None, -c.score, c.series_instance_uid))


def choose(candidates: Sequence[Candidate], series_instance_uid: str | None = None) -> Candidate:
    """The series to segment: the caller's, else the best of proven contrast, else the only T1 there is.

    The caller's choice overrules what a series seems to be, never that it is no MR image; its stack is
    checked when it is read. Raises: SeriesNotFound, UnsupportedModality, AmbiguousSeries, ContrastAbsent,
    NoCandidateSeries; details list the candidates.
    """
    if series_instance_uid is not None:
        return _chosen_by_caller(candidates, series_instance_uid)
    open_ones = [candidate for candidate in candidates if candidate.refused is None]
    details = {"candidates": [_summary(candidate) for candidate in candidates]}
    if not open_ones:
        without = [c for c in candidates if c.refused == ContrastAbsent.code]
        if without:
            raise ContrastAbsent(
                f"Of {len(candidates)} series none is post-contrast. {without[0].message}", details
            )
        raise NoCandidateSeries(
            f"None of the study's {len(candidates)} series can be segmented. {_refusals(candidates)}", details
        )
    proven = [candidate for candidate in open_ones if candidate.contrast == "proven"]
    lost = [c for c in candidates if c.contrast == "proven" and c.refused not in REFUSED_BY_KIND]
    if not proven and lost:
        # The other T1 is then most likely the one before contrast.
        raise NoCandidateSeries(
            f"Series {lost[0].series_instance_uid} is proven to be post-contrast, but is refused: "
            f"{lost[0].message}",
            details,
        )
    if not proven and len(open_ones) > 1:
        raise AmbiguousSeries(
            f"None of {len(open_ones)} T1 series is proven to be post-contrast: {_names(open_ones)}.", details
        )
    best, *others = proven or open_ones
    rivals = [candidate for candidate in others if best.score - candidate.score < TIE]
    if rivals:
        raise AmbiguousSeries(
            f"{len(rivals) + 1} series fit equally well: {_names([best, *rivals])}.", details
        )
    return best


def _refusals(candidates: Sequence[Candidate]) -> str:
    """Why each is refused, those first that are of the right kind."""
    ordered = sorted(candidates, key=lambda c: c.refused in REFUSED_BY_KIND)
    named = [f"{c.description or 'no description'}: {c.message}" for c in ordered[:REFUSED_NAMED]]
    return " ".join(named) + (" ..." if len(ordered) > REFUSED_NAMED else "")


def _names(candidates: Sequence[Candidate]) -> str:
    return ", ".join(f"{c.description or 'no description'} (score {c.score:g})" for c in candidates)


def _chosen_by_caller(candidates: Sequence[Candidate], series_instance_uid: str) -> Candidate:
    for candidate in candidates:
        if candidate.series_instance_uid != series_instance_uid:
            continue
        if candidate.refused == UnsupportedModality.code:
            raise UnsupportedModality(str(candidate.message))
        if candidate.message is None:
            return candidate
        return replace(
            candidate,
            reasons=(*candidate.reasons, "chosen by the caller"),
            refused=None,
            message=None,
            warnings=(*candidate.warnings, f"Chosen by the caller although: {candidate.message}"),
        )
    raise SeriesNotFound(f"The study has no series {series_instance_uid}.")


def _summary(candidate: Candidate) -> dict[str, object]:
    return {
        "series_instance_uid": candidate.series_instance_uid,
        "description": candidate.description,
        "score": candidate.score,
        "refused": candidate.refused,
    }


def _judge(instances: Sequence[Dataset]) -> Candidate:
    first = instances[0]
    score = 0.0
    reasons: list[str] = []
    refusal: MetScopeError | None = None
    findings = contrast_findings(first)
    contrast, doubt = verdict(first, findings)
    try:
        _refuse_by_kind(first)
        if contrast == "denied":
            raise ContrastAbsent(doubt)
        frames = check_headers(instances)
        score, reasons = _evidence(first, frames, findings)
    except MetScopeError as error:
        refusal = error
    # Whatever else the series is refused for: the caller may choose it all the same.
    warned = bool(doubt) and text(first, "Modality") == "MR" and not (refusal and refusal.found == doubt)
    return Candidate(
        series_instance_uid=text(first, "SeriesInstanceUID"),
        description=text(first, "SeriesDescription"),
        modality=text(first, "Modality"),
        score=round(score, 2),
        reasons=tuple(reasons),
        refused=refusal.code if refusal else None,
        message=refusal.found if refusal else None,
        warnings=(doubt,) if warned else (),
        contrast=contrast,
        sequence=sequence_of(instances),
    )


def _words(first: Dataset) -> str:
    """Description, protocol and sequence name as one text, separators as blanks."""
    keywords = ("SeriesDescription", "ProtocolName")
    return re.sub(
        r"[_.,:;()\[\]/\\-]+(?!$)", " ", " ".join(text(first, keyword) for keyword in keywords).lower()
    )


def _says(first: Dataset, pattern: str) -> str | None:
    """The word of the description that the pattern matches, whole."""
    raw = f" {text(first, 'SeriesDescription').lower()} "
    for words in (_words(first), raw):
        found = re.search(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])", words)
        if found:
            return found.group()
    return None


def _refuse_by_kind(first: Dataset) -> None:
    description = text(first, "SeriesDescription") or "no description"
    if text(first, "Modality") != "MR":
        raise UnsupportedModality(
            f"{tag_name('Modality')} is {text(first, 'Modality') or 'missing'}, not MR."
        )
    types = image_type(first)
    if "LOCALIZER" in types or _says(first, LOCALIZER):
        raise LocalizerSeries(f"The series is a localizer ({description}).")
    if types[0] == "DERIVED" and not is_multi_frame(first):
        raise DerivedSeries(f"{tag_name('ImageType')} says {types[0]} ({description}).")
    derived = _says(first, DERIVED)
    if derived and not _says(first, r"\w*mprage\w*|tfl\w*") and "t1_mpr" not in description.lower():
        raise DerivedSeries(f"The description says {derived!r} ({description}).")
    if elsewhere := not_head(first):
        raise NotHead(f"The series shows {elsewhere}, not the head.")
    other = _says(first, OTHER_WEIGHTING)
    if other and not _says(first, T1):
        raise NotT1Weighted(f"The description says {other!r} ({description}).")
    if not _says(first, T1) and not _t1_by_parameters(first):
        raise NotT1Weighted(f"Nothing says that the series is T1-weighted ({description}).")


def not_head(first: Dataset) -> str | None:
    """What the series says that it shows instead of the head; None where it does not say so."""
    body = text(first, "BodyPartExamined").lower()
    if (body and not re.search(HEAD_BODY, body)) or _says(first, OTHER_BODY):
        return body or text(first, "SeriesDescription") or "no description"
    return None


def _t1_by_parameters(first: Dataset) -> bool:
    """Short echo time, and a repetition time of a T1 spin echo or of a fast gradient echo."""
    echo_ms, repetition_ms = numbers(first, "EchoTime"), numbers(first, "RepetitionTime")
    if echo_ms is None or repetition_ms is None:
        return False
    inverted = numbers(first, "InversionTime")
    return bool(
        echo_ms[0] < 30 and (repetition_ms[0] < 1000 or (inverted is not None and inverted[0] < 1300))
    )


def _evidence(
    first: Dataset, frames: Sequence[Frame], findings: Sequence[Finding]
) -> tuple[float, list[str]]:
    """Score and reasons. findings: by the attributes, then by names."""
    score = 0.0
    reasons = [finding.reason for finding in findings if finding.contrast == "proven"]
    if reasons:
        score += CONTRAST_SCORE if findings[0].contrast == "proven" else CONTRAST_WORD_SCORE
        score += CONTRAST_TWICE_SCORE * (len(reasons) - 1)
    if word := _says(first, T1):
        score += T1_SCORE
        reasons.append(f"the description says {word!r}")
    of_volume, more = volume_evidence(first, frames)
    return score + of_volume, reasons + more


def volume_evidence(first: Dataset, frames: Sequence[Frame]) -> tuple[float, list[str]]:
    """What speaks for a volume whatever its sequence: score and reasons."""
    positions = np.array([frame.position for frame in frames])
    normal = np.cross(frames[0].orientation[:3], frames[0].orientation[3:])
    along = np.sort(positions @ normal)
    between_mm = float(np.median(np.diff(along)))
    extent_mm = float(along[-1] - along[0]) + between_mm
    thinness = np.clip((THICK_MM - between_mm) / (THICK_MM - THIN_MM), 0.0, 1.0)
    score = VOLUME_SCORE * float(thinness)
    reasons = [f"{len(frames)} slices, {between_mm:.2g} mm apart"]
    if text(first, "MRAcquisitionType") == "3D":
        score += THREE_D_SCORE
        reasons.append("acquired in 3D")
    if extent_mm >= HEAD_EXTENT_MM:
        score += HEAD_EXTENT_SCORE
        reasons.append(f"covers {extent_mm:.0f} mm")
    return score, reasons
