"""nnU-Net, 3D U-Net, NCL-010 and RSA-111 on the same folds, each given the same time to train.

    pip install -c constraints.txt '.[test]' nnunetv2
    python tests/benchmarks/peers.py RESULTS --minutes 10 [--data ../shared/data/labelled]
        [--systems nnunet,unet,ncl-010,rsa-111] [--folds 3] [--threads 1] [--device auto]
        [--memory-gb 8] [--tile-step 0.5]

Each system on each fold, by patient, is a job: trained from nothing for so many minutes by the
clock and tested on the patients left out. What a finished job found is a JSON file in RESULTS, and
the same command goes on where it was stopped: ours within a job, nnU-Net from the job's start.
Several may run at once, each with systems of its own.

nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z) plans, prepares, trains and predicts
by its own package, ``3d_fullres`` for the memory given by ``--memory-gb``; its learning rate falls
over the minutes instead of 1000 epochs, mirroring at prediction is left out, and where a processor
multiplies bfloat16 itself it does so as ours do, in half the time. Ours are trained
by the default recipe, in as many steps as the minutes allow. nnU-Net's masks are its own; ours are
cut where each network does best on crops of the patients it learned from.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from table1 import own_threshold

from rsaseg.errors import InputError, RsasegError
from rsaseg.imaging import make_folder, read_mask, write_atomic
from rsaseg.inference.device import choose_device
from rsaseg.metrics import Overlap, count_overlap, sample_average, voxel_average
from rsaseg.preprocessing import SEQUENCES, InputSpec
from rsaseg.training.cases import CachedCase, CaseFiles, cache_case, find_cases
from rsaseg.training.log import read_log
from rsaseg.training.loop import fit
from rsaseg.training.precision import autocast
from rsaseg.training.recipe import Recipe, make_recipe
from rsaseg.training.splits import Split, Validation, draw_splits
from rsaseg.training.unseen import segment_unseen

SYSTEMS = ("nnunet", "unet", "ncl-010", "rsa-111")
DATASET = "Dataset001_lesions"
TIMED_STEPS = 6
Found = dict[str, Overlap]


def steps_for(
    recipe: Recipe, cases: Sequence[CachedCase], minutes: float, device: torch.device
) -> int:
    """Return how many steps of a recipe fit into so many minutes, by timing a few."""
    with tempfile.TemporaryDirectory() as folder:
        fit(replace(recipe, steps=TIMED_STEPS), cases, Path(folder), device)
        rows = read_log(Path(folder) / "log.csv", TIMED_STEPS)
    return max(1, int(60 * minutes / np.median([float(row["seconds"]) for row in rows[2:]])))


def run_ours(
    model: str, split: Split, files: dict[str, CaseFiles], folder: Path, options: argparse.Namespace
) -> tuple[int, Found]:
    """Train one of our networks and test it. Return the steps it took and what it found."""
    device, spec = choose_device(options.device), InputSpec()
    learn = [cache_case(files[name], spec, options.results / "cache") for name in split.train]
    recipe, counted = make_recipe("default", model), folder / "steps"
    if not counted.exists():
        make_folder(folder)
        steps = steps_for(recipe, learn, options.minutes, device)
        write_atomic(counted, str(steps).encode())
    recipe = replace(recipe, steps=int(counted.read_text()))
    network = fit(recipe, learn, folder, device)
    threshold = own_threshold(network, learn, recipe, device)
    found = {}
    for name in split.test:
        kept = folder / f"{name}.npy"
        unseen = segment_unseen(files[name], network, spec, recipe, device, kept).read()
        found[name] = count_overlap(unseen.probability > threshold, unseen.truth)
    return recipe.steps, found


def prepare_nnunet(
    files: dict[str, CaseFiles], splits: Sequence[Split], results: Path, memory_gb: float
) -> Path:
    """Let nnU-Net plan and prepare the cases once. Return the folder of what it prepared."""
    from nnunetv2.experiment_planning import plan_and_preprocess_api as api

    for part in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{part}"] = str(results / "nnunet" / part)
    raw, prepared = (results / "nnunet" / part / DATASET for part in ("raw", "preprocessed"))
    if (prepared / "splits_final.json").exists():
        return prepared
    for name, case in files.items():
        images = [case.sequences[sequence] for sequence in SEQUENCES]
        for path, place in (
            *((image, f"imagesTr/{name}_{i:04d}.nii.gz") for i, image in enumerate(images)),
            (case.lesion, f"labelsTr/{name}.nii.gz"),
        ):
            make_folder((raw / place).parent)
            nib.load(path).to_filename(raw / place)
    told = {
        "channel_names": {str(i): sequence for i, sequence in enumerate(SEQUENCES)},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(files),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(told))
    os.environ.update(nnUNet_n_proc_DA="1")  # planning takes as many threads, and none is an error
    api.extract_fingerprints([1], num_processes=1)
    api.plan_experiments([1], gpu_memory_target_in_gb=memory_gb)
    api.preprocess([1], configurations=["3d_fullres"], num_processes=[1])
    folds = [{"train": list(split.train), "val": list(split.test)} for split in splits]
    write_atomic(prepared / "splits_final.json", json.dumps(folds).encode())
    return prepared


def as_ours(device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which nnU-Net, which on a processor takes float32, reckons as ours."""
    return autocast(make_recipe(), device) if device.type == "cpu" else nullcontext()


