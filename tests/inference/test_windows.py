from __future__ import annotations

from math import exp

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor

from rsaseg.errors import InputError
from rsaseg.inference.windows import (
    predict_whole,
    predict_windows,
    window_starts,
    window_weight,
)
from rsaseg.networks.attention import RSABlock
from rsaseg.networks.unet import NetworkConfig, RSANet

sizes = st.tuples(*[st.integers(1, 12)] * 3)
windows = st.tuples(*[st.integers(1, 7)] * 3)
overlaps = st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.7])


def counter():
    """A network that fills its first window with 0, the second with 1, and so on."""
    calls = iter(range(1000))
    return lambda x: torch.full_like(x, float(next(calls)))


def context(x: Tensor) -> Tensor:
    """Two classes that depend on a voxel's neighbours and on its place in the window."""
    place = torch.arange(x[0, 0].numel(), dtype=x.dtype).view(x.shape[2:]) % 5
    smooth = x.mean(1, keepdim=True) - x.mean((1, 2, 3, 4), keepdim=True)
    return torch.cat([smooth * place, x[:, :1].cumsum(2).cumsum(4)], 1)


@pytest.mark.parametrize(
    ("size", "window", "overlap", "starts"),
    [
        (4, 4, 0.5, [0]),
        (4, 2, 0.0, [0, 2]),
        (4, 2, 0.5, [0, 1, 2]),
        (5, 2, 0.0, [0, 2, 3]),
        (10, 4, 0.25, [0, 3, 6]),
        (11, 4, 0.25, [0, 3, 6, 7]),
        (3, 1, 0.9, [0, 1, 2]),
    ],
)
def test_windows_start_evenly_and_the_last_one_fits(size, window, overlap, starts):
    assert window_starts(size, window, overlap) == starts


def test_window_weights_by_hand():
    side = exp(-0.5 * (1 / 0.375) ** 2)  # one voxel off the middle of three, sigma 3/8
    weight = window_weight((1, 1, 3), torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(weight.flatten().tolist(), [side, 1.0, side])
    assert window_weight((8, 8, 8), torch.zeros(1))[0, 0, 0] == torch.tensor(1e-3)


def test_windows_side_by_side_fill_their_own_blocks_in_order():
    result = predict_windows(counter(), torch.zeros(1, 4, 4, 4), (2, 2, 2), overlap=0)
    axial, coronal, sagittal = torch.meshgrid(*[torch.arange(4) // 2] * 3, indexing="ij")
    assert torch.equal(result[0], (4 * axial + 2 * coronal + sagittal).float())


def test_each_voxel_of_two_overlapping_windows_by_hand():
    image = torch.zeros(1, 4, 4, 4, dtype=torch.float64)
    result = predict_windows(counter(), image, (4, 4, 3), overlap=0.5)
    side = exp(-0.5 * (1 / 0.375) ** 2)
    row = torch.tensor([0.0, side / (1 + side), 1 / (1 + side), 1.0], dtype=torch.float64)
    middle = result[0, 1:3, 1:3]  # at the window's edges the least weight takes over
    torch.testing.assert_close(middle, row.expand(2, 2, 4))


def test_the_middle_of_three_windows_by_hand():
    result = predict_windows(counter(), torch.zeros(1, 4, 1, 1), (2, 1, 1), overlap=0.5)
    torch.testing.assert_close(result.flatten(), torch.tensor([0.0, 0.5, 1.5, 2.0]))


@settings(max_examples=30, deadline=None)
@given(sizes, windows, overlaps, st.integers(1, 5))
def test_the_identity_network_returns_the_image(size, window, overlap, batch):
    image = torch.rand(2, *size, dtype=torch.float64)
    result = predict_windows(lambda x: x, image, window, overlap, batch)
    torch.testing.assert_close(result, image)


def test_a_constant_stays_constant_everywhere():
    def network(x):
        return torch.stack([torch.full_like(x[:, 0], 3.0), torch.full_like(x[:, 0], -7.0)], 1)

    result = predict_windows(network, torch.rand(3, 9, 10, 11), (4, 5, 6), 0.5)
    torch.testing.assert_close(result[0], torch.full((9, 10, 11), 3.0))
    torch.testing.assert_close(result[1], torch.full((9, 10, 11), -7.0))


@settings(max_examples=60, deadline=None)
@given(sizes, windows, overlaps, st.integers(1, 3))
def test_equals_monai(size, window, overlap, batch):
    image = torch.rand(2, *size, dtype=torch.float64)
    expected = sliding_window_inference(
        image[None], window, batch, context, overlap=overlap, mode="gaussian"
    )[0]
    result = predict_windows(context, image, window, overlap, batch)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-6)  # its weights are float32


def test_a_volume_smaller_than_the_window_is_padded_with_zeros_and_cropped_back():
    seen = []

    def network(x):
        seen.append(x.clone())
        return torch.arange(4 * 4 * 5, dtype=x.dtype).view(1, 1, 4, 4, 5)

    image = torch.rand(1, 2, 3, 5) + 1
    result = predict_windows(network, image, (4, 4, 5))
    padded = torch.zeros(1, 1, 4, 4, 5)
    padded[0, :, 1:3, 0:3] = image
    assert torch.equal(seen[0], padded)
    torch.testing.assert_close(result, network(image)[0, :, 1:3, 0:3])


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    rsanet = RSANet(NetworkConfig(channels=(8, 16, 16))).eval()
    for block in rsanet.modules():
        if isinstance(block, RSABlock):
            torch.nn.init.constant_(block.alpha, 0.3)
    return rsanet


def test_bit_identical_whatever_the_batch(network):
    image = torch.randn(3, 10, 20, 26)
    one = predict_windows(network, image, (8, 16, 16))
    for batch in (2, 3, 8, 100):
        assert torch.equal(predict_windows(network, image, (8, 16, 16), batch=batch), one)


def test_one_window_of_the_volumes_size_is_the_whole_volume(network):
    image = torch.randn(3, 6, 11, 13)
    torch.testing.assert_close(
        predict_windows(network, image, (6, 11, 13)), predict_whole(network, image)
    )
    with torch.no_grad():
        assert torch.equal(predict_whole(network, image), network(image[None])[0])


def test_progress_counts_windows_to_the_last():
    said = []
    predict_windows(
        lambda x: x,
        torch.rand(1, 4, 4, 6),
        (4, 4, 2),
        batch=2,
        progress=lambda *done: said.append(done),
    )
    assert said == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window_vox": (0, 4, 4)}, "window"),
        ({"window_vox": (4, 4)}, "window"),
        ({"overlap": 1.0}, "overlap"),
        ({"overlap": -0.1}, "overlap"),
        ({"overlap": float("nan")}, "overlap"),
        ({"batch": 0}, "batch"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        predict_windows(lambda x: x, torch.rand(1, 4, 4, 4), **{"window_vox": (2, 2, 2), **options})
