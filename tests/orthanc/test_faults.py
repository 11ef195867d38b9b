"""What a bad PACS does to us: the exact error, in time, and nothing repeated that is not safe."""

import time
from copy import deepcopy

import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from werkzeug import Response

import settings
from errors import (
    ArchiveIncomplete,
    ArchiveRefused,
    ArchiveTimeout,
    ArchiveUnreachable,
    InconsistentImages,
    SeriesNotFound,
    StoreFailed,
    StudyNotFound,
)
from imaging.series import rank
from orthanc.archive import Archive, open_archive
from tests import fake_pacs
from tests.fake_pacs import FakePacs


@pytest.fixture
def series() -> list[Dataset]:
    return fake_pacs.tiny_series(4)


@pytest.fixture
def pacs(series):
    pacs = FakePacs()
    pacs.instances = list(series)
    with fake_pacs.running(pacs):
        yield pacs


def archive_at(url: str, **limits: float) -> Archive:
    chosen = {"connect": 1.0, "read": 0.6, "total": 5.0} | limits
    timeouts = {f"dicomweb_{name}_timeout_s": value for name, value in chosen.items()}
    return open_archive(settings.load(dicomweb_url=url, **timeouts))


# Where the answer counts and not how long it takes, on a machine that is busy.
PATIENT = {"connect": 10.0, "read": 30.0, "total": 60.0}


def retrieve(pacs: FakePacs, series: list[Dataset], **limits: float) -> list[Dataset]:
    archive = archive_at(pacs.url, **limits)
    return archive.retrieve_series(series[0].StudyInstanceUID, series[0].SeriesInstanceUID)


def uids(instances) -> list[str]:
    return sorted(instance.SOPInstanceUID for instance in instances)


def test_a_well_behaved_pacs_serves_every_instance_whatever_the_order(pacs, series):
    pacs.faults["wado"] = [fake_pacs.serve(series[::-1])]
    assert uids(retrieve(pacs, series)) == uids(series)


def test_images_arrive_as_they_are_and_are_asked_for_without_compression(pacs):
    large = fake_pacs.tiny_series(176, size=256)
    pacs.instances = large
    received = retrieve(pacs, large, **PATIENT)
    assert {i.SOPInstanceUID: i.PixelData for i in received} == {i.SOPInstanceUID: i.PixelData for i in large}
    # Orthanc would spend 100 times the CPU on gzip.
    assert pacs.encodings == {"identity"}


def test_a_silent_pacs_is_given_up_after_the_read_limit_and_not_asked_again(pacs, series):
    pacs.faults["wado"] = [fake_pacs.stall]
    began = time.monotonic()
    with pytest.raises(ArchiveTimeout):
        retrieve(pacs, series, read=0.5)
    assert 0.5 <= time.monotonic() - began < 10.0
    assert pacs.request_count("wado") == 1


def test_a_trickling_body_ends_at_the_total_limit(pacs, series):
    pacs.faults["wado"] = [fake_pacs.trickle]
    began = time.monotonic()
    with pytest.raises(ArchiveTimeout, match="total"):
        retrieve(pacs, series, read=30.0, total=1.0)
    assert 1.0 <= time.monotonic() - began < 10.0


@pytest.mark.parametrize("say_length", [False, True])
def test_a_cut_answer_is_incomplete_if_it_stays_so(pacs, series, say_length):
    pacs.faults["wado"] = [fake_pacs.cut(series, say_length=say_length)] * 4
    with pytest.raises(ArchiveIncomplete, match=r"broke off after \d+"):
        retrieve(pacs, series)
    assert pacs.request_count("wado") == 4


def test_a_cut_answer_is_asked_for_again(pacs, series):
    pacs.faults["wado"] = [fake_pacs.cut(series, say_length=False)]
    assert uids(retrieve(pacs, series)) == uids(series)


def test_a_dropped_connection_is_tried_again(pacs, series):
    pacs.faults["wado"] = [fake_pacs.drop]
    assert uids(retrieve(pacs, series)) == uids(series)
    assert pacs.request_count("wado") == 2


def test_a_busy_pacs_is_tried_again(pacs, series):
    pacs.faults["wado"] = [fake_pacs.status(503), fake_pacs.status(503)]
    assert uids(retrieve(pacs, series)) == uids(series)


