"""One request from the PACS and back, and the command line."""

import csv
import json
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless, generate_uid
from scipy.spatial.transform import Rotation

import cli
import context
import findings
import segmentation
from bench.models import tiny_model
from bench.rows import BRIGHT, threshold
from context import ModelServices, Stages
from db.database import open_database
from errors import ArchiveUnreachable, ModelNotFound
from findings import FINDING, identities_of_segments, lesions_of_segments
from imaging import nifti, rtstruct, seg
from imaging.derived import Edition
from imaging.stack import to_stack
from lesions.measure import measure
from orthanc.archive import open_archive
from segmentation import Request, deliver, segment_series
from settings import Settings
from tests.documents import document_of
from unetr.served import default_model, find_spec
from unetr.synthesis.phantom import SeriesOptions, to_instances

DIRECTIONS = {
    "axial": ((0, 0, 1), (0, 1, 0), (1, 0, 0)),
    "sagittal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "coronal": ((0, 1, 0), (0, 0, -1), (1, 0, 0)),
}
BALLS = (  # centre in mm from the head's centre, LPS, and radius: asymmetric in every direction
    ((20.0, -12.0, 15.0), 9.0),
    ((-25.0, 18.0, -10.0), 6.0),
    ((8.0, 25.0, 22.0), 4.5),
)
SPEC = default_model(Settings(_env_file=None).models_dir)


