"""The paper's Table 1 on open data: its seven networks, the same splits, the same budget.

    python tests/benchmarks/table1.py RESULTS [--data ../shared/data/labelled] [--splits 5]
        [--recipe paper] [--channels 16,24,48,96] [--steps 150] [--crop 16,96,96]

Each network on each split is a job. What a finished job found is a JSON file in RESULTS, and the
same command goes on where it was stopped, within a job from its last checkpoint. Recipe, width,
steps, batch and crop are the same for all seven. Masks are cut at probability 1/2, as the paper's,
or with ``--own-threshold`` where each network does best on crops of the patients it learned from:
after a short training lesions are found, at a probability that has not risen over 1/2 yet.

Prints the paper's four columns with mean and spread (standard deviation) over splits beside the
paper's own figures, as Markdown, and writes two pictures like the paper's Fig. 5 into RESULTS:
truth, RSA-111, NCL-010 and 3D U-Net, left to right, on one slice. ``figure5.png`` is of a case left
out of the last split and shows a patient's scan: keep it where the scans may lie.
``figure5-phantom.png`` is of the demo's synthetic exam, segmented by the same networks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import zoom
from torch import nn

from rsaseg.errors import InputError, RsasegError
from rsaseg.imaging import Volume, read_mask, read_volume, write_atomic
from rsaseg.inference.device import choose_device
from rsaseg.metrics import Overlap, count_overlap, sample_average, voxel_average
from rsaseg.networks.unet import MODELS, RSANet
from rsaseg.phantom import write_phantom
from rsaseg.preprocessing import InputSpec, deep_mask, head_mask
from rsaseg.report.png import png_bytes
from rsaseg.report.slices import crop_to, grey_levels, view_of
from rsaseg.training.cases import CachedCase, CaseFiles, cache_case, find_cases
from rsaseg.training.checkpoint import read_average
from rsaseg.training.loop import describe, fit
from rsaseg.training.patches import draw_crop
from rsaseg.training.recipe import PLAIN, RECIPES, Recipe, make_recipe
from rsaseg.training.selection import THRESHOLDS
from rsaseg.training.splits import Split, Validation, draw_splits
from rsaseg.training.unseen import segment_unseen

PAPER = {  # per cent, in the order of COLUMNS
    "unet": (63.984, 69.640, 48.754, 53.506),
    "ncl-010": (64.346, 70.473, 49.231, 54.500),
    "ncl-101": (64.069, 70.121, 49.103, 54.090),
    "ncl-111": (64.074, 70.185, 48.833, 54.170),
    "rsa-010": (65.300, 70.207, 50.248, 54.200),
    "rsa-101": (65.949, 71.589, 50.896, 55.847),
    "rsa-111": (66.011, 71.054, 50.917, 55.201),
}
COLUMNS = ("Sample avg. Dice", "Voxel avg. Dice", "Sample avg. IoU", "Voxel avg. IoU")
SHOWN = ("rsa-111", "ncl-010", "unet")
RED = np.array([255, 40, 40])
THRESHOLD_CROPS = 48
SPEC = InputSpec(thin_mm=0)
"""One voxel size for all."""


def job_folder(results: Path, model: str, split: Split) -> Path:
    """Return where a job keeps its checkpoint, log and probabilities."""
    return results / split.name / model


@torch.no_grad()
def own_threshold(
    network: nn.Module, cases: Sequence[CachedCase], recipe: Recipe, device: torch.device
) -> float:
    """Return the threshold with the best Dice over crops, anywhere, of the cases learned from."""
    totals = [Overlap(0, 0, 0)] * len(THRESHOLDS)
    for number in range(THRESHOLD_CROPS):
        image, lesion, _ = draw_crop(cases, recipe.crop_vox, PLAIN, recipe.seed, number)
        probability = network.to(device).eval()(image[None].to(device)).softmax(1)[0, 1].cpu()
        for i, threshold in enumerate(THRESHOLDS):
            mask, truth = (probability > threshold).numpy(), (lesion > 0.5).numpy()
            totals[i] += count_overlap(mask, truth)
    return THRESHOLDS[max(range(len(THRESHOLDS)), key=lambda i: totals[i].dice)]


def run_job(
    recipe: Recipe,
    split: Split,
    files: dict[str, CaseFiles],
    folder: Path,
    options: argparse.Namespace,
) -> list[Overlap]:
    """Train and test one network on one split, or read what an earlier run found."""
    device, cache = choose_device(options.device), options.results / "cache"
    settings = {**describe(recipe, split.train), "test": list(split.test)}
    settings["own_threshold"] = options.own_threshold
    found = folder.with_suffix(".json")
    if found.exists():
        job = json.loads(found.read_text())
        if job["settings"] != settings:
            raise InputError(f"{found}: of another budget or other cases; choose another folder")
        return [Overlap(**case["voxels"]) for case in job["cases"]]
    started = time.process_time()
    learn = [cache_case(files[name], SPEC, cache) for name in split.train]
    network = fit(recipe, learn, folder, device)
    threshold = own_threshold(network, learn, recipe, device) if options.own_threshold else 0.5
    cases = []
    for name in split.test:
        kept = folder / f"{name}.npy"
        unseen = segment_unseen(files[name], network, SPEC, recipe, device, kept).read()
        overlap = count_overlap(unseen.probability > threshold, unseen.truth)
        cases.append({"case": name, "dice": overlap.dice, "voxels": asdict(overlap)})
    job = {
        "settings": settings,
        "threshold": threshold,
        "parameters": sum(p.numel() for p in network.parameters()),
        "processor_seconds_of_last_run": time.process_time() - started,
        "cases": cases,
    }
    write_atomic(found, (json.dumps(job, indent=1) + "\n").encode())
    return [Overlap(**case["voxels"]) for case in cases]


def four_columns(overlaps: Sequence[Overlap]) -> tuple[float, float, float, float]:
    """Return the paper's four figures of a split's test cases, in per cent."""
    (sample_dice, sample_iou), (voxel_dice, voxel_iou) = (
        sample_average(overlaps),
        voxel_average(overlaps),
    )
    return 100 * sample_dice, 100 * voxel_dice, 100 * sample_iou, 100 * voxel_iou


def print_table(figures: dict[str, list[tuple[float, float, float, float]]]) -> None:
    """Print mean and spread over splits as Markdown, the paper's own figure in brackets."""
    print("\n| network | " + " | ".join(f"{name} (paper)" for name in COLUMNS) + " |")
    print("| --- " * (len(COLUMNS) + 1) + "|")
    for model, splits in figures.items():
        mean, spread = np.mean(splits, axis=0), np.std(splits, axis=0)
        cells = [
            f"{m:.1f} ± {s:.1f} ({paper:.1f})"
            for m, s, paper in zip(mean, spread, PAPER[model], strict=True)
        ]
        print(f"| {model} | " + " | ".join(cells) + " |")


