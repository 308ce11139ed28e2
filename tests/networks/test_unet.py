from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import interpolate

from rsaseg.networks.attention import RSABlock
from rsaseg.networks.unet import DEFAULT, PAPER, ConvNormReLU, NetworkConfig, RSANet


def tiny(attention="111", **options):
    return RSANet(NetworkConfig(channels=(8, 8, 16), groups=4, attention=attention, **options))


def open_attention(network):
    for block in network.modules():
        if isinstance(block, RSABlock):
            nn.init.constant_(block.alpha, 0.5)
    return network


def test_the_papers_network_has_the_authors_parameter_counts():
    with torch.device("meta"):
        network = RSANet(PAPER)
    blocks = [m for m in network.modules() if isinstance(m, RSABlock)]
    assert len(blocks) == 1
    assert sum(p.numel() for p in network.parameters()) == 24_554_339
    assert sum(p.numel() for p in blocks[0].parameters()) == 787_971


@pytest.mark.parametrize(
    ("attention", "places"),
    [
        ("000", []),
        ("010", ["attend_bottom"]),
        ("101", ["attend_encoder", "attend_decoder"]),
        ("111", ["attend_encoder", "attend_bottom", "attend_decoder"]),
    ],
)
def test_attention_stands_where_the_three_digits_say(attention, places):
    network = tiny(attention)
    assert [n for n, m in network.named_modules() if isinstance(m, RSABlock)] == places
    width = {"attend_encoder": 8, "attend_bottom": 16, "attend_decoder": 8}
    seen = {}
    for name in places:
        network.get_submodule(name).register_forward_hook(
            lambda _, inputs, __, name=name: seen.__setitem__(name, tuple(inputs[0].shape[1:]))
        )
    assert network(torch.zeros(1, 3, 8, 12, 16)).shape == (1, 2, 8, 12, 16)
    sizes = {"attend_encoder": (4, 6, 8), "attend_bottom": (2, 3, 4), "attend_decoder": (4, 6, 8)}
    assert seen == {name: (width[name], *sizes[name]) for name in places}


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 19)] * 3),
    st.sampled_from(["000", "010", "101", "111"]),
    st.integers(0, 2),
    st.sampled_from([(1, 1, 1), (1, 2, 2), (2, 3, 1)]),
    st.booleans(),
)
def test_any_size_from_one_slice_up_keeps_its_size(size, attention, flat_levels, patch, scaled):
    torch.manual_seed(0)
    network = tiny(attention, flat_levels=flat_levels, patch_vox=patch, scaled_attention=scaled)
    with torch.no_grad():
        logits = open_attention(network).eval()(torch.randn(1, 3, *size))
    assert logits.shape == (1, 2, *size)
    assert logits.isfinite().all()


