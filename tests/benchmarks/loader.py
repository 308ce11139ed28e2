"""Samples per second of the training loop against MONAI loops with the same network.

    python tests/benchmarks/loader.py [--steps 3] [--rounds 12] [--data ../shared/data/labelled]

All train the default network on crops of the default size from the same prepared cases with the
same loss, optimiser, clipping, batch and precision. Ours is ``rsaseg.training.loop.fit`` as users
run it, with all its augmentation, running average and log; and once more with crops as they are.
MONAI's holds the cases in a CacheDataset, cuts crops with RandCropByPosNegLabel and feeds a plain
loop, as its tutorials do:

- crop: nothing but the crop, its gentlest use;
- crop, channels last: in the memory layout that ``fit`` chooses, so that the rest is the loader's;
- crop, plain layers: the same function from PyTorch's own layers and the paper's equations as
  printed, without this project's faster exact forms, as its authors would write it;
- varied: with random transforms like ours from MONAI, the same work, in the loop's own process;
- varied, worker: the same in a worker process that works ahead.

The loops take turns, a few steps each and the first not counted, so that whatever else the machine
does falls on all alike. As many of ours use settled batch normalisation as in a whole training.
Printed are samples a second, the share of a step spent waiting for its batch, the ratio of the
first loop's speed to each, and of ours to those that do the same to their crops; and what a loader
does alone, on one thread, with its share of the processor time of a step. A ratio is the median of
the rounds', with the lowest and the highest: two loops of one round run within a minute of each
other, and a slow minute of the machine moves one round alone. Needs the ``test`` extra.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
)
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rsaseg.networks.attention import AXIAL, CORONAL, SAGITTAL, RSABlock, slice_attention
from rsaseg.networks.convolution import Conv
from rsaseg.networks.unet import ConvNormReLU, RSANet
from rsaseg.preprocessing import InputSpec
from rsaseg.training.cases import CachedCase, cache_case, find_cases
from rsaseg.training.loader import draw_batch
from rsaseg.training.log import read_log
from rsaseg.training.loop import OPTIMIZERS, fit
from rsaseg.training.losses import dice_cross_entropy
from rsaseg.training.precision import autocast
from rsaseg.training.recipe import PLAIN, Recipe, make_recipe

CPU = torch.device("cpu")
Times = list[tuple[float, float]]
"""Seconds of each step, and those of them spent waiting for its batch."""

LIKE_FOR_LIKE = (("rsaseg, crops as they are", "MONAI, crop"), ("rsaseg", "MONAI, varied"))
"""Loops that do the same to their crops."""


def our_steps(cases: Sequence[CachedCase], recipe: Recipe) -> Times:
    """Train as users do; the first step is not counted."""
    with tempfile.TemporaryDirectory() as folder:
        fit(recipe, cases, Path(folder) / "run", CPU)
        rows = read_log(Path(folder) / "run" / "log.csv")
    return [(float(row["seconds"]), float(row["waited_seconds"])) for row in rows[1:]]


def monai_data(cases: Sequence[CachedCase], recipe: Recipe, varied: bool) -> CacheDataset:
    """Hold the cases in memory and cut, and vary, a crop each time one is asked for."""
    items = [
        {
            "image": torch.from_numpy(np.asarray(one.image, dtype=np.float32)),
            "label": torch.from_numpy(np.asarray(one.lesion, dtype=np.float32) > 0.5)[None],
        }
        for one in (case.variants[0] for case in cases)
    ]
    both, image = ["image", "label"], ["image"]
    crop = RandCropByPosNegLabeld(
        both, "label", spatial_size=recipe.crop_vox, pos=3, neg=2, num_samples=1
    )
    about_d, tilt = np.deg2rad(15), np.deg2rad(6)
    more = [
        RandFlipd(both, prob=0.5, spatial_axis=2),
        RandAffined(
            both,
            prob=1,
            rotate_range=(about_d, tilt, tilt),
            scale_range=(0.15, 0.15, 0.15),
            mode=("bilinear", "nearest"),
            padding_mode="border",
        ),
        RandSimulateLowResolutiond(image, prob=0.2, zoom_range=(0.4, 0.6)),
        RandBiasFieldd(image, prob=0.3),
        RandAdjustContrastd(image, prob=1, gamma=(0.7, 1.4)),
        RandScaleIntensityd(image, factors=0.25, prob=1),
        RandShiftIntensityd(image, offsets=0.15, prob=1),
        RandGaussianNoised(image, prob=0.4, std=0.15),
    ]
    return CacheDataset(items, Compose([crop, *(more if varied else [])]), progress=False)


def monai_loader(data: CacheDataset, recipe: Recipe, workers: int) -> DataLoader:
    return DataLoader(
        data, batch_size=recipe.batch, shuffle=True, drop_last=True, num_workers=workers
    )


class PlainAttention(RSABlock):
    """The block of the paper, convolution by convolution."""

    def forward(self, m: Tensor) -> Tensor:
        for alpha, axis in zip(self.alpha, (SAGITTAL, CORONAL, AXIAL), strict=True):
            q, k, v = self.query(m), self.key(m), self.value(m)
            m = m + alpha * slice_attention(q, k, v, axis, self.scaled)
        return m


class PlainConvs(nn.Sequential):
    """Convolution, normalisation and ReLU one after the other, of maps that are joined first."""

    def forward(self, x: Tensor, coarse: Tensor | None = None) -> Tensor:
        if coarse is not None:
            x = torch.cat([x, interpolate(coarse, x.shape[2:])], dim=1)
        joined: Tensor = super().forward(x)
        return joined


def in_plain_layers(network: nn.Module) -> nn.Module:
    """Replace what this project computes in faster forms by PyTorch's layers, weights kept."""
    for name, child in network.named_children():
        in_plain_layers(child)
        if isinstance(child, RSABlock):
            plain: nn.Module = PlainAttention(child.query.in_channels, child.scaled)
        elif isinstance(child, Conv):
            sizes = child.in_channels, child.out_channels, child.kernel_size
            plain = nn.Conv3d(*sizes, padding="same", bias=False)
        elif isinstance(child, ConvNormReLU):
            plain = PlainConvs(*child)
        else:
            continue
        plain.load_state_dict(child.state_dict())
        setattr(network, name, plain)
    return network


