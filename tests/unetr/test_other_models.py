"""Models of several inputs and labels: made cases are what they say, and a tiny network learns them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from scipy import ndimage

from imaging import seg
from imaging.sequences import FLAIR, T1, T1_POST_CONTRAST, T2
from imaging.stack import to_stack
from tests import several
from unetr.network import build, golden_logits, load_weights
from unetr.preprocess import prepare, resample_labels
from unetr.spec import ModelSpec, load_spec
from unetr.synthesis import glioma, spine
from unetr.training import config, export, train
from unetr.training.preparation import GENERATORS

# Of cases that no training sees.
SEED = 5_000_000
SERVED_SEED = 5_000_001
LABELS = {"glioma": 3, "whole-tumour": 1, "spine": 3}


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dice_of(spec: ModelSpec, generator: str, merge: bool) -> list[float]:
    """Of each label, over all voxels of three cases, by the model's weights alone."""
    networks = build(spec)
    load_weights(networks, spec.weights_path, spec.weights.sha256)
    network = networks["lesion"].eval()
    common, total = np.zeros(len(spec.labels)), np.zeros(len(spec.labels))
    for seed in range(SEED, SEED + 3):
        case = GENERATORS[generator](seed, min(spec.spacing_mm))
        first, *others = (case.images[name] for name in spec.inputs)
        prepared = prepare(first, spec, others)
        image = torch.from_numpy(prepared.array)[None]
        with torch.inference_mode():
            logits = sliding_window_inference(image, spec.window.shape, 2, network, overlap=0.25)
        predicted = logits[0].argmax(0).numpy()
        true = resample_labels(case.truth, prepared).array
        true = (true > 0).astype(int) if merge else true
        for index, label in enumerate(spec.labels):
            common[index] += ((predicted == label.value) & (true == label.value)).sum()
            total[index] += (predicted == label.value).sum() + (true == label.value).sum()
    return list(2.0 * common / total)


@pytest.mark.parametrize(
    ("name", "generator", "least"),
    [("glioma", "glioma", 0.6), ("whole-tumour", "glioma", 0.6), ("spine", "spine", 0.5)],
)
def test_a_tiny_model_learns_its_labels_and_is_exported(tmp_path, one_thread, capsys, name, generator, least):
    run = tmp_path / "run"
    train.main(["--config", f"{name}-tiny", "--out", str(run), "--processes", "0"])
    assert f"made ({generator}): " in capsys.readouterr().out
    described = config.load_config(f"{name}-tiny")
    exported = export.export(described, run, tmp_path / "models")
    spec = load_spec(tmp_path / "models" / f"{name}-tiny.json")
    assert spec == exported
    assert len(spec.labels) == LABELS[name]
    reached = dice_of(spec, generator, merge=name == "whole-tumour")
    assert min(reached) > least, reached
    header = (run / "lesion.csv").read_text().splitlines()[0]
    named = [f"dice_{label.name}" for label in spec.labels] if len(spec.labels) > 1 else []
    assert header.split(",")[5:] == named
    assert_served(spec, generator, least, tmp_path)
    assert np.abs(golden_logits(spec) - np.load(tmp_path / "models" / f"{name}-tiny.golden.npy")).max() == 0.0


def assert_served(spec: ModelSpec, generator: str, least: float, folder: Path) -> None:
    """A study in the archive becomes a SEG whose segments are the model's labels, where they are."""
    case = GENERATORS[generator](SERVED_SEED, min(spec.spacing_mm))
    series = several.study_of({name: case.images[name] for name in spec.inputs})
    site = several.SeveralSite(folder / "data", folder / "models")
    document = site.document(site.segment(site.store(series), spec.id))
    encoded = site.retrieve(document)
    assert encoded.SeriesDescription.startswith(f"{spec.subject}, AI segmentation")
    labels, segments = seg.read(encoded, to_stack(series[spec.inputs[0]]))
    by_code = {label.type.value: label for label in spec.labels}
    masks = {label.value: np.zeros(labels.array.shape, bool) for label in spec.labels}
    for segment in segments:
        label = by_code[segment.type.value]
        assert segment.name.startswith(label.name)
        masks[label.value] |= labels.array == segment.number
    # The stack may run the other way: both as the truth has them.
    turned = {
        value: labels.with_array(mask.astype(np.uint8)).match_geometry(case.truth).array > 0
        for value, mask in masks.items()
    }
    truth = case.truth.array if len(masks) > 1 else case.truth.array > 0
    assert dice(np.any(list(turned.values()), axis=0), truth > 0) > least
    for value, mask in turned.items():
        # A label that is another's, or lies elsewhere, has next to nothing.
        assert dice(mask, truth == value) > 0.3


