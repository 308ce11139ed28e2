"""The demo: a synthetic exam with a known truth, segmented and scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rsaseg.imaging import read_mask
from rsaseg.metrics import dice
from rsaseg.phantom import write_phantom
from rsaseg.predict import Segmentation, Settings, predict
from rsaseg.progress import Progress, untold


@dataclass(frozen=True, eq=False)
class Demo:
    """What the demo made: the exam's files, the mask's path, the segmentation and its Dice."""

    files: dict[str, Path]
    mask: Path
    segmentation: Segmentation
    dice: float


def demo(folder: Path, settings: Settings = Settings(), progress: Progress | None = None) -> Demo:
    """Write a synthetic exam into ``folder/exam``, segment it and compare with its truth.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    settings : Settings
        Weights, device, threshold.
    progress : callable, optional
        See `rsaseg.progress.Progress`.

    Raises
    ------
    InputError
        If the folder cannot be written, or holds other files by these names.
    """
    report = progress or untold
    report("make exam", 0, 1)
    files = write_phantom(folder / "exam")
    report("make exam", 1, 1)
    mask = folder / "exam_mask.nii.gz"
    result = predict(files["FLAIR"], mask, files["T1"], files["T2"], settings, report)
    truth, _ = read_mask(files["lesion"])
    return Demo(files, mask, result, dice(result.mask, truth))
