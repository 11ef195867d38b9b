"""The archive against a real Orthanc, started with the configuration that is shipped."""

import copy
import socket
import subprocess
from copy import deepcopy
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

import settings
from bench.parts import Orthanc
from errors import (
    AlreadyStored,
    ArchiveRefused,
    ArchiveUnreachable,
    DeletionUnavailable,
    IdentityConflict,
    SeriesNotFound,
    SeveralPatients,
    StudyNotFound,
)
from imaging.series import rank
from orthanc import part10
from orthanc.archive import Archive, open_archive
from tests import fake_pacs


def archive_of(orthanc, **changes: str) -> Archive:
    return open_archive(settings.load(**(orthanc.access | changes)))


@pytest.fixture(scope="module")
def archive(orthanc) -> Archive:
    return archive_of(orthanc)


@pytest.fixture(scope="module")
def study(archive) -> list[list[Dataset]]:
    """Two series of one study, in the archive."""
    study_uid = generate_uid()
    stored = [fake_pacs.tiny_series(count, study_uid) for count in (5, 2)]
    for series in stored:
        archive.store(series)
    return stored


def encode(instance: Dataset, syntax: str) -> Dataset:
    """The instance's pixels in another transfer syntax, without loss."""
    if syntax == JPEG2000Lossless:
        pixels = np.frombuffer(instance.PixelData, np.uint16).reshape(instance.Rows, instance.Columns)
        codestream = BytesIO()
        Image.fromarray(pixels).save(codestream, "JPEG2000", irreversible=False, no_jp2=True)
        instance.PixelData = encapsulate([codestream.getvalue()])
        instance["PixelData"].VR = "OB"
        instance["PixelData"].is_undefined_length = True
        instance.file_meta.TransferSyntaxUID = syntax
    elif syntax == ImplicitVRLittleEndian:
        instance.file_meta.TransferSyntaxUID = syntax
    elif syntax != ExplicitVRLittleEndian:
        instance.compress(syntax, generate_instance_uid=False)
    return instance


@pytest.mark.parametrize(
    "syntax",
    [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless],
    ids=lambda uid: uid.keyword,
)
def test_pixels_come_back_as_they_were_stored(archive, syntax):
    stored = [encode(instance, syntax) for instance in fake_pacs.tiny_series(3)]
    archive.store(stored)
    received = archive.retrieve_series(stored[0].StudyInstanceUID, stored[0].SeriesInstanceUID)
    assert {i.file_meta.TransferSyntaxUID for i in received} == {syntax}
    assert {i.SOPInstanceUID: i.PixelData for i in received} == {
        i.SOPInstanceUID: i.PixelData for i in stored
    }


def test_headers_of_every_instance_of_every_series_without_pixels(archive, study):
    headers = archive.series_headers(study[0][0].StudyInstanceUID)
    assert sorted(len(series) for series in headers) == [2, 5]
    by_uid = {header.SOPInstanceUID: header for series in headers for header in series}
    for instance in study[0] + study[1]:
        header = by_uid[instance.SOPInstanceUID]
        assert "PixelData" not in header
        for keyword in [
            "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
            "SeriesDescription", "InstanceNumber", "Rows", "BitsStored", "PatientName",
        ]:  # fmt: skip
            assert header[keyword].value == instance[keyword].value, keyword


def test_changing_one_header_leaves_the_others_alone(archive, study):
    first, second = archive.series_headers(study[0][0].StudyInstanceUID)[0][:2]
    first.SeriesDescription = "changed"
    assert second.SeriesDescription == "T1 MPRAGE post"


def test_studies_are_found_by_their_attributes(archive, study):
    uid = study[0][0].StudyInstanceUID
    (match,) = archive.search_studies(StudyInstanceUID=uid)
    assert (match.PatientID, match.StudyDate, match.StudyDescription) == ("P-1", "20240131", "Brain")
    assert (match.NumberOfStudyRelatedSeries, match.NumberOfStudyRelatedInstances) == (2, 7)
    assert uid in {s.StudyInstanceUID for s in archive.search_studies(PatientID="P-*")}
    assert archive.search_studies(PatientID="nobody") == []


def test_other_content_under_known_uids_is_not_called_stored(archive):
    stored = fake_pacs.tiny_series(2)
    archive.store(stored)
    with pytest.raises(AlreadyStored, match=stored[1].SOPInstanceUID):
        archive.store([stored[0], fake_pacs.with_other_pixels(stored[1])])
    compressed = [encode(deepcopy(instance), RLELossless) for instance in stored]
    archive.store(compressed)
    instances = archive.retrieve_series(stored[0].StudyInstanceUID, stored[0].SeriesInstanceUID)
    assert {i.SOPInstanceUID: i.PixelData for i in instances} == {
        i.SOPInstanceUID: i.PixelData for i in stored
    }


