"""A closed surface that grows or shrinks in an image until it lies on the brain."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from rsaseg.preprocessing import fill_slices

Float = NDArray[np.float64]
Index = NDArray[np.intp]

_ITERATIONS = 400
_SUBDIVISIONS = 3
_INWARD_MM = np.arange(0.0, 21.0, 2.0)
_BRIGHT_STEPS = 6  # of _INWARD_MM: the brightest within 10 mm
_RADII_MM = (3.33, 10.0)  # sharper bends are smoothed out, wider ones are kept
_BORDER = 0.5  # between air at 0 and brain at 1: where a vertex comes to rest


@cache
def unit_sphere(subdivisions: int) -> tuple[Float, Index]:
    """Return vertices (V, 3) of length 1 and triangles (F, 3) of an icosahedron cut finer.

    Each subdivision turns a triangle into four, so there are ``20 * 4**subdivisions``.
    """
    golden = (1 + 5**0.5) / 2
    corners = [(0.0, a, b * golden) for a in (-1.0, 1.0) for b in (-1.0, 1.0)]
    points = [np.roll(corner, turn) for turn in range(3) for corner in corners]
    near = np.linalg.norm(np.array(points)[:, None] - np.array(points), axis=2) < 2.1
    faces = [
        (i, j, k) for i, j, k in np.ndindex(12, 12, 12) if i < j < k and near[i, j] & near[j, k]
        and near[i, k]
    ]  # fmt: skip
    faces = [f if np.linalg.det([points[v] for v in f]) > 0 else f[::-1] for f in faces]
    for _ in range(subdivisions):
        middles: dict[frozenset[int], int] = {}
        finer = []
        for face in faces:
            middle = []
            for edge in (face[:2], face[1:], face[::2]):
                key = frozenset(edge)
                if key not in middles:
                    middles[key] = len(points)
                    points.append(points[edge[0]] + points[edge[1]])
                middle.append(middles[key])
            (a, b, c), (ab, bc, ca) = face, middle
            finer += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        points = [point / np.linalg.norm(point) for point in points]
        faces = finer
    return np.array(points) / np.linalg.norm(points, axis=1, keepdims=True), np.array(faces)


@cache
def _neighbours(subdivisions: int) -> tuple[Index, Float]:
    """Return for each vertex six neighbours, (V, 6), and how much each counts, (V, 6)."""
    _, faces = unit_sphere(subdivisions)
    around: dict[int, set[int]] = {}
    for face in faces.tolist():
        for vertex in face:
            around.setdefault(vertex, set()).update(set(face) - {vertex})
    index = [[*sorted(around[v]), min(around[v])][:6] for v in range(len(around))]
    weight = [[1 / len(around[v])] * len(around[v]) + [0.0] for v in range(len(around))]
    return np.array(index), np.array([row[:6] for row in weight])


def fit_surface(image: Float, spacing_mm: tuple[float, ...], start_mm: Float) -> Float:
    """Move the vertices of a sphere-like surface until it encloses the brain.

    The forces are those of the Brain Extraction Tool (Smith 2002, doi:10.1002/hbm.10062): along
    the surface towards the middle of a vertex's neighbours, across it against sharp bends, and
    outwards where the darkest point within 20 mm inwards is bright against the brightest within
    10 mm, inwards where it is dark. To the sides of the image it is dark; along the last axis it
    goes on as it ends, for scans end in the neck and the crown.

    Parameters
    ----------
    image : ndarray
        (X, Y, Z); 0 outside the brain, 1 in it.
    spacing_mm : tuple of float
        Voxel size.
    start_mm : ndarray
        (V, 3) position of each vertex of ``unit_sphere(3)``: voxel index times ``spacing_mm``.

    Returns
    -------
    ndarray
        (V, 3), the same vertices moved.
    """
    _, faces = unit_sphere(_SUBDIVISIONS)
    neighbours, weight = _neighbours(_SUBDIVISIONS)
    bend_middle = sum(1 / r for r in _RADII_MM) / 2
    bend_slope = 6 / (1 / _RADII_MM[0] - 1 / _RADII_MM[1])
    points, sides_vox = start_mm.copy(), np.array(image.shape[:2]) - 0.5
    for _ in range(_ITERATIONS):
        out = _normals(points, faces)
        to_middle = (points[neighbours] * weight[..., None]).sum(axis=1) - points
        lengths = np.linalg.norm(points[neighbours] - points[:, None], axis=2)
        edge_mm = float((lengths * weight).sum(axis=1).mean())
        across = (to_middle * out).sum(axis=1, keepdims=True) * out
        bend = 2 * np.linalg.norm(across, axis=1) / edge_mm**2
        smooth = (1 + np.tanh(bend_slope * (bend - bend_middle))) / 2
        line = (points[:, None] - _INWARD_MM[:, None] * out[:, None]) / spacing_mm
        grey = map_coordinates(image, line.reshape(-1, 3).T, order=1, mode="nearest")
        grey = grey.reshape(len(points), -1)
        grey[((line[..., :2] < -0.5) | (line[..., :2] > sides_vox)).any(axis=2)] = 0
        brightest = np.maximum(grey[:, :_BRIGHT_STEPS].max(axis=1), 0.1)
        outwards = 2 * (grey.min(axis=1) / brightest - _BORDER)
        points += 0.5 * (to_middle - across) + smooth[:, None] * across
        points += (0.05 * edge_mm * outwards)[:, None] * out
    return points


def _normals(points: Float, faces: Index) -> Float:
    """Return the outward direction at each vertex, of length 1."""
    a, b, c = (points[faces[:, i]] for i in range(3))
    of_faces = np.cross(b - a, c - a)
    out = np.zeros_like(points)
    for i in range(3):
        np.add.at(out, faces[:, i], of_faces)
    length: Float = np.linalg.norm(out, axis=1, keepdims=True)
    return out / np.maximum(length, 1e-12)


def fill_surface(
    points_mm: Float, shape: tuple[int, ...], spacing_mm: tuple[float, ...]
) -> NDArray[np.bool_]:
    """Return the voxels on and inside a surface, (X, Y, Z), slice by slice along the last axis.

    A slice is filled to where the surface closes, even beside the image.
    """
    _, faces = unit_sphere(_SUBDIVISIONS)
    corners = (points_mm / spacing_mm)[faces]
    longest = float(np.linalg.norm(np.diff(corners, axis=1), axis=2).max())
    n = int(np.ceil(2 * longest))  # two points a voxel leave no gap
    shares = np.array([(i, j, n - i - j) for i in range(n + 1) for j in range(n + 1 - i)]) / n
    voxels = np.rint(np.einsum("sc,fcx->sfx", shares, corners)).astype(int).reshape(-1, 3)
    voxels = voxels[(voxels[:, 2] >= 0) & (voxels[:, 2] < shape[2])]
    first = voxels.min(axis=0, initial=0)
    size = np.maximum(voxels.max(axis=0, initial=0) + 1, shape) - first
    mask: NDArray[Any] = np.zeros(size, dtype=bool)
    mask[tuple((voxels - first).T)] = True
    return fill_slices(mask)[tuple(slice(a, a + n) for a, n in zip(-first, shape, strict=True))]
