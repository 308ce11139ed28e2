"""The loop: it learns, and a killed run goes on to the very same losses."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rsaseg.errors import InputError, RsasegError
from rsaseg.networks.unet import NetworkConfig
from rsaseg.training.cases import CachedCase, Variant
from rsaseg.training.checkpoint import read_run
from rsaseg.training.loader import draw_batch, draw_batches
from rsaseg.training.loop import fit, settle, update_average
from rsaseg.training.recipe import Recipe
from rsaseg.training.stop import StoppedError

SMALL = Recipe(
    network=NetworkConfig(
        channels=(8, 16), attention="111", stem_dropout=0.2, scaled_attention=True
    ),
    steps=12,
    batch=2,
    crop_vox=(4, 16, 16),
    warmup=2,
    learning_rate=5e-3,
    checkpoint_every=3,
)
CPU = torch.device("cpu")


def make_cases() -> list[CachedCase]:
    """Two cases with a bright cube on noise."""
    cases = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        lesion = np.zeros((8, 24, 24), np.float16)
        lesion[2:6, 6 * seed : 6 * seed + 6, 8:16] = 1
        image = rng.normal(0, 0.3, (3, *lesion.shape)) + 3 * lesion
        variants = [Variant(image.astype(np.float16), lesion)]
        cases.append(CachedCase(f"c{seed}", f"c{seed}", variants))
    return cases


def losses(folder: Path) -> list[str]:
    with (folder / "log.csv").open(newline="") as file:
        return [row["loss"] for row in csv.DictReader(file)]


def test_it_learns(tmp_path: Path) -> None:
    recipe = replace(SMALL, steps=60)
    network = fit(recipe, make_cases(), tmp_path, CPU)
    values = [float(v) for v in losses(tmp_path)]
    assert np.mean(values[-10:]) < 0.5 * np.mean(values[:5])
    images, lesion, _ = draw_batch(recipe, make_cases(), 1000)
    with torch.no_grad():
        p = network(images).softmax(1)[:, 1]
    assert p[lesion > 0.5].mean() > p[lesion < 0.5].mean() + 0.3


def test_a_run_killed_at_any_moment_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    whole = fit(SMALL, make_cases(), tmp_path / "whole", CPU)
    script = (
        "import sys, torch; sys.path.insert(0, sys.argv[2])\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"
        "from pathlib import Path; from test_fit import SMALL, make_cases, fit\n"
        "fit(SMALL, make_cases(), Path(sys.argv[1]), torch.device('cpu'),"
        " lambda done, *_: print(done, flush=True))\n"
    )
    arguments = [str(tmp_path / "killed"), str(Path(__file__).parent), str(torch.get_num_threads())]
    rng = np.random.default_rng()
    for stop_after in (*sorted(rng.choice(11, 2, replace=False) + 1), None):
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for line in process.stdout:
            if stop_after is not None and int(line) >= stop_after:
                time.sleep(float(rng.uniform(0, 0.05)))
                os.kill(process.pid, signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait() == (0 if stop_after is None else -signal.SIGKILL) or stop_after
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    again = fit(SMALL, make_cases(), tmp_path / "killed", CPU)  # nothing left to do
    for a, b in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not list((tmp_path / "killed").glob("*.part.*"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Losses of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    fit(SMALL, make_cases(), folder, CPU)
    return losses(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_polite_signal_costs_no_step(
    number: signal.Signals, whole: list[str], tmp_path: Path
) -> None:
    def stop(done: int, *_: float) -> None:
        if done == 4:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match="stopped after step 5 of 12") as stopped:
        fit(SMALL, make_cases(), tmp_path, CPU, stop)
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    assert losses(tmp_path) == whole[:5]
    fit(SMALL, make_cases(), tmp_path, CPU)
    assert losses(tmp_path) == whole


def test_a_full_disk_keeps_the_checkpoint_before(whole: list[str], tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.safetensors"
    kept: list[bytes] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(done: int, *_: float) -> None:
        if done == 4:
            kept.append(checkpoint.read_bytes())
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))

    try:
        with pytest.raises(RsasegError, match=r"checkpoint.safetensors: cannot be written"):
            fit(SMALL, make_cases(), tmp_path, CPU, fill)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert kept == [checkpoint.read_bytes()]
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.safetensors", "log.csv"}
    fit(SMALL, make_cases(), tmp_path, CPU)
    assert losses(tmp_path) == whole


def test_a_checkpoint_of_an_older_version_goes_on(tmp_path: Path) -> None:
    recipe = replace(SMALL, optimizer="adamw")
    fit(recipe, make_cases(), tmp_path / "whole", CPU)

    class EnoughError(Exception):
        pass

    def stop(done: int, *_: float) -> None:
        if done == 4:
            raise EnoughError

    with pytest.raises(EnoughError):
        fit(recipe, make_cases(), tmp_path, CPU, stop)
    path = tmp_path / "checkpoint.safetensors"
    run = json.loads(read_run(path))
    for name in ("loss", "optimizer", "rate_power", "start", "settled"):
        del run["recipe"][name]
    for name in ("mirror", "near_lesion", "transplant", "fade"):
        del run["recipe"]["augmentation"][name]
    del run["recipe"]["network"]["block"]
    save_file(load_file(path), path, {"run": json.dumps(run)})
    rows = [line.split(",")[:5] for line in (tmp_path / "log.csv").read_text().splitlines()]
    (tmp_path / "log.csv").write_text("\n".join(map(",".join, rows)) + "\n")
    fit(recipe, make_cases(), tmp_path, CPU)
    assert losses(tmp_path) == losses(tmp_path / "whole")
    with pytest.raises(InputError, match=r"not the same optimizer"):
        fit(SMALL, make_cases(), tmp_path, CPU)
    run["recipe"]["loss"] = "another"
    save_file(load_file(path), path, {"run": json.dumps(run)})
    with pytest.raises(InputError, match=r"not the same loss"):
        fit(recipe, make_cases(), tmp_path, CPU)


def test_fine_tuning_starts_from_the_weights_and_is_a_run_of_its_own(tmp_path: Path) -> None:
    tune = replace(SMALL, steps=1, learning_rate=1e-9, averaging=0)
    start = fit(replace(SMALL, steps=4), make_cases(), tmp_path / "first", CPU).state_dict()
    tuned = fit(tune, make_cases(), tmp_path / "second", CPU, start=start).state_dict()
    for name, value in start.items():
        assert torch.allclose(tuned[name], value, atol=1e-6), name
    with pytest.raises(InputError, match="not the same start"):
        fit(tune, make_cases(), tmp_path / "second", CPU)


def test_cases_held_out_are_scored_and_change_nothing(whole: list[str], tmp_path: Path) -> None:
    fit(SMALL, make_cases(), tmp_path, CPU, held_out=make_cases()[:1])
    assert losses(tmp_path) == whole
    with (tmp_path / "log.csv").open(newline="") as file:
        told = [row["held_out_dice"] for row in csv.DictReader(file)]
    assert [bool(value) for value in told] == [False, False, True] * 4
    assert all(0 <= float(value) <= 1 for value in told if value)


@pytest.mark.parametrize("ahead", [0, 2])
def test_batches_drawn_side_by_side_or_ahead_are_the_ones_drawn_in_turn(ahead: int) -> None:
    cases = make_cases()
    threads = torch.get_num_threads()
    batches = list(draw_batches(SMALL, cases, 9, ahead))
    assert torch.get_num_threads() == threads
    assert [batch.step for batch in batches] == [9, 10, 11]
    for batch in batches:
        images, lesions, names = draw_batch(SMALL, cases, batch.step)
        assert torch.equal(batch.images, images)
        assert torch.equal(batch.lesions, lesions)
        assert batch.names == names


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_batch_is_drawn_when_its_turn_has_come_or_so_far_ahead(
    ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops by number, two a step; each by a thread that leaves the network's alone."""
    drawn, threads = [], set()

    def draw(*given: object) -> tuple[torch.Tensor, torch.Tensor, str]:
        drawn.append(given[-1])
        threads.add(torch.get_num_threads())
        return torch.zeros(1), torch.zeros(1), "c1"

    monkeypatch.setattr("rsaseg.training.loader.draw_crop", draw)
    with closing(draw_batches(SMALL, make_cases(), 4, ahead)) as batches:
        for step in (4, 5, 6):
            next(batches)
            deadline = time.monotonic() + 10
            while len(drawn) < 2 * (step + ahead + 1 - 4) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert sorted(drawn) == list(range(8, 2 * (step + ahead + 1)))
    assert threads == {1}


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    fit(replace(SMALL, steps=1), make_cases(), tmp_path, CPU)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(InputError, match="another recipe"):
        fit(replace(SMALL, steps=1, seed=2), make_cases(), tmp_path, CPU)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_case_that_changed_since_is_refused_and_named(tmp_path: Path) -> None:
    recipe, (first, second) = replace(SMALL, steps=1), make_cases()
    other = replace(second, name="c3", digest="old")
    fit(recipe, [first, second], tmp_path, CPU, held_out=[other])
    path = tmp_path / "checkpoint.safetensors"
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"c2: its images or masks are not those .* began with"):
        fit(recipe, [first, replace(second, digest="new")], tmp_path, CPU)
    with pytest.raises(InputError, match=r"c2: was of c2 when this run began and is of c1"):
        fit(recipe, [first, replace(second, patient="c1")], tmp_path, CPU)
    with pytest.raises(InputError, match=r"c2: its reader's offset was \+0.00 .* is \+0.30"):
        fit(recipe, [first, replace(second, offset=0.3)], tmp_path, CPU)
    both = [replace(first, offset=-0.3), replace(second, digest="new", offset=0.3)]
    with pytest.raises(InputError, match=r"c2: its images or masks"):  # which moved the offsets
        fit(recipe, both, tmp_path, CPU)
    with pytest.raises(InputError, match=r"c3: its images or masks"):
        fit(recipe, [first, second], tmp_path, CPU, held_out=[replace(other, digest="new")])
    assert path.read_bytes() == before
    run = json.loads(read_run(path))
    del run["contents"]  # as earlier versions wrote it
    save_file(load_file(path), path, {"run": json.dumps(run)})
    fit(recipe, [first, replace(second, offset=0.3)], tmp_path, CPU)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint"):
        fit(SMALL, make_cases(), tmp_path, CPU)


