"""Choosing threshold and smallest lesion on out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsaseg.imaging import Volume
from rsaseg.lesions import remove_small
from rsaseg.metrics import count_overlap

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(2, 19))
SMALLEST_MM3 = (0.0, 3.0, 5.0, 10.0, 15.0, 20.0, 30.0)
_NOTHING = 0.0005  # of Dice


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """A case that the network which segmented it had never seen.

    Attributes
    ----------
    name, patient : str
        Of the case.
    probability : ndarray
        On the FLAIR's grid.
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


@dataclass(frozen=True)
class Choice:
    """A threshold and a smallest lesion.

    Attributes
    ----------
    threshold, min_lesion_mm3 : float
        What was chosen.
    dice : float
        Mean over patients that both reach on the cases they were chosen on.
    threshold_dice : float
        The same without a smallest lesion.
    nested_dice : float
        The same where each patient's threshold was chosen on the other patients alone: what of
        ``threshold_dice`` is left for a new patient. NaN for a single patient.
    """

    threshold: float
    min_lesion_mm3: float
    dice: float
    threshold_dice: float = float("nan")
    nested_dice: float = float("nan")


def mean_over_patients(cases: Sequence[OutOfFold], values: Sequence[float]) -> float:
    """Average a figure over each patient's visits, then over patients."""
    by_patient: dict[str, list[float]] = {}
    for case, value in zip(cases, values, strict=True):
        by_patient.setdefault(case.patient, []).append(value)
    return float(np.mean([np.mean(visits) for visits in by_patient.values()]))


def choose_threshold(cases: Sequence[OutOfFold]) -> Choice:
    """Return the threshold with the best mean Dice, then the largest size that costs it nothing.

    Of equally good thresholds the lower is taken; a size may cost 0.0005, since specks hardly count
    in Dice, but each is a false lesion in a table. One figure for all cases, two parameters chosen:
    how optimistic that is stands in the model card.
    """
    patients = sorted({case.patient for case in cases})
    dice_at = np.array([_dice_at_thresholds(cases, patient) for patient in patients])
    threshold = THRESHOLDS[int(dice_at.mean(axis=0).argmax())]
    size_at = {}
    for smallest in SMALLEST_MM3:
        kept = [remove_small(c.probability > threshold, c.flair.grid, smallest) for c in cases]
        dice = [count_overlap(mask, c.truth).dice for mask, c in zip(kept, cases, strict=True)]
        size_at[smallest] = mean_over_patients(cases, dice)
    best = max(size_at.values())
    smallest = max(size for size, dice in size_at.items() if dice >= best - _NOTHING)
    return Choice(
        threshold,
        smallest,
        size_at[smallest],
        float(dice_at.mean(axis=0).max()),
        _nested(dice_at),
    )


def _dice_at_thresholds(cases: Sequence[OutOfFold], patient: str) -> NDArray[np.float64]:
    """Return a patient's mean Dice at each of ``THRESHOLDS``."""
    visits = [case for case in cases if case.patient == patient]
    dice = [
        [count_overlap(case.probability > t, case.truth).dice for t in THRESHOLDS]
        for case in visits
    ]
    mean: NDArray[np.float64] = np.mean(np.array(dice), axis=0)
    return mean


def _nested(dice_at: NDArray[np.float64]) -> float:
    """Return the mean Dice (patients, thresholds) with thresholds chosen on other patients."""
    if len(dice_at) < 2:
        return float("nan")
    others = (dice_at.sum(axis=0) - dice_at) / (len(dice_at) - 1)
    return float(dice_at[np.arange(len(dice_at)), others.argmax(axis=1)].mean())
