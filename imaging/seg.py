"""Writer of lesions as a DICOM Segmentation. ``imaging.seg_read`` reads one; ``read`` is re-exported here."""

from collections.abc import Sequence
from dataclasses import dataclass

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from imaging import codes
from imaging.derived import Algorithm, Edition, drawn_part, finished, reference, sources
from imaging.seg_read import Segment, read
from imaging.stack import Stack

__all__ = ["Colour", "Segment", "colour", "read", "write"]

# Okabe and Ito's colours without black, then others, each as distant as possible from those before it. All
# are saturated and not darker than L* 45, to stand out from grey and white matter and the black background.
PALETTE = (
    "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7", "#ff3b30", "#00e5ff", "#7cff4f",
    "#b57bff", "#ff5cf4", "#2f8cff", "#ff0087", "#69870f", "#ffa587", "#c3f0a5", "#00ffa5", "#c300ff",
    "#d24b5a", "#00a51e", "#a5782d", "#c3b4ff", "#2dffe1", "#ffd278", "#87c300", "#ff69c3", "#8769b4",
    "#a5ff87", "#ffa5ff", "#ff0f5a", "#4b69ff", "#a5a55a", "#69b45a", "#b4a51e", "#ff00b4", "#ff785a",
    "#00ff00", "#b4ff00", "#964bff", "#f0964b", "#b4d25a", "#b4694b", "#c35ac3", "#ff96a5", "#3c87d2",
    "#00ff78", "#69e1a5", "#2dc3b4",
)  # fmt: skip


# Characters of a Content Label, a DICOM Code String.
MAX_LABEL_LENGTH = 16


@dataclass(frozen=True)
class Colour:
    """A colour in two forms. hex: sRGB ``#rrggbb``; cielab: the three 16-bit values that DICOM stores."""

    hex: str
    cielab: tuple[int, int, int]


def colour(number: int) -> Colour:
    """Return the colour of segment ``number`` (from 1), the same everywhere; the palette repeats."""
    chosen = PALETTE[(number - 1) % len(PALETTE)]
    return Colour(chosen, hd.color.CIELabColor.from_string(chosen).value)


def write(
    stack: Stack,
    labels: hd.Volume,
    segments: Sequence[Segment],
    edition: Edition,
    previous: Dataset | None = None,
) -> Dataset:
    """Write a BINARY SEG of the frames that are not empty, as native Explicit VR Little Endian.

    The dataset is ready for ``save_as``.
    labels: integers (slices, rows, columns) on the stack's grid, 0 background, n the voxels of segment n.
    segments: numbered 1..n in this order, each with at least one voxel and with its codes.
    edition: without an algorithm if a person drew the segments, or if they were read from a SEG; the latter
    keep that SEG's description, ``described``.
    previous: the SEG of the version that this one corrects, of the same study; this one refers to it.
    Patient and study come from the stack's headers; missing values, and values that are not legal DICOM, are
    written empty, all text as UTF-8. For a source without a Frame of Reference UID one is derived from its
    Series Instance UID, always the same. Raises: ValueError if a caller breaks one of these rules, or passes
    a stack without headers (from NIfTI) or no segments (an empty SEG shows nothing).
    """
    _check(stack, labels, segments)
    stack, labels = drawn_part(stack, labels)
    read_again = not edition.corrected and any(segment.described is not None for segment in segments)
    if read_again:
        title, content = "Segments as another SEG describes them", ""
    else:
        title, content = edition.subject.name, _content(edition)
    encoded = hd.seg.Segmentation(
        source_images=sources(stack),
        # highdicom takes an integer array frame by frame, without a one-hot stack in memory.
        pixel_array=stack.volume.with_array(
            labels.array.astype(np.uint8 if len(segments) < 256 else np.uint16)
        ),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(segment, edition) for segment in segments],
        device_serial_number=edition.serial_number,
        series_description=edition.series_description(title, content, may_go_on=True),
        content_label="SEGMENTS"
        if read_again
        else edition.subject.name.upper().replace(" ", "_")[:MAX_LABEL_LENGTH],
        content_description=edition.content_description(title, content),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        omit_empty_frames=True,
        **edition.attributes("SEG", previous),
    )
    dataset = finished(encoded, stack, edition)
    if previous is not None:
        _refer_to(previous, dataset)
    return dataset


def _content(edition: Edition) -> str:
    if edition.algorithm is not None:
        return "AI segmentation"
    return "corrected segmentation" if edition.version > 1 else "manual segmentation"


def _refer_to(previous: Dataset, dataset: Dataset) -> None:
    """State in the dataset, in place, that it is derived from the previous SEG too.

    That SEG's series stays out of ReferencedSeriesSequence: OHIF would take the first of the series there
    that it has loaded for the images, and then fail to draw the SEG.
    """
    dataset.SourceInstanceSequence = [reference(previous)]


def _check(stack: Stack, labels: hd.Volume, segments: Sequence[Segment]) -> None:
    numbers = [segment.number for segment in segments]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise ValueError(f"segments must be numbered 1, 2, 3 ... in this order, not {numbers}")
    if not stack.headers:
        raise ValueError("a SEG needs the DICOM headers of its source")
    if labels.shape != stack.volume.shape or not np.allclose(labels.affine, stack.volume.affine, atol=1e-4):
        raise ValueError("labels must lie on the stack's own grid")
    values = np.unique(labels.array[labels.array != 0]).tolist()
    if values != numbers:
        raise ValueError(f"labels hold the values {values}, the segments are {numbers}")


def _description(segment: Segment, edition: Edition) -> hd.seg.SegmentDescription:
    if segment.category is None or segment.type is None:
        raise ValueError(f"segment {segment.number} has no category or type")
    kinds, algorithm, anatomy = hd.seg.SegmentAlgorithmTypeValues, edition.algorithm, edition.subject.anatomy
    description = hd.seg.SegmentDescription(
        segment_number=segment.number,
        segment_label=segment.name,
        segmented_property_category=segment.category,
        segmented_property_type=segment.type,
        algorithm_type=kinds.AUTOMATIC if algorithm else kinds.MANUAL,
        algorithm_identification=_identification(algorithm) if algorithm else None,
        tracking_uid=segment.tracking_uid,
        tracking_id=segment.tracking_id,
        anatomic_regions=[anatomy] if anatomy else None,
        display_color=hd.color.CIELabColor.from_string(segment.colour or colour(segment.number).hex),
    )
    description.update(segment.described or {})
    return description


def _identification(algorithm: Algorithm) -> hd.AlgorithmIdentificationSequence:
    return hd.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=codes.ARTIFICIAL_INTELLIGENCE,
        version=algorithm.version,
        parameters={"weights_sha256": algorithm.sha256, **algorithm.parameters},
    )
