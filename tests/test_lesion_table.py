"""The lesion table, against lesions a person can measure."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import center_of_mass

from rsaseg.imaging import Grid, read_mask
from rsaseg.lesions import find_lesions
from rsaseg.report.lesion_table import (
    LESION_COLUMNS,
    describe_lesions,
    diameter_mm,
    lesion_tsv,
    slice_axis,
)

# array axes run to the left, up and to the front, with voxels of 1 x 5 x 2 mm
AFFINE = np.array([[-1.0, 0, 0, 50], [0, 0, 2, -30], [0, 5, 0, 10], [0, 0, 0, 1]])


def test_two_lesions_measured_by_hand() -> None:
    labels = np.zeros((10, 6, 8), dtype=np.int32)
    labels[2:5, 1, 3] = 1
    labels[7, 2:5, 6] = 2
    probability = np.zeros(labels.shape, dtype=np.float32)
    probability[2:5, 1, 3] = 0.5, 0.75, 1.0
    first, second = describe_lesions(labels, Grid((10, 6, 8), AFFINE), probability)
    assert (first.label, second.label) == (1, 2)
    assert first.volume_ml == second.volume_ml == pytest.approx(0.03)
    assert first.diameter_mm == pytest.approx(math.sqrt(3**2 + 5**2 + 2**2))
    assert second.diameter_mm == pytest.approx(math.sqrt(1**2 + 15**2 + 2**2))
    assert (first.centroid_i_vox, first.centroid_j_vox, first.centroid_k_vox) == (3, 1, 3)
    assert (first.centroid_r_mm, first.centroid_a_mm, first.centroid_s_mm) == (47, -24, 15)
    assert (second.first_slice, second.last_slice, second.n_slices) == (2, 4, 3)  # 5 mm slices
    assert (first.mean_probability, first.max_probability) == (0.75, 1.0)
    assert math.isnan(describe_lesions(labels, Grid((10, 6, 8), AFFINE))[0].max_probability)


def test_probability_is_that_of_the_lesions_own_voxels() -> None:
    labels = np.zeros((2, 2, 2), dtype=np.int32)
    labels[0, 0, 0] = labels[1, 1, 1] = 1  # touch at a corner; the rest of the box is not theirs
    probability = np.where(labels > 0, 0.5, 0.9)
    (lesion,) = describe_lesions(labels, Grid((2, 2, 2), np.eye(4)), probability)
    assert (lesion.mean_probability, lesion.max_probability) == (0.5, 0.5)


def test_slices_are_the_thick_ones_and_axial_where_all_are_alike() -> None:
    assert slice_axis(Grid((4, 4, 4), np.diag([5.0, 1, 1, 1]))) == 0
    assert slice_axis(Grid((4, 4, 4), np.diag([1.0, 1, 1, 1]))) == 2
    assert slice_axis(Grid((4, 4, 4), np.diag([1.05, 1, 1, 1]))) == 2
    assert slice_axis(Grid((4, 4, 4), AFFINE[:, [1, 0, 2, 3]] / [5, 1, 2, 1])) == 0


lesions = arrays(bool, (4, 3, 5), elements=st.booleans()).filter(lambda mask: bool(mask.any()))


@settings(deadline=None, max_examples=50)
@given(lesions)
def test_diameter_equals_that_of_all_pairs_of_corners(mask: NDArray[np.bool_]) -> None:
    affine = np.array([[0.8, 0.1, 0.3, 5], [-0.1, 1.2, 0, 6], [0.2, 0, 3, 7], [0, 0, 0, 1.0]])
    voxels = np.argwhere(mask)
    steps = np.array([[i, j, k] for i in (-0.5, 0.5) for j in (-0.5, 0.5) for k in (-0.5, 0.5)])
    corners_mm = apply_affine(affine, (voxels[:, None] + steps).reshape(-1, 3))
    slow_mm = np.linalg.norm(corners_mm[:, None] - corners_mm[None], axis=2).max()
    assert diameter_mm(voxels, Grid((4, 3, 5), affine)) == pytest.approx(slow_mm, abs=1e-9)


def test_table_as_text() -> None:
    labels = np.zeros((3, 3, 3), dtype=np.int32)
    labels[1, 1, 1] = 1
    found = describe_lesions(labels, Grid((3, 3, 3), np.diag([0.5, 1, 1, 1])))
    header, row = lesion_tsv(found).decode().splitlines()
    assert header.split("\t") == list(LESION_COLUMNS)
    assert row.split("\t") == [
        "1",
        "0.0005",
        "1.5",
        "0.5",
        "1",
        "1",
        "1",
        "1",
        "1",
        "1",
        "1",
        "1",
        *("n/a", "n/a", "unknown"),
        *("n/a", "n/a", "n/a"),
        "no",
    ]
    assert all(entry["Description"] for entry in LESION_COLUMNS.values())


def test_a_mask_without_lesions_has_a_header_alone() -> None:
    none = describe_lesions(np.zeros((2, 2, 2), dtype=np.int32), Grid((2, 2, 2), np.eye(4)))
    assert none == []
    assert lesion_tsv(none).decode() == "\t".join(LESION_COLUMNS) + "\n"


def test_a_patients_lesions(labelled: Path) -> None:
    mask, grid = read_mask(labelled / "tabriz-02" / "lesion.nii.gz")
    labels, n = find_lesions(mask, grid)
    found = describe_lesions(labels, grid, mask.astype(np.float32))
    assert len(found) == n
    assert sum(lesion.volume_ml for lesion in found) == pytest.approx(
        mask.sum() * grid.voxel_mm3 / 1e3
    )
    assert {(lesion.mean_probability, lesion.max_probability) for lesion in found} == {(1.0, 1.0)}
    middles = center_of_mass(mask, labels, range(1, n + 1))
    ours = [(row.centroid_i_vox, row.centroid_j_vox, row.centroid_k_vox) for row in found]
    np.testing.assert_allclose(ours, middles, atol=1e-9)
