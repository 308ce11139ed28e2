"""Agreement of two masks, against hand-counted grids and other people's code."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rsaseg.errors import GeometryError
from rsaseg.metrics import Overlap, count_overlap, dice, iou, sample_average, voxel_average


def test_hand_counted_overlap() -> None:
    pred = np.zeros((4, 1, 1), dtype=np.uint8)
    truth = np.zeros((4, 1, 1), dtype=np.uint8)
    pred[:3] = 1
    truth[2:] = 1
    assert count_overlap(pred, truth) == Overlap(1, 2, 1)
    assert dice(pred, truth) == pytest.approx(2 / 5)
    assert iou(pred, truth) == pytest.approx(1 / 4)


def test_empty_masks_agree_and_one_empty_mask_does_not() -> None:
    empty, full = np.zeros((2, 2, 2)), np.ones((2, 2, 2))
    assert dice(empty, empty) == iou(empty, empty) == 1.0
    assert dice(empty, full) == iou(empty, full) == 0.0
    assert dice(full, empty) == iou(full, empty) == 0.0
    assert voxel_average([]) == (1.0, 1.0)
    assert all(math.isnan(v) for v in sample_average([]))


def test_sample_average_counts_exams_and_voxel_average_counts_voxels() -> None:
    small, large = Overlap(0, 1, 1), Overlap(90, 5, 5)
    assert sample_average([small, large]) == pytest.approx(
        ((0 + 180 / 190) / 2, (0 + 90 / 100) / 2)
    )
    assert voxel_average([small, large]) == pytest.approx((180 / 192, 90 / 102))
    rng = np.random.default_rng(0)
    pairs = [rng.random((2, 5, 6, 7)) > 0.7 for _ in range(3)]
    pooled = np.concatenate(pairs, axis=1)
    overlaps = [count_overlap(p, t) for p, t in pairs]
    assert voxel_average(overlaps) == (dice(*pooled), iou(*pooled))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(GeometryError, match="one grid"):
        dice(np.zeros((1, 2, 3)), np.zeros((3, 2, 1)))
