"""Whose labels a SEG object holds, by its headers alone."""

import pytest
from pydicom import Dataset

from imaging.labelled import labelled_series


def image(series: str, number: int) -> Dataset:
    header = Dataset()
    header.SeriesInstanceUID, header.SOPInstanceUID = series, f"{series}.{number}"
    return header


def seg(sources: list[str], claimed: list[str]) -> Dataset:
    """A SEG whose frames are derived from those images, a frame each."""
    header = Dataset()
    header.PerFrameFunctionalGroupsSequence = [frame(source) for source in sources]
    header.ReferencedSeriesSequence = [Dataset() for _ in claimed]
    for item, series in zip(header.ReferencedSeriesSequence, claimed, strict=True):
        item.SeriesInstanceUID = series
    return header


def frame(source: str) -> Dataset:
    reference, derivation, groups = Dataset(), Dataset(), Dataset()
    reference.ReferencedSOPInstanceUID = source
    derivation.SourceImageSequence = [reference]
    groups.DerivationImageSequence = [derivation]
    return groups


STUDY = [[image(series, number) for number in (1, 2)] for series in ("1.2.1", "1.2.2")]


@pytest.mark.parametrize(
    ("sources", "claimed", "series"),
    [
        (["1.2.1.1", "1.2.1.2"], ["1.2.1"], "1.2.1"),
        (["1.2.1.1", "1.2.1.2"], [], "1.2.1"),
        (["1.2.1.1", "1.2.1.2"], ["1.2.2"], "1.2.1"),
        (["1.2.1.1", "1.2.2.1"], ["1.2.1"], None),
        (["1.2.1.1", "1.2.1.9"], ["1.2.1"], "1.2.1"),
        (["1.2.1.1", "1.2.9.1"], ["1.2.9"], None),
        (["1.2.1.1", "1.2.1.9"], [], None),
        (["1.2.9.1", "1.2.9.2"], ["1.2.9"], "1.2.9"),
        (["1.2.9.1", "1.2.9.2"], ["1.2.1"], None),
        (["1.2.9.1", "1.2.9.2"], [], None),
    ],
    ids=[
        "as claimed", "nothing claimed", "another claimed", "of two series", "an image is gone",
        "an image of another series that is gone", "an image is gone, nothing claimed",
        "the series is gone", "images of nobody", "images of nobody, nothing claimed",
    ],
)  # fmt: skip
def test_the_images_of_the_frames_say_which_series_is_labelled(sources, claimed, series):
    assert labelled_series(seg(sources, claimed), STUDY) == series
