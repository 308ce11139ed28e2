"""The seven networks and the recipes."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import pytest
import torch

from rsaseg.errors import InputError
from rsaseg.networks.attention import NonLocalBlock, RSABlock
from rsaseg.networks.shipped import DEFAULT_WEIGHTS, find_weights
from rsaseg.networks.unet import DEFAULT, MODELS, NetworkConfig, RSANet, name_model
from rsaseg.networks.weights import load_weights
from rsaseg.preprocessing import InputSpec
from rsaseg.training.memory import check_memory, free_bytes, step_bytes
from rsaseg.training.recipe import RECIPES, Recipe, check_batch, make_recipe

PLACES = {
    "000": [],
    "010": ["attend_bottom"],
    "101": ["attend_encoder", "attend_decoder"],
    "111": ["attend_encoder", "attend_bottom", "attend_decoder"],
}
TINY = NetworkConfig(channels=(8, 8, 16))


@pytest.mark.parametrize("model", MODELS)
def test_each_model_has_its_block_at_its_places_and_learns(model: str) -> None:
    torch.manual_seed(0)
    network = RSANet(name_model(model, TINY))
    kind, places = {"u": (None, "000"), "n": (NonLocalBlock, 0), "r": (RSABlock, 0)}[model[0]]
    found = [n for n, m in network.named_modules() if isinstance(m, NonLocalBlock | RSABlock)]
    assert found == PLACES[places or model[-3:]]
    assert all(type(network.get_submodule(name)) is kind for name in found)
    logits = network(torch.randn(1, 3, 4, 8, 12))
    assert logits.shape == (1, 2, 4, 8, 12)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_there_are_the_seven_of_table_1() -> None:
    assert set(MODELS) == {
        *("unet", "ncl-010", "ncl-101", "ncl-111", "rsa-010", "rsa-101", "rsa-111")
    }
    assert name_model("rsa-111", DEFAULT) == DEFAULT
    with pytest.raises(InputError, match="unknown; choose one of unet"):
        name_model("rsa-000", DEFAULT)


def test_the_papers_recipe_is_section_3_1() -> None:
    recipe = make_recipe("paper", "ncl-101")
    assert (recipe.network.block, recipe.network.attention) == ("ncl", "101")
    assert recipe.network.channels == (32, 64, 128, 256, 512)
    assert (recipe.steps, recipe.batch, recipe.optimizer) == (800, 4, "adam")
    assert (recipe.learning_rate, recipe.weight_decay) == (1e-3, 1e-5)
    assert {recipe.rate(step) for step in range(800)} == {1e-3}
    assert recipe.clip_norm == math.inf
    varied = asdict(recipe.augmentation)
    assert (varied.pop("mirror"), varied.pop("thickened")) == (False, 1)  # always as in use
    assert not any(varied.values())


def test_the_default_recipe_is_that_of_the_shipped_weights() -> None:
    assert make_recipe() == RECIPES["default"]
    look = load_weights(find_weights(DEFAULT_WEIGHTS))[1]  # in finer voxels
    info = load_weights(find_weights(look.partner))[1]
    assert look.network == info.network == Recipe().network
    assert look.window_vox == info.window_vox == Recipe().crop_vox
    assert info.input == InputSpec()


def test_options_change_a_recipe_and_nonsense_is_refused() -> None:
    recipe = make_recipe(model="unet", steps=7, batch=None, crop_vox=(8, 16, 16))
    assert recipe == replace(
        RECIPES["default"], steps=7, crop_vox=(8, 16, 16), network=replace(DEFAULT, attention="000")
    )
    for wrong in ({"learning_rate": 0.0}, {"crop_vox": (0, 8, 8)}, {"batch": 0}):
        with pytest.raises(InputError, match="numbers over 0"):
            make_recipe(**wrong)
    with pytest.raises(InputError, match="unknown; choose one of default, finish, again, paper"):
        make_recipe("best")


@pytest.mark.parametrize("bfloat16", [False, True])
def test_what_a_step_takes_is_what_a_pass_keeps_of_the_real_crop(bfloat16: bool) -> None:
    recipe = Recipe(crop_vox=(32, 64, 96))
    network = RSANet(recipe.network)
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address comes twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=bfloat16),
    ):
        network(torch.zeros(1, 3, *recipe.crop_vox))
    weights = sum(p.numel() for p in network.parameters()) * 4
    of_weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    features = sum(one.nbytes() for place, one in kept.items() if place not in of_weights)
    if bfloat16:
        features -= weights // 2  # their copies in bfloat16: they do not grow with the crop
    assert step_bytes(recipe, 1, bfloat16) - 5 * weights == pytest.approx(features, rel=0.06)


def test_a_step_that_cannot_fit_is_refused_with_both_figures() -> None:
    recipe = Recipe(network=TINY, crop_vox=(32, 64, 64))
    one = step_bytes(recipe, 1)
    features = 32 * 64 * 64 * 8 * 4  # one feature map of the top level; a dozen are kept
    assert 8 * features < one < 40 * features
    assert 1.9 < step_bytes(recipe, 2) / one < 2
    cpu = torch.device("cpu")
    check_memory(recipe, 1, cpu)
    if free_bytes(cpu) is not None:
        with pytest.raises(InputError, match=r"GiB, .* GiB are free; lower --batch"):
            check_memory(replace(recipe, crop_vox=(3200, 6400, 6400)), 1, cpu)


@pytest.mark.parametrize("crop_vox", [(8, 16, 16), (1, 1, 1), (9, 16, 16), (8, 16, 17)])
@pytest.mark.parametrize(("batch", "processes"), [(1, 1), (2, 2), (2, 1)])
def test_a_batch_is_refused_where_batch_normalisation_cannot_learn_from_it(
    crop_vox: tuple[int, int, int], batch: int, processes: int
) -> None:
    recipe = Recipe(network=replace(DEFAULT, channels=(8, 8, 8, 8)), batch=batch, crop_vox=crop_vox)
    learns = torch.zeros(batch // processes, 3, *crop_vox)
    if len(learns) > 1 or max(crop_vox[0] - 8, crop_vox[2] - 16) > 0:
        check_batch(recipe, processes)
        RSANet(recipe.network)(learns)
        return
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        RSANet(recipe.network)(learns)
    with pytest.raises(InputError, match=r"batch normalisation .* choose a larger --crop or --ba"):
        check_batch(recipe, processes)
    check_batch(replace(recipe, network=replace(recipe.network, groups=8)), processes)


def test_a_batch_that_cannot_be_dealt_is_refused() -> None:
    with pytest.raises(InputError, match="batch of 3 cannot be dealt to 2 processes"):
        check_batch(Recipe(batch=3), 2)
