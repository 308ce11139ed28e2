"""Make exams to learn from: one patient's scan with the lesions of many others.

    python tests/benchmarks/lesions_of_others.py labelled/ljubljana-07 labelled/ljubljana-19=filled
        --masks lesion_masks_mni --leave-out ljubljana-07 --leave-out ljubljana-19 -o synthetic
    python tests/benchmarks/lesions_of_others.py labelled/tabriz-01 labelled/tabriz-01=filled
        --masks lesion_masks_mni --leave-out ljubljana-07 --leave-out ljubljana-19
        --template labelled/ljubljana-07 --each 4 -o synthetic

In the scan, or in the scan with its own lesions filled in, lesions are painted where another
patient has them. How much brighter than the tissue around they are in FLAIR, and how T2 and T1 go
with it, is drawn as it is in the scan's own lesions; they have a texture and are soft at the edge.
Of a mask counts what falls on white matter of this head.

Masks of a template's space go with any scan: ``--template`` names a scan on their grid, whose FLAIR
is laid on that of each scan on another grid by an affine registration. ``--each 4`` deals four
masks to a scan, the four after them to the next; without it each scan gets all. ``--mirrored``
swaps left and right of every mask, for as many exams again.

Each exam is a case for ``rsaseg train`` by the name of the scan's patient with ``-made-`` and the
mask's number, 50 higher where mirrored, and higher by ``--add``, so that it is learned from with
that patient, and never tested on. Masks of patients left out by ``--leave-out`` are not used: give
all whose own scans are among the cases, or a fold would learn where the lesions of those it left
out are.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from lesion_free import Exam, Mask, fill_lesions
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.ndimage import distance_transform_edt, gaussian_filter, label, maximum_filter

from rsaseg.errors import InputError, RsasegError
from rsaseg.imaging import Grid, read_mask, write_nifti
from rsaseg.preprocessing import SEQUENCES, deep_part
from rsaseg.registration.itk import itk_image
from rsaseg.training.cases import CaseFiles, find_cases, read_exam

Array = NDArray[np.float32]
Images = dict[str, Array]

MEASURED_MM3 = 5.0
"""Smaller lesions tell nothing of a scan's contrast."""
FEW = 5
"""So many lesions do not tell how contrast changes with volume."""
MARKED = 0.4
"""Part of a voxel that lesions must fill to be marked in it, where voxels are larger."""

Line = tuple[float, float]
"""A figure of lesions of 100 mm3, and how much it rises with each tenfold volume."""


