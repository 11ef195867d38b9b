"""Cases, their report and the command line, on heads of a few voxels and on predictions that are known."""

import json
import re
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest

from errors import ModelNotFound
from imaging.sequences import T1_POST_CONTRAST
from unetr.__main__ import main as unetr_main
from unetr.evaluation.case_scores import CANDIDATES, CASE, found_lesions, judge, with_pictures
from unetr.evaluation.evaluate import evaluate, folder_of, main
from unetr.evaluation.report import SUMMARY
from unetr.evaluation.summary import summarise
from unetr.evaluation.truth import KnownLesion, Origin, Truth, synthetic
from unetr.predict import Prediction
from unetr.spec import ModelSpec, load_spec
from unetr.synthesis import metastases

SHAPE, SPACING_MM = (30, 60, 50), (3.0, 1.2, 1.0)
# Row, diameter of each true lesion; they lie in one slice, far apart.
DIAMETERS_MM = {1: 14.0, 2: 9.0, 3: 8.0, 4: 12.0}
CENTRES_MM = {1: (45.0, 12.0, 12.0), 2: (45.0, 12.0, 38.0), 3: (45.0, 55.0, 12.0), 4: (45.0, 55.0, 38.0)}
INVENTED_MM = (18.0, 35.0, 25.0)
ORIGIN = Origin("head", "balls", "They say nothing.")


def balls(centres: dict[int, tuple], diameters: dict[int, float]) -> hd.Volume:
    index = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"), -1) * SPACING_MM
    array = np.zeros(SHAPE, dtype=np.int16)
    for number, centre in centres.items():
        array[np.linalg.norm(index - centre, axis=-1) <= diameters[number] / 2] = number
    # Indices grow upwards, backwards and to the left.
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, ::-1] * SPACING_MM
    return hd.Volume(array, affine, "PATIENT", hd.UID("1.2.3"))


@pytest.fixture(scope="module")
def spec(reckonable_spec) -> ModelSpec:
    return reckonable_spec


@pytest.fixture(scope="module")
def truth() -> Truth:
    labels = balls(CENTRES_MM, DIAMETERS_MM)
    image = labels.with_array(40.0 + 60.0 * (labels.array > 0).astype(np.float32))
    lesions = tuple(KnownLesion(n, mm, np.pi / 6 * mm**3 / 1000) for n, mm in DIAMETERS_MM.items())
    return truth_of(labels, image, lesions)


def truth_of(labels: hd.Volume, image: hd.Volume, lesions: tuple[KnownLesion, ...]) -> Truth:
    values = labels.with_array((labels.array > 0).astype(np.uint8))
    return Truth("ordinary", "7", 7, {T1_POST_CONTRAST: image}, values, labels, lesions)


def prediction_of(labels: hd.Volume, probability: dict[int, float]) -> Prediction:
    """A prediction of those lesions, each of its probability throughout."""
    levels = np.array([0.0, *(probability.get(n, 0.0) for n in range(1, int(labels.array.max()) + 1))])
    field = levels[labels.array].astype(np.float32)
    return Prediction(labels.with_array((field > 0).astype(np.uint8)), labels.with_array(field))


@pytest.fixture(scope="module")
def flawed(truth) -> Prediction:
    """Lesion 1 as it is, 2 as a larger ball, 3 and 4 missed, and one invented."""
    centres = {1: CENTRES_MM[1], 2: CENTRES_MM[2], 5: INVENTED_MM}
    return prediction_of(balls(centres, {1: 14.0, 2: 11.0, 5: 8.0}), {1: 0.9, 2: 0.8, 5: 0.7})


@pytest.fixture(scope="module")
def candidates(flawed) -> Prediction:
    """The same, lesion 3 as well at low probability, and a second thing that is none."""
    centres = {1: CENTRES_MM[1], 2: CENTRES_MM[2], 3: CENTRES_MM[3], 5: INVENTED_MM, 6: (75.0, 35.0, 25.0)}
    diameters = {1: 14.0, 2: 11.0, 3: 8.0, 5: 8.0, 6: 6.0}
    return prediction_of(balls(centres, diameters), {1: 0.9, 2: 0.8, 3: 0.3, 5: 0.7, 6: 0.2})


@pytest.fixture(scope="module")
def case(truth, flawed, candidates, spec):
    return judge(truth, flawed, candidates, spec)


