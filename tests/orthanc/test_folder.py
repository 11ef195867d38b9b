"""The embedded archive: a folder of files that outlives the process and that people put files into."""

import os
from copy import deepcopy

import numpy as np
import pytest
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    RLELossless,
    generate_uid,
)

import segmentation
import settings
from errors import (
    AlreadyStored,
    ArchiveUnreachable,
    IdentityConflict,
    MissingSlices,
    NoCandidateSeries,
    SeriesNotFound,
    StoreFailed,
    StudyNotFound,
    UnreadableFile,
)
from imaging.series import rank
from imaging.stack import to_stack
from orthanc.archive import Archive, open_archive
from tests import fake_pacs
from unetr.served import default_model


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "an archive"


def open_folder(folder) -> Archive:
    return open_archive(settings.load(dicomweb_url=folder.as_uri()))


def pixels(instances) -> dict[str, bytes]:
    return {instance.SOPInstanceUID: instance.PixelData for instance in instances}


def test_what_is_stored_survives_a_restart(folder):
    stored = fake_pacs.tiny_series(4)
    study_uid, series_uid = stored[0].StudyInstanceUID, stored[0].SeriesInstanceUID
    open_folder(folder).store(stored)

    archive = open_folder(folder)
    assert pixels(archive.retrieve_series(study_uid, series_uid)) == pixels(stored)
    (headers,) = archive.series_headers(study_uid)
    assert sorted(h.ImagePositionPatient[2] for h in headers) == [1.0, 2.0, 3.0, 4.0]
    assert not any("PixelData" in header for header in headers)
    assert archive.has_instance(study_uid, stored[0].SOPInstanceUID)
    assert not archive.has_instance(study_uid, "1.2.3")


def test_without_a_url_the_archive_is_in_the_data_folder(tmp_path):
    stored = fake_pacs.tiny_series(1)
    open_archive(settings.load(dicomweb_url="", data_dir=tmp_path)).store(stored)
    (path,) = (tmp_path / "archive").rglob("*.dcm")
    assert dcmread(path).PixelData == stored[0].PixelData


def test_files_put_in_and_taken_away_by_hand_are_noticed(folder):
    archive = open_folder(folder)
    assert archive.search_studies() == []
    instances = fake_pacs.tiny_series(2)
    (folder / "from a CD").mkdir()
    for number, instance in enumerate(instances):
        dcmwrite(folder / "from a CD" / f"IM{number}", instance, enforce_file_format=True)
    study_uid, series_uid = instances[0].StudyInstanceUID, instances[0].SeriesInstanceUID
    assert pixels(archive.retrieve_series(study_uid, series_uid)) == pixels(instances)
    (folder / "from a CD" / "IM0").unlink()
    assert pixels(archive.retrieve_series(study_uid, series_uid)) == pixels(instances[1:])


def test_a_deleted_instance_is_gone_and_the_others_stay(folder):
    archive = open_folder(folder)
    kept, gone = instances = fake_pacs.tiny_series(2)
    archive.store(instances)
    for _ in range(2):
        archive.delete_instance(gone.StudyInstanceUID, gone.SOPInstanceUID)
    assert pixels(archive.retrieve_series(kept.StudyInstanceUID, kept.SeriesInstanceUID)) == pixels([kept])


def test_a_deleted_study_is_gone_and_the_others_stay(folder):
    archive = open_folder(folder)
    kept, gone = fake_pacs.tiny_series(2), fake_pacs.tiny_series(2)
    archive.store([*kept, *gone])
    for _ in range(2):
        archive.delete_study(gone[0].StudyInstanceUID)
    assert [study.StudyInstanceUID for study in archive.search_studies()] == [kept[0].StudyInstanceUID]
    assert pixels(archive.retrieve_series(kept[0].StudyInstanceUID, kept[0].SeriesInstanceUID)) == pixels(
        kept
    )


def test_another_process_s_instances_are_seen(folder):
    ours, theirs = open_folder(folder), open_folder(folder)
    stored = fake_pacs.tiny_series(1)
    assert ours.search_studies() == []
    theirs.store(stored)
    assert ours.has_instance(stored[0].StudyInstanceUID, stored[0].SOPInstanceUID)