def test_other_content_under_uids_that_are_sent_with_it_is_not_called_stored(archive):
    instances = fake_pacs.tiny_series(3)
    instances[2].SOPInstanceUID = instances[1].SOPInstanceUID
    with pytest.raises(AlreadyStored, match=instances[1].SOPInstanceUID):
        archive.store(instances)
    assert not any(
        archive.has_instance(instance.StudyInstanceUID, instance.SOPInstanceUID) for instance in instances
    )
    archive.store([*instances[:2], instances[0]])
    assert len(archive.retrieve_series(instances[0].StudyInstanceUID, instances[0].SeriesInstanceUID)) == 2


def test_a_study_that_is_sent_under_two_patients_is_refused(archive):
    instances = fake_pacs.tiny_series(2)
    instances[1].PatientID = "P-2"
    with pytest.raises(IdentityConflict):
        archive.store(instances)
    assert not any(
        archive.has_instance(instance.StudyInstanceUID, instance.SOPInstanceUID) for instance in instances
    )


def test_a_study_is_not_parted_between_two_patients(archive):
    stored = fake_pacs.tiny_series(1)
    archive.store(stored)
    (theirs,) = fake_pacs.tiny_series(1, stored[0].StudyInstanceUID)
    theirs.PatientID = "P-2"
    with pytest.raises(IdentityConflict):
        archive.store([theirs])
    assert len(archive.series_headers(stored[0].StudyInstanceUID)) == 1


def test_deleting_leaves_the_copy_of_an_instance_in_another_study(orthanc):
    archive = archive_of(orthanc, orthanc_url=orthanc.rest_url)
    (original,) = fake_pacs.tiny_series(1)
    copy = deepcopy(original)
    copy.StudyInstanceUID, copy.SeriesInstanceUID, copy.PatientID = generate_uid(), generate_uid(), "P-2"
    for instance in (original, copy):
        archive.store([instance])
    archive.delete_instance(original.StudyInstanceUID, original.SOPInstanceUID)
    assert not archive.has_instance(original.StudyInstanceUID, original.SOPInstanceUID)
    assert archive.has_instance(copy.StudyInstanceUID, copy.SOPInstanceUID)


def test_storing_again_changes_nothing(archive, study):
    archive.store(study[0])
    received = archive.retrieve_series(study[0][0].StudyInstanceUID, study[0][0].SeriesInstanceUID)
    assert len(received) == len(study[0])


def test_has_instance(archive, study):
    instance = study[0][0]
    assert archive.has_instance(instance.StudyInstanceUID, instance.SOPInstanceUID)
    assert not archive.has_instance(instance.StudyInstanceUID, "1.2.3")
    assert not archive.has_instance("1.2.3", instance.SOPInstanceUID)


def test_a_deleted_instance_is_gone_and_the_others_stay(orthanc):
    archive = archive_of(orthanc, orthanc_url=orthanc.rest_url)
    kept, gone = instances = fake_pacs.tiny_series(2)
    archive.store(instances)
    for _ in range(2):
        archive.delete_instance(gone.StudyInstanceUID, gone.SOPInstanceUID)
        assert not archive.has_instance(gone.StudyInstanceUID, gone.SOPInstanceUID)
    assert archive.has_instance(kept.StudyInstanceUID, kept.SOPInstanceUID)


def test_a_deleted_study_is_gone_and_the_others_stay(orthanc, study):
    archive = archive_of(orthanc, orthanc_url=orthanc.rest_url)
    gone = fake_pacs.tiny_series(2)
    archive.store(gone)
    for _ in range(2):
        archive.delete_study(gone[0].StudyInstanceUID)
        with pytest.raises(StudyNotFound):
            archive.series_headers(gone[0].StudyInstanceUID)
    assert archive.has_instance(study[0][0].StudyInstanceUID, study[0][0].SOPInstanceUID)
    with pytest.raises(DeletionUnavailable):
        archive_of(orthanc, orthanc_url="").delete_study(study[0][0].StudyInstanceUID)


def test_nothing_is_deleted_without_orthanc_s_rest_address_or_its_password(orthanc, study):
    instance = study[0][0]
    for archive, error in (
        (archive_of(orthanc, orthanc_url=""), DeletionUnavailable),
        (archive_of(orthanc, orthanc_url=orthanc.rest_url, dicomweb_password="wrong"), ArchiveRefused),
        (archive_of(orthanc, orthanc_url=orthanc.url), ArchiveRefused),
    ):
        with pytest.raises(error):
            archive.delete_instance(instance.StudyInstanceUID, instance.SOPInstanceUID)
    assert archive_of(orthanc).has_instance(instance.StudyInstanceUID, instance.SOPInstanceUID)


def test_unknown_study_and_series(archive, study):
    with pytest.raises(StudyNotFound):
        archive.series_headers("1.2.3")
    with pytest.raises(StudyNotFound):
        archive.retrieve_series("1.2.3", study[0][0].SeriesInstanceUID)
    with pytest.raises(SeriesNotFound):
        archive.retrieve_series(study[0][0].StudyInstanceUID, "1.2.3")


def test_check(archive, orthanc):
    archive.check()
    with pytest.raises(ArchiveUnreachable):
        # Orthanc's DICOM port does not speak HTTP.
        archive_of(orthanc, dicomweb_url=f"http://127.0.0.1:{orthanc.dicom_port}/dicom-web").check()