def monai_steps(
    data: CacheDataset,
    recipe: Recipe,
    workers: int = 0,
    last: bool = False,
    plain: bool = False,
) -> Times:
    """Train in a plain loop; the first step is not counted."""
    layout = torch.channels_last_3d if last else torch.contiguous_format
    network: nn.Module = RSANet(recipe.network).to(memory_format=layout)
    network = in_plain_layers(network) if plain else network
    optimizer = OPTIMIZERS[recipe.optimizer](network.parameters(), lr=recipe.learning_rate)
    batches = chain.from_iterable(repeat(monai_loader(data, recipe, workers)))
    times: Times = []
    for _ in range(recipe.steps):
        started = time.perf_counter()
        batch = next(batches)
        images = batch["image"].as_tensor().contiguous(memory_format=layout)
        lesions = batch["label"][:, 0].as_tensor().float()
        waited = time.perf_counter() - started
        with autocast(recipe, CPU):
            logits = network(images)
        loss = dice_cross_entropy(logits, lesions)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        optimizer.step()
        times.append((time.perf_counter() - started, waited))
    return times[1:]


def times_as_fast(rounds: Sequence[dict[str, Times]], ours: str, theirs: str) -> str:
    """Compare two loops round by round."""
    seconds = [[np.mean(times[name], axis=0)[0] for name in (theirs, ours)] for times in rounds]
    ratios = sorted(theirs / ours for theirs, ours in seconds)
    return f"{np.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) times as fast"


