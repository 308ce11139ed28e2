"""Training from a folder of cases to weights, card and evaluation, and everything it refuses."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent / "training"))
from crude_exams import make_exam, write_case, write_cases

from rsaseg.errors import InputError
from rsaseg.metrics import dice
from rsaseg.networks.shipped import DEFAULT_WEIGHTS, find_weights
from rsaseg.networks.unet import NetworkConfig
from rsaseg.networks.weights import load_weights
from rsaseg.preprocessing import InputSpec
from rsaseg.progress import untold
from rsaseg.train import TrainingResult, train
from rsaseg.training.cases import DataSetError
from rsaseg.training.checkpoint import read_average
from rsaseg.training.plan import make_plan, read_cases
from rsaseg.training.readers import reader_offset
from rsaseg.training.recipe import Recipe, make_recipe
from rsaseg.training.selection import Choice, OutOfFold, choose_threshold
from rsaseg.training.splits import Validation, write_splits

RECIPE = Recipe(
    network=NetworkConfig(channels=(8, 16), patch_vox=(1, 2, 2)),
    steps=8,
    batch=2,
    crop_vox=(16, 48, 48),
    warmup=1,
    learning_rate=1e-2,
    averaging=0.5,
    checkpoint_every=4,
)
NAMES = ("anna-t1", "anna-t2", "boris", "ewa")
FOLDS = Validation(folds=2)


def contents(folder: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("data"), NAMES, without={"boris": "T2"})


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("training") / "out"


@pytest.fixture(scope="module")
def result(data: Path, output: Path) -> TrainingResult:
    result = train([data], output, RECIPE, FOLDS, "cpu", citation=["Doe 2020"])
    assert result is not None
    return result


def test_weights_carry_what_was_chosen(result: TrainingResult, output: Path) -> None:
    _, info, _ = load_weights(output / "weights.safetensors")
    assert result.choice is not None
    assert info.cut == result.choice.cut
    assert info.contrast_weight == result.choice.contrast_weight
    assert info.network == RECIPE.network
    assert info.window_vox == RECIPE.crop_vox
    assert info.training_data == ("Doe 2020",)
    by_name, without = result.notes
    assert "4 cases of 3 patients by their names, 2 of" in by_name
    assert "boris: without T2" in without


def test_each_case_is_segmented_by_a_network_that_never_saw_its_patient(
    result: TrainingResult, output: Path
) -> None:
    splits = json.loads((output / "splits.json").read_text())["splits"]
    assert sorted(name for split in splits for name in split["test"]) == list(NAMES)
    for split in splits:
        log = (output / split["name"] / "log.csv").read_text()
        assert not any(name in log for name in split["test"])
    assert ("anna-t1" in splits[0]["test"]) == ("anna-t2" in splits[0]["test"])


def test_the_evaluation_is_of_the_masks_on_disk(
    result: TrainingResult, data: Path, output: Path
) -> None:
    evaluation = json.loads((output / "out-of-fold" / "evaluation.json").read_text())
    rows = {row["case"]: row for row in evaluation["cases"]}
    assert set(rows) == set(NAMES)
    found = []
    for name in NAMES:
        mask = nib.load(output / "out-of-fold" / f"{name}.nii.gz")
        truth = nib.load(data / name / "lesion.nii")
        assert np.array_equal(mask.affine, truth.affine)
        found.append(dice(np.asarray(mask.dataobj), np.asarray(truth.dataobj)))
        assert rows[name]["dice"] == pytest.approx(found[-1], abs=1e-6)
    assert result.sample_average_dice == pytest.approx(np.mean(found))
    assert {row["patient"] for row in rows.values()} == {"anna", "boris", "ewa"}


def test_card_and_picture(result: TrainingResult, output: Path) -> None:
    card = (output / "model-card.md").read_text()
    assert "For research use only" in card
    assert "4 cases of 3 patients; 1 without T2" in card
    assert "2-fold cross-validation by patient" in card
    assert "Doe 2020" in card
    assert load_weights(output / "weights.safetensors")[2] in card
    figure = next(line for line in card.splitlines() if line.startswith("| dice |"))
    assert float(figure.split("|")[2]) == pytest.approx(result.sample_average_dice, abs=1e-3)
    assert not any(name in card for name in NAMES)  # folders may be named after people
    picture = ET.fromstring((output / "curves.svg").read_text())
    words = {element.text for element in picture.iter() if element.text}
    assert {"fold-0", "fold-1", "final", "loss", "Dice of crops"} <= words
    assert "## How sure it is" in card
    assert "](calibration.svg)" in card
    kept = [np.load(path).astype(float) for path in output.glob("fold-*/*.npy")]
    voxel_ml = 1e-3 * abs(np.linalg.det(nib.load(next(output.rglob("*.nii.gz"))).affine[:3, :3]))
    surest = sum((p >= 0.9).sum() for p in kept) * voxel_ml
    row = next(line for line in card.splitlines() if line.startswith("| 0.9 to 1.0 |"))
    assert float(row.split("|")[2]) == pytest.approx(surest, abs=0.06)
    assert b"<svg" in (output / "calibration.svg").read_bytes()


def test_the_same_call_again_changes_nothing(
    result: TrainingResult, data: Path, output: Path
) -> None:
    before = contents(output)
    again = train([data], output, RECIPE, FOLDS, "cpu", citation=["Doe 2020"])
    assert again is not None
    assert again.choice == result.choice
    assert contents(output) == before


def test_what_does_not_belong_to_the_folder_is_refused(
    result: TrainingResult, data: Path, output: Path, tmp_path: Path
) -> None:
    before = contents(output)
    for recipe, validation, words in (
        (replace(RECIPE, seed=2), FOLDS, "fold-0.*not the same seed"),
        (RECIPE, Validation(folds=3), "of a run with 2 networks .* now 3"),
        (replace(RECIPE, network=replace(RECIPE.network, block="ncl")), FOLDS, "same network"),
    ):
        with pytest.raises(InputError, match=words):
            train([data], output, recipe, validation, "cpu")
    assert contents(output) == before
    (tmp_path / "weights.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError, match="would be overwritten"):
        train([data], tmp_path, RECIPE, device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


@pytest.mark.parametrize("left_out", ["boris", "anna-t1"])
def test_a_training_does_not_go_on_with_data_that_changed(
    result: TrainingResult, data: Path, output: Path, tmp_path: Path, left_out: str
) -> None:
    shutil.copytree(output, tmp_path / "out")
    shutil.copytree(data, tmp_path / "data")
    mask = tmp_path / "data" / left_out / "lesion.nii"
    image = nib.load(mask)
    changed = np.asarray(image.dataobj).copy()
    changed[tuple(np.argwhere(changed)[0])] = 0
    nib.Nifti1Image(changed, image.affine).to_filename(mask)
    weights = (tmp_path / "out" / "weights.safetensors").read_bytes()
    with pytest.raises(InputError, match=rf"fold-0.*: {left_out}: its images or masks are not"):
        train([tmp_path / "data"], tmp_path / "out", RECIPE, FOLDS, "cpu")
    assert (tmp_path / "out" / "weights.safetensors").read_bytes() == weights
    shutil.copy(data / left_out / "lesion.nii", mask)
    again = train([tmp_path / "data"], tmp_path / "out", RECIPE, FOLDS, "cpu")
    assert again is not None
    assert again.choice == result.choice


def test_every_problem_is_told_before_anything_is_written(data: Path, tmp_path: Path) -> None:
    bad, out = tmp_path / "bad", tmp_path / "out"
    write_case(bad / "a", make_exam(1) | {"lesion": 3 * make_exam(1)["lesion"]})
    write_case(bad / "b", make_exam(2) | {"T1": make_exam(2)["T1"][:-1]})
    (bad / "c").mkdir()
    (bad / "c" / "flair.nii").write_bytes(b"")
    with pytest.raises(DataSetError) as error:
        train([bad, tmp_path / "nowhere"], out, RECIPE, device="cpu")
    told = "\n".join(error.value.problems)
    for words in ("only 0 and 1", "T1 is on", "c: has no lesion", "no such folder"):
        assert words in told
    assert len(error.value.problems) == 4
    assert not out.exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no cases found"):
        train([tmp_path / "empty"], out, RECIPE, device="cpu")
    with pytest.raises(InputError, match="fewer than the crop's"):
        train([data], out, replace(RECIPE, crop_vox=(16, 48, 480)), device="cpu")
    few = replace(RECIPE, network=replace(RECIPE.network, groups=0), batch=1, crop_vox=(2, 4, 4))
    with pytest.raises(InputError, match=r"2x4x4 voxels leave one .* larger --crop or --batch"):
        train([data], out, few, device="cpu")
    with pytest.raises(InputError, match="GiB are free"):
        train([data], out, replace(RECIPE, batch=200_000), device="cpu")
    assert not out.exists()


def test_made_exams_are_learned_from_with_their_patient(
    result: TrainingResult, data: Path, output: Path, tmp_path: Path
) -> None:
    write_case(tmp_path / "made" / "boris-made-01", make_exam(9))
    first, folders = output, [data, tmp_path / "made"]
    for out in (tmp_path / "on", tmp_path / "further"):
        recipe = replace(RECIPE, steps=1, learning_rate=1e-8)
        rarely = replace(recipe.augmentation, rarely=("boris made",))
        recipe = replace(recipe, augmentation=rarely)
        on = train(folders, out, recipe, FOLDS, "cpu", init=str(first))
        assert on is not None
        assert sorted(c.case for c in on.evaluations["folds"].cases) == list(NAMES)
        for split in json.loads((out / "splits.json").read_text())["splits"]:
            assert ("boris-made-01" in split["train"]) == ("boris" not in split["test"])
            assert len(split["train"]) + len(split["test"]) == 4 + ("boris" not in split["test"])
        card = (out / "model-card.md").read_text()
        assert "4 cases of 3 patients; 1 without T2." in card
        assert "Exams made from these patients': 1." in card
        first = out
    with pytest.raises(InputError, match=r"fold-.*learned from other cases"):
        train([data], tmp_path / "x", RECIPE, FOLDS, "cpu", init=str(first))


def test_each_fold_goes_on_from_its_own_fold_of_an_earlier_training(
    result: TrainingResult, data: Path, output: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, steps=1, learning_rate=1e-8)
    on = train([data], tmp_path / "on", recipe, FOLDS, "cpu", init=str(output))
    assert on is not None
    for name in ("fold-0", "fold-1", "final"):
        before, after = (
            read_average(folder / name / "checkpoint.safetensors")
            for folder in (output, tmp_path / "on")
        )
        assert before.keys() == after.keys()
        assert all(np.allclose(before[key], after[key], atol=1e-5) for key in before), name
    with pytest.raises(InputError, match=r"fold-0.*learned from other cases"):
        train([data], tmp_path / "x", recipe, Validation(folds=3), "cpu", init=str(output))
    other = replace(recipe, network=replace(recipe.network, attention="000"))
    with pytest.raises(InputError, match="another network than the one to train"):
        train([data], tmp_path / "x", other, FOLDS, "cpu", init=str(output))
    with pytest.raises(InputError, match="missing; give the folder of a training"):
        train([data], tmp_path / "x", recipe, FOLDS, "cpu", init=str(data))
    rarely = replace(recipe, augmentation=replace(recipe.augmentation, rarely=("eva",)))
    with pytest.raises(InputError, match="eva: to be drawn rarely, but no patient"):
        train([data], tmp_path / "x", rarely, device="cpu")
    assert not (tmp_path / "x").exists()


def test_readers_are_told_apart_by_the_networks_that_never_saw_their_exams(
    result: TrainingResult, data: Path, output: Path, tmp_path: Path
) -> None:
    write_case(tmp_path / "made" / "boris-made-01", make_exam(9))
    folders = [data, tmp_path / "made"]
    earlier = tmp_path / "earlier"
    shutil.copytree(output, earlier)
    faint = next(earlier.glob("fold-*/boris.npy"))
    truth = nib.load(next(data.glob("boris/*lesion*"))).get_fdata() > 0
    np.save(faint, np.where(truth, 0.1, 0.001).astype(np.float16))  # its logit is -2.2
    recipe = replace(RECIPE, readers=0.5)
    plan = make_plan(folders, tmp_path / "on", recipe, FOLDS, str(earlier), untold)
    cases = read_cases(plan)
    measured = {
        name: reader_offset(
            np.load(next(earlier.glob(f"fold-*/{name}.npy"))),
            nib.load(next(data.glob(f"{name}/*lesion*"))).get_fdata() > 0,
        )
        for name in NAMES
    }
    anna = (measured["anna-t1"] + measured["anna-t2"]) / 2
    middle = np.median([anna, measured["boris"], measured["ewa"]])
    for name in NAMES:
        assert cases[name].offset == pytest.approx(0.5 * (measured[name] - middle))
    assert cases["boris"].offset > 0.5
    assert [note for note in plan.notes if note.startswith("boris: its mask takes in much more")]
    assert not [note for note in plan.notes if note.startswith("boris-made-01")]
    assert cases["boris-made-01"].offset == 0
    plain = make_plan(folders, tmp_path / "off", RECIPE, FOLDS, str(earlier), untold)
    assert not plan.starts.keys() - plain.starts.keys()
    assert not plain.offsets
    assert not [note for note in plain.notes if "its mask takes in" in note]
    anew = replace(recipe, anew=True)
    again = make_plan(folders, tmp_path / "again", anew, FOLDS, str(earlier), untold)
    assert (again.starts, again.offsets) == ({}, plan.offsets)
    with pytest.raises(InputError, match=r"weights.safetensors: not a folder; give that of an ear"):
        make_plan(folders, tmp_path / "again", anew, FOLDS, str(result.weights), untold)
    np.save(faint, np.zeros((3, 3, 3), np.float16))
    with pytest.raises(InputError, match=r"boris.npy: not of the shape of .*lesion"):
        make_plan(folders, tmp_path / "on", recipe, FOLDS, str(earlier), untold)
    faint.unlink()
    with pytest.raises(InputError, match=r"boris.npy: missing; let that training come to its end"):
        make_plan(folders, tmp_path / "on", recipe, FOLDS, str(earlier), untold)


@pytest.mark.parametrize("weights", [DEFAULT_WEIGHTS, "rsa111-v17", "rsa111-v13"])
def test_shipped_weights_go_on_in_the_voxels_they_learned_in(
    weights: str, data: Path, tmp_path: Path
) -> None:
    """Some see an exam in finer ones: one look of a network that learned in 1x1x3 mm."""
    recipe, validation = make_recipe("finish"), Validation()
    plan = make_plan([data], tmp_path / "on", recipe, validation, weights, untold)
    assert plan.spec == InputSpec()
    learned = load_weights(find_weights(weights))[0].state_dict()
    assert all(torch.equal(learned[name], one) for name, one in plan.starts["final"].items())


def test_fine_tuning_from_weights_and_random_splits(
    result: TrainingResult, data: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, steps=1, learning_rate=1e-8)
    splits = Validation(splits=2, train_size=2)
    tuned = train([data], tmp_path, recipe, splits, "cpu", init=str(result.weights))
    assert tuned is not None
    first, second = (load_weights(r.weights)[0].state_dict() for r in (result, tuned))
    for name, value in first.items():
        assert np.allclose(value, second[name], atol=1e-3), name
    assert list(tuned.evaluations) == ["split-0", "split-1"]
    table = (tmp_path / "out-of-fold" / "splits.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in table] == [
        *("split", "split-0", "split-1", "mean", "spread")
    ]
    dices = [float(line.split("\t")[1]) for line in table[1:]]
    assert dices[2] == pytest.approx(np.mean(dices[:2]), abs=1e-5)
    card = (tmp_path / "model-card.md").read_text()
    assert "- Started from weights.safetensors.\n" in card
    assert "The table is of the first's masks, cut at probability 0.5 and not as chosen.\n" in card
    other = replace(recipe, network=replace(recipe.network, attention="000"))
    with pytest.raises(InputError, match="weights of another network"):
        train([data], tmp_path / "x", other, device="cpu", init=str(result.weights))


def test_a_case_added_after_the_splits_were_drawn_is_told(
    result: TrainingResult, data: Path, output: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    shutil.copy(output / "splits.json", tmp_path / "out")
    for seed, name in ((8, "zoe"), (9, "boris-made-01")):
        write_case(tmp_path / "more" / name, make_exam(seed))
    folders = [data, tmp_path / "more"]
    plan = make_plan(folders, tmp_path / "out", RECIPE, FOLDS, "", untold)
    told = [note for note in plan.notes if "splits.json" in note]
    assert told == [
        f"zoe: not in {tmp_path / 'out' / 'splits.json'}, which was drawn before; only the final "
        f"network learns from it"
    ]
    assert not any("splits.json" in note for note in result.notes)


def test_another_train_size_than_that_of_the_splits_is_refused(data: Path, tmp_path: Path) -> None:
    splits = Validation(splits=2, train_size=2)
    plan = make_plan([data], tmp_path, RECIPE, splits, "", untold)
    write_splits(tmp_path / "splits.json", plan.splits)
    again = make_plan([data], tmp_path, RECIPE, splits, "", untold)
    assert again.splits == plan.splits
    with pytest.raises(InputError, match=r"splits.json: .* 2 patients .* not 1; give --train-size"):
        make_plan([data], tmp_path, RECIPE, replace(splits, train_size=1), "", untold)


@pytest.mark.parametrize("anew", [True, False])
def test_a_recipe_that_lacks_an_earlier_training_says_so(
    data: Path, tmp_path: Path, anew: bool
) -> None:
    recipe = replace(RECIPE, readers=0.75, anew=anew)
    plan = make_plan([data], tmp_path, recipe, FOLDS, "", untold)
    (told,) = [note for note in plan.notes if "--init FOLDER" in note]
    assert told.startswith("readers were not told apart")
    assert ("random weights" in told) != anew  # which begins with those anyhow


def test_the_card_tells_where_readers_were_told_apart(
    result: TrainingResult,
    data: Path,
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(output)
    recipe = replace(RECIPE, steps=1, learning_rate=1e-8, readers=0.75, anew=True)
    again = train([data], tmp_path, recipe, FOLDS, "cpu", init=".")
    assert again is not None
    assert not [note for note in again.notes if "--init FOLDER" in note]
    card = (tmp_path / "model-card.md").read_text()
    assert (
        "- Started from random weights. Readers were told apart by an earlier training, out."
        in card
    )


def test_cases_left_out_wait_on_disk(
    result: TrainingResult,
    data: Path,
    output: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held: list[int] = []

    def look(*given: Any) -> Choice:
        held.append(sum(type(one) is OutOfFold for one in gc.get_objects()))
        return choose_threshold(*given)

    monkeypatch.setattr("rsaseg.train.choose_threshold", look)
    shutil.copytree(output, tmp_path / "out")
    again = train([data], tmp_path / "out", RECIPE, FOLDS, "cpu", citation=["Doe 2020"])
    assert again is not None
    assert again.choice == result.choice
    assert held == [0]


def test_notes_are_told_before_the_first_step(data: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    recipe = replace(RECIPE, steps=1)
    found = train(
        [data],
        tmp_path / "out",
        recipe,
        device="cpu",
        progress=lambda stage, _, total: told.append((stage, total)),
    )
    assert found is not None
    at = [told.index((f"note: {note}", 0)) for note in found.notes]
    assert at
    assert max(at) < told.index(("final", 1))
