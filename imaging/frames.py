"""The images of a series, frame by frame, from single-frame and multi-frame instances."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag
from pydicom.uid import UID, EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, MRImageStorage

from errors import (
    ColourImages,
    InconsistentImages,
    MissingGeometry,
    MosaicImage,
    UnreadableFile,
    UnsupportedModality,
)

Vector = NDArray[np.float64]

PIXEL_DESCRIPTION = ("PhotometricInterpretation", "Rows", "Columns", "BitsAllocated")
MULTI_FRAME = (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
SUPPORTED = (MRImageStorage, *MULTI_FRAME)

# Attributes that may distinguish several volumes in one series: the keyword in a single-frame image, then the
# functional group and the keyword in a multi-frame image.
DISCRIMINATORS = {
    "EchoNumbers": ("", ""),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "ImageType": ("MRImageFrameTypeSequence", "FrameType"),
    "ComplexImageComponent": ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
}


@dataclass(frozen=True)
class Frame:
    """One image of a series. index: its place in the instance, from 0; the numbers are as DICOM states them.

    orientation (6,): direction cosines of a row, then of a column; position (3,): centre of the first pixel,
    LPS mm; spacing_mm: between rows, between columns; thickness_mm: of the slice, if stated; labels: the
    discriminators present.
    """

    instance: Dataset
    index: int
    orientation: Vector
    position: Vector
    spacing_mm: tuple[float, float]
    thickness_mm: float | None
    slope: float
    intercept: float
    labels: Mapping[str, str]

    @property
    def number(self) -> int | None:
        """Return the 1-based frame number in a multi-frame image, otherwise None."""
        return self.index + 1 if is_multi_frame(self.instance) else None

    @property
    def name(self) -> str:
        """Return the name of this image for messages."""
        return name_of(self.instance) + (f" frame {self.number}" if self.number else "")


def frames_of(instance: Dataset) -> list[Frame]:
    """Return the frames of one MR instance in stored order; pixel data may be absent.

    Raises: UnsupportedModality, UnreadableFile, MosaicImage, ColourImages, MissingGeometry,
    InconsistentImages.
    """
    _check_kind(instance)
    count = text(instance, "NumberOfFrames")
    if not is_multi_frame(instance):
        if count not in ("", "1"):
            raise MissingGeometry(
                f"{name_of(instance)}: {tag_name('NumberOfFrames')} is {count} in an "
                f"{UID(instance.SOPClassUID).name} instance, which gives the position of only one frame."
            )
        labels = {keyword: text(instance, keyword) for keyword in DISCRIMINATORS}
        return [_frame(instance, 0, _Groups(instance, instance, instance), labels)]
    per_frame = instance.get("PerFrameFunctionalGroupsSequence") or []
    if not per_frame:
        raise MissingGeometry(
            f"{name_of(instance)} is an {UID(instance.SOPClassUID).name} without "
            f"{tag_name('PerFrameFunctionalGroupsSequence')}."
        )
    if count != str(len(per_frame)):
        raise MissingGeometry(
            f"{name_of(instance)}: {tag_name('NumberOfFrames')} is {count or 'missing'}, but "
            f"{tag_name('PerFrameFunctionalGroupsSequence')} has {len(per_frame)} items."
        )
    shared = (instance.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    frames = []
    for index, item in enumerate(per_frame):
        groups = _Groups(instance, item, shared)
        labels = {keyword: text(groups.group(*place), place[1]) for keyword, place in DISCRIMINATORS.items()}
        labels["SOPInstanceUID"] = str(instance.SOPInstanceUID)
        frames.append(_frame(instance, index, groups, labels))
    return frames


@dataclass(frozen=True)
class _Groups:
    """The functional groups of one frame: its own take precedence over the shared ones."""

    instance: Dataset
    own: Dataset
    shared: Dataset

    def group(self, sequence: str, _keyword: str = "") -> Dataset:
        """Return the item of that functional group, empty if missing; for a single-frame image, the image."""
        if self.own is self.instance:
            return self.instance
        if not sequence:
            return Dataset()
        items = self.own.get(sequence) or self.shared.get(sequence) or [Dataset()]
        item: Dataset = items[0]
        return item


def _frame(instance: Dataset, index: int, groups: _Groups, labels: Mapping[str, str]) -> Frame:
    frame_name = name_of(instance) + (f" frame {index + 1}" if groups.own is not instance else "")
    orientation = _required(
        groups.group("PlaneOrientationSequence"), "ImageOrientationPatient", 6, frame_name
    )
    position = _required(groups.group("PlanePositionSequence"), "ImagePositionPatient", 3, frame_name)
    spacing = _required(groups.group("PixelMeasuresSequence"), "PixelSpacing", 2, frame_name)
    gram = orientation.reshape(2, 3) @ orientation.reshape(2, 3).T
    if not np.allclose(gram, np.eye(2), atol=1e-3):
        raise MissingGeometry(
            f"{frame_name}: {tag_name('ImageOrientationPatient')} is not a pair of perpendicular unit "
            f"vectors: {numbers_text(orientation)}."
        )
    if spacing.min() <= 0:
        raise MissingGeometry(f"{frame_name}: {tag_name('PixelSpacing')} is {numbers_text(spacing)}.")
    rescale = groups.group("PixelValueTransformationSequence")
    slope, intercept = (
        _optional(rescale, "RescaleSlope", 1.0, frame_name),
        _optional(rescale, "RescaleIntercept", 0.0, frame_name),
    )
    if slope == 0:
        raise InconsistentImages(f"{frame_name}: {tag_name('RescaleSlope')} is 0.")
    thickness = numbers(groups.group("PixelMeasuresSequence"), "SliceThickness")
    present = {keyword: value for keyword, value in labels.items() if value}
    return Frame(
        instance,
        index,
        orientation,
        position,
        (float(spacing[0]), float(spacing[1])),
        None if thickness is None else float(thickness[0]),
        slope,
        intercept,
        present,
    )


def _check_kind(instance: Dataset) -> None:
    instance_name = name_of(instance)
    modality = text(instance, "Modality") or "missing"
    if modality != "MR":
        raise UnsupportedModality(f"{instance_name}: {tag_name('Modality')} is {modality}, not MR.")
    if instance.get("SOPClassUID") not in SUPPORTED:
        kind = UID(text(instance, "SOPClassUID") or "missing").name
        raise UnsupportedModality(f"{instance_name}: {tag_name('SOPClassUID')} is {kind}, not an MR image.")
    if not any(keyword in instance for keyword in PIXEL_DESCRIPTION):
        raise UnreadableFile(f"{instance_name} is damaged: it ends before it describes its pixels.")
    if is_mosaic(instance):
        tiled = "MOSAIC" in image_type(instance)
        sign = f"{tag_name('ImageType')} says MOSAIC" if tiled else "Siemens' NumberOfImagesInMosaic is there"
        raise MosaicImage(f"{instance_name}: {sign}, several slices in one image.")
    photometric = text(instance, "PhotometricInterpretation") or "missing"
    # MONOCHROME1 shows high values dark: a T1 image in it is stored inverted, unlike any training data.
    if photometric != "MONOCHROME2":
        raise ColourImages(
            f"{instance_name}: {tag_name('PhotometricInterpretation')} is {photometric}, not MONOCHROME2."
        )
    samples = text(instance, "SamplesPerPixel")
    if samples not in ("", "1"):
        raise ColourImages(f"{instance_name}: {tag_name('SamplesPerPixel')} is {samples}, not 1.")
    for keyword in ("Rows", "Columns"):
        if not text(instance, keyword).isdecimal() or int(text(instance, keyword)) == 0:
            raise MissingGeometry(
                f"{instance_name}: {tag_name(keyword)} is {text(instance, keyword) or 'missing'}."
            )


def is_multi_frame(instance: Dataset) -> bool:
    return instance.get("SOPClassUID") in MULTI_FRAME


def is_mosaic(instance: Dataset) -> bool:
    """Return whether an image tiles all slices of a volume (Siemens), by ImageType or the private count."""
    if "MOSAIC" in image_type(instance):
        return True
    creators = [instance.get((0x0019, block)) for block in range(0x10, 0x20)]
    for block, creator in enumerate(creators, start=0x10):
        if creator is not None and str(creator.value) == "SIEMENS MR HEADER":
            return instance.get((0x0019, block << 8 | 0x0A)) is not None
    return False


def image_type(instance: Dataset) -> tuple[str, ...]:
    return tuple(value.strip().upper() for value in text(instance, "ImageType").split("\\"))


def text(ds: Dataset, keyword: str) -> str:
    """Return the value as text, several joined by a backslash; empty if it is missing or illegal."""
    try:
        value = ds.get(keyword)
    except (ValueError, TypeError, OverflowError):
        return ""
    if value is None:
        return ""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    return "\\".join(str(item) for item in values)


def items(ds: Dataset, keyword: str) -> list[Dataset]:
    """Return the items of a sequence; an empty list if it is missing or illegal."""
    try:
        value = ds.get(keyword)
    except (ValueError, TypeError, OverflowError):
        return []
    return list(value) if isinstance(value, DicomSequence) else []


def first_group(instance: Dataset, sequence: str, keyword: str) -> Dataset:
    """Return the functional group of the first frame, or the shared one, that has the attribute.

    If neither has it, return the instance itself, which holds the attributes of a classic image.
    """
    frames = items(instance, "PerFrameFunctionalGroupsSequence")[:1]
    for groups in frames + items(instance, "SharedFunctionalGroupsSequence"):
        for group in items(groups, sequence):
            if text(group, keyword):
                return group
    return instance


def numbers(ds: Dataset, keyword: str) -> Vector | None:
    """Return the values as numbers; None if the attribute is missing or empty, or a value is not finite."""
    try:
        values = [float(value) for value in text(ds, keyword).split("\\")]
    except ValueError:
        return None
    return np.array(values) if all(math.isfinite(value) for value in values) else None


def whole_number(ds: Dataset, keyword: str) -> int | None:
    """Return the value as an integer; None if it is missing, not a whole number or has several parts."""
    values = numbers(ds, keyword)
    return int(values[0]) if values is not None and len(values) == 1 and values[0].is_integer() else None


def _required(ds: Dataset, keyword: str, count: int, frame_name: str) -> Vector:
    values = numbers(ds, keyword)
    if values is None or len(values) != count:
        value = text(ds, keyword)
        raise MissingGeometry(f"{frame_name}: {tag_name(keyword)} is {value or 'missing'}.")
    return values


def _optional(ds: Dataset, keyword: str, default: float, frame_name: str) -> float:
    if not text(ds, keyword):
        return default
    values = numbers(ds, keyword)
    if values is None or len(values) != 1:
        raise InconsistentImages(f"{frame_name}: {tag_name(keyword)} is {text(ds, keyword)}.")
    return float(values[0])


def name_of(instance: Dataset) -> str:
    """Return the name of an instance for messages: the end of its SOP Instance UID, the part that differs."""
    return f"Instance ...{text(instance, 'SOPInstanceUID')[-12:]}"


def tag_name(keyword: str) -> str:
    tag = Tag(tag_for_keyword(keyword) or 0)
    return f"{keyword} ({tag.group:04X},{tag.element:04X})"


def numbers_text(values: Sequence[float] | Vector) -> str:
    return "\\".join(f"{value:.4g}" for value in values)
