"""A picture of a registration that a person can judge in two seconds, written as PNG."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude, gaussian_laplace

from rsaseg.imaging import Grid, Volume, crop_grid, ras_grid, resample
from rsaseg.report.png import png_bytes, white_level

Pixels = NDArray[np.uint8]

EDGE_RGB = (255, 196, 0)
GOOD_RGB = (0, 150, 90)
BAD_RGB = (213, 60, 0)
_PIXEL_MM = 1.0
_EDGE_SIGMA_MM = 1.5
_FRAME = 4  # pixels
_LETTERS = {
    "T": "111 010 010 010 010",
    "1": "010 110 010 010 111",
    "2": "110 001 010 100 111",
    "R": "110 101 110 101 101",
}


def registration_picture(
    flair: Volume, others: Mapping[str, Volume], good: Mapping[str, bool]
) -> bytes:
    """Draw the FLAIR's edges over each aligned sequence, in three planes.

    A row for each sequence: axial, coronal and sagittal slices through the middle of the head, the
    patient's right on the left. The frame is green where the registration passed, else red.

    Parameters
    ----------
    flair : Volume
        Where the edges come from.
    others : mapping
        Sequence name to volume, on the FLAIR's grid.
    good : mapping
        Sequence name to whether its registration passed.

    Returns
    -------
    bytes
        A PNG file.
    """
    planes = _middle_planes(flair)
    edges = [_edges(_sample(flair, plane) - flair.air) for plane in planes]
    rows = []
    for name, volume in others.items():
        window = _window(volume.data[::2, ::2, ::2])
        panels = [
            _overlay(_sample(volume, plane), edge, window)
            for plane, edge in zip(planes, edges, strict=True)
        ]
        row = _beside(panels)
        _write_text(row, name, (3, 3))
        _write_text(row, "R", (row.shape[0] - 14, 3))
        rows.append(_framed(row, GOOD_RGB if good[name] else BAD_RGB))
    return png_bytes(np.concatenate(rows) if rows else np.zeros((1, 1, 3), np.uint8))


def _middle_planes(flair: Volume) -> list[Grid]:
    """Return the grids of the axial, coronal and sagittal slice through the head's middle."""
    coarse = ras_grid(flair.grid, (4.0, 4.0, 4.0))
    data = resample(flair.data, flair.grid, coarse)
    inside = np.nonzero(data > data.mean())
    fine = ras_grid(flair.grid, (_PIXEL_MM, _PIXEL_MM, _PIXEL_MM))
    planes = []
    for axis in (2, 1, 0):
        at = np.median(inside[axis]) / data.shape[axis] * fine.shape[axis]
        start, stop = np.zeros(3, int), np.array(fine.shape)
        start[axis], stop[axis] = int(at), int(at) + 1
        planes.append(crop_grid(fine, start, stop))
    return planes


def _window(data: NDArray[np.float32]) -> tuple[float, float]:
    """Return what is black and what is white; fat, brighter than the brain, may be over white."""
    low, high = (float(x) for x in np.percentile(data, (1, 99.5)))
    return low, white_level(low, high, data[data > data.mean()])


def _sample(volume: Volume, plane: Grid) -> NDArray[np.float32]:
    """Return the slice as an image: superior or anterior up, the patient's right on the left."""
    data = resample(volume.data, volume.grid, plane)
    flat = data.squeeze(axis=int(np.argmin(plane.shape)))
    if plane.shape[0] > 1:
        flat = flat[::-1]  # R runs to the right in memory
    return flat.T[::-1]


def _edges(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return thin edges: zero crossings of the Laplacian where the gradient is strong."""
    sigma = _EDGE_SIGMA_MM / _PIXEL_MM
    positive = gaussian_laplace(image, sigma) > 0
    crossing = np.zeros_like(positive)
    crossing[:-1] |= positive[:-1] != positive[1:]
    crossing[:, :-1] |= positive[:, :-1] != positive[:, 1:]
    slope = gaussian_gradient_magnitude(image, sigma)
    steep: NDArray[np.bool_] = (
        slope > 0.12 * np.percentile(gaussian_filter(image, sigma), 99) / sigma
    )
    return crossing & steep


def _overlay(image: NDArray[np.float32], edge: NDArray[np.bool_], window: Any) -> Pixels:
    low, high = window
    grey = (np.clip((image - low) / (high - low), 0, 1) * 255).astype(np.uint8)
    pixels: Pixels = np.repeat(grey[..., None], 3, axis=2)
    pixels[edge] = EDGE_RGB
    return pixels


def _beside(panels: list[Pixels]) -> Pixels:
    """Put panels side by side, centred on black."""
    height = max(panel.shape[0] for panel in panels)
    padded = []
    for panel in panels:
        above = (height - panel.shape[0]) // 2
        below = height - panel.shape[0] - above
        padded.append(np.pad(panel, ((above, below), (0, 0), (0, 0))))
    return np.concatenate(padded, axis=1)


def _framed(pixels: Pixels, colour: tuple[int, int, int]) -> Pixels:
    height, width, _ = pixels.shape
    framed = np.empty((height + 2 * _FRAME, width + 2 * _FRAME, 3), np.uint8)
    framed[:] = colour
    framed[_FRAME:-_FRAME, _FRAME:-_FRAME] = pixels
    return framed


def _write_text(pixels: Pixels, text: str, corner: tuple[int, int]) -> None:
    """Write the known letters of ``text`` in white, 6x10 pixels each, from ``corner``."""
    row, column = corner
    for letter in text:
        if letter in _LETTERS:
            bits = [[int(bit) for bit in line] for line in _LETTERS[letter].split()]
            glyph = np.kron(np.array(bits, bool), np.ones((2, 2), bool))
            place = pixels[row : row + 10, column : column + 6]
            place[glyph[: place.shape[0], : place.shape[1]]] = 255
        column += 8
