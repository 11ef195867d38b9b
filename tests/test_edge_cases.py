"""The DICOM edge cases that users of comparable software suffer from: one row each, in the list's order.

Every series is the phantom's, spoiled on purpose, and goes the whole way: archive, choice of the series,
volume, a threshold for a model, measurement, SEG, archive and back. It ends with each lesion at its place in
the patient, or with a refusal before any prediction whose message names tag, slice or value. With
``pytest -sq`` each row prints: case | expected | seen.

Two cases are missing, as MetScope receives nothing by DIMSE yet: a series that comes over two associations,
and a study that is called stable twice.
"""

import copy
import csv
import json
import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import highdicom as hd
import nibabel
import numpy as np
import pytest
import requests
from pydicom import Dataset, config, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from scipy.spatial import KDTree

import cli
import context
import findings
import segmentation
from bench.parts import free_port
from bench.rows import threshold
from errors import MetScopeError, UnreadableFile
from imaging import seg
from imaging.series import Candidate
from imaging.stack import Stack, to_stack
from orthanc import part10
from orthanc.archive import Archive
from orthanc.folder import FolderArchive
from settings import Settings
from tests import fake_pacs
from tests.imaging.test_seg import BRIGHT, SERIES, SHAPE, assert_legal, lesion_numbers
from tests.imaging.test_seg_read import as_edited_in_ohif, renumber
from tests.orthanc.test_faults import archive_at
from tests.orthanc.test_orthanc import archive_of
from unetr.served import default_model
from unetr.synthesis.phantom import SeriesOptions, to_instances

AXIAL = SERIES["axial"][0]
# The phantom's lesions, the largest first: as MetScope numbers them.
LESIONS = (2, 1, 3, 4)
SPEC = default_model(Settings(_env_file=None).models_dir)
PLACED_WITHIN_MM = 0.01
# What a refusal may take of memory, whatever the headers claim.
REFUSED_WITHIN_BYTES = 20_000_000
# Of the proven series with a gap, which the refusal has to name.
LOST_SERIES_UID = "1.2.826.0.1.3680043.10.511.4.1"
SYNTAXES = {
    "JPEG Lossless": JPEGLosslessSV1, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless,
    "RLE": RLELossless, "big endian": ExplicitVRBigEndian, "implicit VR": ImplicitVRLittleEndian,
}  # fmt: skip
NAMES = {
    "Cyrillic": "Иванова^Анна", "Japanese": "Yamada^Tarou=山田^太郎=やまだ^たろう", "Umlauts": "Müller^Zoë"
}  # fmt: skip


# Series: the phantom's, and ways to spoil it


def series(
    geometry: np.ndarray = AXIAL, lesions: Sequence[int] = LESIONS, **options: object
) -> list[Dataset]:
    """A T1 after contrast: noise, and these lesions much brighter. The instances share nothing."""
    numbers = np.where(np.isin(lesion_numbers(), lesions), lesion_numbers(), 0)
    noise = np.random.default_rng(4).integers(80, 120, SHAPE)
    image = np.where(numbers > 0, numbers + BRIGHT, noise).astype(np.uint16)
    instances = to_instances(hd.Volume(image, geometry, "PATIENT"), SeriesOptions(**options))
    return [copy.deepcopy(instance) for instance in instances]


def with_attributes(instances: list[Dataset], **attributes: object) -> list[Dataset]:
    """In place, in each of them, legal or not; None removes an attribute."""
    with config.disable_value_validation():
        for instance in instances:
            for keyword, value in attributes.items():
                if value is None:
                    delattr(instance, keyword)
                else:
                    setattr(instance, keyword, value)
    return instances


def everywhere(**attributes: object) -> list[Dataset]:
    return with_attributes(series(), **attributes)


def set_by_number(keyword: str, value: Callable[[int], object]) -> list[Dataset]:
    """A value by the index of each instance."""
    instances = series()
    for index, instance in enumerate(instances):
        with_attributes([instance], **{keyword: value(index)})
    return instances


def double(**attributes: object) -> list[Dataset]:
    """Every slice again, as other instances with these attributes."""
    first = series()
    second = with_attributes(copy.deepcopy(first), **attributes)
    for instance in second:
        instance.SOPInstanceUID = instance.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return first + second


def sent_twice() -> list[Dataset]:
    return 2 * series()


def with_gap(**options: object) -> list[Dataset]:
    instances = series(**options)
    return instances[:4] + instances[5:]


def three_planes(**attributes: object) -> list[Dataset]:
    """Five slices in each of three orientations, all in one series."""
    ours = {"study_instance_uid": generate_uid(), "series_instance_uid": generate_uid()}
    planes = [series(SERIES[name][0], **ours)[:5] for name in ("axial", "sagittal", "coronal")]
    return with_attributes([instance for plane in planes for instance in plane], **attributes)


def tilt() -> list[Dataset]:
    x, y, z = AXIAL[:3, 3]
    return set_by_number("ImagePositionPatient", lambda n: [x, y + 0.5 * n, z + 1.5 * n])


def rescale() -> list[Dataset]:
    """Another slope in each slice: without it, the noise of the later ones is brighter than a lesion."""
    instances = series()
    for factor, instance in enumerate(instances, start=1):
        instance.PixelData = (instance.pixel_array * factor).tobytes()
        instance.RescaleSlope, instance.RescaleIntercept = f"{1 / factor:.12f}", "0"
    return instances


