"""Tables as tab-separated text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def tsv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], digits: int = 6) -> bytes:
    """Return rows as a TSV file's bytes: a header, and NaN as ``n/a`` (BIDS).

    Parameters
    ----------
    rows : sequence of mapping
        Column to value; none leaves the header alone.
    columns : sequence of str
        Names and order of the columns.
    digits : int
        Of each number that is no whole one.
    """
    lines = ["\t".join(columns)]
    lines += ["\t".join(_text(row[column], digits) for column in columns) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def _text(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.{digits}g}"
    return str(value)
