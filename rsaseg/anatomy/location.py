"""Where a lesion lies: its distances to ventricles and brain surface, and the rule's answer.

The rule, in this order:

- ``unknown``: the ventricles were not found, or the lesion's middle lies below the lowest axial
  slice they were found on. Temporal horns, fourth ventricle and tentorium cannot be told there,
  so no lesion is ever called infratentorial.
- ``periventricular``: within 3 mm of the lateral ventricles.
- ``juxtacortical``: within 6 mm of the brain's outer surface.
- ``deep white``: over 8 mm from the ventricles and over 15 mm from the surface.
- ``unknown`` otherwise.

The outer surface does not follow the sulci: cortex deep in one may lie beside a lesion that is
called deep white.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.spatial import KDTree

from rsaseg.anatomy.brain import Mask, see_coarsely, to_grid
from rsaseg.anatomy.ventricles import find_ventricles
from rsaseg.imaging import Grid, Volume
from rsaseg.metrics import boundary_mm

LOCATIONS = {
    "periventricular": "within 3 mm of the lateral ventricles",
    "juxtacortical": "within 6 mm of the brain's outer surface",
    "deep white": "over 8 mm from the ventricles and over 15 mm from the surface",
    "unknown": "none of these is sure, no ventricles were found, or it lies below the part of them "
    "that can be found (so no lesion is called infratentorial)",
}
"""What a lesion's location can be, and when it is."""

PERIVENTRICULAR_MM = 3.0
JUXTACORTICAL_MM = 6.0
DEEP_MM = (8.0, 15.0)  # from ventricles and surface: more than the errors of both distances


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What was found of a head, on its FLAIR's grid.

    Attributes
    ----------
    grid : Grid
        The FLAIR's.
    brain : ndarray or None
        (X, Y, Z) bool, see `rsaseg.anatomy.brain_region`; None where it could not be told.
    ventricles : ndarray or None
        (X, Y, Z) bool, see `rsaseg.anatomy.ventricles.find_ventricles`; None on weak evidence.
    floor : ndarray or None
        (4,): ``floor @ (r, a, s, 1)`` of a point in RAS mm is under 0 below the lowest axial slice
        that the ventricles were found on.
    """

    grid: Grid
    brain: Mask | None = None
    ventricles: Mask | None = None
    floor: NDArray[np.float64] | None = None

    @cached_property
    def surface(self) -> KDTree | None:
        """Points on the brain's outer surface, RAS mm."""
        return None if self.brain is None else KDTree(boundary_mm(self.brain, self.grid))

    @cached_property
    def ventricle_border(self) -> KDTree | None:
        """Points on the border of the ventricles, RAS mm."""
        found = self.ventricles
        return None if found is None else KDTree(boundary_mm(found, self.grid))


@dataclass(frozen=True)
class Place:
    """Where a lesion lies.

    Attributes
    ----------
    ventricle_mm, surface_mm : float
        From the lesion's nearest voxel to the nearest of the ventricles and of the brain's outer
        surface, between their centres; NaN where unknown.
    location : str
        One of ``LOCATIONS``.
    """

    ventricle_mm: float = math.nan
    surface_mm: float = math.nan
    location: str = "unknown"


def find_anatomy(flair: Volume) -> Anatomy:
    """Find brain and ventricles, as far as the FLAIR shows them."""
    coarse = see_coarsely(flair)
    if coarse is None:
        return Anatomy(flair.grid)
    brain = to_grid(coarse.brain, coarse.grid, flair.grid)
    found = find_ventricles(coarse)
    ventricles = None if found is None else to_grid(found, coarse.grid, flair.grid)
    if found is None or ventricles is None or not ventricles.any():
        return Anatomy(flair.grid, brain)
    floor = np.linalg.inv(coarse.grid.affine)[2]
    floor[3] -= np.flatnonzero(found.any(axis=(0, 1)))[0] - 0.5
    return Anatomy(flair.grid, brain, ventricles, floor)


def locate(anatomy: Anatomy, voxels: NDArray[np.integer[Any]]) -> Place:
    """Say where a lesion lies.

    Parameters
    ----------
    anatomy : Anatomy
        Of the exam it is in.
    voxels : ndarray
        (n, 3) array indices of the lesion on the FLAIR's grid.
    """
    points_mm = apply_affine(anatomy.grid.affine, voxels)
    surface_mm = _nearest_mm(anatomy.surface, points_mm)
    ventricle_mm = math.nan
    if anatomy.floor is None or anatomy.floor @ np.append(points_mm.mean(axis=0), 1.0) >= 0:
        ventricle_mm = _nearest_mm(anatomy.ventricle_border, points_mm)
    return Place(ventricle_mm, surface_mm, name_location(ventricle_mm, surface_mm))


def _nearest_mm(border: KDTree | None, points_mm: NDArray[np.floating[Any]]) -> float:
    return math.nan if border is None else float(np.min(border.query(points_mm)[0]))


def name_location(ventricle_mm: float, surface_mm: float) -> str:
    """Return which of ``LOCATIONS`` two distances mean; NaN is unknown."""
    if math.isnan(ventricle_mm):
        return "unknown"
    if ventricle_mm <= PERIVENTRICULAR_MM:
        return "periventricular"
    if surface_mm <= JUXTACORTICAL_MM:
        return "juxtacortical"
    deep = ventricle_mm > DEEP_MM[0] and surface_mm > DEEP_MM[1]
    return "deep white" if deep else "unknown"
