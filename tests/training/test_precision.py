from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rsaseg.networks.unet import NetworkConfig, RSANet
from rsaseg.training.losses import dice_cross_entropy
from rsaseg.training.precision import takes_bfloat16
from rsaseg.training.recipe import Recipe

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("has", "expected"),
    [({"amx_bf16": True}, True), ({"avx512_bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_a_cpu_takes_it_where_it_multiplies_it_itself(monkeypatch, has, expected) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert takes_bfloat16(Recipe(), CPU) is expected
    assert takes_bfloat16(Recipe(), torch.device("cuda"))
    assert not takes_bfloat16(Recipe(), torch.device("mps"))


@pytest.mark.parametrize(
    ("depth", "expected"), [(32, True), (25, True), (24, True), (16, False), (9, False), (8, False)]
)
def test_no_level_is_two_slices_deep(monkeypatch, depth, expected) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert takes_bfloat16(replace(Recipe(), crop_vox=(depth, 64, 64)), CPU) is expected


@pytest.mark.parametrize("depth", [3, 4, 5, 6, 8, 12, 24, 32])
def test_where_it_is_taken_the_gradients_are_those_of_float32(depth: int) -> None:
    small = NetworkConfig(channels=(8, 16), groups=0)
    recipe = Recipe(network=small, crop_vox=(depth, 16, 16))
    if not takes_bfloat16(recipe, CPU):
        pytest.skip("this CPU does not multiply bfloat16, or the crop is not for it")
    torch.manual_seed(0)
    network = RSANet(small).to(memory_format=torch.channels_last_3d).eval()  # no batch statistics
    lesion = torch.zeros(2, depth, 16, 16)
    lesion[:, 1:3, 4:9, 4:9] = 1
    image = 0.3 * torch.randn(2, 3, depth, 16, 16) + 2 * lesion[:, None]

    def gradients(bfloat16: bool) -> list[torch.Tensor]:
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = network(image.contiguous(memory_format=torch.channels_last_3d)).float()
        dice_cross_entropy(logits, lesion).backward()
        kernels = [p for p in network.encoder.parameters() if p.dim() == 5]
        return [p.grad.clone() for p in kernels]

    for exact, rounded in zip(gradients(False), gradients(True), strict=True):
        assert (rounded - exact).norm() < 0.2 * exact.norm()