@dataclass(frozen=True)
class Contrast:
    """How lesions differ from the tissue around them, in units of the deep brain's medians.

    Small lesions have half of large ones' contrast in FLAIR, and next to none in T1.

    Attributes
    ----------
    flair, t2, t1 : tuple of float
        The usual difference, by volume.
    spread : float
        Standard deviation of FLAIR's about it.
    measured_mm3 : tuple of float
        Volumes between which it was measured; beyond them it stays the same.
    """

    flair: Line
    t2: Line
    t1: Line
    spread: float
    measured_mm3: tuple[float, float]

    def of(self, line: Line, volume_mm3: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the usual difference of lesions of these volumes."""
        at, rise = line
        usual: NDArray[np.float64] = at + rise * _tenfold(volume_mm3.clip(*self.measured_mm3))
        return usual


def _tenfold(volume_mm3: NDArray[np.float64]) -> NDArray[np.float64]:
    power: NDArray[np.float64] = np.log10(volume_mm3 / 100)
    return power


def find_case(place: Path) -> CaseFiles:
    """Return the case in a folder, with all three sequences."""
    cases = {case.name: case for case in find_cases([place.parent])}
    if place.name not in cases:
        raise InputError(f"{place}: no such folder with images; give a case's folder")
    missing = sorted(set(SEQUENCES) - cases[place.name].sequences.keys())
    if missing:
        raise InputError(f"{place}: has no {' and no '.join(missing)}; choose another case")
    return cases[place.name]


def brain_of(case: CaseFiles, exam: Exam) -> Mask:
    """Return the brain: the case's mask of it, or what a stripped FLAIR holds."""
    if case.brain is not None:
        return read_mask(case.brain)[0]
    flair = exam["FLAIR"].data
    stripped: Mask = flair > 0.2 * np.median(flair[flair > 0])
    return stripped


def blur(data: NDArray[Any], sigma_mm: float, grid: Grid) -> Array:
    """Return ``data`` blurred by so many mm: across thick slices next to nothing."""
    sigma = [sigma_mm / mm for mm in grid.spacing_mm]
    blurred: Array = gaussian_filter(data.astype(np.float32), sigma)
    return blurred


def white_matter(images: Images, depth_mm: NDArray[np.float64], grid: Grid) -> Mask:
    """Return where lesions may be painted."""
    t1, t2, flair = (blur(images[name], 0.7, grid) for name in SEQUENCES)
    tissue: Mask = (flair > 0.75) & (flair < 1.3) & (t1 > 0.83) & (t2 < 1.45) & (depth_mm > 3)
    return tissue


def measure_contrast(images: Images, lesion: Mask, white: Mask, grid: Grid) -> Contrast:
    """Return the contrast of a scan's own lesions, over white matter 1.5 to 5 mm around each.

    Raises
    ------
    InputError
        If none of them is large enough.
    """
    parts, n = label(lesion)
    each = np.arange(1, n + 1)
    volume_mm3 = np.bincount(parts.ravel())[1:] * grid.voxel_mm3
    away_mm, near = distance_transform_edt(~lesion, grid.spacing_mm, return_indices=True)
    around = np.where(white & (away_mm > 1.5) & (away_mm < 5), parts[tuple(near)], 0)
    told = (volume_mm3 > MEASURED_MM3) & np.isin(each, around)
    if not told.any():
        raise InputError(f"no lesion over {MEASURED_MM3:g} mm3 to learn its contrast from")
    each, volume_mm3 = each[told], volume_mm3[told]
    degree = 1 if len(each) > FEW else 0
    lines, spread = {}, 0.0
    for name, data in images.items():
        over = ndimage.mean(data, parts, each) - ndimage.median(data, around, each)
        fitted = np.polyfit(_tenfold(volume_mm3), over, degree)
        lines[name] = (float(fitted[-1]), float(fitted[0]) if degree else 0.0)
        if name == "FLAIR":
            spread = float((over - np.polyval(fitted, _tenfold(volume_mm3))).std())
    measured_mm3 = (float(volume_mm3.min()), float(volume_mm3.max()))
    return Contrast(lines["FLAIR"], lines["T2"], lines["T1"], spread, measured_mm3)


def lay_on(template: Path, exam: Exam, brain: Mask) -> Any:
    """Return ITK's affine transform of a stripped template scan's FLAIR to that of an exam."""
    flair = exam["FLAIR"]
    fixed = itk_image(flair.data * brain, flair.grid)
    other = read_exam(find_case(template))["FLAIR"]
    moving = itk_image(other.data.clip(0), other.grid)
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)  # one order of summing: the same bits every run
    method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.1, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 150)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([1, 1])
    method.SetSmoothingSigmasPerLevel([3, 1])
    middles = sitk.CenteredTransformInitializerFilter.MOMENTS
    rigid = sitk.CenteredTransformInitializer(fixed, moving, sitk.Euler3DTransform(), middles)
    method.SetInitialTransform(rigid, inPlace=True)
    method.Execute(fixed, moving)
    affine = sitk.AffineTransform(3)
    affine.SetCenter(rigid.GetCenter())
    affine.SetMatrix(rigid.GetMatrix())
    affine.SetTranslation(rigid.GetTranslation())
    method.SetInitialTransform(affine, inPlace=True)
    method.Execute(fixed, moving)
    return affine


def bring(mask: Mask, mask_grid: Grid, grid: Grid, laid: Any) -> Mask:
    """Return where lesions of a template's space fill enough of a head's voxels."""
    fine = [max(1, round(mm)) for mm in grid.spacing_mm]  # about 1 mm
    image = itk_image(np.zeros(grid.shape, np.float32), grid)
    finer = sitk.Expand(image, fine, sitk.sitkNearestNeighbor)
    there = sitk.Resample(itk_image(mask, mask_grid), finer, laid, sitk.sitkLinear, 0.0)
    share = sitk.GetArrayFromImage(sitk.BinShrink(there, fine)).T
    brought: Mask = share > MARKED
    return brought


