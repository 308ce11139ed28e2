from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsaseg.networks.attention import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    NonLocalBlock,
    RSABlock,
    slice_attention,
)


def literal_slices(m, axis):
    """The slices of (C, D, H, W) along D, H or W, each flattened."""
    return [np.take(m, i, axis).ravel() for i in range(m.shape[axis])]


def literal_sa(m, w, alpha, axis, scaled=False):
    """Equations (1) and (2) of the paper for one direction, slice by slice."""
    q, k, v = (
        np.einsum("oc,cdhw->odhw", w[f"{n}.weight"][:, :, 0, 0, 0], m)
        + w[f"{n}.bias"][:, None, None, None]
        for n in ("query", "key", "value")
    )
    m2, m1 = literal_slices(q, axis), literal_slices(k, axis)
    count = m.shape[axis]
    mixed = np.zeros_like(m)
    for i in range(count):
        scores = np.zeros(count)
        for j in range(count):
            for c in range(m2[i].size):
                scores[j] += m2[i][c] * m1[j][c]
        if scaled:
            scores /= np.sqrt(m2[i].size)
        a = np.exp(scores - scores.max())
        a /= a.sum()
        for j in range(count):
            target = [slice(None)] * 4
            target[axis] = i
            mixed[tuple(target)] += a[j] * np.take(v, j, axis)
    return alpha * mixed + m


def literal_rsa(m, block):
    """Section 2.2: sagittal (W), then coronal (H), then axial (D)."""
    w = {n: p.detach().double().numpy() for n, p in block.state_dict().items()}
    for n, axis in enumerate((3, 2, 1)):
        m = literal_sa(m, w, w["alpha"][n], axis, block.scaled)
    return m


def make_block(channels, scaled=False, alpha=(0.7, -0.4, 1.3), dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    block = RSABlock(channels, scaled).to(dtype)
    with torch.no_grad():
        block.alpha.copy_(torch.tensor(alpha))
        for conv in (block.query, block.key, block.value):
            conv.bias.normal_()
    return block


shapes = st.tuples(*[st.integers(1, 5)] * 3)


@settings(max_examples=25, deadline=None)
@given(shapes, st.booleans(), st.integers(0, 99))
def test_block_equals_the_papers_loops(shape, scaled, seed):
    block = make_block(3, scaled, seed=seed)
    m = torch.randn(2, 3, *shape, dtype=torch.float64)
    expected = torch.stack([torch.from_numpy(literal_rsa(row.numpy(), block)) for row in m])
    with torch.no_grad():
        torch.testing.assert_close(block(m), expected)
    torch.testing.assert_close(block(m.requires_grad_()), expected)


@pytest.mark.parametrize(
    ("alpha", "axis"), [((1, 0, 0), SAGITTAL), ((0, 1, 0), CORONAL), ((0, 0, 1), AXIAL)]
)
def test_first_alpha_is_sagittal_second_coronal_third_axial(alpha, axis):
    block = make_block(2, alpha=alpha)
    m = torch.randn(1, 2, 3, 4, 5, dtype=torch.float64)
    w = {n: p.detach().numpy() for n, p in block.state_dict().items()}
    expected = literal_sa(m[0].numpy(), w, 1.0, axis - 1)
    torch.testing.assert_close(block(m)[0], torch.from_numpy(expected))


@pytest.mark.parametrize("axis", [SAGITTAL, CORONAL, AXIAL])
def test_permuted_slices_give_permuted_slices(axis):
    block = make_block(4)
    m = torch.randn(2, 4, 5, 6, 7, dtype=torch.float64)
    order = torch.randperm(m.shape[axis])
    torch.testing.assert_close(
        block(m.index_select(axis, order)), block(m).index_select(axis, order)
    )


@pytest.mark.parametrize("axis", [SAGITTAL, CORONAL, AXIAL])
def test_every_voxel_hears_from_every_other(axis):
    block = make_block(2)
    m = torch.randn(1, 2, 3, 3, 3, dtype=torch.float64)
    moved = m.clone()
    moved[0, :, 0, 0, 0] += 1
    assert (block(moved) != block(m)).all()


def test_a_new_block_is_the_identity():
    m = torch.randn(2, 4, 3, 5, 6)
    assert torch.equal(RSABlock(4)(m), m)


def test_one_set_of_convolutions_serves_three_directions():
    block = RSABlock(512)
    assert sorted(block.state_dict()) == [
        "alpha",
        "key.bias",
        "key.weight",
        "query.bias",
        "query.weight",
        "value.bias",
        "value.weight",
    ]
    assert sum(p.numel() for p in block.parameters()) == 787_971


def test_attention_of_equal_slices_is_their_mean():
    q = torch.zeros(1, 2, 3, 4, 5)
    v = torch.arange(120.0).view(1, 2, 3, 4, 5)
    for axis in (SAGITTAL, CORONAL, AXIAL):
        mixed = slice_attention(q, q, v, axis)
        torch.testing.assert_close(mixed, v.mean(axis, keepdim=True).expand_as(v))


def as_printed(block, m):
    """The block by equations (1) and (2), each convolution carried out."""
    for alpha, axis in zip(block.alpha, (SAGITTAL, CORONAL, AXIAL), strict=True):
        q, k, v = block.query(m), block.key(m), block.value(m)
        m = alpha * slice_attention(q, k, v, axis, block.scaled) + m
    return m


LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("shape", [(2, 16, 5, 12, 9), (1, 64, 8, 10, 12), (1, 8, 1, 1, 1)])
def test_the_folded_form_equals_the_printed_one_in_float32(shape, scaled, layout):
    torch.manual_seed(0)
    block = RSABlock(shape[1], scaled)
    torch.nn.init.constant_(block.alpha, 0.5)
    m = torch.randn(shape).relu().contiguous(memory_format=layout)
    with torch.no_grad():
        found, expected = block(m), as_printed(block, m)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert found.is_contiguous(memory_format=layout)


def test_the_folded_form_rounds_no_worse_than_the_printed_one():
    block = make_block(32, dtype=torch.float32)
    m = torch.randn(1, 32, 6, 12, 10)
    with torch.no_grad():
        folded, printed = block(m), as_printed(block, m)
        exact = as_printed(block.double(), m.double())
    assert (folded - exact).abs().max() < 1.5 * (printed - exact).abs().max()


def test_the_same_bits_on_any_number_of_threads():
    block = make_block(96, True, dtype=torch.float32)
    m = torch.randn(1, 96, 16, 24, 24)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            with torch.no_grad():
                found.append(block(m))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(e, found[0]) for e in found)


