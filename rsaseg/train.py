"""Train a network on the user's own cases, with cross-validation by patient."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rsaseg.imaging import read_mask, write_atomic, write_nifti
from rsaseg.inference.device import choose_device
from rsaseg.inference.probability import predict_probability
from rsaseg.lesions import remove_small
from rsaseg.metrics import Overlap, count_overlap, sample_average, voxel_average
from rsaseg.networks.weights import WeightsInfo, save_weights
from rsaseg.preprocessing import InputSpec, prepare, to_flair_grid
from rsaseg.training.cases import (
    CachedCase,
    CaseFiles,
    cache_case,
    find_cases,
    read_exam,
    split_folds,
)
from rsaseg.training.loop import Recipe, fit
from rsaseg.training.selection import Choice, OutOfFold, choose_threshold

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class TrainingResult:
    """What a training run made.

    Attributes
    ----------
    weights : Path
        The weights file.
    choice : Choice or None
        Threshold and smallest lesion from the out-of-fold masks; None without folds.
    overlaps : dict
        Case name to voxel counts of its out-of-fold mask.
    """

    weights: Path
    choice: Choice | None
    overlaps: dict[str, Overlap]

    @property
    def sample_average_dice(self) -> float:
        """Mean Dice over out-of-fold cases."""
        return sample_average(self.overlaps.values())[0]

    @property
    def voxel_average_dice(self) -> float:
        """Dice of all out-of-fold cases' voxels pooled."""
        return voxel_average(self.overlaps.values())[0]


def train(
    data: Sequence[Path],
    output: Path,
    recipe: Recipe,
    folds: int = 0,
    device: str = "auto",
    citation: Sequence[str] = (),
    progress: Progress | None = None,
) -> TrainingResult:
    """Cross-validate, then train on all cases and write one weights file.

    Each network's state is kept under ``output``; the same call goes on where it was stopped.

    Parameters
    ----------
    data : sequence of Path
        Folders with one folder per case.
    output : Path
        Folder for checkpoints, logs, out-of-fold masks and ``weights.safetensors``.
    recipe : Recipe
        Network and schedule.
    folds : int
        Cross-validation folds by patient; 0 for none.
    device : str
        auto, cpu, cuda, cuda:1 or mps.
    citation : sequence of str
        Training data to cite, kept in the weights.
    progress : callable, optional
        Called with a stage's name, the steps of it done, and how many there are.

    Raises
    ------
    InputError
        If cases or folders cannot be used.
    """
    report = progress or (lambda *_: None)
    chosen = choose_device(device)
    spec = InputSpec()
    files = find_cases(data)
    parts = split_folds(files, folds) if folds else []
    output.mkdir(parents=True, exist_ok=True)
    cached: dict[str, CachedCase] = {}
    for i, case in enumerate(files):
        cached[case.name] = cache_case(case, spec, output / "cache")
        report("read cases", i + 1, len(files))

    def run(name: str, left_out: Sequence[CaseFiles]) -> nn.Module:
        held = {case.name for case in left_out}
        learn = [cached[case.name] for case in files if case.name not in held]
        return fit(
            recipe, learn, output / name, chosen, lambda done, total, _: report(name, done, total)
        )

    unseen: list[OutOfFold] = []
    for i, part in enumerate(parts):
        network = run(f"fold-{i}", part)
        for case in part:
            unseen.append(segment_unseen(case, network, spec, recipe, chosen))
            report("out of fold", len(unseen), len(files))
    choice = choose_threshold(unseen) if unseen else None
    overlaps = write_out_of_fold(unseen, choice, output / "out-of-fold") if choice else {}
    final = run("final", [])
    info = WeightsInfo(
        network=recipe.network,
        input=spec,
        window_vox=recipe.crop_vox,
        threshold=choice.threshold if choice else 0.5,
        min_lesion_mm3=choice.min_lesion_mm3 if choice else 0.0,
        training_data=tuple(citation),
    )
    save_weights(output / "weights.safetensors", final.state_dict(), info)
    return TrainingResult(output / "weights.safetensors", choice, overlaps)


def segment_unseen(
    files: CaseFiles, network: nn.Module, spec: InputSpec, recipe: Recipe, device: torch.device
) -> OutOfFold:
    """Return the lesion probability that a network gives for a case it has not learned from."""
    exam = read_exam(files)
    seen = prepare(exam, spec)
    image = torch.from_numpy(seen.image)
    prediction = predict_probability(network, image, recipe.crop_vox, device)
    flair = exam["FLAIR"]
    probability = to_flair_grid(prediction.probability.numpy(), seen.grid, flair.grid)
    truth, _ = read_mask(files.lesion)
    return OutOfFold(files.name, files.patient, probability.astype(np.float16), truth, flair)


def write_out_of_fold(
    cases: Sequence[OutOfFold], choice: Choice, folder: Path
) -> dict[str, Overlap]:
    """Write each case's out-of-fold mask, and a table of their Dice; return the voxel counts."""
    folder.mkdir(exist_ok=True)
    overlaps: dict[str, Overlap] = {}
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(["case", "dice", "iou", "true_ml", "predicted_ml"])
    for case in cases:
        mask = remove_small(
            case.probability > choice.threshold, case.flair.grid, choice.min_lesion_mm3
        )
        write_nifti(folder / f"{case.name}.nii.gz", mask.astype(np.uint8), case.flair.header)
        counts = overlaps[case.name] = count_overlap(mask, case.truth)
        volumes = [f"{m.sum() * case.flair.grid.voxel_mm3 / 1000:.3f}" for m in (case.truth, mask)]
        writer.writerow([case.name, f"{counts.dice:.4f}", f"{counts.iou:.4f}", *volumes])
    write_atomic(folder / "dice.tsv", table.getvalue().encode())
    return overlaps