def fit_mask(mask: Mask, white: Mask, grid: Grid) -> Mask:
    """Return what of another patient's lesions falls on white matter, without specks."""
    fitted = blur(mask & white, 0.6, grid) > 0.45
    fitted &= white
    parts, _ = label(fitted)
    large: Mask = fitted & (np.bincount(parts.ravel())[parts] >= 3)
    return large


def texture(rng: Generator, grid: Grid, sigma_mm: float) -> Array:
    """Return smooth noise of standard deviation 1."""
    noise = blur(rng.standard_normal(grid.shape), sigma_mm, grid)
    unit: Array = noise / noise.std()
    return unit


def paint_lesions(
    images: Images,
    mask: Mask,
    contrast: Contrast,
    grid: Grid,
    rng: Generator,
    spread: float = 0.3,
) -> Images:
    """Return images, in units of their medians, with lesions where ``mask`` is."""
    parts, n = label(mask)
    each = np.arange(n + 1)
    volume_mm3 = np.bincount(parts.ravel(), minlength=n + 1) * grid.voxel_mm3
    usual = contrast.of(contrast.flair, volume_mm3).clip(0.1)
    brightness = usual * np.exp(rng.normal(0, spread))
    strength = np.clip(rng.normal(brightness, max(contrast.spread, 0.05)), 0.08, 0.9)
    core = blur(mask, 2.5, grid)  # higher deep in large lesions
    share = blur(mask, rng.uniform(0.5, 0.9), grid) * (1 + rng.uniform(-0.5, 0.4) * core)
    strength /= np.maximum(ndimage.mean(share, parts, each), 0.2)  # its mean is what was drawn
    strength[0] = 0
    rim_vox = [2 * round(2 / mm) + 1 for mm in grid.spacing_mm]
    uneven = 1 + 0.25 * texture(rng, grid, 4) + 0.15 * texture(rng, grid, 1.2)
    share *= np.clip(uneven, 0.3, 1.7)
    deeper = core - maximum_filter(ndimage.mean(core, parts, each)[parts] * mask, rim_vox)
    t2 = contrast.of(contrast.t2, volume_mm3).clip(0) / usual * rng.uniform(0.7, 1.3)
    t1 = -contrast.of(contrast.t1, volume_mm3).clip(None, 0) / usual * rng.uniform(0.5, 1.5)

    def added(height: NDArray[np.float64]) -> Array:
        """So that the soft rim of a lesion has that lesion's height."""
        return share * maximum_filter(height.astype(np.float32)[parts], rim_vox)

    return {
        "FLAIR": images["FLAIR"] + added(strength),
        "T2": images["T2"] + added(strength * t2) * (1 + 0.8 * deeper),
        "T1": images["T1"] - added(strength * t1) * (1 + deeper),
    }


def read_numbered(path: Path, options: argparse.Namespace) -> tuple[Mask, Grid, int]:
    """Return a mask, its grid and its exam's number; mirrored, with left and right swapped."""
    mask, grid = read_mask(path)
    number = int(re.findall(r"\d+", path.name)[-1]) + options.add
    if not options.mirrored:
        return mask, grid, number
    side = int(np.abs(grid.affine[0, :3]).argmax())
    return np.flip(mask, side), grid, number + 50


@dataclass(frozen=True)
class Head:
    """A patient's exam to paint into.

    Attributes
    ----------
    case : CaseFiles
    exam : dict
        Its sequences as they are.
    images : dict
        The same in units of the deep brain's medians.
    median : dict
        These medians, in the scan's grey values.
    own, brain, white : ndarray
        (X, Y, Z) bool: the lesions in it, the brain, and where lesions may be painted.
    """

    case: CaseFiles
    exam: Exam
    images: Images
    median: dict[str, float]
    own: Mask
    brain: Mask
    white: Mask

    @property
    def grid(self) -> Grid:
        return self.exam["FLAIR"].grid


