"""Selection of the post-contrast T1 series of a study: candidates with a score, reasons and refusals."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydicom import Dataset

import series_names
from errors import (
    AmbiguousSeries,
    ArchiveIncomplete,
    ArchiveRefused,
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
from imaging.frames import Frame, text
from imaging.sequences import T1, T1_POST_CONTRAST, SeriesKind, kind_of
from imaging.stack import check_headers
from series_names import Contrast

# Proof of contrast weighs more than all other scores together.
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
# Refusals that do not depend on the geometry of a series.
REFUSED_BY_KIND = {
    error.code
    for error in (
        UnsupportedModality, LocalizerSeries, DerivedSeries, NotHead, NotT1Weighted, ContrastAbsent,
    )
}  # fmt: skip
# Refusals by the archive, and refusals that the caller's choice does not overrule.
Errors = dict[str, type[MetScopeError]]
UNREAD_REFUSALS: Errors = {error.code: error for error in (ArchiveIncomplete, ArchiveRefused)}
NOT_OVERRIDABLE: Errors = {UnsupportedModality.code: UnsupportedModality, **UNREAD_REFUSALS}
# Number of refused series that a message names.
REFUSED_NAMED = 3


class UnreadSeries(list[Dataset]):
    """A series that the archive lists but whose headers it does not serve; its only header is the listing."""

    def __init__(self, listed: Dataset, refusal: MetScopeError) -> None:
        super().__init__([listed])
        self.refusal = refusal


@dataclass(frozen=True)
class Candidate:
    """A series and the evidence for it. refused: an error code, with message, if it is not a candidate.

    score: higher is better. warnings: to be stored with a result. sequence: by its headers, one of
    ``imaging.sequences.SEQUENCES`` or None. undecided: its sequence is unknown.
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
    undecided: bool = False

    @property
    def selectable(self) -> bool:
        """Return whether a request may name the series, which overrules its apparent kind with a warning."""
        return self.refused is None or self.refused in REFUSED_BY_KIND - NOT_OVERRIDABLE.keys()


def rank(series: Iterable[Sequence[Dataset]]) -> list[Candidate]:
    """Judge each series by the headers of its instances; candidates first, the best of them first."""
    candidates = [_judge(instances) for instances in series if instances]
    return sorted(candidates, key=lambda c: (c.refused is not None, -c.score, c.series_instance_uid))


def choose(candidates: Sequence[Candidate], series_instance_uid: str | None = None) -> Candidate:
    """Return the series to segment: the caller's, or the best of proven contrast, or the only T1.

    The caller's choice overrules the apparent kind of a series, but it must be an MR image; its stack is
    checked when it is read. Raises: SeriesNotFound, UnsupportedModality, AmbiguousSeries, ContrastAbsent,
    NoCandidateSeries, and the archive's refusal of the caller's series; details list the candidates.
    """
    if series_instance_uid is not None:
        return _apply_caller_choice(candidates, series_instance_uid)
    open_ones = [candidate for candidate in candidates if candidate.refused is None]
    details = {"candidates": [_summary(candidate) for candidate in candidates]}
    if not open_ones:
        without = [c for c in candidates if c.refused == ContrastAbsent.code]
        if without:
            raise ContrastAbsent(
                f"None of the {len(candidates)} series is post-contrast. {without[0].message}", details
            )
        raise NoCandidateSeries(
            f"None of the study's {len(candidates)} series can be segmented. {_refusals(candidates)}", details
        )
    proven = [candidate for candidate in open_ones if candidate.contrast == "proven"]
    lost = [c for c in candidates if _is_refused_post_contrast_t1(c)]
    if not proven and lost:
        # Another T1 is then most likely the pre-contrast one.
        raise NoCandidateSeries(
            f"Series {lost[0].series_instance_uid} is proven to be post-contrast, but is refused: "
            f"{lost[0].message}",
            details,
        )
    if not proven and len(open_ones) > 1:
        raise AmbiguousSeries(
            f"None of {len(open_ones)} T1 series is proven to be post-contrast: {_names(open_ones)}.", details
        )
    best, *runners_up = proven or open_ones
    rivals = [candidate for candidate in runners_up if best.score - candidate.score < TIE]
    if rivals:
        raise AmbiguousSeries(
            f"{len(rivals) + 1} series fit equally well: {_names([best, *rivals])}.", details
        )
    return best if proven else replace(best, warnings=(*best.warnings, *_describe_rivals(candidates)))


def _is_refused_post_contrast_t1(candidate: Candidate) -> bool:
    """Return whether a refused series is proven to be post-contrast and may be a T1."""
    if candidate.contrast != "proven" or candidate.refused is None:
        return False
    return candidate.undecided or candidate.refused not in REFUSED_BY_KIND


