"""Convolutions in the forms that a processor computes fastest: PyTorch's own, less the waste."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import conv2d, conv3d, conv_transpose3d, interpolate, linear, pad


def space_to_depth(x: Tensor, patch_vox: tuple[int, int, int]) -> Tensor:
    """Turn (N, C, D, H, W) into (N, C * patch, D / p, H / q, W / r); sizes must divide.

    The channels are last in memory, as convolutions on a CPU want them: all that follows stays so.
    """
    (p, q, r), (n, c, d, h, w) = patch_vox, x.shape
    x = x.reshape(n, c, d // p, p, h // q, q, w // r, r)
    x = x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(n, d // p, h // q, w // r, c * p * q * r)
    return x.movedim(-1, 1)


def depth_to_space(x: Tensor, patch_vox: tuple[int, int, int]) -> Tensor:
    """Undo `space_to_depth`."""
    (p, q, r), (n, c, d, h, w) = patch_vox, x.shape
    x = x.reshape(n, c // (p * q * r), p, q, r, d, h, w)
    return x.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(n, -1, d * p, h * q, w * r)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve to as many voxels as before.

    Exactly ``conv3d``; but a kernel of one voxel is a product over the channels, which leaves them
    last in memory (``conv3d`` on a CPU puts them first, and every layer after it turns them over),
    and one of a slice goes over the slices as over so many images: where channels are last that
    copies nothing, and a processor without bfloat16 has a faster kernel for it, twice as fast
    backwards.

    Parameters
    ----------
    x : Tensor
        (N, C, D, H, W).
    weight : Tensor
        (c_out, C, k, k', k'') with every k odd.
    bias : Tensor, optional
        (c_out,).

    Returns
    -------
    Tensor
        (N, c_out, D, H, W).
    """
    kernel = weight.shape[2:]
    if kernel == (1, 1, 1):
        return linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
    padding = [k // 2 for k in kernel]
    if kernel[0] > 1:
        return conv3d(x, weight, bias, padding=padding)
    slices = x.transpose(1, 2).flatten(0, 1)
    y = conv2d(slices, weight[:, :, 0], bias, padding=padding[1:])
    return y.reshape(x.shape[0], x.shape[2], *y.shape[1:]).transpose(1, 2)


class Conv(nn.Conv3d):
    """A convolution without bias to as many voxels as before, see `convolve`."""

    def __init__(self, c_in: int, c_out: int, kernel: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__(c_in, c_out, kernel, padding="same", bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, c_out, D, H, W) of (N, c_in, D, H, W)."""
        return convolve(x, self.weight)


def conv_joined(fine: Tensor, coarse: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve two maps joined along the channels, the coarse one brought to the fine one's size.

    Exactly ``conv3d(cat([fine, interpolate(coarse, fine.shape[2:])], 1), weight, bias)`` with as
    many voxels as before. Doubling an axis repeats each voxel, so that a kernel after it sees some
    voxel twice: convolving the coarse map as it is, transposed and with stride 2, takes 2 products
    along that axis instead of 3, and neither the larger map nor the joined one is made. An axis
    that does not double is brought to size first.

    Parameters
    ----------
    fine, coarse : Tensor
        (N, C, D, H, W), and (N, C', D', H', W') of about half the size.
    weight : Tensor
        (c_out, C + C', k, k, k) with every k odd.
    bias : Tensor, optional
        (c_out,).

    Returns
    -------
    Tensor
        (N, c_out, D, H, W).
    """
    size, half = fine.shape[2:], coarse.shape[2:]
    steps = [1 + (n == 2 * m) for n, m in zip(size, half, strict=True)]
    if 1 in steps:
        kept = [m if step == 2 else n for n, m, step in zip(size, half, steps, strict=True)]
        coarse = interpolate(coarse, kept)
    here, there = weight.split([fine.shape[1], coarse.shape[1]], dim=1)
    kernel = there.transpose(0, 1).flip(2, 3, 4)
    for before, step in zip((4, 2, 0), steps, strict=True):  # as pad counts: D, H, W
        if step == 2:
            ends = [0] * before + [0, 1]
            kernel = pad(kernel, ends) + pad(kernel, [*ends[:before], 1, 0])
    padding = [k // 2 for k in weight.shape[2:]]
    doubled = conv_transpose3d(coarse, kernel, stride=steps, padding=padding)
    return doubled.add_(convolve(fine, here, bias))
