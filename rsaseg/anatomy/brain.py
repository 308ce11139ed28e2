"""The region of the brain, with the skull on or stripped, from the FLAIR alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from rsaseg.anatomy.surface import Float, fill_surface, fit_surface, unit_sphere
from rsaseg.imaging import Grid, Volume, resample
from rsaseg.preprocessing import (
    brain_units,
    coarse_grid,
    deep_part,
    depth_mm,
    fill_slices,
    head_mask,
)

Mask = NDArray[np.bool_]

_FAT = 2.4  # brain units; brighter than brain and lesions are after smoothing
_INNER = 0.55  # of the greatest depth: nothing there but brain and ventricles
_STRIPPED = 0.93  # of the head lies in the surface: there is no skull around it
_PLAUSIBLE_ML = (600.0, 3500.0)
_LARGEST_MM = 600.0  # beyond a thin slab it goes on, but a surface so large grows without end


@dataclass(frozen=True, eq=False)
class CoarseFlair:
    """A FLAIR as the search for anatomy sees it.

    Attributes
    ----------
    units : ndarray
        (R, A, S), see `rsaseg.preprocessing.brain_units`.
    brain : ndarray
        (R, A, S) bool.
    grid : Grid
        See `rsaseg.preprocessing.coarse_grid`.
    """

    units: NDArray[np.float32]
    brain: Mask
    grid: Grid


def brain_region(exam: Mapping[str, Volume]) -> Mask | None:
    """Return the region inside the skull, on the FLAIR's grid, or None where none can be told.

    Generous: it is there to say what lies outside the brain. With the skull on it reaches into
    the skull by some mm, and below the skull's base into the face; scalp, eyes and nearly all of
    the neck lie outside. See ``tests/benchmarks/location.py`` for figures.

    Parameters
    ----------
    exam : mapping
        Sequence name to volume, all on the grid of ``exam["FLAIR"]``, which alone is looked at.
    """
    flair = exam["FLAIR"]
    coarse = see_coarsely(flair)
    return None if coarse is None else to_grid(coarse.brain, coarse.grid, flair.grid)


def to_grid(mask: Mask, grid: Grid, fixed: Grid) -> Mask:
    """Return a mask on another grid: where at least half of it lies."""
    inside: Mask = resample(mask.astype(np.float32), grid, fixed) >= 0.5
    return inside


def see_coarsely(flair: Volume) -> CoarseFlair | None:
    """Resample a FLAIR and find the brain in it; None where what is found cannot be a brain."""
    grid = coarse_grid(flair.grid)
    data = resample(flair.data, flair.grid, grid)
    head = head_mask(data, grid.spacing_mm)
    if np.count_nonzero(head) * grid.voxel_mm3 / 1000 < _PLAUSIBLE_ML[0]:
        return None
    depth = depth_mm(fill_slices(head), grid.spacing_mm)
    units = brain_units(data, deep_part(depth))
    brain = _enclose(units, head, depth, grid.spacing_mm)
    low_ml, high_ml = _PLAUSIBLE_ML
    if not low_ml < np.count_nonzero(brain) * grid.voxel_mm3 / 1000 < high_ml:
        return None
    return CoarseFlair(units, brain, grid)


def _enclose(
    units: NDArray[np.float32],
    head: Mask,
    depth: NDArray[np.float32],
    spacing_mm: tuple[float, float, float],
) -> Mask:
    """Return the brain: a surface blown up from the deep part to the skull; empty if that fails."""
    inner = depth > _INNER * depth.max()
    fat = gaussian_filter(units, (0.7, 0.7, 0)) > _FAT
    image = np.where(fat, 0.0, np.clip(units / 3 + 1, 0, 1))
    image[inner] = 1.0  # ventricles are no border
    start_mm = _star(deep_part(depth), spacing_mm)
    surface_mm = fit_surface(image, spacing_mm, start_mm)
    if np.ptp(surface_mm, axis=0).max() > _LARGEST_MM:
        return np.zeros_like(head)
    brain = fill_surface(surface_mm, head.shape, spacing_mm)
    if np.count_nonzero(brain & head) > _STRIPPED * np.count_nonzero(head):
        brain |= depth > 0  # the head, its holes filled
    return brain


def _star(deep: Mask, spacing_mm: tuple[float, ...]) -> Float:
    """Return a surface somewhat inside ``deep``, seen from its middle."""
    directions, _ = unit_sphere(3)
    middle_mm = (np.argwhere(deep) * spacing_mm).mean(axis=0)
    radii_mm = np.arange(4.0, 72.0, 2.0)
    rays = (middle_mm + directions[:, None] * radii_mm[:, None]) / spacing_mm
    inside = map_coordinates(deep.astype(np.float32), rays.reshape(-1, 3).T, order=1)
    left = inside.reshape(len(directions), -1) < 0.5
    reach_mm = np.where(left.any(axis=1), radii_mm[left.argmax(axis=1)], radii_mm[-1])
    star: Float = middle_mm + 0.8 * directions * reach_mm[:, None]
    return star
