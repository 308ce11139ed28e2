"""The model card's sentences; its figures are tested where a training makes it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rsaseg.networks.weights import WeightsInfo
from rsaseg.report.card import CardFacts, model_card
from rsaseg.training.recipe import RECIPES

FACTS = CardFacts(
    sha256="abc",
    start="",
    n_cases=4,
    n_patients=3,
    n_made=0,
    missing={},
    lesion_ml=(1.0, 2.0, 3.0),
    tested="",
    choice=None,
    figures=(),
)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipe_is_named(name: str) -> None:
    recipe = replace(RECIPES[name], steps=7, seed=3)
    info = WeightsInfo(network=recipe.network)
    assert f"- Recipe {name}: 7 steps of" in model_card(info, recipe, FACTS).decode()


def test_a_recipe_of_no_name_is_none_of_the_others() -> None:
    recipe = replace(RECIPES["default"], loss="dice-focal")
    info = WeightsInfo(network=recipe.network)
    assert "- A recipe of its own: 1200 steps" in model_card(info, recipe, FACTS).decode()


def test_a_training_of_ones_own_has_the_licence_that_its_owner_chose() -> None:
    recipe = RECIPES["default"]
    card = model_card(WeightsInfo(network=recipe.network), recipe, FACTS).decode()
    assert "licence not chosen." in card
    chosen = WeightsInfo(network=recipe.network, licence="CC0")
    assert "licence CC0." in model_card(chosen, recipe, FACTS).decode()
