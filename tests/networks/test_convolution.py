from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv3d, interpolate

from rsaseg.networks.convolution import (
    Conv,
    conv_joined,
    convolve,
    depth_to_space,
    space_to_depth,
)


def test_space_to_depth_by_hand_and_back():
    x = torch.arange(2 * 2 * 4.0).view(1, 1, 2, 2, 4)
    packed = space_to_depth(x, (1, 2, 2))
    assert packed.shape == (1, 4, 2, 1, 2)
    assert packed[0, :, 0, 0, 0].tolist() == [0, 1, 4, 5]
    assert packed[0, :, 1, 0, 1].tolist() == [10, 11, 14, 15]
    x = torch.randn(2, 3, 4, 6, 6)
    assert torch.equal(depth_to_space(space_to_depth(x, (2, 3, 1)), (2, 3, 1)), x)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), *[st.integers(1, 6)] * 3),
    st.tuples(*[st.sampled_from([1, 3, 5])] * 3),
    st.booleans(),
    st.sampled_from([torch.contiguous_format, torch.channels_last_3d]),
)
def test_convolving_is_pytorchs_conv3d_gradients_too(
    shape: tuple[int, ...], kernel: tuple[int, int, int], biased: bool, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(5, shape[1], *kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64) if biased else None
    ours = convolve(x, weight, bias)
    theirs = conv3d(x, weight, bias, padding=[k // 2 for k in kernel])
    assert ours.shape == theirs.shape
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    scale = torch.randn_like(theirs)
    for one, other in zip(
        torch.autograd.grad((ours * scale).sum(), (x, weight)),
        torch.autograd.grad((theirs * scale).sum(), (x, weight)),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(2, 7)] * 3),
    st.tuples(*[st.sampled_from([1, 3])] * 3),
    st.booleans(),
)
def test_convolving_a_doubled_map_is_joining_and_convolving(
    size: tuple[int, int, int], kernel: tuple[int, int, int], biased: bool
) -> None:
    torch.manual_seed(0)
    half = [(n + 1) // 2 for n in size]
    fine = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    coarse = torch.randn(2, 4, *half, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 7, *kernel, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(5, dtype=torch.float64) if biased else None
    ours = conv_joined(fine, coarse, weight, bias)
    joined = torch.cat([fine, interpolate(coarse, size)], dim=1)
    theirs = conv3d(joined, weight, bias, padding=[k // 2 for k in kernel])
    assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)
    scale = torch.randn_like(theirs)
    leaves = (fine, coarse, weight)
    for one, other in zip(
        torch.autograd.grad((ours * scale).sum(), leaves),
        torch.autograd.grad((theirs * scale).sum(), leaves),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_a_point_convolution_is_pytorchs_and_keeps_channels_last() -> None:
    torch.manual_seed(0)
    ours = Conv(5, 3)
    theirs = nn.Conv3d(5, 3, 1, bias=False)
    theirs.load_state_dict(ours.state_dict())
    first = torch.randn(2, 5, 3, 4, 6)
    last = first.contiguous(memory_format=torch.channels_last_3d)
    for x in (first, last):
        assert torch.allclose(ours(x), theirs(first), atol=1e-6)
        assert ours(x).is_contiguous(memory_format=torch.channels_last_3d)
