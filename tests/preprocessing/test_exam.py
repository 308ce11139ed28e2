"""From an exam to the network's input and back, on grids made by hand and on the phantom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header
from scipy.ndimage import binary_erosion

from rsaseg.imaging import Grid, Volume, resample
from rsaseg.phantom import Phantom, make_phantom
from rsaseg.preprocessing import (
    SEQUENCES,
    InputSpec,
    brain_units,
    deep_mask,
    head_mask,
    head_units,
    prepare,
    to_flair_grid,
    to_spread,
)
from rsaseg.preprocessing.exam import otsu_threshold, to_tensor_axes


def test_tensor_axes_are_axial_coronal_sagittal() -> None:
    ras = np.zeros((2, 3, 4))
    ras[1, 2, 3] = 1  # right, anterior, superior corner
    tensor = to_tensor_axes(ras)
    assert tensor.shape == (4, 3, 2)
    assert tensor[3, 2, 1] == 1
    assert np.array_equal(to_tensor_axes(tensor), ras)


def test_otsu_splits_two_populations() -> None:
    rng = np.random.default_rng(0)
    dark, bright = rng.normal(10, 2, 5000), rng.normal(60, 5, 2000)
    threshold = otsu_threshold(np.concatenate([dark, bright]).astype(np.float32))
    assert np.percentile(dark, 99.9) < threshold < np.percentile(bright, 0.1)


def test_a_spread_is_the_logarithm_of_the_quartiles_over_air_by_hand() -> None:
    """Over air, in units of the median: 0.8, 1 and 1.25 in the deep brain, so 2 log 1.25 apart."""
    deep = np.zeros((5, 5, 2), bool)
    deep[:, :, 0] = True
    over_air = np.repeat([0.8, 0.8, 1.0, 1.25, 1.25], 10).reshape(5, 5, 2)
    over_air[:, :, 1] = np.arange(25).reshape(5, 5) / 12
    spread = 2 * np.log(1.25)
    for power in (0.5, 1.0, 2.0):
        scaled = to_spread((3 * (over_air - 1)).astype(np.float32), deep, spread * power)
        expected = np.array([0.8, 0.8, 1.0, 1.25, 1.25]) ** power
        assert np.allclose(scaled[:, :, 0] / 3 + 1, expected[:, None], atol=1e-5)
        assert np.allclose(scaled[:, :, 1] / 3 + 1, over_air[:, :, 1] ** power, atol=2e-3)
    for spread_wanted, power in ((9.0, 2.5), (0.01, 0.4)):
        scaled = to_spread((3 * (over_air - 1)).astype(np.float32), deep, spread_wanted)
        assert np.allclose(scaled[:, :, 0] / 3 + 1, (over_air**power)[:, :, 0], atol=1e-5)


@pytest.mark.parametrize("value", [0.0, -3.0])
def test_a_sequence_of_one_value_keeps_its_spread(value: float) -> None:
    flat = np.full((4, 4, 4), value, np.float32)
    assert np.array_equal(to_spread(flat, np.ones((4, 4, 4), bool), 0.36), flat)


def test_head_units_ignore_outliers() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(300, 20, (20, 20, 20)).astype(np.float32)
    mask = np.ones(data.shape, dtype=bool)
    data[0, 0, :5] = 1e5
    inner = head_units(data, mask)[data < 1e4]
    assert abs(inner.mean()) < 0.05
    assert abs(inner.std() - 1) < 0.1


def test_brain_units_by_hand() -> None:
    data = np.full((10, 10, 10), 10, np.float32)  # air
    data[2:8, 2:8, 2:8] = 400  # scalp
    data[3:7, 3:7, 3:7] = 110  # brain
    data[4, 4, 4] = 150  # lesion
    deep = data == 110
    deep[4, 4, 4] = deep[0, 0, 0] = True  # air inside: this sequence ends there
    scaled = brain_units(data, deep)
    assert scaled[0, 0, 0] == pytest.approx(-3)
    assert scaled[5, 5, 5] == pytest.approx(0)
    assert scaled[4, 4, 4] == pytest.approx(3 * (140 / 100 - 1))


def test_deep_is_the_inner_part_of_a_ball_and_of_a_column() -> None:
    r, a, s = np.meshgrid(
        *[np.arange(n) * mm for n, mm in ((65, 1), (65, 1), (25, 3))], indexing="ij"
    )
    radius_mm = np.sqrt((r - 32) ** 2 + (a - 32) ** 2 + (s - 36) ** 2)
    head = radius_mm <= 30
    head[32, 32, 12] = False  # a dark ventricle is no surface
    deep = deep_mask(head, (1.0, 1.0, 3.0))
    assert np.array_equal(deep[radius_mm < 15], np.ones((radius_mm < 15).sum(), bool))
    assert not deep[radius_mm > 21].any()
    column = np.hypot(r - 32, a - 32) <= 30
    deep = deep_mask(column, (1.0, 1.0, 3.0))
    assert np.array_equal(deep[..., 0], deep[..., 12])
    assert deep[32, 32].all()


@pytest.mark.parametrize(("gain", "offset"), [(0.001, 0.0), (40.0, -1024.0)])
def test_gain_and_offset_of_a_file_do_not_matter(
    phantom: Phantom, gain: float, offset: float
) -> None:
    other = {
        name: replace(volume, data=(volume.data * gain + offset).astype(np.float32))
        for name, volume in phantom.images.items()
    }
    first, second = prepare(phantom.images, InputSpec()), prepare(other, InputSpec())
    assert np.allclose(first.image, second.image, atol=0.02)


def test_nor_does_the_offset_where_the_last_slice_seen_reaches_beyond_the_image() -> None:
    shape_vox, spacing_mm = (40, 48, 83), (3.0, 3.0, 1.0)  # 28 slices of 3 mm, in two turns
    exam = make_phantom(seed=3, shape_vox=shape_vox, spacing_mm=spacing_mm, tilt_deg=(0, 0, 0))
    flair = exam.images["FLAIR"]
    inputs = [
        prepare({"FLAIR": replace(flair, data=flair.data + np.float32(offset))}, InputSpec())
        for offset in (0.0, 1000.0, -1024.0)
    ]
    assert inputs[0].turns == 2
    for other in inputs[1:]:
        assert np.allclose(inputs[0].image, other.image, atol=0.1)


@pytest.mark.parametrize("name", ["T1", "T2"])
def test_the_contrast_of_t1s_protocol_hardly_matters_and_that_of_t2s_does(
    phantom: Phantom, name: str
) -> None:
    """Another protocol: its values over air, in units of the median, to the power of 1.4."""
    volume, k = phantom.images[name], SEQUENCES.index(name)
    over_air = np.maximum(volume.data, 0) / np.median(volume.data[phantom.brain])
    other = {**phantom.images, name: replace(volume, data=(over_air**1.4).astype(np.float32))}
    unlike = {}
    for spread in (0.36, 0):
        spec = InputSpec(t1_spread=spread)
        before, after = (prepare(exam, spec).image for exam in (phantom.images, other))
        *others, unlike[spread] = np.roll(np.abs(before - after).mean(axis=(1, 2, 3)), 2 - k)
        assert others == [0, 0]
    assert unlike[0] > 0.05
    assert (unlike[0.36] < 0.3 * unlike[0]) == (name == "T1")


def test_the_skull_does_not_move_the_brains_grey_values(phantom: Phantom) -> None:
    flair = phantom.images["FLAIR"]
    values = []
    for data in (flair.data, flair.data * phantom.brain):
        seen = prepare({"FLAIR": replace(flair, data=data)}, InputSpec())
        brain = resample(phantom.brain.astype(np.float32), flair.grid, seen.grid) > 0.99
        values.append(np.percentile(seen.image[2][to_tensor_axes(brain)], (10, 50, 90)))
    assert np.allclose(values[0], values[1], atol=0.15)


@pytest.mark.parametrize(
    ("slice_mm", "thin_mm", "turns"), [(1.0, 1.5, 2), (2.0, 1.5, 2), (2.0, 0.0, 1), (1.0, 1.0, 3)]
)
@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR"])
def test_thin_slices_are_seen_thick_and_overlapping(
    orientation: str, slice_mm: float, thin_mm: float, turns: int
) -> None:
    # 3 mm along R and A, whichever array axis they are: only the step along S counts
    shape = {"R": 40, "L": 40, "A": 48, "P": 48, "S": 84, "I": 84}
    step = {"R": 3.0, "L": 3.0, "A": 3.0, "P": 3.0, "S": slice_mm, "I": slice_mm}
    exam = make_phantom(
        seed=3,
        orientation=orientation,
        shape_vox=tuple(shape[letter] for letter in orientation),
        spacing_mm=tuple(step[letter] for letter in orientation),
        tilt_deg=(0.0, 0.0, 0.0),
    )
    spec = InputSpec(thin_mm=thin_mm)
    assert spec.turns_of(exam.grid) == turns
    flair = exam.images["FLAIR"]
    seen = prepare({"FLAIR": flair}, spec)
    assert seen.turns == turns
    assert seen.mirrored == (turns == 1)
    assert seen.grid.spacing_mm == pytest.approx((1, 1, 3 / turns))
    for turn in range(turns):  # each turn is a stack of slices of 3 mm, at its own place
        affine = seen.grid.affine.copy()
        affine[:3, 3] += turn * affine[:3, 2]
        affine[:3, 2] *= turns
        n_r, n_a, n_s = seen.grid.shape
        place = Grid((n_r, n_a, len(range(turn, n_s, turns))), affine)
        stack = to_tensor_axes(resample(flair.data, flair.grid, place))
        values = seen.image[2, turn::turns]
        inside = (values > -2) & (values < 4)  # neither air nor cut off
        fit = np.polyfit(stack[inside], values[inside], 1)
        assert np.allclose(np.polyval(fit, stack[inside]), values[inside], atol=0.01)


def test_thick_slices_are_seen_at_once(phantom: Phantom) -> None:
    assert phantom.grid.axial_mm > 2.3
    assert InputSpec().turns_of(phantom.grid) == 1


def test_head_mask_covers_the_brain_and_leaves_air(phantom: Phantom) -> None:
    flair = phantom.images["FLAIR"]
    mask = head_mask(flair.data, flair.grid.spacing_mm)
    core = binary_erosion(phantom.brain, iterations=2)
    assert mask[core].mean() > 0.9
    assert not mask[0].any()


def test_a_stripped_exam_keeps_its_brain(phantom: Phantom) -> None:
    flair = phantom.images["FLAIR"]
    mask = head_mask(flair.data * phantom.brain, flair.grid.spacing_mm)
    assert mask[binary_erosion(phantom.brain, iterations=2)].mean() > 0.85


def test_input_holds_every_lesion_and_comes_back_where_it_was(phantom: Phantom) -> None:
    flair = phantom.images["FLAIR"]
    seen = prepare(phantom.images, InputSpec())
    assert seen.image.shape == (3, *seen.grid.shape[::-1])
    lesion = to_tensor_axes(resample(phantom.lesion, flair.grid, seen.grid))
    back = to_flair_grid(lesion, seen.grid, flair.grid) > 0.5
    assert back.shape == flair.grid.shape
    both = 2 * (back & phantom.lesion).sum() / (back.sum() + phantom.lesion.sum())
    assert both > 0.95


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "SAR", "PIL"])
def test_orientation_of_the_file_does_not_matter(orientation: str) -> None:
    same = {"seed": 3, "tilt_deg": (0.0, 0.0, 0.0), "spacing_mm": (2.0, 2.0, 2.0)}
    axes = {"R": 80, "L": 80, "A": 96, "P": 96, "S": 84, "I": 84}
    reference = make_phantom(shape_vox=(80, 96, 84), orientation="RAS", **same)
    shape = tuple(axes[letter] for letter in orientation)
    turned = make_phantom(shape_vox=shape, orientation=orientation, **same)
    volumes = {
        name: _turn_like(reference.images[name], turned.images[name].grid) for name in ("FLAIR",)
    }
    straight = prepare({"FLAIR": reference.images["FLAIR"]}, InputSpec())
    other = prepare(volumes, InputSpec())
    assert other.grid.matches(straight.grid)
    assert np.abs(other.image - straight.image).max() < 0.02


def _turn_like(volume: Volume, grid: Grid) -> Volume:
    """Store the same voxels in another axis order, by nearest lookup of each voxel's position."""
    vox = np.indices(grid.shape).reshape(3, -1)
    world = grid.affine[:3, :3] @ vox + grid.affine[:3, 3:]
    back = np.linalg.inv(volume.grid.affine)
    source = np.rint(back[:3, :3] @ world + back[:3, 3:]).astype(int)
    data = volume.data[tuple(source)].reshape(grid.shape)
    return replace(volume, data=data, grid=grid, header=Nifti1Header())


def test_a_missing_sequence_is_zero(phantom: Phantom) -> None:
    exam = {"FLAIR": phantom.images["FLAIR"], "T2": phantom.images["T2"]}
    image = prepare(exam, InputSpec()).image
    assert not image[0].any()
    assert image[1].any()
    assert image[2].any()


@pytest.mark.parametrize("units", [brain_units, head_units])
@pytest.mark.parametrize("factor", [1e-15, 1e-9, 1e9])
def test_units_do_not_depend_on_the_scanners(units, factor: float) -> None:
    data = np.random.default_rng(0).gamma(2, 100, (9, 9, 9)).astype(np.float32)
    everywhere = np.ones(data.shape, bool)
    expected = units(data, everywhere)
    np.testing.assert_allclose(units(data * np.float32(factor), everywhere), expected, atol=1e-4)
