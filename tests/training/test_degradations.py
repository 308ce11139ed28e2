"""The benchmarks of weights: exams degraded as they say, and folds kept apart."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.nifti1 import Nifti1Header

from rsaseg.imaging import Grid, Volume
from rsaseg.training.cases import CaseFiles

GRID = Grid((20, 24, 12), np.array([[-1.0, 0, 0, 9], [0, 1, 0, -7], [0, 0, 1, 3], [0, 0, 0, 1]]))


@pytest.fixture(scope="module", params=["robustness", "lesion_free"])
def either(request: pytest.FixtureRequest) -> ModuleType:
    return load(request.param)


def load(name: str) -> ModuleType:
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def robustness() -> ModuleType:
    return load("robustness")


def make_exam() -> tuple[dict[str, Volume], np.ndarray]:
    """Three noisy grey exams with a bright cube, which is the lesion."""
    rng = np.random.default_rng(3)
    lesion = np.zeros(GRID.shape, bool)
    lesion[6:10, 9:13, 3:9] = True
    exam = {
        name: Volume(
            (100 + rng.normal(0, 2, GRID.shape) + 60 * lesion).astype(np.float32),
            GRID,
            Nifti1Header(),
            name,
        )
        for name in ("T1", "T2", "FLAIR")
    }
    return exam, lesion


def centre_mm(mask: np.ndarray, grid: Grid) -> np.ndarray:
    return apply_affine(grid.affine, np.argwhere(mask)).mean(axis=0)


def test_thick_slices_average_thin_ones_in_place(robustness: ModuleType) -> None:
    exam, lesion = make_exam()
    thick, mask = robustness.thick_slices(exam, lesion, 3)
    assert np.allclose(thick["T2"].data[:, :, 1], exam["T2"].data[:, :, 3:6].mean(axis=2))
    assert thick["T2"].grid.spacing_mm == pytest.approx((1, 1, 3))
    assert np.allclose(centre_mm(mask, thick["T2"].grid), centre_mm(lesion, GRID))


def test_turned_axes_lose_nothing(robustness: ModuleType) -> None:
    exam, lesion = make_exam()
    turned, mask = robustness.turned_axes(exam, lesion, "PSR")
    grid = turned["T1"].grid
    assert grid.shape == (24, 12, 20)
    assert np.allclose(centre_mm(mask, grid), centre_mm(lesion, GRID))
    value = exam["T1"].data[2, 5, 7]
    there = np.argwhere(turned["T1"].data == value)[0]
    assert np.allclose(apply_affine(grid.affine, there), apply_affine(GRID.affine, (2, 5, 7)))


def test_only_t1_and_t2_are_misaligned(robustness: ModuleType) -> None:
    exam, lesion = make_exam()
    moved = robustness.misaligned(exam, 2.0)
    assert np.array_equal(moved["FLAIR"].data, exam["FLAIR"].data)
    assert np.allclose(moved["T1"].data[2:], exam["T1"].data[:-2])
    assert np.allclose(moved["T2"].data[:, 2:], exam["T2"].data[:, :-2])
    assert lesion.any()


def test_grey_values_stay_in_order(robustness: ModuleType) -> None:
    exam, _ = make_exam()
    bent = robustness.contrasted(exam, 0.8)["FLAIR"].data.ravel()
    order = np.argsort(exam["FLAIR"].data.ravel())
    assert (np.diff(bent[order]) >= -1e-3).all()
    assert not np.allclose(bent, exam["FLAIR"].data.ravel(), atol=1)


def test_shading_and_noise_are_as_strong_as_said(robustness: ModuleType) -> None:
    exam, _ = make_exam()
    ratio = robustness.shaded(exam, 0.2)["T1"].data / exam["T1"].data
    assert ratio.min() >= 0.8 - 1e-3
    assert ratio.max() <= 1.2 + 1e-3
    assert ratio.max() - ratio.min() > 0.15
    added = robustness.noisy(exam, 0.05)["T1"].data - exam["T1"].data
    assert added.std() == pytest.approx(0.05 * exam["T1"].data.std(), rel=0.03)


def test_filled_lesions_look_like_what_is_around() -> None:
    exam, lesion = make_exam()
    without, filled = load("lesion_free").fill_lesions(exam, lesion)
    assert filled[lesion].all()
    for name, volume in without.items():
        assert np.array_equal(volume.data[~filled], exam[name].data[~filled])
        assert volume.data[filled].mean() == pytest.approx(100, abs=0.5)
        assert volume.data[filled].std() == pytest.approx(2, abs=0.4)


def test_no_case_meets_a_network_that_saw_its_patient(
    either: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a-t1", "a-t2", "b", "c", "d"]
    cases = [CaseFiles(name, {}, Path(name)) for name in names]
    home = load("robustness")
    monkeypatch.setattr(home, "load_model", lambda path: path)
    monkeypatch.setattr(home, "find_cases", lambda folders: cases)
    options = Namespace(weights=["fold-0", "fold-1"], data=[], only=None)
    dealt = {files.name: model for files, model in either.unseen_cases(options)}
    assert dealt == {
        "a-t1": "fold-0",
        "a-t2": "fold-0",
        "b": "fold-1",
        "c": "fold-0",
        "d": "fold-1",
    }
    options = Namespace(weights=["one"], data=[], only=["b"])
    assert [files.name for files, _ in either.unseen_cases(options)] == ["b"]


def test_a_degradation_is_compared_on_its_own_cases(
    robustness: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [("x-1", "as it is", 0.5), ("x-2", "as it is", 0.7), ("y-1", "as it is", 0.9)]
    robustness.print_table([*rows, ("x-2", "worse", 0.4)])
    printed = capsys.readouterr().out
    assert "| as it is | 0.600 (0.600, 2) | 0.900 (0.900, 1) | 0.700 (0.700, 3) |" in printed
    assert "| worse | 0.400 (0.700, 1) |  | 0.400 (0.700, 1) |" in printed
