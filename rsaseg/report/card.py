"""The model card: what weights are for, what they learned from, and how well they did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsaseg.networks.unet import MODELS
from rsaseg.networks.weights import WeightsInfo
from rsaseg.report.reliability import reliability_markdown
from rsaseg.scoring.calibration import Calibration
from rsaseg.training.recipe import RECIPES, Recipe
from rsaseg.training.selection import Choice


@dataclass(frozen=True)
class Figure:
    """A figure of the evaluation: its name, value and 95 % interval over patients."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CardFacts:
    """What a model card tells beside weights and recipe.

    Attributes
    ----------
    sha256 : str
        Of the weights' content.
    start : str
        Weights or training they went on from; empty if from scratch.
    n_cases, n_patients : int
        Learned from. Names of cases are left out of the card: they may be of patients.
    n_made : int
        Exams made from these patients', learned from as well.
    missing : dict
        Sequence to number of cases without it.
    lesion_ml : tuple of float
        Smallest, middle and largest lesion volume of a case.
    tested : str
        How patients were left out; empty if none were.
    choice : Choice or None
        Threshold and smallest lesion.
    figures : sequence of Figure
        Of cases that the network which segmented them had never seen.
    calibration : Calibration or None
        Of the same predictions.
    readers : str
        Earlier training that told readers apart; empty if they were not.
    """

    sha256: str
    start: str
    n_cases: int
    n_patients: int
    n_made: int
    missing: dict[str, int]
    lesion_ml: tuple[float, float, float]
    tested: str
    choice: Choice | None
    figures: Sequence[Figure]
    calibration: Calibration | None = None
    readers: str = ""


def model_card(info: WeightsInfo, recipe: Recipe, facts: CardFacts) -> bytes:
    """Return the model card as Markdown.

    Its sections follow Mitchell et al. 2019, doi:10.1145/3287560.3287596.
    """
    small, middle, large = facts.lesion_ml
    without = [f"{n} without {name}" for name, n in facts.missing.items() if n]
    told_apart = f" Readers were told apart by an earlier training, {facts.readers}."
    spacing = " x ".join(f"{mm:g}" for mm in info.input.spacing_mm)
    lines = [
        "# Model card",
        "",
        "**For research use only.** Not a medical device; no diagnosis or treatment may rest on "
        "it.",
        "",
        "## What it is",
        "",
        f"- Network: {_model_name(recipe)}, channels {_list(recipe.network.channels)}; "
        f"input {_list(info.input.sequences)} at {spacing} mm.",
        f"- Weights: SHA-256 of the content `{facts.sha256}`; "
        f"licence {info.licence or 'not chosen'}.",
        f"- Started from {facts.start or 'random weights'}.{told_apart if facts.readers else ''}",
        "",
        "## What it learned from",
        "",
        f"- {facts.n_cases} cases of {facts.n_patients} patients"
        f"{'; ' + ', '.join(without) if without else ''}.",
        *([f"- Exams made from these patients': {facts.n_made}."] if facts.n_made else []),
        f"- Lesion volume of a case: {small:.1f} to {large:.1f} ml, median {middle:.1f} ml.",
        *(f"- {citation}" for citation in info.training_data),
        "",
        "## How it was trained",
        "",
        f"- {_recipe_name(recipe)}: {recipe.steps} steps of {recipe.batch} crops of "
        f"{'x'.join(map(str, recipe.crop_vox))} voxels, loss {recipe.loss}, {recipe.optimizer} at "
        f"{recipe.learning_rate:g}, weight decay {recipe.weight_decay:g}, seed {recipe.seed}.",
        "- Loss and Dice over the steps: `curves.svg`.",
        "",
        "## How well it does",
        "",
        *_results(facts),
        "",
        *_certainty(facts.calibration),
        "## Limits",
        "",
        "It knows the scanners, protocols and patients of its training cases and no others. "
        "Compare it with reference masks of your own (`rsaseg evaluate`) before you rely on it.",
        "",
    ]
    return "\n".join(lines).encode()


def _results(facts: CardFacts) -> list[str]:
    if facts.choice is None:
        return [
            "No patient was left out, so nothing is known about patients it has not seen. The "
            "threshold of 0.5 is a convention. Train with `--folds 5` to know more."
        ]
    choice = facts.choice
    told = (
        f"Threshold {choice.cut.threshold:g}, contrast's weight {choice.contrast_weight:g}, "
        f"smallest lesion {choice.cut.min_lesion_mm3:g} mm3 and a lesion's peak "
        f"{choice.cut.peak:g} were chosen on these very predictions (mean Dice "
        f"{choice.dice:.3f}). With threshold and weight of each patient's prediction chosen on the "
        f"other patients the mean Dice is {choice.nested_dice:.3f}, with those for all "
        f"{choice.threshold_dice:.3f}: the difference is the optimism of the choice."
    )
    rows = [f"| {f.name} | {f.value:.3f} | {f.low:.3f} to {f.high:.3f} |" for f in facts.figures]
    table = ["", "| figure | value | 95 % interval |", "| --- | --- | --- |", *rows]
    return [f"Tested on patients left out of training: {facts.tested}.", "", told, *table]


def _certainty(calibration: Calibration | None) -> list[str]:
    if calibration is None:
        return []
    told = "On the same patients left out: what was lesion, of what was said alike."
    picture = "![What was lesion, of what was said alike](calibration.svg)"
    lines = reliability_markdown(calibration)
    return ["## How sure it is", "", told, "", picture, "", *lines, ""]


def _model_name(recipe: Recipe) -> str:
    block, places = recipe.network.block, recipe.network.attention
    if places == "000":
        return "unet"
    return next((name for name, is_ in MODELS.items() if is_ == (block, places)), block)


def _recipe_name(recipe: Recipe) -> str:
    """Return it by what no option changes."""
    for name, known in RECIPES.items():
        marks = ((r.loss, r.optimizer, r.readers, r.anew) for r in (known, recipe))
        if len(set(marks)) == 1:
            return f"Recipe {name}"
    return "A recipe of its own"


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
