"""Weights files: they carry everything, and no changed byte goes unseen."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from rsaseg.errors import WeightsError
from rsaseg.lesions import Cut
from rsaseg.networks.shipped import DEFAULT_WEIGHTS, find_weights
from rsaseg.networks.unet import NetworkConfig, RSANet
from rsaseg.networks.weights import (
    WeightsInfo,
    info_from_json,
    info_to_json,
    load_weights,
    save_weights,
)
from rsaseg.preprocessing import InputSpec

INFO = WeightsInfo(
    network=NetworkConfig(channels=(8, 16), patch_vox=(1, 2, 2), flat_levels=1, attention="010"),
    window_vox=(8, 16, 16),
    cut=Cut(0.35, peak=0.5, min_lesion_mm3=9.5),
    version="7",
    training_data=("Somebody et al. 2020", "doi:10.1/2"),
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RSANet]:
    torch.manual_seed(0)
    network = RSANet(INFO.network)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_weights(path, network.state_dict(), INFO)
    return path, network


def test_round_trip_in_half_precision(saved: tuple[Path, RSANet]) -> None:
    path, network = saved
    loaded, info, sha256 = load_weights(path)
    assert asdict(info) == asdict(INFO)
    assert info == INFO
    assert len(sha256) == 64
    assert not loaded.training
    for name, value in network.state_dict().items():
        expected = value.half().float() if value.dim() > 1 else value
        assert torch.equal(loaded.state_dict()[name], expected)
    kernels = [value for value in load_file(path).values() if value.dim() > 1]
    assert kernels
    assert all(value.dtype == torch.float16 for value in kernels)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unseen(saved: tuple[Path, RSANet], where: float, bit: int) -> None:
    content = bytearray(saved[0].read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    changed = saved[0].with_name("changed.safetensors")
    changed.write_bytes(content)
    with pytest.raises(WeightsError, match=r"changed\.safetensors"):
        load_weights(changed)


def test_equal_weights_are_equal_bytes(saved: tuple[Path, RSANet], tmp_path: Path) -> None:
    path, network = saved
    for i in range(8):
        save_weights(tmp_path / f"{i}.safetensors", network.state_dict(), INFO)
        assert (tmp_path / f"{i}.safetensors").read_bytes() == path.read_bytes()


def test_weights_of_another_program_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="not written by rsaseg"):
        load_weights(tmp_path / "other.safetensors")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", {"stem.weight": torch.zeros(2)}, INFO)
    with pytest.raises(WeightsError, match="another version"):
        load_weights(tmp_path / "w.safetensors")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        WeightsError, match=f"best: unknown weights.*-v4, .*-v10, .*{DEFAULT_WEIGHTS}"
    ):
        find_weights("best")


def test_a_folder_of_that_name_hides_no_shipped_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / DEFAULT_WEIGHTS).mkdir()
    (tmp_path / "best").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_weights(DEFAULT_WEIGHTS).is_file()
    with pytest.raises(WeightsError, match="best: unknown weights"):
        find_weights("best")


def test_the_fast_weights_see_an_exam_once() -> None:
    _, info, _ = load_weights(find_weights("rsa111-v19-fast"))
    assert info.input == InputSpec().seen_once()
    assert info.partner == ""


def test_shipped_weights_load() -> None:
    path = find_weights(DEFAULT_WEIGHTS)
    network, info, _ = load_weights(path)
    assert path.stat().st_size < 30e6
    assert info.network.attention == "111"
    assert info.training_data
    assert 0 < info.cut.threshold < 1
    assert network.config == info.network


def test_weights_from_before_the_brains_units_keep_the_heads(saved: tuple[Path, RSANet]) -> None:
    text = json.loads(info_to_json(INFO))
    assert info_from_json(json.dumps(text)).input.normalisation == "brain"
    del text["input"]["normalisation"]
    assert info_from_json(json.dumps(text)).input.normalisation == "head"
    assert info_from_json(json.dumps(text)).input.thin_mm == 1.5
    del text["input"]["thin_mm"]
    assert info_from_json(json.dumps(text)).input.thin_mm == 0
    assert info_from_json(json.dumps(text)).input.mirrored
    del text["input"]["mirrored"]
    assert not info_from_json(json.dumps(text)).input.mirrored
    assert info_from_json(json.dumps(text)).input.t1_spread == 0.36
    del text["input"]["t1_spread"]
    assert info_from_json(json.dumps(text)).input.t1_spread == 0


def test_weights_up_to_version_9_keep_a_cuts_numbers_apart() -> None:
    text = json.loads(info_to_json(INFO))
    cut = text.pop("cut")
    apart = {"threshold": cut["threshold"], "min_lesion_mm3": cut["min_lesion_mm3"]}
    assert info_from_json(json.dumps(text | apart)) == replace(INFO, cut=Cut(0.35, 0.0, 9.5))
    apart["lesion_peak"] = cut["peak"]
    assert info_from_json(json.dumps(text | apart)) == INFO


def test_batch_normalisation_comes_back(tmp_path: Path) -> None:
    info = replace(INFO, network=replace(INFO.network, groups=0))
    network = RSANet(info.network)
    network(torch.randn(2, 3, 8, 16, 16))
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm3d))
    norm.running_var.fill_(140380.0)  # half precision ends at 65504
    save_weights(tmp_path / "w.safetensors", network.state_dict(), info)
    loaded, _, _ = load_weights(tmp_path / "w.safetensors")
    x = torch.randn(1, 3, 8, 16, 16)
    with torch.no_grad():
        assert torch.allclose(loaded(x), network.eval()(x), atol=5e-3)
    for name, value in network.named_buffers():
        assert torch.equal(loaded.get_buffer(name), value)


def test_a_trainings_folder_is_its_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="unknown weights"):
        find_weights(str(tmp_path))
    (tmp_path / "weights.safetensors").touch()
    assert find_weights(str(tmp_path)) == tmp_path / "weights.safetensors"
