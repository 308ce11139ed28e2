"""Choosing on out-of-fold predictions how probabilities become lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsaseg.imaging import Volume
from rsaseg.inference.contrast import lesion_contrast, weigh_contrast
from rsaseg.lesions import Cut, cut_lesions, find_lesions
from rsaseg.metrics import LesionCounts, count_overlap, match_lesions

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(2, 19))
CONTRAST_WEIGHTS = (0.0, 2.0)
WAYS = tuple(product(CONTRAST_WEIGHTS, THRESHOLDS))
SMALLEST_MM3 = (3.0, 5.0, 10.0, 15.0, 20.0, 30.0)
"""Smaller ones are specks, which `rsaseg evaluate` does not count either."""
PEAKS = (0.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
_NOTHING = 0.0005  # of Dice


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """A case that the network which segmented it had never seen.

    Attributes
    ----------
    name, patient : str
        Of the case.
    probability : ndarray
        The network's, on the FLAIR's grid.
    truth : ndarray
        bool, on the same grid.
    flair : Volume
        Whose grid both lie on.
    """

    name: str
    patient: str
    probability: NDArray[np.floating[Any]]
    truth: NDArray[np.bool_]
    flair: Volume

    def weighed(self, contrast_weight: float) -> NDArray[np.floating[Any]]:
        """Return the probability, contrast weighed as in use."""
        if not contrast_weight:
            return self.probability
        probability = self.probability.astype(np.float32)
        contrast = lesion_contrast(probability, self.flair)
        return weigh_contrast(probability, contrast, contrast_weight)


@dataclass(frozen=True)
class Choice:
    """How probabilities become lesions.

    Attributes
    ----------
    cut : Cut
        What was chosen.
    contrast_weight : float
        See `rsaseg.inference.contrast`.
    dice : float
        Mean over patients that this reaches on the cases it was chosen on.
    threshold_dice : float
        The same without a peak and a smallest lesion.
    nested_dice : float
        The same where each patient's threshold and contrast weight were chosen on the other
        patients alone: what of ``threshold_dice`` is left for a new patient. NaN for a single one.
    """

    cut: Cut
    contrast_weight: float = 0.0
    dice: float = float("nan")
    threshold_dice: float = float("nan")
    nested_dice: float = float("nan")

    def mask(self, case: OutOfFold) -> NDArray[np.bool_]:
        """Return the lesions that this finds in a case."""
        weighed = case.weighed(self.contrast_weight)
        return cut_lesions(weighed, case.flair.grid, self.cut)[0] > 0


def mean_over_patients(cases: Sequence[OutOfFold], values: Sequence[float]) -> float:
    """Average a figure over each patient's visits, then over patients."""
    by_patient: dict[str, list[float]] = {}
    for case, value in zip(cases, values, strict=True):
        by_patient.setdefault(case.patient, []).append(value)
    return float(np.mean([np.mean(visits) for visits in by_patient.values()]))


def choose_threshold(cases: Sequence[OutOfFold]) -> Choice:
    """Return the way with the best mean Dice, then the peak and size that tell lesions best.

    A way is a weight of contrast and a threshold; of equally good ones the first is taken, so no
    contrast and a low threshold. A peak, and then a smallest lesion, is the one with the best mean
    lesion F1 of those that cost no more than 0.0005 of Dice, since specks hardly count in Dice, but
    each is a false lesion in a table; of equally good ones the highest. Four parameters are chosen
    for all cases: how optimistic that is stands in the model card.
    """
    patients = sorted({case.patient for case in cases})
    dice_at = np.array([_dice_of_ways(cases, patient) for patient in patients])
    weight, threshold = WAYS[int(dice_at.mean(axis=0).argmax())]
    cut, _ = _best(cases, weight, [Cut(threshold, peak) for peak in PEAKS])
    sizes = [replace(cut, min_lesion_mm3=smallest) for smallest in SMALLEST_MM3]
    cut, dice = _best(cases, weight, sizes)
    return Choice(cut, weight, dice, float(dice_at.mean(axis=0).max()), _nested(dice_at))


def _best(cases: Sequence[OutOfFold], weight: float, cuts: Sequence[Cut]) -> tuple[Cut, float]:
    """Return the cut with the best lesion F1 of those that cost nothing of Dice, and its Dice."""
    scores = [_score_cuts(case, case.weighed(weight), cuts) for case in cases]
    dice, lesion_f1 = (
        [mean_over_patients(cases, of_cut) for of_cut in zip(*of_cases, strict=True)]
        for of_cases in zip(*scores, strict=True)
    )
    allowed = [i for i, value in enumerate(dice) if value >= max(dice) - _NOTHING]
    best = max(allowed, key=lambda i: (lesion_f1[i], i))
    return cuts[best], dice[best]


def _dice_of_ways(cases: Sequence[OutOfFold], patient: str) -> NDArray[np.float64]:
    """Return a patient's mean Dice by each of ``WAYS``."""
    visits = [case for case in cases if case.patient == patient]
    dice = [
        [
            count_overlap(probability > threshold, case.truth).dice
            for probability in map(case.weighed, CONTRAST_WEIGHTS)
            for threshold in THRESHOLDS
        ]
        for case in visits
    ]
    mean: NDArray[np.float64] = np.mean(np.array(dice), axis=0)
    return mean


def _score_cuts(
    case: OutOfFold, weighed: NDArray[np.floating[Any]], cuts: Sequence[Cut]
) -> tuple[list[float], list[float]]:
    """Return a case's Dice, and its lesion F1, with each of the cuts."""
    dice, lesion_f1 = [], []
    truth, n_truth = find_lesions(case.truth, case.flair.grid)
    for cut in cuts:
        called, n_called = cut_lesions(weighed, case.flair.grid, cut)
        right, found = match_lesions(called, truth)
        dice.append(count_overlap(called > 0, case.truth).dice)
        lesion_f1.append(LesionCounts(n_truth, int(found.sum()), n_called, int(right.sum())).f1)
    return dice, lesion_f1


def _nested(dice_at: NDArray[np.float64]) -> float:
    """Return the mean Dice of (patients, ways) with ways chosen on other patients."""
    if len(dice_at) < 2:
        return float("nan")
    others = (dice_at.sum(axis=0) - dice_at) / (len(dice_at) - 1)
    return float(dice_at[np.arange(len(dice_at)), others.argmax(axis=1)].mean())
