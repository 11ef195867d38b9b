"""Pictures, looked at as pixels: what is round in the patient is round on the paper, and in its place."""

import itertools

import highdicom as hd
import matplotlib.image
import numpy as np
import pytest

from imaging.seg import colour
from imaging.stack import SliceReference
from lesions.measure import components, measure
from reports.overlay import save_overlay, save_planes

SHAPE, SPACING_MM = (30, 120, 96), (4.0, 1.0, 1.25)
RADIUS_MM = 15.0


@pytest.fixture(scope="module")
def scene() -> tuple[hd.Volume, hd.Volume, hd.Volume, list]:
    """A grey head with a ball in it to the left, in front and above, in thick axial slices."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) * SPACING_MM
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    places = np.argwhere(np.ones(SHAPE, bool))
    positions = places @ affine[:3, :3].T + affine[:3, 3]
    inside = (np.linalg.norm(positions - [20.0, -25.0, 20.0], axis=1) <= RADIUS_MM).reshape(SHAPE)
    grey = np.random.default_rng(0).normal(300.0, 30.0, SHAPE)
    image = hd.Volume(np.where(inside, 500.0, grey).astype(np.float32), affine, "PATIENT")
    labels = components(image.with_array(inside.astype(np.uint8)))
    entropy = image.with_array(np.where(inside, 1.0, 0.0).astype(np.float32))
    return image, labels, entropy, measure(labels, [SliceReference(None)] * SHAPE[0])


def pixels(path, rows: slice = slice(None)) -> np.ndarray:
    return (matplotlib.image.imread(path)[rows, :, :3] * 255).round().astype(int)


def outline_boxes(picture: np.ndarray, hexadecimal: str) -> list[tuple[float, float, float, float]]:
    """Left, right, top and bottom of what has the colour in each third of the picture."""
    rgb = np.array([int(hexadecimal[n : n + 2], 16) for n in (1, 3, 5)])
    row, column = np.nonzero(np.abs(picture - rgb).max(axis=2) < 60)
    boxes = []
    gaps = np.flatnonzero(np.diff(np.unique(column)) > 40)
    edges = [-1, *np.unique(column)[gaps], picture.shape[1]]
    for low, high in itertools.pairwise(edges):
        here = (column > low) & (column <= high)
        boxes.append((column[here].min(), column[here].max(), row[here].min(), row[here].max()))
    return boxes


def test_the_title_of_a_single_lesion_is_on_the_picture_as_a_whole(scene, tmp_path):
    image, labels, _, lesions = scene
    assert len(lesions) == 1
    save_overlay(image, labels, lesions, tmp_path / "overlay.png")
    picture = pixels(tmp_path / "overlay.png")
    rgb = np.array([int(colour(1).hex[n : n + 2], 16) for n in (1, 3, 5)])
    rows = np.unique(np.nonzero(np.abs(picture - rgb).max(axis=2) < 60)[0])
    # Letters of 9 points, which at 100 dots an inch are some 10 pixels high, below the edge.
    title = rows[rows < rows[0] + 20]
    assert title[0] > 0
    assert len(title) >= 8


def test_a_ball_in_thick_slices_is_round_in_all_three_planes_and_of_one_size(scene, tmp_path):
    image, labels, entropy, lesions = scene
    save_planes(image, labels, entropy, lesions, tmp_path / "planes.png")
    height = pixels(tmp_path / "planes.png").shape[0]
    # The title has the lesion's colour too.
    upper = pixels(tmp_path / "planes.png", slice(int(0.06 * height), height // 2))
    boxes = outline_boxes(upper, colour(1).hex)
    assert len(boxes) == 3
    widths = [right - left for left, right, _, _ in boxes]
    heights = [bottom - top for _, _, top, bottom in boxes]
    # A slice of 4 mm is an eighth of the ball.
    for width, tall in zip(widths, heights, strict=True):
        assert width == pytest.approx(tall, rel=0.15)
    assert max(widths) == pytest.approx(min(widths), rel=0.1)


def test_the_patient_s_left_is_on_the_right_front_above_and_head_above(scene, tmp_path):
    image, labels, entropy, lesions = scene
    for picture, rows in (("planes.png", 2), ("overlay.png", 1)):
        save_planes(image, labels, entropy, lesions, tmp_path / "planes.png")
        save_overlay(image, labels, lesions, tmp_path / "overlay.png")
        height, *_ = pixels(tmp_path / picture).shape
        upper = pixels(tmp_path / picture, slice(int(0.1 * height), height // rows))
        axial, coronal, sagittal = outline_boxes(upper, colour(1).hex)
        # The ball is left of, in front of and above the middle of each plane.
        for (left, right, _, _), third in ((axial, 0), (coronal, 1)):
            assert (left + right) / 2 > planes_middle(upper, third)
        assert (sagittal[0] + sagittal[1]) / 2 < planes_middle(upper, 2)


def planes_middle(picture: np.ndarray, third: int) -> float:
    """Column of the middle of one of the three grey pictures."""
    grey = (picture.max(axis=2) - picture.min(axis=2) < 12) & (picture.max(axis=2) > 0)
    columns = np.flatnonzero(grey.sum(axis=0) > picture.shape[0] / 4)
    runs = np.split(columns, np.flatnonzero(np.diff(columns) > 3) + 1)
    largest = sorted(sorted(runs, key=len)[-3:], key=lambda run: run[0])
    return float(largest[third].mean())


def test_the_entropy_is_drawn_where_it_is_and_nowhere_else(scene, tmp_path):
    image, labels, entropy, lesions = scene
    save_planes(image, labels, entropy, lesions, tmp_path / "unsure.png")
    save_planes(image, labels, entropy.with_array(entropy.array * 0.0), lesions, tmp_path / "sure.png")
    unsure, sure = pixels(tmp_path / "unsure.png"), pixels(tmp_path / "sure.png")
    row, _ = np.nonzero(np.abs(unsure - sure).max(axis=2) > 8)
    assert row.min() > unsure.shape[0] / 2
    upper = outline_boxes(sure[int(0.06 * len(sure)) : len(sure) // 2], colour(1).hex)
    areas = [np.pi / 4 * (right - left) * (bottom - top) for left, right, top, bottom in upper]
    assert len(row) == pytest.approx(sum(areas), rel=0.1)


def test_without_a_lesion_the_middle_of_the_head_is_shown(scene, tmp_path):
    image, labels, entropy, _ = scene
    nothing = labels.with_array(labels.array * 0)
    save_planes(image, nothing, entropy, [], tmp_path / "planes.png")
    assert pixels(tmp_path / "planes.png").max() == 255


def test_of_thousands_of_lesions_the_first_are_shown(scene, tmp_path):
    image, labels, _, lesions = scene
    save_overlay(image, labels, lesions * 2000, tmp_path / "overlay.png")
    height, width, _ = pixels(tmp_path / "overlay.png").shape
    assert width < height < 20_000


def test_the_warnings_of_a_result_are_written_below_the_pictures(scene, tmp_path):
    image, labels, _, lesions = scene
    warnings = ["Check the outline of $1$ and $2$.", "The images end within the brain. " * 8]
    lines = {}
    for name, written in (("with", warnings), ("without", [])):
        save_overlay(image, labels, lesions, tmp_path / f"{name}.png", written)
        picture = pixels(tmp_path / f"{name}.png")
        black = picture.max(axis=2) < 60
        # Only letters are below the last row that is grey from one picture to the next.
        letters = ~black[np.flatnonzero((~black).mean(axis=1) > 0.5).max() + 1 :]
        rows, columns = letters.any(axis=1), np.flatnonzero(letters.any(axis=0))
        lines[name] = int((np.diff(rows.astype(int)) == 1).sum())
        assert not rows[-1]
        assert 0 < columns.min() < columns.max() < picture.shape[1] - 1
    assert (lines["without"], lines["with"]) == (1, 4)
