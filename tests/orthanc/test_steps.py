"""The learner's steps against a real Orthanc: is it there, what is there, which series, get it, learn."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom.uid import generate_uid
from werkzeug import Request, Response

import cli
import settings
from errors import ArchiveIncomplete, ArchiveRefused
from orthanc import part10
from orthanc.__main__ import main
from orthanc.archive import open_archive
from orthanc.fetch import fetch
from tests import fake_pacs, labelled, several
from unetr.data.datasets import cases

PATIENT = "LEARNER-7"
DATE = "20250314"


@pytest.fixture(scope="module")
def study(orthanc) -> SimpleNamespace:
    """T1 post-contrast with two versions of its SEG, T1 before contrast, and a FLAIR, in the archive."""
    uid = generate_uid()
    common = {"study_instance_uid": uid, "patient_id": PATIENT, "study_date": DATE}
    t1c = labelled.images(description="t1_mprage_sag_km", **common)
    t1 = labelled.images(description="t1_mprage_sag_nativ", contrast=False, **common)
    flair = labelled.images(description="t2_tirm_dark-fluid", contrast=False, **common)
    first = labelled.segmentation(t1c, f"{DATE} 110000", labelled.ELSEWHERE)
    corrected = labelled.segmentation(t1c, f"{DATE} 120000")
    access = {"dicomweb_user": orthanc.user, "dicomweb_password": orthanc.password}
    archive = open_archive(settings.load(dicomweb_url=orthanc.url, **access))
    archive.store([*t1c, *t1, *flair, corrected, first])
    return SimpleNamespace(uid=uid, t1c=t1c, t1=t1, flair=flair, segs=(first, corrected), archive=archive)


@pytest.fixture(autouse=True)
def environment(orthanc, monkeypatch) -> None:
    for name, value in (("URL", orthanc.url), ("USER", orthanc.user), ("PASSWORD", orthanc.password)):
        monkeypatch.setenv(f"DICOMWEB_{name}", value)


@pytest.fixture
def pacs() -> Iterator[fake_pacs.FakePacs]:
    with fake_pacs.running(fake_pacs.FakePacs()) as running:
        yield running


def series_uid(instances) -> str:
    return str(instances[0].SeriesInstanceUID)


def files(folder: Path) -> set[str]:
    """Below the folder, hidden files and folders too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_check_says_where_the_archive_is_and_that_it_answers(orthanc, capsys, monkeypatch):
    assert main(["check"]) == 0
    stdout = capsys.readouterr().out
    assert orthanc.url in stdout
    assert orthanc.user in stdout
    assert orthanc.password not in stdout
    assert "accepts the connection" in stdout
    monkeypatch.setenv("DICOMWEB_PASSWORD", "wrong")
    assert main(["check"]) == 4
    assert capsys.readouterr().err.startswith("archive_refused: ")


def test_check_of_a_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("DICOMWEB_URL", tmp_path.as_uri())
    assert main(["check"]) == 0
    assert "folder of DICOM files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (["--patient", PATIENT], True), (["--patient", "LEARNER-*", "--modality", "SEG"], True),
        (["--date", f"{DATE}-20250401", "--modality", "MR"], True),
        (["--date", "19990101"], False), (["--patient", PATIENT, "--modality", "CT"], False),
    ],
)  # fmt: skip
def test_find_lists_the_studies_that_match(study, capsys, filters, expected):
    assert main(["find", *filters]) == 0
    stdout = capsys.readouterr().out
    assert (study.uid in stdout) == expected
    if expected:
        (line,) = (line for line in stdout.splitlines() if study.uid in line)
        assert DATE in line
        assert PATIENT in line
        assert "5 series" in line


