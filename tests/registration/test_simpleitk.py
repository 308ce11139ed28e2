"""The SimpleITK engine: its conventions against ITK itself, its poses against a known one."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from poses import FLAIR_FROM, mean_error_mm, random_grid, rigid

from rsaseg.imaging import Grid, Volume, resample
from rsaseg.phantom import make_phantom
from rsaseg.registration import itk, simpleitk


@pytest.fixture(scope="module")
def tiny():
    """T1 and FLAIR of a coarse head, on one grid."""
    images = make_phantom(seed=5, shape_vox=(48, 56, 26), spacing_mm=(4.0, 4.0, 6.5)).images
    return images["T1"], images["FLAIR"]


@given(st.integers(0, 2**32 - 1), st.sampled_from(["RAS", "LPS", "PIR"]))
def test_itk_image_lies_where_nifti_says(seed, orientation):
    rng = np.random.default_rng(seed)
    grid = random_grid(rng, orientation)
    image = itk.itk_image(rng.random(grid.shape), grid)
    index = [int(rng.integers(0, n)) for n in grid.shape]
    x, y, z = image.TransformIndexToPhysicalPoint(index)
    np.testing.assert_allclose((-x, -y, z), apply_affine(grid.affine, index), atol=1e-4)


def test_transform_file_resamples_as_we_do(tmp_path):
    """ITK reads the file and resamples with it; so do we with the RAS matrix."""
    rng = np.random.default_rng(1)
    moving, fixed = random_grid(rng, "RAS"), random_grid(rng, "LPS")
    moving = Grid(moving.shape, moving.affine @ np.diag([3, 3, 3, 1.0]))  # coarser: no smoothing
    data = rng.random(moving.shape).astype(np.float32)
    pose = rigid((10, -20, 30), (4, 5, -6))
    path = tmp_path / "T1_to_FLAIR.tfm"
    path.write_text(itk.tfm_text(pose))
    theirs = sitk.Resample(
        itk.itk_image(data, moving),
        itk.itk_image(np.zeros(fixed.shape), fixed),
        sitk.ReadTransform(str(path)),
        sitk.sitkLinear,
        0.0,
    )
    theirs = sitk.GetArrayFromImage(theirs).T
    ours = resample(data, moving, fixed, pose, fill=0.0)
    assert (theirs > 0).mean() > 0.2
    np.testing.assert_allclose(ours[theirs > 0], theirs[theirs > 0], atol=1e-4)


def test_euler_there_and_back():
    pose = rigid((10, -20, 30), (4, 5, -6))
    euler = itk.euler_from_ras(pose, np.array([7.0, -8.0, 9.0]))
    np.testing.assert_allclose(itk.ras_from_euler(euler), pose, atol=1e-6)
    x, y, z = euler.TransformPoint((-1.0, -2.0, 3.0))  # FLAIR point to moving point, LPS
    np.testing.assert_allclose(apply_affine(pose, (-x, -y, z)), (1, 2, 3), atol=1e-6)


def test_same_bits_every_run(tiny):
    moved = Volume(tiny[0].data, Grid(tiny[0].grid.shape, rigid((9, 5, -7), (8, -9, 5)) @
                   tiny[0].grid.affine), tiny[0].header, "moved")  # fmt: skip
    fixed = simpleitk.Side(tiny[1])
    poses = [simpleitk.estimate(simpleitk.Side(moved), fixed).tobytes() for _ in range(2)]
    assert len(set(poses)) == 1


def test_order_of_voxels_in_memory_changes_no_bit(tiny):
    moving, fixed = tiny
    other = Volume(np.asfortranarray(moving.data), moving.grid, moving.header, "other")
    start = rigid((2, 1, -1), (1, -2, 1))
    one, two = (
        simpleitk.polish(simpleitk.Side(volume), simpleitk.Side(fixed), start)
        for volume in (moving, other)
    )
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    "wrong", [rigid((0, 0, 0), (0, 0, 0)), rigid((40, -15, 20), (30, -45, 25))], ids=["", "header"]
)
def test_known_pose_is_found_whatever_the_header_says(raw_exam, wrong):
    t1, flair = raw_exam.images["T1"], raw_exam.images["FLAIR"]
    moved = Volume(t1.data, Grid(t1.grid.shape, wrong @ t1.grid.affine), t1.header, "moved")
    found = simpleitk.estimate(simpleitk.Side(moved), simpleitk.Side(flair))
    assert mean_error_mm(found @ wrong, FLAIR_FROM["T1"]) < 0.4  # voxels of 3 x 3 x 5.5 mm