def test_a_pacs_that_stays_busy_is_unreachable_after_three_repetitions(pacs, series):
    pacs.faults["wado"] = [fake_pacs.status(503)] * 10
    with pytest.raises(ArchiveUnreachable, match="503"):
        retrieve(pacs, series)
    assert pacs.request_count("wado") == 4


@pytest.mark.parametrize("code", [406, 500])
def test_a_refusal_is_reported_with_its_status_and_not_repeated(pacs, series, code):
    pacs.faults["wado"] = [fake_pacs.status(code)]
    with pytest.raises(ArchiveRefused, match=f"HTTP {code}"):
        retrieve(pacs, series)
    assert pacs.request_count("wado") == 1


@pytest.mark.parametrize("code", [401, 403])
def test_refused_credentials_are_named(pacs, series, code):
    pacs.faults["series"] = [fake_pacs.status(code)]
    with pytest.raises(ArchiveRefused, match="credentials"):
        retrieve(pacs, series)


def test_listed_but_not_servable(pacs, series):
    pacs.faults["wado"] = [fake_pacs.status(404)]
    with pytest.raises(ArchiveIncomplete, match=r"lists 4 instances .* served 0"):
        retrieve(pacs, series)


def test_fewer_instances_than_listed(pacs, series):
    pacs.faults["wado"] = [fake_pacs.serve(series[1:])]
    with pytest.raises(ArchiveIncomplete, match=r"lists 4 instances .* served 3") as caught:
        retrieve(pacs, series)
    assert series[0].SOPInstanceUID in caught.value.problem


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_what_is_of_another_study_or_series_than_asked_for_is_refused(pacs, series, keyword):
    served = deepcopy(series)
    served[1][keyword].value = generate_uid()
    pacs.faults["wado"] = [fake_pacs.serve(served)]
    with pytest.raises(ArchiveRefused, match=f"whose {keyword}") as refused:
        retrieve(pacs, series)
    assert served[1][keyword].value in refused.value.problem


def test_a_series_of_two_patients_is_refused(pacs, series):
    served = deepcopy(series)
    served[1].PatientID = "P-2"
    pacs.faults["wado"] = [fake_pacs.serve(served)]
    with pytest.raises(InconsistentImages, match="2 patients") as refused:
        retrieve(pacs, series)
    assert "P-2" not in refused.value.message


def test_one_instance_without_multipart_is_accepted(pacs):
    single = fake_pacs.tiny_series(1)
    pacs.instances = single
    pacs.faults["wado"] = [fake_pacs.single_part(single[0])]
    received = retrieve(pacs, single)
    assert [instance.PixelData for instance in received] == [single[0].PixelData]


def test_a_web_page_instead_of_instances_is_refused(pacs, series):
    pacs.faults["wado"] = [fake_pacs.status(200)]
    with pytest.raises(ArchiveRefused, match="text/plain"):
        retrieve(pacs, series)


def test_a_web_page_instead_of_json_is_refused(pacs, series):
    pacs.faults["series"] = [fake_pacs.status(200)]
    with pytest.raises(ArchiveRefused, match="JSON"):
        archive_at(pacs.url).series_headers(series[0].StudyInstanceUID)


def test_series_listed_without_headers(pacs, series):
    pacs.faults["metadata"] = [fake_pacs.status(404)]
    with pytest.raises(ArchiveIncomplete, match="no headers"):
        archive_at(pacs.url).series_headers(series[0].StudyInstanceUID)


def test_unknown_study_and_series(pacs, series):
    archive = archive_at(pacs.url)
    with pytest.raises(StudyNotFound):
        archive.series_headers("1.2.3")
    with pytest.raises(StudyNotFound):
        archive.retrieve_series("1.2.3", series[0].SeriesInstanceUID)
    with pytest.raises(SeriesNotFound):
        archive.retrieve_series(series[0].StudyInstanceUID, "1.2.3")


def test_nobody_listens(pacs):
    port = pacs.url.split(":")[2].split("/")[0]
    began = time.monotonic()
    # Port 1 of loopback: nothing may listen there without being root, and nothing does.
    with pytest.raises(ArchiveUnreachable, match="refused"):
        archive_at(pacs.url.replace(port, "1"), **PATIENT).check()
    # None of the limits was waited for.
    assert time.monotonic() - began < PATIENT["connect"]


