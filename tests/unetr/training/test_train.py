"""Training: windows that hold what they should, a loss that minds false positives, a run that goes on."""

import csv
import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
import torch
import yaml

from errors import ModelSpecInvalid, WeightsInvalid
from unetr.__main__ import STEPS
from unetr.network import build, golden_logits, load_network
from unetr.predict import Predictor
from unetr.preprocess import Prepared
from unetr.spec import ModelSpec, load_spec
from unetr.training import config, export, preparation, samples, train

ROOT = Path(__file__).parents[3]
SIZE = 32
EXPONENT = 0.5
SHIPPED = config.load_config("metscope-unet")


def store_sample(folder: Path, images, truth, brain=None, spec=SHIPPED.spec) -> samples.Sample:
    folder.mkdir(parents=True)
    affine = np.diag([*spec.spacing_mm, 1.0])
    first, *others = (image.astype(np.float32) for image in images)
    prepared = Prepared(hd.Volume(first, affine, "PATIENT"), others)
    for name, array in samples.arrays(prepared, truth, brain, spec).items():
        np.save(folder / f"{name}.npy", array)
    return samples.load(folder)


@pytest.fixture
def sample(tmp_path) -> samples.Sample:
    """A head of 48 voxels a side, brain below 24 along the first axis, with value 1.

    In it a lesion, whose image value is 5, and a bright spot, 3, that is none; outside another lesion-like 5.
    """
    image = np.zeros((48, 48, 48))
    lesions = np.zeros(image.shape, np.uint8)
    lesions[6:9, 30:33, 40:43] = 1
    brain = np.zeros(image.shape, bool)
    brain[:24] = True
    image[brain] = 1
    image[lesions == 1] = 5
    image[12, 10, 8] = 3
    image[40:43, 20:23, 20:23] = 5
    return store_sample(tmp_path / "head", [image], lesions, brain)


def window(sample: samples.Sample, rng: np.random.Generator, augment: bool = False) -> samples.TrainingWindow:
    return samples.lesion_window(sample, SIZE, EXPONENT, rng, augment)


def test_a_window_holds_the_lesions_truth_where_its_image_is(sample):
    rng = np.random.default_rng(1)
    windows = [window(sample, rng) for _ in range(60)]
    for w in windows:
        assert w.image.shape == (1, SIZE, SIZE, SIZE)
        assert w.truth.shape == w.weight.shape == (SIZE, SIZE, SIZE)
        assert np.array_equal(w.truth == 1, (w.image[0] == 5) & (w.truth != samples.IGNORE_LABEL))
        assert (w.truth[w.image[0] == 1] == 0).all()
    assert sum((w.truth == 1).any() for w in windows) > 25
    assert sum((w.image == 3).any() for w in windows) > 10


def test_no_lesion_is_sought_beyond_the_brain_and_its_margin(sample):
    rng = np.random.default_rng(4)
    edges = set()
    for _ in range(20):
        w = window(sample, rng)
        column = w.truth[:, 0, 0]
        brain = int((w.image[0, :, 0, 0] == 1).sum())
        assert (column[: brain + samples.SEARCH_MARGIN] == 0).all()
        assert (column[brain + samples.SEARCH_MARGIN :] == samples.IGNORE_LABEL).all()
        edges.add(brain)
    assert len(edges) > 3


def test_flips_and_noise_leave_the_truth_on_the_lesion(sample):
    rng = np.random.default_rng(2)
    around_lesion = dataclasses.replace(sample, bright=sample.places, anywhere=sample.places)
    lesion_windows = 0
    for _ in range(20):
        w = window(around_lesion, rng, augment=True)
        if (w.truth == 1).sum() > 20:
            lesion_windows += 1
            assert w.image[0][w.truth == 1].mean() > 2
            assert w.image[0][w.truth == 0].mean() < 2
    assert lesion_windows > 10


