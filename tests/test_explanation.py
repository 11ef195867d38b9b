"""How sure a model was becomes a map in the archive beside the SEG, on request."""

import subprocess
import threading
from collections import Counter

import highdicom as hd
import numpy as np
import pytest

from bench.parts import wait_until
from context import ModelServices
from db import jobs, outbox, queue, segmentations
from errors import OutOfMemory
from imaging import series
from schemas.tasks import CorrectTask, UncertaintyTask
from tests.clock import later
from tests.site import Killed, Site
from unetr.predict import Predictor
from unetr.served import default_model
from unetr.spec import Crop, PostProcessing, ScaleRange
from unetr.synthesis.phantom import SeriesOptions, to_instances
from worker import Runner

GREY, BRIGHT, LEVEL, STEEPNESS = 300.0, 900.0, 0.5, 10.0
BALL_MM, RADIUS_MM = np.array([20.0, -12.0, 15.0]), 9.0


def head() -> hd.Volume:
    """A bright ball with a blurred edge in a grey cube of 60 mm; voxels of 1.5 mm as the model's."""
    affine = np.diag([1.5, 1.5, 1.5, 1.0])[:, [2, 1, 0, 3]]
    affine[:3, 3] = [-10.0, -40.0, -15.0]
    index = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij"), -1)
    distance = np.linalg.norm(index @ affine[:3, :3].T + affine[:3, 3] - BALL_MM, axis=-1)
    array = GREY + (BRIGHT - GREY) * np.clip((RADIUS_MM - distance) / 6.0 + 0.5, 0.0, 1.0)
    return hd.Volume(np.rint(array).astype(np.uint16), affine, "PATIENT")


def likely(volume: hd.Volume) -> np.ndarray:
    """The probability of a lesion that the model below gives to each voxel."""
    return 1.0 / (1.0 + np.exp(-(volume.array / 1000.0 - LEVEL) * STEEPNESS))


class UncertaintySite(Site):
    """A site at an Orthanc with one study that a model has segmented."""

    def __init__(self, folder, orthanc, **settings):
        super().__init__(folder, self._open, auth="off", **orthanc.access, **settings)
        scale = ScaleRange(step="scale_range", source=(0, 1000), target=(0, 1), clip=False)
        # Everywhere, as no brain is to be found in a cube, and by an intensity instead of a network.
        self.spec = default_model(self.settings.models_dir).model_copy(
            update={
                "brain": None,
                "crop": Crop(to="none"),
                "intensity": (scale,),
                "spacing_mm": (1.5, 1.5, 1.5),
                "postprocessing": PostProcessing(threshold=0.85, minimum_volume_mm3=80.0),
            }
        )
        self.windows = 0
        instances = to_instances(head(), SeriesOptions())
        self.archive.store(instances)
        self.study = str(instances[0].StudyInstanceUID)
        self.api = self.app.test_client()
        job = self.run_job(self.submit(self.study))
        assert (job.state, job.error_code) == ("done", None)
        self.first = job.segmentation_id

    def _open(self, _settings, _model_id):
        predictor = Predictor(self.spec, self._backend)
        return ModelServices(self.archive, self.sessions, self.settings, predictor, self.spec)

    def _backend(self, window):
        self.windows += 1
        return (window - LEVEL) * STEEPNESS

    def ask(self, segmentation_id=None, **body):
        return self.api.post(f"/segmentations/{segmentation_id or self.first}/uncertainty", json=body)

    def document(self, segmentation_id=None):
        return self.api.get(f"/segmentations/{segmentation_id or self.first}").json

    def stored_map(self):
        (companion,) = [entry for entry in self.document()["companions"] if entry["modality"] == "OT"]
        (dataset,) = self.archive.retrieve_series(self.study, companion["series_instance_uid"])
        assert dataset.SOPInstanceUID == companion["sop_instance_uid"]
        return companion, dataset


@pytest.fixture
def site(tmp_path, orthanc) -> UncertaintySite:
    return UncertaintySite(tmp_path, orthanc)


def test_the_map_lies_in_orthanc_beside_the_seg_and_each_value_at_its_place(site, tmp_path):
    answer = site.ask()
    assert (answer.status_code, answer.json["kind"], answer.json["state"]) == (202, "uncertainty", "queued")
    job = site.run_job(answer.json["id"])
    assert (job.state, job.error_code, job.segmentation_id) == ("done", None, site.first)
    companion, dataset = site.stored_map()
    assert companion["stored"] is True
    assert [entry["modality"] for entry in site.document()["companions"]] == ["SR", "OT"]
    volume = hd.pm.ParametricMap.from_dataset(dataset).get_volume(apply_real_world_transform=True)
    p = likely(head())
    expected = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    indices = np.argwhere(np.ones(volume.spatial_shape, bool))
    there = head().map_reference_to_indices(volume.map_indices_to_reference(indices), round_output=True)
    assert len(there) > 30 * 40 * 40
    assert volume.array.ravel() == pytest.approx(expected[tuple(there.T)], abs=2e-3)
    unsure = volume.map_indices_to_reference(np.argwhere(volume.array > 0.9))
    assert unsure.mean(0) == pytest.approx(BALL_MM, abs=0.3)
    dataset.save_as(tmp_path / "checked.dcm")
    checked = subprocess.run(
        ["dciodvfy", str(tmp_path / "checked.dcm")], capture_output=True, text=True, check=False
    )
    assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []


def test_a_request_that_waits_is_answered_at_the_end_and_a_second_one_computes_nothing(site):
    def work():
        wait_until(lambda: jobs.list_jobs(site.sessions, state="queued"), "a job")
        site.runner.run(jobs.list_jobs(site.sessions, state="queued")[0].id)

    for windows in (True, False):
        before = site.windows
        worker = threading.Thread(target=work)
        worker.start()
        answer = site.ask(wait_s=30)
        worker.join()
        assert (answer.status_code, answer.json["state"]) == (200, "done")
        assert answer.json["result"] == f"/segmentations/{site.first}"
        assert (site.windows > before) == windows
    assert [companion["modality"] for companion in site.document()["companions"]] == ["SR", "OT"]


def test_a_map_that_was_deleted_in_the_archive_is_made_again_when_asked(site):
    site.run_job(site.ask().json["id"])
    lost, _ = site.stored_map()
    site.archive.delete_instance(site.study, lost["sop_instance_uid"])
    assert site.run_job(site.ask().json["id"]).state == "done"
    made, dataset = site.stored_map()
    assert made["stored"]
    assert dataset.SOPInstanceUID != lost["sop_instance_uid"]


def test_it_changes_neither_the_choice_of_a_series_nor_a_later_segmentation(site):
    site.run_job(site.ask().json["id"])
    ranked = series.rank(site.archive.series_headers(site.study))
    chosen = series.choose(ranked, None)
    assert chosen.series_instance_uid == site.document()["series_instance_uid"]
    job = site.run_job(site.submit(site.study, force=True))
    assert site.document(job.segmentation_id)["lesions"] != []


def test_a_deleted_segmentation_takes_its_map_out_of_the_archive(site):
    site.run_job(site.ask().json["id"])
    companion, _ = site.stored_map()
    assert site.api.delete(f"/segmentations/{site.first}").status_code == 204
    assert not site.archive.has_instance(site.study, companion["sop_instance_uid"])
    assert {h[0].Modality for h in site.archive.series_headers(site.study)} == {"MR"}


def test_what_no_model_drew_and_what_a_model_drew_that_is_gone_cannot_be_asked(site):
    with site.sessions.begin() as session:
        row = segmentations.locked(session, site.first)
        row.model_sha256 = "0" * 64
    gone = site.ask()
    assert (gone.status_code, gone.json["error"]["code"]) == (409, "uncertainty_unavailable")
    assert site.spec.id in gone.json["error"]["message"]
    with site.sessions.begin() as session:
        row = segmentations.locked(session, site.first)
        row.model_id, row.model_version, row.model_sha256 = segmentations.BY_HAND.model_dump().values()
    answer = site.ask()
    assert (answer.status_code, answer.json["error"]["code"]) == (409, "uncertainty_unavailable")
    assert "drawn by hand" in answer.json["error"]["message"]
    missing = site.ask("no-such-segmentation")
    assert (missing.status_code, missing.json["error"]["code"]) == (404, "segmentation_not_found")
    # A job that was asked for before the model was exchanged.
    late = site.run_job(
        jobs.submit(
            site.sessions, site.study, site.spec.id, task=UncertaintyTask(segmentation_id=site.first)
        ).id
    )
    assert (late.state, late.error_code) == ("failed", "uncertainty_unavailable")


def test_a_map_that_fails_leaves_the_segmentation_as_it_was(site):
    before = site.document()

    def too_large(_window):
        raise OutOfMemory("The GPU has too little free memory for one window.")

    site._backend = too_large
    site.runner = Runner(site.settings, site._open)
    job = site.run_job(site.ask().json["id"])
    assert (job.state, job.error_code) == ("failed", "out_of_memory")
    assert site.document() == before
    assert outbox.pending(site.sessions, site.first) == {}


class Deadly:
    """The archive, in which the first call of one kind ends the process."""

    def __init__(self, archive, call):
        self._archive, self._call = archive, call

    def __getattr__(self, name):
        if name == self._call:
            raise Killed
        return getattr(self._archive, name)


@pytest.mark.parametrize("stage", ["fetch", "predict", "store"])
def test_a_worker_that_dies_at_a_map_ends_in_one_map(site, stage):
    def die(_window):
        raise Killed

    archive, backend = site.archive, site._backend
    if stage == "predict":
        site._backend = die
    else:
        site.archive = Deadly(archive, {"fetch": "retrieve_series", "store": "store"}[stage])
    job_id = site.ask().json["id"]
    with pytest.raises(Killed):
        Runner(site.settings, site._open).run(job_id)
    site.archive, site._backend = archive, backend
    assert jobs.get(site.sessions, job_id).state == "running"
    with later(site.sessions, 2 * site.settings.lease_s):
        assert queue.requeue_expired(site.sessions, 3) == [job_id]
    job = site.run_job(job_id)
    assert (job.state, job.attempts, job.segmentation_id) == ("done", 2, site.first)
    modalities = Counter(series[0].Modality for series in archive.series_headers(site.study))
    assert modalities == {"MR": 1, "SEG": 1, "SR": 1, "OT": 1}
    assert outbox.pending(site.sessions, site.first) == {}


def test_a_corrected_segmentation_has_a_map_of_its_own_when_asked(site):
    site.run_job(site.ask().json["id"])
    task = CorrectTask(segmentation_id=site.first, rename={1: "pons"}, delete=[])
    second = site.run_job(site.submit(site.study, task=task)).segmentation_id
    assert [companion["modality"] for companion in site.document(second)["companions"]] == ["SR"]
    assert site.run_job(site.ask(second).json["id"]).state == "done"
    assert [companion["modality"] for companion in site.document(second)["companions"]] == ["SR", "OT"]


def test_the_stack_is_fetched_and_not_kept(site):
    """The map is made of the images in the archive: without them there is none."""
    document = site.document()
    for header in site.archive.retrieve_series(site.study, document["series_instance_uid"]):
        site.archive.delete_instance(site.study, header.SOPInstanceUID)
    job = site.run_job(site.ask().json["id"])
    assert (job.state, job.error_code) == ("failed", "series_not_found")