def test_check_does_not_wait_longer_than_for_a_connection(pacs):
    pacs.faults["studies"] = [fake_pacs.stall]
    began = time.monotonic()
    with pytest.raises(ArchiveTimeout):
        archive_at(pacs.url, connect=0.5, read=30.0, total=60.0).check()
    assert 0.5 <= time.monotonic() - began < 30.0


def test_check_says_that_the_url_is_no_dicomweb_root(pacs):
    with pytest.raises(ArchiveRefused, match="DICOMWEB_URL"):
        archive_at(pacs.url.replace("dicom-web", "elsewhere")).check()


def test_messages_name_no_patient(pacs):
    pacs.faults["studies"] = [fake_pacs.status(500)]
    with pytest.raises(ArchiveRefused) as caught:
        archive_at(pacs.url).search_studies(PatientID="SECRET-7")
    assert "SECRET-7" not in caught.value.message
    port = pacs.url.split(":")[2].split("/")[0]
    with pytest.raises(ArchiveUnreachable) as caught:
        archive_at(pacs.url.replace(port, "1")).search_studies(PatientID="SECRET-7")
    assert "SECRET-7" not in caught.value.message
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("code", [200, 409])
def test_failed_storage_is_named_whatever_the_status(pacs, code):
    new = fake_pacs.tiny_series(2)
    pacs.faults["stow"] = [fake_pacs.refuse_storage(code, 0xA700)]
    with pytest.raises(StoreFailed, match="A700H") as caught:
        archive_at(pacs.url).store(new)
    assert sorted(caught.value.details["failed"]) == uids(new)
    assert pacs.request_count("stow") == 1


def test_storage_refused_without_an_explanation(pacs):
    new = fake_pacs.tiny_series(1)
    pacs.faults["stow"] = [fake_pacs.status(413)]
    with pytest.raises(StoreFailed, match="HTTP 413") as caught:
        archive_at(pacs.url).store(new)
    assert new[0].SOPInstanceUID in caught.value.problem


def test_claimed_storage_is_not_believed(pacs):
    new = fake_pacs.tiny_series(2)
    pacs.faults["stow"] = [fake_pacs.claim_storage]
    with pytest.raises(StoreFailed, match="no query finds") as caught:
        archive_at(pacs.url).store(new)
    assert sorted(caught.value.details["failed"]) == uids(new)


def test_an_unreadable_answer_to_storage_is_decided_by_the_query(pacs):
    new = fake_pacs.tiny_series(1)

    def store_silently(pacs, request):
        pacs.instances += fake_pacs.parse_instances(request)
        return fake_pacs.status(200)(pacs, request)

    pacs.faults["stow"] = [store_silently]
    archive_at(pacs.url).store(new)
    assert pacs.request_count("instances") == 1


def test_storage_is_not_sent_again_when_only_the_answer_was_lost(pacs, series):
    new = fake_pacs.tiny_series(2)
    pacs.faults["stow"] = [fake_pacs.store_then_drop]
    archive_at(pacs.url).store(new)
    assert pacs.request_count("stow") == 1
    assert uids(pacs.instances) == uids(series + new)


def test_storage_is_sent_again_when_a_query_confirms_that_nothing_arrived(pacs, series):
    new = fake_pacs.tiny_series(2)
    pacs.faults["stow"] = [fake_pacs.drop, fake_pacs.status(503)]
    archive_at(pacs.url).store(new)
    assert pacs.request_count("stow") == 3
    assert uids(pacs.instances) == uids(series + new)


def test_storage_that_times_out_is_not_sent_again(pacs):
    pacs.faults["stow"] = [fake_pacs.stall]
    with pytest.raises(ArchiveTimeout):
        archive_at(pacs.url).store(fake_pacs.tiny_series(1))
    assert pacs.request_count("stow") == 1


def test_has_instance_is_not_fooled_by_a_server_that_ignores_the_filter(pacs, series):
    pacs.faults["instances"] = [lambda pacs, request: fake_pacs.json_answer(series)]
    assert not archive_at(pacs.url).has_instance(series[0].StudyInstanceUID, "1.2.3")