def head(directions: str, spacing: tuple[float, float, float], turn_deg: float = 0.0) -> hd.Volume:
    """Bright balls in a grey cube of 76 mm."""
    shape = tuple(int(76 / step) for step in spacing)
    turn = Rotation.from_euler("xyz", [turn_deg, -turn_deg / 2, turn_deg], degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array(DIRECTIONS[directions], dtype=float).T * spacing
    affine[:3, 3] = [3.3, -7.7, 11.1] - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    positions = index @ affine[:3, :3].T + affine[:3, 3]
    image = np.random.default_rng(0).integers(80, 120, shape)
    for offset, radius in BALLS:
        inside = np.linalg.norm(positions - np.array(offset) - [3.3, -7.7, 11.1], axis=-1) <= radius
        image[inside] = 900
    return hd.Volume(image.astype(np.uint16), affine, "PATIENT", frame_of_reference_uid=generate_uid())


def balls_of(volume: hd.Volume) -> list[tuple[np.ndarray, float]]:
    """Centroid, LPS mm, and volume, ml, of each ball's voxels, largest first."""
    balls = []
    for offset, radius in BALLS:
        positions = volume.map_indices_to_reference(np.argwhere(volume.array > BRIGHT))
        near = np.linalg.norm(positions - np.array(offset) - [3.3, -7.7, 11.1], axis=1) <= radius + 1e-6
        balls.append((positions[near].mean(0), near.sum() * volume.voxel_volume / 1000))
    return balls


@pytest.fixture
def services(tmp_path, orthanc) -> ModelServices:
    settings = Settings(_env_file=None, data_dir=tmp_path, **orthanc.access)
    spec = default_model(settings.models_dir)
    sessions = open_database(settings.sqlalchemy_url)
    return ModelServices(open_archive(settings), sessions, settings, threshold, spec)


GEOMETRIES = {
    "axial": (head("axial", (1.5, 1.0, 1.0)), SeriesOptions()),
    "axial, shuffled": (head("axial", (1.5, 1.0, 1.0)), SeriesOptions(order="shuffled")),
    "axial, reversed": (head("axial", (1.5, 1.0, 1.0)), SeriesOptions(order="reversed")),
    "axial, jitter": (head("axial", (1.5, 1.0, 1.0)), SeriesOptions(orientation_jitter=6e-8)),
    "axial, JPEG 2000": (head("axial", (1.5, 1.0, 1.0)), SeriesOptions(transfer_syntax=JPEG2000Lossless)),
    "sagittal, JPEG Lossless": (
        head("sagittal", (1.5, 1.0, 1.0)), SeriesOptions(transfer_syntax=JPEGLosslessSV1)
    ),
    "coronal, JPEG-LS": (head("coronal", (1.5, 1.0, 1.0)), SeriesOptions(transfer_syntax=JPEGLSLossless)),
    "oblique, RLE": (head("axial", (1.5, 1.0, 1.0), 21.0), SeriesOptions(transfer_syntax=RLELossless)),
    "oblique sagittal, anisotropic, jitter": (
        head("sagittal", (2.2, 0.8, 1.1), 34.0), SeriesOptions(orientation_jitter=6e-8, order="shuffled")
    ),
    "axial, anisotropic": (head("axial", (3.0, 0.8, 1.2)), SeriesOptions()),
    "sagittal": (head("sagittal", (1.2, 1.0, 1.0)), SeriesOptions(order="shuffled")),
    "coronal": (head("coronal", (1.2, 1.0, 1.0)), SeriesOptions()),
    "oblique": (head("axial", (2.0, 1.0, 1.0), 13.0), SeriesOptions(order="reversed")),
    "enhanced, shared": (head("axial", (1.5, 1.0, 1.0), 5.0), SeriesOptions(enhanced="shared")),
    "enhanced, per frame": (
        head("sagittal", (1.5, 1.0, 1.0)), SeriesOptions(enhanced="per_frame", order="shuffled")
    ),
}  # fmt: skip


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_from_the_pacs_to_a_seg_in_the_pacs_and_back_nothing_moves(geometry, services):
    volume, options = GEOMETRIES[geometry]
    instances = to_instances(volume, options)
    services.archive.store(instances)
    study_uid = str(instances[0].StudyInstanceUID)
    segmentation_id = segment_series(Request(study_uid), services, lambda stage, fraction: None)
    deliver(segmentation_id, services)
    document = document_of(services.sessions, segmentation_id)
    assert document["segmentation"]["stored"] is True

    stored = services.archive.retrieve_series(study_uid, document["segmentation"]["series_instance_uid"])
    stack = to_stack(services.archive.retrieve_series(study_uid, document["series_instance_uid"]))
    labels, segments = seg.read(stored[0], stack)
    truth = balls_of(volume)
    assert [segment.number for segment in segments] == [1, 2, 3]
    for lesion, segment, (centroid, volume_ml) in zip(document["lesions"], segments, truth, strict=True):
        voxels = np.argwhere(labels.array == segment.number)
        position = labels.map_indices_to_reference(voxels).mean(0)
        print(f"{geometry}, segment {segment.number}: {np.abs(position - centroid).max():.4f} mm away,",
              f"{len(voxels) * labels.voxel_volume / 1000:.4f} of {volume_ml:.4f} ml")  # fmt: skip
        assert position == pytest.approx(centroid, abs=0.1)
        assert len(voxels) * labels.voxel_volume / 1000 == pytest.approx(volume_ml, rel=1e-6)
        assert lesion["centroid_lps_mm"] == pytest.approx(centroid, abs=0.1)
        assert lesion["volume_ml"] == pytest.approx(volume_ml, rel=1e-4)
        assert lesion["tracking_uid"] == segment.tracking_uid


def with_settings(services: ModelServices, **settings: Any) -> ModelServices:
    changed = services.settings.model_copy(update=settings)
    return replace(services, settings=changed, archive=open_archive(changed))


def without_balls(services: ModelServices) -> str:
    """A study in the archive in which there is nothing to find; its UID."""
    volume = head("axial", (1.5, 1.0, 1.0))
    instances = to_instances(volume.with_array(np.minimum(volume.array, 120)), SeriesOptions())
    services.archive.store(instances)
    return str(instances[0].StudyInstanceUID)


def test_a_study_without_lesions_leaves_a_report_in_the_pacs_that_says_so(services):
    services = with_settings(services, report_no_lesion=True)
    study_uid = without_balls(services)
    segmentation_id = segment_series(Request(study_uid), services, lambda stage, fraction: None)
    (companion,) = document_of(services.sessions, segmentation_id)["companions"]
    assert (companion["modality"], companion["stored"]) == ("SR", False)
    # Port 9 (discard) has no archive: the report waits, and is stored under the same UID.
    away = with_settings(services, dicomweb_url="http://127.0.0.1:9/dicom-web")
    with pytest.raises(ArchiveUnreachable):
        deliver(segmentation_id, away)
    deliver(segmentation_id, services)
    document = document_of(services.sessions, segmentation_id)
    assert document["lesions"] == []
    assert document["segmentation"]["sop_instance_uid"] is None
    assert document["companions"] == [companion | {"stored": True}]
    stored = services.archive.retrieve_series(study_uid, companion["series_instance_uid"])
    assert [dataset.SOPInstanceUID for dataset in stored] == [companion["sop_instance_uid"]]
    (evaluations,) = [item for item in stored[0].ContentSequence if item.ValueType == "CONTAINER"]
    concepts = {
        (item.ConceptNameCodeSequence[0].CodeMeaning, item.ConceptCodeSequence[0].CodeMeaning)
        for item in evaluations.ContentSequence
        if item.ValueType == "CODE" and item.RelationshipType == "CONTAINS"
    }
    assert concepts == {("Neoplasm, Secondary", "Absent")}
    second_id = segment_series(Request(study_uid), services, lambda stage, fraction: None)
    assert second_id == segmentation_id
    forced = segment_series(Request(study_uid, force=True), services, lambda stage, fraction: None)
    deliver(forced, services)
    assert document_of(services.sessions, forced)["version"] == 2
    reports = [
        headers for headers in services.archive.series_headers(study_uid) if headers[0].Modality == "SR"
    ]
    assert len({headers[0].SeriesNumber for headers in reports}) == len(reports) == 2


@pytest.mark.parametrize("settings", [{}, {"report_no_lesion": True, "store_sr": False}])
def test_without_the_settings_a_study_without_lesions_leaves_nothing(settings, services):
    services = with_settings(services, **settings)
    study_uid = without_balls(services)
    segmentation_id = segment_series(Request(study_uid), services, lambda stage, fraction: None)
    deliver(segmentation_id, services)
    assert document_of(services.sessions, segmentation_id)["companions"] == []
    assert [headers[0].Modality for headers in services.archive.series_headers(study_uid)] == ["MR"]


@pytest.fixture(scope="module")
def series_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("series")
    for number, instance in enumerate(to_instances(head("axial", (1.5, 1.0, 1.0)), SeriesOptions())):
        instance.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    (folder / "notes.txt").write_text("no DICOM")
    return folder


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory) -> Path:
    """The balls as another tool would write them: NIfTI in RAS, its own axis order."""
    volume = head("axial", (1.5, 1.0, 1.0))
    array = np.transpose(volume.array > BRIGHT, (2, 1, 0)).astype(np.uint8)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    path = tmp_path_factory.mktemp("mask") / "mask.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def test_a_mask_is_measured_without_a_model(series_folder, mask_file, tmp_path):
    status = cli.main([str(series_folder), "--out", str(tmp_path), "--from-mask", str(mask_file)])
    assert status == 0
    document = json.loads((tmp_path / "lesions.json").read_text())
    assert document["model"] is None
    truth = balls_of(head("axial", (1.5, 1.0, 1.0)))
    for lesion, (centroid, volume_ml) in zip(document["lesions"], truth, strict=True):
        assert lesion["centroid_lps_mm"] == pytest.approx(centroid, abs=0.1)
        assert lesion["volume_ml"] == pytest.approx(volume_ml, rel=1e-4)
    for lesion, (_, radius) in zip(document["lesions"], BALLS, strict=True):
        assert lesion["long_axis_mm"] == pytest.approx(2 * radius, abs=1.0)
    rows = list(csv.DictReader((tmp_path / "lesions.csv").read_text().splitlines()))
    assert [float(row["volume_ml"]) for row in rows] == [
        lesion["volume_ml"] for lesion in document["lesions"]
    ]
    assert (tmp_path / "overlay.png").read_bytes().startswith(b"\x89PNG")
    dataset = dcmread(tmp_path / "segmentation.dcm")
    assert {item.SegmentAlgorithmType for item in dataset.SegmentSequence} == {"MANUAL"}


