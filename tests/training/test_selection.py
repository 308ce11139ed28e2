"""Threshold and smallest lesion, on probabilities made so that the best ones are known."""

from __future__ import annotations

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header

from rsaseg.imaging import Grid, Volume
from rsaseg.training.selection import OutOfFold, choose_threshold, mean_over_patients


def make(name: str, patient: str, probability: np.ndarray, truth: np.ndarray) -> OutOfFold:
    x, y, z = truth.shape
    grid = Grid((x, y, z), np.diag([2.0, 1.0, 1.0, 1.0]))
    flair = Volume(probability.astype(np.float32), grid, Nifti1Header(), name)
    return OutOfFold(name, patient, probability, truth, flair)


def soft_case(name: str, patient: str) -> OutOfFold:
    """A cube of 64 voxels at 0.42 with a rim at 0.33, a lesion of 6 and a speck of 2 mm3 at 0.6."""
    truth = np.zeros((12, 12, 12), bool)
    truth[3:7, 3:7, 3:7] = True
    probability = np.full(truth.shape, 0.02)
    probability[2:8, 2:8, 2:8] = 0.33
    probability[truth] = 0.42
    truth[10, 1:4, 10] = True
    probability[10, 1:4, 10] = 0.6
    probability[10, 10, 10] = 0.6
    return make(name, patient, probability, truth)


def test_the_best_threshold_and_size_are_found() -> None:
    choice = choose_threshold([soft_case("a", "a"), soft_case("b", "b")])
    assert choice.threshold == 0.35
    assert choice.min_lesion_mm3 == 5.0  # 3 mm3 is as good
    assert choice.dice == 1.0


def test_patients_count_once() -> None:
    cases = [soft_case("a-t1", "a"), soft_case("a-t2", "a"), soft_case("b", "b")]
    assert mean_over_patients(cases, [0.2, 0.4, 0.9]) == pytest.approx(0.6)