def test_a_small_lesion_is_seen_and_counts_more_than_a_large_one(tmp_path):
    lesions = np.zeros((96, 40, 40), np.uint8)
    lesions[10:12, 18:20, 18:20] = 1  # 8 voxels
    lesions[70:78, 16:24, 16:24] = 1  # 512 voxels: 64 times as many, so an eighth of the weight
    image = np.where(lesions == 1, 5.0, 1.0)
    image[70:78][lesions[70:78] == 1] = 9.0
    head = store_sample(tmp_path / "head", [image], lesions, np.ones(lesions.shape, bool))
    rng = np.random.default_rng(3)
    counts = {5.0: 0, 9.0: 0}
    for _ in range(150):
        w = window(head, rng)
        for value in counts:
            counts[value] += bool((w.image == value).any())
        assert (w.weight[w.image[0] == 1] == 1).all()
        if (w.image == 5).any() and (w.image == 9).any():
            pytest.fail("a window of 32 voxels holds both")
        if (w.image == 9).any():
            assert set(w.weight[w.image[0] == 9]) == {
                np.float32((512 * 1.125**3 / samples.REFERENCE_MM3) ** -EXPONENT)
            }
    assert counts[5.0] > 2 * counts[9.0] > 0


def test_the_whole_head_lies_in_the_brains_window_with_its_truth(tmp_path):
    brain = SHIPPED.spec.brain.model_copy(update={"factor": 2})
    mask = np.zeros((48, 48, 48), bool)
    mask[:24] = True
    spec = SHIPPED.spec.model_copy(update={"brain": brain})
    second_image = np.zeros(mask.shape)
    head = store_sample(
        tmp_path / "head", [mask * 1.0, second_image], np.zeros(mask.shape, np.uint8), mask, spec
    )
    w = samples.brain_window(head, brain, np.random.default_rng(0), augment=False)
    assert w.image.shape == (1, *brain.window.shape)
    assert w.truth.shape == brain.window.shape
    assert w.truth.sum() == 12 * 24 * 24
    assert w.truth[:12, :24, :24].all()
    for seed in range(10):
        w = samples.brain_window(head, brain, np.random.default_rng(seed), augment=True)
        assert 500 < w.truth.sum() <= 12 * 24 * 24
        assert w.image[0][w.truth == 1].mean() > w.image[0][w.truth == 0].mean() + 0.5


def two_labels() -> tuple[list[np.ndarray], np.ndarray, ModelSpec]:
    """Two inputs. Label 1 is one region in two pieces of 64 and 1 voxels, of label 2 are two objects."""
    truth = np.zeros((96, 40, 40), np.uint8)
    truth[4:8, 4:8, 4:8] = truth[10, 10, 10] = 1
    truth[60:62, 20:22, 20:22] = truth[80:88, 16:24, 16:24] = 2
    label = SHIPPED.spec.labels[0]
    labels = (label.model_copy(update={"whole": True}), label.model_copy(update={"value": 2}))
    spec = SHIPPED.spec.model_copy(update={"inputs": ("T1", "T2"), "labels": labels, "brain": None})
    return [truth * 2.0, truth * -3.0], truth, spec


def test_windows_of_several_inputs_and_labels_hold_the_values_of_the_truth(tmp_path):
    images, truth, spec = two_labels()
    sample = store_sample(tmp_path / "case", images, truth, spec=spec)
    rng = np.random.default_rng(5)
    shown = []
    for _ in range(60):
        w = samples.lesion_window(sample, SIZE, 0.0, rng, augment=False)
        assert w.image.shape == (2, SIZE, SIZE, SIZE)
        assert np.array_equal(w.image, [w.truth * 2.0, w.truth * -3.0])
        shown.append(set(np.unique(w.truth)))
    # Of three objects one is the region; each is sought, and so is what lies where nothing is.
    assert sum(1 in values for values in shown) > 8 < sum(2 in values for values in shown)
    for _ in range(10):
        w = samples.lesion_window(sample, SIZE, 0.0, rng, augment=True)
        inside = w.truth > 0
        assert not inside.any() or (w.image[0][inside] > w.image[1][inside]).mean() > 0.99