def _describe_rivals(candidates: Sequence[Candidate]) -> list[str]:
    """Return a sentence for each refused series that is post-contrast, or that could not be examined."""
    sentences = []
    for candidate in candidates:
        described = f"{candidate.description or 'no description'}, {candidate.series_instance_uid}"
        unread_t1 = candidate.refused in UNREAD_REFUSALS and candidate.sequence == T1
        if candidate.refused is not None and candidate.contrast == "proven":
            sentences.append(f"Another series is post-contrast ({described}), but: {candidate.message}")
        elif unread_t1 or (candidate.refused is not None and candidate.undecided):
            sentences.append(f"Another series was not considered ({described}): {candidate.message}")
    return sentences


def _refusals(candidates: Sequence[Candidate]) -> str:
    """Return why each series is refused: the right kind first, series that are not MR last."""
    ordered = sorted(
        candidates, key=lambda c: (c.refused == UnsupportedModality.code, c.refused in REFUSED_BY_KIND)
    )
    named = [f"{c.description or 'no description'}: {c.message}" for c in ordered[:REFUSED_NAMED]]
    return " ".join(named) + (" ..." if len(ordered) > REFUSED_NAMED else "")


def _names(candidates: Sequence[Candidate]) -> str:
    return ", ".join(
        f"{c.description or 'no description'} (score {c.score:g}, {c.series_instance_uid})"
        for c in candidates
    )


def _apply_caller_choice(candidates: Sequence[Candidate], series_instance_uid: str) -> Candidate:
    for candidate in candidates:
        if candidate.series_instance_uid != series_instance_uid:
            continue
        if error := NOT_OVERRIDABLE.get(candidate.refused or ""):
            raise error(str(candidate.message))
        if candidate.message is None:
            return candidate
        return replace(
            candidate,
            reasons=(*candidate.reasons, "chosen by the user"),
            refused=None,
            message=None,
            warnings=(*candidate.warnings, f"Chosen by the user despite this problem: {candidate.message}"),
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
    kind = kind_of(first)
    try:
        if isinstance(instances, UnreadSeries):
            raise instances.refusal
        _refuse_by_kind(first, kind)
        frames = check_headers(instances)
        score, reasons = _evidence(first, frames, kind)
    except MetScopeError as error:
        refusal = error
    # Kept whatever the refusal, because the caller may still choose the series.
    warned = bool(kind.doubt) and text(first, "Modality") == "MR"
    doubts = (kind.doubt,) if warned and not (refusal and refusal.problem == kind.doubt) else ()
    return Candidate(
        series_instance_uid=text(first, "SeriesInstanceUID"),
        description=text(first, "SeriesDescription"),
        modality=text(first, "Modality"),
        score=round(score, 2),
        reasons=tuple(reasons),
        refused=refusal.code if refusal else None,
        message=refusal.problem if refusal else None,
        warnings=(*doubts, *kind.warnings),
        contrast=kind.contrast,
        sequence=kind.sequence,
        undecided=kind.sequence is None and kind.refusal is None,
    )


def _refuse_by_kind(first: Dataset, kind: SeriesKind) -> None:
    description = text(first, "SeriesDescription") or "no description"
    if kind.refusal is not None:
        raise kind.refusal
    if elsewhere := not_head(first):
        raise NotHead(f"The series shows {elsewhere}, not the head.")
    if kind.sequence is None:
        raise NotT1Weighted(f"Nothing proves that the series is T1-weighted ({description}).")
    if kind.sequence not in (T1, T1_POST_CONTRAST):
        raise NotT1Weighted(f"The series is a {kind.sequence} ({description}).")
    if kind.contrast == "denied":
        raise ContrastAbsent(kind.doubt)


def not_head(first: Dataset) -> str | None:
    """Return the body part, description or protocol that names another region than the head, or None."""
    body = text(first, "BodyPartExamined").lower()
    if body and not series_names.is_head(body):
        return body
    names = (text(first, keyword) for keyword in ("SeriesDescription", "ProtocolName"))
    return next((name for name in names if series_names.read(name).elsewhere), None)


def _evidence(first: Dataset, frames: Sequence[Frame], kind: SeriesKind) -> tuple[float, list[str]]:
    """Return the score and its reasons."""
    score = 0.0
    reasons = [finding.reason for finding in kind.findings if finding.contrast == "proven"]
    if reasons:
        score += CONTRAST_SCORE if kind.findings[0].contrast == "proven" else CONTRAST_WORD_SCORE
        score += CONTRAST_TWICE_SCORE * (len(reasons) - 1)
    if kind.word:
        score += T1_SCORE
        reasons.append(f"the description says {kind.word!r}")
    of_volume, more = volume_evidence(first, frames)
    return score + of_volume, reasons + more


def volume_evidence(first: Dataset, frames: Sequence[Frame]) -> tuple[float, list[str]]:
    """Return the score of a volume, whatever its sequence, and its reasons."""
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
