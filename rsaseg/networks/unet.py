"""The 3D U-Net backbone of the paper and the places where attention goes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rsaseg.networks.attention import RSABlock


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
    flat_levels : int
        The first levels that work within axial slices: 1x3x3 kernels, slices not halved. For
        thick slices.
    groups : int
        Groups of the group normalisation.
    stem_dropout : float
        Probability that a stem channel is dropped in training.
    scaled_attention : bool
        Divide attention scores by the square root of the slice size.
    """

    in_channels: int = 3
    classes: int = 2
    channels: tuple[int, ...] = (16, 32, 64, 128)
    attention: str = "111"
    flat_levels: int = 0
    groups: int = 8
    stem_dropout: float = 0.0
    scaled_attention: bool = False


PAPER = NetworkConfig(channels=(32, 64, 128, 256, 512), attention="010", stem_dropout=0.2)
"""The authors' public network, RSA-010: 24,554,339 parameters."""


class ConvNormReLU(nn.Sequential):
    """A convolution without bias, group normalisation, ReLU."""

    def __init__(self, c_in: int, c_out: int, kernel: tuple[int, int, int], groups: int) -> None:
        padding = tuple(k // 2 for k in kernel)
        super().__init__(
            nn.Conv3d(c_in, c_out, kernel, padding=padding, bias=False),
            nn.GroupNorm(groups, c_out),
            nn.ReLU(inplace=True),
        )


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
        kernels = [(1 if i < config.flat_levels else 3, 3, 3) for i in range(bottom + 1)]

        def two_convs(c_in: int, level: int) -> nn.Sequential:
            first = ConvNormReLU(c_in, c[level], kernels[level], config.groups)
            return nn.Sequential(
                first, ConvNormReLU(c[level], c[level], kernels[level], config.groups)
            )

        def conv(c_in: int, c_out: int, stride: int = 1) -> nn.Conv3d:
            return nn.Conv3d(c_in, c_out, 3, stride, padding=1, bias=False)

        def attention(place: int, level: int) -> nn.Module:
            if config.attention[place] == "0":
                return nn.Identity()
            return RSABlock(c[level], config.scaled_attention)

        self.stem = conv(config.in_channels, c[0])
        self.dropout = nn.Dropout3d(config.stem_dropout)
        self.encoder = nn.ModuleList(
            two_convs(c[max(level - 1, 0)], level) for level in range(bottom + 1)
        )
        self.down = nn.ModuleList(conv(c[i], c[i], stride=2) for i in range(bottom))
        self.up = nn.ModuleList(nn.Conv3d(c[i + 1], c[i], 1, bias=False) for i in range(bottom))
        self.decoder = nn.ModuleList(two_convs(2 * c[i], i) for i in range(bottom))
        self.attend_encoder = attention(0, bottom - 1)
        self.attend_bottom = attention(1, bottom)
        self.attend_decoder = attention(2, bottom - 1)
        self.head = nn.Sequential(conv(c[0], c[0]), nn.Conv3d(c[0], config.classes, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Return class logits (N, classes, D, H, W) of the sequences (N, in_channels, D, H, W)."""
        bottom = len(self.down)
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
            skip = skips.pop()
            x = interpolate(self.up[level](x), size=skip.shape[2:], mode="nearest")
            x = self.decoder[level](torch.cat([skip, x], dim=1))
            if level == bottom - 1:
                x = self.attend_decoder(x)
        logits: Tensor = self.head(x)
        return logits
