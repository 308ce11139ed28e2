"""Which numbers a training step multiplies."""

from __future__ import annotations

import torch

from rsaseg.training.recipe import Recipe


def takes_bfloat16(recipe: Recipe, device: torch.device) -> bool:
    """Return whether the convolutions of a step take bfloat16; weights are float32 always.

    On a GPU, and on a CPU that multiplies bfloat16 itself: there a step takes 0.6 of the time. But
    not where a level of the network is two slices deep: PyTorch 2.13 then gives wrong gradients of
    the 3x3x3 kernels on such a CPU.
    """
    if device.type != "cpu":
        return device.type == "cuda"
    able = torch.cpu.get_capabilities()
    native = bool(able.get("avx512_bf16") or able.get("amx_bf16"))
    return native and 2 not in _depths(recipe)


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Return the context in which a network passes its crops, see `takes_bfloat16`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=takes_bfloat16(recipe, device))


def _depths(recipe: Recipe) -> list[int]:
    """Return how many axial slices a crop has at each level."""
    depths = [-(-recipe.crop_vox[0] // recipe.network.patch_vox[0])]
    for _ in recipe.network.channels[1:]:
        depths.append(-(-depths[-1] // 2))
    return depths
