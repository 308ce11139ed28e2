"""Batches, drawn in the background while the network works on the one before."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from rsaseg.training import ranks
from rsaseg.training.cases import CachedCase
from rsaseg.training.patches import draw_crop
from rsaseg.training.recipe import Recipe

_AHEAD = 2


@dataclass(frozen=True, eq=False)
class Batch:
    """The crops of a step, or one process's part of them.

    Attributes
    ----------
    step : int
        Counted from 0.
    images, lesions : Tensor
        (N, C, D, H, W) and (N, D, H, W).
    names : list of str
        Of the cases.
    waited_seconds : float
        How long the network had to wait for it.
    """

    step: int
    images: Tensor
    lesions: Tensor
    names: list[str]
    waited_seconds: float


def draw_batch(
    recipe: Recipe, cases: Sequence[CachedCase], step: int
) -> tuple[Tensor, Tensor, list[str]]:
    """Return the batch of ``step``: images (N, C, D, H, W), lesions (N, D, H, W), case names.

    Of several processes each draws its share of the very crops that one process would draw.
    """
    numbers = range(step * recipe.batch, (step + 1) * recipe.batch)[ranks.rank() :: ranks.count()]
    crops = [
        draw_crop(cases, recipe.crop_vox, recipe.augmentation, recipe.seed, number)
        for number in numbers
    ]
    images, lesions, names = zip(*crops, strict=True)
    return torch.stack(images), torch.stack(lesions), list(names)


def draw_batches(
    recipe: Recipe, cases: Sequence[CachedCase], first: int
) -> Generator[Batch, None, None]:
    """Yield the batches of the steps from ``first`` on, each drawn ahead of its turn."""
    with ThreadPoolExecutor(1, "loader") as pool:
        ahead: deque[Future[tuple[Tensor, Tensor, list[str]]]] = deque()
        try:
            for step in range(first, recipe.steps):
                while len(ahead) < _AHEAD and step + len(ahead) < recipe.steps:
                    ahead.append(pool.submit(draw_batch, recipe, cases, step + len(ahead)))
                started = time.perf_counter()
                images, lesions, names = ahead.popleft().result()
                yield Batch(step, images, lesions, names, time.perf_counter() - started)
        finally:
            for future in ahead:
                future.cancel()
