"""What an object derived from a stack takes from its source: patient, study, references to the images."""

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