def misname(written_in: str, claimed: str) -> list[Dataset]:
    """The umlauts' name in one character set under the name of another; both names are of ten characters."""
    instances = everywhere(SpecificCharacterSet=written_in, PatientName=NAMES["Umlauts"])
    files = [part10.encode(instance) for instance in instances]
    return [dcmread(BytesIO(file.replace(written_in.encode(), claimed.encode()))) for file in files]


def constant() -> list[Dataset]:
    """As a decoder that fails in silence hands it over."""
    volume = hd.Volume(np.zeros(SHAPE, np.uint16), AXIAL, "PATIENT")
    return to_instances(volume, SeriesOptions(transfer_syntax=JPEGLSLossless))


def beside_an_unproven_t1() -> list[Dataset]:
    """The post-contrast series lacks a slice, and the study's only other T1 says nothing of contrast."""
    proven = with_gap(series_instance_uid=LOST_SERIES_UID)
    study_uid = proven[0].StudyInstanceUID
    unproven = series(description="T1 MPRAGE sag", contrast=False, study_instance_uid=study_uid)
    return with_attributes(unproven, FrameOfReferenceUID=proven[0].FrameOfReferenceUID) + proven


def compressed_with(syntax: str, **attributes: object) -> list[Dataset]:
    return with_attributes(series(transfer_syntax=syntax), **attributes)


def cut_in_the_codestream() -> list[Dataset]:
    instances = series(transfer_syntax=JPEGLSLossless)
    for instance in instances:
        # Within the only fragment, whose length is kept.
        half = len(instance.PixelData) // 2
        instance.PixelData = instance.PixelData[:half].ljust(len(instance.PixelData), b"\0")
    return instances


# The way of a series, and what comes of it


class Place(NamedTuple):
    """Where a row works: a folder of its own, and the fixtures that it asks for."""

    folder: Path
    request: pytest.FixtureRequest

    def archive(self, instances: Sequence[Dataset], name: str = "archive") -> FolderArchive:
        """These in an archive, as files that somebody put there."""
        (self.folder / name).mkdir()
        with config.disable_value_validation():
            for number, instance in enumerate(instances):
                instance.save_as(self.folder / name / f"{number:03}.dcm", enforce_file_format=True)
        return FolderArchive(self.folder / name)


@dataclass(frozen=True)
class Passed:
    chosen: Candidate
    instances: list[Dataset]
    stack: Stack
    result: findings.Findings
    encoded: Dataset | None


def passed_through(archive: Archive, study_uid: str, series_uid: str | None = None) -> Passed:
    request = segmentation.Request(study_uid, series_uid)
    (chosen,), (instances,) = segmentation.fetch(request, archive, SPEC)
    stack = to_stack(instances)
    stages = context.Stages(lambda stage, fraction: None)
    result = segmentation.segment([stack], threshold, SPEC, 10.0, stages)
    return Passed(chosen, instances, stack, result, findings.encode(result, SPEC, findings.edition_of(SPEC)))


def from_the_archive(archive: Archive, dataset: Dataset) -> Dataset:
    """Stored there and fetched again."""
    archive.store([dataset])
    (stored,) = archive.retrieve_series(dataset.StudyInstanceUID, dataset.SeriesInstanceUID)
    return stored


def farthest_mm(passed: Passed, stored: Dataset, lesions: Sequence[int], geometry: np.ndarray) -> float:
    """How far a voxel that was measured or read back lies from where the phantom has it, at most."""
    labels, segments = seg.read(stored, passed.stack)
    assert len(passed.result.lesions) == len(segments) == len(lesions)
    farthest = 0.0
    for lesion, segment, number in zip(passed.result.lesions, segments, lesions, strict=True):
        truth = np.argwhere(lesion_numbers() == number) @ geometry[:3, :3].T + geometry[:3, 3]
        positions = labels.map_indices_to_reference(np.argwhere(labels.array == segment.number))
        assert len(positions) == lesion.voxel_count == len(truth)
        farthest = max(farthest, *KDTree(truth).query(positions)[0], *KDTree(positions).query(truth)[0])
        volume_ml = len(truth) * abs(np.linalg.det(geometry[:3, :3])) / 1000
        assert lesion.volume_ml == pytest.approx(volume_ml, rel=1e-4)
        assert lesion.centroid_lps_mm == pytest.approx(truth.mean(axis=0), abs=PLACED_WITHIN_MM)
        assert lesion.tracking_uid == segment.tracking_uid
    return farthest


def assert_frames_lie_on_their_sources(dataset: Dataset, instances: Sequence[Dataset]) -> None:
    by_uid = {instance.SOPInstanceUID: instance for instance in instances}
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        plane = by_uid[source.ReferencedSOPInstanceUID]
        if "ReferencedFrameNumber" in source:
            frame = plane.PerFrameFunctionalGroupsSequence[source.ReferencedFrameNumber - 1]
            plane = frame.PlanePositionSequence[0]
        position = groups.PlanePositionSequence[0].ImagePositionPatient
        assert position == pytest.approx(plane.ImagePositionPatient, abs=PLACED_WITHIN_MM)


class Row(NamedTuple):
    """expected: a few words; run: does it, asserts it and says what was seen."""

    expected: str
    run: Callable[[Place], str]


