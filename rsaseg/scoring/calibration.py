"""How far a lesion probability can be believed: what came true of all that was said alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsaseg.imaging import Grid
from rsaseg.lesions import Cut, cut_lesions, find_lesions
from rsaseg.metrics import match_lesions

Float = NDArray[np.floating[Any]]

N_BINS = 10
LEAST_PROBABILITY = 0.05
"""Voxels under it are left out: nearly the whole head, and rightly called free of lesions."""

_EMPTY = (0.0,) * N_BINS


@dataclass(frozen=True)
class Reliability:
    """What came true, in ten bins of equal width from 0 to 1; add two to pool them.

    Attributes
    ----------
    weight : tuple of float
        In each bin: ml of voxels, or number of lesions.
    said, came_true : tuple of float
        Sums over each bin, by weight: of the probabilities, and of what was lesion.
    """

    weight: tuple[float, ...] = _EMPTY
    said: tuple[float, ...] = _EMPTY
    came_true: tuple[float, ...] = _EMPTY

    def __add__(self, other: Reliability) -> Reliability:
        mine = np.array([self.weight, self.said, self.came_true])
        theirs = np.array([other.weight, other.said, other.came_true])
        return Reliability(*(tuple(row) for row in (mine + theirs).tolist()))

    @property
    def predicted(self) -> Float:
        """Mean probability of each bin; NaN in an empty one."""
        return _ratio(self.said, self.weight)

    @property
    def observed(self) -> Float:
        """Share of each bin that was lesion; NaN in an empty one."""
        return _ratio(self.came_true, self.weight)

    @property
    def error(self) -> float:
        """Expected calibration error: mean of abs(observed - predicted) over bins, by weight.

        Naeini 2015, doi:10.1609/aaai.v29i1.9602. NaN where there is nothing.
        """
        total = sum(self.weight)
        apart = np.abs(np.array(self.came_true) - self.said).sum()
        return float(apart / total) if total else float("nan")


@dataclass(frozen=True)
class Review:
    """Under which confidence a lesion is worth a second look.

    Attributes
    ----------
    below : float
        Where the share of wrong lesions under it exceeds the share of right ones by most.
    wrong_flagged, right_flagged : float
        Those shares.
    right_above : float
        Share of the lesions that are not flagged that are right; NaN if none is left.
    """

    below: float
    wrong_flagged: float
    right_flagged: float
    right_above: float


@dataclass(frozen=True)
class Calibration:
    """Reliability of voxels and lesions of exams that the network had not learned from.

    Attributes
    ----------
    voxels, lesions : Reliability
        Of voxel probabilities from ``LEAST_PROBABILITY``; of lesions' confidence, true where a
        true lesion overlaps.
    review : Review or None
        None unless there are right and wrong lesions.
    """

    voxels: Reliability
    lesions: Reliability
    review: Review | None


def _ratio(above: tuple[float, ...], below: tuple[float, ...]) -> Float:
    weight = np.array(below)
    safe = np.where(weight > 0, weight, np.nan)
    return np.array(above) / safe


def reliability(said: Float, true: NDArray[np.bool_], weight: float = 1.0) -> Reliability:
    """Bin probabilities, (n,), and what came true of them, (n,); ``weight`` is that of each."""
    bins = np.minimum((said.astype(np.float64) * N_BINS).astype(int), N_BINS - 1)
    sums = (
        np.bincount(bins, minlength=N_BINS) * weight,
        np.bincount(bins, said, minlength=N_BINS) * weight,
        np.bincount(bins, true, minlength=N_BINS) * weight,
    )
    return Reliability(*(tuple(row.tolist()) for row in sums))


def lesion_confidences(
    probability: Float, truth: NDArray[np.bool_], grid: Grid, cut: Cut
) -> tuple[Float, NDArray[np.bool_]]:
    """Return the confidence of each lesion found, (n,), and whether a true one overlaps, (n,).

    Parameters
    ----------
    probability, truth : ndarray
        (X, Y, Z) on ``grid``.
    grid : Grid
        Of both.
    cut : Cut
        What makes a lesion; a true one may be of any size.
    """
    labels, n = cut_lesions(probability, grid, cut)
    right, _ = match_lesions(labels, find_lesions(truth, grid)[0])
    highest = np.zeros(n + 1)
    np.maximum.at(highest, labels[labels > 0], probability[labels > 0])
    return highest[1:], right


def choose_review(confidence: Float, right: NDArray[np.bool_]) -> Review | None:
    """Return the confidence that parts wrong lesions from right ones best, in steps of 0.01.

    Youden's index, doi:10.1002/1097-0142(1950)3:1<32::AID-CNCR2820030106>3.0.CO;2-3; the lowest
    of equally good ones. None if all lesions are right, or all wrong.
    """
    if right.all() or not right.any():
        return None
    cuts = np.arange(1, 101) / 100
    flagged = confidence < cuts[:, None]
    wrong_flagged, right_flagged = flagged[:, ~right].mean(axis=1), flagged[:, right].mean(axis=1)
    best = int(np.argmax(wrong_flagged - right_flagged))
    above = right[~flagged[best]]
    return Review(
        float(cuts[best]),
        float(wrong_flagged[best]),
        float(right_flagged[best]),
        float(above.mean()) if above.size else float("nan"),
    )


def calibrate(exams: Iterable[tuple[Float, NDArray[np.bool_], Grid]], cut: Cut) -> Calibration:
    """Return how far out-of-fold probabilities, and the lesions in them, can be believed.

    Parameters
    ----------
    exams : iterable of tuple
        Probability and truth, (X, Y, Z), and their grid.
    cut : Cut
        What makes a lesion.
    """
    voxels = Reliability()
    confidences: list[Float] = [np.zeros(0)]
    rights: list[NDArray[np.bool_]] = [np.zeros(0, dtype=bool)]
    for kept, truth, grid in exams:
        probability = np.asarray(kept, dtype=np.float64)
        likely = probability >= LEAST_PROBABILITY
        voxels += reliability(probability[likely], truth[likely], grid.voxel_mm3 / 1000)
        confidence, right = lesion_confidences(probability, truth, grid, cut)
        confidences.append(confidence)
        rights.append(right)
    confidence, right = np.concatenate(confidences), np.concatenate(rights)
    return Calibration(voxels, reliability(confidence, right), choose_review(confidence, right))
