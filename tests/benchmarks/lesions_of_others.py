"""Make exams to learn from: one patient's scan with the lesions of many others.

    python tests/benchmarks/lesions_of_others.py labelled/ljubljana-07 labelled/ljubljana-19=filled
        --masks lesion_masks_mni --leave-out ljubljana-07 --leave-out ljubljana-19 -o synthetic

Scans and masks lie on one grid, such as that of the MNI template. In the scan, or in the scan with
its own lesions filled in, lesions are painted where another patient has them: brighter in FLAIR by
0.36 of the brain's median (standard deviation 0.10 from lesion to lesion, as in reference masks of
the same site), with a texture, soft at the edge; brighter in T2 and darker in T1 along with it. Of
a mask counts what falls on white matter of this head. Each exam is a case for ``rsaseg train`` by
the name of the scan's patient with ``-made-`` and the mask's number, so that it is learned from
with that patient, and never tested on. Masks of patients left out by ``--leave-out`` are not used:
give all whose own scans are among the cases, or a fold would learn where the lesions of those it
left out are.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from lesion_free import Exam, Mask, fill_lesions
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label, maximum_filter

from rsaseg.errors import InputError, RsasegError
from rsaseg.imaging import read_mask, write_nifti
from rsaseg.preprocessing import SEQUENCES, deep_part
from rsaseg.training.cases import find_cases, read_exam

Array = NDArray[np.float32]
Images = dict[str, Array]


def medians(exam: Exam) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Return each sequence's median in the deep brain, and each voxel's depth in the brain."""
    flair = exam["FLAIR"].data
    depth = distance_transform_edt(flair > 0.2 * np.median(flair[flair > 0]))
    deep = deep_part(depth)
    return {n: float(np.median(v.data[deep & (v.data > 0)])) for n, v in exam.items()}, depth


def white_matter(images: Images, depth: NDArray[np.float64]) -> Mask:
    """Return where lesions may be painted, in a stripped brain in units of its medians."""
    t1, t2, flair = (gaussian_filter(images[name], 0.7) for name in SEQUENCES)
    tissue: Mask = (flair > 0.75) & (flair < 1.3) & (t1 > 0.83) & (t2 < 1.45) & (depth > 3)
    return tissue


def fit_mask(mask: Mask, white: Mask) -> Mask:
    """Return what of another patient's lesions falls on white matter, without specks."""
    fitted = gaussian_filter((mask & white).astype(np.float32), 0.6) > 0.45
    fitted &= white
    parts, _ = label(fitted)
    large: Mask = fitted & (np.bincount(parts.ravel())[parts] >= 3)
    return large


def texture(rng: Generator, shape: tuple[int, ...], sigma_vox: float) -> Array:
    """Return smooth noise of standard deviation 1."""
    noise = gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma_vox, truncate=3)
    return noise / noise.std()


def paint_lesions(images: Images, mask: Mask, rng: Generator) -> Images:
    """Return images, in units of their medians, with lesions where ``mask`` is."""
    parts, n = label(mask)
    strength = np.clip(rng.normal(0.36, 0.10, n + 1), 0.14, 0.7).astype(np.float32)
    strength[0] = 0
    contrast = maximum_filter(strength[parts], 5)  # so that the soft rim has its lesion's
    uneven = 1 + 0.25 * texture(rng, mask.shape, 4) + 0.15 * texture(rng, mask.shape, 1.2)
    contrast = contrast * np.clip(uneven, 0.3, 1.7)
    share = gaussian_filter(mask.astype(np.float32), rng.uniform(0.5, 0.9))
    core = gaussian_filter(mask.astype(np.float32), 2.5)  # higher deep in large lesions
    added = share * contrast
    return {
        "FLAIR": images["FLAIR"] + added,
        "T2": images["T2"] + added * rng.uniform(1.2, 2.4) * (0.6 + 0.8 * core),
        "T1": images["T1"] - added * rng.uniform(0.3, 1.1) * (0.5 + core),
    }


def make_exams(place: Path, filled: bool, masks: Sequence[Path], output: Path) -> None:
    """Write one patient's exam once with each of the masks."""
    cases = {case.name: case for case in find_cases([place.parent])}
    if place.name not in cases:
        raise InputError(f"{place}: no such folder with images; give a case's folder")
    case = cases[place.name]
    missing = sorted(set(SEQUENCES) - case.sequences.keys())
    if missing:
        raise InputError(f"{place}: has no {' and no '.join(missing)}; choose another case")
    exam = read_exam(case)
    own, grid = read_mask(case.lesion)
    if filled:
        exam, _ = fill_lesions(exam, own)
        own = np.zeros_like(own)
    median, depth = medians(exam)
    images = {name: volume.data / median[name] for name, volume in exam.items()}
    white = white_matter(images, depth)
    for path in masks:
        number = int(re.findall(r"\d+", path.name)[-1])
        mask, mask_grid = read_mask(path)
        if not mask_grid.matches(grid):
            raise InputError(f"{path}: not on the grid of {place}; choose masks that are")
        fitted = fit_mask(mask, white)
        made = paint_lesions(images, fitted, np.random.default_rng(number))
        folder = output / f"{case.patient}-made-{number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in made.items():
            grey = np.clip(data, 0, None) * median[name] * (exam[name].data > 0)
            write_nifti(folder / f"{name}.nii.gz", grey.astype(np.float32), exam[name].header)
        lesion = (fitted | own).astype(np.uint8)
        write_nifti(folder / "lesion.nii.gz", lesion, exam["FLAIR"].header)
        print(f"{folder}: {grid.voxel_mm3 * lesion.sum() / 1000:.1f} ml", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="+", help="Case folders; =filled: without its own lesions.")
    parser.add_argument("--masks", type=Path, required=True, help="Folder of lesion masks.")
    parser.add_argument("--leave-out", action="append", default=[], help="Name of a mask.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    masks = sorted(options.masks.glob("*.nii*"))
    masks = [path for path in masks if path.name.split(".")[0] not in options.leave_out]
    for scan in options.scans:
        place, _, filled = scan.partition("=")
        make_exams(Path(place), filled == "filled", masks, options.output)


if __name__ == "__main__":
    try:
        main()
    except RsasegError as error:
        sys.exit(str(error))
