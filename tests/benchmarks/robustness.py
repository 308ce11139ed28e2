"""What a lost sequence, a stripped skull, thick slices and the like cost on cases never seen.

    python tests/benchmarks/robustness.py FOLD-0.safetensors FOLD-1.safetensors FOLD-2.safetensors
        --data labelled --data flair_only [--only tabriz-05] [--threshold 0.4] [--min-lesion 20]
        [--degradation "FLAIR alone"]

Give the weights of each fold's network in order; cases are dealt to as many folds as
``rsaseg train --folds`` deals them, and each is segmented by the network of its own fold, which
has not seen it. One weights file is taken for all cases.

Each case is segmented as it is and degraded in each way that it allows, as ``predict`` would. A
line for each mask is printed at once, with the processor time it took, and in the end a table in
Markdown: each site's mean Dice (the site is the name up to its first hyphen), in brackets that of
the very same cases as they are, and their number.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray
from scipy.ndimage import shift, zoom

from rsaseg.errors import RsasegError
from rsaseg.imaging import Grid, Volume, read_mask
from rsaseg.metrics import dice
from rsaseg.segmentation import Settings
from rsaseg.segmentation.model import Model, load_model
from rsaseg.segmentation.network import segment_exam
from rsaseg.training.cases import CaseFiles, find_cases, read_exam, split_folds

Exam = dict[str, Volume]
Mask = NDArray[np.bool_]
Float = NDArray[np.floating]


def on_grid(exam: Exam, data: dict[str, Float], grid: Grid) -> Exam:
    """Return the exam with other voxels on another grid."""
    return {
        name: replace(volume, data=data[name].astype(np.float32), grid=grid)
        for name, volume in exam.items()
    }


def thick_slices(exam: Exam, lesion: Mask, factor: int) -> tuple[Exam, Mask]:
    """Average ``factor`` slices into one; a thick voxel is lesion if half of it was."""
    grid = exam["FLAIR"].grid
    affine = grid.affine @ np.diag([1.0, 1.0, factor, 1.0])
    affine[:3, 3] = (grid.affine @ [0, 0, (factor - 1) / 2, 1])[:3]
    thick = Grid((*grid.shape[:2], grid.shape[2] // factor), affine)

    def average(data: Float) -> Float:
        slices = data[:, :, : thick.shape[2] * factor].astype(np.float32)
        return slices.reshape(*thick.shape, factor).mean(axis=3)

    images = on_grid(exam, {name: average(volume.data) for name, volume in exam.items()}, thick)
    return images, average(lesion) > 0.5


def turned_axes(exam: Exam, lesion: Mask, codes: str) -> tuple[Exam, Mask]:
    """Store the same exam with its axes in another order; nothing is lost."""
    grid = exam["FLAIR"].grid
    turn = ornt_transform(io_orientation(grid.affine), axcodes2ornt(tuple(codes)))
    affine = grid.affine @ inv_ornt_aff(turn, grid.shape)
    data = {name: apply_orientation(volume.data, turn) for name, volume in exam.items()}
    turned = apply_orientation(lesion, turn)
    return on_grid(exam, data, Grid(turned.shape, affine)), turned


def changed(exam: Exam, change: dict[str, Float]) -> Exam:
    return on_grid(exam, change, exam["FLAIR"].grid)


def noisy(exam: Exam, share: float) -> Exam:
    """Add noise of a share of an image's standard deviation over the whole field of view."""
    drawn = np.random.default_rng(0).standard_normal(exam["FLAIR"].grid.shape, dtype=np.float32)
    return changed(exam, {n: v.data + share * v.data.std() * drawn for n, v in exam.items()})


def shaded(exam: Exam, share: float) -> Exam:
    """Multiply each image by a smooth field that swings by a share to either side."""
    coarse = np.random.default_rng(1).uniform(-1, 1, (3, 3, 3))
    shape = exam["FLAIR"].grid.shape
    field = zoom(coarse, np.array(shape) / 3, order=1, grid_mode=True, mode="nearest")
    return changed(exam, {n: v.data * (1 + share * field) for n, v in exam.items()})


def contrasted(exam: Exam, gamma: float) -> Exam:
    """Bend each image's grey values between its darkest and its brightest."""
    bent = {}
    for name, volume in exam.items():
        low, high = volume.data.min(), np.percentile(volume.data, 99.9)
        bent[name] = ((volume.data - low) / (high - low)) ** gamma * (high - low) + low
    return changed(exam, bent)


