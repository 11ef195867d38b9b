"""What is deleted stays deleted, in a real Orthanc, whatever a worker does at the same moment."""

import threading

import pytest
import requests

from bench import rows
from context import ModelServices
from db import jobs
from errors import ArchiveUnreachable
from orthanc.archive import open_archive
from schemas.tasks import SEGMENT, CorrectTask, StructureSetTask
from tests.documents import documents_of_study
from tests.site import Killed, Site
from unetr.served import default_model
from worker import Runner


class Meanwhile:
    """The archive, in which something happens just before it deletes."""

    def __init__(self, archive, happens):
        self._archive, self._happens = archive, happens

    def __getattr__(self, name):
        return getattr(self._archive, name)

    def delete_instance(self, study_uid, sop_uid):
        self._once()
        self._archive.delete_instance(study_uid, sop_uid)

    def delete_study(self, study_uid):
        self._once()
        self._archive.delete_study(study_uid)

    def _once(self):
        happens, self._happens = self._happens, lambda: None
        happens()


class DeletionSite(Site):
    """A site with a study in Orthanc."""

    def __init__(self, folder, orthanc, **settings):
        super().__init__(folder, auth="off", segmentationui_api=True, **orthanc.access, **settings)
        self.orthanc = orthanc
        self.context = self.app.extensions["metscope"]
        self.study = rows.add_study(self.settings, 1)

    def submit(self, task=SEGMENT, **options):
        return super().submit(self.study, task=task, **options)

    def run(self, task=SEGMENT, **options):
        return self.run_job(self.submit(task, **options))

    def delete(self, path, happens):
        self.context.per_thread.archive = Meanwhile(open_archive(self.settings), happens)
        return self.app.test_client().delete(path)

    def in_orthanc(self):
        """Modalities of the study's series, as Orthanc itself tells."""
        answer = requests.post(
            f"{self.orthanc.rest_url}/tools/find",
            json={"Level": "Series", "Query": {"StudyInstanceUID": self.study}, "Expand": True},
            auth=self.orthanc.authentication,
            timeout=30,
        ).json()
        return sorted(series["MainDicomTags"]["Modality"] for series in answer)

    def documents(self):
        return documents_of_study(self.sessions, self.study)

    def stored_objects(self):
        """UIDs by modality of what the study's documents say is stored."""
        objects = [
            entry
            for document in self.documents()
            for entry in [document["segmentation"] | {"modality": "SEG"}, *document["companions"]]
        ]
        return {entry["modality"]: entry["sop_instance_uid"] for entry in objects if entry["stored"]}


@pytest.fixture
def site(tmp_path, orthanc):
    return DeletionSite(tmp_path, orthanc)


def test_no_structure_set_is_left_of_a_segmentation_that_is_deleted_while_it_is_made(site):
    segmentation_id = site.run().segmentation_id
    ended = []
    answer = site.delete(
        f"/segmentations/{segmentation_id}",
        lambda: ended.append(site.run(StructureSetTask(segmentation_id=segmentation_id))),
    )
    assert answer.status_code == 204
    assert (ended[0].state, ended[0].error_code) == ("failed", "segmentation_not_found")
    assert site.in_orthanc() == ["MR"]
    assert site.documents() == []


def test_no_correction_is_left_of_a_segmentation_that_is_deleted_while_it_is_made(site):
    segmentation_id = site.run().segmentation_id
    task = CorrectTask(segmentation_id=segmentation_id, rename={1: "pons"}, delete=[])
    answer = site.delete(f"/segmentations/{segmentation_id}", lambda: site.run(task))
    assert answer.status_code == 204
    assert site.in_orthanc() == ["MR"]
    assert site.documents() == []


@pytest.mark.parametrize("force", [False, True])
def test_a_study_that_is_deleted_while_a_job_of_it_runs_does_not_reappear(site, force):
    site.run()
    ended = []
    url = f"/segmentationui/delete-study/{site.study}"
    assert site.delete(url, lambda: ended.append(site.run(force=force))).status_code == 200
    assert (ended[0].state, ended[0].error_code) == ("failed", "study_not_found")
    assert site.in_orthanc() == []
    assert site.documents() == []


def test_a_job_that_read_the_images_before_their_deletion_records_nothing_after_it(site):
    read, deleted = threading.Event(), threading.Event()

    class Held(Meanwhile):
        def retrieve_series(self, study_uid, series_uid):
            series = self._archive.retrieve_series(study_uid, series_uid)
            read.set()
            assert deleted.wait(600)
            return series

    def opener(settings, model_id):
        spec = default_model(settings.models_dir, settings.model_path)
        held = Held(open_archive(settings), None)
        return ModelServices(held, site.sessions, settings, rows.threshold, spec)

    runner = Runner(site.settings, opener)
    worker = threading.Thread(target=lambda: runner.run(site.submit()))

    def start():
        worker.start()
        assert read.wait(600)

    answer = site.delete(f"/segmentationui/delete-study/{site.study}", start)
    deleted.set()
    worker.join()
    assert answer.status_code == 200
    (job,) = jobs.list_jobs(site.sessions)
    assert (job.state, job.error_code) == ("failed", "study_not_found")
    assert site.in_orthanc() == []
    assert site.documents() == []