def fullest_slice(files: Sequence[CaseFiles]) -> tuple[CaseFiles, int]:
    """Return the case, and the slice of it, with the largest area of lesion."""
    best = (0.0, files[0], 0)
    for case in files:
        mask, grid = read_mask(case.lesion)
        view = view_of(grid)
        area_mm2 = view.show(mask).sum(axis=(1, 2)) * np.prod(view.spacing_mm)
        if area_mm2.max() > best[0]:
            best = (float(area_mm2.max()), case, int(area_mm2.argmax()))
    return best[1], best[2]


def paint(flair: Volume, masks: Sequence[NDArray[np.bool_]], k: int) -> NDArray[np.uint8]:
    """Return slice ``k`` once for each mask, side by side, marked in red."""
    view = view_of(flair.grid)
    head = head_mask(flair.data, flair.grid.spacing_mm)
    crop = crop_to(view.show(head), 4)[1:]
    deep = deep_mask(head, flair.grid.spacing_mm)
    grey = view.show(grey_levels(flair.data, head, deep))[k][crop]
    finest = min(view.spacing_mm)
    scale = [2 * mm / finest for mm in view.spacing_mm]
    grey = zoom(grey, scale, order=1, grid_mode=True, mode="nearest")
    panels = []
    for mask in masks:
        cut = view.show(mask)[k][crop].astype(np.uint8)
        marked = zoom(cut, scale, order=0, grid_mode=True, mode="nearest")
        panel = np.repeat(grey[..., None], 3, axis=2).astype(np.float32)
        panel[marked > 0] = 0.4 * panel[marked > 0] + 0.6 * RED
        panels.append(np.pad(panel, ((0, 0), (0, 6), (0, 0)), constant_values=255))
    return np.concatenate(panels, axis=1).round().astype(np.uint8)


