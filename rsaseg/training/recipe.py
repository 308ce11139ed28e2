"""What fixes a training run: the default recipe and the paper's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from rsaseg.errors import InputError
from rsaseg.networks.unet import DEFAULT, PAPER, NetworkConfig, name_model
from rsaseg.training.patches import Augmentation


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
    loss : str
        A key of `rsaseg.training.losses.LOSSES`.
    optimizer : str
        "muon", see `rsaseg.training.muon`; "adamw"; or "adam" with the weight decay in its
        gradient.
    learning_rate, weight_decay : float
        Of the optimiser.
    warmup : int
        Steps over which the rate rises first.
    rate_power : float
        The rate falls as (1 - step / steps) to this power; 0 keeps it.
    averaging : float
        Decay of the running average of the weights, which is what is kept in the end; 0 keeps
        the last weights.
    settled : float
        Share of the steps after which batch normalisation keeps to its running figures.
    clip_norm : float
        Largest norm of the gradient.
    readers : float
        Share of each reader's offset that is learned with, where an earlier training tells it, see
        `rsaseg.training.readers`. It is measured with few patients, so less than all of it.
    anew : bool
        Start from nothing; an earlier training tells of its readers alone.
    teachers : tuple of str
        Names of what it learns to answer as, in place of the masks, see `rsaseg.training.loop.fit`.
    checkpoint_every : int
        Steps between checkpoints.
    seed : int
        Fixes every random draw.
    augmentation : Augmentation
        How crops vary.
    """

    network: NetworkConfig = DEFAULT
    steps: int = 1200
    batch: int = 2
    crop_vox: tuple[int, int, int] = (32, 128, 96)
    loss: str = "dice-ce"
    optimizer: str = "muon"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup: int = 40
    rate_power: float = 0.9
    averaging: float = 0.99
    settled: float = 0.7
    clip_norm: float = 1.0
    readers: float = 0.0
    anew: bool = False
    teachers: tuple[str, ...] = ()
    checkpoint_every: int = 50
    seed: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)

    def rate(self, step: int) -> float:
        """Return the learning rate of ``step``, counted from 0."""
        rise = min(1.0, (step + 1) / max(self.warmup, 1))
        return float(self.learning_rate * rise * (1 - step / self.steps) ** self.rate_power)


def check_batch(recipe: Recipe, processes: int) -> None:
    """Refuse a batch that cannot be dealt to the processes, or be learned from in one of them.

    Raises
    ------
    InputError
        With what to change.
    """
    crops, rest = divmod(recipe.batch, processes)
    if rest:
        raise InputError(
            f"a batch of {recipe.batch} cannot be dealt to {processes} processes; choose a --batch "
            f"that can"
        )
    halved = 2 ** (len(recipe.network.channels) - 1)
    sides = zip(recipe.crop_vox, recipe.network.patch_vox, strict=True)
    at_bottom = crops * math.prod(math.ceil(side / (patch * halved)) for side, patch in sides)
    if at_bottom == 1 and not recipe.network.groups:
        shared = f" on {processes} processes" if processes > 1 else ""
        raise InputError(
            f"a batch of {recipe.batch}{shared} and crops of {'x'.join(map(str, recipe.crop_vox))} "
            f"voxels leave one position at the network's bottom, and batch normalisation learns "
            f"from two or more; choose a larger --crop or --batch"
        )


PLAIN = Augmentation(
    rotation_deg=0,
    tilt_deg=0,
    scale=0,
    stripped=0,
    drop=0,
    thickened=1,
    thick=0,
    grey=0,
    mirror=False,
    near_lesion=0,
    transplant=0,
    fade=0,
)
"""Crops anywhere, as they are."""

AGAIN = Recipe(
    steps=1500,
    loss="small-lesions",
    settled=0.5,
    averaging=0.995,
    readers=0.75,
    anew=True,
    augmentation=Augmentation(
        stripped=0.15,
        drop=0.4,
        outside=0.5,
        thickened=0.3,
        cortex=0.8,
        grey=0.7,
        bend=0.3,
        fade=0.3,
    ),
)
"""That of the shipped weights."""

FINISH = replace(
    AGAIN,
    steps=1300,
    learning_rate=6e-4,
    anew=False,
    augmentation=replace(
        AGAIN.augmentation,
        rotation_deg=8,
        tilt_deg=4,
        scale=0.08,
        grey=0.35,
        bend=0.15,
        transplant=0.1,
        fade=0.15,
    ),
)
"""Gentler than `AGAIN`, from where an earlier training ended."""

RECIPES = {
    "default": Recipe(augmentation=Augmentation(outside=0.5)),
    "finish": FINISH,
    "again": AGAIN,
    "paper": Recipe(
        network=replace(PAPER, attention="111"),
        steps=800,
        batch=4,
        loss="exponential-ce",
        optimizer="adam",
        weight_decay=1e-5,
        warmup=0,
        rate_power=0,
        averaging=0,
        clip_norm=math.inf,
        augmentation=PLAIN,
    ),
}
"""By name.

``default`` starts from nothing; ``finish`` goes on from what it made, or from shipped weights, with
crops nearer to real exams. ``again`` starts from nothing once more, knowing the readers from an
earlier training; the shipped weights are made so. ``paper`` is section 3.1 of the paper, which
names no crop size: the default's is taken.
"""


def make_recipe(
    name: str = "default", model: str = "rsa-111", rarely: tuple[str, ...] = (), **changes: Any
) -> Recipe:
    """Return a recipe by name for a model by name, with other values where they are not None.

    ``rarely`` goes to its augmentation.

    Raises
    ------
    InputError
        If there is no such recipe or model, or a number is out of range.
    """
    if name not in RECIPES:
        raise InputError(f"recipe {name!r}: unknown; choose one of {', '.join(RECIPES)}")
    given = {key: value for key, value in changes.items() if value is not None}
    recipe = replace(RECIPES[name], **given)
    recipe = replace(recipe, augmentation=replace(recipe.augmentation, rarely=rarely))
    recipe = replace(recipe, network=name_model(model, recipe.network))
    if min(recipe.steps, recipe.batch, *recipe.crop_vox) < 1 or not 0 < recipe.learning_rate < 1:
        raise InputError(
            f"steps {recipe.steps}, batch {recipe.batch}, crop {recipe.crop_vox}, learning rate "
            f"{recipe.learning_rate:g}: give numbers over 0, the rate below 1"
        )
    return recipe
