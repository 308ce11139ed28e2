"""Whether a training step fits into memory, known before the first one."""

from __future__ import annotations

from math import prod
from pathlib import Path

import torch
from torch import Tensor

from rsaseg.errors import DeviceError
from rsaseg.networks.unet import RSANet
from rsaseg.training.precision import takes_bfloat16
from rsaseg.training.recipe import Recipe

_PROBES_VOX = (8, 32, 32), (16, 32, 32)
_COPIES = 5
"""Of the weights: their gradients, two moments of Adam, and the average."""


def step_bytes(recipe: Recipe, crops: int, bfloat16: bool = False) -> int:
    """Return a lower bound of what a training step takes.

    What passes over two small crops keep for their gradients is measured; by how much more the
    larger keeps is scaled to the real crops. What does not grow with the crop drops out.

    Parameters
    ----------
    recipe : Recipe
        Network and crop size.
    crops : int
        Crops in one process's part of a batch.
    bfloat16 : bool
        Whether convolutions take it, see `takes_bfloat16`.
    """
    with torch.random.fork_rng(devices=[]):
        network = RSANet(recipe.network)
    small, large = (_kept_bytes(network, size, bfloat16) for size in _PROBES_VOX)
    per_voxel = (large - small) / (prod(_PROBES_VOX[1]) - prod(_PROBES_VOX[0]))
    parameters = sum(p.numel() * p.element_size() for p in network.parameters())
    return int(per_voxel * crops * prod(recipe.crop_vox)) + _COPIES * parameters


def _kept_bytes(network: RSANet, crop_vox: tuple[int, int, int], bfloat16: bool) -> int:
    """Return what a pass over one crop keeps for its gradients."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    probe = torch.zeros(1, network.config.in_channels, *crop_vox)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        logits = network(probe)
    total = sum(kept.values())
    del logits  # until here the graph held every storage, so that no address came twice
    return total


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that is free on a device, None where that cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in fields else None


def check_memory(recipe: Recipe, crops: int, device: torch.device) -> None:
    """Refuse a step that cannot fit.

    Raises
    ------
    DeviceError
        With both figures and what to lower.
    """
    needed = step_bytes(recipe, crops, takes_bfloat16(recipe, device))
    free = free_bytes(device)
    if free is not None and needed > free:
        raise DeviceError(
            f"device {device}: a step of {crops} crops needs at least {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free; lower --batch or --crop"
        )
