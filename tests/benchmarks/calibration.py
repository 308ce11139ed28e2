"""Calibration of out-of-fold probabilities, and the confidence under which to review a lesion.

Run: python tests/benchmarks/calibration.py TRAINING_FOLDER DATA...

TRAINING_FOLDER is what `rsaseg train --folds` wrote, with ``fold-*/CASE.npy`` in it, and
``weights.safetensors``, which says how lesions are cut out; DATA are the folders of cases. Prints
what the model card says and the shares of right and wrong lesions under several confidences, and
draws the reliability curve in TRAINING_FOLDER/calibration.svg.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from rsaseg.imaging import read_mask, read_volume
from rsaseg.networks.weights import load_weights
from rsaseg.report.lesion_table import REVIEW_BELOW
from rsaseg.report.reliability import reliability_markdown, reliability_svg
from rsaseg.scoring.calibration import calibrate, lesion_confidences
from rsaseg.training.cases import find_cases
from rsaseg.training.selection import OutOfFold


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
