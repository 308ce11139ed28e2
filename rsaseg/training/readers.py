"""How much each exam's reader marks, told apart before a network learns from the mask.

Readers draw the edge of a lesion narrowly in one exam and widely in another. A network that learns
from few exams takes the way of one of them for the way of all that look alike. So what a reader
marks more than a network that never saw the patient is measured, as an offset b of the logit z of
a voxel's lesion probability, and while the next network learns, sigma(z + b) is compared with that
mask. What all have in common is the network's own way and no reader's. In use b is 0. It is the
random intercept of a mixed model, found on patients left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsaseg.errors import InputError
from rsaseg.imaging import read_mask
from rsaseg.progress import Progress, told, untold
from rsaseg.training.cases import CaseFiles
from rsaseg.training.selection import by_patient
from rsaseg.training.splits import Split

OFFSETS = [b / 10 for b in range(-30, 31)]
FAR = 1.0
"""An offset that a line names: its mask may be wrong."""
HARDLY = 0.001
"""Nearly the whole head is less likely than this, and stays so by any offset."""


def read_offsets(
    folder: Path,
    splits: Sequence[Split],
    files: Sequence[CaseFiles],
    progress: Progress = untold,
) -> dict[str, float]:
    """Return the offset of each case that a fold of an earlier training left out, by its name.

    The median over patients is taken off: what a network calls too little everywhere is its own way
    and no reader's.

    Parameters
    ----------
    folder : Path
        Of that training, which keeps each fold's probabilities.
    splits : sequence of Split
        Its folds. Of random splits nothing is measured: a case may be left out of several or none.
    files : sequence of CaseFiles
        Of all cases.
    progress : callable
        Called with a stage's name, the cases measured, and how many there are.

    Raises
    ------
    InputError
        If a probability is missing, or of another shape than its mask.
    """
    case_of, offsets = {case.name: case for case in files}, {}
    folds = [split for split in splits if split.name.startswith("fold-")]
    left_out = [(folder / fold.name / f"{name}.npy", name) for fold in folds for name in fold.test]
    for path, name in told(left_out, "tell readers apart", progress):
        mask = case_of[name].lesion
        if not path.exists():
            raise InputError(f"{path}: missing; let that training come to its end first")
        probability, (truth, _) = np.load(path), read_mask(mask)
        if probability.shape != truth.shape:
            raise InputError(f"{path}: not of the shape of {mask}; was it changed?")
        offsets[name] = reader_offset(probability, truth)
    return centre_offsets(offsets, [case_of[name] for name in offsets])


def centre_offsets(offsets: Mapping[str, float], cases: Sequence[CaseFiles]) -> dict[str, float]:
    """Return the cases' offsets, by name, less the median of the patients' means."""
    means = by_patient(cases, [offsets[case.name] for case in cases])
    middle = np.median(means) if len(means) else 0.0
    return {name: offset - float(middle) for name, offset in offsets.items()}


def note_readers(offsets: Mapping[str, float]) -> list[str]:
    """Return a line for each case whose mask is far from what the others lead to expect."""
    return [
        f"{name}: its mask takes in much {'more' if offset > 0 else 'less'} than a network "
        f"that never saw the patient leads to expect (offset {offset:+.1f}), which is told apart; "
        f"if the mask is wrong, mend it"
        for name, offset in offsets.items()
        if abs(offset) >= FAR
    ]


def note_untold(random: bool) -> str:
    """Return the line for a recipe that tells readers apart, where no earlier training does.

    ``random``: nor are there weights to start from, as the recipe would.
    """
    started = ", and the networks started from random weights" if random else ""
    return (
        f"readers were not told apart{started}: this recipe needs an earlier training with --folds "
        f"for that; give its folder (--init FOLDER) and the same --folds"
    )


def reader_offset(probability: NDArray[np.floating[Any]], truth: NDArray[np.bool_]) -> float:
    """Return the offset b with which sigma(z + b) has the highest soft Dice with the truth.

    Parameters
    ----------
    probability : ndarray
        (X, Y, Z), sigma(z).
    truth : ndarray
        (X, Y, Z) bool.

    Returns
    -------
    float
        -3 to 3; over 0 where the reader marks more than the network. 0 without a lesion.
    """
    if not truth.any():
        return 0.0
    counted = (probability > HARDLY) | truth
    p, lesion = probability[counted].astype(np.float64).clip(HARDLY, 1 - HARDLY), truth[counted]
    odds = p / (1 - p)

    def soft_dice(offset: float) -> float:
        shifted = 1 / (1 + np.exp(-offset) / odds)
        return float(2 * shifted[lesion].sum() / (np.square(shifted).sum() + lesion.sum()))

    return max(OFFSETS, key=soft_dice)
