"""The 3D U-Net backbone of the paper and the places where attention goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from rsaseg.errors import InputError
from rsaseg.networks.attention import NonLocalBlock, RSABlock
from rsaseg.networks.convolution import (
    Conv,
    conv_joined,
    convolve,
    depth_to_space,
    space_to_depth,
)


@dataclass(frozen=True)
class NetworkConfig:
    """Everything that fixes a network's layers; stored with its weights.

    Attributes
    ----------
    in_channels, classes : int
        Sequences at the input; classes at the output (background, lesion).
    channels : tuple of int
        Feature channels of each level, top to bottom; each a multiple of ``groups``.
    attention : str
        Three digits of the paper, 0 or 1: attention at the second-bottom level of the encoder, at
        the bottom, and at the second-bottom level of the decoder. "111" is RSA-111, "000" the
        plain U-Net.
    patch_vox : tuple of int
        Voxels (D, H, W) of the input that become one position of the top level (space to depth),
        and of the output that one position becomes (depth to space). (1, 1, 1) is the paper's.
    flat_levels : int
        The first levels whose convolutions are 1x3x3, within axial slices. 0 is the paper's.
    groups : int
        Groups of the group normalisation. 0 is batch normalisation instead, which in use is a
        fixed scale and shift: the same for a crop and a whole head.
    stem_dropout : float
        Probability that a stem channel is dropped in training.
    scaled_attention : bool
        Divide attention scores of the RSA block by the square root of the slice size.
    block : str
        What stands at the places of ``attention``: a key of ``BLOCKS``.
    """

    in_channels: int = 3
    classes: int = 2
    channels: tuple[int, ...] = (16, 32, 64, 128)
    attention: str = "111"
    patch_vox: tuple[int, int, int] = (1, 1, 1)
    flat_levels: int = 0
    groups: int = 8
    stem_dropout: float = 0.0
    scaled_attention: bool = False
    block: str = "rsa"


BLOCKS: dict[str, Callable[[int, NetworkConfig], nn.Module]] = {
    "rsa": lambda channels, config: RSABlock(channels, config.scaled_attention),
    "ncl": lambda channels, _: NonLocalBlock(channels),
}
"""Attention blocks by name: made for a number of channels and a network."""

MODELS = {
    "unet": ("rsa", "000"),
    **{
        f"{block}-{places}": (block, places) for block in BLOCKS for places in ("010", "101", "111")
    },
}
"""The seven networks of the paper's Table 1: block and places."""

PAPER = NetworkConfig(channels=(32, 64, 128, 256, 512), attention="010", stem_dropout=0.2)
"""The authors' public network, RSA-010: 24,554,339 parameters."""

DEFAULT = NetworkConfig(
    channels=(32, 48, 96, 192),
    patch_vox=(1, 2, 2),
    flat_levels=1,
    groups=0,
    scaled_attention=True,
)
"""The network of the shipped weights, RSA-111: works at 2x2x3 mm, reads and writes 1x1x3 mm."""


def name_model(model: str, base: NetworkConfig) -> NetworkConfig:
    """Return ``base`` with the block and the places of one of ``MODELS``.

    Raises
    ------
    InputError
        If there is no such model.
    """
    if model not in MODELS:
        raise InputError(f"model {model!r}: unknown; choose one of {', '.join(MODELS)}")
    block, places = MODELS[model]
    return replace(base, block=block, attention=places)


class GroupNorm(nn.GroupNorm):
    """Group normalisation whose sums do not depend on how many threads there are.

    PyTorch's do where channels are last in memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, D, H, W) of (N, C, D, H, W), channels first in memory."""
        return super().forward(x.contiguous())


