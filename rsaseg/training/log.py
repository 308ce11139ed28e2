"""The log of a training run: one row a step."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rsaseg.imaging import write_atomic

COLUMNS = (
    *("step", "loss", "learning_rate", "seconds", "cases"),
    *("dice", "waited_seconds", "held_out_dice"),
)
"""``dice`` is that of the batch; ``waited_seconds`` of ``seconds`` went by without a batch."""

Row = dict[str, str]


def read_log(path: Path, steps: int | None = None) -> list[Row]:
    """Return the rows of the first ``steps`` steps, of all by default; none without a file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [{c: row.get(c) or "" for c in COLUMNS} for row in csv.DictReader(file)]
    rows = [row for row in rows if row["step"].isdigit()]
    return [row for row in rows if steps is None or int(row["step"]) < steps]


def write_log(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
