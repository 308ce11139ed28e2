"""Calibration against bins counted by hand, slow versions, and networks that tell the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsaseg.imaging import Grid
from rsaseg.lesions import Cut
from rsaseg.report.reliability import reliability_markdown, reliability_svg
from rsaseg.scoring.calibration import (
    Reliability,
    calibrate,
    choose_review,
    lesion_confidences,
    reliability,
)

GRID = Grid((12, 6, 4), np.diag([1.0, 1.0, 2.0, 1.0]))
CUT = Cut(0.5, min_lesion_mm3=3.0)


def test_bins_counted_by_hand() -> None:
    said = np.array([0.0, 0.05, 0.1, 0.95, 1.0, 0.55])
    true = np.array([False, True, False, True, True, False])
    bins = reliability(said, true, weight=2.0)
    assert bins.weight == (4, 2, 0, 0, 0, 2, 0, 0, 0, 4)
    assert bins.predicted[0] == pytest.approx(0.025)
    assert (bins.observed[0], bins.observed[9]) == (0.5, 1.0)
    assert math.isnan(bins.observed[3])
    apart = [2 * (0.5 - 0.025), 1 * 0.1, 1 * 0.55, 2 * (1 - 0.975)]
    assert bins.error == pytest.approx(sum(apart) / 6)
    halves = reliability(said[:2], true[:2], 2.0) + reliability(said[2:], true[2:], 2.0)
    assert halves == bins
    assert math.isnan(Reliability().error)


def test_who_tells_the_truth_is_calibrated_and_who_boasts_is_not() -> None:
    rng = np.random.default_rng(0)
    said = rng.random(200_000)
    assert reliability(said, rng.random(said.size) < said).error < 0.01
    boast = reliability(np.sqrt(said), rng.random(said.size) < said)
    assert boast.error == pytest.approx(2 / 3 - 1 / 2, abs=0.01)  # mean of sqrt(u) - u


def two_lesions() -> tuple[np.ndarray, np.ndarray]:
    """A lesion rightly called with 0.92, one wrongly with 0.6, one of a single voxel."""
    probability = np.zeros(GRID.shape, dtype=np.float16)
    probability[1:3, 1:3, 1] = 0.7
    probability[2, 2, 1] = 0.92
    probability[6:8, 1:3, 2] = 0.6
    probability[10, 4, 0] = 0.95
    truth = np.zeros(GRID.shape, dtype=bool)
    truth[1, 1, 0] = True
    truth[1, 1, 1] = True
    return probability, truth


def test_a_lesion_is_as_sure_as_its_surest_voxel() -> None:
    confidence, right = lesion_confidences(*two_lesions(), GRID, CUT)  # 2 mm3 a voxel
    np.testing.assert_allclose(confidence, [0.92, 0.6], atol=1e-3)
    assert right.tolist() == [True, False]
    confidence, right = lesion_confidences(*two_lesions(), GRID, Cut(0.5))
    assert right.tolist() == [True, False, False]
    confidence, _ = lesion_confidences(*two_lesions(), GRID, Cut(0.5, peak=0.92))
    np.testing.assert_allclose(confidence, [0.95], atol=1e-3)
    none, _ = lesion_confidences(*two_lesions(), GRID, Cut(0.99))
    assert none.size == 0


def test_exams_are_pooled_by_volume() -> None:
    probability, truth = two_lesions()
    fine = Grid(GRID.shape, np.diag([1.0, 1.0, 1.0, 1.0]))
    result = calibrate([(probability, truth, GRID), (probability, truth, fine)], CUT)
    assert sum(result.voxels.weight) == pytest.approx(9 * (0.002 + 0.001))
    assert result.voxels.weight[6] == pytest.approx(4 * 0.003)
    assert (result.voxels.observed[6], result.voxels.observed[7]) == (0, pytest.approx(1 / 3))
    assert result.lesions.weight == (0, 0, 0, 0, 0, 0, 2, 0, 0, 2)
    assert result.review is not None
    assert 0.6 < result.review.below <= 0.61
    shares = result.review.wrong_flagged, result.review.right_flagged, result.review.right_above
    assert shares == (1, 0, 1)


scores = st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=2, max_size=30)


@given(scores)
def test_no_other_confidence_parts_right_from_wrong_better(pairs: list[tuple[int, bool]]) -> None:
    confidence = np.array([c / 100 for c, _ in pairs])
    right = np.array([r for _, r in pairs])
    review = choose_review(confidence, right)
    if len(set(right.tolist())) < 2:
        assert review is None
        return
    assert review is not None
    gains = [
        sum(c < t for c in confidence[~right]) / sum(~right)
        - sum(c < t for c in confidence[right]) / sum(right)
        for t in np.linspace(0, 1, 1001)
    ]
    assert review.wrong_flagged - review.right_flagged == pytest.approx(max(gains))


def test_picture_and_table_tell_the_bins() -> None:
    probability, truth = two_lesions()
    result = calibrate([(probability, truth, GRID)], CUT)
    root = ElementTree.fromstring(reliability_svg(result))
    circles = root.findall("{http://www.w3.org/2000/svg}circle")
    filled = sum(w > 0 for r in (result.voxels, result.lesions) for w in r.weight)
    assert len(circles) == filled
    wrong, right = circles[-2:]  # of the lesions, by confidence
    assert float(wrong.get("cx", "")) < float(right.get("cx", ""))
    assert float(wrong.get("cy", "")) > float(right.get("cy", ""))  # y runs downwards
    text = "\n".join(reliability_markdown(result))
    assert f"error {result.voxels.error:.3f}" in text
    assert "| 0.6 to 0.7 |" in text
    assert "100% of the wrong and 0% of the right" in text
    empty = calibrate([], CUT)
    assert b"<circle" not in reliability_svg(empty)
    assert empty.review is None
    assert len(reliability_markdown(empty)) == 14


def test_how_well_uncertainty_finds_wrong_voxels(benchmark: Callable[[str], ModuleType]) -> None:
    """Of one row: air, then voxels of lesion and none that are called, and not, at a threshold."""
    calibration, grid, cut = benchmark("calibration"), Grid((8, 1, 1), np.eye(4)), Cut(0.45)
    truth = np.array([0, 0, 0, 0, 1, 1, 1, 1], bool)[:, None, None]

    def area(*p: float) -> float:
        seen = np.array([0, 0, *p], np.float32)[:, None, None]
        return float(calibration.finds_wrong(seen, truth, grid, cut))

    assert area(0.1, 0.6, 0.4, 0.9, 0.9, 0.9) == 1  # the two wrong are the least sure
    assert area(0.4, 0.99, 0.01, 0.6, 0.6, 0.6) == 0  # 0.01 is not looked at
    assert area(0.02, 0.9, 0.99, 0.99, 0.99, 0.6) == 3 / 4
    assert area(0.5, 0.02, 0.5, 0.5, 0.5, 0.5) == 1 / 2