def die():
    raise Killed


def fail():
    raise ArchiveUnreachable("The archive does not answer.")


@pytest.mark.parametrize("of", ["segmentation", "study"])
def test_where_the_archive_fails_nothing_is_deleted_and_the_request_may_be_repeated(site, of):
    segmentation_id = site.run().segmentation_id
    before = site.documents()
    urls = {
        "segmentation": f"/segmentations/{segmentation_id}",
        "study": f"/segmentationui/delete-study/{site.study}",
    }
    assert site.delete(urls[of], fail).status_code == 503
    assert site.documents() == before
    assert site.in_orthanc() == ["MR", "SEG", "SR"]
    assert site.run().segmentation_id == segmentation_id
    assert site.delete(urls[of], lambda: None).status_code in {200, 204}
    assert site.documents() == []
    assert "SEG" not in site.in_orthanc()


class Keeps:
    """The archive, which does not delete one object."""

    def __init__(self, archive, kept):
        self._archive, self._kept = archive, kept

    def __getattr__(self, name):
        return getattr(self._archive, name)

    def delete_instance(self, study_uid, sop_uid):
        if sop_uid == self._kept:
            fail()
        self._archive.delete_instance(study_uid, sop_uid)


@pytest.mark.parametrize("kept", ["SEG", "SR", "RTSTRUCT"])
def test_after_a_deletion_that_failed_half_way_no_document_claims_what_is_gone(site, kept):
    segmentation_id = site.run().segmentation_id
    site.run(StructureSetTask(segmentation_id=segmentation_id))
    before = site.stored_objects()
    assert sorted(before) == ["RTSTRUCT", "SEG", "SR"]
    site.context.per_thread.archive = Keeps(site.archive, before[kept])
    client, url = site.app.test_client(), f"/segmentations/{segmentation_id}"
    assert client.delete(url).status_code == 503
    for uid in site.stored_objects().values():
        assert site.archive.has_instance(site.study, uid)
    # What is gone is made again, as for a study that was never segmented.
    again = site.run().segmentation_id
    assert site.run(StructureSetTask(segmentation_id=again)).state == "done"
    made = site.stored_objects()
    assert sorted(made) == ["RTSTRUCT", "SEG", "SR"]
    assert all(site.archive.has_instance(site.study, uid) for uid in made.values())
    # The same request fails again without a change, also where the archive is away for all objects.
    assert client.delete(url).status_code == 503
    assert site.delete(url, fail).status_code == 503
    assert site.stored_objects() == made
    # At last it deletes what it left of the first result, and nothing of the second.
    assert site.delete(url, lambda: None).status_code == 204
    assert not any(site.archive.has_instance(site.study, uid) for uid in before.values())
    assert site.in_orthanc() == (["MR"] if again == segmentation_id else ["MR", "RTSTRUCT", "SEG", "SR"])


def test_a_deletion_that_a_process_left_unfinished_is_finished_by_the_same_request(site):
    segmentation_id = site.run().segmentation_id
    with pytest.raises(Killed):
        site.delete(f"/segmentations/{segmentation_id}", die)
    assert site.in_orthanc() == ["MR", "SEG", "SR"]
    assert site.delete(f"/segmentations/{segmentation_id}", lambda: None).status_code == 204
    assert site.in_orthanc() == ["MR"]
    assert site.delete(f"/segmentations/{segmentation_id}", lambda: None).status_code == 404
    with pytest.raises(Killed):
        site.delete(f"/segmentationui/delete-study/{site.study}", die)
    assert site.run().error_code == "study_not_found"
    assert site.delete(f"/segmentationui/delete-study/{site.study}", lambda: None).status_code == 200
    assert site.in_orthanc() == []


def test_a_report_that_nothing_was_found_is_deleted_with_its_segmentation(tmp_path, orthanc):
    site = DeletionSite(tmp_path, orthanc, report_no_lesion=True)
    segmentation_id = site.run().segmentation_id
    task = CorrectTask(segmentation_id=segmentation_id, rename={}, delete=[1, 2, 3, 4, 5])
    emptied = site.run(task).segmentation_id
    assert site.in_orthanc() == ["MR", "SEG", "SR", "SR"]
    url = f"/segmentations/{emptied}"
    assert site.delete(url, fail).status_code == 503
    assert [document["id"] for document in site.documents()] == [emptied, segmentation_id]
    with pytest.raises(Killed):
        site.delete(url, die)
    assert site.delete(url, lambda: None).status_code == 204
    assert site.in_orthanc() == ["MR", "SEG", "SR"]
    assert [document["id"] for document in site.documents()] == [segmentation_id]
    assert site.delete(url, lambda: None).status_code == 404
