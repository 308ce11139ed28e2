"""The judge: what it calls aligned, and what it must not be fooled by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from poses import rigid

from rsaseg.imaging import resample
from rsaseg.phantom import make_phantom
from rsaseg.registration.quality import MAX_RESIDUAL_MM, Quality, judge, sharpness
from rsaseg.registration.simpleitk import Side, core


@pytest.fixture(scope="module")
def head():
    """An exam on one grid, fine enough to see a shift of 3 mm."""
    return make_phantom(seed=7, shape_vox=(72, 88, 56), spacing_mm=(2.6, 2.6, 3.2)).images


def judged(image, flair) -> Quality:
    return judge(Side(image), Side(flair))


def shifted(volume, pose):
    return replace(volume, data=resample(volume.data, volume.grid, volume.grid, pose))


@pytest.mark.parametrize("sequence", ["T1", "T2"])
def test_an_aligned_image_is_good(head, sequence):
    quality = judged(head[sequence], head["FLAIR"])
    assert quality.good
    assert quality.problem() == ""
    assert quality.residual_mm < 0.5


@pytest.mark.parametrize("sequence", ["T1", "T2"])
@pytest.mark.parametrize(
    ("pose", "off_mm"),
    [(rigid((0, 0, 0), (0, 3, 0)), 3.0), (rigid((0, 0, 0), (-2, 0, 2.5)), 3.2),
     (rigid((5, 0, 0), (0, 0, 0)), 6.2), (rigid((0, -4, 3), (0, 0, 0)), 6.0)],
    ids=["3 mm", "oblique 3 mm", "5 degrees", "two turns"],
)  # fmt: skip
def test_a_small_move_is_seen(head, sequence, pose, off_mm):
    quality = judged(shifted(head[sequence], pose), head["FLAIR"])
    assert not quality.good
    assert quality.residual_mm > MAX_RESIDUAL_MM
    assert 0.5 * off_mm < quality.residual_mm < 1.25 * off_mm  # a short descent may stop half-way


def test_what_another_stripping_cut_away_does_not_move_the_rest(head):
    """Skull strippers and short fields of view leave other outlines on T2 than on the FLAIR."""
    data = head["T2"].data.copy()
    data[:, :, -16:] = data[:, :, :10] = data[:14] = 0
    whole, cut, flair = Side(head["T2"]), Side(replace(head["T2"], data=data)), Side(head["FLAIR"])
    assert judge(cut, flair).good
    assert abs(judge(cut, flair).residual_mm - judge(whole, flair).residual_mm) < 0.4
    seen_vox = [sitk.GetArrayFromImage(core(side, flair, np.eye(4))).sum() for side in (whole, cut)]
    assert 0.3 * seen_vox[0] < seen_vox[1] < 0.8 * seen_vox[0]


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_an_empty_image_matches_nothing(head, value):
    blank = replace(head["T1"], data=np.full_like(head["T1"].data, value))
    assert judged(blank, head["FLAIR"]) == Quality(0.0, 0.0)
    assert "does not match" in judged(blank, head["FLAIR"]).problem()


def test_the_same_bits_every_run(head):
    assert judged(head["T1"], head["FLAIR"]) == judged(head["T1"], head["FLAIR"])


def slow_mutual_information(pairs: list[tuple[int, int]]) -> float:
    """By the definition, pair by pair."""
    total = 0.0
    for a, b in set(pairs):
        both = pairs.count((a, b)) / len(pairs)
        one = sum(x == a for x, _ in pairs) / len(pairs)
        other = sum(y == b for _, y in pairs) / len(pairs)
        total += both * np.log(both / (one * other))
    return total


@given(st.integers(0, 2**32 - 1))
def test_sharpness_is_the_share_of_mutual_information_lost(seed):
    """Values 0 to 31 fill their own bins, so the definition can be followed literally."""
    rng = np.random.default_rng(seed)
    fixed = rng.integers(0, 32, (5, 6, 4)).astype(np.float32)
    moving = np.where(rng.random(fixed.shape) < 0.6, 31 - fixed, rng.integers(0, 32, fixed.shape))
    moving = moving.astype(np.float32)
    for image in (fixed, moving):
        image[0, 0, :2] = 0, 31
    inside = rng.random(fixed.shape) < 0.7

    def information(step: tuple[int, int, int]) -> float:
        pairs = []
        for index in np.argwhere(inside):
            there = np.clip(index + step, 0, np.array(fixed.shape) - 1)
            pairs.append((int(moving[tuple(there)]), int(fixed[tuple(index)])))
        return slow_mutual_information(pairs)

    steps = [tuple(int(x) for x in s * 2 * np.eye(3)[a]) for a in range(3) for s in (-1, 1)]
    lost = 1 - np.mean([information(step) for step in steps]) / information((0, 0, 0))
    assert sharpness(moving, fixed, inside) == pytest.approx(lost, abs=1e-9)


def test_a_thing_is_sharp_on_itself_and_noise_is_not():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 40, 40, 40)).astype(np.float32)
    inside = np.ones(one.shape, dtype=bool)
    assert sharpness(one, one, inside) > 0.9
    assert abs(sharpness(one, other, inside)) < 0.2
    assert sharpness(np.zeros_like(one), other, inside) == 0.0