def test_a_region_is_one_object_whatever_its_pieces_and_has_no_weight_by_its_size(tmp_path):
    images, truth, spec = two_labels()
    sample = store_sample(tmp_path / "case", images, truth, spec=spec)
    assert sample.values.tolist() == [1, 2, 2]
    rng = np.random.default_rng(6)
    weights = {1: set(), 2: set()}
    for _ in range(60):
        w = samples.lesion_window(sample, SIZE, EXPONENT, rng, augment=False)
        for value in weights:
            weights[value] |= set(w.weight[w.truth == value].tolist())
    small, large = ((n * 1.125**3 / samples.REFERENCE_MM3) ** -EXPONENT for n in (8, 512))
    assert weights[1] == {1.0}
    assert sorted(weights[2]) == pytest.approx([large, small], rel=1e-6)


def test_a_case_as_large_as_a_whole_head_has_its_objects(tmp_path):
    truth = np.zeros((160, 176, 160), np.uint8)
    truth[20:24, 30:34, 40:44] = truth[100:108, 90:98, 80:88] = 1
    whole = store_sample(tmp_path / "whole", [np.zeros(truth.shape)], truth)
    expected = np.array([4**3, 8**3]) * np.prod(SHIPPED.spec.spacing_mm)
    assert whole.volumes_mm3 == pytest.approx(expected)


def test_without_a_brain_everything_is_sought_and_a_case_without_labels_is_learnt_from(tmp_path):
    images, truth, spec = two_labels()
    empty = store_sample(tmp_path / "case", images, np.zeros_like(truth), np.zeros(truth.shape, bool), spec)
    rng = np.random.default_rng(7)
    for _ in range(20):
        w = samples.lesion_window(empty, SIZE, EXPONENT, rng, augment=True)
        assert not w.truth.any()
        assert (w.weight == 1).all()
    unknown = store_sample(tmp_path / "other", images[:1], truth)
    assert unknown.search_mask.all()
    assert unknown.brain is None


COURSE = SHIPPED.courses[-1]


def background_logits() -> torch.Tensor:
    logits = torch.zeros(1, 2, SIZE, SIZE, SIZE)
    logits[:, 0] = 10.0
    return logits


