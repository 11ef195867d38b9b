"""Lesions are found again in a mask that was edited, by the voxels that they share."""

import highdicom as hd
import numpy as np
import pytest

from lesions.matching import match_by_overlap

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def mask(*boxes):
    """10 x 20 x 20 voxels; each box (number, slices, rows, columns), a later one over an earlier."""
    array = np.zeros((10, 20, 20), np.int32)
    for number, slices, rows, columns in boxes:
        array[slice(*slices), slice(*rows), slice(*columns)] = number
    return hd.Volume(array, AFFINE, "PATIENT")


LARGE, SMALL = (1, (2, 6), (2, 8), (2, 8)), (2, (2, 5), (12, 15), (12, 15))


def counts_and_partners(before, after):
    """For each lesion found: its voxels and which of the earlier ones it is."""
    labels, same = match_by_overlap(before, after)
    counts = np.bincount(labels.array.ravel())[1:].tolist()
    return [(count, same.get(number)) for number, count in enumerate(counts, start=1)]


def test_an_unchanged_mask_is_the_same_lesions():
    before = mask(LARGE, SMALL)
    labels, same = match_by_overlap(before, before)
    assert same == {1: 1, 2: 2}
    np.testing.assert_array_equal(labels.array, before.array)


def test_enlarged_shrunk_erased_and_drawn():
    after = mask((7, (2, 8), (11, 17), (11, 17)), (3, (2, 4), (3, 5), (3, 5)), (9, (0, 1), (0, 2), (18, 20)))
    assert counts_and_partners(mask(LARGE, SMALL), after) == [(6 * 36, 2), (8, 1), (4, None)]
    assert counts_and_partners(mask(LARGE, SMALL), mask(SMALL)) == [(27, 2)]
    assert counts_and_partners(mask(LARGE), mask()) == []


def test_one_that_was_cut_in_two_is_still_one_where_one_segment_shows_it():
    pieces = (1, (2, 6), (2, 4), (2, 8)), (1, (2, 6), (6, 8), (2, 8))
    assert counts_and_partners(mask(LARGE), mask(*pieces)) == [(96, 1)]


def test_two_segments_that_claim_one_lesion_are_two_and_the_larger_share_keeps_its_name():
    pieces = (5, (2, 6), (2, 4), (2, 8)), (4, (2, 6), (4, 8), (2, 8))
    assert counts_and_partners(mask(LARGE), mask(*pieces)) == [(96, 1), (48, None)]


def test_what_is_drawn_in_the_segment_of_another_lesion_is_a_new_one():
    assert counts_and_partners(mask(LARGE), mask(LARGE, (1, (0, 2), (16, 18), (16, 18)))) == [
        (144, 1),
        (8, None),
    ]


def test_two_that_were_joined_are_the_one_that_gave_more():
    joined = (1, (2, 6), (2, 16), (2, 16))
    assert counts_and_partners(mask(LARGE, SMALL), mask(joined)) == [(4 * 14 * 14, 1)]


def test_masks_on_different_grids_are_refused():
    coarse_mask = hd.Volume(np.zeros((10, 20, 20), np.int32), np.diag([1.0, 2.0, 2.0, 1.0]), "PATIENT")
    with pytest.raises(ValueError, match="different grids"):
        match_by_overlap(mask(LARGE), coarse_mask)