def finds(
    make: Callable[[], list[Dataset]],
    lesions: Sequence[int] = LESIONS,
    geometry: np.ndarray = AXIAL,
    *,
    edited: Callable[[Dataset], Dataset] = lambda encoded: encoded,
    carries: dict[str, str] | None = None,
    warns: str = "",
) -> Row:
    """Each lesion at its place, by the SEG that comes back from the archive.

    edited: what is done to the SEG in between. carries: of patient and study, in the SEG. warns: a pattern.
    """
    expected = [
        f"{len(lesions)} lesions at their places",
        *(f"{k} is {v!r}" for k, v in (carries or {}).items()),
    ]

    def run(place: Place) -> str:
        instances = make()
        archive = place.archive(instances)
        passed = passed_through(archive, str(instances[0].StudyInstanceUID))
        assert_legal(passed.encoded, place.folder)
        assert_frames_lie_on_their_sources(passed.encoded, passed.instances)
        stored = from_the_archive(archive, edited(passed.encoded))
        farthest = farthest_mm(passed, stored, lesions, geometry)
        assert farthest <= PLACED_WITHIN_MM
        parts = [f"{len(lesions)} lesions, {farthest:.4f} mm away at most"]
        for keyword, value in (carries or {}).items():
            assert stored[keyword].value == value
            parts.append(f"{keyword} is {stored[keyword].value!r}")
        warnings = " ".join([*passed.chosen.warnings, *passed.stack.warnings])
        assert re.search(warns, warnings) if warns else not warnings
        return "; ".join([*parts, *([f"warning: {warnings}"] if warns else [])])

    return Row("; ".join([*expected, *(["a warning"] if warns else [])]), run)


def refuses(code: str, sentence: str, make: Callable[[], list[Dataset]], unasked: str | None = None) -> Row:
    """With this code and sentence where the caller chose the series; and never chosen unasked.

    unasked: the sentence where nobody chose, if another.
    """

    def run(place: Place) -> str:
        instances = make()
        archive = place.archive(instances)
        uids_of_series = str(instances[0].StudyInstanceUID), str(instances[0].SeriesInstanceUID)
        refusals = []
        for uids in (uids_of_series, uids_of_series[:1]):
            with pytest.raises(MetScopeError) as caught:
                passed_through(archive, *uids)
            refusals.append(caught.value)
        chosen, free = refusals
        return seen_refusal(chosen, code, sentence) + in_short(free, chosen.code, unasked or sentence)

    return Row(code, run)


def in_short(refusal: MetScopeError, code: str, sentence: str) -> str:
    """Of the refusal of a study of which nobody chose a series."""
    assert re.search(sentence, refusal.message)
    return "" if refusal.code == code else f" (unasked: {refusal.code})"


def seen_refusal(refusal: MetScopeError, code: str, sentence: str) -> str:
    assert refusal.code == code
    assert re.search(sentence, refusal.message), refusal.message
    assert "Phantom" not in refusal.message
    return f"{refusal.code}: {refusal.problem}"


def refused_seg(
    code: str,
    sentence: str,
    edited: Callable[[Dataset], Dataset],
    onto: Callable[[list[Dataset]], list[Dataset]] = lambda instances: instances,
) -> Row:
    """The SEG so changed is not read. onto: by the series it was made on, the one it is read onto."""

    def run(place: Place) -> str:
        instances = series()
        archive = place.archive(instances)
        passed = passed_through(archive, str(instances[0].StudyInstanceUID))
        stored = from_the_archive(archive, edited(passed.encoded))
        stack = to_stack(onto(instances))
        with pytest.raises(MetScopeError) as caught:
            seg.read(stored, stack)
        return seen_refusal(caught.value, code, sentence)

    return Row(code, run)


def another_series(instances: list[Dataset]) -> list[Dataset]:
    """Of the same study in the same frame of reference."""
    first = instances[0]
    return everywhere(StudyInstanceUID=first.StudyInstanceUID, FrameOfReferenceUID=first.FrameOfReferenceUID)


def lying(**attributes: object) -> Callable[[Dataset], Dataset]:
    return lambda dataset: with_attributes([dataset], **attributes)[0]


def with_odd_mapping(dataset: Dataset) -> Dataset:
    dataset.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence = [Dataset()]
    return dataset


def deflate(dataset: Dataset) -> Dataset:
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return dataset


def packed_in_rle(dataset: Dataset) -> Dataset:
    """One bit a pixel, eight of them in a byte of each frame's only segment, as one literal run."""
    size = 20
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + bytes([size - 1]) + bytes(size)
    dataset.PixelData = encapsulate([frame] * dataset.NumberOfFrames)
    dataset.file_meta.TransferSyntaxUID = RLELossless
    return dataset


def no_lesion(place: Place) -> str:
    instances = series(lesions=())
    passed = passed_through(place.archive(instances), str(instances[0].StudyInstanceUID))
    assert (passed.encoded, list(passed.result.lesions)) == (None, [])
    return "0 lesions, no SEG"


def a_seg_alone(place: Place) -> str:
    instances = series()
    study_uid = str(instances[0].StudyInstanceUID)
    encoded = passed_through(place.archive(instances), study_uid).encoded
    with pytest.raises(MetScopeError) as caught:
        passed_through(place.archive([encoded], "without source"), study_uid)
    return seen_refusal(caught.value, "no_candidate_series", r"Modality \(0008,0060\) is SEG, not MR")


