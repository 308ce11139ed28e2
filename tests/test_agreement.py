"""Statistics over a cohort, against published figures and hand-made samples."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.stats import pearsonr

from rsaseg.scoring.agreement import (
    bland_altman,
    intraclass_correlation,
    mean_defined,
    paired_difference,
    pearson,
    percentile_interval,
    resample_patients,
)

# Shrout and Fleiss 1979, table 2: six subjects, four judges; ICC(2,1) = .29 (table 4)
SHROUT_FLEISS = np.array(
    [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float
)


def test_intraclass_correlation_of_shrout_and_fleiss() -> None:
    assert intraclass_correlation(SHROUT_FLEISS) == pytest.approx(0.29, abs=0.005)
    # from the same paper's mean squares, table 3: 11.24 (subjects), 32.49 (judges), 1.02 (rest)
    by_hand = (11.24 - 1.02) / (11.24 + 3 * 1.02 + 4 / 6 * (32.49 - 1.02))
    assert intraclass_correlation(SHROUT_FLEISS) == pytest.approx(by_hand, abs=2e-4)


def test_intraclass_correlation_in_exact_fractions() -> None:
    """ICC(2,1) of the paper's ratings by its formulas, term by term, without rounding."""
    ratings = [[Fraction(int(rating)) for rating in subject] for subject in SHROUT_FLEISS]
    n, k = len(ratings), len(ratings[0])
    mean = sum(map(sum, ratings)) / (n * k)
    of_subjects = k * sum((sum(row) / k - mean) ** 2 for row in ratings)
    of_judges = n * sum((sum(column) / n - mean) ** 2 for column in zip(*ratings, strict=True))
    total = sum((rating - mean) ** 2 for row in ratings for rating in row)
    bms, jms = of_subjects / (n - 1), of_judges / (k - 1)
    ems = (total - of_subjects - of_judges) / ((n - 1) * (k - 1))
    exact = (bms - ems) / (bms + (k - 1) * ems + Fraction(k, n) * (jms - ems))
    assert intraclass_correlation(SHROUT_FLEISS) == pytest.approx(float(exact), abs=1e-12)


def test_intraclass_correlation_wants_the_same_numbers_not_only_the_same_order() -> None:
    volume = np.array([1.0, 4.0, 9.0, 20.0])
    assert intraclass_correlation(np.stack([volume, volume], 1)) == pytest.approx(1)
    assert pearson(volume, 2 * volume + 3) == pytest.approx(1)
    assert intraclass_correlation(np.stack([volume, 2 * volume + 3], 1)) < 0.75
    for same in (1.0, 0.752):  # the mean of three times 0.752 is not 0.752
        assert math.isnan(intraclass_correlation(np.full((3, 2), same)))
    assert math.isnan(intraclass_correlation(np.array([[1.0, 2.0]])))
    assert math.isnan(intraclass_correlation(np.array([[1.0, 0.0], [0.0, 1.0]])))  # 0 / 0


def test_pearson_equals_scipy() -> None:
    a, b = np.random.default_rng(0).random((2, 30))
    assert pearson(a, b) == pytest.approx(pearsonr(a, b).statistic, abs=1e-12)
    for same in (1.0, 0.752):
        assert math.isnan(pearson(np.full(3, same), b[:3]))
        assert math.isnan(pearson(b[:3], np.full(3, same)))


def test_bland_altman_by_hand() -> None:
    agreement = bland_altman(np.array([1.0, 4.0, 7.0]), np.array([1.0, 2.0, 3.0]))
    assert agreement.mean.tolist() == [1, 3, 5]
    assert agreement.difference.tolist() == [0, 2, 4]
    assert (agreement.bias, agreement.low, agreement.high) == pytest.approx((2, -1.92, 5.92))
    assert math.isnan(bland_altman(np.ones(1), np.ones(1)).low)


def test_undefined_values_are_left_out_of_a_mean() -> None:
    assert mean_defined(np.array([1.0, math.nan, 3.0])) == 2
    assert math.isnan(mean_defined(np.array([math.nan])))


def test_bootstrap_draws_patients_with_all_their_exams() -> None:
    patients = ["b", "a", "b", "c"]
    draws = resample_patients(patients, 200)
    assert len(draws) == 200
    for draw in draws:
        counts = np.bincount(draw, minlength=4)
        assert counts[0] == counts[2]
        assert counts[0] + counts[1] + counts[3] == 3
    assert all((a == b).all() for a, b in zip(draws, resample_patients(patients, 200), strict=True))
    assert resample_patients(["a", "a"]) == []


def test_bootstrap_interval_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(5, 2, 400)
    draws = resample_patients([str(i) for i in range(400)])
    low, high = percentile_interval(lambda draw: float(values[draw].mean()), draws)
    error = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.03)
    assert all(math.isnan(v) for v in percentile_interval(lambda _: 1.0, []))


def test_six_patients_all_better_have_the_exact_p_value() -> None:
    this = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    gain = np.array([0.01, 0.02, 0.03, 0.05, 0.08, 0.13])
    result = paired_difference("dice", this, this - gain, list("abcdef"))
    assert result.p_value == pytest.approx(2 / 2**6)
    assert result.difference == pytest.approx(gain.mean())
    assert result.low > 0
    assert result.n_patients == 6


def test_comparison_counts_patients_and_leaves_out_undefined_pairs() -> None:
    this = np.array([1.0, 0.0, 0.5, math.nan])
    other = np.array([0.0, 0.0, 0.5, 1.0])
    result = paired_difference("lesion_tpr", this, other, ["a", "a", "b", "c"])
    assert (result.this, result.other, result.n_patients) == (0.5, 0.25, 2)
    same = paired_difference("dice", other, other, ["a", "b", "c", "d"])
    assert (same.difference, same.p_value) == (0, 1)
    nobody = paired_difference("dice", this[3:], other[3:], ["c"])
    assert nobody.n_patients == 0
    assert math.isnan(nobody.p_value)
