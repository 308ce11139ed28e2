"""Contrast as evidence: by hand on a small grid, and against SciPy's logit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.nifti1 import Nifti1Header
from scipy.special import logit

from rsaseg.imaging import Grid, Volume
from rsaseg.inference.contrast import lesion_contrast, weigh_contrast

GRID = Grid((40, 9, 9), np.diag([1.0, 1.0, 3.0, 1.0]))
LESION, RIM, FAT = slice(4, 8), 8, slice(30, 40)


def volume(data: np.ndarray) -> Volume:
    return Volume(data.astype(np.float32), GRID, Nifti1Header(), "flair")


@pytest.fixture
def exam() -> tuple[np.ndarray, np.ndarray]:
    """Probability and FLAIR: a lesion of 200 in tissue of 100, its rim half way; fat far away."""
    probability, flair = np.full(GRID.shape, 0.01), np.full(GRID.shape, 100.0)
    probability[LESION], flair[LESION] = 0.9, 200.0
    probability[RIM], flair[RIM] = 0.4, 150.0
    flair[FAT] = 900.0
    return probability, flair


def test_contrast_is_measured_by_the_exams_own_lesions(exam: tuple[np.ndarray, ...]) -> None:
    probability, flair = exam
    flair[20] = 125.0
    flair[5, 4, 4] = 260.0
    flair[22] = 40.0
    contrast = lesion_contrast(probability, volume(flair))
    assert contrast is not None
    assert contrast.dtype == np.float32
    along = contrast[:, 4, 4]
    np.testing.assert_allclose(along[[2, 5, 6, RIM, 12, 20, 22, 35]], [0, 1, 1, 0.5, 0, 0.25, 0, 1])


def test_tissue_is_around_up_to_6_mm_whatever_the_slices() -> None:
    shape = (30, 30, 9)
    probability, flair = np.full(shape, 0.01), np.full(shape, 500.0)
    flair[7:24, 7:24, 1:8] = 100.0  # 6 mm to either side of the lesion
    flair[8:23, 8:23, 2:7] = 150.0  # the median is 100 with all of the outermost, and with it alone
    flair[10:21, 10:21, 3:6] = 100.0
    probability[13:18, 13:18, 3:6], flair[13:18, 13:18, 3:6] = 0.9, 200.0
    grid = Grid(shape, GRID.affine)
    contrast = lesion_contrast(probability, replace(volume(flair), grid=grid))
    assert contrast is not None
    assert contrast[9, 9, 2] == 0.5


@given(st.floats(0.01, 1000), st.floats(-1000, 1000))
def test_units_of_the_image_do_not_matter(scale: float, offset: float) -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(GRID.shape) ** 3
    flair = rng.normal(100, 20, GRID.shape) + 50 * probability
    plain = lesion_contrast(probability, volume(flair))
    other = lesion_contrast(probability, volume(flair * scale + offset))
    assert plain is not None
    assert other is not None
    np.testing.assert_allclose(other, plain, atol=0.01)


@pytest.mark.parametrize(("sure_vox", "told"), [(33, False), (34, True)])  # 3 mm3 each
def test_a_tenth_of_a_millilitre_must_be_sure(
    exam: tuple[np.ndarray, ...], sure_vox: int, told: bool
) -> None:
    probability, flair = exam
    probability[probability > 0.8] = 0.7
    probability[LESION].ravel()[:sure_vox] = 0.9
    assert (lesion_contrast(probability, volume(flair)) is not None) == told


def test_without_sure_lesions_there_is_no_contrast(exam: tuple[np.ndarray, ...]) -> None:
    probability, flair = exam
    assert lesion_contrast(probability * 0.5, volume(flair)) is None
    assert lesion_contrast(np.full(GRID.shape, 0.9), volume(flair)) is None
    assert lesion_contrast(probability, volume(-flair)) is None
    assert weigh_contrast(probability, None, 2.0) is probability


@given(st.floats(0, 5), st.integers(0, 2**32 - 1))
def test_the_logit_moves_by_the_weighed_contrast(weight: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probability, contrast = rng.uniform(0.0101, 0.999, 50), rng.random(50).astype(np.float32)
    weighed = weigh_contrast(probability, contrast, weight)
    expected = weight * (contrast.astype(np.float64) - 0.5)
    np.testing.assert_allclose(logit(weighed) - logit(probability), expected, atol=1e-5)


def test_what_is_certain_stays_so() -> None:
    certain = np.array([0, 0, 0.01, 0.01, 1, 1], np.float32)
    contrast = np.array([0, 1] * 3, np.float32)
    weighed = weigh_contrast(certain, contrast, 2.0)
    np.testing.assert_array_equal(weighed, certain)
    assert weighed is not certain
    assert weighed.dtype == np.float32