def by_dicomweb(
    make: Callable[[], list[Dataset]], faults: dict[str, Callable[[list[Dataset]], fake_pacs.Fault]],
    code: str | None, sentence: str = "",
) -> Row:  # fmt: skip
    """From a PACS with one fault per route, and the SEG into it; with no code, all goes well."""

    def run(place: Place) -> str:
        instances = make()
        pacs = fake_pacs.FakePacs()
        pacs.instances = list(instances)
        with fake_pacs.running(pacs):
            for route, fault in faults.items():
                pacs.faults[route] = [fault(instances)]
            archive = archive_at(pacs.url, read=5.0, total=20.0)
            if code is None:
                passed = passed_through(archive, str(instances[0].StudyInstanceUID))
                farthest = farthest_mm(passed, from_the_archive(archive, passed.encoded), LESIONS, AXIAL)
                assert farthest <= PLACED_WITHIN_MM
                return f"{len(LESIONS)} lesions, {farthest:.4f} mm away at most"
            with pytest.raises(MetScopeError) as caught:
                archive.store([passed_through(archive, str(instances[0].StudyInstanceUID)).encoded])
        return seen_refusal(caught.value, code, sentence)

    return Row(code or f"{len(LESIONS)} lesions at their places", run)


def whole_study(place: Place, program: str) -> str:
    """By dcmtk's program, in one operation for the study; it listens on a port that C-GET does not need."""
    orthanc = place.request.getfixturevalue("orthanc")
    archive, port = archive_of(orthanc), free_port()
    modality = {"AET": program.upper(), "Host": "127.0.0.1", "Port": port}
    requests.put(
        f"{orthanc.rest_url}/modalities/{program}", json=modality, auth=orthanc.authentication, timeout=10
    ).raise_for_status()
    instances = series()
    archive.store(instances)
    passed = passed_through(archive, str(instances[0].StudyInstanceUID))
    stored = from_the_archive(archive, passed.encoded)
    assert stored.SegmentationType == "BINARY"
    received_dir = place.folder / "got"
    received_dir.mkdir()
    listening = ["+P", str(port), "-aem", program.upper()] if program == "movescu" else []
    subprocess.run(
        [program, "-S", "-aet", program.upper(), "-aec", "METSCOPE", *listening, "-od", str(received_dir),
         "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={stored.StudyInstanceUID}",
         "127.0.0.1", str(orthanc.dicom_port)],
        check=True, capture_output=True,
    )  # fmt: skip
    received = {dcmread(path).SOPInstanceUID for path in received_dir.iterdir()}
    assert received == {instance.SOPInstanceUID for instance in [*instances, stored]}
    return f"BINARY; {len(instances)} images and the SEG came"


def serve_all_but_one(instances: list[Dataset]) -> fake_pacs.Fault:
    return fake_pacs.serve(instances[1:])


def gap_in_the_proven_series(place: Place) -> str:
    """The other T1 is likely the one before contrast; it is segmented only where the caller chooses it."""
    instances = beside_an_unproven_t1()
    archive = place.archive(instances)
    study = str(instances[0].StudyInstanceUID)
    (unproven,) = {str(i.SeriesInstanceUID) for i in instances} - {LOST_SERIES_UID}
    assert passed_through(archive, study, unproven).encoded is not None
    with pytest.raises(MetScopeError) as caught:
        passed_through(archive, study)
    sentence = rf"{re.escape(LOST_SERIES_UID)} is proven .* 3\.0 mm between slices 4 and 5"
    return seen_refusal(caught.value, "no_candidate_series", sentence)


# The list