# Shapes of DICOM JSON that archives send, in elements that nobody needs.
ODD = {
    "DS ''": {"00101030": {"vr": "DS", "Value": [""]}},
    "IS ''": {"00201208": {"vr": "IS", "Value": [""]}},
    "DS 'n/a'": {"00101030": {"vr": "DS", "Value": ["n/a"]}},
    "DS with a comma": {"00101030": {"vr": "DS", "Value": ["72,5"]}},
    "DS null": {"00101030": {"vr": "DS", "Value": [None]}},
    "IS 1.5": {"00280301": {"vr": "IS", "Value": ["1.5"]}},
    "FD null": {"00189073": {"vr": "FD", "Value": [None]}},
    "FD inf": {"00189073": {"vr": "FD", "Value": ["inf"]}},
    "US 'x'": {"00280106": {"vr": "US", "Value": ["x"]}},
    "PN as text": {"00081050": {"vr": "PN", "Value": ["A^B"]}},
    "PN null": {"00081050": {"vr": "PN", "Value": [None]}},
    "PN {}": {"00081050": {"vr": "PN", "Value": [{}]}},
    "PN list": {"00081050": {"vr": "PN", "Value": [{"Alphabetic": ["A^B"]}]}},
    "no vr": {"00101030": {"Value": [70]}},
    "empty vr": {"00101030": {"vr": "", "Value": [70]}},
    "unknown vr": {"00101030": {"vr": "OX", "Value": [70]}},
    "vr a list": {"00101030": {"vr": ["DS"], "Value": [70]}},
    "AT as number": {"00280009": {"vr": "AT", "Value": [1577059]}},
    "SQ null item": {"00081140": {"vr": "SQ", "Value": [None]}},
    "SQ text": {"00081140": {"vr": "SQ", "Value": ["x"]}},
    "SQ odd within": {"00081140": {"vr": "SQ", "Value": [{"00101030": None}]}},
    "Value not a list": {"00101030": {"vr": "DS", "Value": "70"}},
    "a list": {"00101030": [70]},
    "list in a list": {"00101030": {"vr": "DS", "Value": [[70]]}},
    "private DS ''": {"00291018": {"vr": "DS", "Value": [""]}},
    "null": {"00101030": None},
    "not base64": {"00291010": {"vr": "UN", "InlineBinary": "###"}},
    "binary a list": {"00291010": {"vr": "UN", "InlineBinary": [1]}},
    "no tag": {"Weight": {"vr": "DS", "Value": [1]}},
}  # fmt: skip


# pydicom warns of it and reads it all the same.
@pytest.mark.filterwarnings("ignore:Value of data element '00081050'")
@pytest.mark.parametrize("route", ["metadata", "series", "studies"])
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_an_odd_value_in_an_element_that_nobody_needs_counts_as_missing(pacs, series, route, odd):
    pacs.edit = lambda called_route, entries: (
        [{**e, **odd} for e in entries] if called_route == route else entries
    )
    archive = archive_at(pacs.url, **PATIENT)
    (headers,) = archive.series_headers(series[0].StudyInstanceUID)
    assert uids(headers) == uids(series)
    assert [headers[0].PixelSpacing, headers[0].Rows] == [[0.5, 0.75], 16]
    assert len(archive.search_studies()) == 1
    assert uids(archive.retrieve_series(series[0].StudyInstanceUID, series[0].SeriesInstanceUID)) == uids(
        series
    )


def test_geometry_that_the_metadata_do_not_tell_is_read_from_the_images(pacs, series):
    lost = {
        "00280010": {"vr": "UN", "InlineBinary": "EAA="},
        "00200032": {"vr": "DS", "Value": ["a", "b", "c"]},
    }
    pacs.edit = lambda route, entries: [{**e, **lost} for e in entries] if route == "metadata" else entries
    (headers,) = archive_at(pacs.url).series_headers(series[0].StudyInstanceUID)
    assert {header.SOPInstanceUID: header.ImagePositionPatient[2] for header in headers} == {
        instance.SOPInstanceUID: instance.ImagePositionPatient[2] for instance in series
    }
    assert {header.Rows for header in headers} == {16}
    assert not any("PixelData" in header for header in headers)


