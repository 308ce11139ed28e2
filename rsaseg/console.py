"""What a person sees while work goes on: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from rsaseg.progress import Progress

_RECENT_SECONDS = 120
"""The time left is told by the steps of these; of steps longer than that nothing can be told."""

output = Console()
messages = Console(stderr=True)


def say(text: str) -> None:
    """Print a line of the result as it stands: no markup, not wrapped."""
    output.print(text, highlight=False, markup=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print a line about the result, beside it."""
    messages.print(text, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def show_progress() -> Iterator[Progress]:
    """Yield a function that takes a stage's name, the steps of it done, and how many there are."""
    if not messages.is_terminal:
        yield _log_lines()
        return
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bars = Bars(*columns, console=messages, transient=True, speed_estimate_period=_RECENT_SECONDS)
    with bars:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if total == 0:
                warn(stage)
                return
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def _log_lines() -> Progress:
    """Return a function that writes a line when a stage starts and at every tenth of it."""
    shown: dict[str, int] = {}

    def log(stage: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if stage not in shown or (tenth > shown[stage] and total > 1):
            suffix = f" {done}/{total}" if total > 1 else ""
            warn(f"{stage}{suffix}")
            shown[stage] = tenth

    return log
