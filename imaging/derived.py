"""What an object derived from a stack takes from its source: patient, study, references to the images."""

from dataclasses import replace

import highdicom as hd
import numpy as np
from pydicom import Dataset, config
from pydicom.datadict import dictionary_VR
from pydicom.multival import MultiValue
from pydicom.uid import generate_uid
from pydicom.valuerep import DA, TM, validate_value

from imaging.stack import Stack

# Type 2 attributes of the patient and study modules: in every object, empty where nothing legal is known.
REQUIRED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber",
)  # fmt: skip
OPTIONAL = ("StudyDescription", "PatientAge", "IssuerOfPatientID")


def bare(header: Dataset, stack: Stack) -> Dataset:
    """The source image reduced to what highdicom needs to refer to it.

    highdicom copies patient and study unchecked, logs an unusual patient's name and stumbles over header
    values it does not expect, so it never sees the real headers.
    """
    source = Dataset()
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(source, keyword, header[keyword].value)
    source.FrameOfReferenceUID = stack.volume.frame_of_reference_uid or generate_uid(
        entropy_srcs=["frame of reference", header.SeriesInstanceUID]
    )
    source.Rows, source.Columns = stack.volume.shape[1:]
    for keyword in REQUIRED:
        setattr(source, keyword, None)
    if header.get("LossyImageCompression") == "01":
        for keyword in ("", "Ratio", "Method"):
            if f"LossyImageCompression{keyword}" in header:
                source[f"LossyImageCompression{keyword}"] = header[f"LossyImageCompression{keyword}"]
    return source


def inherit(dataset: Dataset, header: Dataset) -> None:
    """In place: patient and study of the source, where the value there is legal DICOM; else empty."""
    # Otherwise pydicom logs illegal values, which here are a birth date or an ID.
    with config.disable_value_validation():
        for keyword in REQUIRED:
            setattr(dataset, keyword, _legal(header, keyword))
        for keyword in OPTIONAL:
            if value := _legal(header, keyword):
                setattr(dataset, keyword, value)
        # An archive files a study under its patient's ID: any other, legal or not, parts SEG and source.
        dataset.PatientID = header.get("PatientID", "")


def drawn_part(stack: Stack, drawn: hd.Volume) -> tuple[Stack, hd.Volume]:
    """From the first slice that is not all 0 to the last: no frame shows or references what is outside."""
    slices = np.flatnonzero(drawn.array.any(axis=(1, 2)))
    part = slice(int(slices[0]), int(slices[-1]) + 1)
    # A multi-frame image has one header for all its slices.
    headers = stack.headers if stack.slices[0].frame is not None else stack.headers[part]
    shown = replace(stack, volume=stack.volume[part], slices=stack.slices[part], headers=headers)
    return shown, drawn[part]


def sources(stack: Stack) -> list[Dataset]:
    """Source images as highdicom wants them, reduced to what it needs and with the geometry of the volume."""
    volume = stack.volume
    positions = volume.get_plane_positions()
    if stack.slices[0].frame is None:
        images = [bare(header, stack) for header in stack.headers]
        for source, position in zip(images, positions, strict=True):
            source.ImageOrientationPatient = volume.get_plane_orientation()[0].ImageOrientationPatient
            source.ImagePositionPatient = position[0].ImagePositionPatient
            source.update(volume.get_pixel_measures()[0])
        return images
    # highdicom takes one multi-frame image: one whose frames are the slices of the volume, from however many
    # instances they are. _reference_frames translates them to the frames of the real images.
    source = bare(stack.headers[0], stack)
    shared = Dataset()
    shared.PlaneOrientationSequence = volume.get_plane_orientation()
    shared.PixelMeasuresSequence = volume.get_pixel_measures()
    source.SharedFunctionalGroupsSequence = [shared]
    source.PerFrameFunctionalGroupsSequence = []
    for position in positions:
        frame = Dataset()
        frame.PlanePositionSequence = position
        source.PerFrameFunctionalGroupsSequence.append(frame)
    source.NumberOfFrames = len(positions)
    return [source]


def finished(encoded: hd.SOPClass, stack: Stack) -> Dataset:
    """A plain dataset with the patient and study of the source, and its real instances and frames."""
    dataset = Dataset(encoded)
    dataset.file_meta, dataset.preamble = encoded.file_meta, encoded.preamble
    inherit(dataset, stack.headers[0])
    if stack.slices[0].frame is not None:
        _reference_frames(dataset, stack)
    return dataset


def _reference_frames(dataset: Dataset, stack: Stack) -> None:
    """In place: the instance and frame of each slice instead of the frame of ``sources``."""
    references = {header.SOPInstanceUID: reference(header) for header in stack.headers}
    dataset.SourceImageSequence = list(references.values())
    dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence = list(references.values())
    groups = dataset.PerFrameFunctionalGroupsSequence
    images = [item for group in groups for item in group.DerivationImageSequence[0].SourceImageSequence]
    # By identity, as highdicom puts one and the same item into the frames of all segments of a slice.
    for image in {id(image): image for image in images}.values():
        slice_ = stack.slices[image.ReferencedFrameNumber - 1]
        image.update(references[slice_.sop_instance_uid])
        image.ReferencedFrameNumber = slice_.frame


def reference(header: Dataset) -> Dataset:
    """An item that names the image by its SOP class and instance."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return item


def _legal(header: Dataset, keyword: str) -> str:
    """The header's value as text, or "" where it is missing, illegal for its VR or has several parts.

    Bytes that are not in the header's character set are illegal too.
    """
    value = header.get(keyword)
    if value is None or isinstance(value, MultiValue):
        return ""
    text = str(value)
    vr = dictionary_VR(keyword)
    try:
        validate_value(vr, text, config.RAISE)
        if vr in ("DA", "TM"):
            {"DA": DA, "TM": TM}[vr](text)
    except ValueError:
        return ""
    if (
        not text.isprintable()
        or "\N{REPLACEMENT CHARACTER}" in text
        or (keyword == "PatientSex" and text not in ("M", "F", "O"))
    ):
        return ""
    return text