class ConvNormReLU(nn.Sequential):
    """A convolution without bias, normalisation, ReLU.

    Batch normalisation that uses its running figures, in use or late in training, is a factor and
    a shift of each channel: they go into the convolution, which is the same function for less.
    """

    def __init__(self, c_in: int, c_out: int, kernel: tuple[int, int, int], groups: int) -> None:
        super().__init__(
            Conv(c_in, c_out, kernel),
            GroupNorm(groups, c_out) if groups else nn.BatchNorm3d(c_out, momentum=0.02),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, coarse: Tensor | None = None) -> Tensor:
        """Return (N, c_out, D, H, W) of (N, c_in, D, H, W); see `conv_joined` for a coarser map."""
        conv, norm, relu = self
        weight, shift, folded = cast(Tensor, conv.weight), None, False
        if isinstance(norm, nn.BatchNorm3d) and not norm.training:
            folded = True
            mean, variance = cast("tuple[Tensor, Tensor]", (norm.running_mean, norm.running_var))
            factor = norm.weight * torch.rsqrt(variance + norm.eps)
            weight = weight * factor[:, None, None, None, None]
            shift = norm.bias - mean * factor
        y = convolve(x, weight, shift) if coarse is None else conv_joined(x, coarse, weight, shift)
        y = y if folded else norm(y)
        # learning, in place would copy the gradient of a view, which `convolve` returns
        return y.relu() if y.requires_grad else cast(Tensor, relu(y))


class RSANet(nn.Module):
    """A 3D U-Net with recurrent slice-wise attention.

    Any D, H, W from one slice up runs; the output has the input's own size.

    Parameters
    ----------
    config : NetworkConfig
        Its layers.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        c, bottom = config.channels, len(config.channels) - 1
        kernels = [(1 if level < config.flat_levels else 3, 3, 3) for level in range(bottom + 1)]
        patch = prod(config.patch_vox)

        def two_convs(c_in: int, level: int) -> nn.Sequential:
            first = ConvNormReLU(c_in, c[level], kernels[level], config.groups)
            second = ConvNormReLU(c[level], c[level], kernels[level], config.groups)
            return nn.Sequential(first, second)

        def attention(place: int, level: int) -> nn.Module:
            if config.attention[place] == "0":
                return nn.Identity()
            return BLOCKS[config.block](c[level], config)

        self.stem = Conv(config.in_channels * patch, c[0], (3, 3, 3))
        self.dropout = nn.Dropout3d(config.stem_dropout)
        self.encoder = nn.ModuleList(
            two_convs(c[max(level - 1, 0)], level) for level in range(bottom + 1)
        )
        self.down = nn.ModuleList(
            nn.Conv3d(c[i], c[i], 3, stride=2, padding=1, bias=False) for i in range(bottom)
        )
        self.up = nn.ModuleList(Conv(c[i + 1], c[i]) for i in range(bottom))
        self.decoder = nn.ModuleList(two_convs(2 * c[i], i) for i in range(bottom))
        self.attend_encoder = attention(0, bottom - 1)
        self.attend_bottom = attention(1, bottom)
        self.attend_decoder = attention(2, bottom - 1)
        self.head = nn.Sequential(
            Conv(c[0], c[0], kernels[0]),
            Conv(c[0], config.classes * patch),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits (N, classes, D, H, W) of the sequences (N, in_channels, D, H, W)."""
        bottom, (d, h, w) = len(self.down), x.shape[2:]
        p, q, r = self.config.patch_vox
        x = pad(x, (0, -w % r, 0, -h % q, 0, -d % p))
        x = space_to_depth(x, self.config.patch_vox)
        x = self.dropout(self.stem(x))
        skips = []
        for level, convs in enumerate(self.encoder):
            x = convs(x)
            if level == bottom - 1:
                x = self.attend_encoder(x)
            if level < bottom:
                skips.append(x)
                x = self.down[level](x)
        x = self.attend_bottom(x)
        for level in reversed(range(bottom)):
            first, second = cast(nn.Sequential, self.decoder[level])
            x = second(first(skips.pop(), self.up[level](x)))
            if level == bottom - 1:
                x = self.attend_decoder(x)
        logits = depth_to_space(self.head(x), self.config.patch_vox)
        return logits[..., :d, :h, :w]