def test_the_truth_itself_is_a_perfect_prediction(truth, spec):
    perfect = prediction_of(truth.labels, dict.fromkeys(DIAMETERS_MM, 0.99))
    case = judge(truth, perfect, perfect, spec)
    assert (case.overall.dice, case.overall.hd95_mm, case.overall.surface_dice) == (1.0, 0.0, 1.0)
    assert (case.lesion_wise.dice, case.lesion_wise.hd95_mm) == (1.0, 0.0)
    summary = summarise(spec, [case], ORIGIN)
    assert {row.name: row.sensitivity.value for row in summary.bins if row.lesions} == {
        "5-10 mm": 1.0, "10 mm and more": 1.0, "3 mm and more": 1.0, "all": 1.0,
    }  # fmt: skip
    assert summary.kinds[-1].false_positives.value == 0.0
    for agreement in summary.agreement.values():
        assert (agreement.count, agreement.bias.value, agreement.high_limit.value) == (4, 0.0, 0.0)


def test_a_case_says_what_was_found_missed_and_invented(case):
    found_by_number = {lesion.number: lesion.found for lesion in case.lesions}
    assert found_by_number == {1: True, 2: True, 3: False, 4: False}
    second = case.lesions[1]
    assert second.overlap.dice == pytest.approx(2 * 9**3 / (9**3 + 11**3), abs=0.08)
    assert second.overlap.hd95_mm == pytest.approx(1.0, abs=0.5)
    assert {lesion.number: lesion.candidate_score for lesion in case.lesions} == {
        1: pytest.approx(0.9), 2: pytest.approx(0.8), 3: pytest.approx(0.3), 4: None,
    }  # fmt: skip
    assert sorted(case.false_scores) == pytest.approx([0.2, 0.7])
    assert case.false_positives == 1
    assert (case.lesion_wise.found, case.lesion_wise.missed, case.lesion_wise.false) == (2, 2, 1)
    invented = next(component for component in case.components if not component.real)
    assert invented.mean_probability == pytest.approx(0.7)
    assert invented.long_axis_mm == pytest.approx(8.0, abs=1.0)


def test_the_summary_counts_lesions_by_true_diameter_and_measures_agreement(case, spec):
    summary = summarise(spec, [case], ORIGIN)
    assert [(row.name, row.found, row.lesions) for row in summary.bins] == [
        ("2-3 mm", 0, 0), ("3-5 mm", 0, 0), ("5-10 mm", 1, 2), ("10 mm and more", 1, 2),
        ("3 mm and more", 2, 4), ("all", 2, 4),
    ]  # fmt: skip
    assert summary.bins[2].false_positives.value == 1.0
    assert summary.froc.at[0.5].value == pytest.approx(0.5)
    assert summary.froc.at[1.0].value == pytest.approx(0.75)
    volume = summary.agreement["volume, ml"]
    larger, smaller = (balls({2: CENTRES_MM[2]}, {2: size}).array.astype(bool).sum() for size in (11.0, 9.0))
    assert volume.bias.value == pytest.approx((larger - smaller) * np.prod(SPACING_MM) / 1000 / 2)
    assert summary.agreement["longest diameter, mm"].bias.value == pytest.approx(1.0, abs=0.3)
    # 0.9, 0.8 and a wrong 0.7.
    mean_probability = summary.calibration["mean probability of a lesion"]
    assert mean_probability.ece.value == pytest.approx((0.1 + 0.2 + 0.7) / 3)
    assert "confidence of a lesion" not in summary.calibration


def test_heads_without_a_lesion_count_by_whether_any_is_reported(truth, flawed, spec):
    free = truth_of(truth.labels.with_array(truth.labels.array * 0), truth.images[T1_POST_CONTRAST], ())
    nothing = prediction_of(free.labels, {})
    cases = [judge(free, nothing, nothing, spec), judge(free, flawed, flawed, spec)]
    summary = summarise(spec, cases, ORIGIN)
    assert (summary.lesion_free.heads, summary.lesion_free.none_reported) == (2, 1)
    assert summary.kinds[0].false_positives.value == 1.5
    assert summary.kinds[0].lesion_wise_dice.value == 0.5
    assert summary.kinds[0].dice.value is None
    assert all(row.sensitivity.value is None for row in summary.bins)


def test_two_models_are_compared_head_by_head(truth, case, spec):
    perfect = prediction_of(truth.labels, dict.fromkeys(DIAMETERS_MM, 0.99))
    better = judge(truth, perfect, perfect, spec)
    worse = summarise(spec, [case] * 6, ORIGIN)
    rows = {row.name: row for row in summarise(spec, [better] * 6, ORIGIN, (worse, [case] * 6)).comparison}
    assert rows["sensitivity, 3 mm and more"].difference.value == pytest.approx(0.5)
    assert rows["sensitivity, 2-3 mm"].difference.value is None
    assert rows["false positives per head"].difference.value == -1.0
    assert rows["false positives per head"].difference.p == pytest.approx(2 / 2**6, abs=0.02)
    assert rows["lesion-wise Dice"].difference.value > 0.4


