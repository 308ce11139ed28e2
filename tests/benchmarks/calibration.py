"""Calibration of out-of-fold probabilities, and the confidence under which to review a lesion.

Run: python tests/benchmarks/calibration.py TRAINING_FOLDER THRESHOLD SMALLEST_MM3 DATA...

TRAINING_FOLDER is what `rsaseg train --folds` wrote, with ``fold-*/CASE.npy`` in it; THRESHOLD and
SMALLEST_MM3 are those of the weights; DATA are the folders of cases. Prints what the model card
says and the shares of right and wrong lesions under several confidences, and draws the reliability
curve in TRAINING_FOLDER/calibration.svg.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from rsaseg.imaging import read_mask
from rsaseg.report.lesion_table import REVIEW_BELOW
from rsaseg.report.reliability import reliability_markdown, reliability_svg
from rsaseg.scoring.calibration import calibrate, lesion_confidences


def main() -> None:
    """Print the tables."""
    folder, threshold, smallest_mm3 = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    exams = []
    for kept in sorted(folder.glob("fold-*/*.npy")):
        places = [Path(data, kept.stem) for data in sys.argv[4:]]
        masks = [path for place in places for path in place.glob("lesion.nii*")]
        if masks:
            truth, grid = read_mask(masks[0])
            exams.append((np.load(kept), truth, grid))
    print(f"{len(exams)} cases\n")
    calibration = calibrate(exams, threshold, smallest_mm3)
    print("\n".join(reliability_markdown(calibration)))
    (folder / "calibration.svg").write_bytes(reliability_svg(calibration))
    found = [lesion_confidences(*exam, threshold, smallest_mm3) for exam in exams]
    confidence = np.concatenate([one for one, _ in found])
    right = np.concatenate([one for _, one in found])
    print(f"\n{right.sum()} right and {(~right).sum()} wrong lesions; now {REVIEW_BELOW}")
    print("below  wrong flagged  right flagged  right of the rest")
    for below in np.arange(0.5, 1.0, 0.05):
        flagged = confidence < below
        shares = flagged[~right].mean(), flagged[right].mean(), right[~flagged].mean()
        print(f"{below:5.2f}" + "".join(f"{share:15.2f}" for share in shares))


if __name__ == "__main__":
    main()
