"""The stages that an exam goes through: told to the user, and timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps of it done, and how many there are."""


@contextmanager
def timed(seconds: dict[str, float], stage: str, report: Progress) -> Iterator[None]:
    """Report a stage's start and end, and note how long it took."""
    report(stage, 0, 1)
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started
    report(stage, 1, 1)
