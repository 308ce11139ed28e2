"""How well two lesion masks agree: arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsaseg.errors import GeometryError


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