def test_the_folded_forms_gradients_equal_the_printed_ones():
    block = make_block(4, True)
    m = torch.randn(2, 4, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    inputs = [m, *block.parameters()]
    towards = torch.randn_like(m)
    found = torch.autograd.grad(block(m), inputs, towards)
    expected = torch.autograd.grad(as_printed(block, m), inputs, towards)
    torch.testing.assert_close(found, expected)


def test_the_folded_forms_gradients_equal_finite_differences():
    block = make_block(2, True)
    m = torch.randn(1, 2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(block, m)


@pytest.mark.parametrize("attend", [RSABlock, NonLocalBlock])
def test_autocast_does_not_take_the_scores_precision(attend):
    torch.manual_seed(0)
    block = attend(8)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    m = torch.randn(1, 8, 4, 5, 6)
    with torch.no_grad():
        plain = block(m)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(block(m), plain)
        assert block(m.bfloat16()).dtype is torch.bfloat16


def make_non_local(channels, **options):
    torch.manual_seed(0)
    block = NonLocalBlock(channels, **options).double()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block


def test_non_local_equals_its_sum_over_voxels():
    block = make_non_local(4)
    x = torch.randn(2, 4, 2, 3, 4, dtype=torch.float64)
    theta, phi, g = (conv(x).flatten(2) for conv in (block.theta, block.phi, block.g))
    y = torch.zeros_like(theta)
    for n in range(len(x)):
        for i in range(theta.shape[2]):
            f = [torch.exp(theta[n, :, i] @ phi[n, :, j]) for j in range(theta.shape[2])]
            y[n, :, i] = sum(f[j] * g[n, :, j] for j in range(len(f))) / sum(f)
    torch.testing.assert_close(block(x), block.out(y.view(2, 2, 2, 3, 4)) + x)


def test_non_local_sub_sampled_attends_to_the_pooled_voxels():
    block = make_non_local(4, subsample=2)
    x = torch.randn(1, 4, 4, 6, 5, dtype=torch.float64)
    cells = torch.nn.functional.max_pool3d(x, 2, ceil_mode=True)
    assert cells.shape == (1, 4, 2, 3, 3)
    theta, phi, g = (
        block.theta(x).flatten(2),
        block.phi(cells).flatten(2),
        block.g(cells).flatten(2),
    )
    y = g @ torch.softmax(theta.transpose(1, 2) @ phi, -1).transpose(1, 2)
    torch.testing.assert_close(block(x), block.out(y.view(1, 2, 4, 6, 5)) + x)


def test_non_local_permuted_voxels_give_permuted_voxels():
    block = make_non_local(4)
    x = torch.randn(1, 4, 3, 4, 5, dtype=torch.float64)
    order = torch.randperm(60)
    moved = block(x.flatten(2)[:, :, order].view_as(x))
    torch.testing.assert_close(moved, block(x).flatten(2)[:, :, order].view_as(x))


@settings(max_examples=15, deadline=None)
@given(shapes, st.integers(1, 3), st.sampled_from(LAYOUTS))
def test_non_local_keeps_any_size_and_layout(shape, subsample, layout):
    x = torch.randn(1, 4, *shape).contiguous(memory_format=layout)
    found = NonLocalBlock(4, subsample)(x)
    assert torch.equal(found, x)  # a new block is the identity
    assert found.is_contiguous(memory_format=layout)


def test_non_local_gradients_reach_every_parameter():
    block = make_non_local(4)
    block(torch.randn(2, 4, 3, 4, 5, dtype=torch.float64)).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        if name != "phi.bias":  # shifts a whole row of scores: nothing to the softmax
            assert parameter.grad.abs().sum() > 1e-6, name
