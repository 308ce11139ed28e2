"""How well an image lies on the FLAIR, and where that stops being good enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from rsaseg.imaging import Volume
from rsaseg.registration import simpleitk

Float = NDArray[np.float64]

MIN_SHARPNESS = 0.27
MAX_RESIDUAL_MM = 2.0
_SHIFT_MM = 4.0
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
        How far, on average over the head, a descent from here would still move the image.
    """

    sharpness: float
    residual_mm: float

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


def judge(image: Volume, flair: Volume) -> Quality:
    """Judge how well an image lies on the FLAIR as both are.

    The same voxels give the same answer, so an image that passed once is found aligned when its
    file is read again.

    Parameters
    ----------
    image, flair : Volume
        On one grid, or where their headers place them.
    """
    if image.data.min() == image.data.max():  # none of it lies over the FLAIR
        return Quality(0.0, 0.0)
    moving, fixed = simpleitk.prepare(image), simpleitk.prepare(flair)
    residual = simpleitk.refine(moving, fixed, np.eye(4))
    return Quality(sharpness(moving, fixed, np.eye(4)), apart_mm(residual, np.eye(4), flair))


def sharpness(moving: simpleitk.Side, fixed: simpleitk.Side, fixed_from_moving: Float) -> float:
    """Return the sharpness (see `Quality`) of a pose, 0 where the images hardly overlap."""
    poses = [fixed_from_moving]
    for axis in range(3):
        for shift_mm in (-_SHIFT_MM, _SHIFT_MM):
            poses.append(fixed_from_moving.copy())
            poses[-1][axis, 3] += shift_mm
    here, *shifted = simpleitk.mutual_information(moving, fixed, poses)
    return 1 - float(np.mean(shifted) / here) if here > 0 else 0.0


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