def loss(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
    return train.loss(logits, truth, torch.ones(truth.shape) if weight is None else weight, COURSE)


def test_a_false_positive_costs_in_a_window_without_lesions():
    truth = torch.zeros(1, SIZE, SIZE, SIZE, dtype=torch.uint8)
    wrong = background_logits()
    wrong[:, 1, 3:6, 3:6, 3:6] = 16.0
    wrong.requires_grad_()
    value = loss(wrong, truth)
    value.backward()
    assert float(value.detach()) > float(loss(background_logits(), truth)) + 0.1
    assert float(wrong.grad[0, 1, 4, 4, 4]) > 0


def test_what_is_said_where_nothing_is_sought_costs_nothing():
    truth = torch.zeros(1, SIZE, SIZE, SIZE, dtype=torch.uint8)
    truth[:, :8] = samples.IGNORE_LABEL
    wrong = background_logits()
    wrong[:, 1, 3:6, 3:6, 3:6] = 16.0
    wrong.requires_grad_()
    value = loss(wrong, truth)
    value.backward()
    assert float(value.detach()) == pytest.approx(float(loss(background_logits(), truth)), abs=1e-3)
    assert float(wrong.grad[:, :, :8].abs().max()) == 0.0


def test_a_voxel_that_is_partly_lesion_costs_least_at_its_share():
    truth = torch.full((1, SIZE, SIZE, SIZE), 0.3)
    values = {}
    for probability in (0.05, 0.3, 0.5, 0.95):
        logits = torch.zeros(1, 2, SIZE, SIZE, SIZE)
        logits[:, 1] = float(np.log(probability / (1 - probability)))
        values[probability] = float(
            train.loss(logits, truth, torch.ones(truth.shape), COURSE.model_copy(update={"foreground": 1.0}))
        )
    assert min(values, key=values.get) == 0.3


def test_a_missed_lesion_costs_by_its_weight():
    truth = torch.zeros(1, SIZE, SIZE, SIZE, dtype=torch.uint8)
    truth[:, 3:6, 3:6, 3:6] = 1
    light, heavy = torch.ones(truth.shape), torch.ones(truth.shape)
    heavy[truth == 1] = 3.0
    none = float(loss(background_logits(), torch.zeros_like(truth)))
    assert (
        float(loss(background_logits(), truth, heavy))
        > 2 * float(loss(background_logits(), truth, light)) - none
        > none
    )


TINY = {
    "spec": {
        **config.load_config("tiny").spec.model_dump(mode="json", exclude={"weights", "brain"}),
        "id": "trial",
        "spacing_mm": [6.0, 6.0, 6.0],
        "window": {"shape": [16, 16, 16], "overlap": 0.25},
    },
    "data": [{"generator": "metastases", "training": 3, "validation": 1}],
    "courses": [{"network": "lesion", "steps": 60, "batch": 2, "learning_rate": 0.002, "warm_up": 5}],
    "validate_every": 15,
    "windows": 2,
}


@pytest.fixture
def trial(tmp_path) -> Path:
    path = tmp_path / "trial.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def with_heads(out: Path, trial: Path) -> Path:
    """Prepared cases in place of those that the training would make."""
    described = config.load_config(str(trial))
    spec = described.spec
    training, held_out = preparation.generated(described.data[0], spec)
    for number, case in enumerate([*training, *held_out]):
        lesions = np.zeros((32, 30, 28), np.uint8)
        lesions[10:13, 12:15, 8 + number : 12 + number] = 1
        image = np.random.default_rng(number).normal(lesions * 2.0, 0.5)
        store_sample(preparation.path_of(out / "cases", case, spec), [image], lesions, spec=spec)
    return out


def running(trial: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "unetr", "train", "--config", str(trial), "--out", str(out)]
    return subprocess.Popen(command, cwd=ROOT)


def curve(out: Path) -> list[dict[str, str]]:
    with (out / "lesion.csv").open() as file:
        return [{k: row[k] for k in row if k not in ("seconds", "waiting")} for row in csv.DictReader(file)]


def test_a_training_that_was_killed_ends_where_an_unbroken_one_ends_and_the_service_can_use_it(
    tmp_path, trial
):
    killed, whole = (with_heads(tmp_path / name, trial) for name in ("killed", "whole"))
    process = running(trial, killed)
    deadline = time.monotonic() + 120
    while not (killed / "lesion" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reached = torch.load(killed / "lesion" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < reached < 60
    assert running(trial, killed).wait() == 0
    assert running(trial, whole).wait() == 0

    ends = [torch.load(out / "lesion" / "last.ckpt", weights_only=True) for out in (killed, whole)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 60
    for key, tensor in ends[1]["state_dict"].items():
        assert torch.equal(ends[0]["state_dict"][key], tensor), key
    assert curve(killed)[-1] == curve(whole)[-1]
    assert {row["step"] for row in curve(killed)} == {"15", "30", "45", "60"}
    with (whole / "lesion.csv").open() as file:
        assert all(0.0 <= float(row["waiting"]) < 1.0 for row in csv.DictReader(file))

    exported = export.export(config.load_config(str(trial)), whole, tmp_path / "models")
    reloaded = load_spec(tmp_path / "models" / "trial.json")
    assert reloaded.weights == exported.weights
    noise = np.random.default_rng(0).normal(size=(32, 30, 28))
    volume = hd.Volume(noise, np.diag([-6.0, -6.0, 6.0, 1.0]), "PATIENT")
    assert Predictor.load(reloaded)(volume).mask.spatial_shape == (32, 30, 28)
    golden = np.load(tmp_path / "models" / "trial.golden.npy")
    assert np.abs(golden_logits(reloaded) - golden).max() < 1e-4
    assert exported.weights.sha256 in (tmp_path / "models" / "trial.md").read_text()


def test_a_dynunet_trains_and_what_is_exported_says_the_same(tmp_path, trial):
    arguments = {
        "in_channels": 1, "out_channels": 2, "filters": [4, 8, 8], "kernel_size": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]], "norm_name": "instance", "res_block": True,
        "trans_bias": True,
    }  # fmt: skip
    spec = {**TINY["spec"], "network": {"name": "DynUNet", "arguments": arguments}}
    courses = [{**TINY["courses"][0], "steps": 6, "warm_up": 1}]
    trial.write_text(yaml.safe_dump({**TINY, "spec": spec, "courses": courses, "validate_every": 3}))
    out = with_heads(tmp_path / "run", trial)
    train.main(["--config", str(trial), "--out", str(out), "--processes", "0"])
    assert [row["step"] for row in curve(out)] == ["3", "6"]
    described = config.load_config(str(trial))
    exported = export.export(described, out, tmp_path / "models")
    assert load_spec(tmp_path / "models" / "trial.json").network == described.spec.network

    best = torch.load(out / "lesion" / "best.ckpt", weights_only=True)["state_dict"]
    begun, trained, served = (build(described.spec)["lesion"].eval() for _ in range(3))
    trained.load_state_dict({key.removeprefix("network."): value for key, value in best.items()})
    load_network(served, exported.weights_path, "lesion")
    window = torch.from_numpy(np.random.default_rng(1).normal(size=(1, 1, 16, 16, 16)).astype(np.float32))
    with torch.inference_mode():
        served_logits, trained_logits, initial_logits = (model(window) for model in (served, trained, begun))
    # Half precision of the weights.
    assert served_logits == pytest.approx(trained_logits, abs=0.02)
    assert float((initial_logits - trained_logits).abs().max()) > 0.1


def test_a_finished_training_started_again_says_so_and_changes_nothing(tmp_path, trial, capsys):
    courses = [{**TINY["courses"][0], "steps": 4, "warm_up": 1}]
    trial.write_text(yaml.safe_dump({**TINY, "courses": courses, "validate_every": 2}))
    out = with_heads(tmp_path / "run", trial)
    arguments = ["--config", str(trial), "--out", str(out), "--processes", "0"]
    train.main(arguments)
    assert "finished" not in capsys.readouterr().out
    trained = {path: path.read_bytes() for path in (out / "lesion").rglob("*") if path.is_file()}
    train.main(arguments)
    assert "lesion has finished: 4 of 4 steps" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (out / "lesion").rglob("*") if path.is_file()} == trained
    assert [row["step"] for row in curve(out)] == ["2", "4"]


def test_a_logger_that_is_not_installed_is_refused_in_a_sentence_before_cases_are_made(tmp_path, trial):
    """Weights & Biases is not among the requirements: who wants it installs it."""
    arguments = ["--config", str(trial), "--out", str(tmp_path / "run"), "--logger", "wandb"]
    # None in sys.modules makes Python treat a package as absent, wherever it may be installed.
    code = (
        "import sys; sys.path.insert(0, '.'); sys.modules['wandb'] = None; sys.argv[0] = 'unetr'; "
        "from unetr.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "train", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("bad_request: --logger wandb needs the package wandb")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_without_a_checkpoint_exports_nothing(tmp_path, trial):
    with pytest.raises(WeightsInvalid, match=r"lesion/best\.ckpt\. Train longer"):
        export.export(config.load_config(str(trial)), tmp_path, tmp_path / "models")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"courses": []}, "courses"),
        ({"step": 3}, "step"),
        ({"data": []}, "data"),
        ({"data": [{"generator": "hearts", "training": 1, "validation": 1}]}, "data.0.generator"),
        ({"data": [{"folder": "cases", "layout": "nnunet"}]}, "data.0.folder.validation: Field required"),
        ({"base": "trial.yaml"}, "base: trial.yaml inherits from itself"),
        ({"courses": [{**TINY["courses"][0], "network": "brain"}]}, "spec.brain is missing"),
        ({"spec": {**TINY["spec"], "window": {"shape": [18, 16, 16], "overlap": 0}}}, "not a multiple of 8"),
    ],
)
def test_a_wrong_configuration_is_refused_by_file_and_field(trial, change, message):
    trial.write_text(yaml.safe_dump({**TINY, **change}))
    with pytest.raises(ModelSpecInvalid, match=message) as refused:
        config.load_config(str(trial))
    assert "trial.yaml" in refused.value.message


