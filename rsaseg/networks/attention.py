"""Slice-wise attention (SA), recurrent slice-wise attention (RSA) and the non-local block.

Symbols follow Zhang et al., "RSANet", MICCAI 2019 (doi:10.1007/978-3-030-32248-9_46), section 2.
Feature maps are (N, C, D, H, W) = (batch, channel, axial, coronal, sagittal slices).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SAGITTAL, CORONAL, AXIAL = 4, 3, 2
"""Tensor axis along which each kind of slice is counted."""


def slice_attention(q: Tensor, k: Tensor, v: Tensor, axis: int, scaled: bool = False) -> Tensor:
    """Mix the slices of ``v`` along ``axis``: RT(A M3) of equations (1) and (2).

    Parameters
    ----------
    q, k, v : Tensor
        M2, M1 and M3 before their reshape, each (N, C, D, H, W).
    axis : int
        2, 3 or 4: the axis whose slices attend to each other.
    scaled : bool
        Divide the scores by the square root of the slice size, so that their spread does not
        grow with the field of view. The paper does not.

    Returns
    -------
    Tensor
        (N, C, D, H, W): slice i is the sum over j of A[i, j] times slice j of ``v``.
    """
    m2 = q.movedim(axis, 1).flatten(2)  # (N, S, CHW / S)
    m1 = k.movedim(axis, 1).flatten(2).transpose(1, 2)
    m3 = v.movedim(axis, 1)
    scores = m2 @ m1  # (N, S, S)
    if scaled:
        scores = scores * m2.shape[-1] ** -0.5
    a = torch.softmax(scores.float(), dim=-1).to(m3.dtype)  # eq. (1): row i sums to one over j
    return (a @ m3.flatten(2)).view_as(m3).movedim(1, axis)


class RSABlock(nn.Module):
    """Sagittal, then coronal, then axial slice attention (section 2.2).

    One set of 1x1x1 convolutions serves the three directions; each direction has an alpha of
    its own that starts at 0, so a new block is the identity.

    Parameters
    ----------
    channels : int
        Channels of the feature map.
    scaled : bool
        See `slice_attention`.
    """

    def __init__(self, channels: int, scaled: bool = False) -> None:
        super().__init__()
        self.query = nn.Conv3d(channels, channels, 1)
        self.key = nn.Conv3d(channels, channels, 1)
        self.value = nn.Conv3d(channels, channels, 1)
        self.alpha = nn.Parameter(torch.zeros(3))
        self.scaled = scaled

    def forward(self, m: Tensor) -> Tensor:
        """Return E for the feature map M, both (N, C, D, H, W)."""
        for alpha, axis in zip(self.alpha, (SAGITTAL, CORONAL, AXIAL), strict=True):
            mixed = slice_attention(self.query(m), self.key(m), self.value(m), axis, self.scaled)
            m = alpha * mixed + m  # eq. (2)
        return m
