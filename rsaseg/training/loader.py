"""Batches of crops, drawn by all cores in turn with the network, or in the background."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from rsaseg.training import ranks
from rsaseg.training.cases import CachedCase
from rsaseg.training.patches import draw_crop
from rsaseg.training.recipe import Recipe

Crop = tuple[Tensor, Tensor, str]
"""Image (C, D, H, W), lesion (D, H, W) and the case's name."""


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
    return _stack([_draw(recipe, cases, number) for number in _numbers(recipe, step)])


def draw_batches(
    recipe: Recipe, cases: Sequence[CachedCase], first: int, ahead: int = 0
) -> Generator[Batch, None, None]:
    """Yield the batches of the steps from ``first`` on, a batch's crops drawn side by side.

    Each crop takes one thread. ``ahead`` batches are drawn while the network works on those before,
    as suits a network on a GPU. On the cores of the network that costs more than it saves: whenever
    the loader takes a core, the network's thread there stands still, and all others wait for it.
    With 0 all cores draw a batch when its turn has come.
    """
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(_numbers(recipe, first))))
    with ThreadPoolExecutor(workers, "loader", torch.set_num_threads, (1,)) as pool:
        drawn: deque[list[Future[Crop]]] = deque()
        try:
            for step in range(first, recipe.steps):
                started = time.perf_counter()
                for later in range(step + len(drawn), min(step + ahead + 1, recipe.steps)):
                    numbers = _numbers(recipe, later)
                    drawn.append([pool.submit(_draw, recipe, cases, n) for n in numbers])
                images, lesions, names = _stack([one.result() for one in drawn.popleft()])
                yield Batch(step, images, lesions, names, time.perf_counter() - started)
        finally:
            for crop in chain.from_iterable(drawn):
                crop.cancel()
            torch.set_num_threads(threads)  # of threads to come


def _numbers(recipe: Recipe, step: int) -> range:
    """Return the numbers in the run of the crops that this process draws for a step."""
    return range(step * recipe.batch, (step + 1) * recipe.batch)[ranks.rank() :: ranks.count()]


def _draw(recipe: Recipe, cases: Sequence[CachedCase], number: int) -> Crop:
    return draw_crop(cases, recipe.crop_vox, recipe.augmentation, recipe.seed, number)


def _stack(crops: Sequence[Crop]) -> tuple[Tensor, Tensor, list[str]]:
    images, lesions, names = zip(*crops, strict=True)
    return torch.stack(images), torch.stack(lesions), list(names)
