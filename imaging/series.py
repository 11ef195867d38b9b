"""Which series of a study is the post-contrast T1: candidates with a score, reasons and refusals."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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
from imaging.frames import Frame, image_type, is_multi_frame, numbers, tag_name, text
from imaging.stack import check_headers

# Words of series descriptions in English, French and German, matched whole and without regard to case.
POST_CONTRAST = (
    r"post|gd|gad|gado\w*|\+\s?c|c\+|\+\s?gd|t1\s?c|t1ce|t1gd|ce|km|mit|avec|inj\w*|contrast\w*|enhanced"
)
PRE_CONTRAST = r"pre|precontrast|without|w/?o|non\W?contrast|unenhanced|ohne|nativ\w*|sans|c-|noncontrast"
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

CONTRAST_SCORE = 4.0
CONTRAST_WORD_SCORE = 3.0
T1_SCORE = 2.0
VOLUME_SCORE = 2.0
HEAD_EXTENT_SCORE = 1.0
HEAD_EXTENT_MM = 110.0
THIN_MM = 1.5
THICK_MM = 3.5
# Candidates whose scores differ by less are a tie.
TIE = 0.25


@dataclass(frozen=True)
class Candidate:
    """A series and what speaks for it. refused: an error code and message where it is not a candidate.

    score: higher is better. warnings: to be stored with a result. contrast: None where nothing tells.
    """

    series_instance_uid: str
    description: str
    modality: str
    score: float
    reasons: tuple[str, ...]
    refused: str | None
    message: str | None
    warnings: tuple[str, ...]


def rank(series: Iterable[Sequence[Dataset]]) -> list[Candidate]:
    """Judge each series by the headers of its instances; candidates first, the best of them first."""
    candidates = [_judge(instances) for instances in series if instances]
    return sorted(candidates, key=lambda c: (c.refused is not None, -c.score, c.series_instance_uid))


def choose(candidates: Sequence[Candidate], series_instance_uid: str | None = None) -> Candidate:
    """The series to segment: the caller's, or the best candidate.

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
        raise NoCandidateSeries(f"None of the study's {len(candidates)} series can be segmented.", details)
    best = open_ones[0]
    rivals = [candidate for candidate in open_ones[1:] if best.score - candidate.score < TIE]
    if rivals:
        names = ", ".join(
            f"{c.description or 'no description'!s} (score {c.score:g})" for c in [best, *rivals]
        )
        raise AmbiguousSeries(f"{len(rivals) + 1} series fit equally well: {names}.", details)
    return best


def _chosen_by_caller(candidates: Sequence[Candidate], series_instance_uid: str) -> Candidate:
    for candidate in candidates:
        if candidate.series_instance_uid != series_instance_uid:
            continue
        if candidate.refused == UnsupportedModality.code:
            raise UnsupportedModality(str(candidate.message))
        if candidate.message is None:
            return candidate
        return Candidate(
            candidate.series_instance_uid,
            candidate.description,
            candidate.modality,
            candidate.score,
            (*candidate.reasons, "chosen by the caller"),
            None,
            None,
            (*candidate.warnings, f"Chosen by the caller although: {candidate.message}"),
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
    warnings: list[str] = []
    refusal: MetScopeError | None = None
    try:
        _refuse_by_kind(first)
        frames = check_headers(instances)
        score, reasons = _evidence(first, frames)
        if not _is_contrasted(first):
            warnings.append(
                f"Nothing proves that the series is post-contrast ({tag_name('ContrastBolusAgent')})."
            )
    except MetScopeError as error:
        refusal = error
    return Candidate(
        series_instance_uid=text(first, "SeriesInstanceUID"),
        description=text(first, "SeriesDescription"),
        modality=text(first, "Modality"),
        score=round(score, 2),
        reasons=tuple(reasons),
        refused=refusal.code if refusal else None,
        message=refusal.found if refusal else None,
        warnings=tuple(warnings),
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
    body = text(first, "BodyPartExamined").lower()
    if (body and not re.search(HEAD_BODY, body)) or _says(first, OTHER_BODY):
        raise NotHead(f"The series shows {body or description}, not the head.")
    other = _says(first, OTHER_WEIGHTING)
    if other and not _says(first, T1):
        raise NotT1Weighted(f"The description says {other!r} ({description}).")
    if not _says(first, T1) and not _t1_by_parameters(first):
        raise NotT1Weighted(f"Nothing says that the series is T1-weighted ({description}).")
    if _says_no_contrast(first):
        raise ContrastAbsent(f"The series says that it is without contrast ({description}).")


def _t1_by_parameters(first: Dataset) -> bool:
    """Short echo time, and a repetition time of a T1 spin echo or of a fast gradient echo."""
    echo_ms, repetition_ms = numbers(first, "EchoTime"), numbers(first, "RepetitionTime")
    if echo_ms is None or repetition_ms is None:
        return False
    inverted = numbers(first, "InversionTime")
    return bool(
        echo_ms[0] < 30 and (repetition_ms[0] < 1000 or (inverted is not None and inverted[0] < 1300))
    )


def _says_no_contrast(first: Dataset) -> bool:
    agent = text(first, "ContrastBolusAgent").strip().lower()
    if agent in ("no", "none", "nein", "non", "ohne", "without"):
        return True
    return not agent and bool(_says(first, PRE_CONTRAST)) and not _says(first, r"post\w*|mit|avec")


def _is_contrasted(first: Dataset) -> bool:
    return bool(text(first, "ContrastBolusAgent").strip()) or bool(_says(first, POST_CONTRAST))


def _evidence(first: Dataset, frames: Sequence[Frame]) -> tuple[float, list[str]]:
    score, reasons = 0.0, []
    agent = text(first, "ContrastBolusAgent").strip()
    if agent:
        score += CONTRAST_SCORE
        reasons.append(f"{tag_name('ContrastBolusAgent')} is filled")
    if word := _says(first, POST_CONTRAST):
        score += 0.5 if agent else CONTRAST_WORD_SCORE
        reasons.append(f"the description says {word!r}")
    if word := _says(first, T1):
        score += T1_SCORE
        reasons.append(f"the description says {word!r}")
    positions = np.array([frame.position for frame in frames])
    normal = np.cross(frames[0].orientation[:3], frames[0].orientation[3:])
    along = np.sort(positions @ normal)
    between_mm = float(np.median(np.diff(along)))
    extent_mm = float(along[-1] - along[0]) + between_mm
    thinness = np.clip((THICK_MM - between_mm) / (THICK_MM - THIN_MM), 0.0, 1.0)
    score += VOLUME_SCORE * float(thinness)
    reasons.append(f"{len(frames)} slices, {between_mm:.2g} mm apart")
    if text(first, "MRAcquisitionType") == "3D":
        score += 0.5
        reasons.append("acquired in 3D")
    if extent_mm >= HEAD_EXTENT_MM:
        score += HEAD_EXTENT_SCORE
        reasons.append(f"covers {extent_mm:.0f} mm")
    return score, reasons
