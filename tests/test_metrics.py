"""Agreement of two masks, against hand-counted grids and other people's code."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
    compute_surface_dice,
)
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from rsaseg.errors import GeometryError
from rsaseg.imaging import Grid
from rsaseg.metrics import (
    LesionCounts,
    Overlap,
    boundary_mm,
    count_overlap,
    dice,
    iou,
    match_lesions,
    sample_average,
    surface_agreement,
    voxel_average,
)


def grid_of(shape: tuple[int, ...], spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> Grid:
    return Grid((shape[0], shape[1], shape[2]), np.diag([*spacing_mm, 1.0]))


def blobs(seed: int, shape: tuple[int, int, int] = (24, 20, 16)) -> NDArray[np.bool_]:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5)
    return np.asarray(noise > np.quantile(noise, 0.9))


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


# MONAI 1.6 warns of an argument it passes to itself
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
@pytest.mark.parametrize("seed", range(4))
def test_voxel_and_surface_metrics_equal_monai(seed: int) -> None:
    pred, truth = blobs(seed), blobs(seed + 50)
    spacing_mm, tolerance_mm = (0.9, 1.1, 3.0), 1.2
    ours = surface_agreement(pred, truth, grid_of(pred.shape, spacing_mm), tolerance_mm)
    p, t = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (pred, truth))
    common = {"include_background": True, "spacing": spacing_mm}
    hd95 = compute_hausdorff_distance(p, t, percentile=95, **common)
    assd = compute_average_surface_distance(p, t, symmetric=True, **common)
    surface_dice = compute_surface_dice(p, t, [tolerance_mm], **common)
    assert ours.hd95_mm == pytest.approx(float(hd95), rel=1e-6)  # MONAI's is float32
    assert ours.assd_mm == pytest.approx(float(assd), rel=1e-6)
    assert ours.surface_dice == pytest.approx(float(surface_dice), abs=1e-6)
    assert dice(pred, truth) == pytest.approx(float(compute_dice(p, t)), abs=1e-6)
    assert iou(pred, truth) == pytest.approx(float(compute_iou(p, t)), abs=1e-6)


def test_hand_computed_surface_distances() -> None:
    pred = np.zeros((10, 3, 3), dtype=bool)
    truth = np.zeros_like(pred)
    pred[1, 1, 1] = truth[4, 1, 2] = True  # 3 voxels of 2 mm, 1 of 0.5 mm apart
    far_mm = math.hypot(6, 0.5)
    ours = surface_agreement(pred, truth, grid_of(pred.shape, (2, 1, 0.5)))
    assert (ours.hd95_mm, ours.assd_mm, ours.surface_dice) == pytest.approx((far_mm, far_mm, 0))
    truth[1, 1, 1] = True  # distances now 0 from the prediction; 0 and far from the truth
    ours = surface_agreement(pred, truth, grid_of(pred.shape, (2, 1, 0.5)))
    expected = (0.95 * far_mm, far_mm / 3, 2 / 3)
    assert (ours.hd95_mm, ours.assd_mm, ours.surface_dice) == pytest.approx(expected)


def test_a_distance_of_exactly_the_tolerance_is_within_it() -> None:
    pred = np.zeros((4, 1, 1), dtype=bool)
    truth = np.zeros_like(pred)
    pred[0] = truth[1] = True
    spacing = float(np.float32(1.0000001))
    assert surface_agreement(pred, truth, grid_of(pred.shape, (spacing, 1, 1))).surface_dice == 1


def test_distances_hold_on_a_sheared_grid() -> None:
    affine = np.eye(4)
    affine[0, 2] = 1.0  # the third axis leans: one step along it moves 1 mm right and 1 mm up
    pred = np.zeros((3, 3, 3), dtype=bool)
    truth = np.zeros_like(pred)
    pred[0, 0, 0] = truth[1, 0, 2] = True
    apart = surface_agreement(pred, truth, Grid((3, 3, 3), affine))
    assert apart.assd_mm == pytest.approx(math.sqrt(3**2 + 2**2))


def test_an_empty_mask_is_as_far_as_the_field_of_view_is_wide() -> None:
    empty, full = np.zeros((5, 4, 3), dtype=bool), np.ones((5, 4, 3), dtype=bool)
    grid = grid_of(empty.shape, (1.5, 1, 4))
    both = surface_agreement(empty, empty, grid)
    assert (both.hd95_mm, both.assd_mm, both.surface_dice) == (0, 0, 1)
    diagonal_mm = math.sqrt(6**2 + 3**2 + 8**2)
    for pair in ((empty, full), (full, empty)):
        one = surface_agreement(*pair, grid)
        expected = (diagonal_mm, diagonal_mm, 0)
        assert (one.hd95_mm, one.assd_mm, one.surface_dice) == pytest.approx(expected)


def test_boundary_of_a_cube_is_its_shell_also_at_the_edge_of_the_image() -> None:
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[1:5, 1:5, 1:5] = True
    assert len(boundary_mm(mask, grid_of(mask.shape))) == 4**3 - 2**3
    assert len(boundary_mm(mask[1:5, 1:5, 1:5], grid_of((4, 4, 4)))) == 4**3 - 2**3


small_masks = arrays(bool, (4, 3, 4), elements=st.booleans())


@settings(deadline=None, max_examples=60)
@given(small_masks, small_masks)
def test_surface_distances_equal_all_pairs(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> None:
    spacing_mm = np.array([1.0, 2.0, 0.7])

    def shell(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
        found = []
        for voxel in np.argwhere(mask):
            for axis in range(3):
                for step in (-1, 1):
                    near = voxel.copy()
                    near[axis] += step
                    if (near < 0).any() or (near >= mask.shape).any() or not mask[tuple(near)]:
                        found.append(voxel * spacing_mm)
                        break
                else:
                    continue
                break
        return found

    p, t = shell(pred), shell(truth)
    if not p or not t:
        return
    to_truth = [min(float(np.linalg.norm(a - b)) for b in t) for a in p]
    to_pred = [min(float(np.linalg.norm(a - b)) for b in p) for a in t]
    ours = surface_agreement(pred, truth, grid_of(pred.shape, (1.0, 2.0, 0.7)), 1.5)
    hd95 = max(np.percentile(to_truth, 95), np.percentile(to_pred, 95))
    apart = to_truth + to_pred
    assert ours.hd95_mm == pytest.approx(hd95, abs=1e-9)
    assert ours.assd_mm == pytest.approx(sum(apart) / len(apart), abs=1e-9)
    assert ours.surface_dice == pytest.approx(sum(d <= 1.5 for d in apart) / len(apart), abs=1e-9)


def row(digits: str) -> NDArray[np.int32]:
    """Labels along one line of voxels, as '110022'."""
    return np.array([int(d) for d in digits], dtype=np.int32).reshape(-1, 1, 1)


def test_two_rules_of_matching_by_hand() -> None:
    truth = row("1111022203300")
    pred = row("1000330002222")  # 1 in 1; 3 in 2; 2 takes in all of 3 and more
    right, found = match_lesions(pred, truth)
    assert right.tolist() == [True, True, True]
    assert found.tolist() == [True, True, True]
    right, found = match_lesions(pred, truth, min_overlap=0.4)  # covered: 1/1, 2/4, 1/2
    assert right.tolist() == [True, True, True]
    assert found.tolist() == [False, False, True]  # covered: 1/4, 1/3, 2/2
    right, found = match_lesions(pred, truth, min_overlap=0.5)
    assert right.tolist() == [True, False, False]
    right, found = match_lesions(pred, truth, "one-to-one", 0.24)  # IoU 1/4, 1/4 (3 with 2), 2/4
    assert right.tolist() == found.tolist() == [True, True, True]
    right, found = match_lesions(pred, truth, "one-to-one", 0.25)
    assert right.tolist() == [False, True, False]
    assert found.tolist() == [False, False, True]


def test_one_prediction_over_two_lesions_finds_both_or_the_one_it_fits() -> None:
    truth, pred = row("1101110"), row("1111110")
    truth[3:] *= 2
    assert match_lesions(pred, truth)[1].tolist() == [True, True]
    right, found = match_lesions(pred, truth, "one-to-one")
    assert right.tolist() == [True]
    assert found.tolist() == [False, True]


def test_matching_without_lesions() -> None:
    none, one = row("000"), row("010")
    for rule in ("overlap", "one-to-one"):
        assert [m.tolist() for m in match_lesions(none, none, rule)] == [[], []]
        assert [m.tolist() for m in match_lesions(one, none, rule)] == [[False], []]
        assert [m.tolist() for m in match_lesions(none, one, rule)] == [[], [False]]


labels = arrays(np.int32, (12, 1, 1), elements=st.integers(0, 3))


def in_order(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    inverse = np.unique(np.append(labels.ravel(), 0), return_inverse=True)[1]
    return inverse[:-1].reshape(labels.shape).astype(np.int32)


@settings(deadline=None, max_examples=80)
@given(labels, labels)
def test_one_to_one_matching_is_the_best_of_all(
    pred: NDArray[np.int32], truth: NDArray[np.int32]
) -> None:
    pred, truth = in_order(pred), in_order(truth)
    n_pred, n_truth = int(pred.max()), int(truth.max())

    def pair_iou(p: int, t: int) -> float:
        return iou(pred == p, truth == t) if p <= n_pred and t <= n_truth else 0.0

    n = max(n_pred, n_truth)
    orders = permutations(range(1, n + 1))
    best = max(
        (sum(pair_iou(p + 1, t) for p, t in enumerate(order)) for order in orders), default=0
    )
    right, found = match_lesions(pred, truth, "one-to-one")
    assert right.sum() == found.sum()
    p_matched, t_matched = np.flatnonzero(right) + 1, np.flatnonzero(found) + 1
    sums = [
        sum(pair_iou(int(p), int(t)) for p, t in zip(p_matched, order, strict=True))
        for order in permutations(t_matched)
    ]
    assert max(sums) == pytest.approx(best)


def test_lesion_figures_by_hand() -> None:
    counts = LesionCounts(4, 3, 2, 1) + LesionCounts(1, 0, 3, 2)
    assert counts == LesionCounts(5, 3, 5, 3)
    assert LesionCounts(4, 3, 2, 1).tpr == 0.75
    assert LesionCounts(4, 3, 2, 1).precision == 0.5
    assert LesionCounts(4, 3, 2, 1).f1 == pytest.approx(0.6)
    assert LesionCounts(4, 0, 2, 0).f1 == 0
    assert LesionCounts().f1 == 1
    assert LesionCounts(n_truth=2).f1 == LesionCounts(n_pred=2).f1 == 0
    assert math.isnan(LesionCounts(n_pred=2).tpr)
    assert math.isnan(LesionCounts(n_truth=2).precision)
