"""From an image tensor to lesion probability, within the memory and on the device given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor, nn

from rsaseg.errors import DeviceError, InputError
from rsaseg.inference.device import choose_precision
from rsaseg.inference.windows import Network, Progress, predict_whole, predict_windows

MEMORY_BUDGET_BYTES = 2 * 2**30
"""A budget for whole volumes. A fixed figure, not the memory free at the moment: whole volume and
windows differ, and a mask must not depend on what else the machine is doing."""

SMALLEST_WINDOW_VOX = 16
LESION = 1
"""The lesion's class, by index."""
_SAGITTAL = -1  # axis of left and right in (C, D, H, W)


@dataclass(frozen=True)
class Prediction:
    """Lesion probability and how it was computed.

    Attributes
    ----------
    probability : Tensor
        (D, H, W), float32 on the CPU, 0 to 1.
    window_vox : tuple of int or None
        Window size; None for one pass over the whole volume.
    precision : str
        Number type of the convolutions.
    device : str
        Where the network ran.
    note : str
        What had to give way, for the user; empty if nothing.
    """

    probability: Tensor
    window_vox: tuple[int, int, int] | None
    precision: str
    device: str
    note: str = ""


def predict_in_turns(
    network: nn.Module,
    image: Tensor,
    turns: int,
    window_vox: tuple[int, int, int],
    device: torch.device,
    progress: Progress | None = None,
) -> Prediction:
    """Return the lesion probability of every voxel where slices overlap.

    Every ``turns``-th axial slice passes the network at a time, beginning with the first, then
    with the second, and so on; see `predict_probability` for the rest.
    """
    turns = min(turns, image.shape[1])
    probability = torch.empty(image.shape[1:])
    for turn in range(turns):
        prediction = predict_probability(
            network,
            image[:, turn::turns],
            window_vox,
            device,
            progress=progress and (lambda done, of, t=turn: progress(done + t * of, of * turns)),  # type: ignore[misc]
        )
        probability[turn::turns] = prediction.probability
    return replace(prediction, probability=probability)


def predict_mirrored(predict: Callable[[Tensor], Prediction], image: Tensor) -> Prediction:
    """Return what ``predict`` gives for the image mirrored left to right, mirrored back."""
    prediction = predict(image.flip(_SAGITTAL))
    return replace(prediction, probability=prediction.probability.flip(_SAGITTAL))


def predict_probability(
    network: nn.Module,
    image: Tensor,
    window_vox: tuple[int, int, int],
    device: torch.device,
    overlap: float = 0.125,
    precision: str = "auto",
    memory_budget_bytes: int | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """Return the lesion probability of every voxel.

    Window by window, or the whole volume at once if that fits the budget. A GPU that runs out
    of memory is tried again with smaller windows, and the result's note says so.

    Parameters
    ----------
    network : nn.Module
        (1, C, D, H, W) to class logits (1, classes, D, H, W). It is moved to ``device`` and set
        to evaluation.
    image : Tensor
        (C, D, H, W), float32.
    window_vox : tuple of int
        Window size along D, H, W where windows are used.
    device : torch.device
        See `rsaseg.inference.device.choose_device`.
    overlap : float
        Part of a window that its neighbour covers too.
    precision : str
        See `rsaseg.inference.device.choose_precision`.
    memory_budget_bytes : int, optional
        A volume estimated to take no more goes through whole, which is the faster; 0 always uses
        windows. Default: `MEMORY_BUDGET_BYTES`; but 0 for a network with group normalisation,
        whose statistics over a whole head are not those over the crops of its training.
    progress : callable, optional
        Called with the passes done and the passes in all.

    Raises
    ------
    InputError
        If the image or an option is out of range, or a probability is not a number.
    DeviceError
        If the device runs out of memory with the smallest window too.
    """
    if image.ndim != 4 or 0 in image.shape:
        raise InputError(f"image of shape {tuple(image.shape)}: give (C, D, H, W), none of them 0")
    dtype = choose_precision(precision, device)
    network = network.to(device).eval()
    run = _runner(network, device, dtype)
    size_vox: tuple[int, int, int] = (image.shape[1], image.shape[2], image.shape[3])
    if memory_budget_bytes is None:
        by_group = any(isinstance(module, nn.GroupNorm) for module in network.modules())
        memory_budget_bytes = 0 if by_group else MEMORY_BUDGET_BYTES
    whole = memory_budget_bytes > 0 and (
        bytes_per_voxel(network, image, device) * prod(size_vox) <= memory_budget_bytes
    )
    window = None if whole else window_vox
    note = ""
    while True:
        try:
            on_device = image.to(device)
            if window is None:
                logits = predict_whole(run, on_device)
                if progress:
                    progress(1, 1)
            else:
                logits = predict_windows(run, on_device, window, overlap, progress=progress)
            probability = logits.softmax(0)[LESION].float().cpu()
        except torch.OutOfMemoryError as error:
            window = _smaller(window_vox if window is None else window, window is None)
            if window is None:
                raise DeviceError(
                    f"device {device} has too little memory even for a window of "
                    f"{SMALLEST_WINDOW_VOX} voxels: free some or use --device cpu"
                ) from error
            note = f"{device} ran out of memory; used windows of {window} voxels"
            continue
        if not probability.isfinite().all():
            if dtype is torch.float32:
                raise InputError("the network gives no number for this image; check the image")
            dtype, note = torch.float32, f"{dtype} gave no number somewhere; used float32"
            run = _runner(network, device, dtype)
            continue
        return Prediction(probability, window, str(dtype).removeprefix("torch."), str(device), note)


@torch.inference_mode()
def bytes_per_voxel(network: nn.Module, image: Tensor, device: torch.device) -> float:
    """Estimate the memory a pass takes for each voxel of the image, from a pass over a corner.

    Four times the largest input and output of one layer together: skipped connections, copies
    and scratch space come on top of the layer at work. Measured peaks lie below it.

    Parameters
    ----------
    network : nn.Module
        On ``device``.
    image : Tensor
        (C, D, H, W).
    device : torch.device
        Where the network is.
    """
    corner = image[:, :32, :32, :32].to(device, torch.float32)
    largest = 0

    def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal largest
        size = sum(t.numel() * t.element_size() for t in (*inputs, output))
        largest = max(largest, size)

    leaves = [m for m in network.modules() if not any(m.children())]
    hooks = [m.register_forward_hook(note) for m in leaves]
    try:
        network(corner[None])
    finally:
        for hook in hooks:
            hook.remove()
    return 4 * largest / prod(corner.shape[1:])


def _runner(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Network:
    """Wrap a network in the memory layout and precision it runs fastest in."""

    def run(x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last_3d)
        reduced = dtype is not torch.float32
        with torch.autocast(device.type, torch.bfloat16, enabled=reduced):
            logits: Tensor = network(x)
        return logits

    return run


def _smaller(window_vox: tuple[int, int, int], whole_failed: bool) -> tuple[int, int, int] | None:
    """Return the window itself after a whole-volume pass, else with its longest side halved."""
    if whole_failed:
        return window_vox
    longest = max(window_vox)
    if longest <= SMALLEST_WINDOW_VOX:
        return None
    sides = list(window_vox)
    sides[sides.index(longest)] = max(SMALLEST_WINDOW_VOX, longest // 2)
    return sides[0], sides[1], sides[2]
