"""What a bad PACS does to us: the exact error, in time, and nothing repeated that is not safe."""

import time

import pytest
from pydicom import Dataset

import settings
from errors import (
    ArchiveIncomplete,
    ArchiveRefused,
    ArchiveTimeout,
    ArchiveUnreachable,
    SeriesNotFound,
    StoreFailed,
    StudyNotFound,
)
from orthanc.dicomweb import Archive, open_archive
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


def retrieve(pacs: FakePacs, series: list[Dataset], **limits: float) -> list[Dataset]:
    archive = archive_at(pacs.url, **limits)
    return archive.retrieve_series(series[0].StudyInstanceUID, series[0].SeriesInstanceUID)


def uids(instances) -> list[str]:
    return sorted(instance.SOPInstanceUID for instance in instances)


def test_a_well_behaved_pacs_serves_every_instance_whatever_the_order(pacs, series):
    pacs.faults["wado"] = [fake_pacs.serve(series[::-1])]
    assert uids(retrieve(pacs, series)) == uids(series)


def test_retrieval_costs_little_cpu_time(pacs):
    large = fake_pacs.tiny_series(176, size=256)
    pacs.instances = large
    # This thread's time only: the fake PACS works in others.
    began = time.thread_time()
    received = retrieve(pacs, large, read=20.0, total=30.0)
    assert time.thread_time() - began < 0.5
    assert {i.SOPInstanceUID: i.PixelData for i in received} == {i.SOPInstanceUID: i.PixelData for i in large}
    # Orthanc would spend 100 times the CPU on gzip.
    assert pacs.encodings == {"identity"}


def test_a_silent_pacs_is_given_up_after_the_read_limit_and_not_asked_again(pacs, series):
    pacs.faults["wado"] = [fake_pacs.stall]
    began = time.monotonic()
    with pytest.raises(ArchiveTimeout):
        retrieve(pacs, series, read=0.5)
    assert 0.5 <= time.monotonic() - began < 1.5
    assert pacs.asked("wado") == 1


def test_a_trickling_body_ends_at_the_total_limit(pacs, series):
    pacs.faults["wado"] = [fake_pacs.trickle]
    began = time.monotonic()
    with pytest.raises(ArchiveTimeout, match="total"):
        retrieve(pacs, series, read=0.6, total=1.0)
    assert 1.0 <= time.monotonic() - began < 2.0


@pytest.mark.parametrize("say_length", [False, True])
def test_a_cut_answer_is_incomplete_if_it_stays_so(pacs, series, say_length):
    pacs.faults["wado"] = [fake_pacs.cut(series, say_length=say_length)] * 4
    with pytest.raises(ArchiveIncomplete, match=r"broke off after \d+"):
        retrieve(pacs, series)
    assert pacs.asked("wado") == 4


def test_a_cut_answer_is_asked_for_again(pacs, series):
    pacs.faults["wado"] = [fake_pacs.cut(series, say_length=False)]
    assert uids(retrieve(pacs, series)) == uids(series)


def test_a_dropped_connection_is_tried_again(pacs, series):
    pacs.faults["wado"] = [fake_pacs.drop]
    assert uids(retrieve(pacs, series)) == uids(series)
    assert pacs.asked("wado") == 2


def test_a_busy_pacs_is_tried_again(pacs, series):
    pacs.faults["wado"] = [fake_pacs.status(503), fake_pacs.status(503)]
    assert uids(retrieve(pacs, series)) == uids(series)


def test_a_pacs_that_stays_busy_is_unreachable_after_three_repetitions(pacs, series):
    pacs.faults["wado"] = [fake_pacs.status(503)] * 10
    with pytest.raises(ArchiveUnreachable, match="503"):
        retrieve(pacs, series)
    assert pacs.asked("wado") == 4


@pytest.mark.parametrize("code", [406, 500])
def test_a_refusal_is_reported_with_its_status_and_not_repeated(pacs, series, code):
    pacs.faults["wado"] = [fake_pacs.status(code)]
    with pytest.raises(ArchiveRefused, match=f"HTTP {code}"):
        retrieve(pacs, series)
    assert pacs.asked("wado") == 1


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
    assert series[0].SOPInstanceUID in caught.value.found


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
    with pytest.raises(ArchiveIncomplete, match="0 headers"):
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
        archive_at(pacs.url.replace(port, "1")).check()
    assert time.monotonic() - began < 1.0


def test_check_does_not_wait_longer_than_for_a_connection(pacs):
    pacs.faults["studies"] = [fake_pacs.stall]
    began = time.monotonic()
    with pytest.raises(ArchiveTimeout):
        archive_at(pacs.url, connect=0.5, read=20.0).check()
    assert time.monotonic() - began < 1.5


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
    assert pacs.asked("stow") == 1


def test_storage_refused_without_an_explanation(pacs):
    new = fake_pacs.tiny_series(1)
    pacs.faults["stow"] = [fake_pacs.status(413)]
    with pytest.raises(StoreFailed, match="HTTP 413") as caught:
        archive_at(pacs.url).store(new)
    assert new[0].SOPInstanceUID in caught.value.found


def test_claimed_storage_is_not_believed(pacs):
    new = fake_pacs.tiny_series(2)
    pacs.faults["stow"] = [fake_pacs.claim_storage]
    with pytest.raises(StoreFailed, match="no query finds") as caught:
        archive_at(pacs.url).store(new)
    assert sorted(caught.value.details["failed"]) == uids(new)


def test_an_unreadable_answer_to_storage_is_decided_by_the_query(pacs):
    new = fake_pacs.tiny_series(1)

    def store_silently(pacs, request):
        pacs.instances += fake_pacs.received(request)
        return fake_pacs.status(200)(pacs, request)

    pacs.faults["stow"] = [store_silently]
    archive_at(pacs.url).store(new)
    assert pacs.asked("instances") == 1


def test_storage_is_not_sent_again_when_only_the_answer_was_lost(pacs, series):
    new = fake_pacs.tiny_series(2)
    pacs.faults["stow"] = [fake_pacs.store_then_drop]
    archive_at(pacs.url).store(new)
    assert pacs.asked("stow") == 1
    assert uids(pacs.instances) == uids(series + new)


def test_storage_is_sent_again_when_a_query_confirms_that_nothing_arrived(pacs, series):
    new = fake_pacs.tiny_series(2)
    pacs.faults["stow"] = [fake_pacs.drop, fake_pacs.status(503)]
    archive_at(pacs.url).store(new)
    assert pacs.asked("stow") == 3
    assert uids(pacs.instances) == uids(series + new)


def test_storage_that_times_out_is_not_sent_again(pacs):
    pacs.faults["stow"] = [fake_pacs.stall]
    with pytest.raises(ArchiveTimeout):
        archive_at(pacs.url).store(fake_pacs.tiny_series(1))
    assert pacs.asked("stow") == 1


def test_has_instance_is_not_fooled_by_a_server_that_ignores_the_filter(pacs, series):
    pacs.faults["instances"] = [lambda pacs, request: fake_pacs.json_answer(series)]
    assert not archive_at(pacs.url).has_instance(series[0].StudyInstanceUID, "1.2.3")