@pytest.mark.parametrize("code", [403, 404, 406, 410, 500])
def test_a_series_whose_metadata_are_refused_is_named_and_the_others_can_be_used(pacs, series, code):
    study_uid = series[0].StudyInstanceUID
    other_series = fake_pacs.tiny_series(5, study_uid)
    pacs.instances += other_series
    pacs.metadata_status = {other_series[0].SeriesInstanceUID: code}
    archive = archive_at(pacs.url)
    readable, unread = sorted(archive.series_headers(study_uid), key=len, reverse=True)
    assert uids(readable) == uids(series)
    refused = {c.series_instance_uid: c for c in rank([readable, unread])}[other_series[0].SeriesInstanceUID]
    assert refused.refused in ("archive_refused", "archive_incomplete")
    assert refused.description == "T1 MPRAGE post"
    assert str(code) in refused.message or "no headers" in refused.message
    # Nothing is asked of the other series where one is named.
    pacs.requests.clear()
    assert [uids(h) for h in archive.series_headers(study_uid, [series[0].SeriesInstanceUID])] == [
        uids(series)
    ]
    assert pacs.request_count("metadata") == 1
    with pytest.raises((ArchiveRefused, ArchiveIncomplete)):
        archive.series_headers(study_uid, [other_series[0].SeriesInstanceUID])


@pytest.mark.parametrize("uid", [{}, {"0020000E": {"vr": "UI"}}, {"0020000E": {"vr": "UI", "Value": [None]}}])
def test_a_listed_series_without_uid_is_passed_over_and_logged(pacs, series, caplog, uid):
    study_uid = series[0].StudyInstanceUID
    pacs.instances += fake_pacs.tiny_series(5, study_uid)

    def unname_last(route, entries):
        if route != "series":
            return entries
        return [*entries[:-1], {tag: e for tag, e in entries[-1].items() if tag != "0020000E"} | uid]

    pacs.edit = unname_last
    assert [uids(headers) for headers in archive_at(pacs.url).series_headers(study_uid)] == [uids(series)]
    assert "skipped: 1 without SeriesInstanceUID" in caplog.text


def many_series(count: int) -> list[Dataset]:
    study_uid = generate_uid()
    return [instance for _ in range(count) for instance in fake_pacs.tiny_series(1, study_uid)]


def test_answers_in_pages_are_followed_to_the_end(pacs):
    pacs.instances = instances = many_series(8)
    pacs.page_size = 5
    archive = archive_at(pacs.url)
    study_uid = instances[0].StudyInstanceUID
    assert uids(h for headers in archive.series_headers(study_uid) for h in headers) == uids(instances)
    for instance in instances:
        assert archive.has_instance(study_uid, instance.SOPInstanceUID)
        assert uids(archive.retrieve_series(study_uid, instance.SeriesInstanceUID)) == [
            instance.SOPInstanceUID
        ]
    pacs.instances += many_series(1) + many_series(1) + many_series(1)
    pacs.page_size = 2
    assert len(archive.search_studies()) == 4


def without_count(route: str, entries: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{tag: e for tag, e in entry.items() if tag != "00201206"} for entry in entries]


def test_pages_are_followed_where_no_count_of_series_is_told(pacs):
    pacs.instances = instances = many_series(8)
    pacs.page_size, pacs.edit = 5, without_count
    assert len(archive_at(pacs.url).series_headers(instances[0].StudyInstanceUID)) == 8


def test_an_archive_that_ignores_the_offset_is_not_asked_for_ever(pacs):
    pacs.instances = instances = many_series(8)
    study_uid = instances[0].StudyInstanceUID
    first_page = fake_pacs.json_answer(instances[:5]).get_data(as_text=True)
    pacs.faults["series"] = [lambda *_: Response(first_page, content_type=fake_pacs.JSON)] * 20
    with pytest.raises(ArchiveIncomplete, match="has 8 series and lists 5"):
        archive_at(pacs.url).series_headers(study_uid)
    assert pacs.request_count("series") == 2
    pacs.edit = without_count
    assert len(archive_at(pacs.url).series_headers(study_uid)) == 5


def test_json_nested_too_deep_is_refused(pacs, series):
    pacs.faults["series"] = [lambda *_: Response("[" * 100_000 + "]" * 100_000, content_type=fake_pacs.JSON)]
    with pytest.raises(ArchiveRefused, match="JSON"):
        archive_at(pacs.url).series_headers(series[0].StudyInstanceUID)
