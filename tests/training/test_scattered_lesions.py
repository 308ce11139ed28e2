"""Lesion masks of nobody."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from crude_exams import write_case
from scipy.ndimage import label
from scripts import run

from rsaseg.imaging import Grid
from rsaseg.training.cases import find_cases


@pytest.fixture(scope="module")
def scattered(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("scattered_lesions")


@pytest.mark.parametrize("spacing_mm", [(1, 1, 1), (0.8, 1.2, 5)])
def test_lesions_are_small_and_many_and_in_white_matter(
    scattered: ModuleType, spacing_mm: tuple[float, float, float]
) -> None:
    """Sparse enough that lesions seldom meet, so that the pieces tell what was drawn."""
    shape = np.round(90 / np.array(spacing_mm)).astype(int)
    grid = Grid(tuple(shape.tolist()), np.diag([*spacing_mm, 1]))
    axes = np.indices(grid.shape)
    halves = (axes[0] < shape[0] // 2) & (axes[2] > shape[2] // 4)
    n, volumes_mm3 = [], []
    for seed in range(3):
        mask = scattered.scatter_lesions(halves, grid, np.random.default_rng(seed))
        assert not (mask & ~halves).any()
        pieces, count = label(mask, np.ones((3, 3, 3)))
        n.append(count)
        volumes_mm3 += (np.bincount(pieces.ravel())[1:] * grid.voxel_mm3).tolist()
    assert 10 < min(n) < max(n) < 250  # some fall in two
    assert 8 < np.median(volumes_mm3) < 50
    assert max(volumes_mm3) < 6000


def test_lesions_are_as_large_as_drawn_and_hardly_in_pieces(
    scattered: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scattered, "N_LESIONS", (1, 2))
    monkeypatch.setattr(scattered, "MEDIAN_MM3", 800.0)
    monkeypatch.setattr(scattered, "SPREAD", 0.0)
    grid = Grid((60, 60, 20), np.diag([1, 1, 4, 1]))
    spreads_mm = []
    for seed in range(10):
        mask = scattered.scatter_lesions(
            np.ones(grid.shape, bool), grid, np.random.default_rng(seed)
        )
        assert mask.sum() == 200
        pieces, _ = label(mask, np.ones((3, 3, 3)))
        assert np.bincount(pieces.ravel())[1:].max() > 150
        spreads_mm.append((np.argwhere(mask) * grid.spacing_mm).std(axis=0))
    assert np.allclose(np.mean(spreads_mm, axis=0), 3, atol=1.2)  # a ball's is 2.6


def test_masks_lie_on_the_scans_grid_and_come_again(
    scattered: ModuleType, benchmark: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    away_vox = np.sqrt(sum((i - 20) ** 2 for i in np.indices((40, 40, 40))))
    brain = away_vox < 17
    exam = {
        name: (brain * (100 + rng.normal(0, 1, brain.shape))).astype(np.float32)
        for name in ("T1", "T2", "FLAIR")
    }
    lesion = (away_vox < 3).astype(np.uint8)
    exam["FLAIR"] += 50 * lesion
    scan = write_case(tmp_path / "labelled/anna", exam | {"lesion": lesion}, (1, 1, 1))

    for folder in ("once", "again"):
        run(scattered, f"{scan} --count 2 -o {tmp_path / folder}")
    run(scattered, f"{scan} --count 1 --seed 2 -o {tmp_path / 'others'}")
    first, second, again, other = (
        nib.load(tmp_path / path).get_fdata()
        for path in (
            "once/scattered-01.nii.gz",
            "once/scattered-02.nii.gz",
            "again/scattered-01.nii.gz",
            "others/scattered-01.nii.gz",
        )
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, other)
    assert not first[~brain].any()
    painted = f"{scan} --masks {tmp_path / 'once'} -o {tmp_path / 'made'}"
    run(benchmark("lesions_of_others"), painted)
    assert [case.name for case in find_cases([tmp_path / "made"])] == [
        "anna-made-01",
        "anna-made-02",
    ]
