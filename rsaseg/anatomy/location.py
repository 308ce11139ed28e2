"""Where a lesion lies: its distances to ventricles and brain surface, and the rule's answer.

The rule, in this order:

- ``infratentorial``: the lesion's middle lies over 57 mm below the top of the lateral ventricles,
  10 to 40 mm behind their middle, and within 16 mm of it to either side. That is pons, medulla and
  the cerebellum's middle; the rest of it cannot be told from the temporal and occipital lobes.
- ``unknown``: the ventricles were not found, or the lesion's middle lies below the lowest axial
  slice they were found on, where temporal horns and fourth ventricle cannot be told.
- ``periventricular``: within 3 mm of the lateral ventricles.
- ``juxtacortical``: within 6 mm of the brain's outer surface.
- ``deep white``: over 8 mm from the ventricles and over 10 mm from the surface, and from the first
  and last axial slice where these cut the brain: the surface may lie just beyond.
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
from scipy.ndimage import binary_erosion, map_coordinates

from rsaseg.anatomy.brain import Mask, see_coarsely, to_grid
from rsaseg.anatomy.surface import Float
from rsaseg.anatomy.ventricles import find_ventricles
from rsaseg.imaging import Grid, Volume
from rsaseg.imaging.distance import distance_mm

Distance = NDArray[np.float32]

LOCATIONS = {
    "periventricular": "within 3 mm of the lateral ventricles",
    "juxtacortical": "within 6 mm of the brain's outer surface",
    "infratentorial": "over 57 mm below the top of the lateral ventricles, 10 to 40 mm behind "
    "their middle and within 16 mm of it sideways: pons, medulla, middle of the cerebellum",
    "deep white": "over 8 mm from the ventricles, and over 10 mm from the surface and from a first "
    "or last slice that cuts the brain",
    "unknown": "none of these is sure, no ventricles were found, or it lies below the part of them "
    "that can be found",
}
"""What a lesion's location can be, and when it is."""

PERIVENTRICULAR_MM = 3.0
JUXTACORTICAL_MM = 6.0
DEEP_MM = (8.0, 10.0)  # from ventricles and surface: more than the errors of both distances
BELOW_TOP_MM = 57.0  # the tentorium's notch lies about 45 mm below the ventricles' top
BEHIND_MIDDLE_MM = (10.0, 40.0)
BESIDE_MIDDLE_MM = 16.0


@dataclass(frozen=True, eq=False)
class Anatomy:
    """What was found of a head.

    Attributes
    ----------
    grid : Grid
        Of the masks; coarser than the FLAIR's, see `rsaseg.anatomy.brain.CoarseFlair`.
    brain : ndarray or None
        (R, A, S) bool, see `rsaseg.anatomy.brain_region`; None where it could not be told.
    ventricles : ndarray or None
        (R, A, S) bool, see `rsaseg.anatomy.ventricles.find_ventricles`; None on weak evidence.
    floor : ndarray or None
        (4,): ``floor @ (r, a, s, 1)`` of a point in RAS mm is under 0 below the lowest axial slice
        that the ventricles were found on.
    """

    grid: Grid
    brain: Mask | None = None
    ventricles: Mask | None = None
    floor: NDArray[np.float64] | None = None

    def inside_brain(self, grid: Grid) -> Mask:
        """Return which voxels of a grid lie in the brain; all where it could not be told."""
        if self.brain is None:
            return np.ones(grid.shape, bool)
        return to_grid(self.brain, self.grid, grid)

    @cached_property
    def surface_mm(self) -> Distance | None:
        """Distance of every voxel to the brain's outermost voxels; see ``cut_mm``."""
        if self.brain is None:
            return None
        going_on = np.pad(self.brain, ((0, 0), (0, 0), (1, 1)), mode="edge")
        inner = binary_erosion(going_on)[..., 1:-1]
        return distance_mm(self.brain & ~inner, self.grid.spacing_mm)

    @cached_property
    def cut_mm(self) -> Distance | None:
        """Distance to the brain on the first and last axial slice, which are no surface of it."""
        if self.brain is None or not self.brain[..., [0, -1]].any():
            return None
        cut = np.zeros_like(self.brain)
        cut[..., [0, -1]] = self.brain[..., [0, -1]]
        return distance_mm(cut, self.grid.spacing_mm)

    @cached_property
    def ventricle_mm(self) -> Distance | None:
        """Distance of every voxel to the ventricles, 0 in them."""
        if self.ventricles is None:
            return None
        return distance_mm(self.ventricles, self.grid.spacing_mm)

    @cached_property
    def landmark_mm(self) -> Float | None:
        """The ventricles' middle (to the right, to the front) and top, (3,), along the grid."""
        if self.ventricles is None:
            return None
        inside_mm = np.argwhere(self.ventricles) * self.grid.spacing_mm
        return np.append(inside_mm[:, :2].mean(axis=0), inside_mm[:, 2].max())


