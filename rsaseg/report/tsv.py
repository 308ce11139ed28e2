"""Tables as tab-separated text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any


def tsv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], digits: int = 6) -> bytes:
    r"""Return rows as a TSV file's bytes: a header, and NaN as ``n/a`` (BIDS).

    Text is put in a line; what of a file's name is no UTF-8 stands there as ``\udcfc``, say.

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
    return ("\n".join(lines) + "\n").encode(errors="backslashreplace")


def in_a_line(text: str) -> str:
    """Return text without tabs and line ends, its other spaces as they are: it may hold a path."""
    return re.sub(r"[\t\r\n]+", " ", text)


def _text(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return "n/a" if math.isnan(value) else f"{value:.{digits}g}"
    return in_a_line(str(value))
