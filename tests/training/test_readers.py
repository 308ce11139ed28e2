"""What a reader marks more than the network: measured, and told apart while it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.special import expit, logit
from test_fit import CPU, SMALL, losses, make_cases

from rsaseg.networks.unet import RSANet
from rsaseg.training.cases import CaseFiles
from rsaseg.training.loader import draw_batch
from rsaseg.training.loop import fit
from rsaseg.training.losses import dice_cross_entropy
from rsaseg.training.readers import centre_offsets, note_readers, reader_offset


def exam(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a smooth head with few lesions, and a reader who draws them with some will."""
    rng = np.random.default_rng(seed)
    z = 30 * gaussian_filter(rng.standard_normal((24, 24, 12)), 2) - 2
    return z, z + rng.normal(0, 0.5, z.shape) > 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(-1.5, 1.5))
def test_a_network_that_says_less_is_so_much_behind_its_reader(seed: int, less: float) -> None:
    z, truth = exam(seed)
    here, there = (reader_offset(expit(z - off), truth) for off in (0, less))
    assert there - here == pytest.approx(less, abs=0.11)  # steps of 0.1


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_best_of_all_offsets_by_the_slow_way(seed: int) -> None:
    z, truth = exam(seed)
    p = expit(z - 0.7)
    shifted = [expit(logit(p) + b) for b in np.arange(-3, 3.01, 0.1)]
    scores = [2 * (q * truth).sum() / ((q * q).sum() + truth.sum()) for q in shifted]
    best = np.arange(-3, 3.01, 0.1)[np.argmax(scores)]
    assert reader_offset(p.astype(np.float16), truth) == pytest.approx(best, abs=0.11)
    assert abs(best) > 0.3  # else anything would do


def test_a_reader_who_marks_nothing_tells_nothing() -> None:
    z, truth = exam(0)
    assert reader_offset(expit(z), np.zeros_like(truth)) == 0


def test_what_holds_for_every_patient_is_no_readers_way() -> None:
    offsets = {"a-t1": -3.0, "a-t2": -2.5, "a-t3": -2.0, "b": -2.0, "c": 0.5}
    cases = [CaseFiles(name, {}, Path()) for name in offsets]
    centred = centre_offsets(offsets, cases)  # the patients' means are -2.5, -2 and 0.5
    assert centred == {"a-t1": -1.0, "a-t2": -0.5, "a-t3": 0.0, "b": 0.0, "c": 2.5}
    assert [note.split(" than")[0] for note in note_readers(centred)] == [
        "a-t1: its mask takes in much less",
        "c: its mask takes in much more",
    ]
    assert centre_offsets({}, []) == {}


@pytest.mark.parametrize("offset", [0.0, 1.5])
def test_the_network_learns_from_a_mask_less_its_readers_offset(
    tmp_path: Path, offset: float
) -> None:
    recipe = replace(SMALL, steps=1, network=replace(SMALL.network, stem_dropout=0.0))
    cases = [replace(case, offset=offset * i) for i, case in enumerate(make_cases())]
    images, lesions, names = next(
        batch
        for seed in range(20)
        if len(set((batch := draw_batch(recipe := replace(recipe, seed=seed), cases, 0))[2])) == 2
    )
    torch.manual_seed(recipe.seed)
    logits = RSANet(recipe.network)(images).detach()
    logits[names.index("c2"), 1] += offset
    fit(recipe, cases, tmp_path, CPU)
    expected = float(dice_cross_entropy(logits, lesions))
    assert float(losses(tmp_path)[0]) == pytest.approx(expected, abs=1e-5)