@pytest.mark.parametrize("arguments", [[], ["find"], ["fetch", "1.2"], ["fetch", "--out", "x"], ["series"]])
def test_wrong_usage(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_series_says_what_each_looks_like_and_what_labels_it(study, capsys, caplog):
    assert main(["series", study.uid]) == 0
    stdout = capsys.readouterr().out
    for instances, looks in ((study.t1c, "T1 post-contrast"), (study.t1, "T1"), (study.flair, "FLAIR")):
        about = stdout.split(f"  {series_uid(instances)}\n")[1].split("\n\n")[0]
        assert f"looks like: {looks}\n" in f"{about}\n"
    assert stdout.count(f"labels series {series_uid(study.t1c)}") == 2
    assert f"would segment: t1_mprage_sag_km, {series_uid(study.t1c)}" in stdout
    assert (
        "not for segmentation: According to its headers, the series was acquired without contrast" in stdout
    )
    assert PATIENT not in stdout + caplog.text


def test_what_is_fetched_can_be_learnt_from_and_the_correction_counts(study, tmp_path, capsys):
    assert main(["fetch", "--out", str(tmp_path), study.uid]) == 0
    instances = [*study.t1c, *study.segs]
    assert files(tmp_path) == {
        f"{study.uid}/{instance.SeriesInstanceUID}/{instance.SOPInstanceUID}.dcm" for instance in instances
    }
    (case,) = cases(tmp_path, "dicom")
    assert list(case.images) == ["T1 post-contrast"]
    centre = case.truth.map_indices_to_reference(np.argwhere(case.truth.array)).mean(axis=0)
    assert centre == pytest.approx(labelled.CENTRE, abs=0.3)
    assert "already there" not in capsys.readouterr().out


def test_fetching_again_fetches_what_is_missing_and_nothing_else(study, tmp_path, capsys):
    list(fetch(study.archive, study.uid, tmp_path))
    everything = files(tmp_path)
    first_file, second_file = (
        next((tmp_path / study.uid / series_uid([seg])).iterdir()) for seg in study.segs
    )
    first_file.unlink()
    kept = second_file.stat().st_mtime_ns
    # Left behind by a fetch that was killed.
    (tmp_path / ".part").mkdir()
    (tmp_path / ".part" / "half.dcm").write_bytes(b"half")
    fetched = {done.series_instance_uid: done.new for done in fetch(study.archive, study.uid, tmp_path)}
    assert fetched == {
        series_uid(study.t1c): False, series_uid([study.segs[0]]): True, series_uid([study.segs[1]]): False
    }  # fmt: skip
    assert files(tmp_path) == everything
    assert second_file.stat().st_mtime_ns == kept


def test_a_series_of_one_s_own_choice(study, tmp_path):
    fetched = list(fetch(study.archive, study.uid, tmp_path, series_uid(study.flair)))
    assert [(entry.series_instance_uid, entry.labels) for entry in fetched] == [
        (series_uid(study.flair), False)
    ]


def test_without_a_seg_the_best_candidate_is_fetched(orthanc, study, tmp_path):
    uid = generate_uid()
    post = labelled.images(study_instance_uid=uid, description="T1 MPRAGE post")
    pre = labelled.images(study_instance_uid=uid, description="T1 MPRAGE pre", contrast=False)
    study.archive.store([*post, *pre])
    assert [entry.series_instance_uid for entry in fetch(study.archive, uid, tmp_path)] == [series_uid(post)]


def test_a_list_and_a_query_go_on_after_a_study_that_is_refused(study, tmp_path, capsys):
    listed = tmp_path / "studies.txt"
    listed.write_text(f"# of the registry\n1.2.3\n\n{study.uid}, Miller\n")
    out = tmp_path / "out"
    assert main(["fetch", "--out", str(out), "--list", str(listed), "--patient", PATIENT]) == 4
    output = capsys.readouterr()
    assert "study_not_found: " in output.err
    assert "1.2.3" in output.err
    # The query found the study that the list names: it is fetched once.
    assert "2/2" in output.out
    assert len(list(cases(out, "dicom"))) == 1


def test_a_list_that_cannot_be_read(tmp_path, capsys):
    assert main(["fetch", "--out", str(tmp_path), "--list", str(tmp_path / "none.txt")]) == 2
    assert "none.txt" in capsys.readouterr().err


def test_a_series_that_breaks_off_leaves_nothing_half_written(pacs, tmp_path):
    instances = labelled.images()
    # As an archive has it: highdicom's own objects do not become JSON.
    label = part10.read(part10.encode(labelled.segmentation(instances, f"{DATE} 110000")))
    pacs.instances = [*instances, label]
    archive = open_archive(settings.load(dicomweb_url=pacs.url, dicomweb_user="", dicomweb_password=""))
    pacs.faults["wado"] = [fake_pacs.cut(instances, say_length=True)] * 9
    with pytest.raises(ArchiveIncomplete):
        list(fetch(archive, instances[0].StudyInstanceUID, tmp_path))
    assert files(tmp_path) == set()
    pacs.faults["wado"] = []
    list(fetch(archive, instances[0].StudyInstanceUID, tmp_path))
    assert len(files(tmp_path)) == len(instances) + 1


def test_an_archive_cannot_write_outside_of_the_folder(pacs, tmp_path):
    pacs.instances = instances = labelled.images()

    def lie(pacs: fake_pacs.FakePacs, request: Request) -> Response:
        listed = fake_pacs.json_answer(instances).get_data(as_text=True)
        return Response(
            listed.replace(instances[3].SOPInstanceUID, "../../../outside"), content_type=fake_pacs.JSON
        )

    pacs.faults["metadata"] = [lie]
    archive = open_archive(settings.load(dicomweb_url=pacs.url, dicomweb_user="", dicomweb_password=""))
    downloads = fetch(archive, instances[0].StudyInstanceUID, tmp_path / "a" / "b", series_uid(instances))
    with pytest.warns(UserWarning, match="VR UI"), pytest.raises(ArchiveRefused, match="UID"):
        list(downloads)
    assert files(tmp_path) == set()


GLIOMA = {"FLAIR": "ax FLAIR", "T1": "t1_se_tra", "T1 post-contrast": "t1_mprage_sag_km", "T2": "t2_tse_tra"}


@pytest.fixture
def glioma_models(tmp_path, monkeypatch) -> None:
    """A folder of models with one of four inputs, the setting MODELS_DIR."""
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "glioma.json").write_text(json.dumps(several.specification(several.GLIOMA)))
    monkeypatch.setenv("MODELS_DIR", str(folder))