def test_studies_are_found_by_their_attributes(folder):
    archive = open_folder(folder)
    study_uid = generate_uid()
    for count in (3, 2):
        archive.store(fake_pacs.tiny_series(count, study_uid))
    (match,) = archive.search_studies(PatientID="P-?", PatientName="Müller*", ModalitiesInStudy="MR")
    assert match.StudyInstanceUID == study_uid
    assert (match.NumberOfStudyRelatedSeries, match.NumberOfStudyRelatedInstances) == (2, 5)
    assert archive.search_studies(PatientID="P-2") == []


@pytest.mark.parametrize(
    ("dates", "count"),
    [("20240131", 1), ("20240101-20240131", 1), ("20240131-", 1), ("-20240131", 1),
     ("20240201-", 0), ("-20240130", 0), ("20230101-20231231", 0)],
)  # fmt: skip
def test_studies_are_found_by_a_range_of_dates(folder, dates, count):
    archive = open_folder(folder)
    archive.store(fake_pacs.tiny_series(1))
    assert len(archive.search_studies(StudyDate=dates)) == count


def test_rubbish_does_no_harm(folder):
    archive = open_folder(folder)
    stored = fake_pacs.tiny_series(2)
    archive.store(stored)
    (folder / "notes.txt").write_text("not DICOM")
    (folder / "empty").touch()
    (folder / "half.dcm").write_bytes(bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00\xce\x00")
    (folder / "noise.dcm").write_bytes(bytes(128) + b"DICM" + bytes(range(256)) * 4)
    (study,) = archive.search_studies()
    assert study.NumberOfStudyRelatedInstances == 2
    assert len(archive.series_headers(stored[0].StudyInstanceUID)[0]) == 2


def test_named_pipes_and_links_that_lead_nowhere_are_passed_over(folder):
    archive = open_folder(folder)
    stored = fake_pacs.tiny_series(2)
    archive.store(stored)
    os.mkfifo(folder / "pipe.dcm")
    for name, target in (("itself", "itself"), ("a", "b"), ("b", "a"), ("lost", "nothing"), ("up", "..")):
        (folder / name).symlink_to(target)
    assert len(archive.search_studies()) == 1
    assert len(archive.series_headers(stored[0].StudyInstanceUID)[0]) == 2


def test_a_file_that_lost_its_end_is_named(folder):
    archive = open_folder(folder)
    stored = fake_pacs.tiny_series(2)
    archive.store(stored)
    victim = stored[1].SOPInstanceUID
    (path,) = folder.rglob(f"{victim}.dcm")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnreadableFile, match=victim):
        archive.retrieve_series(stored[0].StudyInstanceUID, stored[0].SeriesInstanceUID)


def head_with_a_damaged_file(archive, folder, lost: int, count: int):
    """Store a tiny post-contrast T1; its instance `lost` is cut off behind what says that it is DICOM."""
    stored = fake_pacs.tiny_series(count)
    archive.store(stored)
    (path,) = folder.rglob(f"{stored[lost].SOPInstanceUID}.dcm")
    path.write_bytes(path.read_bytes()[:140])
    return stored, path.name


def damage(stack) -> list[str]:
    return [sentence for sentence in stack.warnings if "amaged" in sentence]


def test_a_series_that_lost_a_slice_to_a_damaged_file_is_refused_naming_it(folder):
    archive = open_folder(folder)
    stored, damaged = head_with_a_damaged_file(archive, folder, lost=4, count=9)
    study_uid, series_uid = stored[0].StudyInstanceUID, stored[0].SeriesInstanceUID
    (candidate,) = rank(archive.series_headers(study_uid))
    assert candidate.refused == "missing_slices"
    assert damaged in candidate.message
    with pytest.raises(MissingSlices, match=damaged):
        to_stack(archive.retrieve_series(study_uid, series_uid))


def test_a_series_of_two_of_which_one_is_damaged_is_refused_naming_it(folder):
    archive = open_folder(folder)
    stored, damaged = head_with_a_damaged_file(archive, folder, lost=1, count=2)
    (candidate,) = rank(archive.series_headers(stored[0].StudyInstanceUID))
    assert candidate.refused == "too_few_slices"
    assert damaged in candidate.message