def test_a_configuration_with_a_base_says_only_what_differs(tmp_path):
    path = tmp_path / "ours.yaml"
    entry = {"folder": "cases", "layout": "dicom", "validation": 0.2, "labels": {2: 0}}
    path.write_text(yaml.safe_dump({"base": "metscope-unet", "spec": {"id": "ours"}, "data": [entry]}))
    ours = config.load_config(str(path))
    assert ours.spec.model_dump(exclude={"id", "weights"}) == SHIPPED.spec.model_dump(
        exclude={"id", "weights"}
    )
    assert (ours.spec.id, ours.spec.weights.file) == ("ours", "ours.safetensors")
    assert ours.data[0].folder == tmp_path / "cases"
    # Its path begins at the file in which it stands.
    assert ours.courses == SHIPPED.courses
    assert all(course.start_from.exists() for course in ours.courses)


def test_a_base_may_have_a_base(tmp_path):
    first = tmp_path / "first.yaml"
    first.write_text(yaml.safe_dump({"base": "whole-tumour-tiny", "spec": {"id": "first", "version": "7"}}))
    second = tmp_path / "second.yaml"
    second.write_text(yaml.safe_dump({"base": "first.yaml", "spec": {"id": "second"}}))
    shipped, inherited = config.load_config("whole-tumour-tiny"), config.load_config(str(second))
    assert (inherited.spec.id, inherited.spec.version) == ("second", "7")
    assert inherited.spec.network == shipped.spec.network
    assert inherited.courses == shipped.courses


