"""Calibration of out-of-fold probabilities, and the confidence under which to review a lesion.

Run: python tests/benchmarks/calibration.py TRAINING_FOLDER DATA...

TRAINING_FOLDER is what `rsaseg train --folds` wrote, with ``fold-*/CASE.npy`` in it, and
``weights.safetensors``, which says how lesions are cut out; DATA are the folders of cases. Prints
what the model card says, how well the uncertainty finds wrong voxels and the shares of right and
wrong lesions under several confidences, and draws the reliability curve in
TRAINING_FOLDER/calibration.svg.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from rsaseg.imaging import Grid, read_mask, read_volume
from rsaseg.lesions import Cut, cut_lesions
from rsaseg.networks.weights import load_weights
from rsaseg.report.lesion_table import REVIEW_BELOW
from rsaseg.report.reliability import reliability_markdown, reliability_svg
from rsaseg.scoring.calibration import calibrate, lesion_confidences
from rsaseg.segmentation.result import entropy
from rsaseg.training.cases import find_cases
from rsaseg.training.selection import OutOfFold

LOOKED_AT = 0.05
"""Where less is likely, next to nothing is wrong or unsure."""


def finds_wrong(
    probability: NDArray[np.float32], truth: NDArray[np.bool_], grid: Grid, cut: Cut
) -> float:
    """Return how often a voxel that is wrong in the mask is less sure than one that is right.

    The area under the ROC curve, over voxels likelier than ``LOOKED_AT``; NaN if none is wrong.
    """
    mask = cut_lesions(probability, grid, cut)[0] > 0
    near = probability > LOOKED_AT
    unsure, wrong = entropy(probability[near]), (mask != truth)[near]
    if not wrong.any() or wrong.all():
        return float("nan")
    larger = mannwhitneyu(unsure[wrong], unsure[~wrong]).statistic
    return float(larger / (wrong.sum() * (~wrong).sum()))


def main() -> None:
    """Print the tables."""
    folder = Path(sys.argv[1])
    _, info, _ = load_weights(folder / "weights.safetensors")
    cases = {case.name: case for case in find_cases([Path(data) for data in sys.argv[2:]])}
    exams = []
    for kept in sorted(folder.glob("fold-*/*.npy")):
        if (case := cases.get(kept.stem)) is not None:
            truth, grid = read_mask(case.lesion)
            flair = read_volume(case.sequences["FLAIR"])
            seen = OutOfFold(case.name, case.patient, np.load(kept), truth, flair)
            exams.append((seen.weighed(info.contrast_weight), truth, grid))
    print(f"{len(exams)} cases\n")
    calibration = calibrate(exams, info.cut)
    print("\n".join(reliability_markdown(calibration)))
    (folder / "calibration.svg").write_bytes(reliability_svg(calibration))
    areas = [finds_wrong(*exam, info.cut) for exam in exams]
    print(f"\nwrong voxels, by uncertainty: area under the ROC curve {np.nanmean(areas):.2f}")
    found = [lesion_confidences(*exam, info.cut) for exam in exams]
    confidence = np.concatenate([one for one, _ in found])
    right = np.concatenate([one for _, one in found])
    print(f"\n{right.sum()} right and {(~right).sum()} wrong lesions; now {REVIEW_BELOW}")
    print("below  wrong flagged  right flagged  right of the rest")
    for below in np.append(np.arange(0.5, 0.95, 0.05), (0.92, 0.94, 0.95, 0.96, 0.98)):
        flagged = confidence < below
        shares = flagged[~right].mean(), flagged[right].mean(), right[~flagged].mean()
        print(f"{below:5.2f}" + "".join(f"{share:15.2f}" for share in shares))


if __name__ == "__main__":
    main()
