"""Slices as a reader knows them: which way up, which ones to show, lesions outlined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from scipy.ndimage import find_objects, zoom

from rsaseg.imaging import Grid
from rsaseg.report.lesion_table import slice_axis
from rsaseg.report.png import white_level

_ENDS = ("RL", "AP", "SI")  # positive and negative end of the axes right, anterior, superior
_MOST_PIXELS = 256


@dataclass(frozen=True)
class View:
    """How array axes become a picture: radiological, so the patient's right is on the left.

    Attributes
    ----------
    axes : tuple of int
        Array axis that counts slices, that runs down the picture, and that runs across it.
    flips : tuple of bool
        Whether the axes that run down and across are reversed.
    spacing_mm : tuple of float
        Between rows and between columns.
    edges : tuple of str
        Letters of the directions up, down, left and right.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool]
    spacing_mm: tuple[float, float]
    edges: tuple[str, str, str, str]

    def show(self, data: NDArray[Any]) -> NDArray[Any]:
        """Return ``data`` as (slice, row, column), without copying it."""
        pictures = np.moveaxis(data, self.axes, (0, 1, 2))
        rows, columns = (slice(None, None, -1 if flip else 1) for flip in self.flips)
        return pictures[:, rows, columns]


def view_of(grid: Grid) -> View:
    """Return how to show images on ``grid``: front or top up, the patient's right on the left."""
    orientation = io_orientation(grid.affine).astype(int)  # world axis and sign of each array axis
    through = slice_axis(grid)
    # of the two others, the one nearer to superior runs down, or to anterior in axial slices
    across, down = sorted(
        (axis for axis in range(3) if axis != through), key=lambda axis: orientation[axis, 0]
    )
    up, left = (_ENDS[orientation[axis, 0]] for axis in (down, across))
    return View(
        axes=(through, down, across),
        flips=(bool(orientation[down, 1] > 0), bool(orientation[across, 1] > 0)),
        spacing_mm=(grid.spacing_mm[down], grid.spacing_mm[across]),
        edges=(up[0], up[1], left[0], left[1]),
    )


def crop_to(mask: NDArray[np.bool_], margin: int) -> tuple[slice, slice, slice]:
    """Return all slices, and the rows and columns that hold ``mask`` (slice, row, column)."""
    spans = [slice(None)]
    for others in ((0, 2), (0, 1)):
        filled = np.flatnonzero(mask.any(axis=others))
        first, last = (filled[0], filled[-1]) if filled.size else (0, 10**6)
        spans.append(slice(max(0, int(first) - margin), int(last) + margin + 1))
    return spans[0], spans[1], spans[2]


def lesion_areas(labels: NDArray[np.int32]) -> NDArray[np.intp]:
    """Return how many voxels each label has on each slice, (labels + 1, slices)."""
    areas = np.zeros((int(labels.max(initial=0)) + 1, len(labels)), dtype=np.intp)
    for label, box in enumerate(find_objects(labels), start=1):
        if box is not None:
            areas[label, box[0]] = (labels[box] == label).sum(axis=(1, 2))
    return areas


def choose_slices(areas: NDArray[np.intp], usual: int = 20, most: int = 40) -> list[int]:
    """Return the slices to show: every lesion on one where it is large, the rest evenly spread.

    Parameters
    ----------
    areas : ndarray
        See `lesion_areas`.
    usual : int
        Slices with lesions are added until there are as many; without lesions, every slice of an
        even spread.
    most : int
        Smaller lesions are left out when this many slices are reached.
    """
    chosen: list[int] = []
    for area in areas[1:]:
        seen = max((area[k] for k in chosen), default=0)
        if area.any() and 2 * seen < area.max() and len(chosen) < most:
            chosen.append(int(area.argmax()))
    candidates = np.flatnonzero(areas[1:].any(axis=0))
    if not candidates.size:
        n_slices = areas.shape[1]
        return sorted({int(k) for k in np.linspace(0.25, 0.75, 6) * (n_slices - 1)})
    while len(chosen) < min(usual, most, candidates.size):
        gaps = np.abs(candidates[:, None] - np.array(chosen)).min(axis=1)
        chosen.append(int(candidates[gaps.argmax()]))
    return sorted(chosen)


def home_slices(areas: NDArray[np.intp], shown: Sequence[int]) -> dict[int, int]:
    """Return for each label the shown slice where it is largest; a label on none is left out."""
    homes = {}
    for label, area in enumerate(areas[1:], start=1):
        best = max(shown, key=lambda k: area[k])
        if area[best]:
            homes[label] = best
    return homes


def grey_levels(
    data: NDArray[np.float32], head: NDArray[np.bool_], deep: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Scale an image to 0..255 between the 1st and the 99.7th percentile inside ``head``.

    White is at most 2.2 medians of the voxels in ``deep``, which are mostly brain: fat, brighter
    than all of the brain, must not leave the brain dark.
    """
    inside = data[head] if head.any() else data.ravel()
    low, high = np.percentile(inside, (1.0, 99.7))
    high = white_level(low, high, data[deep])
    low = min(low, 0.0) if low < 0.1 * high else low  # keep air black
    scaled = (data - low) / max(float(high - low), 1e-6)
    grey: NDArray[np.uint8] = np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8)
    return grey


def shrink(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture of at most 256 rows and columns over the same field of view."""
    factor = min(1.0, _MOST_PIXELS / max(picture.shape))
    if factor == 1.0:
        return picture
    smaller: NDArray[np.uint8] = zoom(picture, factor, order=1, mode="nearest", grid_mode=True)
    return smaller


def outline(mask: NDArray[np.bool_], row: int = 0, column: int = 0) -> str:
    """Return the border of a mask as an SVG path along its voxels' edges, in voxels.

    Parameters
    ----------
    mask : ndarray
        (rows, columns).
    row, column : int
        Where its first voxel lies in the picture.
    """
    parts = []
    for across, edges in ((True, _edges(mask)), (False, _edges(mask.T))):
        for line, first, last in edges:
            if across:
                parts.append(f"M{column + first} {row + line}h{last - first}")
            else:
                parts.append(f"M{column + line} {row + first}v{last - first}")
    return "".join(parts)


def _edges(mask: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Return runs of edges between rows: the line's number, its first and its last column."""
    padded = np.pad(mask, 1)
    border = padded[1:] != padded[:-1]
    runs = []
    for line, row in enumerate(border):
        turns = np.flatnonzero(np.diff(row.astype(np.int8)))  # padding keeps both ends False
        runs += [(line, int(a), int(b)) for a, b in zip(turns[::2], turns[1::2], strict=True)]
    return runs
