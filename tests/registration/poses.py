"""Rigid poses and grids that several registration tests use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rsaseg.imaging import Grid
from rsaseg.phantom import phantom_grid


def rigid(angles_deg: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> NDArray:
    """A 4x4 of turns about R, A, S, in this order, and a shift."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", angles_deg, degrees=True).as_matrix()
    matrix[:3, 3] = shift_mm
    return matrix


FLAIR_FROM = {"T1": rigid((6, -4, 8), (5, -7, 4)), "T2": rigid((-3, 5, -2), (-4, 2, 6))}


def random_grid(rng: np.random.Generator, orientation: str) -> Grid:
    """A grid of random size, spacing and tilt whose stored axes run to ``orientation``."""
    shape = tuple(int(n) for n in rng.integers(8, 20, 3))
    spacing = tuple(float(s) for s in rng.uniform(0.7, 3, 3))
    tilt = tuple(float(a) for a in rng.uniform(-25, 25, 3))
    return phantom_grid(shape, spacing, tilt, orientation)  # type: ignore[arg-type]


def mean_error_mm(found: NDArray, truth: NDArray) -> float:
    """Mean distance over a ball of 70 mm between where two flair_from_moving take the FLAIR."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 3))
    points *= 70 * rng.random((500, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    points = np.c_[points, np.ones(500)]
    apart = points @ (np.linalg.inv(found) - np.linalg.inv(truth)).T
    return float(np.linalg.norm(apart[:, :3], axis=1).mean())
