"""Slice-wise attention (SA), recurrent slice-wise attention (RSA) and the non-local block.

Symbols follow Zhang et al., "RSANet", MICCAI 2019 (doi:10.1007/978-3-030-32248-9_46), section 2.
Feature maps are (N, C, D, H, W) = (batch, channel, axial, coronal, sagittal slices).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, max_pool3d, scaled_dot_product_attention

SAGITTAL, CORONAL, AXIAL = 4, 3, 2
"""Tensor axis along which each kind of slice is counted."""


def slice_attention(q: Tensor, k: Tensor, v: Tensor, axis: int, scaled: bool = False) -> Tensor:
    """Mix the slices of ``v`` along ``axis``: RT(A M3) of equations (1) and (2), as printed.

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
    a = torch.softmax(scores, dim=-1)  # eq. (1): row i sums to one over j
    return (a @ m3.flatten(2)).view_as(m3).movedim(1, axis)


class RSABlock(nn.Module):
    """Sagittal, then coronal, then axial slice attention (section 2.2).

    One set of 1x1x1 convolutions serves the three directions; each direction has an alpha of
    its own that starts at 0, so a new block is the identity.

    The block computes `slice_attention` in an exactly equal form that costs about half. With
    W, b the weight and bias of a convolution, q the query and m a slice's features, summed over
    its voxels:

    - query . key = (Wk^T q) . m + (query . bk). The last term is one number for a row of scores,
      which the softmax takes out again; what is left needs one convolution, not two.
    - A (Wv m + bv) = Wv (A m) + bv, since the rows of A sum to one: slices are mixed first, and
      the value convolution, alpha and the sum of equation (2) become one product.

    Everything is computed channels last, where slices along any axis are a view, and in full
    precision, whatever autocast says: unscaled scores reach hundreds, and bfloat16 keeps 3 digits.

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
        with torch.autocast(m.device.type, enabled=False):
            e = _channels_last(m)  # (N, D, H, W, C)
            (wq, bq), (wk, bk), (wv, bv) = map(_matrix, (self.query, self.key, self.value))
            weight = wk.T @ wq
            bias = wk.T @ bq + 0 * bk  # keeps bk's gradient, which is 0, in the graph
            for alpha, axis in zip(self.alpha, (SAGITTAL, CORONAL, AXIAL), strict=True):
                mixed = _mix_slices(linear(e, weight, bias), e, axis - 1, self.scaled)
                e = e + linear(mixed, alpha * wv, alpha * bv)  # eq. (2)
        return _as_before(e, m)


def _mix_slices(t: Tensor, m: Tensor, axis: int, scaled: bool) -> Tensor:
    """Return A M along an axis of M (N, D, H, W, C), A the softmax of the scores t_i . m_j."""
    sizes = m.shape
    n, before, count, after = (
        sizes[0],
        sizes[1:axis].numel(),
        sizes[axis],
        sizes[axis + 1 :].numel(),
    )
    t, m = t.reshape(n, before, count, after), m.reshape(n, before, count, after)
    if n * before == 1:
        # BLAS cuts one long product into a part for each thread, and its rounding with them. Cut
        # along the next axis first, the scores are the same bits on any number of threads.
        rows = (count, sizes[axis + 1], -1)
        scores = (t.view(rows).transpose(0, 1) @ m.view(rows).permute(1, 2, 0)).sum(0)[None]
    else:
        scores = (t @ m.transpose(2, 3)).sum(1)  # (N, S, S)
    if scaled:
        scores = scores * (before * after) ** -0.5
    a = torch.softmax(scores, dim=-1)
    return (a[:, None] @ m).reshape(sizes)


class NonLocalBlock(nn.Module):
    """The non-local block in 3D, embedded Gaussian: every voxel attends to every other.

    Wang et al., "Non-local neural networks", CVPR 2018 (doi:10.1109/CVPR.2018.00813). Theta, phi
    and g halve the channels; the output convolution starts at 0, so a new block is the identity.
    The voxels-by-voxels map of attention is never held as a whole; the result is the same.

    Parameters
    ----------
    channels : int
        Channels of the feature map, at least 2.
    subsample : int
        Phi and g are max-pooled by this factor along each axis; 1 keeps every voxel.
    """

    def __init__(self, channels: int, subsample: int = 1) -> None:
        super().__init__()
        self.theta = nn.Conv3d(channels, channels // 2, 1)
        self.phi = nn.Conv3d(channels, channels // 2, 1)
        self.g = nn.Conv3d(channels, channels // 2, 1)
        self.out = nn.Conv3d(channels // 2, channels, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)
        self.subsample = subsample

    def forward(self, x: Tensor) -> Tensor:
        """Return z for the feature map x, both (N, C, D, H, W)."""
        with torch.autocast(x.device.type, enabled=False):
            full = _channels_last(x)
            pooled = full
            if self.subsample > 1:
                cells = max_pool3d(full.permute(0, 4, 1, 2, 3), self.subsample, ceil_mode=True)
                pooled = cells.permute(0, 2, 3, 4, 1)
            theta = linear(full, *_matrix(self.theta)).flatten(1, 3)[
                :, None
            ]  # (N, 1, voxels, C / 2)
            phi = linear(pooled, *_matrix(self.phi)).flatten(1, 3)[:, None]
            g = linear(pooled, *_matrix(self.g)).flatten(1, 3)[:, None]
            y = scaled_dot_product_attention(theta, phi, g, scale=1.0)[:, 0]
            z = full + linear(y.view(*full.shape[:4], -1), *_matrix(self.out))
        return _as_before(z, x)


def _matrix(conv: nn.Conv3d) -> tuple[Tensor, Tensor]:
    """Return the weight (out, in) and the bias (out) of a 1x1x1 convolution."""
    weight = conv.weight.flatten(1)
    return weight, weight.new_zeros(len(weight)) if conv.bias is None else conv.bias


def _channels_last(m: Tensor) -> Tensor:
    """Return (N, C, D, H, W) as contiguous (N, D, H, W, C), in float32 at least."""
    m = m if m.dtype in (torch.float32, torch.float64) else m.float()
    return m.permute(0, 2, 3, 4, 1).contiguous()


def _as_before(e: Tensor, m: Tensor) -> Tensor:
    """Return (N, D, H, W, C) as (N, C, D, H, W), in the type and memory layout of ``m``."""
    last = m.is_contiguous(memory_format=torch.channels_last_3d)
    layout = torch.channels_last_3d if last else torch.contiguous_format
    return e.permute(0, 4, 1, 2, 3).to(m.dtype).contiguous(memory_format=layout)
