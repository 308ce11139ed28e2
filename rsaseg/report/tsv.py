"""Tables as tab-separated text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def tsv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> bytes:
    """Return rows as a TSV file's bytes: a header, six digits a number, NaN as ``n/a`` (BIDS).

    Parameters
    ----------
    rows : sequence of mapping
        Column to value; none leaves the header alone.
    columns : sequence of str
        Names and order of the columns.
    """
    lines = ["\t".join(columns)]
    lines += ["\t".join(_text(row[column]) for column in columns) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.6g}"
    return str(value)