def misaligned(exam: Exam, mm: float) -> Exam:
    """Move T1 and T2 sideways within the slices, as a registration that failed a little."""
    spacing = exam["FLAIR"].grid.spacing_mm
    by = {"T1": (mm / spacing[0], 0, 0), "T2": (0, mm / spacing[1], 0), "FLAIR": (0, 0, 0)}
    moved = {n: shift(v.data, by[n], order=1, mode="nearest") for n, v in exam.items()}
    return changed(exam, moved)


def degraded(files: CaseFiles, exam: Exam, lesion: Mask) -> Iterator[tuple[str, Exam, Mask]]:
    """Yield the exam as it is, and in each way degraded that it allows."""
    yield "as it is", exam, lesion
    if len(exam) == 3:
        yield "without T1", {n: v for n, v in exam.items() if n != "T1"}, lesion
        yield "without T2", {n: v for n, v in exam.items() if n != "T2"}, lesion
        yield "FLAIR alone", {"FLAIR": exam["FLAIR"]}, lesion
        yield "T1 and T2 1.5 mm off", misaligned(exam, 1.5), lesion
    if files.brain:
        brain, _ = read_mask(files.brain)
        yield "skull stripped", changed(exam, {n: v.data * brain for n, v in exam.items()}), lesion
    if exam["FLAIR"].grid.spacing_mm[2] < 2:
        for factor in (3, 5, 8):
            yield f"{factor} mm slices", *thick_slices(exam, lesion, factor)
    yield "axes stored as PSR", *turned_axes(exam, lesion, "PSR")
    yield "5 % noise", noisy(exam, 0.05), lesion
    yield "20 % shading", shaded(exam, 0.2), lesion
    yield "gamma 0.8", contrasted(exam, 0.8), lesion
    yield "gamma 1.25", contrasted(exam, 1.25), lesion


def unseen_cases(options: argparse.Namespace) -> Iterator[tuple[CaseFiles, Model]]:
    """Yield each case with the network that has not seen it."""
    models = [load_model(str(path)) for path in options.weights]
    cases = find_cases(options.data)
    folds = split_folds(cases, len(models)) if len(models) > 1 else [cases]
    for model, fold in zip(models, folds, strict=True):
        for files in fold:
            if not options.only or files.name in options.only:
                yield files, model


def read_options(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the options that the benchmarks of weights share."""
    parser.add_argument("weights", nargs="+", type=Path, help="Of each fold, in order.")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--only", action="append", help="Name of a case; several may be given.")
    parser.add_argument("--threshold", type=float, help="Instead of the weights' own.")
    parser.add_argument("--min-lesion", type=float, help="In mm3, instead of the weights' own.")
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def settings_of(options: argparse.Namespace) -> Settings:
    return Settings(
        device=options.device, threshold=options.threshold, min_lesion_mm3=options.min_lesion
    )


def print_table(rows: Sequence[tuple[str, str, float]]) -> None:
    """Print (case, degradation, Dice) as Markdown, a column for each site and one for all."""
    as_is = {case: value for case, name, value in rows if name == "as it is"}
    sites = [*sorted({case.split("-")[0] for case in as_is}), ""]
    print("\n| degradation | " + " | ".join(site or "all" for site in sites) + " |")
    print("| --- " * (len(sites) + 1) + "|")
    for degradation in dict.fromkeys(name for _, name, _ in rows):
        cells = []
        for site in sites:
            of = {c: v for c, name, v in rows if name == degradation and c.startswith(site)}
            before = np.mean([as_is[case] for case in of]) if of else 0
            after = np.mean(list(of.values())) if of else 0
            cells.append(f"{after:.3f} ({before:.3f}, {len(of)})" if of else "")
        print(f"| {degradation} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--degradation", action="append", help="Only this one; several may be given."
    )
    options = read_options(parser)
    settings, rows = settings_of(options), []
    for files, model in unseen_cases(options):
        lesion, _ = read_mask(files.lesion)
        for name, exam, truth in degraded(files, read_exam(files), lesion):
            if name not in ("as it is", *(options.degradation or [name])):
                continue
            started = time.process_time()
            mask = segment_exam(exam, model, settings).mask
            rows.append((files.name, name, dice(mask, truth)))
            spent = time.process_time() - started
            print(f"{files.name}\t{name}\t{rows[-1][2]:.4f}\t{spent:.1f} s", flush=True)
    print_table(rows)


if __name__ == "__main__":
    try:
        main()
    except RsasegError as error:
        sys.exit(str(error))