ROWS = {
    "empty mask": Row("0 lesions, no SEG", no_lesion),
    "one-slice lesion": finds(partial(series, lesions=[3]), [3]),
    "one-voxel lesion": finds(partial(series, lesions=[4]), [4]),
    "segment-number gaps": finds(
        series, edited=lambda encoded: renumber(encoded, {1: 2, 2: 5, 3: 40, 4: 41})
    ),
    "Label Map SEG, RLE, without plane positions": finds(series, edited=as_edited_in_ohif),
    "SEG deflated": finds(series, edited=deflate),
    "SEG of packed bits in RLE": refused_seg(
        "unreadable_pixels", "1 bits in transfer syntax RLE Lossless, cannot be decoded", packed_in_rle
    ),
    "bitmap SEG not starting at slice 0": finds(partial(series, lesions=[2, 3]), [2, 3]),
    "slices reversed": finds(partial(series, order="reversed")),
    "slices shuffled": finds(partial(series, order="shuffled")),
    "InstanceNumber constant": finds(lambda: with_attributes(series(order="shuffled"), InstanceNumber=1)),
    "InstanceNumber missing": finds(lambda: with_attributes(series(order="shuffled"), InstanceNumber=None)),
    "duplicate positions, other AcquisitionNumber": refuses(
        "several_stacks", r"AcquisitionNumber \(0020,0012\) is 1 or 2", lambda: double(AcquisitionNumber=2)
    ),
    "exact duplicates": finds(sent_twice),
    "exact duplicates under other UIDs": refuses(
        "duplicate_slices", r"10 slices of 18 share .*\(0020,0032\)", double
    ),
    "AcquisitionNumber varying in a volume": finds(
        lambda: set_by_number("AcquisitionNumber", lambda n: 1 + n // 3)
    ),
    "derived images in the original's series": refuses(
        "several_stacks", r"ImageType \(0008,0008\) is DERIVED",
        lambda: double(ImageType=["DERIVED", "SECONDARY", "MPR"]),
    ),
    "missing interior slice": refuses(
        "missing_slices", r"3\.0 mm between slices 4 and 5, 1\.5 mm elsewhere", with_gap
    ),
    "rounding jitter of 6e-8": finds(
        partial(series, SERIES["oblique"][0], orientation_jitter=6e-8), geometry=SERIES["oblique"][0]
    ),
    "localizer": refuses(
        "mixed_orientations", r"ImageOrientationPatient \(0020,0037\)",
        lambda: three_planes(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), unasked="is a localizer",
    ),
    "mixed orientations in a series": refuses(
        "mixed_orientations", r"ImageOrientationPatient \(0020,0037\)", three_planes
    ),
    "gantry tilt": refuses("gantry_tilt", r"Slice \d .* sideways .*\(0020,0032\)", tilt),
    **{
        plane: finds(partial(series, SERIES[plane][0]), geometry=SERIES[plane][0])
        for plane in ("oblique", "sagittal", "coronal")
    },
    "PixelSpacing [4.0, 6.4]": finds(
        partial(series, SERIES["anisotropic"][0]), geometry=SERIES["anisotropic"][0]
    ),
    "SpacingBetweenSlices missing": finds(lambda: everywhere(SpacingBetweenSlices=None)),
    "SpacingBetweenSlices negative": finds(lambda: everywhere(SpacingBetweenSlices="-1.5")),
    "SliceThickness other than the spacing": finds(lambda: everywhere(SliceThickness="4")),
    "Enhanced MR, shared groups": finds(partial(series, enhanced="shared", order="shuffled")),
    "Enhanced MR, per-frame groups": finds(partial(series, enhanced="per_frame", order="reversed")),
    "Enhanced MR without functional groups": refuses(
        "missing_geometry", r"\(5200,9230\)",
        lambda: with_attributes(series(enhanced="shared"), PerFrameFunctionalGroupsSequence=None),
    ),
    "mosaic": refuses(
        "mosaic_image", r"ImageType \(0008,0008\) says MOSAIC",
        lambda: everywhere(ImageType=["ORIGINAL", "PRIMARY", "M", "MOSAIC"]),
    ),
    "multi-echo": refuses(
        "several_stacks", r"EchoTime \(0018,0081\) is 2\.98 or 80", lambda: double(EchoTime="80")
    ),
    "magnitude and phase": refuses(
        "several_stacks", r"ImageType \(0008,0008\) is .*\\P\.",
        lambda: double(ImageType=["ORIGINAL", "PRIMARY", "P"]),
    ),
    "per-slice rescale": finds(rescale),
    "RealWorldValueMapping without FirstValueMapped": finds(
        lambda: everywhere(RealWorldValueMappingSequence=[Dataset()]), edited=with_odd_mapping
    ),
    "missing StudyID": finds(lambda: everywhere(StudyID=None), carries={"StudyID": ""}),
    "missing PatientSex": finds(lambda: everywhere(PatientSex=None), carries={"PatientSex": ""}),
    "missing SliceThickness": finds(lambda: everywhere(SliceThickness=None)),
    "SH of 20 characters": finds(
        lambda: everywhere(StudyID="20 characters, as it", AccessionNumber="20 characters, as it"),
        carries={"StudyID": "", "AccessionNumber": ""},
    ),
    "DS of more than 16 characters": finds(
        lambda: everywhere(
            PixelSpacing=["1.00000000000000000001"] * 2, SliceThickness="1.500000000000000000001"
        )
    ),
    "missing FrameOfReferenceUID": finds(
        lambda: everywhere(FrameOfReferenceUID=None), warns=r"no FrameOfReferenceUID \(0020,0052\)"
    ),
    "FrameOfReferenceUID of two values": finds(
        lambda: everywhere(FrameOfReferenceUID=["1.2", "1.3"]),
        warns=r"no valid FrameOfReferenceUID \(0020,0052\)",
    ),
    "FrameOfReferenceUID that is a word": finds(
        lambda: everywhere(FrameOfReferenceUID="abc"), warns=r"no valid FrameOfReferenceUID \(0020,0052\)"
    ),
    "StudyInstanceUID that is a word": refuses(
        "inconsistent_images", r"StudyInstanceUID \(0020,000D\) is abc, not a UID",
        lambda: everywhere(StudyInstanceUID="abc"),
    ),
    "same patient, other frame of reference": refused_seg(
        "segmentation_mismatch", "FrameOfReferenceUID is .*, that of the series", lambda encoded: encoded,
        onto=lambda instances: series(),
    ),
    **{
        f"{script} name": finds(partial(everywhere, PatientName=name), carries={"PatientName": name})
        for script, name in NAMES.items()
    },
    # Legal text, though not what was meant: the SEG says what the images say.
    "wrong charset: UTF-8 under no known name": finds(
        partial(misname, "ISO_IR 192", "ISO_IR 999"),
        carries={"PatientName": NAMES["Umlauts"].encode().decode("latin-1")},
    ),
    "wrong charset: Latin-1 as UTF-8": finds(
        partial(misname, "ISO_IR 100", "ISO_IR 192"), carries={"PatientName": ""}
    ),
    **{
        name: finds(partial(series, transfer_syntax=syntax)) for name, syntax in SYNTAXES.items()
    },
    "decode returning constants": refuses("constant_pixels", "value 0", constant),
    "CT instead of MR": refuses(
        "unsupported_modality", r"Modality \(0008,0060\) is CT", lambda: everywhere(Modality="CT")
    ),
    "secondary capture instead of MR": refuses(
        "unsupported_modality", r"SOPClassUID \(0008,0016\) is Secondary Capture",
        lambda: everywhere(SOPClassUID=SecondaryCaptureImageStorage),
    ),
    "SEG whose source is absent": Row("no_candidate_series", a_seg_alone),
    "SEG without positions whose source is absent": refused_seg(
        "segmentation_mismatch", "drawn on image .* which is not in the series",
        as_edited_in_ohif, onto=another_series,
    ),
    "series truncated": by_dicomweb(
        series, {"wado": serve_all_but_one}, "archive_incomplete", "lists 9 instances .* served 8"
    ),
    "single-part WADO response": by_dicomweb(
        partial(series, enhanced="shared"), {"wado": lambda images: fake_pacs.single_part(images[0])}, None
    ),
    "406": by_dicomweb(
        series, {"wado": lambda images: fake_pacs.status(406)}, "archive_refused", "HTTP 406"
    ),
    "listed but not servable": by_dicomweb(
        series, {"wado": lambda images: fake_pacs.status(404)}, "archive_incomplete", "lists 9 .* served 0"
    ),
    "STOW 200 without storage": by_dicomweb(
        series, {"stow": lambda images: fake_pacs.claim_storage}, "store_failed", "no query finds"
    ),
    **{
        f"whole study with SEG by {operation} from Orthanc": Row(
            "BINARY SEG, and every instance comes", partial(whole_study, program=program)
        )
        for operation, program in (("C-GET", "getscu"), ("C-MOVE", "movescu"))
    },
    # Beyond the list.
    "proven series with a gap beside an unproven T1": Row("no_candidate_series", gap_in_the_proven_series),
}  # fmt: skip

# Headers that lie, beyond the list too.
LIES = {
    "Rows too few": refuses(
        "unreadable_pixels", r"holds 1320 bytes; .* make 660", lambda: everywhere(Rows=15)
    ),
    "Rows too many": refuses("unreadable_pixels", "1320 bytes of 2640", lambda: everywhere(Rows=60)),
    "65535 rows and columns": refuses(
        "volume_too_large", "9 x 65535 x 65535 voxels", lambda: everywhere(Rows=65535, Columns=65535)
    ),
    **{
        f"Rows too {word}, {name}": refuses(
            "unreadable_pixels", rf"frame 1 in PixelData .* holds .*; Rows \(0028,0010\) is {rows}",
            partial(compressed_with, SYNTAXES[name], Rows=rows),
        )
        for name in ("JPEG Lossless", "JPEG-LS", "JPEG 2000", "RLE")
        for word, rows in (("few", 15), ("many", 60))
    },
    "JPEG-LS cut short": refuses(
        "unreadable_pixels", "JPEG-LS.* could not be decoded", cut_in_the_codestream
    ),
    "voxels of 50 mm": refuses(
        "volume_too_large", "measures 14 x 1500 x 1100 mm", lambda: everywhere(PixelSpacing=["50", "50"])
    ),
    **{
        f"8192 rows and columns, {name}": refuses(
            "volume_too_large", "9 x 8192 x 8192 voxels",
            partial(compressed_with, SYNTAXES[name], Rows=8192, Columns=8192),
        )
        for name in ("JPEG Lossless", "JPEG-LS", "JPEG 2000", "RLE")
    },
    "1000000000 frames in an Enhanced MR": refuses(
        "missing_geometry", r"NumberOfFrames \(0028,0008\) is 1000000000, but .* has 9 items",
        lambda: with_attributes(series(enhanced="shared"), NumberOfFrames=1_000_000_000),
    ),
    "1000000000 frames in an MR": refuses(
        "missing_geometry", r"NumberOfFrames \(0028,0008\) is 1000000000 in an MR Image Storage",
        lambda: everywhere(NumberOfFrames=1_000_000_000),
    ),
    "1000000000 frames in a SEG": refused_seg(
        "unreadable_file", "NumberOfFrames is 1000000000, but .* has 10 items",
        lying(NumberOfFrames=1_000_000_000),
    ),
    "Rows too few in a SEG": refused_seg(
        "unreadable_pixels", r"PixelData \(7FE0,0010\) holds 826 bytes, .* make 413", lying(Rows=15)
    ),
    "Rows too many in a Label Map SEG": refused_seg(
        "unreadable_pixels", r"frame 1 in PixelData .* holds 660 bytes; Rows \(0028,0010\) is 60",
        lambda encoded: lying(Rows=60)(as_edited_in_ohif(encoded)),
    ),
}  # fmt: skip


# pydicom warns of illegal values where it reads them.
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("case", ROWS)
def test_edge_case(case, request, tmp_path):
    expected, run = ROWS[case]
    outcome = run(Place(tmp_path, request))
    print(f"{case} | {expected} | {outcome}")


@pytest.fixture
def folder_with_a_damaged_file(tmp_path, request) -> Path:
    """The series with one of its files broken off within the header, a note and a DICOMDIR."""
    instances = series()
    Place(tmp_path, request).archive(instances, "images")
    broken = tmp_path / "images" / f"{request.param:03}.dcm"
    broken.write_bytes(broken.read_bytes()[:600])
    (tmp_path / "images" / "notes.txt").write_text("no DICOM")
    directory = Dataset()
    directory.file_meta = copy.deepcopy(instances[0].file_meta)
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.DirectoryRecordSequence = []
    directory.save_as(tmp_path / "images" / "DICOMDIR", enforce_file_format=True)
    return tmp_path / "images"


@pytest.mark.parametrize("folder_with_a_damaged_file", [0], indirect=True)
def test_a_damaged_file_of_a_folder_is_a_warning_that_names_it(folder_with_a_damaged_file, tmp_path, capsys):
    warning = "Damaged files that could not be read: 1 (000.dcm)."
    assert cli.main([str(folder_with_a_damaged_file), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [warning]
    stack = to_stack([dcmread(path) for path in folder_with_a_damaged_file.glob("00[1-8].dcm")])
    mask = nibabel.Nifti1Image(
        (stack.volume.array > BRIGHT).astype(np.uint8), np.diag([-1.0, -1, 1, 1]) @ stack.volume.affine
    )
    nibabel.save(mask, tmp_path / "mask.nii.gz")
    arguments = ["--out", str(tmp_path / "out"), "--from-mask", str(tmp_path / "mask.nii.gz")]
    assert cli.main([str(folder_with_a_damaged_file), *arguments]) == 0
    assert json.loads((tmp_path / "out" / "lesions.json").read_text())["warnings"] == [warning]


@pytest.mark.parametrize("folder_with_a_damaged_file", [4], indirect=True)
def test_a_gap_that_a_damaged_file_leaves_is_refused_with_its_name(folder_with_a_damaged_file, capsys):
    assert cli.main([str(folder_with_a_damaged_file), "--dry-run"]) == 3
    refusal = json.loads(capsys.readouterr().out)["refusal"]
    assert "3.0 mm between slices 4 and 5" in refusal["message"]
    assert "could not be read: 1 (004.dcm)." in refusal["message"]


@pytest.fixture
def two_patients(tmp_path, request) -> tuple[Path, list[Dataset], list[Dataset]]:
    """Their folder, and the series of each."""
    ours, theirs = series(), with_attributes(series(), PatientID="PHANTOM-2")
    Place(tmp_path, request).archive([*ours, *theirs], "images")
    return tmp_path / "images", ours, theirs


def test_of_two_patients_in_a_folder_one_has_to_be_named(two_patients, tmp_path, capsys):
    folder, ours, theirs = two_patients
    assert cli.main([str(folder), "--out", str(tmp_path / "out")]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"ambiguous_series: .* contains series of 2 patients", line)
    assert not (tmp_path / "out").exists()
    for instances in (ours, theirs):
        uid = str(instances[0].SeriesInstanceUID)
        assert uid in line
        assert cli.main([str(folder), "--series", uid, "--dry-run"]) == 0
        assert json.loads(capsys.readouterr().out)["chosen"] == uid
    assert "PHANTOM" not in line


def test_a_name_that_is_a_formula_is_text_in_the_table(tmp_path, request):
    instances = series()
    archive = Place(tmp_path, request).archive(instances, "images")
    encoded = passed_through(archive, str(instances[0].StudyInstanceUID)).encoded
    for segment, label in zip(encoded.SegmentSequence, ["=1+1", "+1", "@A1", "one"], strict=True):
        segment.SegmentLabel = label
    encoded.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    arguments = ["--from-seg", str(tmp_path / "seg.dcm"), "--out", str(tmp_path / "out")]
    assert cli.main([str(tmp_path / "images"), *arguments]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "lesions.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == ["'=1+1", "'+1", "'@A1", "one"]


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_headers_that_break_the_standard_are_a_line_in_the_log_not_warnings(tmp_path, request):
    instances = with_attributes(
        series(), AccessionNumber="12345678901234567890", StudyTime="10:15 in the morning"
    )
    Place(tmp_path, request).archive(instances, "images")
    done = subprocess.run(
        [sys.executable, segmentation.__file__, str(tmp_path / "images"), "--dry-run"],
        cwd=Path(segmentation.__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert lines
    assert len(lines) == len(set(lines))
    assert all(line.startswith("headers that break the standard: ") for line in lines)
    assert "morning" not in done.stderr


CUTS = {
    # Inside the pixel data the header still reads; before them nothing of the image does.
    "JPEG Lossless, inside": (JPEGLosslessSV1, 8), "JPEG 2000, inside": (JPEG2000Lossless, 8),
    "RLE, inside": (RLELossless, 8), "native, inside": (ExplicitVRLittleEndian, 100),
    "native, no pixels": (ExplicitVRLittleEndian, 1332),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(("syntax", "lost"), CUTS.values(), ids=CUTS)
def test_a_slice_that_breaks_off_is_a_damaged_file_with_its_name(syntax, lost, tmp_path, request, capsys):
    instances = series(transfer_syntax=syntax)
    archive = Place(tmp_path, request).archive(instances)
    file = tmp_path / "archive" / "004.dcm"
    file.write_bytes(file.read_bytes()[:-lost])
    assert cli.main([str(file.parent), "--dry-run"]) == 3
    refusal = json.loads(capsys.readouterr().out)["refusal"]
    assert refusal["code"] == "unreadable_file"
    assert f"{file} is not a DICOM file, or it is damaged" in refusal["message"]
    with pytest.raises(UnreadableFile, match=f"Instance {instances[4].SOPInstanceUID} .* is damaged"):
        passed_through(archive, str(instances[0].StudyInstanceUID))


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_a_slice_that_breaks_off_in_its_header_is_a_damaged_file_with_its_name(tmp_path, request, capsys):
    instances = series()
    archive = Place(tmp_path, request).archive(instances)
    file = tmp_path / "archive" / "004.dcm"
    file.write_bytes(file.read_bytes()[:-1600])
    assert cli.main([str(file.parent), "--dry-run"]) == 3
    assert "could not be read: 1 (004.dcm)" in json.loads(capsys.readouterr().out)["refusal"]["message"]
    with pytest.raises(MetScopeError, match=f"{instances[4].SOPInstanceUID[-12:]} .* damaged") as caught:
        passed_through(archive, str(instances[0].StudyInstanceUID), str(instances[0].SeriesInstanceUID))
    assert caught.value.status == 422


def nested_thousands_deep(instance: Dataset, defined: bool) -> bytes:
    """A whole instance whose Request Attributes Sequence holds itself 5000 times, before the pixel data.

    defined: whether lengths are written, so that pydicom looks into a sequence only when it is asked for.
    """
    sequence, item = b"\x40\0\x75\x02SQ\0\0", b"\xfe\xff\0\xe0"
    if defined:
        levels = [sequence + struct.pack("<L", n + 8) + item + struct.pack("<L", n) for n in
                  range(0, 5000 * 20, 20)]  # fmt: skip
        nest = b"".join(reversed(levels))
    else:
        begin, end = sequence + b"\xff" * 4 + item + b"\xff" * 4, b"\xfe\xff\x0d\xe0\0\0\0\0"
        nest = begin * 5000 + (end + b"\xfe\xff\xdd\xe0\0\0\0\0") * 5000
    file = part10.encode(instance)
    pixels = file.index(b"\xe0\x7f\x10\0OW")
    return file[:pixels] + nest + file[pixels:]


@pytest.mark.parametrize("defined", [True, False])
def test_a_file_nested_thousands_deep_spoils_no_other(defined, tmp_path, request, capsys):
    """Beside the series, as another study's only file; the reader's first by name."""
    instances, other_series = series(), series()
    archive = Place(tmp_path, request).archive(instances)
    (tmp_path / "archive" / "000 deep.dcm").write_bytes(nested_thousands_deep(other_series[0], defined))
    assert cli.main([str(tmp_path / "archive"), "--dry-run"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert warnings == ["Damaged files that could not be read: 1 (000 deep.dcm)."]
    studies = {study.StudyInstanceUID for study in archive.search_studies()}
    assert instances[0].StudyInstanceUID in studies
    assert passed_through(archive, str(instances[0].StudyInstanceUID)).encoded is not None


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("values", ["none", "two"])
@pytest.mark.parametrize(
    "keyword", ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"]
)
def test_a_file_without_a_uid_or_with_two_of_it_is_a_damaged_file(keyword, values, tmp_path, request, capsys):
    """Beside the series, in a study of its own."""
    instances, (damaged, *_) = series(), series()
    archive = Place(tmp_path, request).archive(instances)
    if values == "two":
        damaged[keyword].value = [damaged[keyword].value, "1.2.3"]
    else:
        del damaged[keyword]
    damaged.save_as(tmp_path / "archive" / "000 odd.dcm", enforce_file_format=False)
    assert cli.main([str(tmp_path / "archive"), "--dry-run"]) == 0
    warnings = json.loads(capsys.readouterr().out)["warnings"]
    assert warnings == ["Damaged files that could not be read: 1 (000 odd.dcm)."]
    assert [study.StudyInstanceUID for study in archive.search_studies()] == [instances[0].StudyInstanceUID]


@pytest.mark.parametrize("defined", [True, False])
def test_a_seg_nested_thousands_deep_is_a_damaged_file(defined, tmp_path, request, capsys):
    instances = series()
    Place(tmp_path, request).archive(instances)
    deep = tmp_path / "deep.dcm"
    deep.write_bytes(nested_thousands_deep(instances[0], defined))
    arguments = ["--from-seg", str(deep), "--out", str(tmp_path / "out")]
    assert cli.main([str(tmp_path / "archive"), *arguments]) == 3
    assert f"unreadable_file: {deep} is not a DICOM file, or it is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, *map(SYNTAXES.get, ("big endian", "implicit VR"))]
)
def test_files_without_preamble_and_prefix_are_read(syntax, tmp_path, request, capsys):
    """The lower slices of the series, as some old exports write theirs."""
    instances = series(transfer_syntax=syntax)
    archive = Place(tmp_path, request).archive(instances)
    for file in sorted((tmp_path / "archive").iterdir())[:6]:
        content = file.read_bytes()
        file.with_suffix("").write_bytes(content[144 + int.from_bytes(content[140:144], "little") :])
        file.unlink()
    assert cli.main([str(tmp_path / "archive"), "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["shape"], plan["warnings"]) == (list(SHAPE), [])
    passed = passed_through(archive, str(instances[0].StudyInstanceUID))
    assert farthest_mm(passed, from_the_archive(archive, passed.encoded), LESIONS, AXIAL) <= PLACED_WITHIN_MM


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("case", LIES)
def test_a_header_that_lies_is_refused_and_no_memory_taken_for_it(case, request, tmp_path, traced):
    expected, run = LIES[case]
    outcome = run(Place(tmp_path, request))
    assert tracemalloc.get_traced_memory()[1] < REFUSED_WITHIN_BYTES
    print(f"{case} | {expected} | {outcome}")
