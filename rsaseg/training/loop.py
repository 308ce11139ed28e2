"""The training loop."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsaseg.errors import InputError
from rsaseg.imaging import make_folder
from rsaseg.metrics import Overlap
from rsaseg.networks.unet import RSANet
from rsaseg.networks.weights import content_hash
from rsaseg.training import ranks
from rsaseg.training.cases import CachedCase
from rsaseg.training.checkpoint import (
    Contents,
    check_unchanged,
    contents_of,
    load_checkpoint,
    read_run,
    save_checkpoint,
)
from rsaseg.training.loader import Batch, draw_batches
from rsaseg.training.log import Row, read_log, write_log
from rsaseg.training.losses import LOSSES, Loss
from rsaseg.training.muon import Muon
from rsaseg.training.patches import draw_crop
from rsaseg.training.precision import autocast
from rsaseg.training.recipe import PLAIN, Recipe
from rsaseg.training.stop import StoppedError, stop_requests

OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "muon": Muon}
HELD_OUT_CROPS = 6
Described = dict[str, Any]
Teacher = Callable[[Tensor], Tensor]
"""From images (N, C, D, H, W) to the lesion probability (N, D, H, W) to learn."""


def update_average(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights towards the network's, faster in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for mean, value in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)
        for figure, latest in zip(average.buffers(), network.buffers(), strict=True):
            if figure.is_floating_point():  # running figures of batch normalisation
                figure.lerp_(latest, 1 - decay)


def settle(network: nn.Module) -> None:
    """Let batch normalisation use its running figures from here on, as it will once trained."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()


def describe(
    recipe: Recipe, cases: Sequence[str], start: Mapping[str, Tensor] | None = None
) -> Described:
    """Return what makes a run this very run: recipe, names of cases, first weights."""
    first = content_hash(start, "") if start else ""
    described: Described = json.loads(
        json.dumps({**asdict(recipe), "cases": list(cases), "start": first})
    )
    return described


def check_resume(folder: Path, described: Described) -> int:
    """Return the step that the run in ``folder`` goes on from; 0 without a checkpoint.

    Raises
    ------
    InputError
        If the checkpoint is of another run.
    """
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return 0
    stored, step = read_described(path)
    if stored != described:
        other = [name for name in described if stored.get(name) != described[name]]
        raise InputError(
            f"{path}: a checkpoint of another recipe or other cases (not the same "
            f"{', '.join(other) or 'version'}); choose another folder"
        )
    return step


def read_described(path: Path) -> tuple[Described, int]:
    """Return what `describe` said of a checkpoint's run, and the step it has come to.

    What a checkpoint of an older version does not mention is taken to be as it was then: the
    default, by AdamW.
    """
    run = json.loads(read_run(path))
    return _over(describe(Recipe(optimizer="adamw"), []), run["recipe"]), int(run["step"])


def _over(values: Described, others: Described) -> Described:
    """Return ``values`` with those of ``others`` put over them, at every depth."""
    both = {
        key: _over(values[key], other) if isinstance(values.get(key), dict) else other
        for key, other in others.items()
    }
    return values | both


