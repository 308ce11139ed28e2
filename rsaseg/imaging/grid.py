"""Voxel grids in world space (RAS, mm) and moving images between them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.affines import apply_affine, voxel_sizes
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter1d
from scipy.sparse import csr_array

Float = NDArray[np.floating[Any]]

_SLABS = 4


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of a 3D image lie.

    Attributes
    ----------
    shape : tuple of int
        Voxels along each array axis.
    affine : ndarray
        (4, 4), voxel index to RAS mm.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along each array axis."""
        x, y, z = (float(size) for size in voxel_sizes(self.affine))
        return x, y, z

    @property
    def axial_mm(self) -> float:
        """Distance between neighbouring voxels along the array axis that runs nearest to S."""
        return self.spacing_mm[int(np.argsort(io_orientation(self.affine)[:, 0])[2])]

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def corners_mm(self) -> Float:
        """Return the RAS mm positions of the eight corner voxels, (8, 3)."""
        last = np.array(self.shape) - 1
        corners: Float = apply_affine(self.affine, np.array(list(np.ndindex(2, 2, 2))) * last)
        return corners

    def matches(self, other: Grid) -> bool:
        """Whether both have one shape and no voxel lies over a tenth of a voxel apart."""
        if self.shape != other.shape:
            return False
        apart_mm = np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max()
        return bool(apart_mm < 0.1 * min(self.spacing_mm))

    def describe(self) -> str:
        """Return shape, spacing and origin on one line, for messages."""
        shape = "x".join(str(n) for n in self.shape)
        spacing = "x".join(f"{s:.3g}" for s in self.spacing_mm)
        origin = ", ".join(f"{o:.1f}" for o in self.affine[:3, 3])
        return f"{shape} voxels of {spacing} mm from ({origin})"


def ras_grid(grid: Grid, spacing_mm: tuple[float, float, float]) -> Grid:
    """Return a grid over the same field of view, axes in R, A, S order, other spacing.

    The axes keep the directions of ``grid``'s own (an oblique grid stays oblique): they are only
    reordered and flipped to the nearest of right, anterior and superior.

    Parameters
    ----------
    grid : Grid
        The field of view.
    spacing_mm : tuple of float
        New spacing along R, A and S.
    """
    orientation = io_orientation(grid.affine)
    source = np.argsort(orientation[:, 0])  # array axis that runs nearest to R, A, S
    flip = orientation[source, 1]
    axes = grid.affine[:3, source] * flip
    first = grid.affine[:3, 3] + sum(
        grid.affine[:3, a] * (grid.shape[a] - 1) for a, f in zip(source, flip, strict=True) if f < 0
    )
    old_mm = np.linalg.norm(axes, axis=0)
    old_n = np.array(grid.shape)[source]
    extent_mm = old_mm * old_n
    n = np.maximum(1, np.round(extent_mm / spacing_mm)).astype(int)
    direction = axes / old_mm
    offset_mm = (extent_mm - n * np.array(spacing_mm)) / 2 + (np.array(spacing_mm) - old_mm) / 2
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing_mm
    affine[:3, 3] = first + direction @ offset_mm
    return Grid((int(n[0]), int(n[1]), int(n[2])), affine)


def crop_grid(grid: Grid, start: NDArray[np.intp], stop: NDArray[np.intp]) -> Grid:
    """Return the part of ``grid`` from voxel ``start`` up to before voxel ``stop``."""
    affine = grid.affine.copy()
    affine[:3, 3] = apply_affine(grid.affine, start)
    x, y, z = (int(n) for n in stop - start)
    return Grid((x, y, z), affine)


