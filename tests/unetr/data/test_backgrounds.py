"""Real heads of a folder as backgrounds: each is used in turn, and the lesions lie in its own brain."""

import numpy as np
import pytest

from errors import DataRefused
from tests import labelled
from unetr.data.backgrounds import backgrounds, metastases_in
from unetr.synthesis import metastases
from unetr.synthesis.anatomy import HeadOptions


def describe(folder):
    labelled.describe(folder, {
        "channel_names": {"0": "T1"}, "labels": {"background": 0, "brain": 1}, "numTraining": 2,
        "file_ending": ".nii.gz",
    })  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two drawn heads stand for real ones; the second has half as many slices."""
    folder = tmp_path_factory.mktemp("heads")
    options = HeadOptions(lesion_count=(0, 0), pose=False)
    for name, slices in (("a", 56), ("b", 28)):
        grid = metastases.grid((slices, 72, 60), (168.0 / slices, 2.8, 2.8))
        head = metastases.head(grid, 3, options)
        for volume, path in ((head.image, f"imagesTr/{name}_0000"), (head.brain, f"labelsTr/{name}")):
            labelled.save(volume.array, volume.affine, folder / f"{path}.nii.gz")
    describe(folder)
    return folder


def test_heads_are_used_in_turn_and_the_lesions_lie_in_their_brains(folder):
    heads = backgrounds(folder)
    drawn = [metastases_in(heads, seed) for seed in (5, 8)]
    for head in drawn:
        inside = head.labels.array > 0
        assert inside.sum() * head.labels.voxel_volume > 100
        assert (head.brain.array[inside] > 0).all()
    # Seed 5 takes the second head, whose slices have 6 mm before the head is scaled by up to 14 %.
    assert max(drawn[0].image.spacing) > 0.88 * 6.0
    assert np.array_equal(metastases_in(heads, 5).labels.array, drawn[0].labels.array)


def test_a_folder_without_a_usable_head_is_refused(folder, tmp_path):
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    describe(tmp_path)
    with pytest.raises(DataRefused, match="contains no heads"):
        backgrounds(tmp_path)
    head = metastases.head(metastases.grid((20, 20, 20), (9.0, 9.0, 9.0)), 3, HeadOptions())
    labelled.save(head.image.array, head.image.affine, tmp_path / "imagesTr" / "lone_0000.nii.gz")
    with pytest.raises(DataRefused, match="lone"):
        backgrounds(tmp_path)