def processor_seconds(draw: Callable[[int], object], batches: int = 12) -> float:
    """Return the processor time of a batch drawn alone, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    draw(0)
    started = time.process_time()
    for number in range(batches):
        draw(number)
    torch.set_num_threads(threads)
    return (time.process_time() - started) / batches


def step_processor_seconds(recipe: Recipe) -> float:
    """Return the processor time of a step of the network, its batch at hand."""
    network = RSANet(recipe.network).to(memory_format=torch.channels_last_3d)
    images = torch.randn(recipe.batch, recipe.network.in_channels, *recipe.crop_vox)
    images = images.contiguous(memory_format=torch.channels_last_3d)
    lesions = (torch.rand(recipe.batch, *recipe.crop_vox) > 0.99).float()
    seconds = []
    for _ in range(3):
        started = time.process_time()
        with autocast(recipe, CPU):
            logits = network(images)
        dice_cross_entropy(logits, lesions).backward()
        seconds.append(time.process_time() - started)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).parents[2]
    parser.add_argument("--data", type=Path, default=root / "../shared/data/labelled")
    parser.add_argument("--steps", type=int, default=3, help="In a turn.")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--cases", type=int, default=4)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="monai")
    recipe = replace(make_recipe(steps=options.steps + 1), checkpoint_every=10**6)
    still = replace(recipe, augmentation=replace(PLAIN, near_lesion=0.6))
    with tempfile.TemporaryDirectory() as cache:
        found = find_cases([options.data])[: options.cases]
        cases = [cache_case(case, InputSpec(), Path(cache)) for case in found]
        crop, varied = (monai_data(cases, recipe, more) for more in (False, True))
        loops: dict[str, Callable[[], Times]] = {
            "rsaseg": partial(our_steps, cases, recipe),
            "rsaseg, crops as they are": partial(our_steps, cases, still),
            "MONAI, crop": partial(monai_steps, crop, recipe),
            "MONAI, crop, channels last": partial(monai_steps, crop, recipe, last=True),
            "MONAI, crop, plain layers": partial(monai_steps, crop, recipe, plain=True),
            "MONAI, varied": partial(monai_steps, varied, recipe),
            "MONAI, varied, worker": partial(monai_steps, varied, recipe, workers=1),
        }
        rounds = [{name: steps() for name, steps in loops.items()} for _ in range(options.rounds)]
        alone = {
            "rsaseg": processor_seconds(partial(draw_batch, recipe, cases)),
            "rsaseg, crops as they are": processor_seconds(partial(draw_batch, still, cases)),
            "MONAI, crop": processor_seconds(lambda _: next(iter(monai_loader(crop, recipe, 0)))),
            "MONAI, varied": processor_seconds(
                lambda _: next(iter(monai_loader(varied, recipe, 0)))
            ),
        }
    print(f"{len(cases)} cases, {torch.get_num_threads()} threads, {recipe.batch} crops a step")
    for name in loops:
        rows = np.array([times[name] for times in rounds])  # (rounds, steps, 2)
        mean, share = rows[..., 0].mean(), np.median(rows[..., 1] / rows[..., 0])
        print(
            f"{name:<27} {recipe.batch / mean:6.3f} samples/s, {mean:6.3f} s a step, "
            f"waiting {share:5.1%}, rsaseg is {times_as_fast(rounds, 'rsaseg', name)}"
        )
    for ours, theirs in LIKE_FOR_LIKE:
        print(f"like for like: {ours} is {times_as_fast(rounds, ours, theirs)} as {theirs}")
    step = step_processor_seconds(recipe)
    for name, seconds in alone.items():
        print(
            f"{name:<27} alone {recipe.batch / seconds:6.1f} samples/s on one thread, "
            f"{seconds / (seconds + step):5.1%} of a step's processor time"
        )


if __name__ == "__main__":
    main()