def resample(
    data: NDArray[Any],
    moving: Grid,
    fixed: Grid,
    fixed_from_moving: Float | None = None,
    fill: float = 0.0,
) -> NDArray[np.float32]:
    """Resample an image onto another grid, linearly, once.

    Along an axis that gets coarser the image is first smoothed with a Gaussian of the variance
    that turns the old voxel's box into the new one's, so that thin lesions do not alias. The image
    ends where its outermost voxels do, half a voxel beyond their centres.

    Parameters
    ----------
    data : ndarray
        Image on ``moving``.
    moving, fixed : Grid
        Grids of ``data`` and of the result.
    fixed_from_moving : ndarray, optional
        (4, 4), RAS mm of the moving image to RAS mm of the fixed one. Default: identity.
    fill : float
        Value outside the moving image's field of view.

    Returns
    -------
    ndarray
        float32, of ``fixed.shape``.
    """
    world = np.eye(4) if fixed_from_moving is None else fixed_from_moving
    moving_vox_from_fixed_vox = np.linalg.inv(moving.affine) @ np.linalg.inv(world) @ fixed.affine
    matrix, offset = moving_vox_from_fixed_vox[:3, :3], moving_vox_from_fixed_vox[:3, 3]
    image = np.asarray(data, dtype=np.float32)
    axis_of = np.abs(matrix).argmax(axis=1)  # of the fixed grid, for each of the moving one's
    if len(set(axis_of)) == np.count_nonzero(np.abs(matrix) > 1e-7) == 3:  # axes run along axes
        for axis, (step_vox, start_vox) in enumerate(
            zip(matrix[range(3), axis_of], offset, strict=True)
        ):
            position_vox = start_vox + step_vox * np.arange(fixed.shape[axis_of[axis]])
            image = _resample_axis(image, axis, position_vox, abs(step_vox), fill)
        return np.array(image.transpose(np.argsort(axis_of)), order="C")
    for axis, step in enumerate(np.abs(matrix).max(axis=1)):  # moving voxels per fixed voxel
        image = _smooth(image, axis, step)
    result = _look_up(image, matrix, offset, fixed.shape)
    result[_outside(moving_vox_from_fixed_vox, moving.shape, fixed.shape)] = fill
    return result


def _look_up(
    image: NDArray[np.float32], matrix: Float, offset: Float, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Interpolate at every voxel of an oblique grid, slab by slab beside each other."""
    result = np.empty(shape, np.float32)

    def fill_slab(rows: NDArray[np.intp]) -> None:
        first, slab = offset + matrix[:, 0] * rows[0], result[rows[0] : rows[-1] + 1]
        affine_transform(image, matrix, first, slab.shape, output=slab, order=1, mode="nearest")

    with ThreadPoolExecutor() as pool:  # always as many slabs: the same bits on any machine
        slabs = np.array_split(np.arange(shape[0]), min(_SLABS, shape[0]))
        list(pool.map(fill_slab, slabs))
    return result


def _smooth(image: NDArray[Any], axis: int, step_vox: float) -> NDArray[Any]:
    """Smooth along an axis that is sampled every ``step_vox`` next."""
    if step_vox <= 1.0 + 1e-6:
        return image
    sigma_vox = float(np.sqrt((step_vox**2 - 1) / 12))
    smooth: NDArray[Any] = gaussian_filter1d(
        image, sigma_vox, axis=axis, mode="nearest", truncate=3.0
    )
    return smooth


def _resample_axis(
    image: NDArray[np.float32], axis: int, position_vox: Float, step_vox: float, fill: float
) -> NDArray[np.float32]:
    """Smooth and interpolate along one axis: all of it is one sparse matrix, mostly a few bands."""
    n = image.shape[axis]
    if len(position_vox) == n and np.allclose(position_vox, np.arange(n), rtol=0, atol=1e-6):
        return image
    inside = np.clip(position_vox, 0, n - 1)
    low = np.minimum(inside.astype(np.intp), max(n - 2, 0))
    rows, share = np.arange(len(inside)), inside - low
    weights = np.zeros((len(inside), n))
    weights[rows, low] = 1 - share
    weights[rows, np.minimum(low + 1, n - 1)] += share
    matrix = csr_array((weights @ _smooth(np.eye(n), 0, step_vox)).astype(np.float32))
    columns = np.moveaxis(image, axis, 0).reshape(n, -1)
    result = (matrix @ columns).reshape(-1, *np.delete(image.shape, axis))
    result[_beyond(position_vox, n)] = fill
    return np.moveaxis(result, 0, axis)


def _outside(
    moving_vox_from_fixed_vox: Float, moving_shape: tuple[int, ...], fixed_shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Return which fixed voxels have their centre in no moving voxel."""
    outside = np.zeros(fixed_shape, dtype=bool)
    i, j, k = np.ogrid[tuple(slice(n) for n in fixed_shape)]
    for (a, b, c, d), n in zip(moving_vox_from_fixed_vox[:3], moving_shape, strict=True):
        position = (a * i + (b * j + d)) + c * k
        outside |= _beyond(position, n)
    return outside


def _beyond(position_vox: Float, n: int) -> NDArray[np.bool_]:
    """Return which positions along an axis of ``n`` voxels lie in none of them."""
    return (position_vox < -0.5 - 1e-6) | (position_vox > n - 0.5 + 1e-6)
