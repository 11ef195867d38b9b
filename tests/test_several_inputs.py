"""Models of several inputs and labels, served by their specification alone."""

import json
import subprocess
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import generate_uid

import cli
from context import ModelServices
from imaging import nifti, seg
from imaging.stack import to_stack
from tests import several
from unetr.predict import Predictor
from unetr.spec import ModelSpec
from unetr.synthesis.phantom import SeriesOptions, to_instances

TUMOUR_ML = sum(several.REGIONS_ML.values())


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("several") / "models"
    several.save_model(folder, several.GLIOMA, several.OF_GLIOMA)
    several.save_model(folder, several.WHOLE_TUMOUR, several.OF_WHOLE_TUMOUR)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory, models) -> several.SeveralSite:
    return several.SeveralSite(tmp_path_factory.mktemp("site"), models)


def uid_of(study: dict[str, list[Dataset]], name: str) -> str:
    return str(study[name][0].SeriesInstanceUID)


def assert_legal(dataset: Dataset, folder: Path) -> None:
    dataset.save_as(folder / "checked.dcm", enforce_file_format=True)
    checked = subprocess.run(
        ["dciodvfy", str(folder / "checked.dcm")], capture_output=True, text=True, check=False
    )
    assert [line for line in checked.stderr.splitlines() if line.startswith("Error")] == []


def texts_of(dataset: Dataset) -> str:
    return " ".join(
        str(element.value) for element in dataset.iterall() if element.VR in ("LO", "CS", "ST", "UT")
    )


def test_a_glioma_of_four_sequences_on_four_grids_becomes_its_three_regions(site, tmp_path):
    study = several.study(several.GLIOMA["inputs"])
    document = site.document(site.segment(site.store(study), "glioma"))
    assert document["series_instance_uid"] == uid_of(study, "FLAIR")
    assert [lesion["name"] for lesion in document["lesions"]] == ["NCR", "ED", "ET"]
    for lesion in document["lesions"]:
        assert lesion["volume_ml"] == pytest.approx(several.REGIONS_ML[lesion["name"]], rel=0.1)
        assert lesion["centroid_lps_mm"] == pytest.approx(several.CENTRE, abs=0.4)
        assert lesion["mean_probability"] > 0.9
    # Each region is as wide as its ball, which the necrosis and the enhancing part fill from inside.
    widths = {lesion["name"]: lesion["long_axis_mm"] for lesion in document["lesions"]}
    assert widths["ET"] == pytest.approx(2 * several.ENHANCING_MM, abs=1.5)
    assert widths["ED"] == pytest.approx(2 * several.OEDEMA_MM, abs=1.5)
    for name in several.GLIOMA["inputs"]:
        assert f"{name}: series {uid_of(study, name)}" in document["reasons"]
    assert document["warnings"] == []

    dataset = site.retrieve(document)
    labels, segments = seg.read(dataset, to_stack(study["FLAIR"]))
    for label, segment, lesion in zip(several.GLIOMA["labels"], segments, document["lesions"], strict=True):
        assert (segment.name, segment.tracking_uid) == (label["name"], lesion["tracking_uid"])
        assert (segment.type.value, segment.type.meaning) == (
            label["type"]["value"],
            label["type"]["meaning"],
        )
        voxels = labels.map_indices_to_reference(np.argwhere(labels.array == segment.number))
        assert len(voxels) == lesion["voxel_count"]
        assert voxels.mean(0) == pytest.approx(several.CENTRE, abs=0.4)
    assert {item.AnatomicRegionSequence[0].CodeMeaning for item in dataset.SegmentSequence} == {"Brain"}
    (referenced,) = dataset.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == uid_of(study, "FLAIR")
    assert dataset.SeriesDescription == "Glioma regions, AI segmentation, research use only"
    for output in (dataset, site.retrieve(document, "SR")):
        assert_legal(output, tmp_path)
        assert "etastas" not in texts_of(output)