def fit(
    recipe: Recipe,
    cases: Sequence[CachedCase],
    folder: Path,
    device: torch.device,
    progress: Callable[[int, int, float], None] | None = None,
    start: Mapping[str, Tensor] | None = None,
    held_out: Sequence[CachedCase] = (),
    teacher: Teacher | None = None,
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
    start : mapping, optional
        Weights to start from. Default: drawn at random.
    held_out : sequence of CachedCase
        Scored on a few crops with every checkpoint, for the log; nothing is learned from them.
    teacher : callable, optional
        Its answers are learned in place of the masks; ``recipe.teachers`` names it.

    Raises
    ------
    InputError
        If the folder holds another run, or these cases as they no longer are, cannot be written,
        the loss stops being a number, or the teacher is not there.
    StoppedError
        If SIGTERM or Ctrl-C came; the checkpoint of the last step is written first.
    """
    described = describe(recipe, [case.name for case in cases], start)
    first = check_resume(folder, described)
    if recipe.teachers and teacher is None and first < recipe.steps:
        raise InputError(f"{folder}: taught by other networks; go on by the command that began it")
    contents = contents_of([*cases, *held_out])
    check_unchanged(folder / "checkpoint.safetensors", contents)
    make_folder(folder)
    torch.manual_seed(recipe.seed)
    network: nn.Module = RSANet(recipe.network)
    if start:
        network.load_state_dict(start)
    network = network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    average = deepcopy(network).eval()
    network.train()
    optimizer = OPTIMIZERS[recipe.optimizer](
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    if first:
        load_checkpoint(folder / "checkpoint.safetensors", network, average, optimizer)
    run = _Run(recipe, folder, described, contents, network, average, optimizer)
    run.rows = read_log(folder / "log.csv", first)
    offsets = {case.name: case.offset for case in cases}
    fraction = float(
        np.mean([np.mean(case.variants[0].lesion, dtype=np.float64) for case in cases])
    )
    learner = ranks.spread(network, device)
    ahead = 0 if device.type == "cpu" else 2
    with stop_requests() as stop, closing(draw_batches(recipe, cases, first, ahead)) as batches:
        for batch in batches:
            started, step = time.perf_counter(), batch.step
            if step >= recipe.settled * recipe.steps:
                settle(network)
            torch.manual_seed(  # dropout: the same after a resume, another in each process
                recipe.seed * 1_000_003 + step + ranks.rank() * 1_000_000_007
            )
            taught = replace(batch, lesions=teacher(batch.images)) if teacher else batch
            row = _learn(learner, optimizer, taught, recipe, fraction, offsets)
            update_average(average, network, recipe.averaging, step)
            row["seconds"] = f"{time.perf_counter() - started + batch.waited_seconds:.3f}"
            run.rows.append(row)
            signals = [n for n in ranks.gathered(stop.number) if n]
            due = (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps
            if due or signals:
                ranks.alone(partial(_keep, run, held_out, device))
            if progress:
                progress(step + 1, recipe.steps, float(row["loss"]))
            if signals:
                raise StoppedError(
                    f"{folder}: stopped after step {step + 1} of {recipe.steps}, which is kept; "
                    f"the same command goes on from there",
                    signals[0],
                )
    return average


@dataclass(eq=False)
class _Run:
    """What a checkpoint and the log are made of."""

    recipe: Recipe
    folder: Path
    described: Described
    contents: Contents
    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    rows: list[Row] = field(default_factory=list)


def _keep(run: _Run, held_out: Sequence[CachedCase], device: torch.device) -> None:
    """Write log and checkpoint after the last row's step."""
    row = run.rows[-1]
    row["held_out_dice"] = _score_crops(run.average, held_out, run.recipe, device)
    write_log(run.folder / "log.csv", run.rows)  # what lies past a checkpoint is cut when resumed
    told = {"step": int(row["step"]) + 1, "recipe": run.described, "contents": run.contents}
    checkpoint = run.folder / "checkpoint.safetensors"
    save_checkpoint(checkpoint, run.network, run.average, run.optimizer, json.dumps(told))


def _learn(
    learner: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    recipe: Recipe,
    lesion_fraction: float,
    offsets: Mapping[str, float],
) -> Row:
    """Take one step of the optimiser and return what the log says of it."""
    device = next(learner.parameters()).device
    images = batch.images.to(device, memory_format=torch.channels_last_3d)
    lesions = batch.lesions.to(device)
    with autocast(recipe, device):
        logits = learner(images).float()
    offset = logits.new_tensor([[0.0, offsets[name]] for name in batch.names])
    loss_of: Loss = LOSSES[recipe.loss]
    loss = loss_of(logits + offset[:, :, None, None, None], lesions, lesion_fraction)
    told = ranks.gathered((float(loss.detach()), batch.names, _overlap(logits, lesions)))
    value = sum(one for one, _, _ in told) / len(told)
    names = [told[i % len(told)][1][i // len(told)] for i in range(recipe.batch)]
    optimizer.zero_grad()
    loss.backward()
    slope = nn.utils.clip_grad_norm_(learner.parameters(), recipe.clip_norm)
    if not (value < 1e4 and slope.isfinite()):
        raise InputError(
            f"{', '.join(names)}: loss {value} and slope {float(slope)} at step {batch.step}; "
            f"check these cases, or lower the learning rate. The checkpoint before it is kept"
        )
    for group in optimizer.param_groups:
        group["lr"] = recipe.rate(batch.step)
    optimizer.step()
    return {
        "step": str(batch.step),
        "loss": repr(value),
        "learning_rate": f"{recipe.rate(batch.step):.3e}",
        "cases": " ".join(names),
        "dice": f"{sum((o for _, _, o in told), start=Overlap(0, 0, 0)).dice:.4f}",
        "waited_seconds": f"{batch.waited_seconds:.3f}",
        "held_out_dice": "",
    }


def _overlap(logits: Tensor, lesions: Tensor) -> Overlap:
    """Count the voxels that are lesion at probability 1/2 and in truth."""
    predicted, true = logits[:, 1] > logits[:, 0], lesions > 0.5
    both = predicted & true
    counts = [int(m.sum()) for m in (both, predicted & ~true, true & ~predicted)]
    return Overlap(*counts)


@torch.no_grad()
def _score_crops(
    average: nn.Module, held_out: Sequence[CachedCase], recipe: Recipe, device: torch.device
) -> str:
    """Return the Dice of a few crops near lesions of cases that were held out."""
    if not held_out:
        return ""
    near = replace(PLAIN, near_lesion=1.0)
    total = Overlap(0, 0, 0)
    for number in range(HELD_OUT_CROPS):
        image, lesion, _ = draw_crop(held_out, recipe.crop_vox, near, recipe.seed, number)
        image = image[None].to(device, memory_format=torch.channels_last_3d)
        with autocast(recipe, device):
            logits = average(image)
        total += _overlap(logits, lesion[None].to(device))
    return f"{total.dice:.4f}"