def test_a_lost_end_of_a_series_is_a_warning_on_that_study_alone(folder):
    archive = open_folder(folder)
    stored, damaged = head_with_a_damaged_file(archive, folder, lost=8, count=9)
    others = fake_pacs.tiny_series(9)
    archive.store(others)
    stack = to_stack(archive.retrieve_series(stored[0].StudyInstanceUID, stored[0].SeriesInstanceUID))
    assert stack.volume.spatial_shape[0] == 8
    assert damage(stack) == [f"Damaged files that could not be read: 1 ({damaged})."]
    other_stack = to_stack(archive.retrieve_series(others[0].StudyInstanceUID, others[0].SeriesInstanceUID))
    assert damage(other_stack) == []


def test_a_damaged_file_among_those_put_in_by_hand_is_named_without_its_folder(folder):
    """The folders of a CD are often named after the patient."""
    archive = open_folder(folder)
    (folder / "Doe^John").mkdir()
    instances = fake_pacs.tiny_series(9)
    for number, instance in enumerate(instances):
        dcmwrite(folder / "Doe^John" / f"IM{number}", instance, enforce_file_format=True)
    lost = folder / "Doe^John" / "IM8"
    lost.write_bytes(lost.read_bytes()[:140])
    (folder / "Doe^John" / "notes.txt").write_text("not DICOM")
    directory = Dataset()
    directory.file_meta = FileMetaDataset()
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.FileSetID = "CD"
    directory.save_as(folder / "Doe^John" / "DICOMDIR")
    stack = to_stack(archive.retrieve_series(instances[0].StudyInstanceUID, instances[0].SeriesInstanceUID))
    assert damage(stack) == ["Damaged files that could not be read: 1 (IM8)."]


def test_a_series_lost_as_a_whole_is_named_where_no_other_can_be_segmented(folder):
    archive = open_folder(folder)
    stored, damaged = head_with_a_damaged_file(archive, folder, lost=0, count=1)
    other_series = fake_pacs.tiny_series(9, stored[0].StudyInstanceUID)
    for instance in other_series:
        instance.SeriesDescription = "FLAIR"
    archive.store(other_series)
    spec = default_model(settings.load().models_dir, None)
    with pytest.raises(NoCandidateSeries, match=damaged):
        segmentation.fetch(segmentation.Request(stored[0].StudyInstanceUID), archive, spec)


def test_storing_again_changes_nothing(folder):
    archive = open_folder(folder)
    stored = fake_pacs.tiny_series(2)
    archive.store(stored)
    archive.store(stored)
    assert len(archive.retrieve_series(stored[0].StudyInstanceUID, stored[0].SeriesInstanceUID)) == 2


def test_a_map_of_other_values_is_other_content(folder):
    archive = open_folder(folder)
    (stored,) = fake_pacs.tiny_series(1)
    del stored.PixelData
    stored.FloatPixelData = np.zeros(stored.Rows * stored.Columns, np.float32).tobytes()
    archive.store([stored])
    changed_map = deepcopy(stored)
    changed_map.FloatPixelData = np.ones(stored.Rows * stored.Columns, np.float32).tobytes()
    archive.store([stored])
    with pytest.raises(AlreadyStored, match=stored.SOPInstanceUID):
        archive.store([changed_map])


def test_what_is_there_is_never_replaced_by_other_content_or_another_patient(folder):
    archive = open_folder(folder)
    stored = fake_pacs.tiny_series(2)
    archive.store(stored)
    # The copy that a person put into the folder counts as well.
    dcmwrite(folder / "IM1", stored[0], enforce_file_format=True)
    (
        folder / stored[0].StudyInstanceUID / stored[0].SeriesInstanceUID / f"{stored[0].SOPInstanceUID}.dcm"
    ).unlink()
    for replaced in (fake_pacs.with_other_pixels(stored[0]), fake_pacs.move(stored[0])):
        with pytest.raises(AlreadyStored, match=stored[0].SOPInstanceUID):
            archive.store([replaced])
    (theirs,) = fake_pacs.tiny_series(1, stored[0].StudyInstanceUID)
    theirs.PatientID = "P-2"
    with pytest.raises(IdentityConflict) as refused:
        archive.store([theirs])
    assert "P-2" not in refused.value.message
    retrieved = archive.retrieve_series(stored[0].StudyInstanceUID, stored[0].SeriesInstanceUID)
    assert pixels(retrieved) == pixels(stored)
    assert archive.search_studies()[0].NumberOfStudyRelatedInstances == 2


