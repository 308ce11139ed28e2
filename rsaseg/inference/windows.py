"""A network over a volume: in one pass, or window by window with Gaussian blending.

Tensors are (C, D, H, W) = (channel, axial, coronal, sagittal slices); sizes are in voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn.functional import pad

from rsaseg.errors import InputError

Network = Callable[[Tensor], Tensor]
"""(N, C, D, H, W) to (N, classes, D, H, W)."""

Progress = Callable[[int, int], None]
"""Called with the passes done and the passes in all."""

SIGMA = 0.125
"""Standard deviation of the blending Gaussian, in window widths."""

LEAST_WEIGHT = 1e-3
"""A window's weight at its corners, so that a voxel seen only there is not divided by zero."""


def window_starts(size_vox: int, window_vox: int, overlap: float) -> list[int]:
    """Return where windows start along one axis: evenly, the last one moved back to fit.

    Parameters
    ----------
    size_vox, window_vox : int
        Length of the volume and of the window, the volume at least as long.
    overlap : float
        Part of a window that its neighbour covers too, 0 up to below 1.
    """
    step = max(1, int(window_vox * (1 - overlap)))
    last = size_vox - window_vox
    return [*range(0, last, step), last]


def window_weight(window_vox: tuple[int, int, int], like: Tensor) -> Tensor:
    """Return each voxel's weight in a window (D, H, W), of the type and device of ``like``.

    A Gaussian around the window's middle, `SIGMA` wide and not below `LEAST_WEIGHT`.
    """
    weight = torch.ones((), dtype=like.dtype, device=like.device)
    for n in window_vox:
        x = torch.arange(n, dtype=like.dtype, device=like.device) - (n - 1) / 2
        weight = weight[..., None] * torch.exp(-0.5 * (x / (SIGMA * n)) ** 2)
    return weight.clamp(min=LEAST_WEIGHT)


@torch.inference_mode()
def predict_windows(
    network: Network,
    image: Tensor,
    window_vox: tuple[int, int, int],
    overlap: float = 0.5,
    batch: int = 1,
    progress: Progress | None = None,
) -> Tensor:
    """Run a network over overlapping windows and blend what it returns.

    A volume smaller than the window is padded with zeros on both sides and the result cropped
    back. Windows are added up in one order whatever the batch. On the CPU each row of a batch
    passes the network alone: a convolution's rounding there depends on how many rows it gets, and
    more rows are no faster. So on the CPU the result is the same bit for bit whatever the batch.

    Parameters
    ----------
    network : callable
        (N, C, D, H, W) to (N, classes, D, H, W), sizes kept.
    image : Tensor
        (C, D, H, W).
    window_vox : tuple of int
        Window size along D, H, W.
    overlap : float
        Part of a window that its neighbour covers too, 0 up to below 1.
    batch : int
        Windows the network is handed at a time.
    progress : callable, optional
        Called after each batch with the windows done and the windows in all.

    Returns
    -------
    Tensor
        (classes, D, H, W), of the type and device of ``image``.

    Raises
    ------
    InputError
        If the window, the overlap or the batch is out of range.
    """
    _check(window_vox, overlap, batch)
    missing = [max(w - n, 0) for w, n in zip(window_vox, image.shape[1:], strict=True)]
    before = [m // 2 for m in missing]
    around = [p for m, b in zip(missing, before, strict=True) for p in (b, m - b)]
    padded = pad(image, [p for i in (4, 2, 0) for p in around[i : i + 2]])  # last axis first
    sizes = padded.shape[1:]
    starts = [window_starts(n, w, overlap) for n, w in zip(sizes, window_vox, strict=True)]
    windows = [_box(corner, window_vox) for corner in product(*starts)]
    weight = window_weight(window_vox, image)
    total = torch.zeros(sizes, dtype=image.dtype, device=image.device)
    blended = total.new_empty(0)  # until the first output tells the number of classes
    for first in range(0, len(windows), batch):
        now = windows[first : first + batch]
        rows = torch.stack([padded[window] for window in now])
        for window, scores in zip(now, _rows(network, rows), strict=True):
            if not len(blended):
                blended = total.new_zeros((scores.shape[0], *sizes))
            blended[window] += scores * weight
            total[window] += weight
        if progress:
            progress(first + len(now), len(windows))
    return (blended / total)[_box(before, image.shape[1:])]


@torch.inference_mode()
def predict_whole(network: Network, image: Tensor) -> Tensor:
    """Run a network once over the whole volume.

    Parameters
    ----------
    network : callable
        (N, C, D, H, W) to (N, classes, D, H, W), sizes kept.
    image : Tensor
        (C, D, H, W).

    Returns
    -------
    Tensor
        (classes, D, H, W), of the type and device of ``image``.
    """
    return network(image[None])[0].to(image.dtype)


def _box(start: Sequence[int], size: Sequence[int]) -> tuple[EllipsisType | slice, ...]:
    """Return the index of a box over the last axes."""
    return (..., *(slice(s, s + n) for s, n in zip(start, size, strict=True)))


def _rows(network: Network, rows: Tensor) -> list[Tensor]:
    """Return the network's output for each row of a batch, in the rows' type."""
    if rows.device.type == "cpu":
        return [network(rows[i : i + 1])[0].to(rows.dtype) for i in range(len(rows))]
    return list(network(rows).to(rows.dtype))


def _check(window_vox: tuple[int, int, int], overlap: float, batch: int) -> None:
    if len(window_vox) != 3 or min(window_vox) < 1:
        raise InputError(f"window {window_vox} voxels: give three sizes of 1 or more")
    if not 0 <= overlap < 1:
        raise InputError(f"overlap {overlap}: give 0 or more and less than 1")
    if batch < 1:
        raise InputError(f"batch of {batch} windows: give 1 or more")
