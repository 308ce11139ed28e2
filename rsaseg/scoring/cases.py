"""The scores of one exam: which figures there are, their rules, and how they are computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from rsaseg.errors import InputError
from rsaseg.imaging import Grid, crop_grid
from rsaseg.lesions import bounding_box, find_lesions, large_enough
from rsaseg.metrics import (
    LesionCounts,
    Matching,
    Overlap,
    count_overlap,
    match_lesions,
    surface_agreement,
)

Mask = NDArray[np.bool_]

SIZE_CLASSES_MM3 = {"small": (0.0, 50.0), "medium": (50.0, 500.0), "large": (500.0, math.inf)}
SIZES_IN_WORDS = {
    size: f"from {low_mm3:g} mm3 on"
    if math.isinf(high_mm3)
    else f"from {low_mm3:g} to below {high_mm3:g} mm3"
    for size, (low_mm3, high_mm3) in SIZE_CLASSES_MM3.items()
}

CASE_METRICS = {
    "dice": "Dice of the voxels: 2 |P and T| / (|P| + |T|); 1 if both masks are empty",
    "iou": "Intersection over union of the voxels; 1 if both masks are empty",
    "lesion_tpr": "True lesions found / true lesions; undefined without true lesions",
    "lesion_precision": "Predicted lesions right / predicted; undefined without predicted lesions",
    "lesion_f1": "Harmonic mean of lesion_tpr and lesion_precision; 1 without lesions on either "
    "side, 0 without lesions on one side",
    "hd95_mm": "95th percentile Hausdorff distance of the boundaries in mm; 0 if both masks are "
    "empty, the diagonal of the field of view if one is",
    "assd_mm": "Average symmetric surface distance in mm; empty masks as for hd95_mm",
    "surface_dice": "Share of boundary voxels within the tolerance of the other boundary; 1 if "
    "both masks are empty, 0 if one is",
    "truth_ml": "True lesion volume in ml",
    "pred_ml": "Predicted lesion volume in ml",
    "volume_difference_ml": "Predicted minus true lesion volume in ml",
    "absolute_volume_difference_ml": "The same without its sign",
}


@dataclass(frozen=True)
class Rules:
    """How masks are compared.

    Attributes
    ----------
    min_lesion_mm3 : float
        Smaller components count neither as lesions nor as errors, on both sides, but may be the
        partner of a lesion of the other side. Voxel and surface metrics take masks as they are.
        Default: that of the MSSEG challenge, doi:10.1038/s41598-018-31911-7.
    matching, min_overlap
        When a lesion is matched; see `rsaseg.metrics.match_lesions`.
    tolerance_mm : float
        Of the surface Dice.

    Raises
    ------
    InputError
        If a rule makes no sense.
    """

    min_lesion_mm3: float = 3.0
    matching: Matching = "overlap"
    min_overlap: float = 0.0
    tolerance_mm: float = 1.0

    def __post_init__(self) -> None:
        if self.matching not in get_args(Matching):
            known = " or ".join(get_args(Matching))
            raise InputError(f"matching {self.matching}: unknown rule; choose {known}")
        if not 0 <= self.min_overlap < 1:
            raise InputError(f"minimum overlap {self.min_overlap}: give 0 or more, and less than 1")
        for what, value in (("volume", self.min_lesion_mm3), ("tolerance", self.tolerance_mm)):
            if not 0 <= value < math.inf:
                raise InputError(f"{what} {value}: give a number that is not negative")

    def in_words(self) -> str:
        """Return when a lesion counts, and when it is matched."""
        least = f"{100 * self.min_overlap:g} %"
        if self.matching == "overlap":
            covered = f"more than {least} of it" if self.min_overlap else "any of it"
            matched = f"matched where the other mask's lesions cover {covered}"
        else:
            over = f" and counts from over {least} IoU" if self.min_overlap else ""
            matched = f"paired with one of the other mask, by the greatest sum of IoU{over}"
        counted = f"A lesion is 26-connected and counts from {self.min_lesion_mm3:g} mm3"
        return f"{counted}; it is {matched}."


@dataclass(frozen=True)
class CaseScore:
    """One exam's scores.

    Attributes
    ----------
    case, patient : str
        Names; several exams may be of one patient.
    missing : bool
        There is no prediction: every score is the worst one possible, and the volume 0.
    overlap : Overlap
        Voxel counts.
    lesions : tuple of LesionCounts
        One for each of ``SIZE_CLASSES_MM3``.
    scores : mapping
        Value of each of ``CASE_METRICS``; NaN where undefined.
    """

    case: str
    patient: str
    missing: bool
    overlap: Overlap
    lesions: tuple[LesionCounts, ...]
    scores: Mapping[str, float]


def _count_lesions(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_], grid: Grid, rules: Rules
) -> tuple[LesionCounts, ...]:
    """Count lesions and matches in each size class."""
    labels = [find_lesions(mask, grid)[0] for mask in (pred, truth)]
    matched = match_lesions(labels[0], labels[1], rules.matching, rules.min_overlap)
    sizes_vox = [np.bincount(lab[lab > 0], minlength=1)[1:] for lab in labels]
    classes = []
    for low_mm3, high_mm3 in SIZE_CLASSES_MM3.values():
        counted = [
            large_enough(vox, grid, max(low_mm3, rules.min_lesion_mm3))
            & ~large_enough(vox, grid, high_mm3)
            for vox in sizes_vox
        ]
        (n_pred, n_right), (n_truth, n_found) = (
            (int(c.sum()), int((c & m).sum())) for c, m in zip(counted, matched, strict=True)
        )
        classes.append(LesionCounts(n_truth, n_found, n_pred, n_right))
    return tuple(classes)


def score_masks(
    pred: NDArray[np.bool_], truth: NDArray[np.bool_], grid: Grid, rules: Rules
) -> tuple[Overlap, tuple[LesionCounts, ...], dict[str, float]]:
    """Compare two masks on one grid.

    Parameters
    ----------
    pred, truth : ndarray
        (X, Y, Z) bool, on ``grid``.
    grid : Grid
        Of both.
    rules : Rules
        The rules.

    Returns
    -------
    overlap : Overlap
        Voxel counts.
    lesions : tuple of LesionCounts
        For each size class.
    scores : dict
        ``CASE_METRICS`` to value.
    """
    surfaces = surface_agreement(pred, truth, grid, rules.tolerance_mm)
    overlap = count_overlap(pred, truth)
    box = bounding_box(pred | truth)
    if box is not None:
        start, stop = (np.array([getattr(s, end) for s in box]) for end in ("start", "stop"))
        pred, truth, grid = pred[box], truth[box], crop_grid(grid, start, stop)
    lesions = _count_lesions(pred, truth, grid, rules)
    counts = sum(lesions, start=LesionCounts())
    voxel_ml = grid.voxel_mm3 / 1000
    pred_ml = (overlap.both_vox + overlap.only_pred_vox) * voxel_ml
    truth_ml = (overlap.both_vox + overlap.only_truth_vox) * voxel_ml
    scores = {
        "dice": overlap.dice,
        "iou": overlap.iou,
        "lesion_tpr": counts.tpr,
        "lesion_precision": counts.precision,
        "lesion_f1": counts.f1,
        **asdict(surfaces),
        "truth_ml": truth_ml,
        "pred_ml": pred_ml,
        "volume_difference_ml": pred_ml - truth_ml,
        "absolute_volume_difference_ml": abs(pred_ml - truth_ml),
    }
    return overlap, lesions, scores


def worst_scores(truth: NDArray[np.bool_], grid: Grid, rules: Rules) -> dict[str, float]:
    """Return the scores of an exam without a prediction.

    Rates of 0, the diagonal of the field of view as distance, and a volume of 0: a missing
    prediction never scores well, and is left out of no average, not even where the truth is empty.
    """
    nothing = np.zeros_like(truth)
    scores = score_masks(nothing, truth, grid, rules)[2]
    far = surface_agreement(nothing, np.ones_like(truth), grid)
    rates = ("dice", "iou", "lesion_tpr", "lesion_precision", "lesion_f1")
    return scores | dict.fromkeys(rates, 0.0) | asdict(far)
