"""The training loop."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from rsaseg.errors import InputError
from rsaseg.imaging import write_atomic
from rsaseg.networks.unet import DEFAULT, NetworkConfig, RSANet
from rsaseg.training.cases import CachedCase
from rsaseg.training.checkpoint import load_checkpoint, read_run, save_checkpoint
from rsaseg.training.losses import dice_cross_entropy
from rsaseg.training.patches import Augmentation, draw_crop


@dataclass(frozen=True)
class Recipe:
    """Everything that fixes a training run but the cases.

    Attributes
    ----------
    network : NetworkConfig
        What is trained.
    steps, batch : int
        Optimiser steps, and crops in each.
    crop_vox : tuple of int
        (D, H, W) of a crop.
    learning_rate, weight_decay : float
        Of AdamW; the rate falls to 0 as (1 - step / steps) ** 0.9.
    warmup : int
        Steps over which the rate rises first.
    averaging : float
        Decay of the running average of the weights, which is what is kept in the end.
    clip_norm : float
        Largest norm of the gradient.
    checkpoint_every : int
        Steps between checkpoints.
    seed : int
        Fixes every random draw.
    augmentation : Augmentation
        How crops vary.
    """

    network: NetworkConfig = DEFAULT
    steps: int = 1100
    batch: int = 2
    crop_vox: tuple[int, int, int] = (32, 128, 96)
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: int = 40
    averaging: float = 0.99
    clip_norm: float = 1.0
    checkpoint_every: int = 50
    seed: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``, counted from 0."""
        rise = min(1.0, (step + 1) / max(self.warmup, 1))
        return float(self.learning_rate * rise * (1 - step / self.steps) ** 0.9)


def draw_batch(
    recipe: Recipe, cases: Sequence[CachedCase], step: int
) -> tuple[Tensor, Tensor, list[str]]:
    """Return the batch of ``step``: images (N, C, D, H, W), lesions (N, D, H, W), case names."""
    numbers = range(step * recipe.batch, (step + 1) * recipe.batch)
    crops = [
        draw_crop(cases, recipe.crop_vox, recipe.augmentation, recipe.seed, number)
        for number in numbers
    ]
    images, lesions, names = zip(*crops, strict=True)
    return torch.stack(images), torch.stack(lesions), list(names)


def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the network's, faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, value in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)


def _resume(path: Path, description: str) -> int:
    """Return the step to go on from, after checking that the checkpoint is of this very run."""
    run = json.loads(read_run(path))
    if json.dumps(run["recipe"], sort_keys=True) != description:
        raise InputError(
            f"{path}: a checkpoint of another recipe or other cases; choose another folder"
        )
    return int(run["step"])


def _truncate_log(path: Path, step: int) -> list[list[str]]:
    """Return the log's rows before ``step``."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.reader(file) if row[0].isdigit() and int(row[0]) < step]


def _write_log(path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["step", "loss", "learning_rate", "seconds", "cases"], *rows])
    write_atomic(path, text.getvalue().encode())


def fit(
    recipe: Recipe,
    cases: Sequence[CachedCase],
    folder: Path,
    device: torch.device,
    progress: Callable[[int, int, float], None] | None = None,
) -> nn.Module:
    """Train a network, or go on where a killed run left off, and return its averaged weights.

    Parameters
    ----------
    recipe : Recipe
        What and how.
    cases : sequence of CachedCase
        To learn from.
    folder : Path
        Gets ``checkpoint.safetensors`` and ``log.csv``; a checkpoint there is continued.
    device : torch.device
        Where to compute.
    progress : callable, optional
        Called with (steps done, steps, loss) after each step.

    Raises
    ------
    InputError
        If the folder holds another run, or the loss stops being a number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / "checkpoint.safetensors", folder / "log.csv"
    described = {**asdict(recipe), "cases": [case.name for case in cases]}
    description = json.dumps(described, sort_keys=True)
    torch.manual_seed(recipe.seed)
    network: nn.Module = RSANet(recipe.network)
    network = network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    average = deepcopy(network)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    first = 0
    if checkpoint.exists():
        first = _resume(checkpoint, description)
        load_checkpoint(checkpoint, network, average, optimizer)
    rows = _truncate_log(log, first)
    network.train()
    for step in range(first, recipe.steps):
        started = time.perf_counter()
        torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout: the same after a resume
        images, lesions, names = draw_batch(recipe, cases, step)
        images = images.to(device, memory_format=torch.channels_last_3d)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(images)
        loss = dice_cross_entropy(logits, lesions.to(device))
        value = float(loss.detach())
        if not value < 1e4:
            raise InputError(
                f"{', '.join(names)}: loss {value} at step {step}; check these cases, or lower "
                f"the learning rate. The checkpoint before it is kept"
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        optimizer.step()
        update_average(average, network, recipe.averaging, step)
        seconds = time.perf_counter() - started
        rows.append(
            [str(step), repr(value), f"{recipe.rate(step):.3e}", f"{seconds:.2f}", " ".join(names)]
        )
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            run = json.dumps({"step": step + 1, "recipe": described})
            save_checkpoint(checkpoint, network, average, optimizer, run)
            _write_log(log, rows)
        if progress:
            progress(step + 1, recipe.steps, value)
    return average.eval()
