"""Every figure of a whole evaluation, from files to files, against other people's code."""

from __future__ import annotations

import json
import math
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_iou,
    compute_surface_dice,
)
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter, label
from scipy.stats import pearsonr, wilcoxon

from rsaseg import evaluate
from rsaseg.report.evaluation import write_evaluation

SPACING_MM = (0.875, 1.125, 3.0)  # exact in the float32 of a NIfTI header
SIZES_MM3 = {"small": (3, 50), "medium": (50, 500), "large": (500, math.inf)}
SEEDS = range(5)
Mask = NDArray[np.bool_]


def blobs(seed: int) -> Mask:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((28, 24, 16)), 1.3)
    return np.asarray(noise > np.quantile(noise, 0.92 + 0.006 * (seed % 7)))


def exam(seed: int) -> tuple[Mask, Mask, Mask]:
    """A truth, a prediction that shares most of it, and another that shares less."""
    truth, foreign = blobs(seed), blobs(seed + 100)
    return truth, np.roll(truth, 1, 0) | (foreign & blobs(seed + 200)), truth & ~foreign


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the program wrote of five exams of four patients."""
    root = tmp_path_factory.mktemp("oracles")
    for folder in ("truth", "pred", "other"):
        (root / folder).mkdir()
    for seed in SEEDS:
        for folder, mask in zip(("truth", "pred", "other"), exam(seed), strict=True):
            image = nib.Nifti1Image(mask.astype(np.uint8), np.diag([*SPACING_MM, 1.0]))
            nib.save(image, root / folder / f"{name(seed)}.nii.gz")
    found = evaluate(root / "pred", root / "truth", compare=root / "other")
    write_evaluation(found, root / "out")
    read: dict[str, Any] = json.loads((root / "out" / "evaluation.json").read_text())
    return read


def name(seed: int) -> str:
    return ("a-t1", "a-t2", "b", "c", "d")[seed]


def lesions(mask: Mask, other: Mask, least_mm3: float, most_mm3: float) -> tuple[int, int]:
    """Return how many lesions of a size there are, and how many of them touch the other mask."""
    labels, n = label(mask, np.ones((3, 3, 3)))
    hits = []
    for number in range(1, n + 1):
        lesion = labels == number
        if least_mm3 <= round(lesion.sum() * math.prod(SPACING_MM), 6) < most_mm3:
            hits.append(bool((lesion & other).any()))
    return len(hits), sum(hits)


def of_monai(pred: Mask, truth: Mask) -> dict[str, float]:
    p, t = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (pred, truth))
    common: dict[str, Any] = {"include_background": True, "spacing": SPACING_MM}
    return {
        "dice": float(compute_dice(p, t)),
        "iou": float(compute_iou(p, t)),
        "assd_mm": float(compute_average_surface_distance(p, t, symmetric=True, **common)),
        "surface_dice": float(compute_surface_dice(p, t, [1.0], **common)),
    }


def hd95_mm(pred: Mask, truth: Mask) -> float:
    """By distance maps; MONAI's own interpolates between ranks in float32, good to 1e-5 mm only."""
    shells = [mask & ~binary_erosion(mask) for mask in (pred, truth)]
    maps = [distance_transform_edt(~shell, sampling=SPACING_MM) for shell in shells]
    return float(max(np.percentile(maps[1 - side][shells[side]], 95) for side in (0, 1)))


# MONAI 1.6 warns of an argument it passes to itself
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_scores_of_each_exam_and_their_means_equal_monai(content: dict[str, Any]) -> None:
    expected = [
        of_monai(pred, truth) | {"hd95_mm": hd95_mm(pred, truth)}
        for truth, pred, _ in map(exam, SEEDS)
    ]
    means = {row["metric"]: row["value"] for row in content["estimates"]}
    for metric in expected[0]:
        for case, values in zip(content["cases"], expected, strict=True):
            assert case[metric] == pytest.approx(values[metric], abs=1e-6), metric
        mean = np.mean([values[metric] for values in expected])
        assert means[metric] == pytest.approx(mean, abs=1e-6), metric


# MONAI 1.6 warns of an argument it passes to itself
@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_voxel_averages_equal_monai_on_all_exams_end_to_end(content: dict[str, Any]) -> None:
    truth, pred = (np.concatenate([exam(seed)[side] for seed in SEEDS]) for side in (0, 1))
    expected = of_monai(pred, truth)
    found = {row["metric"]: row["value"] for row in content["estimates"]}
    for metric in ("dice", "iou"):
        assert found[f"voxel_average_{metric}"] == pytest.approx(expected[metric], abs=1e-6)


@pytest.mark.parametrize("size", ["", *SIZES_MM3])
def test_lesion_rates_by_size_equal_a_slow_count(content: dict[str, Any], size: str) -> None:
    span = SIZES_MM3.get(size, (3, math.inf))
    n_truth, n_found = np.sum([lesions(exam(s)[0], exam(s)[1], *span) for s in SEEDS], axis=0)
    n_pred, n_right = np.sum([lesions(exam(s)[1], exam(s)[0], *span) for s in SEEDS], axis=0)
    ending = f"_{size}" if size else ""
    for count, expected in {
        "n_truth": n_truth,
        "n_found": n_found,
        "n_pred": n_pred,
        "n_right": n_right,
    }.items():
        assert sum(case[count + ending] for case in content["cases"]) == expected
    tpr, precision = n_found / n_truth, n_right / n_pred
    expected_f1 = 2 / (1 / tpr + 1 / precision)
    found = {row["metric"]: row["value"] for row in content["estimates"]}
    for rate, value in {"tpr": tpr, "precision": precision, "f1": expected_f1}.items():
        assert found[f"pooled_lesion_{rate}{ending}"] == pytest.approx(value, abs=1e-12)


def test_volumes_and_the_paired_test_equal_scipy(content: dict[str, Any]) -> None:
    voxel_ml = math.prod(SPACING_MM) / 1000
    truth_ml, pred_ml = (
        np.array([exam(seed)[side].sum() * voxel_ml for seed in SEEDS]) for side in (0, 1)
    )
    found = {row["metric"]: row["value"] for row in content["estimates"]}
    gap = pred_ml - truth_ml
    assert found["volume_difference_ml"] == pytest.approx(gap.mean(), abs=1e-9)
    assert found["absolute_volume_difference_ml"] == pytest.approx(np.abs(gap).mean(), abs=1e-9)
    assert found["volume_pearson"] == pytest.approx(pearsonr(pred_ml, truth_ml)[0], abs=1e-9)
    limits = content["volume_bland_altman_ml"]
    spread = 1.96 * gap.std(ddof=1)
    assert limits["bias"] == pytest.approx(gap.mean(), abs=1e-9)
    assert limits["limits_of_agreement"] == pytest.approx(
        [gap.mean() - spread, gap.mean() + spread], abs=1e-9
    )

    def overlap(pred: Mask, truth: Mask) -> float:
        return float(2 * (pred & truth).sum() / (pred.sum() + truth.sum()))

    gains = [overlap(p, t) - overlap(other, t) for t, p, other in map(exam, SEEDS)]
    of_patients = [(gains[0] + gains[1]) / 2, *gains[2:]]
    row = next(row for row in content["differences"] if row["metric"] == "dice")
    assert row["difference"] == pytest.approx(np.mean(of_patients), abs=1e-9)
    assert row["p_value"] == pytest.approx(wilcoxon(of_patients).pvalue, abs=1e-9)
    assert row["n_patients"] == 4