def test_a_whole_tumour_of_three_sequences_is_one_object_in_as_many_pieces_as_it_has(site):
    study = several.study(several.WHOLE_TUMOUR["inputs"])
    apart = several.ball(several.GRIDS["FLAIR"], np.array([-20.0, -15.0, -20.0]), 7.0)
    flair = several.tumour("FLAIR", several.GRIDS["FLAIR"])
    both = flair.with_array(np.maximum(flair.array, np.rint(100 + 800 * apart)).astype(np.uint16))
    options = SeriesOptions(
        description="ax FLAIR", contrast=False, study_instance_uid=study["T1"][0].StudyInstanceUID
    )
    study["FLAIR"] = to_instances(both, options)
    for instance in study["FLAIR"]:
        instance.FrameOfReferenceUID = study["T1"][0].FrameOfReferenceUID
    document = site.document(site.segment(site.store(study), "whole-tumour"))
    (lesion,) = document["lesions"]
    assert (lesion["name"], lesion["tracking_id"]) == ("Whole tumour", "Whole tumour")
    assert lesion["volume_ml"] == pytest.approx(TUMOUR_ML + several.BALL * 7.0**3, rel=0.05)


def spine_slices() -> hd.Volume:
    """Sagittal slices: two vertebrae with a disc between them and a canal behind; 0 elsewhere."""
    volume = several.grid(several.SAGITTAL, (3.0, 2.0, 2.0), 72.0)
    array = np.zeros(volume.spatial_shape, np.uint16)
    array[8:16, 4:12, 8:18] = array[8:16, 15:25, 8:18] = 500
    array[8:16, 12:15, 8:18] = 300
    array[11:14, 2:30, 20:24] = 800
    return volume.with_array(array)


def by_level(window: np.ndarray) -> np.ndarray:
    """The logits of disc, vertebra and canal by the level of the one input; they are even at 0.4 and 0.6."""
    level = window[0]
    return np.stack([level - 0.2, 2.0 * level - 0.6, 3.0 * level - 1.2]) * np.float32(200.0)


@pytest.fixture
def spine_site(tmp_path, models) -> several.SeveralSite:
    content = several.specification(several.SPINE_PARTS) | {"spacing_mm": [3.0, 2.0, 2.0]}
    spec = ModelSpec.model_validate(content)

    def opener(settings, _model_id):
        return ModelServices(site.archive, site.sessions, settings, Predictor(spec, by_level), spec)

    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "spine.json").write_text(json.dumps(content))
    site = several.SeveralSite(tmp_path / "data", folder, opener)
    return site


def test_a_spine_becomes_numbered_vertebrae_and_discs_and_one_canal(spine_site, tmp_path):
    volume = spine_slices()
    instances = to_instances(volume, SeriesOptions(description="T2 TSE sag LWS", contrast=False))
    for instance in instances:
        instance.BodyPartExamined = "LSPINE"
    study_uid = spine_site.store({"T2": instances})
    document = spine_site.document(spine_site.segment(study_uid, "spine"))
    lesions = document["lesions"]
    expected = {"Disc 1": 300, "Vertebra 1": 500, "Vertebra 2": 500, "Canal": 800}
    assert [lesion["name"] for lesion in lesions] == list(expected)
    assert [lesion["tracking_id"] for lesion in lesions] == [
        "Disc-1",
        "Vertebra-1",
        "Vertebra-2",
        "Canal",
    ]
    dataset = spine_site.retrieve(document)
    labels, segments = seg.read(dataset, to_stack(instances))
    for segment in segments:
        assert set(volume.array[labels.array == segment.number]) == {expected[segment.name]}
    assert np.array_equal(labels.array > 0, volume.array > 0)
    first, second = (lesion["volume_ml"] for lesion in lesions if lesion["name"].startswith("Vertebra"))
    assert (first, second) == pytest.approx((8 * 10 * 10 * 0.012, 8 * 8 * 10 * 0.012))
    assert dataset.SeriesDescription == "Spine, AI segmentation, research use only"
    assert {item.AnatomicRegionSequence[0].CodeMeaning for item in dataset.SegmentSequence} == {"Spine"}
    for output in (dataset, spine_site.retrieve(document, "SR")):
        assert_legal(output, tmp_path)
        assert "etastas" not in texts_of(output)
        assert "Brain" not in texts_of(output)