def train_nnunet(prepared: Path, fold: int, minutes: float, device: torch.device) -> Any:
    """Train nnU-Net by its own trainer. Return the trainer, with its checkpoint written."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    os.environ.update(nnUNet_n_proc_DA="0", nnUNet_compile="f")  # no worker processes, as ours
    plans = json.loads((prepared / "nnUNetPlans.json").read_text())
    told = json.loads((prepared / "dataset.json").read_text())
    trainer = nnUNetTrainer(
        plans | {"continue_training": False}, "3d_fullres", fold, told, device=device
    )
    trainer.on_train_start()
    trainer.network.train()
    trainer.steps, started = 0, time.perf_counter()
    while (spent := (time.perf_counter() - started) / 60 / minutes) < 1:
        for group in trainer.optimizer.param_groups:
            group["lr"] = trainer.initial_lr * (1 - spent) ** 0.9
        with as_ours(device):
            trainer.train_step(next(trainer.dataloader_train))
        trainer.steps += 1
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    return trainer


def run_nnunet(
    fold: int,
    splits: Sequence[Split],
    files: dict[str, CaseFiles],
    folder: Path,
    options: argparse.Namespace,
) -> tuple[int, Found]:
    """Train nnU-Net and test it. Return the steps it took and what it found."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    device = choose_device(options.device)
    prepared = prepare_nnunet(files, splits, options.results, options.memory_gb)
    torch.set_num_threads(options.threads)
    trainer = train_nnunet(prepared, fold, options.minutes, device)
    predictor = nnUNetPredictor(
        tile_step_size=options.tile_step, use_mirroring=False, device=device, allow_tqdm=False
    )
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (fold,))
    raw = options.results / "nnunet" / "raw" / DATASET / "imagesTr"
    make_folder(folder)
    found = {}
    for name in splits[fold].test:
        images = [str(raw / f"{name}_{i:04d}.nii.gz") for i in range(len(SEQUENCES))]
        with as_ours(device):
            predictor.predict_from_files_sequential([images], [str(folder / name)])
        mask, _ = read_mask(folder / f"{name}.nii.gz")
        found[name] = count_overlap(mask, read_mask(files[name].lesion)[0])
    return trainer.steps, found


def run_job(
    system: str,
    fold: int,
    splits: Sequence[Split],
    files: dict[str, CaseFiles],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train and test one system on one fold, or read what an earlier run found."""
    folder = options.results / splits[fold].name / system
    found, budget = folder.with_suffix(".json"), [options.minutes, options.threads]
    if system == "nnunet":
        budget += [options.memory_gb, options.tile_step]
    if found.exists():
        job: dict[str, Any] = json.loads(found.read_text())
        if job["budget"] != budget or list(job["cases"]) != list(splits[fold].test):
            raise InputError(f"{found}: of another budget or other cases; choose another folder")
        return job
    if system == "nnunet":
        steps, cases = run_nnunet(fold, splits, files, folder, options)
    else:
        steps, cases = run_ours(system, splits[fold], files, folder, options)
    job = {"budget": budget, "steps": steps, "cases": {k: asdict(v) for k, v in cases.items()}}
    write_atomic(found, (json.dumps(job, indent=1) + "\n").encode())
    return job


def print_table(jobs: dict[str, list[dict[str, Any]]]) -> None:
    """Print each system's steps, mean Dice per site and over all, and voxel average, as Markdown.

    A case's site is what its name has before the first hyphen.
    """
    names = sorted(name for job in next(iter(jobs.values())) for name in job["cases"])
    sites = sorted({name.split("-")[0] for name in names})
    print(f"\n| system | steps | {' | '.join(sites)} | all | voxel average |")
    print("| --- " * (len(sites) + 4) + "|")
    for system, done in jobs.items():
        overlaps = {k: Overlap(**v) for job in done for k, v in job["cases"].items()}
        steps = f"{min(job['steps'] for job in done)} to {max(job['steps'] for job in done)}"
        per_site = [
            sample_average([o for name, o in overlaps.items() if name.split("-")[0] == site])[0]
            for site in sites
        ]
        told = [*per_site, sample_average(list(overlaps.values()))[0]]
        told.append(voxel_average(list(overlaps.values()))[0])
        print(f"| {system} | {steps} | {' | '.join(f'{value:.3f}' for value in told)} |")


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).parents[2]
    parser.add_argument("results", type=Path)
    parser.add_argument("--minutes", type=float, required=True, help="Of training, by the clock.")
    parser.add_argument("--data", type=Path, default=root / "../shared/data/labelled")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="Names, comma between.")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-gb", type=float, default=8.0, help="nnU-Net plans for it.")
    parser.add_argument(
        "--tile-step", type=float, default=0.5, help="nnU-Net's, in patches; 1: no overlap."
    )
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Do what is left to do and return each system's jobs, fold by fold."""
    torch.set_num_threads(options.threads)
    files = {
        case.name: case
        for case in find_cases([options.data])
        if set(SEQUENCES) <= case.sequences.keys()
    }
    splits = draw_splits(list(files.values()), Validation(folds=options.folds), seed=1)
    jobs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.systems.split(",")}
    for fold, split in enumerate(splits):
        for system, done in jobs.items():
            done.append(run_job(system, fold, splits, files, options))
            dice = sample_average([Overlap(**case) for case in done[-1]["cases"].values()])[0]
            print(f"{split.name} {system}: {done[-1]['steps']} steps, {dice:.3f}", flush=True)
    print_table(jobs)
    return jobs


if __name__ == "__main__":
    try:
        run(read_options(None))
    except RsasegError as error:
        sys.exit(str(error))
