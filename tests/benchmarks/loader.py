"""Samples per second of the training loop against a MONAI loop with the same network.

    python tests/benchmarks/loader.py [--steps 12] [--data ../shared/data/labelled]

Both loops train the default network on crops of the default size from the same cases with the
same loss, optimiser and batch. MONAI's holds all cases in a CacheDataset and cuts crops with
RandCropByPosNegLabel, its gentlest use: it varies nothing. Ours runs as users run it, with all
its augmentation, and once more without. The loops take turns, a few steps each, so that whatever
else the machine does falls on all alike. Needs the ``test`` extra.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import RandCropByPosNegLabeld
from torch import nn

from rsaseg.networks.unet import RSANet
from rsaseg.preprocessing import InputSpec
from rsaseg.training.cases import CachedCase, cache_case, find_cases
from rsaseg.training.loader import draw_batches
from rsaseg.training.losses import dice_cross_entropy
from rsaseg.training.recipe import PLAIN, Recipe


def our_loop(cases: list[CachedCase], recipe: Recipe) -> Iterator[float]:
    """Take a step at a time; yield the seconds it waited for its batch."""
    network = RSANet(recipe.network).to(memory_format=torch.channels_last_3d)
    step = make_step(network, recipe)
    for batch in draw_batches(recipe, cases, 0):
        step(batch.images.contiguous(memory_format=torch.channels_last_3d), batch.lesions)
        yield batch.waited_seconds


def monai_loop(cases: list[CachedCase], recipe: Recipe) -> Iterator[float]:
    """The loop that MONAI's tutorials show: a cached data set, a crop, a loader, a step."""
    items = [
        {
            "image": torch.from_numpy(np.asarray(case.images[0], dtype=np.float32)),
            "label": torch.from_numpy(np.asarray(case.lesions[0], dtype=np.float32) > 0.5)[None],
        }
        for case in cases
    ]
    crop = RandCropByPosNegLabeld(
        keys=["image", "label"],
        label_key="label",
        spatial_size=recipe.crop_vox,
        pos=3,
        neg=2,
        num_samples=1,
    )
    dataset = CacheDataset(items, crop, progress=False)
    loader = DataLoader(dataset, batch_size=recipe.batch, shuffle=True, drop_last=True)
    step = make_step(RSANet(recipe.network), recipe)
    started = time.perf_counter()
    for _ in itertools.count():
        for batch in loader:
            waited = time.perf_counter() - started
            step(batch["image"].as_tensor(), batch["label"][:, 0].as_tensor().float())
            yield waited
            started = time.perf_counter()


def make_step(network: nn.Module, recipe: Recipe):
    optimizer = torch.optim.AdamW(network.parameters(), recipe.learning_rate)

    def step(images: torch.Tensor, lesions: torch.Tensor) -> None:
        loss = dice_cross_entropy(network(images), lesions)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).parents[2]
    parser.add_argument("--data", type=Path, default=root / "../shared/data/labelled")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cases", type=int, default=4)
    options = parser.parse_args()
    recipe = Recipe(steps=options.steps)
    with tempfile.TemporaryDirectory() as cache:
        found = find_cases([options.data])[: options.cases]
        cases = [cache_case(case, InputSpec(), Path(cache)) for case in found]
        loops = {
            "rsaseg": our_loop(cases, recipe),
            "rsaseg without augmentation": our_loop(cases, replace(recipe, augmentation=PLAIN)),
            "MONAI": monai_loop(cases, recipe),
        }
        seconds: dict[str, list[float]] = {name: [] for name in loops}
        waits: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(options.steps):
            for name, loop in loops.items():
                started = time.perf_counter()
                waits[name].append(next(loop))
                seconds[name].append(time.perf_counter() - started)
    median = {name: float(np.median(times[1:])) for name, times in seconds.items()}
    print(f"{len(cases)} cases, {torch.get_num_threads()} threads, {options.steps} steps each")
    for name in loops:
        share = np.median(np.array(waits[name][1:]) / np.array(seconds[name][1:]))
        ratio = median["MONAI"] / median[name]
        print(
            f"{name:<28} {recipe.batch / median[name]:6.3f} samples/s, {median[name]:6.2f} s a "
            f"step, loader's share {share:5.1%}, ratio to MONAI {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
