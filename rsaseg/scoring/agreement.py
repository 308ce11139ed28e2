"""What the scores of many exams say together: intervals, agreement of volumes, paired tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

Float = NDArray[np.floating[Any]]
Statistic = Callable[[NDArray[np.intp]], float]


@dataclass(frozen=True)
class Estimate:
    """A figure over a cohort with its 95 % confidence interval.

    Attributes
    ----------
    metric : str
        What it measures, with its unit.
    value, low, high : float
        The figure and its interval; NaN where undefined.
    n : int
        Exams it rests on.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """A metric of two predictions of the same patients, this one minus the other.

    Attributes
    ----------
    metric : str
        Per-case metric.
    this, other : float
        Mean over patients (of each patient's mean over exams).
    difference, low, high : float
        Mean difference over patients with its 95 % bootstrap interval.
    p_value : float
        Two-sided Wilcoxon signed-rank test over patients, not corrected for many metrics.
    n_patients : int
        Patients in whom the metric is defined for both.
    """

    metric: str
    this: float
    other: float
    difference: float
    low: float
    high: float
    p_value: float
    n_patients: int


@dataclass(frozen=True)
class BlandAltman:
    """Agreement of two measurements: differences (first - second) against means.

    Attributes
    ----------
    mean, difference : ndarray
        (n,), in the unit of the measurements.
    bias, low, high : float
        Mean difference and the 95 % limits of agreement, bias -+ 1.96 standard deviations.
    """

    mean: Float
    difference: Float
    bias: float
    low: float
    high: float


def mean_defined(values: Float) -> float:
    """Return the mean of the values that are not NaN; NaN if there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def resample_patients(
    patients: Sequence[str], n_resamples: int = 2000, seed: int = 0
) -> list[NDArray[np.intp]]:
    """Draw patients with replacement, each with all their exams.

    Exams of one patient are alike, so intervals that drew exams would be too narrow.

    Parameters
    ----------
    patients : sequence of str
        The patient of each exam.
    n_resamples : int
        Draws.
    seed : int
        The same seed gives the same draws.

    Returns
    -------
    list of ndarray
        For each draw the positions of its exams in ``patients``. Empty for fewer than two
        patients, who say nothing of the spread between patients.
    """
    names = np.asarray(patients, dtype=str)
    exams = [np.flatnonzero(names == name) for name in np.unique(names)]
    if len(exams) < 2:
        return []
    drawn = np.random.default_rng(seed).integers(len(exams), size=(n_resamples, len(exams)))
    return [np.concatenate([exams[patient] for patient in draw]) for draw in drawn]


def percentile_interval(
    statistic: Statistic, draws: Sequence[NDArray[np.intp]]
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of a statistic of exam positions.

    Draws in which the statistic is undefined (NaN) are left out; NaN if none is left.
    """
    values = np.array([statistic(draw) for draw in draws])
    values = values[~np.isnan(values)]
    if not values.size:
        return float("nan"), float("nan")
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def pearson(first: Float, second: Float) -> float:
    """Return Pearson's correlation of two (n,) arrays; NaN for n < 2 or where one is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    a, b = first - np.mean(first), second - np.mean(second)
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def intraclass_correlation(ratings: Float) -> float:
    """Return ICC(2,1): two-way random effects, absolute agreement, single rater.

    Absolute agreement, because a method that always doubles the volume is not interchangeable
    with the expert, however well the two correlate. Shrout and Fleiss 1979,
    doi:10.1037/0033-2909.86.2.420.

    Parameters
    ----------
    ratings : ndarray
        (n subjects, k raters).

    Returns
    -------
    float
        At most 1; NaN for fewer than two subjects or if all ratings are the same.
    """
    n, k = ratings.shape
    if n < 2 or np.ptp(ratings) == 0:
        return float("nan")
    centred = ratings - ratings.mean()
    of_subjects, of_raters = centred.mean(axis=1), centred.mean(axis=0)
    rest = centred - of_subjects[:, None] - of_raters
    ms_subjects = k * (of_subjects**2).sum() / (n - 1)
    ms_raters = n * (of_raters**2).sum() / (k - 1)
    ms_rest = (rest**2).sum() / ((n - 1) * (k - 1))
    total = ms_subjects + (k - 1) * ms_rest + k / n * (ms_raters - ms_rest)
    return float((ms_subjects - ms_rest) / total) if total > 0 else float("nan")


def bland_altman(first: Float, second: Float) -> BlandAltman:
    """Return bias and limits of agreement of two (n,) arrays.

    Bland and Altman 1986, doi:10.1016/S0140-6736(86)90837-8.
    """
    difference = np.asarray(first - second, dtype=np.float64)
    bias = float(difference.mean())
    spread = 1.96 * float(difference.std(ddof=1)) if difference.size > 1 else float("nan")
    return BlandAltman((first + second) / 2, difference, bias, bias - spread, bias + spread)


def paired_difference(
    metric: str, this: Float, other: Float, patients: Sequence[str], seed: int = 0
) -> PairedDifference:
    """Compare a per-exam metric of two predictions, with the patient as the unit.

    Parameters
    ----------
    metric : str
        Its name.
    this, other : ndarray
        (n exams,); exams where either is NaN are left out.
    patients : sequence of str
        The patient of each exam.
    seed : int
        Of the bootstrap.
    """
    defined = ~(np.isnan(this) | np.isnan(other))
    names = np.asarray(patients, dtype=str)[defined]
    unique = np.unique(names)
    nan = float("nan")
    if not unique.size:
        return PairedDifference(metric, nan, nan, nan, nan, nan, nan, 0)
    a, b = (
        np.array([values[defined][names == name].mean() for name in unique])
        for values in (this, other)
    )
    gain = a - b
    draws = resample_patients(unique.tolist(), seed=seed)
    low, high = percentile_interval(lambda draw: float(gain[draw].mean()), draws)
    p_value = float(wilcoxon(gain).pvalue) if gain.any() else 1.0
    means = float(a.mean()), float(b.mean()), float(gain.mean())
    return PairedDifference(metric, *means, low, high, p_value, int(unique.size))
