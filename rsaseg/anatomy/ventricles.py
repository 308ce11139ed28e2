"""The lateral ventricles, from the FLAIR alone: dark, deep, on both sides of the middle."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_opening, label

from rsaseg.anatomy.brain import CoarseFlair, Mask
from rsaseg.preprocessing import depth_mm

_DARK = -0.6  # brain units: half way between brain, 0, and the liquor's -1 to -3
_DEEP_MM = 22.0
_SMALLEST_CM2 = 0.3
_REACH_MM = (8.0, 50.0)  # how far from the middle a patch must, and may, reach
_NEAREST_MM = 30.0
_SIDE_CM2 = 0.5
_SIDE_ML = 2.0
_BELOW_MM = 25.0
_PLAUSIBLE_ML = (5.0, 120.0)
_SQUARE = np.ones((2, 2), dtype=bool)
_ANY_2D, _ANY_3D = np.ones((3, 3)), np.ones((3, 3, 3))


def find_ventricles(coarse: CoarseFlair) -> Mask | None:
    """Return the bodies and upper horns of the lateral ventricles, or None on weak evidence.

    What is dark and deeper than 22 mm in the brain is opened by 4 mm in each axial slice; patches
    that lie in the middle alone (the fissure between the hemispheres, the third ventricle) or far
    to the side are dropped. Of the parts that are left the highest is taken whose smaller half
    has 2 ml, and of it the upper 25 mm: below them the cisterns begin, as dark as the ventricles.

    Parameters
    ----------
    coarse : CoarseFlair
        From `rsaseg.anatomy.brain.see_coarsely`.
    """
    spacing_mm = coarse.grid.spacing_mm
    depth = depth_mm(coarse.brain, spacing_mm, ends=(0, 1))
    candidates = (coarse.units < _DARK) & (depth > _DEEP_MM)
    middle_mm = np.argwhere(depth > 0.5 * depth.max())[:, 0].mean() * spacing_mm[0]
    off_mm = np.arange(depth.shape[0]) * spacing_mm[0] - middle_mm
    cm2 = spacing_mm[0] * spacing_mm[1] / 100
    patches = np.stack(
        [_patches(candidates[:, :, k], off_mm, cm2) for k in range(depth.shape[2])], axis=2
    )
    parts, n_parts = label(patches, structure=_ANY_3D)
    found: list[tuple[int, float, Mask]] = []
    for part in range(1, n_parts + 1):
        upper = _upper(parts == part, off_mm, cm2, spacing_mm[2])
        if upper is not None:
            found.append(upper)
    if not found:
        return None
    enough = max(_SIDE_ML, 0.3 * max(side_ml for _, side_ml, _ in found))
    good = [one for one in found if one[1] >= enough]
    if not good:
        return None
    _, side_ml, ventricles = max(good, key=lambda one: one[:2])
    volume_ml = np.count_nonzero(ventricles) * coarse.grid.voxel_mm3 / 1000
    low_ml, high_ml = _PLAUSIBLE_ML
    if not low_ml <= volume_ml <= high_ml or side_ml < 0.2 * volume_ml:
        return None
    return ventricles


def _patches(dark: Mask, off_mm: NDArray[np.float64], cm2: float) -> Mask:
    """Return the patches of an axial slice that a lateral ventricle could be."""
    patches, n_patches = label(binary_opening(dark, _SQUARE), structure=_ANY_2D)
    kept: Mask = np.zeros_like(dark)
    for patch in range(1, n_patches + 1):
        mask = patches == patch
        reach_mm = np.abs(off_mm[mask.any(axis=1)])
        if (
            np.count_nonzero(mask) * cm2 >= _SMALLEST_CM2
            and _REACH_MM[0] <= reach_mm.max() <= _REACH_MM[1]
            and reach_mm.min() <= _NEAREST_MM
        ):
            kept |= mask
    return kept


def _upper(
    part: Mask, off_mm: NDArray[np.float64], cm2: float, slice_mm: float
) -> tuple[int, float, Mask] | None:
    """Return the highest slice with both sides, the smaller side's ml, and the upper part."""
    sides_cm2 = [part[side].sum(axis=(0, 1)) * cm2 for side in (off_mm < 0, off_mm >= 0)]
    smaller_cm2 = np.minimum(*sides_cm2)
    both = np.flatnonzero(smaller_cm2 > _SIDE_CM2)
    if not both.size:
        return None
    top = int(both[-1])
    below_mm = (top - np.arange(part.shape[2])) * slice_mm
    upper = (below_mm <= _BELOW_MM) & (below_mm >= -_BELOW_MM / 2)
    return top, float(smaller_cm2[upper].sum() * slice_mm / 10), part & upper
