"""The stages that an exam goes through: told to the user, and measured."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rsaseg.progress import Progress, staged

Costs = dict[str, dict[str, float]]
"""``seconds`` and ``peak_memory_mb`` by stage, as the record holds them."""


def no_costs() -> Costs:
    """Return what nothing has cost."""
    return {"seconds": {}, "peak_memory_mb": {}}


@contextmanager
def measured(costs: Costs, stage: str, report: Progress) -> Iterator[None]:
    """Report a stage's start and end, and note what it cost."""
    with staged(stage, report):
        started = time.perf_counter()
        yield
        costs["seconds"][stage] = round(time.perf_counter() - started, 3)
        costs["peak_memory_mb"][stage] = peak_memory_mb()


def add_costs(record: Mapping[str, Any], later: Mapping[str, Any], started: float) -> Costs:
    """Return the costs of two records' stages, and the seconds in all since ``started``."""
    both: Costs = {kind: {**record[kind], **later[kind]} for kind in no_costs()}
    both["seconds"].pop("total", None)
    both["seconds"]["total"] = round(time.perf_counter() - started, 3)
    return both


def peak_memory_mb() -> int:
    """Return the most memory this process has held so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit)
