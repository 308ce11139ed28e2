"""How long work tells what it has done."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeVar

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps of it done, and how many there are.

0 of 0 steps: what a person should know at once, and no stage.
"""

T = TypeVar("T")


def untold(stage: str, done: int, total: int) -> None:
    """Tell nobody: a `Progress`."""


@contextmanager
def staged(stage: str, progress: Progress) -> Iterator[None]:
    """Tell the start and the end of a stage of one step."""
    progress(stage, 0, 1)
    yield
    progress(stage, 1, 1)


def told(items: Collection[T], stage: str, progress: Progress) -> Iterator[T]:
    """Yield each item, and tell when it has been dealt with."""
    for done, item in enumerate(items, 1):
        yield item
        progress(stage, done, len(items))