def test_another_network_than_the_bases_has_its_own_arguments(tmp_path):
    path = tmp_path / "ours.yaml"
    compact = config.load_config("metscope-compact").spec
    network = compact.network
    written = {"network": network.model_dump(mode="json"), "window": compact.window.model_dump(mode="json")}
    path.write_text(yaml.safe_dump({"base": "metscope-unet", "spec": written}))
    assert config.load_config(str(path)).spec.network == network


def test_an_unknown_configuration_or_step_is_told_in_one_line(tmp_path):
    def run_step(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "unetr", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    status, line = run_step("train", "--config", "none-of-that-name", "--out", str(tmp_path / "run"))
    assert status == 5
    assert line.startswith("model_spec_invalid: ")
    assert "metscope-compact, metscope-unet, published-unetr, spine, spine-tiny, tiny" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "run").exists()
    assert run_step("dance") == (2, f"usage: python -m unetr {{{'|'.join(STEPS)}}} …\n")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "unetr" / "weights").glob("*.json")), ids=lambda path: path.stem
)
def test_a_shipped_model_is_what_its_configuration_describes(path):
    chosen_later = {"weights", "postprocessing", "confidence", "trained"}
    shipped, described = load_spec(path), config.load_config(path.stem).spec
    assert shipped.model_dump(exclude=chosen_later) == described.model_dump(exclude=chosen_later)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "unetr" / "weights").glob("*.golden.npy")), ids=lambda p: p.name
)
def test_a_shipped_network_says_what_it_said_when_it_was_exported(path):
    spec = load_spec(path.with_name(path.name.replace(".golden.npy", ".json")))
    assert np.abs(golden_logits(spec) - np.load(path)).max() < 1e-3


def test_a_models_specification_states_the_range_of_its_training_cases(tmp_path):
    spec = SHIPPED.spec
    found = []
    for number, level in enumerate((1.0, 3.0)):
        brain = np.zeros((24, 24, 24), bool)
        brain[4:20, 4:20, 4:20] = True
        lesion = np.zeros(brain.shape, np.uint8)
        lesion[8 : 10 + 2 * number, 8:12, 8:12] = 1
        image = np.where(brain, level + np.arange(24) / 24.0, -1.0)
        found.append(store_sample(tmp_path / str(number), [image], lesion, brain, spec))
    trained = preparation.trained_range(found, spec.brain.factor)
    # The second lesion has 4 x 4 x 4 voxels.
    assert np.pi / 6 * trained.largest_mm**3 == pytest.approx(64 * np.prod(spec.spacing_mm), rel=0.02)
    low, middle, high = trained.brain_intensities
    assert middle == pytest.approx((1.5, 3.5), abs=0.05)
    assert low[0] < middle[0] < high[0] < low[1] < middle[1] < high[1]
