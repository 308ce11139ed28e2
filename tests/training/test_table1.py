"""The benchmark of the paper's Table 1: a stopped run goes on, and the figures are right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from crude_exams import write_cases

from rsaseg.errors import InputError
from rsaseg.training.cases import Variant

MODELS = "rsa-111,ncl-010,unet"


@pytest.fixture(scope="module")
def table1(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("table1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    names = ("anna-t1", "anna-t2", "boris", "ewa")
    return write_cases(tmp_path_factory.mktemp("data"), names, (1.0, 1.0, 3.0))


def arguments(results: Path, data: Path, *more: str) -> list[str]:
    budget = f"--models {MODELS} --channels 8,16 --steps 2 --crop 8,32,32 --splits 1"
    split = "--train-size 1 --near-lesion 0.5 --own-threshold --device cpu"
    return [str(results), "--data", str(data), *budget.split(), *split.split(), *more]


@pytest.fixture(scope="module")
def results(
    table1: ModuleType, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """A run stopped in its second job and taken up again; the jobs that each call trained."""
    folder, trained, fit = tmp_path_factory.mktemp("results"), [], table1.fit

    def fit_unless(recipe, cases, place, device):
        trained.append(place.name)
        if trained == ["rsa-111", "ncl-010"]:
            raise KeyboardInterrupt
        return fit(recipe, cases, place, device)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table1, "fit", fit_unless)
        with pytest.raises(KeyboardInterrupt):
            table1.run(table1.read_options(arguments(folder, data)))
        first = (folder / "split-0/rsa-111.json").read_bytes()
        table1.run(table1.read_options(arguments(folder, data)))
    assert (folder / "split-0/rsa-111.json").read_bytes() == first
    return folder, trained


def test_a_stopped_run_does_no_finished_job_again(results: tuple[Path, list[str]]) -> None:
    assert results[1] == ["rsa-111", "ncl-010", "ncl-010", "unet"]


def test_all_networks_are_tested_on_the_patients_they_did_not_see(
    results: tuple[Path, list[str]],
) -> None:
    jobs = [json.loads(path.read_text()) for path in sorted(results[0].glob("split-0/*.json"))]
    assert len(jobs) == 3
    for job in jobs:
        tested = [case["case"] for case in job["cases"]]
        assert tested == jobs[0]["settings"]["test"]
        patients = {name.split("-")[0] for name in job["settings"]["cases"]}
        assert len(patients) == 1
        assert patients.isdisjoint(name.split("-")[0] for name in tested)
        assert {*job["settings"]["cases"], *tested} == {"anna-t1", "anna-t2", "boris", "ewa"}


def test_another_budget_is_not_mixed_in(
    table1: ModuleType, results: tuple[Path, list[str]], data: Path
) -> None:
    with pytest.raises(InputError, match=r"rsa-111\.json: of another budget"):
        table1.run(table1.read_options(arguments(results[0], data, "--steps", "3")))


def test_the_threshold_is_the_best_on_what_was_learned(table1: ModuleType) -> None:
    lesion = np.zeros((8, 16, 16), np.float16)
    lesion[:, 4:8] = 1
    image = np.stack([np.where(lesion, -0.9, -1.3).astype(np.float16)] * 3)  # p 0.29 and 0.21
    case = table1.CachedCase("a", "a", [Variant(image, lesion)])
    recipe = table1.make_recipe(crop_vox=(8, 16, 16))

    class Answer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([torch.zeros_like(x[:, 0]), x[:, 0]], dim=1)

    chosen = table1.own_threshold(Answer(), [case], recipe, torch.device("cpu"))
    assert chosen == 0.25


def test_the_four_columns(table1: ModuleType) -> None:
    overlaps = [table1.Overlap(1, 1, 0), table1.Overlap(9, 0, 2)]
    assert table1.four_columns(overlaps) == pytest.approx(
        (100 * (2 / 3 + 0.9) / 2, 100 * 20 / 23, 100 * (1 / 2 + 9 / 11) / 2, 100 * 10 / 13)
    )


def test_the_table_has_mean_spread_and_the_papers_figure(
    table1: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    table1.print_table({"unet": [(60.0, 1.0, 2.0, 3.0), (70.0, 1.0, 2.0, 3.0)]})
    assert "| unet | 65.0 ± 5.0 (64.0) | 1.0 ± 0.0 (69.6) |" in capsys.readouterr().out


def test_the_picture_marks_what_the_masks_mark(table1: ModuleType, data: Path) -> None:
    case = table1.find_cases([data])[0]
    flair = table1.read_volume(case.sequences["FLAIR"])
    truth, _ = table1.read_mask(case.lesion)
    _, k = table1.fullest_slice([case])
    assert k == truth.sum(axis=(0, 1)).argmax()
    pixels = table1.paint(flair, [truth, np.zeros_like(truth)], k).astype(int)
    left, right = np.split(pixels, 2, axis=1)
    red = left[..., 0] > left[..., 1] + 60
    assert red.sum() == 4 * truth[:, :, k].sum()  # twice as many rows and columns
    assert np.array_equal(right[..., 0], right[..., 1])
    assert np.array_equal(left[~red], right[~red])


def test_a_run_draws_a_patient_and_the_phantom(
    table1: ModuleType, results: tuple[Path, list[str]]
) -> None:
    shown = {"figure5.png": 0, "figure5-phantom.png": 0}
    for name in shown:
        content = (results[0] / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        shown[name] = len(content)
    kept = {path.name for path in (results[0] / "split-0/unet").glob("*.npy")}
    assert "phantom.npy" in kept
    assert shown["figure5.png"] != shown["figure5-phantom.png"]