def test_a_loss_that_is_no_number_names_the_cases(tmp_path: Path) -> None:
    cases = make_cases()
    for case in cases:
        case.variants[0].image[:] = np.nan
    with pytest.raises(InputError, match=r"c[12]"):
        fit(SMALL, cases, tmp_path, CPU)


def test_rate_rises_then_falls_to_zero() -> None:
    recipe = Recipe(steps=100, warmup=10)
    rates = [recipe.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3 * (1 - 9 / 100) ** 0.9)
    assert rates[-1] < 2e-5
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_average_is_the_weighted_mean() -> None:
    mean, value = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    expected = 0.99 * mean.weight.item() + 0.01 * value.weight.item()
    update_average(mean, value, 0.99, step=10_000)
    assert mean.weight.item() == pytest.approx(expected)


def test_the_average_follows_the_running_figures_too() -> None:
    mean, value = torch.nn.BatchNorm3d(1), torch.nn.BatchNorm3d(1)
    value.running_mean.fill_(5.0)
    update_average(mean, value, 0.99, step=10_000)
    assert mean.running_mean.item() == pytest.approx(0.05)


def test_batch_normalisation_settles_and_resumes(tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(done: int, *_: float) -> None:
        if done == 7:
            raise EnoughError

    batch_norm = replace(SMALL, network=replace(SMALL.network, groups=0), settled=0.5)
    fit(batch_norm, make_cases(), tmp_path / "whole", CPU)
    with pytest.raises(EnoughError):
        fit(batch_norm, make_cases(), tmp_path / "cut", CPU, stop)
    half = load_file(tmp_path / "cut" / "checkpoint.safetensors")
    fit(batch_norm, make_cases(), tmp_path / "cut", CPU)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    end = load_file(tmp_path / "cut" / "checkpoint.safetensors")
    figures = [name for name in end if name.startswith("network.") and "running" in name]
    assert figures
    assert all(torch.equal(half[name], end[name]) for name in figures)  # settled at step 6


def test_settled_layers_treat_a_crop_and_a_whole_alike() -> None:
    layer = torch.nn.Sequential(torch.nn.BatchNorm3d(2))
    layer(torch.randn(2, 2, 4, 4, 4))
    settle(layer)
    whole = torch.randn(1, 2, 4, 4, 8)
    assert torch.allclose(layer(whole)[..., :3], layer(whole[..., :3]), atol=1e-5)