def test_what_a_person_corrects_keeps_what_it_is(spine_site, tmp_path):
    instances = to_instances(spine_slices(), SeriesOptions(description="T2 TSE sag LWS", contrast=False))
    study_uid = spine_site.store({"T2": instances})
    first = spine_site.segment(study_uid, "spine").segmentation_id
    body = {"rename": [{"number": 2, "name": "L4"}], "delete": [1]}
    answer = spine_site.api.post(f"/segmentations/{first}/corrections", json=body)
    document = spine_site.document(spine_site.run_job(answer.json["id"]))
    assert [lesion["name"] for lesion in document["lesions"]] == ["L4", "Vertebra 2", "Canal"]
    dataset = spine_site.retrieve(document)
    assert [item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for item in dataset.SegmentSequence] == [
        "Vertebra", "Vertebra", "Spinal canal",
    ]  # fmt: skip
    assert {item.AnatomicRegionSequence[0].CodeMeaning for item in dataset.SegmentSequence} == {"Spine"}
    assert dataset.SeriesDescription == "Spine, version 2+ by anonymous, research use only"
    structures = spine_site.api.post(f"/segmentations/{document['id']}/rtstruct", json={})
    document = spine_site.document(spine_site.run_job(structures.json["id"]))
    for output in (dataset, *(spine_site.retrieve(document, modality) for modality in ("SR", "RTSTRUCT"))):
        assert_legal(output, tmp_path)
        assert "etastas" not in texts_of(output)
    # Who asks again for the same images gets the correction.
    assert spine_site.segment(study_uid, "spine").segmentation_id == document["id"]


def test_a_correction_is_found_again_by_all_inputs_of_its_model(site):
    study_uid = site.store(several.study(several.GLIOMA["inputs"]))
    first = site.segment(study_uid, "glioma").segmentation_id
    answer = site.api.post(f"/segmentations/{first}/corrections", json={"delete": [1]})
    corrected = site.document(site.run_job(answer.json["id"]))
    assert [lesion["name"] for lesion in corrected["lesions"]] == ["ED", "ET"]
    assert site.segment(study_uid, "glioma").segmentation_id == corrected["id"]


@pytest.mark.parametrize("missing", several.GLIOMA["inputs"])
def test_a_sequence_that_is_missing_is_named(missing, site):
    present = [name for name in several.GLIOMA["inputs"] if name != missing]
    job = site.segment(site.store(several.study(present)), "glioma")
    assert (job.state, job.error_code) == ("failed", "missing_sequence")
    assert f"is a {missing}." in job.error_message


def test_no_pixels_are_fetched_for_a_study_that_lacks_a_sequence(site):
    study_uid = site.store(several.study(["FLAIR", "T1", "T2"]))
    paths = [path for path in site.settings.data_dir.rglob("*.dcm") if study_uid in str(path)]
    assert len(paths) > 60
    for path in paths:
        dataset = dcmread(path)
        dataset.PixelData = dataset.PixelData[:10]
        dataset.save_as(path)
    assert site.segment(study_uid, "glioma").error_code == "missing_sequence"


def test_inputs_of_another_frame_of_reference_are_refused(site):
    study = several.study(several.GLIOMA["inputs"], T2={"FrameOfReferenceUID": generate_uid()})
    job = site.segment(site.store(study), "glioma")
    assert (job.state, job.error_code) == ("failed", "inputs_apart")
    assert "FrameOfReferenceUID (0020,0052) of the T2 (t2_tse_tra)" in job.error_message


def test_inputs_that_show_different_places_are_refused_and_those_of_a_part_warned_of(site):
    for shift_mm, expected in ((200.0, "failed"), (30.0, "done")):
        study = several.study(several.WHOLE_TUMOUR["inputs"])
        for instance in study["T1"]:
            x, y, z = instance.ImagePositionPatient
            instance.ImagePositionPatient = [x, y, z + shift_mm]
        job = site.segment(site.store(study), "whole-tumour")
        assert job.state == expected
        if expected == "failed":
            assert (job.error_code, job.error_message.split(".")[0]) == (
                "inputs_apart", "The T1 covers 0% of the FLAIR",
            )  # fmt: skip
        else:
            # The T1 begins 27 mm above the lower end of the FLAIR's 64 mm.
            (warning,) = site.document(job)["warnings"]
            assert warning == "The T1 covers 56% of the FLAIR."


