"""The loop: it learns, and a killed run goes on to the very same losses."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from rsaseg.errors import InputError
from rsaseg.networks.unet import NetworkConfig
from rsaseg.training.cases import CachedCase
from rsaseg.training.loader import draw_batch
from rsaseg.training.loop import fit, update_average
from rsaseg.training.recipe import Recipe

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
        vox = np.argwhere(lesion > 0.5)
        cases.append(
            CachedCase(f"c{seed}", f"c{seed}", [image.astype(np.float16)], [lesion], [vox])
        )
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


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    fit(replace(SMALL, steps=1), make_cases(), tmp_path, CPU)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    with pytest.raises(InputError, match="another recipe"):
        fit(replace(SMALL, steps=1, seed=2), make_cases(), tmp_path, CPU)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a checkpoint"):
        fit(SMALL, make_cases(), tmp_path, CPU)


def test_a_loss_that_is_no_number_names_the_cases(tmp_path: Path) -> None:
    cases = make_cases()
    for case in cases:
        case.images[0][:] = np.nan
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