@pytest.mark.parametrize("attention", ["000", "010", "101", "111"])
def test_gradients_reach_every_parameter(attention):
    torch.manual_seed(0)
    network = open_attention(tiny(attention)).double()
    network(torch.randn(2, 3, 8, 12, 10, dtype=torch.float64)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        if name.endswith("key.bias"):  # shifts a whole row of scores: nothing to the softmax
            assert parameter.grad.abs().max() < 1e-6, name
        else:
            assert parameter.grad.abs().sum() > 1e-6, name


def test_new_attention_changes_nothing_until_alpha_moves():
    torch.manual_seed(0)
    with_attention, plain = tiny("111").eval(), tiny("000").eval()
    plain.load_state_dict(with_attention.state_dict(), strict=False)
    x = torch.randn(1, 3, 6, 9, 12)
    with torch.no_grad():
        assert torch.equal(with_attention(x), plain(x))
        assert not torch.allclose(open_attention(with_attention)(x), plain(x))


def test_the_stem_drops_whole_channels_in_training_alone():
    torch.manual_seed(0)
    network = tiny("000", stem_dropout=0.5)
    x = torch.randn(1, 3, 4, 6, 8)
    stem = network.dropout(network.stem(x))
    dropped = (stem == 0).all(dim=(2, 3, 4))
    assert 0 < dropped.sum() < dropped.numel()
    assert not torch.equal(network(x), network(x))
    with torch.no_grad():
        assert torch.equal(network.eval()(x), network(x))


def test_flat_levels_do_not_look_across_slices():
    torch.manual_seed(0)
    network = tiny("000", flat_levels=1)
    x = torch.randn(1, 8, 5, 6, 7)
    other = x.clone()
    other[:, :, 2] += 1
    conv = network.encoder[0][0][0]
    changed = (conv(x) != conv(other)).any(dim=(0, 1, 3, 4))
    assert changed.tolist() == [False, False, True, False, False]


def in_pytorchs_layers(convs: ConvNormReLU, x: Tensor, coarse: Tensor | None = None) -> Tensor:
    """Join, convolve, normalise and cut at 0, one after the other."""
    if coarse is not None:
        x = torch.cat([x, interpolate(coarse, x.shape[2:])], dim=1)
    return nn.Sequential.forward(convs, x)


@pytest.mark.parametrize("size", [(8, 16, 16), (5, 10, 13)])
def test_the_faster_forms_are_pytorchs_layer_by_layer_gradients_too(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    network = open_attention(RSANet(NetworkConfig(channels=(8, 8, 16), groups=0)))
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm3d):
            for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                nn.init.uniform_(value, 0.1, 0.5)
    x = torch.randn(1, 3, *size)
    results = []
    for forward in (ConvNormReLU.forward, in_pytorchs_layers):
        monkeypatch.setattr(ConvNormReLU, "forward", forward)
        network.zero_grad()
        output = network.eval()(x)
        output.square().sum().backward()
        results.append((output, [p.grad for p in network.parameters()]))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert theirs.std() > 0.01
    for one, other in zip(our_gradients, their_gradients, strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm() + 1e-6


@pytest.mark.parametrize("weights", [torch.contiguous_format, torch.channels_last_3d])
def test_every_large_layer_of_the_default_network_keeps_channels_last(
    weights: torch.memory_format,
) -> None:
    """As a file's weights lie in memory, and as those that learn do."""
    network = RSANet(DEFAULT).eval().to(memory_format=weights)
    turned = []
    for name, module in network.named_modules():
        large = isinstance(module, (nn.Conv3d, ConvNormReLU))
        if large and "attend" not in name:
            module.register_forward_hook(
                lambda _, inputs, output, name=name: turned.extend(
                    name
                    for x in (inputs[0], output)
                    if not x.is_contiguous(memory_format=torch.channels_last_3d)
                )
            )
    network(torch.randn(2, 3, 16, 64, 64).contiguous(memory_format=torch.channels_last_3d))
    assert turned == []


@pytest.mark.parametrize("settled", [False, True])
def test_no_gradient_is_copied_for_a_change_in_place(settled: bool) -> None:
    network = RSANet(DEFAULT).train(not settled)
    steps, seen = [network(torch.randn(2, 3, 8, 32, 32)).grad_fn], set()
    while steps:
        step = steps.pop()
        if step is not None and step not in seen:
            seen.add(step)
            steps += [before for before, _ in step.next_functions]
    names = {type(step).__name__ for step in seen}
    assert "ConvolutionBackward0" in names
    assert "CopySlices" not in names


@pytest.mark.parametrize("groups", [0, 4])
def test_the_same_bits_by_one_thread_and_by_two(groups: int) -> None:
    torch.manual_seed(0)
    network = RSANet(NetworkConfig(channels=(8, 8, 16), groups=groups, patch_vox=(1, 2, 2))).eval()
    x = torch.randn(1, 3, 24, 96, 80).contiguous(memory_format=torch.channels_last_3d)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            results.append(network(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
