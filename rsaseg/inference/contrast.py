"""A voxel's brightness, measured by its own exam's lesions, as evidence beside the network's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from rsaseg.imaging import Volume

SURE = 0.8
"""Probability over which a voxel is a lesion's for sure."""
LEAST_SURE_ML = 0.1
"""Fewer sure voxels tell nothing: in an exam without lesions they are the false alarms."""
POSSIBLE, HARDLY = 0.1, 0.05
"""Tissue around lesions is near a voxel over the one, and under the other itself."""
AROUND_MM = 6.0
LEAST = 0.01
"""Probabilities up to this stay: nearly the whole head, and no lesion by any contrast."""

Float = NDArray[np.floating[Any]]


def lesion_contrast(probability: Float, flair: Volume) -> NDArray[np.float32] | None:
    """Return where each voxel's FLAIR lies between the tissue around lesions and sure lesions.

    With m the median, f the FLAIR and p the probability:
    c = (f - m(around)) / (m(f where p > `SURE`) - m(around)), cut to 0 to 1. Half of it, the half
    maximum, is where the edge of a blurred object lies.

    Parameters
    ----------
    probability : ndarray
        (X, Y, Z) on the FLAIR's grid.
    flair : Volume
        As it was read.

    Returns
    -------
    ndarray or None
        (X, Y, Z) float32, 0 to 1. None where less than `LEAST_SURE_ML` is sure, or what is sure is
        not brighter than what lies around it.
    """
    sure = probability > SURE
    if np.count_nonzero(sure) * flair.grid.voxel_mm3 < LEAST_SURE_ML * 1000:
        return None
    size_vox = [2 * round(AROUND_MM / step) + 1 for step in flair.grid.spacing_mm]
    around = maximum_filter(probability > POSSIBLE, size_vox) & (probability < HARDLY)
    if not around.any():
        return None
    low, high = np.median(flair.data[around]), np.median(flair.data[sure])
    if not high > low:
        return None
    contrast: NDArray[np.float32] = np.subtract(flair.data, low, dtype=np.float32)
    contrast /= high - low
    return contrast.clip(0, 1, out=contrast)


def weigh_contrast(
    probability: Float, contrast: NDArray[np.float32] | None, weight: float
) -> Float:
    """Return the probability with each voxel's contrast as evidence.

    Its logit rises by weight * (c - 1/2): by half the weight where a voxel is as bright as the
    exam's sure lesions, and it falls by as much where it is as dark as the tissue around them. What
    is at most `LEAST` stays.

    Parameters
    ----------
    probability : ndarray
        0 to 1.
    contrast : ndarray or None
        Of the same shape, see `lesion_contrast`; None changes nothing.
    weight : float
        0 changes nothing.
    """
    if contrast is None or not weight:
        return probability
    likely = probability > LEAST
    p, odds = probability[likely], np.exp(weight * (contrast[likely] - 0.5))
    weighed = probability.copy()
    weighed[likely] = p * odds / (1 - p + p * odds)
    return weighed