def test_of_several_the_thin_volume_is_taken_then_the_newest_then_what_the_caller_says(site):
    study = several.study(several.WHOLE_TUMOUR["inputs"])
    second_flair = several.study(["FLAIR"])["FLAIR"]
    thick = to_instances(
        several.tumour("T2", several.grid(several.AXIAL, (6.0, 1.8, 1.8), 72.0)),
        SeriesOptions(description="t2 tra thick", contrast=False),
    )
    for number, instances in enumerate((second_flair, thick), start=20):
        for instance in instances:
            instance.StudyInstanceUID = study["T1"][0].StudyInstanceUID
            instance.FrameOfReferenceUID = study["T1"][0].FrameOfReferenceUID
            instance.SeriesNumber = number
    study_uid = site.store({**study, "FLAIR again": second_flair, "thick": thick})
    document = site.document(site.segment(study_uid, "whole-tumour"))
    assert document["series_instance_uid"] == str(second_flair[0].SeriesInstanceUID)
    assert "the newest of 2 that fit equally well" in document["reasons"]
    assert f"T2: series {uid_of(study, 'T2')}" in document["reasons"]

    chosen = {"FLAIR": uid_of(study, "FLAIR"), "T2": str(thick[0].SeriesInstanceUID)}
    job = site.segment(study_uid, "whole-tumour", inputs=chosen)
    assert site.api.get(f"/jobs/{job.id}").json["inputs"] == chosen
    second_document = site.document(job)
    assert (second_document["series_instance_uid"], second_document["id"] != document["id"]) == (
        chosen["FLAIR"],
        True,
    )
    assert f"T2: series {chosen['T2']}" in second_document["reasons"]
    candidates = site.api.get(f"/studies/{study_uid}/candidates").json["candidates"]
    sequences = {candidate["description"]: candidate["sequence"] for candidate in candidates}
    assert sequences["t2 tra thick"] == "T2"
    assert sequences["ax FLAIR"] == "FLAIR"


def test_what_the_headers_of_a_series_do_not_say_is_null(site):
    study = several.study(["T1"], T1={"SeriesDescription": "", "Modality": ""})
    study_uid = site.store(study)
    (candidate,) = site.api.get(f"/studies/{study_uid}/candidates").json["candidates"]
    assert (candidate["description"], candidate["modality"], candidate["sequence"]) == (None, None, None)


def test_odd_descriptions_are_no_hindrance_to_who_says_which_series_is_which(site):
    study = several.study(several.WHOLE_TUMOUR["inputs"], T2={"SeriesDescription": "T1 tra"})
    study_uid = site.store(study)
    assert site.segment(study_uid, "whole-tumour").error_code == "missing_sequence"
    document = site.document(site.segment(study_uid, "whole-tumour", inputs={"T2": uid_of(study, "T2")}))
    assert document["warnings"] == ["Chosen by the user as T2, but its headers identify it as T1."]
    assert f"T1: series {uid_of(study, 'T1')}" in document["reasons"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"inputs": {"T3": "1.2"}}, "whole-tumour has no 'T3'; it has: FLAIR, T1, T2."),
        ({"inputs": {"T1": "1.2", "T2": "1.2"}}, "one series is given twice"),
        ({"inputs": {"FLAIR": "1.2"}, "series_instance_uid": "1.3"}, "inputs gives another series as FLAIR"),
        ({"inputs": {"T1": "no uid"}}, "inputs.T1"),
    ],
)
def test_a_form_that_names_inputs_wrongly_is_refused_at_once(body, sentence, site):
    answer = site.api.post("/segmentation/1.2.3", json={"model": "whole-tumour", **body})
    assert (answer.status_code, answer.json["error"]["code"]) == (422, "invalid_form")
    assert sentence in answer.json["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": {"FLAIR": "1.2", "T1": "1.3", "T2": "1.4"}},
        {"inputs": {"FLAIR": "1.2"}, "series_instance_uid": "1.2"},
        {"inputs": {"T1": "1.2"}, "series_instance_uid": "1.3"},
    ],
)
def test_a_form_that_names_each_input_once_is_accepted(body, site):
    answer = site.api.post("/segmentation/1.2.3", json={"model": "whole-tumour", **body})
    assert (answer.status_code, answer.json["inputs"]) == (202, body["inputs"])


