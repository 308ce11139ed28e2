"""Which way up, which slices, and outlines, against pictures a person can draw."""

from __future__ import annotations

import re
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nibabel.orientations import apply_orientation as reorient
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform
from numpy.typing import NDArray

from rsaseg.imaging import Grid
from rsaseg.report.slices import (
    choose_slices,
    crop_to,
    grey_levels,
    home_slices,
    lesion_areas,
    outline,
    shrink,
    view_of,
)

CODES = [
    "".join(end[sign] for end, sign in zip(order, signs, strict=True))
    for order in permutations(("RL", "AP", "SI"))
    for signs in product((0, 1), repeat=3)
]


@pytest.mark.parametrize("codes", CODES)
def test_a_head_looks_the_same_however_its_file_is_stored(codes: str) -> None:
    ras = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    turn = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored = reorient(ras, turn)
    view = view_of(Grid(stored.shape, affine @ inv_ornt_aff(turn, ras.shape)))
    picture = view.show(stored)
    # slices from the stored end, front at the top, the patient's right on the left
    up = ras[:, ::-1][::-1].transpose(2, 1, 0)
    np.testing.assert_array_equal(picture, up if "S" in codes else up[::-1])
    assert view.edges == ("A", "P", "R", "L")
    assert view.spacing_mm == (2.0, 2.0)


@pytest.mark.parametrize(
    ("spacing_mm", "edges", "corner"),
    [
        ((5, 1, 2), ("S", "I", "A", "P"), (0, -1, -1)),
        ((1, 5, 2), ("S", "I", "R", "L"), (-1, 0, -1)),
    ],
)
def test_sagittal_and_coronal_slices(
    spacing_mm: tuple[int, int, int], edges: tuple[str, ...], corner: tuple[int, int, int]
) -> None:
    view = view_of(Grid((3, 4, 5), np.diag([*spacing_mm, 1.0])))
    data = np.zeros((3, 4, 5))
    data[corner] = 1
    assert view.edges == edges
    assert view.show(data)[0, 0, 0] == 1


def test_every_lesion_is_shown_where_it_is_large() -> None:
    labels = np.zeros((40, 6, 6), dtype=np.int32)
    labels[10:13, 0, 0] = 1
    labels[12, 0, 1] = 1
    labels[12, 3, 3] = 2
    labels[30, 5, 5] = 3
    areas = lesion_areas(labels)
    assert areas.shape == (4, 40)
    assert areas[1, 9:14].tolist() == [0, 1, 1, 2, 0]
    assert choose_slices(areas, usual=2) == [12, 30]
    assert choose_slices(areas) == [10, 11, 12, 30]  # few enough to show them all
    assert home_slices(areas, [12, 30]) == {1: 12, 2: 12, 3: 30}
    assert choose_slices(areas, usual=1, most=1) == [12]
    assert home_slices(areas, [12]) == {1: 12, 2: 12}


def test_slices_without_lesions_are_spread_over_the_head() -> None:
    shown = choose_slices(lesion_areas(np.zeros((41, 2, 2), dtype=np.int32)))
    assert shown == [10, 14, 18, 22, 26, 30]
    assert choose_slices(lesion_areas(np.zeros((1, 2, 2), dtype=np.int32))) == [0]


def test_crop_keeps_a_margin_inside_the_picture() -> None:
    mask = np.zeros((3, 20, 20), dtype=bool)
    mask[1, 5:8, 2] = True
    assert crop_to(mask, 3) == (slice(None), slice(2, 11), slice(0, 6))
    assert np.zeros((3, 20, 20))[crop_to(np.zeros_like(mask), 3)].shape == (3, 20, 20)


def test_grey_levels_span_the_head_and_stay_in_range() -> None:
    data = np.linspace(0, 100, 1001, dtype=np.float32).reshape(1, 7, 143)
    everywhere = np.ones(data.shape, dtype=bool)
    grey = grey_levels(data, everywhere, ~everywhere)
    assert (grey.min(), grey.max()) == (0, 255)
    assert (np.diff(grey.ravel().astype(int)) >= 0).all()
    nowhere = np.zeros((1, 2, 2), bool)
    assert grey_levels(np.zeros((1, 2, 2), np.float32), nowhere, nowhere).max() == 0


def test_fat_does_not_leave_the_brain_dark() -> None:
    deep = np.zeros((20, 20, 20), dtype=bool)
    deep[5:15, 5:15, 5:15] = True
    fat = np.where(deep, 100, 1000).astype(np.float32)
    fat[0] = 0
    everywhere = np.ones_like(deep)
    for chosen, level in ((deep, round(255 / 2.2)), (~everywhere, round(255 / 10))):
        grey = grey_levels(fat, everywhere, chosen)
        assert np.unique(grey[deep]) == level
        assert grey.max() == 255


def test_large_pictures_shrink_over_the_same_field() -> None:
    step = np.zeros((512, 400), dtype=np.uint8)
    step[:, 200:] = 200
    small = shrink(step)
    assert small.shape == (256, 200)
    assert set(np.unique(small[:, :99])) == {0}
    assert set(np.unique(small[:, 101:])) == {200}
    assert shrink(small) is small
    fine = np.tile(np.uint8([0, 200]), (512, 256))  # each new pixel covers one dark and one bright
    np.testing.assert_array_equal(shrink(fine), np.full((256, 256), 100))


def test_outline_of_one_voxel() -> None:
    assert outline(np.ones((1, 1), dtype=bool), 7, 3) == "M3 7h1M3 8h1M3 7v1M4 7v1"


def filled(path: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill a path by counting the upright edges to the left of each voxel."""
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=int)
    for x, y, length in re.findall(r"M(\d+) (\d+)v(\d+)", path):
        crossings[int(y) : int(y) + int(length), int(x)] += 1
    inside: NDArray[np.bool_] = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    return inside


@given(arrays(bool, (5, 7), elements=st.booleans()))
def test_an_outline_filled_is_the_mask(mask: NDArray[np.bool_]) -> None:
    path = outline(mask)
    np.testing.assert_array_equal(filled(path, (5, 7)), mask)
    turned = re.sub(
        r"M(\d+) (\d+)([hv])", lambda m: f"M{m[2]} {m[1]}{'v' if m[3] == 'h' else 'h'}", path
    )
    np.testing.assert_array_equal(filled(turned, (7, 5)), mask.T)
