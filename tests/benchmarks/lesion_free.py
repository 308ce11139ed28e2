"""What is called lesion where there is none: exams with their lesions filled in, and phantoms.

    python tests/benchmarks/lesion_free.py FOLD-0.safetensors FOLD-1.safetensors FOLD-2.safetensors
        --data labelled --data flair_only [--only tabriz-05] [--threshold 0.4] [--min-lesion 20]

Weights, folds and cases as for ``robustness.py``: each case is segmented by the network of the fold
that it was left out of. Its lesions, with a rim of 2 mm, are filled in each sequence with the local
mean of the tissue of normal brightness around them and as much noise as that has from voxel to
voxel. Every network also segments lesion-free phantoms. The bar is 0.3 ml called in each.

The table tells what is called in the exam as it is, in the filled one, and of that within the rim
of former lesions. The rest lies elsewhere: false alarms, and lesions that the reader left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from robustness import read_options, settings_of, unseen_cases
from scipy.ndimage import distance_transform_edt, gaussian_filter

from rsaseg.errors import RsasegError
from rsaseg.imaging import Volume, read_mask
from rsaseg.phantom import make_phantom
from rsaseg.segmentation import Settings
from rsaseg.segmentation.model import load_model
from rsaseg.segmentation.network import segment_exam
from rsaseg.training.cases import read_exam

BAR_ML = 0.3
RIM_MM, REACH_MM, BLUR_MM = 2.0, 14.0, 4.0
NORMAL = (0.75, 1.15)
"""Brightness on FLAIR of tissue to copy, as parts of the median around the lesions."""

Exam = dict[str, Volume]
Mask = NDArray[np.bool_]


def fill_lesions(exam: Exam, lesion: Mask, seed: int = 0) -> tuple[Exam, Mask]:
    """Replace lesions and their rims by the tissue around them.

    Parameters
    ----------
    exam : dict
        Sequence name to volume, all on one grid.
    lesion : ndarray
        (X, Y, Z) bool, on that grid.
    seed : int
        Of the noise.

    Returns
    -------
    exam, filled
        The exam without lesions, and the voxels that were replaced.
    """
    flair = exam["FLAIR"]
    spacing_mm = flair.grid.spacing_mm
    away_mm = distance_transform_edt(~lesion, spacing_mm)
    filled, around = away_mm <= RIM_MM, (away_mm > RIM_MM) & (away_mm <= REACH_MM)
    usual = np.median(flair.data[around])
    normal = around & (flair.data > NORMAL[0] * usual) & (flair.data < NORMAL[1] * usual)
    sigma = [BLUR_MM / mm for mm in spacing_mm]
    weight = gaussian_filter(normal.astype(np.float32), sigma, truncate=6)
    rng = np.random.default_rng(seed)
    without = {}
    for name, volume in exam.items():
        total = gaussian_filter(
            np.where(normal, volume.data, 0).astype(np.float32), sigma, truncate=6
        )
        mean = np.where(
            weight > 1e-6, total / np.maximum(weight, 1e-6), np.median(volume.data[normal])
        )
        steps = np.diff(volume.data, axis=0)[normal[1:] & normal[:-1]]
        noise = 1.4826 / np.sqrt(2) * np.median(np.abs(steps))  # of a normal distribution
        new = mean + noise * rng.standard_normal(mean.shape)
        without[name] = replace(volume, data=np.where(filled, new, volume.data).astype(np.float32))
    return without, filled


def report(name: str, called_ml: Sequence[float]) -> None:
    cells = " | ".join(f"{ml:.2f}" for ml in called_ml)
    print(f"| {name} | {cells} |", flush=True)


def try_cases(options: argparse.Namespace, settings: Settings) -> list[float]:
    """Segment each case as it is and filled in; return the ml called in the filled ones."""
    called = []
    print("| case | true ml | called as it is | called filled in | of it in former lesions |")
    print("| --- | --- | --- | --- | --- |")
    for files, model in unseen_cases(options):
        exam = read_exam(files)
        lesion, grid = read_mask(files.lesion)
        ml = grid.voxel_mm3 / 1000
        before = segment_exam(exam, model, settings)
        without, filled = fill_lesions(exam, lesion)
        after = segment_exam(without, model, settings)
        inside = ml * np.count_nonzero(after.mask.astype(bool) & filled)
        report(files.name, (ml * lesion.sum(), before.volume_ml, after.volume_ml, inside))
        called.append(after.volume_ml)
    return called


def try_phantoms(options: argparse.Namespace, settings: Settings) -> list[float]:
    """Segment lesion-free phantoms, thick and thin slices, with every network."""
    called = []
    print("\n| phantom | weights | called |\n| --- | --- | --- |")
    for seed, shape, spacing in ((0, (192, 224, 54), (1, 1, 3)), (1, (182, 218, 160), (1, 1, 1))):
        phantom = make_phantom(seed, shape, spacing, lesions=False)
        for path in options.weights:
            found = segment_exam(phantom.images, load_model(str(path)), settings)
            report(f"{seed}, {spacing[2]} mm slices | {path.name}", (found.volume_ml,))
            called.append(found.volume_ml)
    return called


def main() -> None:
    options = read_options(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    settings = settings_of(options)
    for what, called in (
        ("cases", try_cases(options, settings)),
        ("phantoms", try_phantoms(options, settings)),
    ):
        within = sum(ml <= BAR_ML for ml in called)
        print(
            f"\n{what}: {within} of {len(called)} within {BAR_ML} ml, median "
            f"{np.median(called):.2f} ml, most {max(called):.2f} ml"
        )


if __name__ == "__main__":
    try:
        main()
    except RsasegError as error:
        sys.exit(str(error))