def test_a_case_comes_back_from_its_file_as_it_was_with_its_pictures(case, truth, flawed, tmp_path):
    image = truth.images[T1_POST_CONTRAST]
    pictured = with_pictures(case, image, truth.labels, found_lesions(flawed), tmp_path / "head")
    assert CASE.validate_json(CASE.dump_json(pictured)) == pictured
    # The larger of the missed ones first.
    assert [(f.what, f.number, f.size_mm) for f in pictured.pictures.values()][:2] == [
        ("missed", 4, 12.0), ("missed", 3, 8.0),
    ]  # fmt: skip
    assert [f.what for f in pictured.pictures.values()][2:] == ["false"]
    for name in pictured.pictures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_stopped_evaluation_goes_on_where_it_was(coarse_model, coarse_head, tmp_path):
    seeds = []

    class PowerCut(Exception):
        pass

    def until_the_power_fails(kind: str, seed: int) -> metastases.Head:
        if seed == 2:
            raise PowerCut
        seeds.append(seed)
        return coarse_head(kind, seed)

    def generate(kind: str, seed: int) -> metastases.Head:
        seeds.append(seed)
        return coarse_head(kind, seed)

    spec, heads = load_spec(coarse_model), [("ordinary", 1), ("ordinary", 2)]
    with pytest.raises(PowerCut):
        evaluate([spec], synthetic(heads, until_the_power_fails), tmp_path, "cpu")
    (cases,), _ = evaluate([spec], synthetic(heads, generate), tmp_path, "cpu")
    assert seeds == [1, 2]
    assert [case.seed for case in cases] == [1, 2]
    assert len(list(folder_of(spec, tmp_path).glob("*.json"))) == 2
    postprocessing = spec.postprocessing.model_copy(update={"threshold": 0.6})
    assert folder_of(spec.model_copy(update={"postprocessing": postprocessing}), tmp_path) != folder_of(
        spec, tmp_path
    )


def test_the_command_line_writes_a_report_that_needs_no_other_file(
    coarse_model, coarse_head, tmp_path, capsys
):
    coarse_model.write_text(json.dumps(json.loads(coarse_model.read_text()) | {"mirroring_axes": [0, 1]}))
    other_model = coarse_model.with_name("other.json")
    main(
        ["--model", str(coarse_model), "--against", str(other_model), "--heads", "1", "--first-seed", "11",
         "--kinds", "ordinary,no lesion", "--out", str(tmp_path)],
        coarse_head,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "| 3 mm and more |" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["research_use_only"] is True
    assert report["model"]["id"] == "tiny"
    assert report["against"]["model"]["id"] == "other"
    assert report["model"]["mirroring_axes"] == [0, 1]
    assert report["against"]["model"]["mirroring_axes"] == []
    lesions = len(coarse_head("ordinary", 11).lesions)
    assert [(kind["name"], kind["heads"]) for kind in report["kinds"]] == [
        ("ordinary", 1), ("no lesion", 1), ("all", 2),
    ]  # fmt: skip
    assert report["kinds"][0]["lesions"] + report["unseen"] == lesions
    assert report["lesion_free"]["heads"] == 1
    assert SUMMARY.validate_json((tmp_path / "report.json").read_bytes()).first_seed == 11
    page = (tmp_path / "report.html").read_text()
    assert "Research use only" in page
    assert "Against other" in page
    assert "Evaluated on 2 synthetic heads, seeds 11 to 11; threshold" in page
    assert "Synthetic heads say nothing about patients." in page
    assert "mean of 4 mirror images" in page
    assert page.count("data:image/svg+xml") >= 6
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert "<script" not in page


def test_an_unknown_model_or_kind_is_named(tmp_path):
    with pytest.raises(ModelNotFound, match=r"no model 'olga'. Available models: .*metscope-compact"):
        main(["--model", "olga", "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="unknown kind martian; available: ordinary"):
        main(["--model", "metscope-compact", "--kinds", "martian", "--out", str(tmp_path)])


@pytest.mark.parametrize("step", ["evaluate", "operating_point", "infer"])
def test_a_model_of_other_images_is_refused_with_a_sentence(
    step, coarse_model, tmp_path, monkeypatch, capsys
):
    """Heads that it was not made for would say nothing about it."""
    content = json.loads(coarse_model.read_text()) | {"id": "two", "inputs": ["FLAIR", "T1 post-contrast"]}
    content["network"]["arguments"]["in_channels"] = 2
    two = coarse_model.with_name("two.json")
    two.write_text(json.dumps(content))
    monkeypatch.setattr("sys.argv", ["unetr", step, "--model", str(two), "--out", str(tmp_path / "out")])
    assert unetr_main() == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("bad_request: ")
    assert "FLAIR, T1 post-contrast" in stderr
    assert not (tmp_path / "out").exists()


def test_candidates_are_more_than_the_shipped_model_takes():
    assert (
        CANDIDATES.threshold < load_spec(Path("unetr/weights/metscope-compact.json")).postprocessing.threshold
    )
