"""How well two lesion masks agree: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from rsaseg.errors import GeometryError
from rsaseg.imaging import Grid
from rsaseg.lesions import bounding_box

Matching = Literal["overlap", "one-to-one"]


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a predicted and a true mask; add two to pool them.

    Attributes
    ----------
    both_vox, only_pred_vox, only_truth_vox : int
        Voxels in both masks (true positives), in the prediction alone (false positives) and in
        the truth alone (false negatives).
    """

    both_vox: int
    only_pred_vox: int
    only_truth_vox: int

    def __add__(self, other: Overlap) -> Overlap:
        return Overlap(
            self.both_vox + other.both_vox,
            self.only_pred_vox + other.only_pred_vox,
            self.only_truth_vox + other.only_truth_vox,
        )

    @property
    def dice(self) -> float:
        """2 |P and T| / (|P| + |T|); 1 where both are empty, for they agree."""
        total = 2 * self.both_vox + self.only_pred_vox + self.only_truth_vox
        return 2 * self.both_vox / total if total else 1.0

    @property
    def iou(self) -> float:
        """Intersection over union, |P and T| / |P or T|; 1 where both are empty."""
        union = self.both_vox + self.only_pred_vox + self.only_truth_vox
        return self.both_vox / union if union else 1.0


def count_overlap(pred: NDArray[Any], truth: NDArray[Any]) -> Overlap:
    """Count the voxels two masks share and do not share.

    Parameters
    ----------
    pred, truth : ndarray
        Of one shape and one grid; every non-zero voxel is lesion.

    Raises
    ------
    GeometryError
        If the shapes differ.
    """
    if pred.shape != truth.shape:
        raise GeometryError(f"masks of shapes {pred.shape} and {truth.shape}; compare on one grid")
    in_pred, in_truth = np.asarray(pred) != 0, np.asarray(truth) != 0
    both = int(np.count_nonzero(in_pred & in_truth))
    return Overlap(both, int(in_pred.sum()) - both, int(in_truth.sum()) - both)