def dice(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(2.0 * (predicted & true).sum() / (predicted.sum() + true.sum()))


@pytest.mark.parametrize(
    ("name", "inputs", "weights"),
    [
        ("glioma", (FLAIR, T1, T1_POST_CONTRAST, T2), None),
        ("whole-tumour", (FLAIR, T1, T2), None),
        # As large as the network that MONAI's tutorials train on one organ.
        ("spine", (T2,), 4.8e6),
    ],
)
def test_the_full_configurations_are_sound(name, inputs, weights):
    described, tiny = config.load_config(name), config.load_config(f"{name}-tiny")
    assert described.spec.inputs == tiny.spec.inputs == inputs
    assert described.spec.labels == tiny.spec.labels
    network = build(described.spec)["lesion"]
    count = sum(parameter.numel() for parameter in network.parameters())
    assert weights is None or count == pytest.approx(weights, rel=0.01)


@pytest.fixture(scope="module")
def tumour():
    return next(case for seed in range(10) if (case := glioma.case(seed, 3.0)).truth.array.any())


def test_a_glioma_is_a_core_in_a_rim_in_an_oedema(tumour):
    truth = tumour.truth.array
    assert set(np.unique(truth)) == {0, glioma.NECROSIS, glioma.OEDEMA, glioma.ENHANCING}
    around = ndimage.binary_dilation(truth == glioma.NECROSIS) & (truth != glioma.NECROSIS)
    assert (truth[around] == glioma.ENHANCING).mean() > 0.95
    core = np.isin(truth, (glioma.NECROSIS, glioma.ENHANCING))
    beside = ndimage.binary_dilation(core) & ~core
    assert (truth[beside] == glioma.OEDEMA).mean() > 0.5


def test_the_four_sequences_show_a_glioma_as_sequences_do(tumour):
    assert set(tumour.images) == {FLAIR, T1, T1_POST_CONTRAST, T2}
    assert all(image.geometry_equal(tumour.truth) for image in tumour.images.values())
    truth = tumour.truth.array
    tissue = (truth == 0) & (tumour.images[T1].array > 0.3 * tumour.images[T1].array.max())

    def ratio(sequence: str, region: int) -> float:
        """Of the region to what is bright in T1, most of it white matter."""
        image = tumour.images[sequence].array
        return float(np.median(image[truth == region]) / np.median(image[tissue]))

    assert ratio(T1_POST_CONTRAST, glioma.ENHANCING) > 1.3
    assert ratio(T1, glioma.ENHANCING) < 1.0
    assert ratio(FLAIR, glioma.OEDEMA) > 1.3
    assert ratio(T2, glioma.OEDEMA) > 1.3
    assert ratio(T1, glioma.OEDEMA) < 1.0
    assert ratio(T2, glioma.NECROSIS) > 1.3
    assert ratio(FLAIR, glioma.NECROSIS) < 1.0


def test_a_seed_makes_one_case_and_some_have_no_tumour():
    for make in (glioma.case, spine.case):
        once, repeat, other_case = make(3, 6.0), make(3, 6.0), make(4, 6.0)
        for name, image in once.images.items():
            assert np.array_equal(image.array, repeat.images[name].array)
            assert not np.array_equal(image.array, other_case.images[name].array)
    without = sum(not glioma.case(seed, 12.0).truth.array.any() for seed in range(16, 40))
    # One in ten, within three standard deviations.
    assert 0 < without <= 7


def test_the_spine_has_vertebrae_with_discs_between_and_the_canal_behind():
    truth = spine.case(1, 2.0).truth

    def middle(mask: np.ndarray) -> np.ndarray:
        return truth.map_indices_to_reference(np.argwhere(mask).astype(float)).mean(0)

    # In LPS the second coordinate grows to the back, the third to the head.
    assert middle(truth.array == spine.CANAL)[1] > middle(truth.array == spine.DISC)[1] + 15.0
    heights = {}
    for value in (spine.VERTEBRA, spine.DISC):
        numbers, count = ndimage.label(truth.array == value)
        sizes = np.bincount(numbers.ravel())
        whole = [n for n in range(1, count + 1) if sizes[n] > 0.3 * sizes[1:].max()]
        heights[value] = sorted(middle(numbers == n)[2] for n in whole)
    # 168 mm hold four to six of them, 29 to 39 mm apart.
    assert 3 <= len(heights[spine.DISC]) <= 6
    assert np.diff(heights[spine.DISC]) == pytest.approx(np.diff(heights[spine.DISC]).mean(), rel=0.1)
    assert 28.0 < np.diff(heights[spine.DISC]).mean() < 40.0
    for low, high in zip(heights[spine.DISC], heights[spine.DISC][1:], strict=False):
        assert sum(low < height < high for height in heights[spine.VERTEBRA]) == 1
