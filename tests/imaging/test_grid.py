"""Grids and resampling, against hand-made cases, SimpleITK and analytic images."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes, axcodes2ornt
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter1d, map_coordinates
from scipy.spatial.transform import Rotation

from rsaseg.imaging import Grid, crop_grid, ras_grid, resample

ORIENTATIONS = [
    "".join(codes)
    for axes in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*axes)
]


def oblique_grid(shape, spacing_mm, tilt_deg=(0, 0, 0), orientation="RAS", origin=(3, -5, 7)):
    axis, flip = axcodes2ornt(tuple(orientation)).T
    direction = np.zeros((3, 3))
    direction[axis.astype(int), range(3)] = flip
    affine = np.eye(4)
    tilt = Rotation.from_euler("xyz", tilt_deg, degrees=True).as_matrix()
    affine[:3, :3] = tilt @ direction * spacing_mm
    affine[:3, 3] = origin
    return Grid(tuple(shape), affine)


def itk_image(data: np.ndarray, grid: Grid) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine
    image.SetSpacing(grid.spacing_mm)
    image.SetDirection((lps[:3, :3] / grid.spacing_mm).ravel())
    image.SetOrigin(lps[:3, 3])
    return image


spacings = st.tuples(*[st.floats(0.4, 9)] * 3)
tilts = st.tuples(*[st.floats(-25, 25)] * 3)
shapes = st.tuples(*[st.integers(1, 9)] * 3)
grids = st.builds(oblique_grid, shapes, spacings, tilts, st.sampled_from(ORIENTATIONS))


def test_spacing_volume_and_corners_of_a_hand_made_grid():
    grid = Grid(
        (2, 3, 5), np.array([[0, -2.0, 0, 10], [-3, 0, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])
    )
    assert grid.spacing_mm == (3, 2, 4)
    assert grid.voxel_mm3 == pytest.approx(24)
    corners = {tuple(corner) for corner in grid.corners_mm()}
    assert corners == set(itertools.product((10, 6), (20, 17), (30, 46)))
    assert grid.describe() == "2x3x5 voxels of 3x2x4 mm from (10.0, 20.0, 30.0)"


def test_grids_match_up_to_a_tenth_of_the_smallest_spacing():
    grid = oblique_grid((4, 5, 6), (1, 2, 3), (10, 0, 5))
    near, far = grid.affine.copy(), grid.affine.copy()
    near[0, 3] += 0.099
    far[0, 3] += 0.101
    assert grid.matches(Grid(grid.shape, near))
    assert not grid.matches(Grid(grid.shape, far))
    assert not grid.matches(Grid((4, 5, 7), grid.affine))
    halved = grid.affine @ np.diag([1, 1, 0.5, 1])
    assert not grid.matches(Grid((4, 5, 11), halved))  # the same corners


def test_a_small_rotation_about_the_origin_voxel_does_not_match():
    grid = oblique_grid((50, 50, 50), (1, 1, 1))
    turned = oblique_grid((50, 50, 50), (1, 1, 1), (1, 0, 0))
    assert not grid.matches(turned)


@given(grid=grids, spacing_mm=spacings)
def test_ras_grid_covers_the_same_field_of_view(grid, spacing_mm):
    ras = ras_grid(grid, spacing_mm)
    assert_allclose(ras.spacing_mm, spacing_mm, rtol=1e-6)
    middle = apply_affine(grid.affine, (np.array(grid.shape) - 1) / 2)
    assert_allclose(apply_affine(ras.affine, (np.array(ras.shape) - 1) / 2), middle, atol=1e-6)
    # same directions, reordered and flipped: the product of unit axes is a signed permutation
    unit = ras.affine[:3, :3] / ras.spacing_mm
    overlap = unit.T @ (grid.affine[:3, :3] / grid.spacing_mm)
    assert_allclose(np.sort(np.abs(overlap), axis=1), [[0, 0, 1]] * 3, atol=1e-6)
    extent_mm = np.abs(overlap).round() @ (np.array(grid.shape) * grid.spacing_mm)
    missed_vox = np.abs(extent_mm / spacing_mm - ras.shape)
    assert ((missed_vox <= 0.5 + 1e-6) | (np.array(ras.shape) == 1)).all()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_ras_grid_runs_right_anterior_superior_from_every_orientation(orientation):
    grid = oblique_grid((4, 5, 6), (1, 2, 3), (8, -6, 4), orientation)
    assert aff2axcodes(ras_grid(grid, (1, 1, 1)).affine) == ("R", "A", "S")


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_resampling_to_ras_at_the_same_spacing_moves_no_voxel_value(orientation):
    grid = oblique_grid((4, 5, 6), (1, 2, 3), (8, -6, 4), orientation)
    data = np.random.default_rng(0).normal(size=grid.shape)
    sizes = dict(zip(orientation, grid.spacing_mm, strict=True))
    wanted = tuple(
        sizes[next(code for code in pair if code in sizes)] for pair in ("RL", "AP", "SI")
    )
    ras = resample(data, grid, ras_grid(grid, wanted))
    assert_allclose(np.sort(ras.ravel()), np.sort(data.ravel()), atol=1e-4)


def test_crop_grid_keeps_every_voxel_in_place():
    grid = oblique_grid((6, 7, 8), (1, 2, 3), (20, 10, 5), "PIR")
    crop = crop_grid(grid, np.array([1, 2, 3]), np.array([4, 6, 8]))
    assert crop.shape == (3, 4, 5)
    inside = np.array([[0, 0, 0], [2, 3, 4]])
    assert_allclose(
        apply_affine(crop.affine, inside), apply_affine(grid.affine, inside + np.array([1, 2, 3]))
    )


@given(grid=grids)
def test_resampling_onto_its_own_grid_is_the_identity_up_to_the_border(grid):
    data = np.random.default_rng(0).normal(5, 1, grid.shape).astype(np.float32)
    assert_allclose(resample(data, grid, grid), data, atol=1e-3)


@settings(max_examples=40)
@given(
    spacing_mm=st.tuples(*[st.floats(1.0, 3)] * 3),
    tilt_deg=tilts,
    moving=st.sampled_from(ORIENTATIONS),
    turn=tilts,
)
def test_resample_agrees_with_simpleitk(spacing_mm, tilt_deg, moving, turn):
    source = oblique_grid((7, 8, 9), (3.1, 3.0, 3.2), tilt_deg, moving, (0, 0, 0))
    centre = apply_affine(source.affine, (np.array(source.shape) - 1) / 2)
    target = oblique_grid((12, 11, 10), spacing_mm, turn, origin=centre - 10)
    fixed_from_moving = np.eye(4)
    fixed_from_moving[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    fixed_from_moving[:3, 3] = (1, -2, 0.5)
    # keep every step below a voxel, so that nothing is smoothed
    step = np.linalg.inv(source.affine) @ np.linalg.inv(fixed_from_moving) @ target.affine
    if np.abs(step[:3, :3]).max() > 1:
        return
    data = np.random.default_rng(1).normal(10, 1, source.shape).astype(np.float32)
    ours = resample(data, source, target, fixed_from_moving, fill=-1)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    moving_from_fixed = lps @ np.linalg.inv(fixed_from_moving) @ lps
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(moving_from_fixed[:3, :3].ravel())
    transform.SetTranslation(moving_from_fixed[:3, 3])
    itk = sitk.Resample(
        itk_image(data, source), itk_image(np.zeros(target.shape), target), transform,
        sitk.sitkLinear, -1.0, sitk.sitkFloat32,
    )  # fmt: skip
    theirs = sitk.GetArrayFromImage(itk).T
    differ = np.abs(ours - theirs) > 1e-2
    position = apply_affine(step, np.indices(target.shape).reshape(3, -1).T).T
    edge = np.minimum(position + 0.5, np.array(source.shape)[:, None] - 0.5 - position)
    on_the_border = (np.abs(edge) < 1e-3).any(axis=0).reshape(target.shape)
    assert not (differ & ~on_the_border).any()


def test_fixed_from_moving_moves_the_image_that_way():
    grid = oblique_grid((9, 9, 9), (2, 2, 2))
    data = np.zeros(grid.shape)
    data[4, 4, 4] = 1
    ten_mm_right = np.eye(4)
    ten_mm_right[0, 3] = 4
    moved = resample(data, grid, grid, ten_mm_right)
    assert np.unravel_index(moved.argmax(), moved.shape) == (6, 4, 4)


@given(tilt_deg=tilts, shift_mm=st.tuples(*[st.floats(-3, 3)] * 3))
def test_a_transform_and_its_inverse_cancel_on_a_linear_image(tilt_deg, shift_mm):
    grid = oblique_grid((21, 23, 19), (1.0, 1.1, 1.2), (5, 0, 3), "LPS")
    world = apply_affine(grid.affine, np.indices(grid.shape).reshape(3, -1).T)
    ramp = (world @ (0.3, -0.2, 0.5)).reshape(grid.shape)
    transform = np.eye(4)
    transform[:3, :3] = Rotation.from_euler(
        "xyz", np.array(tilt_deg) / 10, degrees=True
    ).as_matrix()
    transform[:3, 3] = shift_mm
    back = resample(resample(ramp, grid, grid, transform), grid, grid, np.linalg.inv(transform))
    middle = (slice(8, -8),) * 3
    # steps of up to 1.06 voxels smooth, which changes no ramp away from the border
    assert_allclose(back[middle], ramp[middle], atol=0.02)


def test_outside_the_field_of_view_is_fill_and_half_a_voxel_beyond_a_centre_is_not():
    data = np.full((3, 1, 1), 7.0)
    moving = Grid((3, 1, 1), np.eye(4))
    fine = np.diag([0.2, 1, 1, 1.0])
    fine[0, 3] = -1
    row = resample(data, moving, Grid((21, 1, 1), fine), fill=-9)[:, 0, 0]
    at_mm = -1 + 0.2 * np.arange(21)
    assert_allclose(row, np.where((at_mm > -0.5) & (at_mm < 2.5), 7, -9))


def test_upsampling_equals_linear_interpolation_at_each_point():
    rng = np.random.default_rng(2)
    moving = oblique_grid((6, 7, 8), (3, 3, 3), (12, -7, 30), "SLA", (0, 0, 0))
    data = rng.normal(size=moving.shape)
    fixed = oblique_grid((9, 9, 9), (0.8, 1.1, 0.9), (0, 0, 0), "RAS", moving.corners_mm().mean(0))
    points = apply_affine(fixed.affine, np.indices(fixed.shape).reshape(3, -1).T)
    inside = apply_affine(np.linalg.inv(moving.affine), points).T
    seen = (inside >= 0).all(axis=0) & (inside <= np.array([[5], [6], [7]])).all(axis=0)
    truth = map_coordinates(data, inside, order=1)
    assert seen.sum() > 100
    assert_allclose(resample(data, moving, fixed).ravel()[seen], truth[seen], atol=1e-5)


@pytest.mark.parametrize("orientation", ["RAS", "LAI", "SRA", "PIL"])
@pytest.mark.parametrize("spacing_mm", [(0.9, 2.5, 6.0), (3.0, 1.0, 0.7)])
def test_axis_by_axis_equals_smoothing_and_a_look_at_every_point(orientation, spacing_mm):
    moving = oblique_grid((9, 14, 11), (1.0, 1.3, 2.0), (10, 5, -20), orientation)
    inner = ras_grid(moving, spacing_mm)
    fixed = crop_grid(inner, np.full(3, -1), np.array(inner.shape) + 2)
    data = np.random.default_rng(3).normal(10, 1, moving.shape)
    matrix = np.linalg.inv(moving.affine) @ fixed.affine
    smooth = data
    for axis, step in enumerate(np.abs(matrix[:3, :3]).max(axis=1)):
        if step > 1:
            smooth = gaussian_filter1d(
                smooth, ((step**2 - 1) / 12) ** 0.5, axis, truncate=3, mode="nearest"
            )
    place = apply_affine(matrix, np.indices(fixed.shape).reshape(3, -1).T).T
    truth = map_coordinates(smooth, place, order=1, mode="nearest")
    beyond = np.maximum(-0.5 - place, place - np.array(moving.shape)[:, None] + 0.5).max(axis=0)
    truth[beyond > 1e-6] = -7
    assert_allclose(resample(data, moving, fixed, fill=-7).ravel(), truth, atol=1e-4)


@pytest.mark.parametrize(("orientation", "slice_axis"), [("RAS", 2), ("SRA", 0), ("AIR", 1)])
def test_a_thin_plate_keeps_its_volume_and_spread_when_slices_get_thick(orientation, slice_axis):
    shape = np.full(3, 4)
    shape[slice_axis] = 60
    fine = oblique_grid(shape, (1, 1, 1), (0, 0, 0), orientation)
    thick = ras_grid(fine, (1, 1, 6))
    volumes, seen_by_one_slice = [], []
    for place in range(12, 48):
        data = np.zeros(fine.shape)
        np.moveaxis(data, slice_axis, 0)[place] = 1
        out = resample(data, fine, thick)
        volumes.append(out.sum() * thick.voxel_mm3)
        seen_by_one_slice.append(out[0, 0, 5])
    # unsmoothed, a plate is either missed (0) or counted six times over (96)
    assert np.mean(volumes) == pytest.approx(16, rel=0.01)
    assert min(volumes) > 8
    assert max(volumes) < 24
    # a thick voxel sees the plates of a box 6 mm high, whose variance in 1 mm steps is 35 / 12
    weight, place = np.array(seen_by_one_slice), np.arange(36)
    mean = np.average(place, weights=weight)
    variance = np.average((place - mean) ** 2, weights=weight)
    assert variance == pytest.approx(35 / 12, rel=0.15)