def dice(pred: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the Dice similarity coefficient of two masks; see `Overlap.dice`."""
    return count_overlap(pred, truth).dice


def iou(pred: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the intersection over union of two masks; see `Overlap.iou`."""
    return count_overlap(pred, truth).iou


def sample_average(overlaps: Iterable[Overlap]) -> tuple[float, float]:
    """Return the mean Dice and the mean IoU over samples (exams), each counting once.

    The paper's "sample average", section 3.2 (doi:10.1007/978-3-030-32248-9_46). NaN for none.
    """
    scores = [(overlap.dice, overlap.iou) for overlap in overlaps]
    if not scores:
        return float("nan"), float("nan")
    mean_dice, mean_iou = np.mean(scores, axis=0)
    return float(mean_dice), float(mean_iou)


def voxel_average(overlaps: Iterable[Overlap]) -> tuple[float, float]:
    """Return Dice and IoU of the voxels of all samples pooled into one.

    The paper's "voxel average", section 3.2 (doi:10.1007/978-3-030-32248-9_46): large lesion
    loads weigh more, and a nearly empty exam cannot swing the figure.
    """
    pooled = sum(overlaps, start=Overlap(0, 0, 0))
    return pooled.dice, pooled.iou


@dataclass(frozen=True)
class LesionCounts:
    """How many lesions were there and how many were matched; add two to pool them.

    Attributes
    ----------
    n_truth, n_found : int
        True lesions, and those of them that a predicted lesion matches.
    n_pred, n_right : int
        Predicted lesions, and those of them that a true lesion matches.
    """

    n_truth: int = 0
    n_found: int = 0
    n_pred: int = 0
    n_right: int = 0

    def __add__(self, other: LesionCounts) -> LesionCounts:
        return LesionCounts(
            self.n_truth + other.n_truth,
            self.n_found + other.n_found,
            self.n_pred + other.n_pred,
            self.n_right + other.n_right,
        )

    @property
    def tpr(self) -> float:
        """True-positive rate: found / true lesions; NaN (undefined) where there are none."""
        return self.n_found / self.n_truth if self.n_truth else float("nan")

    @property
    def precision(self) -> float:
        """Right / predicted lesions; NaN (undefined) where none was predicted."""
        return self.n_right / self.n_pred if self.n_pred else float("nan")

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; 1 with no lesion on either side, 0 with none on one side."""
        if not self.n_truth or not self.n_pred:
            return float(self.n_truth == self.n_pred)
        total = self.tpr + self.precision
        return 2 * self.tpr * self.precision / total if total else 0.0


def match_lesions(
    pred_labels: NDArray[np.integer[Any]],
    truth_labels: NDArray[np.integer[Any]],
    matching: Matching = "overlap",
    min_overlap: float = 0.0,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say which predicted lesions are right and which true lesions are found.

    Parameters
    ----------
    pred_labels, truth_labels : ndarray
        (X, Y, Z) on one grid, lesions numbered from 1 without gaps, as `rsaseg.lesions` does.
    matching : {"overlap", "one-to-one"}
        "overlap": a lesion is matched if the other side covers more than ``min_overlap`` of its
        volume; two lesions may share a partner. "one-to-one": lesions are paired so that the sum
        of the pairs' IoU is greatest, and a pair counts if its IoU is more than ``min_overlap``.
    min_overlap : float
        From 0 (one shared voxel is enough) to below 1.

    Returns
    -------
    right : ndarray
        (n_pred,) bool, for predicted lesions 1, 2, ...
    found : ndarray
        (n_truth,) bool, for true lesions 1, 2, ...
    """
    size_pred = np.bincount(pred_labels[pred_labels > 0], minlength=1)
    size_truth = np.bincount(truth_labels[truth_labels > 0], minlength=1)
    shared = (pred_labels > 0) & (truth_labels > 0)
    p, t = pred_labels[shared], truth_labels[shared]
    if matching == "overlap":
        right = np.bincount(p, minlength=size_pred.size)[1:] > min_overlap * size_pred[1:]
        found = np.bincount(t, minlength=size_truth.size)[1:] > min_overlap * size_truth[1:]
        return right, found
    pairs, shared_vox = np.unique(np.stack([p, t]), axis=1, return_counts=True)
    pair_iou = shared_vox / (size_pred[pairs[0]] + size_truth[pairs[1]] - shared_vox)
    pred_row, row = np.unique(pairs[0], return_inverse=True)
    truth_column, column = np.unique(pairs[1], return_inverse=True)
    table = np.zeros((pred_row.size, truth_column.size))
    table[row, column] = np.where(pair_iou > min_overlap, pair_iou, 0.0)
    rows, columns = linear_sum_assignment(table, maximize=True)
    paired = table[rows, columns] > 0
    right = np.isin(np.arange(1, size_pred.size), pred_row[rows[paired]])
    found = np.isin(np.arange(1, size_truth.size), truth_column[columns[paired]])
    return right, found


@dataclass(frozen=True)
class SurfaceAgreement:
    """How far apart the boundaries of two masks lie.

    Attributes
    ----------
    hd95_mm : float
        Hausdorff distance, 95th percentile: the greater of the two directed ones.
    assd_mm : float
        Average symmetric surface distance: the mean over the boundary voxels of both masks.
    surface_dice : float
        Share of all boundary voxels that lie within the tolerance of the other boundary.
    """

    hd95_mm: float
    assd_mm: float
    surface_dice: float


def boundary_mm(mask: NDArray[np.bool_], grid: Grid) -> NDArray[np.floating[Any]]:
    """Return where the boundary of a mask runs.

    Parameters
    ----------
    mask : ndarray
        (X, Y, Z) bool, on ``grid``.
    grid : Grid
        Of ``mask``.

    Returns
    -------
    ndarray
        (n, 3), RAS mm of the centres of the voxels that have a face on a voxel outside the mask
        or on the edge of the image.
    """
    box = bounding_box(mask)
    if box is None:
        return np.zeros((0, 3))
    lesion = mask[box]
    padded = np.pad(lesion, 1)
    inside = lesion.copy()
    for axis in range(3):
        for start in (0, 2):
            neighbour = [slice(1, -1)] * 3
            neighbour[axis] = slice(start, start + lesion.shape[axis])
            inside &= padded[tuple(neighbour)]
    voxels = np.argwhere(lesion & ~inside) + [span.start for span in box]
    points_mm: NDArray[np.floating[Any]] = apply_affine(grid.affine, voxels)
    return points_mm


def surface_agreement(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_], grid: Grid, tolerance_mm: float = 1.0
) -> SurfaceAgreement:
    """Compare the boundaries of two masks.

    Distances run between centres of boundary voxels, in mm of world space, so they hold on
    anisotropic and sheared grids. Two empty masks agree: distances of 0, a surface Dice of 1. If
    one is empty the distances are the diagonal of the field of view, the worst that could be, and
    the surface Dice is 0: a miss is never left out of an average.

    Parameters
    ----------
    pred, truth : ndarray
        (X, Y, Z) bool, on ``grid``.
    grid : Grid
        Of both.
    tolerance_mm : float
        Boundaries this close count as one in the surface Dice (doi:10.2196/26151).
    """
    pred_mm, truth_mm = boundary_mm(pred, grid), boundary_mm(truth, grid)
    if not len(pred_mm) or not len(truth_mm):
        if len(pred_mm) == len(truth_mm):
            return SurfaceAgreement(0.0, 0.0, 1.0)
        corners_mm = grid.corners_mm()
        far_mm = float(np.linalg.norm(corners_mm[:, None] - corners_mm, axis=2).max())
        return SurfaceAgreement(far_mm, far_mm, 0.0)
    pred_to_truth_mm = KDTree(truth_mm).query(pred_mm)[0]
    truth_to_pred_mm = KDTree(pred_mm).query(truth_mm)[0]
    apart_mm = np.concatenate([pred_to_truth_mm, truth_to_pred_mm])
    return SurfaceAgreement(
        float(max(np.percentile(pred_to_truth_mm, 95), np.percentile(truth_to_pred_mm, 95))),
        float(apart_mm.mean()),
        # a spacing stored as float32 must not tip a distance of exactly the tolerance
        float((apart_mm <= tolerance_mm + 1e-4).mean()),
    )
