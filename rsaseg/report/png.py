"""Pictures: what is shown white, and their bytes as PNG (ISO/IEC 15948)."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UP = 2  # filter: each row is stored as its difference from the one above
_BRIGHTEST = 2.2  # of the brain's median; lesions on FLAIR reach 1.6 to 2


def png_bytes(pixels: NDArray[np.uint8]) -> bytes:
    """Return a picture as a PNG file's bytes.

    Parameters
    ----------
    pixels : ndarray
        (rows, columns) grey or (rows, columns, 3) red, green, blue; uint8, top row first.
    """
    rows, columns = pixels.shape[:2]
    colour_type = 0 if pixels.ndim == 2 else 2
    flat = pixels.reshape(rows, -1)
    above = np.vstack([np.zeros_like(flat[:1]), flat[:-1]])
    filtered = np.hstack([np.full((rows, 1), _UP, np.uint8), flat - above])  # modulo 256
    head = struct.pack(">IIBBBBB", columns, rows, 8, colour_type, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 9)
    chunks = _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(name: bytes, data: bytes) -> bytes:
    check = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)


def white_level(low: float, high: float, brain: NDArray[np.floating[Any]]) -> float:
    """Return the grey value to show white: ``high``, but at most 2.2 medians of brain over ``low``.

    Fat, brighter than all of the brain, must not leave it dark; without brain there is no limit.
    """
    return min(high, low + _BRIGHTEST * (float(np.median(brain)) - low)) if brain.size else high
