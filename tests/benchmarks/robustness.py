"""What a lost sequence, a stripped skull or thick slices cost, on cases the network never saw.

Takes the folder of a cross-validated ``rsaseg train`` and the same ``--data`` and ``--folds``::

    python tests/benchmarks/robustness.py rsaseg-training --data cases --folds 3 --threshold 0.5

Each network segments the cases of its own fold, as they are and degraded; the mean Dice of each
site (the name up to its first hyphen) is printed, with the number of cases it rests on.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from rsaseg.imaging import Grid, Volume, read_mask
from rsaseg.inference.device import choose_device
from rsaseg.inference.probability import predict_probability
from rsaseg.metrics import dice
from rsaseg.networks.unet import DEFAULT, RSANet
from rsaseg.preprocessing import InputSpec, prepare, to_flair_grid
from rsaseg.training.cases import CaseFiles, find_cases, read_exam, split_folds
from rsaseg.training.checkpoint import load_checkpoint
from rsaseg.training.loop import Recipe

Exam = dict[str, Volume]
Mask = NDArray[np.bool_]


def thick_slices(exam: Exam, lesion: Mask, factor: int) -> tuple[Exam, Mask]:
    """Average ``factor`` slices into one; a thick voxel is lesion if half of it was."""
    grid = exam["FLAIR"].grid
    affine = grid.affine @ np.diag([1.0, 1.0, factor, 1.0])
    affine[:3, 3] = (grid.affine @ [0, 0, (factor - 1) / 2, 1])[:3]
    thick = Grid((*grid.shape[:2], grid.shape[2] // factor), affine)

    def average(data: NDArray[np.floating]) -> NDArray[np.float32]:
        slices = data[:, :, : thick.shape[2] * factor].astype(np.float32)
        return slices.reshape(*thick.shape, factor).mean(axis=3)

    images = {n: replace(v, data=average(v.data), grid=thick) for n, v in exam.items()}
    return images, average(lesion.astype(np.float32)) > 0.5


def degraded(files: CaseFiles, exam: Exam, lesion: Mask) -> Iterator[tuple[str, Exam, Mask]]:
    """Yield the exam as it is, and in each way degraded that it allows."""
    yield "as it is", exam, lesion
    if len(exam) == 3:
        yield "without T1", {n: v for n, v in exam.items() if n != "T1"}, lesion
        yield "without T2", {n: v for n, v in exam.items() if n != "T2"}, lesion
        yield "FLAIR alone", {"FLAIR": exam["FLAIR"]}, lesion
    if files.brain:
        brain, _ = read_mask(files.brain)
        yield (
            "skull stripped",
            {n: replace(v, data=v.data * brain) for n, v in exam.items()},
            lesion,
        )
    if exam["FLAIR"].grid.spacing_mm[2] < 2:
        for factor in (3, 5):
            yield f"{factor} mm slices", *thick_slices(exam, lesion, factor)
    noisy = {
        n: replace(v, data=v.data + 0.05 * v.data.std() * _noise(v.data.shape))
        for n, v in exam.items()
    }
    yield "5 % noise", noisy, lesion


def _noise(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def probability_of(network: torch.nn.Module, exam: Exam) -> NDArray[np.float32]:
    """Return the lesion probability on the FLAIR's grid."""
    seen = prepare(exam, InputSpec())
    image = torch.from_numpy(seen.image)
    found = predict_probability(network, image, Recipe().crop_vox, choose_device("auto"))
    return to_flair_grid(found.probability.numpy(), seen.grid, exam["FLAIR"].grid)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("training", type=Path)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--folds", type=int, required=True)
    parser.add_argument("--threshold", type=float, required=True)
    options = parser.parse_args()
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for i, part in enumerate(split_folds(find_cases(options.data), options.folds)):
        network, average = RSANet(DEFAULT), RSANet(DEFAULT)
        load_checkpoint(options.training / f"fold-{i}" / "checkpoint.safetensors", network, average)
        for files in part:
            lesion, _ = read_mask(files.lesion)
            for name, exam, truth in degraded(files, read_exam(files), lesion):
                mask = probability_of(average, exam) > options.threshold
                figures[name][files.name.split("-")[0]].append(dice(mask, truth))
    sites = sorted({site for row in figures.values() for site in row})
    table = Table("degradation", *sites, title="mean out-of-fold Dice (cases)")
    for name, row in figures.items():
        cells = [f"{np.mean(row[s]):.3f} ({len(row[s])})" if s in row else "" for s in sites]
        table.add_row(name, *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
