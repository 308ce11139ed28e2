"""How well a moving image lies on the FLAIR, and where that stops being good enough."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from rsaseg.imaging import Volume, ras_grid

Float = NDArray[np.float64]

MIN_SIMILARITY = 0.0
MAX_RESIDUAL_MM = 1.0


@dataclass(frozen=True)
class Quality:
    """How well two images are aligned.

    Attributes
    ----------
    similarity : float
        Higher is better.
    residual_mm : float
        How far, on average over the head, a local refinement would still move the image.
    """

    similarity: float
    residual_mm: float

    @property
    def good(self) -> bool:
        """Whether the alignment is good enough to segment on."""
        return self.similarity >= MIN_SIMILARITY and self.residual_mm <= MAX_RESIDUAL_MM


def head_points_mm(volume: Volume) -> Float:
    """Return points, RAS mm, spread over a box of 140 mm about the image's centre of mass."""
    grid = ras_grid(volume.grid, (8.0, 8.0, 8.0))
    centre_mm = apply_affine(grid.affine, (np.array(grid.shape) - 1) / 2)
    steps = np.linspace(-70, 70, 8)
    points: Float = centre_mm + np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 3)
    return points


def mean_distance_mm(one: Float, other: Float, points_mm: Float) -> float:
    """Return how far apart, on average, two transforms carry points (n, 3)."""
    apart = apply_affine(one, points_mm) - apply_affine(other, points_mm)
    return float(np.linalg.norm(apart, axis=1).mean())
