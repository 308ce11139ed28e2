"""What was found in an exam: from a probability to lesions and their volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray
from scipy.special import entr

from rsaseg.anatomy import Anatomy
from rsaseg.imaging import Grid, Volume
from rsaseg.inference.contrast import lesion_contrast, weigh_contrast
from rsaseg.lesions import Cut, cut_lesions
from rsaseg.registration import Alignment
from rsaseg.report.lesion_table import Lesion, describe_lesions
from rsaseg.segmentation.settings import Settings

if TYPE_CHECKING:
    from rsaseg.networks.weights import WeightsInfo

THRESHOLD_RANGE = 0.15
"""How far a sensible threshold may lie from the chosen one, to either side."""
LEFT_OUT_ML = 0.5
"""Called outside the brain, from which on the user is warned; none in 15 scans of known kinds."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found in an exam, on the FLAIR's grid.

    Attributes
    ----------
    mask : ndarray
        (X, Y, Z) uint8, 0 or 1.
    probability : ndarray
        (X, Y, Z) float32, 0 to 1.
    labels : ndarray
        (X, Y, Z) int32: 0, or the number of the lesion.
    lesions : tuple of Lesion
        What stands in the lesion table, by label.
    volume_ml : float
        Of all lesions.
    volume_interval_ml : tuple of float
        What ``volume_ml`` would be with the highest and the lowest sensible threshold, see
        `threshold_range`.
    grid : Grid
        The FLAIR's.
    header : Nifti1Header
        Its geometry as the file stores it.
    record : dict
        Settings, versions, hashes and seconds, for the file beside the mask.
    warnings : tuple of str
        What the user should know.
    uncertainty : ndarray or None
        (X, Y, Z) float32, 0 to 1: see `entropy`; None unless ``Settings.uncertainty`` is on.
    images : dict
        Sequence name to volume, all on the FLAIR's grid: what was segmented.
    alignments : dict
        Sequence name to how it came onto that grid, for all but the FLAIR.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]
    labels: NDArray[np.int32]
    lesions: tuple[Lesion, ...]
    volume_ml: float
    volume_interval_ml: tuple[float, float]
    grid: Grid
    header: Nifti1Header
    record: dict[str, Any] = field(repr=False)
    warnings: tuple[str, ...] = ()
    uncertainty: NDArray[np.float32] | None = None
    images: Mapping[str, Volume] = field(default_factory=dict, repr=False)
    alignments: Mapping[str, Alignment] = field(default_factory=dict, repr=False)

    @property
    def lesion_count(self) -> int:
        """How many lesions there are: the highest label."""
        return len(self.lesions)


def find(
    exam: dict[str, Volume],
    probability: NDArray[np.float32],
    anatomy: Anatomy,
    info: WeightsInfo,
    settings: Settings,
) -> Segmentation:
    """Cut the lesions out of the probability and measure them.

    Before that each voxel's contrast is weighed, see `rsaseg.inference.contrast`.

    What lies outside the brain is left out: no lesion is there, and what a network calls there, in
    a scan unlike those that it learned from, may be more than what it calls inside.
    """
    flair = exam["FLAIR"]
    cut = settings.cut(info.cut)
    inside = anatomy.inside_brain(flair.grid)
    left_out_ml = (
        np.count_nonzero(probability[~inside] > cut.threshold) * flair.grid.voxel_mm3 / 1000
    )
    probability = probability * inside
    if info.contrast_weight:
        contrast = lesion_contrast(probability, flair)
        probability = weigh_contrast(probability, contrast, info.contrast_weight)
    labels, _ = cut_lesions(probability, flair.grid, cut)
    lesions = tuple(describe_lesions(labels, flair.grid, probability, anatomy))
    mask = (labels > 0).astype(np.uint8)
    volume_ml = float(mask.sum() * flair.grid.voxel_mm3 / 1000)
    lowest, highest = threshold_range(cut.threshold)
    interval_ml = (
        volume_at(probability, flair.grid, replace(cut, threshold=highest)),
        volume_at(probability, flair.grid, replace(cut, threshold=lowest)),
    )
    record = {
        "lesion_count": len(lesions),
        "lesion_volume_ml": round(volume_ml, 4),
        "lesion_volume_interval_ml": [round(ml, 4) for ml in interval_ml],
        "lesions_to_review": sum(lesion.review for lesion in lesions),
        "called_outside_brain_ml": round(left_out_ml, 4),
        "threshold": cut.threshold,
        "interval_thresholds": [round(highest, 4), round(lowest, 4)],
        "min_lesion_mm3": cut.min_lesion_mm3,
        "lesion_peak": cut.peak,
        "contrast_weight": info.contrast_weight,
        "uncertainty": "entropy" if settings.uncertainty else None,
        "grid": {
            "shape": flair.grid.shape,
            "spacing_mm": [round(s, 6) for s in flair.grid.spacing_mm],
            "affine": flair.grid.affine.tolist(),
        },
    }
    return Segmentation(
        mask=mask,
        probability=probability,
        labels=labels,
        lesions=lesions,
        volume_ml=volume_ml,
        volume_interval_ml=interval_ml,
        grid=flair.grid,
        header=flair.header,
        record=record,
        warnings=warn_of_outside(left_out_ml),
        uncertainty=entropy(probability) if settings.uncertainty else None,
        images=exam,
    )


def entropy(probability: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how unsure each voxel is: the entropy of lesion or not, in bits.

    H(p) = -p log2 p - (1 - p) log2 (1 - p): 1 at p = 1/2, 0 at 0 and 1. It finds wrong voxels
    better than what the networks, or an exam and its mirror image, disagree by (model card).
    """
    p = probability.astype(np.float64)
    bits: NDArray[np.float32] = ((entr(p) + entr(1 - p)) / np.log(2)).astype(np.float32)
    return bits


def warn_of_outside(called_ml: float) -> tuple[str, ...]:
    """Return what the user should know if so much was called outside the brain."""
    if called_ml < LEFT_OUT_ML:
        return ()
    return (
        f"{called_ml:.1f} ml outside the brain were called lesion and are left out: this exam may "
        f"be unlike those that the weights learned from; look at its mask with care",
    )


def threshold_range(threshold: float) -> tuple[float, float]:
    """Return the lowest and the highest sensible threshold about the chosen one.

    They lie `THRESHOLD_RANGE` to either side, or half way to 0 or 1 where that is nearer.
    """
    lowest = max(threshold - THRESHOLD_RANGE, threshold / 2)
    return lowest, min(threshold + THRESHOLD_RANGE, (1 + threshold) / 2)


def volume_at(probability: NDArray[np.float32], grid: Grid, cut: Cut) -> float:
    """Return the volume, in ml, of the lesions that a cut gives."""
    labels, _ = cut_lesions(probability, grid, cut)
    return float(np.count_nonzero(labels) * grid.voxel_mm3 / 1000)
