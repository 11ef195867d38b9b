"""DICOM MR instances of a synthetic patient from any volume, for the demonstration and the tests.

The instances are valid (dciodvfy finds no error) and complete; callers that need a corrupted series derive it
from these. The classic form is one MR Image per slice, the enhanced one a single multi-frame instance.
"""

from dataclasses import dataclass
from typing import Literal

import gdcm
import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    PYDICOM_IMPLEMENTATION_UID,
    UID,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from unetr.synthesis.phantom_enhanced_mr import add_functional_groups

Pixels = NDArray[np.integer]


@dataclass(frozen=True)
class SeriesOptions:
    """The headers and encoding of a synthetic series.

    contrast: ContrastBolusAgent names the agent. enhanced: one multi-frame instance whose geometry is in
    shared or in per-frame functional groups (positions always in the latter).
    transfer_syntax: little or big endian, RLE, JPEG-LS, JPEG 2000 or JPEG Lossless. order: of the instances
    or frames, including their InstanceNumber. orientation_jitter: largest rounding error of a direction
    cosine and of a position in mm, as scanners write them. seed: of order and jitter.
    study_instance_uid: of a study that this series joins.
    uid_seed: makes the UIDs reproducible; within a study, series then need different series numbers.
    """

    description: str = "T1 MPRAGE post Gd"
    contrast: bool = True
    enhanced: Literal["shared", "per_frame"] | None = None
    transfer_syntax: str = ExplicitVRLittleEndian
    order: Literal["ascending", "reversed", "shuffled"] = "ascending"
    orientation_jitter: float = 0.0
    series_number: int = 3
    patient_id: str = "PHANTOM-1"
    study_date: str = "20250314"
    study_instance_uid: str | None = None
    series_instance_uid: str | None = None
    seed: int = 0
    uid_seed: str | None = None


def to_instances(volume: hd.Volume, options: SeriesOptions | None = None) -> list[Dataset]:
    """Return a volume as instances of one series.

    volume: (slice, row, column), affine index -> LPS mm, axes perpendicular. Integers that fit 16 bits are
    stored unchanged; other values as 16 bits with RescaleSlope and RescaleIntercept, exact to 1/65535 of
    their range. Raises: ValueError if a transfer syntax has no encoder.
    """
    options = options or SeriesOptions()
    pixels, slope, intercept = _quantise(volume.array)
    series = _series(volume, options)
    if (slope, intercept) != (1.0, 0.0) and options.enhanced is None:
        series.RescaleSlope, series.RescaleIntercept, series.RescaleType = _ds(slope), _ds(intercept), "US"
    rng = np.random.default_rng(options.seed)
    planes = [_plane(volume, index, options.orientation_jitter, rng) for index in range(volume.shape[0])]
    order = _order(volume.shape[0], options, rng)
    if options.enhanced is not None:
        instance = _multiframe(series, pixels[order], options)
        shared = options.enhanced == "shared"
        add_functional_groups(instance, [planes[i] for i in order], (slope, intercept), shared)
        return [instance]
    return [
        _single(series, planes[index], pixels[index], number, options)
        for number, index in enumerate(order, start=1)
    ]


def _quantise(array: NDArray[np.generic]) -> tuple[Pixels, float, float]:
    """Return stored values, slope and intercept."""
    low, high = float(array.min()), float(array.max())
    for stored in (np.uint16, np.int16):
        limits = np.iinfo(stored)
        if np.issubdtype(array.dtype, np.integer) and limits.min <= low and high <= limits.max:
            return array.astype(stored), 1.0, 0.0
    # Rounded to the decimal string, so that slope and intercept are exactly those that will be read.
    slope, intercept = float(_ds((high - low) / 65535)) or 1.0, float(_ds(low))
    scaled = np.rint((array.astype(np.float64) - intercept) / slope)
    return np.clip(scaled, 0, 65535).astype(np.uint16), slope, intercept


def _order(count: int, options: SeriesOptions, rng: np.random.Generator) -> list[int]:
    indices = np.arange(count)
    if options.order == "reversed":
        indices = indices[::-1]
    elif options.order == "shuffled":
        indices = rng.permutation(indices)
    return [int(index) for index in indices]