@dataclass(frozen=True)
class Place:
    """Where a lesion lies.

    Attributes
    ----------
    ventricle_mm, surface_mm : float
        From the lesion's nearest voxel to the nearest of the ventricles and of the brain's outer
        surface, between their centres; NaN where unknown, as the surface is where the image ends
        nearer.
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
    found = find_ventricles(coarse)
    if found is None or not found.any():
        return Anatomy(coarse.grid, coarse.brain)
    floor = np.linalg.inv(coarse.grid.affine)[2]
    floor[3] -= np.flatnonzero(found.any(axis=(0, 1)))[0] - 0.5
    return Anatomy(coarse.grid, coarse.brain, found, floor)


def locate(anatomy: Anatomy, points_mm: NDArray[np.floating[Any]]) -> Place:
    """Say where a lesion lies.

    Parameters
    ----------
    anatomy : Anatomy
        Of the exam it is in.
    points_mm : ndarray
        (n, 3) centres of the lesion's voxels, RAS mm.
    """
    voxels = apply_affine(np.linalg.inv(anatomy.grid.affine), points_mm)
    surface_mm, cut_mm = (_nearest_mm(mm, voxels) for mm in (anatomy.surface_mm, anatomy.cut_mm))
    ventricle_mm = math.nan
    if anatomy.floor is None or anatomy.floor @ np.append(points_mm.mean(axis=0), 1.0) >= 0:
        ventricle_mm = _nearest_mm(anatomy.ventricle_mm, voxels)
    location = name_location(ventricle_mm, surface_mm, cut_mm)
    if anatomy.landmark_mm is not None:
        middle_mm = voxels.mean(axis=0) * anatomy.grid.spacing_mm
        location = "infratentorial" if _is_low(middle_mm - anatomy.landmark_mm) else location
    return Place(ventricle_mm, math.nan if cut_mm < surface_mm else surface_mm, location)


def _nearest_mm(away_mm: Distance | None, voxels: NDArray[np.floating[Any]]) -> float:
    if away_mm is None:
        return math.nan
    return float(map_coordinates(away_mm, voxels.T, order=1, mode="nearest").min())


def _is_low(from_landmark_mm: NDArray[np.floating[Any]]) -> bool:
    """Return whether a point (right, front, up of `Anatomy.landmark_mm`) is infratentorial."""
    right_mm, front_mm, up_mm = from_landmark_mm
    near, far = BEHIND_MIDDLE_MM
    low = up_mm < -BELOW_TOP_MM and near <= -front_mm <= far
    return bool(low and abs(right_mm) <= BESIDE_MIDDLE_MM)


def name_location(ventricle_mm: float, surface_mm: float, cut_mm: float = math.nan) -> str:
    """Return which of the other ``LOCATIONS`` distances mean; NaN is unknown, or no cut at all."""
    if math.isnan(ventricle_mm):
        return "unknown"
    if ventricle_mm <= PERIVENTRICULAR_MM:
        return "periventricular"
    if surface_mm <= JUXTACORTICAL_MM:
        return "juxtacortical"
    deep = ventricle_mm > DEEP_MM[0] and surface_mm > DEEP_MM[1] and not cut_mm <= DEEP_MM[1]
    return "deep white" if deep else "unknown"