def glioma_series(*study_uids: str, patient_id: str) -> dict[str, list]:
    """A series of each sequence in one frame of reference, in turns in these studies."""
    series = {}
    for number, (name, description) in enumerate(GLIOMA.items()):
        series[name] = labelled.images(
            description=description, contrast=name == "T1 post-contrast", patient_id=patient_id,
            study_instance_uid=study_uids[number % len(study_uids)], study_date=DATE,
        )  # fmt: skip
        for instance in series[name]:
            instance.FrameOfReferenceUID = "1.2.826.0.1.9"
    return series


def test_all_inputs_of_the_model_are_fetched_with_the_series_that_is_labelled(study, glioma_models, tmp_path):
    uid = generate_uid()
    series = glioma_series(uid, patient_id="GLIOMA-1")
    label = labelled.segmentation(series["FLAIR"], f"{DATE} 120000")
    localizer = labelled.images(description="localizer", study_instance_uid=uid, patient_id="GLIOMA-1")
    study.archive.store([*(i for instances in series.values() for i in instances), label, *localizer])
    assert main(["fetch", "--out", str(tmp_path / "out"), "--model", "glioma", uid]) == 0
    assert {path.name for path in (tmp_path / "out" / uid).iterdir()} == {
        series_uid(instances) for instances in (*series.values(), [label])
    }
    (case,) = cases(tmp_path / "out", "dicom")
    assert sorted(case.images) == sorted(GLIOMA)


def test_sequences_are_looked_for_in_all_studies_of_the_patient(study, glioma_models, tmp_path, capsys):
    first, second = generate_uid(), generate_uid()
    series = glioma_series(first, second, patient_id="GLIOMA-2")
    stranger = glioma_series(generate_uid(), patient_id="GLIOMA-3")
    study.archive.store([i for of in (series, stranger) for instances in of.values() for i in instances])
    out = tmp_path / "out"
    # By its UID alone a study has to hold them all.
    assert main(["fetch", "--out", str(out), first]) == 3
    assert "missing_sequence" in capsys.readouterr().err
    assert main(["fetch", "--out", str(out), "--patient", "GLIOMA-2"]) == 0
    assert {path.name for path in out.glob("*/*")} == {series_uid(instances) for instances in series.values()}
    capsys.readouterr()
    assert cli.main([str(out), "--dry-run", "--model", "glioma"]) == 0
    assert json.loads(capsys.readouterr().out)["inputs"] == {
        name: series_uid(instances) for name, instances in series.items()
    }


def test_an_unknown_model_is_named(study, glioma_models, tmp_path, capsys):
    assert main(["fetch", "--out", str(tmp_path), "--model", "gliom", study.uid]) == 5
    assert "There is no model 'gliom'. Available models: glioma." in capsys.readouterr().err