def _series(volume: hd.Volume, options: SeriesOptions) -> Dataset:
    """Return the attributes that all instances have in common."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = options.study_date
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101500"
    ds.AccessionNumber = ""
    ds.Modality = "MR"
    ds.Manufacturer = "MetScope"
    ds.ManufacturerModelName = "Phantom"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "MRI head"
    ds.SeriesDescription = options.description
    ds.PatientName = "Phantom^MetScope"
    ds.PatientID = options.patient_id
    ds.PatientBirthDate = "19600101"
    ds.PatientSex = "O"
    ds.PatientPosition = "HFS"
    ds.BodyPartExamined = "BRAIN"
    ds.MagneticFieldStrength = "3"
    ds.StudyInstanceUID = options.study_instance_uid or _uid(options, "study")
    ds.SeriesInstanceUID = options.series_instance_uid or _uid(options, "series", options.series_number)
    ds.FrameOfReferenceUID = volume.frame_of_reference_uid or _uid(options, "frame")
    ds.PositionReferenceIndicator = ""
    ds.StudyID = "1"
    ds.SeriesNumber = options.series_number
    ds.AcquisitionNumber = 1
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = volume.shape[1], volume.shape[2]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    low, high = (float(value) for value in np.quantile(volume.array, [0.01, 0.999]))
    ds.WindowCenter, ds.WindowWidth = _ds((low + high) / 2), _ds(max(high - low, 1.0))
    if options.contrast:
        ds.ContrastBolusAgent = "Gadobutrol"
    return ds


def _plane(volume: hd.Volume, index: int, jitter: float, rng: np.random.Generator) -> Dataset:
    """Return the geometry of one slice by DICOM keyword."""
    slice_mm, row_mm, column_mm = volume.spacing
    cosines = np.concatenate([volume.direction[:, 2], volume.direction[:, 1]])
    position = volume.affine[:3, 3] + volume.affine[:3, 0] * index
    plane = Dataset()
    plane.ImageOrientationPatient = [_ds(c) for c in cosines + rng.uniform(-jitter, jitter, 6)]
    plane.ImagePositionPatient = [_ds(p) for p in position + rng.uniform(-jitter, jitter, 3)]
    plane.PixelSpacing = [_ds(row_mm), _ds(column_mm)]
    plane.SliceThickness = _ds(slice_mm)
    plane.SpacingBetweenSlices = _ds(slice_mm)
    return plane


def _single(series: Dataset, plane: Dataset, pixels: Pixels, number: int, options: SeriesOptions) -> Dataset:
    ds = Dataset()
    ds.update(series)
    ds.update(plane)
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = _uid(options, "instance", ds.SeriesInstanceUID, number)
    ds.InstanceNumber = number
    ds.ScanningSequence = ["GR", "IR"]
    ds.SequenceVariant = ["SK", "SP", "MP"]
    ds.ScanOptions = ""
    ds.MRAcquisitionType = "3D"
    ds.RepetitionTime, ds.EchoTime, ds.InversionTime = "2300", "2.98", "900"
    ds.EchoTrainLength = "1"
    ds.FlipAngle = "9"
    _attach(ds, pixels[None], options)
    return ds


def _multiframe(series: Dataset, pixels: Pixels, options: SeriesOptions) -> Dataset:
    ds = Dataset()
    ds.update(series)
    del ds.WindowCenter, ds.WindowWidth, ds.AcquisitionDate, ds.AcquisitionTime
    ds.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.SOPClassUID = EnhancedMRImageStorage
    ds.SOPInstanceUID = _uid(options, "instance", ds.SeriesInstanceUID, 1)
    ds.InstanceNumber = 1
    ds.NumberOfFrames = len(pixels)
    _attach(ds, pixels, options)
    return ds


def _attach(ds: Dataset, frames: Pixels, options: SeriesOptions) -> None:
    """Add pixel data (frames, rows, columns) and the file meta information that names their encoding."""
    ds.PixelRepresentation = int(np.issubdtype(frames.dtype, np.signedinteger))
    syntax = UID(options.transfer_syntax)
    native = frames.astype(frames.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
    if syntax.is_compressed and syntax.is_encapsulated:
        size = len(native) // len(frames)
        ds.PixelData = encapsulate(
            [compress(native[i * size : (i + 1) * size], ds, syntax) for i in range(len(frames))]
        )
        ds["PixelData"].VR = "OB"
    else:
        ds.PixelData = native
        ds["PixelData"].VR = "OW"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.ImplementationClassUID = PYDICOM_IMPLEMENTATION_UID


def compress(frame: bytes, ds: Dataset, syntax: UID, bits: int = 16, signed: bool | None = None) -> bytes:
    """Encode a frame without loss. pydicom itself encodes neither JPEG 2000 nor JPEG Lossless here.

    bits, signed: the format that the codec is told; by default all 16 bits, and the sign of the header.
    """
    gdcm_syntax = gdcm.TransferSyntax.GetTSType(str(syntax))
    # The writer owns the image, so it must outlive it.
    writer = gdcm.ImageWriter()
    image = writer.GetImage()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((ds.Columns, ds.Rows, 1))
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.ImplicitVRLittleEndian))
    pixel_representation = ds.PixelRepresentation if signed is None else int(signed)
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, bits, bits - 1, pixel_representation))
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(frame)
    image.SetDataElement(element)
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm_syntax))
    change.SetInput(image)
    if not change.Change():
        raise ValueError(f"no encoder for transfer syntax {syntax.name}")
    encoded = change.GetOutput().GetDataElement().GetSequenceOfFragments().GetFragment(0)
    text: str = encoded.GetByteValue().GetBuffer()
    # gdcm's wrapper returns bytes as text.
    return text.encode("utf-8", "surrogateescape")


def _uid(options: SeriesOptions, *names: object) -> str:
    if options.uid_seed is None:
        return str(generate_uid())
    sources = [options.uid_seed, options.patient_id, options.study_date, *names]
    return str(generate_uid(entropy_srcs=[str(source) for source in sources]))


def _ds(value: float) -> str:
    """Return a decimal string of at most 16 characters, so about 1e-12 mm."""
    return format_number_as_ds(float(value))