def test_a_wrong_password_is_refused(orthanc, study):
    stranger = archive_of(orthanc, dicomweb_password="wrong")
    for call in (
        stranger.check,
        lambda: stranger.series_headers(study[0][0].StudyInstanceUID),
        lambda: stranger.store(study[0]),
    ):
        with pytest.raises(ArchiveRefused, match="credentials") as caught:
            call()
        assert "wrong" not in caught.value.message


def test_the_shipped_configuration_refuses_anonymous_access(orthanc):
    for url in (f"{orthanc.url}/studies", f"{orthanc.rest_url}/patients", f"{orthanc.rest_url}/wado"):
        assert requests.get(url, timeout=5).status_code == 401
    with pytest.raises(ArchiveRefused, match="credentials"):
        archive_of(orthanc, dicomweb_user="", dicomweb_password="").check()


def test_the_shipped_configuration_does_not_start_without_a_password(tmp_path):
    configuration = Path(__file__).parents[2] / "orthanc" / "orthanc.json"
    environment = {
        "PATH": "/usr/sbin:/usr/bin",
        "METSCOPE_ORTHANC_STORAGE": str(tmp_path),
        "METSCOPE_ORTHANC_INDEX": str(tmp_path),
    }
    started = subprocess.run(
        ["Orthanc", str(configuration)],
        check=False,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        timeout=20,
    )
    assert started.returncode != 0
    assert b"does not follow the JSON syntax" in started.stderr


def test_a_study_under_two_patients_is_refused_as_that(orthanc, archive):
    first = fake_pacs.tiny_series(2)
    second = copy.deepcopy(first)
    for instance in second:
        instance.PatientID = "P-1-CORRECTED"
    # STOW-RS would be asked for the study afterwards.
    for instance in [*first, *second]:
        put(orthanc, part10.encode(instance))
    study_uid, series_uid = first[0].StudyInstanceUID, first[0].SeriesInstanceUID
    for ask in (
        lambda: archive.series_headers(study_uid),
        lambda: archive.retrieve_series(study_uid, series_uid),
    ):
        with pytest.raises(SeveralPatients, match=f"study {study_uid} under 2 patients") as refusal:
            ask()
        assert "CORRECTED" not in refusal.value.message
        assert "PACS administrator" in refusal.value.message


def test_a_slice_whose_rows_are_stored_with_an_unknown_vr_is_judged_by_the_instance(orthanc, archive):
    """Orthanc leaves out of its JSON what it has as UN."""
    instances = fake_pacs.tiny_series(6)
    for instance in instances:
        encoded = part10.encode(instance)
        for tag in (b"\x28\x00\x10\x00", b"\x28\x00\x11\x00"):
            encoded = encoded.replace(tag + b"US\x02\x00", tag + b"UN\x00\x00\x02\x00\x00\x00")
        put(orthanc, encoded)
    (headers,) = archive.series_headers(instances[0].StudyInstanceUID)
    (candidate,) = rank([headers])
    assert (candidate.refused, candidate.message) == (None, None)
    assert {(header.Rows, header.Columns) for header in headers} == {(16, 16)}


def put(orthanc, encoded: bytes) -> None:
    answer = requests.post(
        f"{orthanc.rest_url}/instances", encoded, auth=(orthanc.user, orthanc.password), timeout=20
    )
    answer.raise_for_status()


def sent_by_dicom(orthanc: Orthanc, title: str, path: Path) -> bool:
    """Whether Orthanc takes the file from a device of that AE title."""
    process = subprocess.run(
        ["storescu", "-aet", title, "-aec", "METSCOPE", "127.0.0.1", str(orthanc.dicom_port), str(path)],
        check=False,
        capture_output=True,
    )
    held = requests.get(f"{orthanc.rest_url}/instances", auth=orthanc.authentication, timeout=10).json()
    assert (process.returncode == 0) == bool(held)
    return bool(held)


@pytest.mark.parametrize("port", ["shut, as shipped", "open"])
def test_no_stranger_stores_by_dicom(tmp_path, port):
    is_open = port == "open"
    orthanc = Orthanc(tmp_path, **({"METSCOPE_ORTHANC_DICOM": "true"} if is_open else {}))
    (instance,) = fake_pacs.tiny_series(1)
    path = tmp_path / "instance.dcm"
    path.write_bytes(part10.encode(instance))
    orthanc.start()
    try:
        assert not sent_by_dicom(orthanc, "STRANGER", path)
        with socket.socket() as probe:
            assert (probe.connect_ex(("127.0.0.1", orthanc.dicom_port)) == 0) == is_open
        if is_open:
            for name, host in (("scanner", "127.0.0.1"), ("elsewhere", "192.0.2.1")):
                device = {"AET": name.upper(), "Host": host, "Port": 104}
                url = f"{orthanc.rest_url}/modalities/{name}"
                requests.put(url, json=device, auth=orthanc.authentication, timeout=10).raise_for_status()
            assert not sent_by_dicom(orthanc, "ELSEWHERE", path), "the title alone does not open it"
            assert sent_by_dicom(orthanc, "SCANNER", path)
    finally:
        orthanc.stop()
