"""What a lesion is, in one place: connected over faces, edges and corners, and not too small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from rsaseg.errors import GeometryError
from rsaseg.imaging import Grid

_NEIGHBOURS_26 = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class Cut:
    """What makes a lesion of a probability.

    Attributes
    ----------
    threshold : float
        A lesion's voxels are over this.
    peak : float
        One of them at least is over this.
    min_lesion_mm3 : float
        Together they are at least so large.
    """

    threshold: float
    peak: float = 0.0
    min_lesion_mm3: float = 0.0


def bounding_box(mask: NDArray[Any]) -> tuple[slice, slice, slice] | None:
    """Return the smallest box of voxels that holds all of ``mask``, or None if it is empty."""
    lesion = np.asarray(mask, dtype=bool)
    spans = []
    for other_axes in ((1, 2), (0, 2), (0, 1)):
        filled = np.flatnonzero(lesion.any(axis=other_axes))
        if not filled.size:
            return None
        spans.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return spans[0], spans[1], spans[2]


def large_enough(size_vox: NDArray[Any], grid: Grid, min_lesion_mm3: float) -> NDArray[np.bool_]:
    """Return for each component of ``size_vox`` voxels whether it is a lesion by its volume."""
    # an affine stored as float32 must not tip a lesion of exactly the minimum over the edge
    enough: NDArray[np.bool_] = size_vox * grid.voxel_mm3 >= min_lesion_mm3 * (1 - 1e-5)
    return enough


def find_lesions(
    mask: NDArray[Any],
    grid: Grid,
    min_lesion_mm3: float = 0.0,
    core: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int32], int]:
    """Give each lesion of a mask a number, the largest first.

    A lesion is a set of voxels connected over faces, edges and corners (26-connectivity) whose
    volume is at least ``min_lesion_mm3``. Lesions of one size are numbered in array order, so the
    same mask always gets the same numbers.

    Parameters
    ----------
    mask : ndarray
        (X, Y, Z) on ``grid``; every non-zero voxel is lesion.
    grid : Grid
        Gives the volume of a voxel.
    min_lesion_mm3 : float
        Smaller components are no lesions; 0 keeps all.
    core : ndarray, optional
        bool, shape of ``mask``; a component without a voxel of it is no lesion.

    Returns
    -------
    labels : ndarray
        int32, shape of ``mask``; 0 is background, 1 the largest lesion.
    n_lesions : int
        Highest label.

    Raises
    ------
    GeometryError
        If ``mask`` does not have the grid's shape.
    """
    if mask.shape != grid.shape:
        raise GeometryError(
            f"mask of shape {mask.shape} on a grid of {grid.shape}; pass its own grid"
        )
    labels = np.zeros(mask.shape, dtype=np.int32)
    lesion = np.asarray(mask) != 0
    box = bounding_box(lesion)
    if box is None:
        return labels, 0
    inside = np.ascontiguousarray(lesion[box])
    components, n_components = label(inside, structure=_NEIGHBOURS_26)
    size_vox = np.bincount(components[inside], minlength=n_components + 1)
    kept = large_enough(size_vox, grid, min_lesion_mm3)
    if core is not None:
        kept &= np.bincount(components[core[box]], minlength=n_components + 1) > 0
    kept[0] = False
    by_size = np.argsort(-size_vox, kind="stable")
    by_size = by_size[kept[by_size]]
    new_label = np.zeros(n_components + 1, dtype=np.int32)
    new_label[by_size] = np.arange(1, by_size.size + 1)
    labels[box] = new_label[components]
    return labels, int(by_size.size)


def cut_lesions(
    probability: NDArray[np.floating[Any]], grid: Grid, cut: Cut
) -> tuple[NDArray[np.int32], int]:
    """Cut the lesions out of a probability; see `find_lesions` for what is returned.

    Parameters
    ----------
    probability : ndarray
        (X, Y, Z) on ``grid``, 0 to 1.
    grid : Grid
        Gives the volume of a voxel.
    cut : Cut
        A peak under the threshold asks for nothing.
    """
    core = probability > cut.peak if cut.peak > cut.threshold else None
    return find_lesions(probability > cut.threshold, grid, cut.min_lesion_mm3, core)
