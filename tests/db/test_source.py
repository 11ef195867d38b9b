"""A header's patient, study and series, whatever is missing in it or malformed."""

from datetime import date, time

import pytest
from pydicom import Dataset

from db.source import NO_PATIENT_ID, source_of


def test_a_complete_header(header):
    source = source_of(header)
    assert (source.patient_id, source.issuer, source.sex) == ("MS-1", "Hospital A", "F")
    assert source.patient_name == "Müller^Änne"
    assert source.birth_date == date(1950, 4, 12)
    assert (source.study_date, source.study_time) == (date(2024, 2, 29), time(10, 11, 12, 500000))
    assert (source.study_instance_uid, source.study_description) == ("1.2.3", "MR Brain")
    assert (source.series_instance_uid, source.series_description) == ("1.2.3.4", "T1 MPRAGE +Gd")
    assert source.modality == "MR"


def test_a_header_of_uids_alone():
    bare = Dataset()
    bare.StudyInstanceUID, bare.SeriesInstanceUID, bare.StudyDate, bare.PatientName = (
        "1.2.3",
        "1.2.3.4",
        "",
        "",
    )
    source = source_of(bare)
    assert (source.patient_name, source.birth_date, source.sex, source.study_date) == (None,) * 4
    assert (source.study_time, source.study_description, source.modality) == (None,) * 3


@pytest.mark.parametrize("patient_id", ["", "  ", None])
def test_studies_without_a_patient_id_are_different_patients(header, patient_id):
    header.PatientID = patient_id
    first = source_of(header)
    header.StudyInstanceUID = "1.2.9"
    second = source_of(header)
    assert first.patient_id != second.patient_id
    assert first.issuer == second.issuer == NO_PATIENT_ID


@pytest.mark.parametrize("text", ["20240230", "unknown", "00000000", "2024"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
def test_a_malformed_date_is_no_date(header, text):
    header.StudyDate = text
    header.PatientBirthDate = text
    assert (source_of(header).study_date, source_of(header).birth_date) == (None, None)


@pytest.mark.parametrize("text", ["9", "noon", "256060"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR:UserWarning")
def test_a_malformed_time_is_no_time(header, text):
    header.StudyTime = text
    assert source_of(header).study_time is None


def test_midnight_is_a_time(header):
    header.StudyTime = "000000"
    assert source_of(header).study_time == time(0, 0)


def test_nul_padding_is_dropped(header):
    header.SeriesDescription = "T1\0 +Gd\0\0"
    assert source_of(header).series_description == "T1 +Gd"