def test_a_seg_read_again_keeps_identities_and_measures_the_same(series_folder, mask_file, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    cli.main([str(series_folder), "--out", str(first), "--from-mask", str(mask_file)])
    arguments = [str(series_folder), "--out", str(second), "--from-seg", str(first / "segmentation.dcm")]
    assert cli.main(arguments) == 0
    before, after = (json.loads((f / "lesions.json").read_text())["lesions"] for f in (first, second))
    for key in ("number", "name", "tracking_id", "tracking_uid", "volume_ml", "long_axis_mm"):
        assert [lesion[key] for lesion in after] == [lesion[key] for lesion in before]


def test_a_structure_set_is_measured_like_a_seg(drawn_by_a_model, series_folder, tmp_path):
    stack = to_stack([dcmread(path) for path in series_folder.glob("*.dcm")])
    labels, _ = seg.read(drawn_by_a_model, stack)
    lesions = measure(labels, stack.slices)
    structures = rtstruct.write(stack, drawn_by_a_model, labels, lesions, Edition())
    remeasured_seg = measured_again(structures, series_folder, tmp_path)
    assert [(item.SegmentLabel, item.TrackingUID) for item in remeasured_seg.SegmentSequence] == [
        (lesion.name, lesion.tracking_uid) for lesion in lesions
    ]
    after = json.loads((tmp_path / "again" / "lesions.json").read_text())["lesions"]
    volumes = [lesion.volume_ml for lesion in lesions]
    assert [lesion["volume_ml"] for lesion in after] == pytest.approx(volumes)


@pytest.mark.parametrize("option", ["--from-seg", "--from-mask", None])
def test_a_file_that_is_not_there_is_said_not_to_be_there(option, series_folder, tmp_path, capsys):
    missing = tmp_path / "missing.nii.gz"
    source = series_folder if option else missing
    options = [option, str(missing)] if option else []
    assert cli.main([str(source), "--out", str(tmp_path / "out"), *options]) == 3
    assert capsys.readouterr().err.startswith(f"unreadable_file: There is no {missing}.")


def test_a_given_segmentation_is_never_written_over(series_folder, mask_file, tmp_path, capsys):
    out = tmp_path / "out"
    cli.main([str(series_folder), "--out", str(out), "--from-mask", str(mask_file)])
    seg_path = out / "segmentation.dcm"
    before = seg_path.read_bytes()
    assert cli.main([str(series_folder), "--out", str(out), "--from-seg", str(seg_path)]) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert seg_path.read_bytes() == before


def test_a_seg_by_another_tool_is_measured_lesion_by_lesion(series_folder, mask_file, tmp_path):
    code = {"CodeValue": "14799000", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Neoplasm, Secondary"}
    described = {
        "labelID": 1, "SegmentDescription": "all metastases", "SegmentAlgorithmType": "MANUAL",
        "SegmentedPropertyCategoryCodeSequence": {
            "CodeValue": "49755003", "CodingSchemeDesignator": "SCT",
            "CodeMeaning": "Morphologically Abnormal Structure",
        },
        "SegmentedPropertyTypeCodeSequence": code,
    }  # fmt: skip
    metadata = {"SeriesNumber": "7", "InstanceNumber": "1", "segmentAttributes": [[described]]}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    dicom = tmp_path / "dicom"
    dicom.mkdir()
    for path in series_folder.glob("*.dcm"):
        (dicom / path.name).symlink_to(path)
    subprocess.run(
        [str(Path(sys.prefix) / "bin" / "itkimage2segimage"), "--inputImageList", str(mask_file),
         "--inputDICOMDirectory", str(dicom), "--inputMetadata", str(tmp_path / "metadata.json"),
         "--outputDICOM", str(tmp_path / "foreign.dcm"), "--skip", "1"],
        check=True, capture_output=True,
    )  # fmt: skip
    out = tmp_path / "out"
    arguments = [str(series_folder), "--out", str(out), "--from-seg", str(tmp_path / "foreign.dcm")]
    assert cli.main(arguments) == 0
    document = json.loads((out / "lesions.json").read_text())
    truth = balls_of(head("axial", (1.5, 1.0, 1.0)))
    for lesion, (centroid, volume_ml) in zip(document["lesions"], truth, strict=True):
        assert lesion["centroid_lps_mm"] == pytest.approx(centroid, abs=0.1)
        assert lesion["volume_ml"] == pytest.approx(volume_ml, rel=1e-4)


def test_an_untracked_segment_is_split_and_a_tracked_one_kept_whole():
    array = np.zeros((6, 12, 12), dtype=np.int32)
    array[1:3, 1:3, 1:3] = 4
    array[1:4, 8:11, 8:11] = 4
    array[4, 1, 1:4] = array[4, 5, 1:4] = 9
    volume = hd.Volume(array, np.eye(4), "PATIENT")
    loose = seg.Segment(4, "Neoplasm", None, None, None, None)
    tracked = seg.Segment(9, "Left frontal", "BM-7", "1.2.3", None, None)
    labels, sources = lesions_of_segments(volume, [loose, tracked])
    assert [int((labels.array == number).sum()) for number in (1, 2, 3)] == [27, 8, 6]
    assert sources == {1: loose, 2: loose, 3: tracked}


@pytest.fixture(scope="module")
def drawn_by_a_model(series_folder) -> Dataset:
    """The SEG of the balls as MetScope writes one after a prediction."""
    stack = to_stack([dcmread(path) for path in series_folder.glob("*.dcm")])
    stages = context.Stages(lambda stage, fraction: None)
    spec = default_model(Settings(_env_file=None).models_dir)
    return findings.encode(
        segmentation.segment([stack], threshold, spec, 10.0, stages), spec, findings.edition_of(spec)
    )


def measured_again(dataset: Dataset, series_folder: Path, folder: Path) -> Dataset:
    """What --from-seg makes of it."""
    dataset.save_as(folder / "given.dcm", enforce_file_format=True)
    arguments = ["--out", str(folder / "again"), "--from-seg", str(folder / "given.dcm")]
    assert cli.main([str(series_folder), *arguments]) == 0
    return dcmread(folder / "again" / "segmentation.dcm")


CARRIED = (
    "SegmentAlgorithmType", "SegmentAlgorithmName", "SegmentationAlgorithmIdentificationSequence",
    "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence",
)  # fmt: skip


def test_our_own_segments_read_again_still_say_which_model_drew_them(
    drawn_by_a_model, series_folder, tmp_path
):
    remeasured_seg = measured_again(drawn_by_a_model, series_folder, tmp_path)
    for before, after in zip(drawn_by_a_model.SegmentSequence, remeasured_seg.SegmentSequence, strict=True):
        assert after.SegmentAlgorithmType == "AUTOMATIC"
        for keyword in CARRIED:
            assert after[keyword].value == before[keyword].value
    # Who read them again drew nothing: neither a model nor a person made this object.
    assert "manual" not in remeasured_seg.SeriesDescription
    assert "AI" not in remeasured_seg.SeriesDescription


def test_a_tracked_segment_has_a_name_that_a_seg_can_hold():
    tracked = {
        1: seg.Segment(1, "", "BM-7", "1.2.3", None, None),
        2: seg.Segment(2, "x" * 80, "BM-8", "1.2.4", None, None),
    }
    identities = identities_of_segments(tracked, FINDING)
    assert [identities[number].name for number in tracked] == ["BM-7", "x" * 64]
    assert [identities[number].tracking_id for number in tracked] == ["BM-7", "BM-8"]


def test_the_labels_of_untracked_segments_stay_the_lesions_names(drawn_by_a_model, series_folder, tmp_path):
    foreign = deepcopy(drawn_by_a_model)
    for item, label in zip(foreign.SegmentSequence, ("Lesion 2", "left frontal", "Segment 3"), strict=True):
        item.SegmentLabel = label
        item.SegmentedPropertyTypeCodeSequence = [code_item("79654002", "Edema")]
        del item.TrackingID, item.TrackingUID
    remeasured_seg = measured_again(foreign, series_folder, tmp_path)
    # What a viewer numbered and nobody named is named as ever.
    names = ["Lesion 2", "left frontal", "Metastasis 3"]
    assert [item.SegmentLabel for item in remeasured_seg.SegmentSequence] == names
    lesions = json.loads((tmp_path / "again" / "lesions.json").read_text())["lesions"]
    assert [lesion["name"] for lesion in lesions] == names
    assert len({lesion["tracking_id"] for lesion in lesions}) == 3
    meanings = [
        item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for item in remeasured_seg.SegmentSequence
    ]
    assert meanings == ["Edema"] * 3


def test_a_foreign_seg_read_again_keeps_what_its_segments_are(drawn_by_a_model, series_folder, tmp_path):
    foreign = Dataset(drawn_by_a_model)
    foreign.file_meta = drawn_by_a_model.file_meta
    foreign.SpecificCharacterSet = "ISO_IR 100"
    foreign.SegmentSequence = [Dataset(item) for item in drawn_by_a_model.SegmentSequence]
    edema, necrosis, bare = foreign.SegmentSequence
    edema.SegmentedPropertyTypeCodeSequence = [code_item("79654002", "Ödem")]
    edema.SegmentAlgorithmType, edema.SegmentAlgorithmName = "SEMIAUTOMATIC", "Schnörkel 2"
    del edema.SegmentationAlgorithmIdentificationSequence
    necrosis.SegmentedPropertyTypeCodeSequence = [code_item("6574001", "Necrosis")]
    necrosis.SegmentAlgorithmType = "MANUAL"
    for keyword in CARRIED[1:3]:
        del necrosis[keyword]
    for keyword in (*CARRIED, "TrackingID", "TrackingUID"):
        del bare[keyword]
    first, second, third = measured_again(foreign, series_folder, tmp_path).SegmentSequence
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "79654002"
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Ödem"
    assert (first.SegmentAlgorithmType, first.SegmentAlgorithmName) == ("SEMIAUTOMATIC", "Schnörkel 2")
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Necrosis"
    assert second.SegmentAlgorithmType == "MANUAL"
    for item in (first, second):
        assert "SegmentationAlgorithmIdentificationSequence" not in item
    # A segment that does not say what it is does not become a metastasis.
    assert third.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert dictionary.SCT.Tissue == findings.UNSPECIFIED


def code_item(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return item


def test_no_segmentation_of_an_earlier_run_stays(series_folder, mask_file, tmp_path):
    out, empty = tmp_path / "out", tmp_path / "empty.nii.gz"
    mask = nibabel.load(mask_file)
    nibabel.save(nibabel.Nifti1Image(np.zeros(mask.shape, np.uint8), mask.affine), empty)
    with_lesions = [str(series_folder), "--out", str(out), "--from-mask", str(mask_file)]
    for without_seg in (
        [str(series_folder), "--out", str(out), "--from-mask", str(empty)],
        [str(mask_file), "--out", str(out), "--from-mask", str(mask_file)],
    ):
        assert cli.main(with_lesions) == 0
        assert len(list(out.glob("*.dcm"))) == 2
        assert cli.main(without_seg) == 0
        assert list(out.glob("*.dcm")) == []


EVERY_SIZE, NO_SIZE = 0.0, 1e9


@pytest.fixture(scope="module", params=[EVERY_SIZE, NO_SIZE], ids=["one lesion", "no lesion"])
def models(request, tmp_path_factory) -> tuple[Path, int]:
    """A small untrained model, which calls the whole volume a lesion; and whether one so large is kept."""
    folder = tiny_model(tmp_path_factory.mktemp("tiny") / "models", "tiny", request.param)
    return folder, int(request.param == EVERY_SIZE)


def nifti_file(path: Path, array: np.ndarray | None = None) -> Path:
    """The balls, or that array on their grid, as NIfTI."""
    volume = head("axial", (1.5, 1.0, 1.0))
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    nibabel.save(
        nibabel.Nifti1Image((volume.array if array is None else array).astype(np.float32), affine), path
    )
    return path


def test_the_warnings_of_a_result_are_on_the_terminal_and_on_the_picture(mask_file, tmp_path, capsys):
    heights = []
    for name, contrast in (("T1 MPRAGE", False), ("T1 MPRAGE post Gd", True)):
        folder, out = tmp_path / name, tmp_path / f"{name} out"
        folder.mkdir()
        options = SeriesOptions(description=name, contrast=contrast)
        for number, instance in enumerate(to_instances(head("axial", (1.5, 1.0, 1.0)), options)):
            instance.save_as(folder / f"{number}.dcm", enforce_file_format=True)
        assert cli.main([str(folder), "--out", str(out), "--from-mask", str(mask_file)]) == 0
        shown = capsys.readouterr()
        warnings = json.loads((out / "lesions.json").read_text())["warnings"]
        assert len(warnings) == (0 if contrast else 1)
        assert all("Nothing proves that the series is post-contrast" in warning for warning in warnings)
        assert shown.err.splitlines() == [f"warning: {warning}" for warning in warnings]
        assert shown.out.startswith("3 lesions, ")
        heights.append(plt.imread(out / "overlay.png").shape[0])
    assert heights[0] > heights[1]


def test_a_nifti_file_is_not_proven_to_be_post_contrast(mask_file, tmp_path, capsys):
    image, out = nifti_file(tmp_path / "image.nii.gz"), tmp_path / "out"
    warning = "A NIfTI file does not say which sequence it is: check that image.nii.gz is a T1 post-contrast."
    assert cli.main([str(image), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [warning]
    assert cli.main([str(image), "--out", str(out), "--from-mask", str(mask_file)]) == 0
    assert json.loads((out / "lesions.json").read_text())["warnings"] == [warning]
    assert capsys.readouterr().err == f"warning: {warning}\n"


@pytest.mark.parametrize(
    ("count", "named"),
    [(1, None), (2, "1, 2"), (12, "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 ... 12")],
)
def test_a_mask_of_several_values_is_measured_with_a_warning(count, named, series_folder, tmp_path, capsys):
    values = np.zeros((50, 76, 76))
    for value in range(count):
        values[4 * value : 4 * value + 3, 10:20, 10:20] = value + 1
    mask, out = nifti_file(tmp_path / "tissues.nii.gz", values), tmp_path / "out"
    assert cli.main([str(series_folder), "--out", str(out), "--from-mask", str(mask)]) == 0
    document = json.loads((out / "lesions.json").read_text())
    assert len(document["lesions"]) == count
    expected = [f"The mask holds the values {named}: all are taken as lesions, and those that touch as one."]
    assert document["warnings"] == (expected if named else [])
    assert capsys.readouterr().err.splitlines() == [f"warning: {line}" for line in document["warnings"]]


@pytest.mark.parametrize("kind", ["DICOM", "NIfTI"])
def test_a_model_s_lesions_are_written(kind, models, series_folder, tmp_path, monkeypatch, capsys):
    folder, count = models
    monkeypatch.setenv("MODELS_DIR", str(folder))
    monkeypatch.setenv("DEVICE", "cpu")
    source, out = series_folder, tmp_path / "out"
    if kind == "NIfTI":
        source = nifti_file(tmp_path / "image.nii")
    assert cli.main([str(source), "--out", str(out), "--model", "tiny"]) == 0
    with_seg = kind == "DICOM" and count > 0
    assert {path.name for path in out.iterdir()} == {
        "segmentation.nii.gz", "lesions.json", "lesions.csv", "overlay.png",
        *(["segmentation.dcm", "measurements.dcm"] if with_seg else []),
    }  # fmt: skip
    document = json.loads((out / "lesions.json").read_text())
    assert set(document) == {
        "schema_version", "model", "series_instance_uid", "segmentation", "lesions", "total_volume_ml",
        "warnings", "timings_s", "peak_memory_mb", "research_use_only",
    }  # fmt: skip
    spec = default_model(folder)
    assert document["model"] == {"id": "tiny", "version": spec.version, "sha256": spec.weights.sha256}
    assert document["research_use_only"] is True
    assert [lesion["number"] for lesion in document["lesions"]] == list(range(1, count + 1))
    assert set(document["timings_s"]) == {"read", "load", "predict", "measure", "encode"}
    uid = document["segmentation"]["sop_instance_uid"]
    assert document["segmentation"]["stored"] is False
    if with_seg:
        dataset = dcmread(out / "segmentation.dcm")
        assert dataset.SOPInstanceUID == uid
        assert {item.SegmentAlgorithmType for item in dataset.SegmentSequence} == {"AUTOMATIC"}
        evidence = dcmread(out / "measurements.dcm").CurrentRequestedProcedureEvidenceSequence[0]
        assert uid in {
            sop.ReferencedSOPInstanceUID
            for item in evidence.ReferencedSeriesSequence
            for sop in item.ReferencedSOPSequence
        }
    else:
        assert uid is None
    assert capsys.readouterr().out.startswith("1 lesion, " if count == 1 else f"{count} lesions, ")


def test_the_command_line_reports_too_that_nothing_was_found(series_folder, tmp_path, monkeypatch):
    folder = tiny_model(tmp_path / "models", "tiny", NO_SIZE)
    for name, value in (("MODELS_DIR", str(folder)), ("DEVICE", "cpu"), ("REPORT_NO_LESION", "true")):
        monkeypatch.setenv(name, value)
    out = tmp_path / "out"
    assert cli.main([str(series_folder), "--out", str(out), "--model", "tiny"]) == 0
    assert [path.name for path in out.glob("*.dcm")] == ["measurements.dcm"]
    assert "none found" in dcmread(out / "measurements.dcm").SeriesDescription


@pytest.mark.parametrize("kind", ["DICOM", "NIfTI"])
def test_an_explanation_is_written_beside_the_rest_and_gone_with_the_next_run(
    kind, series_folder, tmp_path, monkeypatch
):
    folder = tiny_model(tmp_path / "models", "tiny", EVERY_SIZE)
    monkeypatch.setenv("MODELS_DIR", str(folder))
    monkeypatch.setenv("DEVICE", "cpu")
    source, out, volume = series_folder, tmp_path / "out", head("axial", (1.5, 1.0, 1.0))
    if kind == "NIfTI":
        source = tmp_path / "image.nii"
        affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
        nibabel.save(nibabel.Nifti1Image(volume.array.astype(np.float32), affine), source)
    arguments = [str(source), "--out", str(out), "--model", "tiny"]
    assert cli.main([*arguments, "--explain"]) == 0
    written = {"entropy.nii.gz", "planes.png", "mesh.html"}
    written |= {"uncertainty.dcm"} if kind == "DICOM" else set()
    assert written <= {path.name for path in out.iterdir()}
    image = nibabel.load(out / "entropy.nii.gz")
    entropy = np.asarray(image.dataobj)
    # The untrained model calls all that it looks at one lesion.
    lesion = entropy[np.asarray(nibabel.load(out / "segmentation.nii.gz").dataobj) == 1]
    assert 0.0 < lesion.min() < lesion.max() <= 1.0
    document = json.loads((out / "lesions.json").read_text())
    assert document["mean_entropy_bits"] == {"1": pytest.approx(lesion.mean(), abs=6e-4)}
    if kind == "DICOM":
        entropy_map = hd.pm.ParametricMap.from_dataset(dcmread(out / "uncertainty.dcm")).get_volume()
        to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ image.affine
        grid = hd.VolumeGeometry(to_lps[:, [2, 1, 0, 3]], entropy.shape[::-1], "PATIENT")
        assert np.array_equal(entropy_map.match_geometry(grid).array, entropy.transpose(2, 1, 0))
    assert cli.main(arguments) == 0
    assert written.isdisjoint(path.name for path in out.iterdir())
    assert "mean_entropy_bits" not in json.loads((out / "lesions.json").read_text())


@pytest.mark.parametrize("absent", ["plotly", "skimage"])
def test_an_explanation_without_its_libraries_is_a_usage_error_that_says_how_to_get_them(
    absent, series_folder, tmp_path
):
    code = f"import sys; sys.modules[{absent!r}] = None; import cli; sys.exit(cli.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(series_folder), "--out", str(tmp_path / "out"), "--explain"],
        cwd=Path(segmentation.__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert f"needs {absent}" in done.stderr
    assert "pip install -r requirements-training.txt" in done.stderr
    assert not (tmp_path / "out").exists()


def test_only_a_model_can_be_explained(series_folder, mask_file, tmp_path):
    options = ["--from-mask", str(mask_file), "--explain"]
    with pytest.raises(SystemExit) as ended:
        cli.main([str(series_folder), "--out", str(tmp_path), *options])
    assert ended.value.code == 2


def test_the_model_of_model_path_may_be_asked_for_by_its_id(tmp_path):
    elsewhere = tiny_model(tmp_path / "elsewhere", "tiny", NO_SIZE)
    shipped = Settings(_env_file=None).models_dir
    settings = Settings(_env_file=None, models_dir=shipped, model_path=elsewhere / "tiny.safetensors")
    assert find_spec(settings, None).id == "tiny"
    assert find_spec(settings, "tiny").folder == elsewhere
    assert find_spec(settings, "metscope-compact").folder == shipped
    with pytest.raises(ModelNotFound, match=r"Available models: metscope-compact, .*tiny"):
        find_spec(settings, "nobody")


def test_a_dry_run_says_what_would_be_taken_and_where_it_lies(series_folder, capsys):
    assert cli.main([str(series_folder), "--dry-run"]) == 0
    plan = json.loads(capsys.readouterr().out)
    volume = head("axial", (1.5, 1.0, 1.0))
    assert plan["shape"] == [50, 76, 76]
    assert plan["spacing_mm"] == pytest.approx([1.5, 1.0, 1.0])
    assert np.array(plan["affine_lps"]) == pytest.approx(volume.affine, abs=1e-4)
    assert plan["modality"] == "MR"
    assert plan["chosen"] == plan["candidates"][0]["series_instance_uid"]
    assert plan["refusal"] is None


def test_a_dry_run_of_a_ct_prints_the_refusal(series_folder, tmp_path, capsys):
    for path in series_folder.glob("*.dcm"):
        dataset = dcmread(path)
        dataset.Modality = "CT"
        dataset.save_as(tmp_path / path.name)
    assert cli.main([str(tmp_path), "--dry-run"]) == 3
    plan = json.loads(capsys.readouterr().out)
    assert plan["chosen"] is None
    assert plan["candidates"][0]["refused"] == "unsupported_modality"
    assert plan["refusal"]["code"] == "no_candidate_series"


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (["{missing}", "--out", "{out}"], 3, "unreadable_file"),
        (["{series}", "--out", "{out}", "--series", "1.2.3"], 3, "series_not_found"),
        (["{series}", "--out", "{out}", "--model", "nobody"], 5, "model_not_found"),
        (["{series}", "--out", "{out}", "--from-seg", "{series}/notes.txt"], 3, "unreadable_file"),
        (["{series}", "--out", "{out}", "--from-mask", "{series}/notes.txt"], 3, "unreadable_file"),
        (["{series}", "--out", "{out}", "--from-seg", "{series}/0.dcm"], 3, "unreadable_file"),
    ],
)
def test_what_cannot_be_done_ends_with_its_code_and_no_files(
    arguments, status, code, series_folder, tmp_path, capsys
):
    places = {"missing": tmp_path / "nowhere", "series": series_folder, "out": tmp_path / "out"}
    assert cli.main([argument.format(**places) for argument in arguments]) == status
    assert capsys.readouterr().err.startswith(f"{code}: ")
    assert not (tmp_path / "out").exists()


def damaged_files(data: bytes) -> dict[str, bytes]:
    """A DICOM file as a bad disk or a broken copy leaves it."""
    position = data.index(b"\x20\x00\x32\x00DS") + 4
    rows = data.index(b"\x28\x00\x10\x00US\x02\x00") + 6
    pixels = data.index(b"\xe0\x7f\x10\x00")
    return {
        "unknown VR": data[:position] + b"QQ" + data[position + 2 :],
        "a number of one byte": data[:rows] + b"\x01\x00\x08" + data[rows + 4 :],
        "an end in the length of an element": data[:pixels] + b"\x28\x00\x20\x20OB\x00\x00\x01",
    }


DAMAGES = ("unknown VR", "a number of one byte", "an end in the length of an element")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_passed_over_in_a_folder_and_refused_alone(damage, series_folder, tmp_path, capsys):
    for path in series_folder.glob("*.dcm"):
        (tmp_path / path.name).symlink_to(path)
    broken = tmp_path / "broken"
    broken.write_bytes(damaged_files((series_folder / "0.dcm").read_bytes())[damage])
    assert cli.main([str(tmp_path), "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)["shape"] == [50, 76, 76]
    assert cli.main([str(broken), "--dry-run"]) == 3
    assert capsys.readouterr().err.startswith("unreadable_file: ")
    arguments = ["--out", str(tmp_path / "out"), "--from-seg", str(broken)]
    assert cli.main([str(series_folder), *arguments]) == 3
    assert capsys.readouterr().err.startswith("unreadable_file: ")


def test_a_file_that_is_damaged_behind_its_pixels_is_refused(series_folder, tmp_path, capsys):
    for path in series_folder.glob("*.dcm"):
        (tmp_path / path.name).symlink_to(path)
    last = tmp_path / "0.dcm"
    data = last.read_bytes()
    last.unlink()
    last.write_bytes(data + b"\xfc\xff\xfc\xffOB\x00\x00\x01")
    assert cli.main([str(tmp_path), "--dry-run"]) == 3
    assert json.loads(capsys.readouterr().out)["refusal"]["code"] == "unreadable_file"


@pytest.mark.parametrize("out", ["{file}", "{file}/out", "/proc/nowhere/out"])
def test_a_folder_that_cannot_be_made_is_a_usage_error_before_the_model_is_asked(
    out, series_folder, tmp_path, monkeypatch, capsys
):
    models = tiny_model(tmp_path / "models", "tiny", NO_SIZE)
    # Without weights a model that is asked ends with 5.
    (models / "tiny.safetensors").unlink()
    monkeypatch.setenv("MODELS_DIR", str(models))
    (tmp_path / "file").write_text("kept")
    assert cli.main([str(series_folder), "--out", out.format(file=tmp_path / "file")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("bad_request: --out ")
    assert message.count("\n") == 1
    assert (tmp_path / "file").read_text() == "kept"


def test_usage_errors_end_with_2(series_folder):
    done = subprocess.run(
        [sys.executable, "segmentation.py", str(series_folder)],
        cwd=Path(segmentation.__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--out" in done.stderr


def test_a_phantom_is_refused_instead_of_reported_without_lesions(tmp_path, capsys):
    """A ball of 130 mm, as scanners are tested with, looks like a brain of 1.2 litres to the model."""
    along = np.arange(-100.0, 100.0, 2.0)
    at = np.stack(np.meshgrid(along, along, along, indexing="ij"), -1)
    noise = np.random.default_rng(0).normal(0.0, 5.0, at.shape[:3])
    ball = np.where(np.linalg.norm(at, axis=-1) < 65.0, 500.0, 10.0) + noise
    affine = np.diag([2.0, 2.0, 2.0, 1.0])[[2, 1, 0, 3]]
    image = hd.Volume(np.clip(ball, 0.0, None).astype(np.float32), affine, "PATIENT")
    nifti.write_values(image, tmp_path / "phantom.nii.gz")
    assert cli.main([str(tmp_path / "phantom.nii.gz"), "--out", str(tmp_path / "out")]) == 3
    stderr = capsys.readouterr().err
    assert stderr.startswith("brain_not_found: ")
    assert "as symmetric as a phantom" in stderr
    assert not (tmp_path / "out").exists()


def test_the_peak_memory_of_a_stage_is_its_own():
    stages = Stages(lambda stage, fraction: None)
    with stages("much"):
        assert np.ones(40_000_000).sum() == 40_000_000
    with stages("little"):
        pass
    assert stages.peaks_mb["much"] > stages.peaks_mb["little"] + 250
