"""FSL's scaled-voxel matrices against the published convention, fslpy, and resampled images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from poses import random_grid, rigid
from scipy.ndimage import affine_transform

from rsaseg.imaging import Grid, resample
from rsaseg.registration.flirt import fsl_from_ras, fsl_from_voxel, ras_from_fsl

ORIENTATIONS = ("RAS", "LAS", "LPS", "RPS", "PIR", "ASL", "SRP")


def test_radiological_image_scales_its_voxels():
    grid = Grid((10, 12, 8), np.diag([-2.0, 3.0, 4.0, 1.0]))
    assert apply_affine(fsl_from_voxel(grid), [1, 1, 1]).tolist() == [2, 3, 4]


def test_neurological_image_reverses_its_first_axis():
    grid = Grid((10, 12, 8), np.diag([2.0, 3.0, 4.0, 1.0]))
    assert apply_affine(fsl_from_voxel(grid), [0, 1, 1]).tolist() == [18, 3, 4]
    assert apply_affine(fsl_from_voxel(grid), [9, 1, 1]).tolist() == [0, 3, 4]


@given(st.integers(0, 2**32 - 1), st.sampled_from(ORIENTATIONS), st.sampled_from(ORIENTATIONS))
def test_there_and_back(seed, one, other):
    rng = np.random.default_rng(seed)
    moving, fixed = random_grid(rng, one), random_grid(rng, other)
    pose = rigid(tuple(rng.uniform(-90, 90, 3)), tuple(rng.uniform(-80, 80, 3)))
    back = ras_from_fsl(fsl_from_ras(pose, moving, fixed), moving, fixed)
    np.testing.assert_allclose(back, pose, atol=1e-9)


def radiological(data, grid):
    """What FSL sees: the image with its first axis run so that the determinant is negative."""
    if np.linalg.det(grid.affine[:3, :3]) < 0:
        return data
    return data[::-1]


@pytest.mark.parametrize("one", ORIENTATIONS)
@pytest.mark.parametrize("other", ["RAS", "LAS", "PIR"])
def test_resampling_with_it_equals_resampling_in_fsl_space(one, other):
    """Flip both images to radiological order, sample in scaled voxels, flip back."""
    rng = np.random.default_rng([ord(c) for c in one + other])
    moving, fixed = random_grid(rng, one), random_grid(rng, other)
    moving = Grid(moving.shape, moving.affine @ np.diag([3, 3, 3, 1.0]))  # coarser: no smoothing
    image = rng.random(moving.shape).astype(np.float32)
    flirt = rigid((4, -3, 5), (2, 1, -2))
    centre = np.diag(moving.spacing_mm) @ (np.array(moving.shape) - 1) / 2
    flirt[:3, 3] += np.diag(fixed.spacing_mm) @ (np.array(fixed.shape) - 1) / 2 - centre
    ours = resample(image, moving, fixed, ras_from_fsl(flirt, moving, fixed), fill=np.nan)
    scaled = np.diag([*(1 / np.array(moving.spacing_mm)), 1])
    matrix = scaled @ np.linalg.inv(flirt) @ np.diag([*fixed.spacing_mm, 1])
    theirs = affine_transform(
        radiological(image, moving), matrix[:3, :3], matrix[:3, 3], fixed.shape, order=1,
        mode="nearest",
    )  # fmt: skip
    theirs = radiological(theirs, fixed)
    inside = np.isfinite(ours)
    assert inside.mean() > 0.2
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=1e-4)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("one", ORIENTATIONS)
@pytest.mark.parametrize("other", ORIENTATIONS)
def test_fslpy_agrees(one, other):
    flirt = pytest.importorskip("fsl.transform.flirt", reason="needs fslpy as the oracle")
    image = pytest.importorskip("fsl.data.image", reason="needs fslpy as the oracle").Image
    rng = np.random.default_rng([ord(c) for c in one + other])
    moving, fixed = random_grid(rng, one), random_grid(rng, other)
    files = [image(np.zeros(grid.shape, np.float32), xform=grid.affine) for grid in (moving, fixed)]
    matrix = rigid((20, -40, 70), (11, -23, 35))
    np.testing.assert_allclose(
        ras_from_fsl(matrix, moving, fixed),
        flirt.fromFlirt(matrix, *files, "world", "world"),
        atol=1e-4,
    )
