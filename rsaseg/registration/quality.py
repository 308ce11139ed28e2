"""How well an image lies on the FLAIR, and where that stops being good enough.

Both figures look at cubes of 2 mm inside both heads, 4 mm away from the rim of either: T1, T2 and
FLAIR are stripped and cut differently, and their outlines would pull an aligned image away.
Measured on four raw sessions and ten exams on one grid, see `MIN_SHARPNESS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from rsaseg.imaging import Grid, Volume
from rsaseg.registration import simpleitk

Float = NDArray[np.float64]
Image = NDArray[np.float32]

MIN_SHARPNESS = 0.33
"""Least sharpness of a good alignment.

``python tests/benchmarks/registration.py gate``, both thresholds together: sensitivity 98.6 % (all
48 known wrong poses of the raw sessions, 10 to 90 degrees and 20 to 80 mm, and 21 of 22 images of
other patients registered onto a FLAIR are refused; the one let through was skull-stripped, the
FLAIR was not). False alarms 7.1 % (2 of 28: none of 8 registered raw images; 2 of 20 given on one
grid, at a residual of 2.4 and 2.6 mm, which are then polished, not refused). Sharpness of right
ones 0.39 to 0.85, of wrong ones -0.05 to 0.27 and once 0.37.
"""

MAX_RESIDUAL_MM = 2.0
"""Most a good alignment may still be moved, mean over the corners of a cube of 100 mm."""

_SHIFT_VOX = 2  # at 2 mm
_BINS = 32
_CUBE_MM = 50.0


@dataclass(frozen=True)
class Quality:
    """How well an image lies on the FLAIR's grid.

    Attributes
    ----------
    sharpness : float
        Share of the mutual information with the FLAIR that is lost, on average, by shifting the
        image 4 mm to either side along each axis. Near 0 where the pose could be any other.
    residual_mm : float
        How far, on average over a cube of 100 mm, a short descent from here would still move the
        image. Less than the true distance where that is large.
    residual : ndarray
        (4, 4), where to, RAS mm.
    """

    sharpness: float
    residual_mm: float
    residual: Float = field(default_factory=lambda: np.eye(4), compare=False, repr=False)

    @property
    def good(self) -> bool:
        """Whether the alignment is good enough to segment on."""
        return self.sharpness >= MIN_SHARPNESS and self.residual_mm <= MAX_RESIDUAL_MM

    def problem(self) -> str:
        """Return what is wrong, on one line; empty where nothing is."""
        if self.sharpness < MIN_SHARPNESS:
            return (
                f"does not match the FLAIR (sharpness {self.sharpness:.2f}, needs "
                f"{MIN_SHARPNESS}); check that both show the same patient's head"
            )
        if self.residual_mm > MAX_RESIDUAL_MM:
            return (
                f"is not aligned with the FLAIR (off by about {self.residual_mm:.1f} mm, "
                f"allowed {MAX_RESIDUAL_MM}); look at the images, or align them yourself"
            )
        return ""


def judge(image: simpleitk.Side, flair: simpleitk.Side) -> Quality:
    """Judge how well an image lies on the FLAIR as both are, by what is inside both heads.

    The same voxels give the same answer, so an image that passed once is found aligned when its
    file is read again.

    Parameters
    ----------
    image, flair : Side
        On one grid.
    """
    core = simpleitk.core(image, flair, np.eye(4))
    inside = sitk.GetArrayFromImage(core) > 0
    if not inside.any():
        return Quality(0.0, 0.0)
    residual = simpleitk.refine(image, flair, np.eye(4), core)
    moving, fixed = (sitk.GetArrayFromImage(side.middle) for side in (image, flair))
    residual_mm = apart_mm(residual, np.eye(4), flair.volume)
    return Quality(sharpness(moving, fixed, inside), residual_mm, residual)


def sharpness(moving: Image, fixed: Image, inside: NDArray[np.bool_]) -> float:
    """Return the sharpness (see `Quality`) of two images on one grid of 2 mm.

    Parameters
    ----------
    moving, fixed : ndarray
        Images on cubes of 2 mm.
    inside : ndarray
        Where to look in ``fixed``; the moving image goes on beyond its borders as it is there.
    """
    here, shape = _binned(fixed)[inside], fixed.shape
    padded = np.pad(_binned(moving), _SHIFT_VOX, mode="edge")
    values = []
    for step_vox in (np.zeros(3, dtype=int), *np.eye(3, dtype=int), *-np.eye(3, dtype=int)):
        corner = _SHIFT_VOX + _SHIFT_VOX * step_vox
        there = padded[tuple(slice(a, a + n) for a, n in zip(corner, shape, strict=True))]
        values.append(_mutual_information(there[inside], here))
    still, *shifted = values
    return 1 - float(np.mean(shifted)) / still if still > 0 else 0.0


def _binned(image: Image) -> NDArray[np.intp]:
    """Return each voxel's bin, of 32 equal ones between the image's least and greatest value."""
    low, high = image.min(), image.max()
    scale = (_BINS - 1e-3) / (high - low) if high > low else 0.0
    bins: NDArray[np.intp] = ((image - low) * scale).astype(np.intp)
    return bins


def _mutual_information(one: NDArray[np.intp], other: NDArray[np.intp]) -> float:
    """Return the mutual information, in nats, of pairs of bins."""
    joint = np.bincount(one * _BINS + other, minlength=_BINS**2).reshape(_BINS, _BINS) / one.size
    apart = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    filled = joint > 0
    return float(np.sum(joint[filled] * np.log(joint[filled] / apart[filled])))


def apart_mm(one: Float, other: Float, flair: Volume) -> float:
    """Return how far apart two transforms bring a head, on average.

    Taken at the corners of a cube of 100 mm about the middle of the FLAIR's field of view.
    """
    middle = apply_affine(flair.grid.affine, (np.array(flair.grid.shape) - 1) / 2)
    corners = middle + (np.array(list(np.ndindex(2, 2, 2))) * 2 - 1) * _CUBE_MM
    difference = apply_affine(np.linalg.inv(one), corners) - apply_affine(
        np.linalg.inv(other), corners
    )
    return float(np.linalg.norm(difference, axis=1).mean())


def coverage(grid: Grid, flair: Volume, flair_from_moving: Float) -> float:
    """Return the share of the FLAIR's head that lies within an image's field of view.

    Parameters
    ----------
    grid : Grid
        Of the image.
    flair : Volume
        Its voxels over the mean count as head; every fourth is looked at.
    flair_from_moving : ndarray
        (4, 4), RAS mm.
    """
    data = flair.data[::4, ::4, ::4]
    head = 4 * np.argwhere(data >= data.mean())
    vox_from_vox = np.linalg.inv(flair_from_moving @ grid.affine) @ flair.grid.affine
    there = head @ vox_from_vox[:3, :3].T + vox_from_vox[:3, 3]
    inside = (there > -1) & (there < np.array(grid.shape))
    return float(inside.all(axis=1).mean())
