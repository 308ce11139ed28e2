"""The one definition of a lesion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from rsaseg.errors import GeometryError
from rsaseg.imaging import Grid
from rsaseg.lesions import Cut, bounding_box, cut_lesions, find_lesions


def grid_of(shape: tuple[int, ...], spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> Grid:
    return Grid((shape[0], shape[1], shape[2]), np.diag([*spacing_mm, 1.0]))


def flood_fill(mask: NDArray[np.bool_]) -> list[set[tuple[int, ...]]]:
    """Find components the slow way: walk from every voxel to its 26 neighbours."""
    left = {tuple(int(i) for i in v) for v in np.argwhere(mask)}
    found = []
    while left:
        todo = [min(left)]
        seen = set(todo)
        while todo:
            here = todo.pop()
            for step in np.ndindex(3, 3, 3):
                there = tuple(h + s - 1 for h, s in zip(here, step, strict=True))
                if there in left and there not in seen:
                    seen.add(there)
                    todo.append(there)
        left -= seen
        found.append(seen)
    return found


def test_voxels_that_touch_at_a_corner_are_one_lesion() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    mask[3, 3, 3] = True  # one voxel of gap
    labels, n = find_lesions(mask, grid_of(mask.shape))
    assert n == 2
    assert labels.dtype == np.int32
    assert labels[0, 0, 0] == labels[1, 1, 1] == 1
    assert labels[3, 3, 3] == 2
    assert np.count_nonzero(labels) == 3


def test_the_largest_lesion_is_number_one() -> None:
    mask = np.zeros((9, 3, 3), dtype=np.uint8)
    mask[0] = 1
    mask[2, 0, 0] = 1
    mask[4:6] = 1
    mask[8, 2, 2] = 1
    labels, n = find_lesions(mask, grid_of(mask.shape))
    assert n == 4
    assert [labels[i].max() for i in (4, 0, 2, 8)] == [1, 2, 3, 4]


def test_minimum_volume_is_in_mm3_and_inclusive() -> None:
    mask = np.zeros((8, 1, 1), dtype=bool)
    mask[0:3] = True
    mask[4:6] = True
    mask[7] = True
    grid = grid_of(mask.shape, (0.5, 2.0, 1.5))  # 1.5 mm3 a voxel: lesions of 4.5, 3.0, 1.5 mm3
    assert [find_lesions(mask, grid, v)[1] for v in (0, 1.5, 1.6, 3.0, 3.1, 4.5, 4.6)] == [
        *(3, 3, 2, 2, 1, 1, 0)
    ]


def test_spacing_stored_in_single_precision_keeps_a_lesion_of_the_minimum() -> None:
    mask = np.ones((3, 1, 1), dtype=bool)
    spacing = np.float32(0.9999999)
    assert find_lesions(mask, grid_of(mask.shape, (spacing, 1, 1)), 3.0)[1] == 1


def test_no_lesions() -> None:
    mask = np.zeros((2, 3, 4), dtype=bool)
    labels, n = find_lesions(mask, grid_of(mask.shape))
    assert n == 0
    assert labels.shape == mask.shape
    assert not labels.any()
    assert bounding_box(mask) is None


def test_another_grid_is_refused() -> None:
    with pytest.raises(GeometryError, match="grid"):
        find_lesions(np.zeros((2, 3, 4), dtype=bool), grid_of((4, 3, 2)))


masks = arrays(bool, st.tuples(*[st.integers(1, 6)] * 3), elements=st.booleans())


@settings(deadline=None, max_examples=60)
@given(masks, st.integers(0, 9))
def test_same_components_as_a_flood_fill(mask: NDArray[np.bool_], min_vox: int) -> None:
    expected = [c for c in flood_fill(mask) if len(c) >= min_vox]
    labels, n = find_lesions(mask, grid_of(mask.shape), float(min_vox))
    found = [{tuple(int(i) for i in v) for v in np.argwhere(labels == k + 1)} for k in range(n)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
    sizes = [len(c) for c in found]
    assert sizes == sorted(sizes, reverse=True)
    box = bounding_box(mask)
    if box is not None:
        voxels = np.argwhere(mask)
        assert [s.start for s in box] == voxels.min(0).tolist()
        assert [s.stop for s in box] == (voxels.max(0) + 1).tolist()


tenths = arrays(np.float32, st.tuples(*[st.integers(1, 6)] * 3), elements=st.integers(0, 10))


@settings(max_examples=60)
@given(tenths, st.integers(0, 9), st.integers(0, 10), st.integers(0, 4))
def test_a_lesion_is_over_the_threshold_and_somewhere_over_the_peak(
    tenth: NDArray[np.float32], threshold: int, peak: int, min_vox: int
) -> None:
    expected = [
        c
        for c in flood_fill(tenth > threshold)
        if len(c) >= min_vox and max(tenth[v] for v in c) > peak
    ]
    cut = Cut(threshold / 10 + 0.05, peak / 10 + 0.05, min_vox)
    labels, n = cut_lesions(tenth / 10, grid_of(tenth.shape), cut)
    found = [{tuple(int(i) for i in v) for v in np.argwhere(labels == k + 1)} for k in range(n)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
