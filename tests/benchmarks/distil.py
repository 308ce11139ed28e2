"""One network that answers as several do together: it learns their mean probability, crop by crop.

    python tests/benchmarks/distil.py FIRST@once SECOND SECOND@0.85,0.85,2.6 --needs T1
        --data labelled --data flair_only --data made -o taught [--steps 600] [--seed 1]

Each argument is a look at an exam, as ``pair.py`` takes them: a folder of ``rsaseg train --folds``
on the same data and how its networks see a crop. A look without ``@`` sees it as it is and
mirrored. The first is left out of crops that do not show a sequence of ``--needs``. The network of
each fold, and the final one, starts from that of the last look and learns from no mask, after
Hinton et al. 2015, arXiv:1503.02531: what several networks agree on is what no single reader and no
single run has put there.

The output is a training's folder as ``rsaseg train`` leaves it, with out-of-fold masks, threshold
and ``weights.safetensors``. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from pair import Look, read_look
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rsaseg.errors import RsasegError
from rsaseg.inference.device import choose_device
from rsaseg.networks.weights import load_weights
from rsaseg.preprocessing import SEQUENCES, InputSpec
from rsaseg.train import carry_out
from rsaseg.training.checkpoint import read_average
from rsaseg.training.loop import Teacher
from rsaseg.training.plan import make_plan
from rsaseg.training.precision import autocast
from rsaseg.training.recipe import RECIPES, Recipe
from rsaseg.training.splits import Validation

TAUGHT = replace(
    RECIPES["again"], readers=0, anew=False, settled=0, averaging=0.99, learning_rate=5e-4
)
"""Crops as hard as those that the teachers learned from."""


def answer(network: nn.Module, images: Tensor) -> Tensor:
    """Return the lesion probability (N, D, H, W)."""
    last = images.contiguous(memory_format=torch.channels_last_3d)
    probability: Tensor = torch.softmax(network(last).float(), dim=1)[:, 1]
    return probability


def look_at(look: Look, network: nn.Module, images: Tensor, learned: InputSpec) -> Tensor:
    """Return what a look's network makes of crops in the voxels that were ``learned``."""
    if look.spacing_mm:
        finer = [a / b for a, b in zip(learned.spacing_mm, look.spacing_mm, strict=True)][::-1]
        size = [round(n * f) for n, f in zip(images.shape[2:], finer, strict=True)]
        seen = answer(network, interpolate(images, size, mode="trilinear"))
        return interpolate(seen[:, None], images.shape[2:], mode="trilinear")[:, 0]
    here = answer(network, images)
    return here if look.once else (here + answer(network, images.flip(4)).flip(3)) / 2


@torch.no_grad()
def mean_of_looks(
    images: Tensor,
    looks: Sequence[Look],
    networks: Mapping[Path, nn.Module],
    needs: Sequence[str],
    recipe: Recipe,
    device: torch.device,
) -> Tensor:
    """Return the mean lesion probability (N, D, H, W) of crops (N, C, D, H, W) by several looks.

    Parameters
    ----------
    images : Tensor
        A sequence that is left out is 0.
    looks : sequence of Look
        One that is named twice counts twice.
    networks : mapping
        By the folder of their training.
    needs : sequence of str
        Sequences without which the first look is left out.
    recipe : Recipe
        Of the network that is taught.
    device : torch.device
        Where to compute.
    """
    images = images.to(device)
    with autocast(recipe, device):
        answers = {
            look: look_at(look, networks[look.training], images, InputSpec())
            for look in dict.fromkeys(looks)
        }
    channels = [SEQUENCES.index(name) for name in needs]
    whole = (images[:, channels] != 0).flatten(2).any(dim=2).all(dim=1)
    first, *others = (answers[look] for look in looks)
    if not others:
        return first
    rest = torch.stack(others).sum(dim=0)
    every = (rest + first) / len(looks)
    return torch.where(whole[:, None, None, None], every, rest / len(others))


def load_networks(looks: Sequence[Look], split: str, device: torch.device) -> dict[Path, nn.Module]:
    """Return the looks' networks of one fold, or the final ones."""
    networks: dict[Path, nn.Module] = {}
    for folder in {look.training for look in looks}:
        network, _, _ = load_weights(folder / "weights.safetensors")
        network.load_state_dict(read_average(folder / split / "checkpoint.safetensors"))
        networks[folder] = network.to(device).eval()
    return networks


def show(stage: str, done: int, total: int) -> None:
    if not total or done % 50 == 0:
        print(f"{stage} {done}/{total}", flush=True)


def teacher(asked: argparse.Namespace, recipe: Recipe, device: torch.device, split: str) -> Teacher:
    """Return what the network of a fold, or the final one, learns to answer as."""
    return partial(
        mean_of_looks,
        looks=asked.looks,
        networks=load_networks(asked.looks, split, device),
        needs=asked.needs,
        recipe=recipe,
        device=device,
    )


def main() -> None:
    """Teach, then segment what was left out, choose and write as any training does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("looks", type=read_look, nargs="+", help="FOLDER, FOLDER@once, @mm,mm,mm.")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--needs", action="append", default=[], help="Of the first: T1 or T2.")
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    init, device = asked.looks[-1].training, choose_device("auto")
    _, info, _ = load_weights(init / "weights.safetensors")
    recipe = replace(
        TAUGHT,
        network=info.network,
        crop_vox=info.window_vox,
        steps=asked.steps,
        seed=asked.seed,
        teachers=tuple(str(look) for look in asked.looks),
    )
    plan = make_plan(asked.data, asked.output, recipe, Validation(asked.folds), str(init), show)
    teachers = partial(teacher, asked, recipe, device)
    result = carry_out(plan, device, info.training_data, teachers)
    if result is not None:
        print(result.choice)


if __name__ == "__main__":
    try:
        main()
    except RsasegError as error:
        sys.exit(str(error))
