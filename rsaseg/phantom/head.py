"""A synthetic head with lesions of known place.

The head is a function of world space: every grid, however oblique or coarse, samples the same one.
Shapes are ellipsoids, the cortex is folded by a gyroid. Nothing here stems from a patient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rsaseg.imaging import Grid

Array = NDArray[np.floating[Any]]
Kind = Literal["periventricular", "juxtacortical", "deep white"]

TISSUES = ("air", "fat", "soft", "bone", "csf", "grey", "deep", "white", "lesion")
EDGE_MM = 0.5  # how far a tissue boundary is blurred
SCALP_MM = 13.0  # from the skull's inside to the air
SLAB_VOX = 400_000  # points evaluated at once, to bound memory

# Ellipsoids: (centre, semi-axes), RAS mm. Those off the midline stand for both sides.
BRAIN = (
    ((0, 0, 8), (66, 83, 58)),
    ((36, -2, -28), (28, 44, 24)),  # temporal lobe
    ((0, -52, -38), (50, 32, 24)),  # cerebellum
    ((0, -22, -45), (14, 14, 50)),  # brainstem
)
CUT_MM = -20.0  # the cerebrum's base; the ellipsoids below it stand alone
VENTRICLES = (
    ((9, 24, 10), (5, 15, 8)),  # frontal horn
    ((12, -2, 17), (6, 24, 7)),  # body
    ((21, -34, 10), (7, 15, 9)),  # trigone
    ((25, -52, 5), (4, 15, 5)),  # occipital horn
    ((0, -6, -2), (2, 13, 9)),  # third ventricle
)
DEEP_GREY = (
    ((15, 16, 8), (5, 14, 8)),  # caudate
    ((27, 3, 1), (6, 17, 10)),  # putamen
    ((11, -17, 3), (8, 13, 9)),  # thalamus
)
EYES = (((31, 74, -38), (12, 12, 12)),)
ORBITS = (((31, 70, -38), (19, 26, 18)),)
SKULL_INSIDE = (((0, -1, -4), (69, 86, 73)),)


@dataclass(frozen=True)
class Lesion:
    """A wobbly ellipsoid of plaque.

    Attributes
    ----------
    centre_mm, radius_mm : tuple of float
        Centre in RAS mm and semi-axes along ``axes``.
    axes : tuple
        Three unit vectors, rows.
    kind : str
        Where it lies: periventricular, juxtacortical or deep white.
    """

    centre_mm: tuple[float, float, float]
    radius_mm: tuple[float, float, float]
    axes: tuple[tuple[float, float, float], ...]
    kind: Kind


@dataclass(frozen=True)
class Head:
    """What differs between two synthetic people."""

    seed: int
    size: float
    ventricle_size: float
    fold_phase: tuple[float, float, float]
    lesions: tuple[Lesion, ...] = ()


class Anatomy(NamedTuple):
    """Signed distances to tissue surfaces in mm, negative inside, one per point."""

    brain: Array
    ventricle: Array
    sulcus: Array
    cortex: Array  # negative in grey matter, positive in white matter
    deep_grey: Array


def _length(vectors: Array) -> Array:
    """Return the length of each row."""
    length: Array = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return length


def _ellipsoids(points: Array, shapes: Any, scale: float = 1.0) -> Array:
    """Return the first-order signed distance in mm to a union of ellipsoids of both sides."""
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    for (x, *rest), axes in shapes:
        side = np.abs(points[:, 0]) if x else points[:, 0]
        semi_axes = np.float32(scale) * np.array(axes, np.float32)
        offset = np.column_stack((side - x, points[:, 1] - rest[0], points[:, 2] - rest[1]))
        offset /= semi_axes
        radius = _length(offset)
        slope = _length(offset / semi_axes)
        distance = radius * (radius - 1) / np.maximum(slope, 1e-6)
        # at the very centre the formula is 0 / 0: the nearest surface is the shortest axis away
        distance[radius < 1e-3] = -scale * min(axes)
        np.minimum(nearest, distance, out=nearest)
    return nearest


def _folds(points: Array, phase: tuple[float, float, float]) -> Array:
    """Return the distance in mm to a folded sheet that fills space (a warped gyroid)."""
    period_mm = 30.0
    x, y, z = (points * np.float32(2 * np.pi / period_mm)).T
    x, y, z = (
        x + 0.9 * np.sin(0.37 * y + phase[0]),
        y + 0.9 * np.sin(0.41 * z + phase[1]),
        z + 0.9 * np.sin(0.33 * x + phase[2]),
    )
    sheet = np.sin(x) * np.cos(y) + np.sin(y) * np.cos(z) + np.sin(z) * np.cos(x)
    distance: Array = np.abs(sheet) * np.float32(period_mm / (2 * np.pi) / 1.4)
    return distance


def _anatomy(head: Head, points: Array) -> Anatomy:
    """Return how far each point (n, 3), RAS mm of the head, is from each surface."""
    points = points / np.float32(head.size)
    cerebrum, *below = BRAIN
    top = np.maximum(_ellipsoids(points, (cerebrum,)), CUT_MM - points[:, 2])
    brain = np.minimum(top, _ellipsoids(points, below))
    depth = -brain
    sulcus = np.hypot(_folds(points, head.fold_phase), np.maximum(depth - 17, 0))
    # between the hemispheres, down to the corpus callosum
    fissure = np.hypot(points[:, 0], np.maximum(depth - 30, 0))
    sulcus = np.minimum(sulcus, fissure) - 1.3 + 0.05 * np.maximum(depth, 0)
    cortex = np.minimum(depth, sulcus) - 3.0
    ventricle = _ellipsoids(points, VENTRICLES, head.ventricle_size)
    return Anatomy(brain, ventricle, sulcus, cortex, _ellipsoids(points, DEEP_GREY))


def _inside(distance_mm: Array) -> Array:
    """Return the soft membership, 0 to 1, of points at a signed distance from a surface."""
    part: Array = 1 / (1 + np.exp(np.clip(distance_mm / (EDGE_MM / 2), -30, 30)))
    return part


def _lesion_distance(points: Array, lesions: tuple[Lesion, ...]) -> Array:
    """Return the first-order signed distance in mm to the nearest lesion."""
    nearest = np.full(len(points), 99.0, dtype=np.float32)
    for number, lesion in enumerate(lesions):
        offset = points - np.array(lesion.centre_mm, np.float32)
        reach = 1.5 * max(lesion.radius_mm)
        near = np.flatnonzero(_length(offset) < reach)
        u = offset[near] @ np.array(lesion.axes, np.float32).T / np.array(lesion.radius_mm)
        radius = _length(u)
        wobble = 0.15 * np.sin(3 * u[:, 0] + number) * np.sin(2.6 * u[:, 1] + 2 * number)
        distance = (radius - 1 - wobble) * min(lesion.radius_mm)
        nearest[near] = np.minimum(nearest[near], distance)
    return nearest


def _tissues(head: Head, points: Array) -> Array:
    """Return the tissue mixture and the brain fraction (n, 10) of points (n, 3) of the head.

    Tissues are listed from the innermost outwards: each takes its part of what is left.
    """
    a = _anatomy(head, points)
    small = points / np.float32(head.size)
    skull = _ellipsoids(small, SKULL_INSIDE)
    brain, ventricle = _inside(a.brain), _inside(a.ventricle)
    mixture = np.zeros((len(points), len(TISSUES) + 1), np.float32)
    mixture[:, -1] = brain
    within = (
        ("csf", ventricle),
        ("csf", _inside(a.sulcus)),
        ("grey", _inside(a.cortex)),
        ("deep", _inside(a.deep_grey)),
        ("lesion", _inside(_lesion_distance(points, head.lesions))),
        ("white", np.float32(1)),
    )
    around = (
        ("air", _inside(SCALP_MM - skull)),
        ("csf", _inside(_ellipsoids(small, EYES))),
        ("fat", _inside(_ellipsoids(small, ORBITS))),
        ("csf", _inside(np.maximum(skull, a.brain - 8))),
        ("soft", _inside(skull)),
        ("bone", _inside(skull - 6)),
        ("soft", _inside(skull - 7.5)),
        ("fat", _inside(skull - 11)),
        ("soft", np.float32(1)),
    )
    for left, parts in ((brain, within), (1 - brain, around)):
        for tissue, part in parts:
            mixture[:, TISSUES.index(tissue)] += left * part
            left = left * (1 - part)  # noqa: PLW2901
    return mixture


def _slabs(grid: Grid, head_from_world: Array) -> Iterator[tuple[slice, Array]]:
    """Yield slices of the last axis with the head points (sub, n, 3) that fill their voxels."""
    counts = [max(1, round(spacing / 1.5)) for spacing in grid.spacing_mm]
    parts = [(np.arange(count) + 0.5) / count - 0.5 for count in counts]
    inside = np.stack(np.meshgrid(*parts, indexing="ij"), axis=-1).reshape(-1, 1, 3)
    head_from_vox = head_from_world @ grid.affine
    thick = max(1, SLAB_VOX // (grid.shape[0] * grid.shape[1] * len(inside)))
    for start in range(0, grid.shape[2], thick):
        stop = min(start + thick, grid.shape[2])
        ijk = np.indices((*grid.shape[:2], stop - start)).reshape(3, -1).T + np.array((0, 0, start))
        yield slice(start, stop), apply_affine(head_from_vox, ijk + inside).astype(np.float32)


def sample_tissues(
    head: Head, grid: Grid, head_from_world: Array | None = None
) -> tuple[Array, Array]:
    """Return what fills each voxel of a grid, thick voxels averaged over their extent.

    Parameters
    ----------
    head : Head
        From `make_head`.
    grid : Grid
        Where to sample.
    head_from_world : ndarray, optional
        (4, 4), RAS mm of the grid to RAS mm of the head. Default: identity.

    Returns
    -------
    mixture : ndarray
        (*shape, 9) fractions of ``TISSUES``, which add up to 1.
    brain : ndarray
        Fraction of brain, its sulci and ventricles with it, of ``grid.shape``.
    """
    world = np.eye(4) if head_from_world is None else head_from_world
    both = np.zeros((*grid.shape, len(TISSUES) + 1), np.float32)
    both[..., 0] = 1  # air
    for slab, points in _slabs(grid, world):
        middle = points.mean(axis=0) / np.float32(head.size)
        near = _ellipsoids(middle, SKULL_INSIDE) < SCALP_MM + 2 + max(grid.spacing_mm)
        filled = both[:, :, slab]
        filled[near.reshape(filled.shape[:3])] = sum(
            _tissues(head, sub[near]) for sub in points
        ) / len(points)
    return both[..., :-1], both[..., -1]


def _draw_lesions(head: Head, rng: np.random.Generator) -> tuple[Lesion, ...]:
    """Place 22 lesions where multiple sclerosis does, none touching another."""
    points = rng.uniform((-60, -80, -15), (60, 75, 58), (60_000, 3)).astype(np.float32)
    a = _anatomy(head, points)
    white = (a.cortex > 0) & (a.deep_grey > 4) & (a.ventricle > 0)
    rules: tuple[tuple[Kind, int, NDArray[np.bool_], tuple[float, float]], ...] = (
        ("periventricular", 9, white & (a.ventricle < 4), (4.0, 7.5)),
        ("deep white", 8, white & (a.ventricle > 11) & (a.cortex > 4), (2.5, 5.5)),
        ("juxtacortical", 5, white & (a.cortex > 1.5) & (a.cortex < 2.5), (2.5, 4.0)),
    )
    lesions: list[Lesion] = []
    for kind, wanted, allowed, (low_mm, high_mm) in rules:
        placed = 0
        for centre in points[allowed]:
            apart = [np.linalg.norm(centre - other.centre_mm) for other in lesions]
            if placed == wanted:
                break
            if min(apart, default=99.0) < 16:
                continue
            axes = Rotation.random(rng=rng).as_matrix()
            radius = rng.uniform(low_mm, high_mm) * rng.uniform(0.75, 1.25, 3)
            if kind == "periventricular":  # Dawson's fingers run sideways from the ventricle
                axes, radius[0] = np.eye(3), radius[0] * 1.5
            as_floats = [tuple(float(v) for v in vector) for vector in (centre, radius, *axes)]
            lesions.append(Lesion(as_floats[0], as_floats[1], tuple(as_floats[2:]), kind))  # type: ignore[arg-type]
            placed += 1
    return tuple(lesions)


def make_head(seed: int = 0, lesions: bool = True) -> Head:
    """Return a synthetic head; the same seed gives the same head."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, 3)
    head = Head(
        seed,
        float(rng.uniform(0.96, 1.03)),
        float(rng.uniform(0.95, 1.3)),
        (float(phase[0]), float(phase[1]), float(phase[2])),
    )
    if not lesions:
        return head
    return Head(seed, head.size, head.ventricle_size, head.fold_phase, _draw_lesions(head, rng))