def in_another_syntax(instance, syntax, codestream=None):
    """A copy whose pixels are compressed; codestream: what stands for them instead."""
    copy = deepcopy(instance)
    if codestream is None:
        copy.compress(syntax, generate_instance_uid=False)
    else:
        copy.PixelData = encapsulate([codestream])
        copy["PixelData"].is_undefined_length = True
        copy.file_meta.TransferSyntaxUID = syntax
    return copy


def codestream_of(size, syntax):
    """A compressed image of size x size pixels."""
    (instance,) = fake_pacs.tiny_series(1, size=size)
    return next(generate_frames(in_another_syntax(instance, syntax).PixelData, number_of_frames=1))


GARBAGE = bytes(range(256)) * 8
DAMAGED_PIXELS = {
    "JPEG Lossless": (JPEGLosslessSV1, GARBAGE),
    "JPEG baseline": (JPEGBaseline8Bit, GARBAGE),
    "JPEG 2000": (JPEG2000Lossless, GARBAGE),
    "RLE": (RLELossless, GARBAGE),
    "RLE, an image of another size": (RLELossless, codestream_of(32, RLELossless)),
    "JPEG-LS, an image of another size": (JPEGLSLossless, codestream_of(32, JPEGLSLossless)),
}


@pytest.mark.parametrize("damaged_is", ["sent", "stored"])
@pytest.mark.parametrize("damage", DAMAGED_PIXELS)
def test_pixels_that_cannot_be_decoded_are_other_content(folder, damage, damaged_is):
    (sound,) = fake_pacs.tiny_series(1)
    damaged = in_another_syntax(sound, *DAMAGED_PIXELS[damage])
    stored, upload = (sound, damaged) if damaged_is == "sent" else (damaged, sound)
    archive = open_folder(folder)
    archive.store([stored])
    with pytest.raises(AlreadyStored, match=sound.SOPInstanceUID):
        archive.store([upload])
    instances = archive.retrieve_series(sound.StudyInstanceUID, sound.SeriesInstanceUID)
    assert pixels(instances) == pixels([stored])


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_the_same_pixels_in_another_syntax_are_the_same_content(folder, syntax, samples):
    (stored,) = fake_pacs.tiny_series(1)
    if samples > 1:
        stored.SamplesPerPixel, stored.PhotometricInterpretation, stored.PlanarConfiguration = 3, "RGB", 0
        stored.BitsAllocated, stored.BitsStored, stored.HighBit = 8, 8, 7
        stored.PixelData = stored.PixelData + stored.PixelData[:256]
    archive = open_folder(folder)
    archive.store([stored])
    archive.store([in_another_syntax(stored, syntax)])
    instances = archive.retrieve_series(stored.StudyInstanceUID, stored.SeriesInstanceUID)
    assert pixels(instances) == pixels([stored])


def test_a_copy_under_another_name_counts_once(folder):
    archive = open_folder(folder)
    stored = fake_pacs.tiny_series(2)
    archive.store(stored)
    dcmwrite(folder / "copy.dcm", stored[0], enforce_file_format=True)
    assert pixels(archive.retrieve_series(stored[0].StudyInstanceUID, stored[0].SeriesInstanceUID)) == pixels(
        stored
    )
    assert archive.search_studies()[0].NumberOfStudyRelatedInstances == 2


def test_no_instance_is_written_outside_the_folder(folder):
    archive = open_folder(folder)
    (instance,) = fake_pacs.tiny_series(1)
    with pytest.warns(UserWarning, match="Invalid value for VR UI"):
        instance.StudyInstanceUID = ".."
    with pytest.raises(StoreFailed, match="UID"):
        archive.store([instance])
    assert list(folder.parent.rglob("*.dcm")) == []


def test_unknown_study_and_series(folder):
    archive = open_folder(folder)
    stored = fake_pacs.tiny_series(1)
    archive.store(stored)
    with pytest.raises(StudyNotFound):
        archive.series_headers("1.2.3")
    with pytest.raises(StudyNotFound):
        archive.retrieve_series("1.2.3", stored[0].SeriesInstanceUID)
    with pytest.raises(SeriesNotFound):
        archive.retrieve_series(stored[0].StudyInstanceUID, "1.2.3")


def test_check(folder):
    archive = open_folder(folder)
    archive.check()
    folder.rmdir()
    with pytest.raises(ArchiveUnreachable):
        archive.check()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArchiveUnreachable):
        open_folder(tmp_path / "file" / "archive")
