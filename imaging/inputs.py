"""Selection of the series of a study that are the inputs of a model, one for each sequence that it takes.

For a model of post-contrast T1 alone, ``imaging.series`` chooses; it also accepts a T1 without proof of
contrast if it is the only one. The inputs of all other models are chosen here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import highdicom as hd
import numpy as np
from pydicom import Dataset

from errors import (
    AmbiguousSeries,
    DerivedSeries,
    InputsApart,
    LocalizerSeries,
    MetScopeError,
    MissingSequence,
    UnsupportedModality,
)
from imaging.frames import numbers, tag_name, text
from imaging.identity import count_patients
from imaging.sequences import SEQUENCES, T1_POST_CONTRAST
from imaging.series import TIE, Candidate, UnreadSeries, choose, not_head, rank, volume_evidence
from imaging.stack import Stack, check_headers

# Shares of the first input's volume: an input that covers less than the first shows another region; one that
# covers the second or more shows about the same region.
MIN_COVERED_SHARE = 0.1
WELL_COVERED = 0.9
# Series refused for these are never chosen automatically, whatever their sequence.
NO_IMAGES = (UnsupportedModality.code, LocalizerSeries.code, DerivedSeries.code)
# Sample points along each axis for that share.
SAMPLES = 16


def choose_inputs(
    series: Sequence[Sequence[Dataset]],
    names: Sequence[str],
    caller_choices: Mapping[str, str],
    *,
    head: bool,
) -> list[Candidate]:
    """Return the series of each input, in the order of the names, by the headers of a study's series.

    names: of ``imaging.sequences``. A model's only input may have another name; it takes a series of any
    sequence if there is only one. caller_choices: series by name, which overrule what a series seems to be.
    head: leave out series of other parts of the body. Raises: as ``series.choose``; MissingSequence,
    InputsApart; AmbiguousSeries if the choice is between patients.
    """
    _require_one_patient(series, names, caller_choices)
    candidates = rank(series)
    if list(names) == [T1_POST_CONTRAST]:
        return [choose(candidates, caller_choices.get(T1_POST_CONTRAST))]
    headers = {text(candidate[0], "SeriesInstanceUID"): candidate for candidate in series if candidate}
    free = [
        candidate for candidate in candidates if candidate.series_instance_uid not in caller_choices.values()
    ]
    chosen: list[Candidate] = []
    for name in names:
        if name in caller_choices:
            candidate = _apply_caller_choice(candidates, caller_choices[name], name)
        else:
            candidate = _choose_best(name, free, headers, chosen, alone=len(names) == 1, head=head)
        if len(names) > 1:
            candidate = replace(
                candidate, reasons=(f"{name}: series {candidate.series_instance_uid}", *candidate.reasons)
            )
        _check_frame_of_reference(candidate, name, chosen, headers)
        chosen.append(candidate)
    return chosen


def _require_one_patient(
    series: Sequence[Sequence[Dataset]], names: Sequence[str], caller_choices: Mapping[str, str]
) -> None:
    """Raise AmbiguousSeries if the images to choose from are of several patients, or if several studies have
    a series of the same UID. Only the caller can say which is meant.
    """
    named = set(caller_choices.values()) if caller_choices.keys() >= set(names) else None
    images = {
        (text(instances[0], "StudyInstanceUID"), text(instances[0], "SeriesInstanceUID")): instances[0]
        for instances in series
        if instances and text(instances[0], "Modality") == "MR"
    }
    eligible = {uids: first for uids, first in images.items() if named is None or uids[1] in named}
    listed = [
        {"series_instance_uid": series_uid, "description": text(first, "SeriesDescription")}
        for (_, series_uid), first in eligible.items()
    ]
    if (count := count_patients(eligible.values())) > 1:
        uids = ", ".join(series_uid for _, series_uid in eligible)
        raise AmbiguousSeries(
            f"The {len(eligible)} series to choose from are of {count} patients: {uids}.",
            {"candidates": listed},
        )
    for series_uid, studies in Counter(series_uid for _, series_uid in eligible).items():
        if studies > 1:
            raise AmbiguousSeries(f"{studies} studies have a series {series_uid}.", {"candidates": listed})


def check_together(stacks: Sequence[Stack], names: Sequence[str]) -> list[str]:
    """Return warnings, stored with the result, about inputs that show only a part of the first.

    Raises: InputsApart if one shows next to nothing of it.
    """
    warnings = []
    for stack, name in zip(stacks[1:], names[1:], strict=True):
        share = covered(stacks[0].volume, stack.volume)
        if share < MIN_COVERED_SHARE:
            raise InputsApart(f"The {name} covers {share:.0%} of the {names[0]}.")
        if share < WELL_COVERED:
            warnings.append(f"The {name} covers {share:.0%} of the {names[0]}.")
    return warnings


def covered(reference: hd.Volume, volume: hd.Volume) -> float:
    """Return the share of the reference's box that lies in the volume's, 0 to 1."""
    at = (np.arange(SAMPLES) + 0.5) / SAMPLES
    grid = np.stack(np.meshgrid(at, at, at, indexing="ij"), -1).reshape(-1, 3)
    points = reference.map_indices_to_reference(grid * reference.spatial_shape - 0.5)
    indices = volume.map_reference_to_indices(points)
    inside = (indices >= -0.5) & (indices <= np.array(volume.spatial_shape) - 0.5)
    return float(inside.all(axis=1).mean())


def _apply_caller_choice(candidates: Sequence[Candidate], series_instance_uid: str, name: str) -> Candidate:
    # Dropped, because the refusals and doubts of ``series`` apply to a post-contrast T1.
    candidate = choose(candidates, series_instance_uid)
    warnings: tuple[str, ...] = ()
    if name in SEQUENCES and candidate.sequence != name:
        seems = (
            f"identify it as {candidate.sequence}"
            if candidate.sequence
            else "do not identify it as a usual sequence"
        )
        warnings = (f"Chosen by the user as {name}, but its headers {seems}.",)
    return replace(candidate, score=0.0, reasons=("chosen by the user",), warnings=warnings)


def _choose_best(
    name: str,
    candidates: Sequence[Candidate],
    headers: Mapping[str, Sequence[Dataset]],
    chosen: Sequence[Candidate],
    *,
    alone: bool,
    head: bool,
) -> Candidate:
    """Return the best series of that sequence by its geometry; of equals the newest.

    Series in the frame of reference of the first input are preferred.
    Raises: MissingSequence, AmbiguousSeries.
    """
    is_recognisable = name in SEQUENCES
    if not is_recognisable and not alone:
        raise MissingSequence(f"The input {name} is not a sequence that can be recognised from the headers.")
    matches = []
    for candidate in candidates:
        instances = headers[candidate.series_instance_uid]
        fits = candidate.sequence == name if is_recognisable else candidate.refused not in NO_IMAGES
        if fits and not (head and not_head(instances[0])):
            matches.append(_judge_geometry(candidate, instances))
    usable = [candidate for candidate in matches if candidate.refused is None]
    if not matches:
        raise MissingSequence(f"None of the study's {len(headers)} series is a {name}.")
    if not usable:
        refusals = " ".join(
            f"{candidate.description or 'no description'}: {candidate.message}" for candidate in matches
        )
        raise MissingSequence(f"No {name} of the study can be used. {refusals}")
    if not is_recognisable and len(usable) > 1:
        listed = ", ".join(
            f"{candidate.description or 'no description'} ({candidate.series_instance_uid})"
            for candidate in usable
        )
        raise AmbiguousSeries(f"{len(usable)} series may be the {name}: {listed}.")
    reference = _frame_of_reference(headers, chosen[0]) if chosen else None
    near = [
        candidate for candidate in usable if chosen and _frame_of_reference(headers, candidate) == reference
    ] or usable
    best = max(candidate.score for candidate in near)
    equals = [candidate for candidate in near if best - candidate.score < TIE]
    newest = max(equals, key=lambda candidate: _creation_time(headers[candidate.series_instance_uid][0]))
    if len(equals) == 1:
        return newest
    return replace(newest, reasons=(*newest.reasons, f"the newest of {len(equals)} that fit equally well"))


def _judge_geometry(candidate: Candidate, instances: Sequence[Dataset]) -> Candidate:
    """Return the candidate with the score of its geometry, or refused because of it."""
    if isinstance(instances, UnreadSeries):
        return candidate
    try:
        score, reasons = volume_evidence(instances[0], check_headers(instances))
    except MetScopeError as error:
        return replace(candidate, refused=error.code, message=error.problem)
    return replace(
        candidate, score=round(score, 2), reasons=tuple(reasons), refused=None, message=None, warnings=()
    )


def _creation_time(first: Dataset) -> tuple[str, float]:
    """Return date and time as DICOM writes them, which sort as text, then the series number."""
    number = numbers(first, "SeriesNumber")
    when = text(first, "SeriesDate") + text(first, "SeriesTime")
    return when, 0.0 if number is None else float(number[0])


def _frame_of_reference(headers: Mapping[str, Sequence[Dataset]], candidate: Candidate) -> str:
    return text(headers[candidate.series_instance_uid][0], "FrameOfReferenceUID")


def _check_frame_of_reference(
    candidate: Candidate, name: str, chosen: Sequence[Candidate], headers: Mapping[str, Sequence[Dataset]]
) -> None:
    if not chosen:
        return
    theirs, ours = _frame_of_reference(headers, candidate), _frame_of_reference(headers, chosen[0])
    if theirs != ours:
        raise InputsApart(
            f"{tag_name('FrameOfReferenceUID')} of the {name} ({candidate.description or 'no description'}) "
            f"is {theirs or 'missing'}, but that of the first input is {ours or 'missing'}."
        )