def draw_figure(
    path: Path, case: CaseFiles, k: int, split: Split, recipes: dict[str, Recipe], results: Path
) -> None:
    """Write the picture like the paper's Fig. 5 of slice ``k`` of a case the split left out."""
    masks = [read_mask(case.lesion)[0]]
    for model in SHOWN:
        folder, recipe = job_folder(results, model, split), recipes[model]
        threshold = json.loads(folder.with_suffix(".json").read_text())["threshold"]
        network = RSANet(recipe.network)
        network.load_state_dict(read_average(folder / "checkpoint.safetensors"))
        kept = folder / f"{case.name}.npy"
        unseen = segment_unseen(case, network, SPEC, recipe, torch.device("cpu"), kept).read()
        masks.append(unseen.probability > threshold)
    write_atomic(path, png_bytes(paint(read_volume(case.sequences["FLAIR"]), masks, k)))
    print(f"\n{path}: {case.name}, slice {k}: truth, {', '.join(SHOWN)}")


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).parents[2]
    parser.add_argument("results", type=Path)
    parser.add_argument("--data", type=Path, default=root / "../shared/data/labelled")
    parser.add_argument("--models", default=",".join(MODELS), help="Names, comma between.")
    parser.add_argument("--recipe", default="default", choices=list(RECIPES))
    parser.add_argument("--channels", type=numbers, help="Of each level; the recipe's by default.")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--near-lesion", type=float, help="Crops as they are, this share there.")
    parser.add_argument("--crop", type=numbers, help="D,H,W in voxels.")
    parser.add_argument("--own-threshold", action="store_true", help="Not 1/2 for all.")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--train-size", type=int, default=5, help="Patients that learn.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, list[tuple[float, float, float, float]]]:
    """Do what is left to do and return each network's four figures, split by split."""
    base = RECIPES[options.recipe].network
    budget = {
        "network": replace(base, channels=options.channels or base.channels),
        "steps": options.steps,
        "batch": options.batch,
        "crop_vox": options.crop,
        "learning_rate": options.learning_rate,
        "seed": options.seed,
    }
    if options.near_lesion is not None:
        budget["augmentation"] = replace(PLAIN, mirror=True, near_lesion=options.near_lesion)
    models = options.models.split(",")
    recipes = {model: make_recipe(options.recipe, model, **budget) for model in models}
    files = {case.name: case for case in find_cases([options.data])}
    validation = Validation(splits=options.splits, train_size=options.train_size)
    splits = draw_splits(list(files.values()), validation, options.seed)
    figures: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in recipes}
    for split in splits:
        for model, recipe in recipes.items():
            folder = job_folder(options.results, model, split)
            overlaps = run_job(recipe, split, files, folder, options)
            figures[model].append(four_columns(overlaps))
            told = ", ".join(f"{value:.1f}" for value in figures[model][-1])
            print(f"{split.name} {model:<8} {told}", flush=True)
    print_table(figures)
    if set(SHOWN) <= recipes.keys():
        last, results = splits[-1], options.results
        write_phantom(results / "synthetic" / "phantom")
        for name, left_out in (
            ("figure5.png", [files[case] for case in last.test]),
            ("figure5-phantom.png", find_cases([results / "synthetic"])),
        ):
            draw_figure(results / name, *fullest_slice(left_out), last, recipes, results)
    return figures


if __name__ == "__main__":
    try:
        run(read_options(None))
    except RsasegError as error:
        sys.exit(str(error))
