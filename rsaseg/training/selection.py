"""Choosing on out-of-fold predictions how probabilities become lesions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsaseg.imaging import Volume, read_mask, read_volume
from rsaseg.inference.contrast import lesion_contrast, weigh_contrast
from rsaseg.lesions import Cut, cut_lesions, find_lesions
from rsaseg.metrics import LesionCounts, count_overlap, match_lesions
from rsaseg.progress import Progress, told, untold
from rsaseg.training.cases import CaseFiles

THRESHOLDS = tuple(round(0.05 * i, 2) for i in range(2, 19))
CONTRAST_WEIGHTS = (0.0, 2.0)
WAYS = tuple(product(CONTRAST_WEIGHTS, THRESHOLDS))
SMALLEST_MM3 = (3.0, 5.0, 10.0, 15.0, 20.0, 30.0)
"""Smaller ones are specks, which `rsaseg evaluate` does not count either."""
PEAKS = (0.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
_LITTLE = 0.002  # of Dice, a tenth of what may be chance


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

    def read(self) -> OutOfFold:
        """Return itself, which is in memory; see `KeptCase`."""
        return self

    def weighed(self, contrast_weight: float) -> NDArray[np.floating[Any]]:
        """Return the probability, contrast weighed as in use."""
        if not contrast_weight:
            return self.probability
        probability = self.probability.astype(np.float32)
        contrast = lesion_contrast(probability, self.flair)
        return weigh_contrast(probability, contrast, contrast_weight)


@dataclass(frozen=True)
class KeptCase:
    """An `OutOfFold` on disk, read at each look: those of a large training outgrow the memory.

    Attributes
    ----------
    files : CaseFiles
        Truth and FLAIR among them.
    kept : Path
        The probability, ``.npy``.
    """

    files: CaseFiles
    kept: Path

    @property
    def patient(self) -> str:
        """Of the case."""
        return self.files.patient

    def read(self) -> OutOfFold:
        """Read truth and FLAIR, and map the probability."""
        truth, _ = read_mask(self.files.lesion)
        flair = read_volume(self.files.sequences["FLAIR"])
        probability = np.load(self.kept, mmap_mode="r")
        return OutOfFold(self.files.name, self.patient, probability, truth, flair)


Unseen = OutOfFold | KeptCase


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


def by_patient(
    cases: Sequence[Unseen | CaseFiles], values: Sequence[ArrayLike]
) -> NDArray[np.float64]:
    """Average each patient's visits: one value, or array of values, a case to one a patient."""
    visits: dict[str, list[NDArray[np.float64]]] = {}
    for case, value in zip(cases, values, strict=True):
        visits.setdefault(case.patient, []).append(np.asarray(value, np.float64))
    return np.array([np.mean(values, axis=0) for values in visits.values()])


def choose_threshold(cases: Sequence[Unseen], progress: Progress = untold) -> Choice:
    """Return the way with the best mean Dice, then the peak and size that tell lesions best.

    A way is a weight of contrast and a threshold; of equally good ones the first is taken, so no
    contrast and a low threshold. A peak, and then a smallest lesion, is the one with the best mean
    lesion F1 of those that cost no more than 0.002 of Dice, since specks hardly count in Dice, but
    each is a false lesion in a table; of equally good ones the highest. Four parameters are chosen
    for all cases: how optimistic that is stands in the model card.

    Each case is looked at three times, so that not all are held at once.
    """
    ways = [_dice_of_ways(case.read()) for case in told(cases, "threshold", progress)]
    dice_at = by_patient(cases, ways)
    weight, threshold = WAYS[int(dice_at.mean(axis=0).argmax())]
    peaks = [Cut(threshold, peak) for peak in PEAKS]
    seen = told(cases, "peak", progress)
    cut, _ = _best(cases, [_score_cuts(case.read(), weight, peaks) for case in seen], peaks)
    sizes = [replace(cut, min_lesion_mm3=smallest) for smallest in SMALLEST_MM3]
    seen = told(cases, "smallest lesion", progress)
    cut, dice = _best(cases, [_score_cuts(case.read(), weight, sizes) for case in seen], sizes)
    return Choice(cut, weight, dice, float(dice_at.mean(axis=0).max()), _nested(dice_at))


def _best(
    cases: Sequence[Unseen], scores: Sequence[ArrayLike], cuts: Sequence[Cut]
) -> tuple[Cut, float]:
    """Return the cut with the best lesion F1 of those that cost little of Dice, and its Dice.

    ``scores`` are (cases, 2, cuts): Dice, and lesion F1.
    """
    dice, lesion_f1 = by_patient(cases, scores).mean(axis=0)
    allowed = np.flatnonzero(dice >= dice.max() - _LITTLE)
    best = max(allowed.tolist(), key=lambda i: (lesion_f1[i], i))
    return cuts[best], float(dice[best])


def _dice_of_ways(case: OutOfFold) -> NDArray[np.float64]:
    """Return a case's Dice by each of ``WAYS``."""
    return np.array(
        [
            count_overlap(probability > threshold, case.truth).dice
            for probability in map(case.weighed, CONTRAST_WEIGHTS)
            for threshold in THRESHOLDS
        ]
    )


def _score_cuts(
    case: OutOfFold, contrast_weight: float, cuts: Sequence[Cut]
) -> tuple[list[float], list[float]]:
    """Return a case's Dice, and its lesion F1, with each of the cuts."""
    dice, lesion_f1 = [], []
    weighed = case.weighed(contrast_weight)
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