def test_the_uncertainty_of_several_labels_is_at_most_the_logarithm_of_their_number(site, tmp_path):
    job = site.segment(site.store(several.study(several.GLIOMA["inputs"])), "glioma")
    answer = site.api.post(f"/segmentations/{job.segmentation_id}/uncertainty", json={})
    document = site.document(site.run_job(answer.json["id"]))
    dataset = site.retrieve(document, "OT")
    assert_legal(dataset, tmp_path)
    assert "etastas" not in texts_of(dataset)
    bits = np.frombuffer(dataset.FloatPixelData, np.float32)
    # Two labels are even where one goes over into the other, all four classes nowhere.
    assert 1.0 <= bits.max() <= 2.0


def save(folder: Path, study: dict[str, list[Dataset]]) -> Path:
    folder.mkdir()
    for instances in study.values():
        for instance in instances:
            instance.save_as(folder / f"{instance.SOPInstanceUID}.dcm", enforce_file_format=True)
    return folder


@pytest.fixture
def command_line(models, monkeypatch):
    monkeypatch.setenv("MODELS_DIR", str(models))
    monkeypatch.setenv("MODEL_PATH", str(models / "whole-tumour.safetensors"))

    def run(*arguments: object) -> int:
        return cli.main([str(argument) for argument in arguments])

    return run


def test_a_folder_of_several_series_is_segmented_on_the_command_line(command_line, tmp_path):
    folder = save(tmp_path / "in", several.study(several.GLIOMA["inputs"]))
    assert command_line(folder, "--out", tmp_path / "out", "--model", "glioma") == 0
    document = json.loads((tmp_path / "out" / "lesions.json").read_text())
    for lesion in document["lesions"]:
        assert lesion["volume_ml"] == pytest.approx(several.REGIONS_ML[lesion["name"]], rel=0.1)
    labels = {item.SegmentLabel for item in dcmread(tmp_path / "out" / "segmentation.dcm").SegmentSequence}
    assert labels == {"NCR", "ED", "ET"}


def test_a_dry_run_says_which_series_is_which_input_and_what_is_missing(command_line, tmp_path, capsys):
    study = several.study(several.WHOLE_TUMOUR["inputs"])
    folder = save(tmp_path / "in", study)
    assert command_line(folder, "--dry-run") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["inputs"] == {name: uid_of(study, name) for name in several.WHOLE_TUMOUR["inputs"]}
    assert plan["refusal"] is None
    assert command_line(folder, "--dry-run", "--model", "glioma") == 3
    assert json.loads(capsys.readouterr().out)["refusal"]["code"] == "missing_sequence"
    assert command_line(folder, "--out", tmp_path / "out", "--input", f"T4={uid_of(study, 'T2')}") == 2
    assert "whole-tumour has no input 'T4'; it has: FLAIR, T1, T2." in capsys.readouterr().err


def test_nifti_files_are_given_by_name_and_refused_where_one_is_missing(command_line, tmp_path, capsys):
    paths = {}
    for name in several.WHOLE_TUMOUR["inputs"]:
        volume = several.tumour(name, several.GRIDS[name])
        paths[name] = tmp_path / f"{name}.nii.gz"
        nifti.write_values(volume, paths[name])
    out = tmp_path / "out"
    assert command_line(paths["FLAIR"], "--out", out, "--input", f"T1={paths['T1']}") == 3
    assert capsys.readouterr().err.startswith(
        "missing_sequence: FLAIR.nii.gz contains only one volume; the T2"
    )
    others = [argument for name in ("T1", "T2") for argument in ("--input", f"{name}={paths[name]}")]
    assert command_line(paths["FLAIR"], "--out", out, *others) == 0
    (lesion,) = json.loads((out / "lesions.json").read_text())["lesions"]
    assert lesion["volume_ml"] == pytest.approx(TUMOUR_ML, rel=0.05)
    assert lesion["centroid_lps_mm"] == pytest.approx(several.CENTRE, abs=0.4)
    assert np.asarray(nibabel.load(out / "segmentation.nii.gz").dataobj).max() == 1