def read_head(place: Path, filled: bool = False) -> Head:
    """Return a case's exam with its own lesions, or with these filled in."""
    case = find_case(place)
    exam, (own, grid) = read_exam(case), read_mask(case.lesion)
    brain = brain_of(case, exam)
    depth_mm = distance_transform_edt(brain, grid.spacing_mm)
    deep = deep_part(depth_mm)
    median = {n: float(np.median(v.data[deep & (v.data > 0)])) for n, v in exam.items()}
    if filled and own.any():
        exam, _ = fill_lesions(exam, own)
        own = np.zeros_like(own)
    images = {name: volume.data / median[name] for name, volume in exam.items()}
    white = white_matter(images, depth_mm, grid)
    return Head(case, exam, images, median, own, brain, white)


def contrast_of(head: Head) -> Contrast:
    """Return the contrast of the lesions in a scan.

    Raises
    ------
    InputError
        If none of them is large enough.
    """
    try:
        return measure_contrast(head.images, head.own, head.white, head.grid)
    except InputError as error:
        raise InputError(
            f"{head.case.lesion}: {error}; choose another case, or --like one"
        ) from None


def write_exam(head: Head, images: Images, lesion: Mask, number: int, output: Path) -> Path:
    """Write a made exam, in units of the head's medians, as a case; return its folder.

    Raises
    ------
    InputError
        If there is such a case already.
    """
    case, header = head.case, head.exam["FLAIR"].header
    folder = output / f"{case.patient}-made-{number:02d}"
    if folder.exists():
        raise InputError(f"{folder}: is there already; choose another output folder")
    folder.mkdir(parents=True)
    for name, data in images.items():
        volume = head.exam[name]
        grey = np.clip(data, 0, None) * head.median[name] * (volume.data > 0)
        write_nifti(folder / f"{name}.nii.gz", grey.astype(np.float32), volume.header)
    write_nifti(folder / "lesion.nii.gz", lesion.astype(np.uint8), header)
    if case.brain is not None:
        write_nifti(folder / "brain.nii.gz", head.brain.astype(np.uint8), header)
    return folder


def make_exams(
    head: Head, contrast: Contrast, masks: Sequence[Path], options: argparse.Namespace
) -> None:
    """Write one patient's exam once with each of the masks."""
    grid, laid = head.grid, None
    for path in masks:
        mask, mask_grid, number = read_numbered(path, options)
        if not mask_grid.matches(grid):
            if options.template is None:
                raise InputError(f"{path}: not on the grid of {head.case.name}; give a --template")
            laid = laid or lay_on(options.template, head.exam, head.brain)
            mask = bring(mask, mask_grid, grid, laid)
        fitted = fit_mask(mask, head.white, grid)
        rng = np.random.default_rng(number)
        made = paint_lesions(head.images, fitted, contrast, grid, rng, options.spread)
        lesion = fitted | head.own
        folder = write_exam(head, made, lesion, number, options.output)
        print(f"{folder}: {grid.voxel_mm3 * lesion.sum() / 1000:.1f} ml", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="+", help="Case folders; =filled: without its own lesions.")
    parser.add_argument("--masks", type=Path, required=True, help="Folder of lesion masks.")
    parser.add_argument("--leave-out", action="append", default=[], help="Name of a mask.")
    parser.add_argument("--template", type=Path, help="A stripped case on the masks' grid.")
    parser.add_argument("--like", type=Path, help="A case whose lesions all take after.")
    parser.add_argument("--each", type=int, help="Masks for each scan. Default: all.")
    parser.add_argument("--mirrored", action="store_true", help="Swap the masks' left and right.")
    parser.add_argument("--spread", type=float, default=0.3, help="Of their brightness, as a log.")
    parser.add_argument("--add", type=int, default=0, help="To each exam's number.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    masks = sorted(options.masks.glob("*.nii*"))
    masks = [path for path in masks if path.name.split(".")[0] not in options.leave_out]
    each = options.each or len(masks)
    for i, scan in enumerate(options.scans):
        place, _, filled = scan.partition("=")
        contrast = contrast_of(read_head(options.like or Path(place)))
        dealt = [masks[(i * each + k) % len(masks)] for k in range(each)]
        make_exams(read_head(Path(place), filled == "filled"), contrast, dealt, options)


if __name__ == "__main__":
    try:
        main()
    except RsasegError as error:
        sys.exit(str(error))
