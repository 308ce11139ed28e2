"""Crops: repeatable, in place, with image and lesion turned together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from rsaseg.training.cases import CachedCase, Variant
from rsaseg.training.cut import cut_crop, sample_affine
from rsaseg.training.patches import (
    Augmentation,
    _turn,
    draw_crop,
    transplant,
    vary_cortex,
    vary_grey,
    vary_outside,
)
from rsaseg.training.recipe import PLAIN

STILL = replace(PLAIN, mirror=True, near_lesion=Augmentation.near_lesion, thickened=0)
SPACING_MM = (1.0, 1.0, 3.0)
ALL = np.arange(3)


def make_case(name: str = "a", shape: tuple[int, int, int] = (12, 20, 24)) -> CachedCase:
    """A case whose FLAIR is ten times its lesion, with T1 and T2 noise."""
    rng = np.random.default_rng(len(name))
    lesion = np.zeros(shape, np.float16)
    lesion[4:7, 8:13, 6:10] = 1
    image = np.stack([*rng.uniform(-2, 2, (2, *shape)), 10 * lesion])
    return CachedCase(name, name, [Variant(image.astype(np.float16), lesion)])


def test_an_unturned_crop_is_the_volume_itself() -> None:
    case = make_case().variants[0]
    crop = cut_crop(
        case, ALL, np.array([5.5, 9.5, 11.5]), (4, 8, 8), SPACING_MM, np.eye(3, dtype=np.float32)
    )
    expected = case.image[:, 4:8, 6:14, 8:16].astype(np.float32)
    assert np.allclose(crop[:-1].numpy(), expected, atol=1e-4)
    assert np.allclose(crop[-1].numpy(), case.lesion[4:8, 6:14, 8:16], atol=1e-4)


def test_an_unturned_crop_keeps_the_volumes_voxels_and_fills_what_lies_outside() -> None:
    """The volume has 12 x 20 x 24 voxels; the crop's corner lies at (-2, 14, 20.4)."""
    case = make_case().variants[0]
    case.image[:] -= 1
    centre = np.array([-2, 14, 20.4]) + (np.array((6, 8, 8)) - 1) / 2
    still = np.eye(3, dtype=np.float32)
    crop = cut_crop(case, np.array([0, 2]), centre, (6, 8, 8), SPACING_MM, still)
    seen = case.image[[0, 2], :4, 14:, 20:].astype(np.float32)
    assert torch.equal(crop[:2, 2:, :6, :4], torch.from_numpy(seen))
    for channel, expected in zip(crop[:2], seen, strict=True):
        assert bool((channel[:2] == expected.min()).all())
        assert bool((channel[:, 6:] == expected.min()).all())
    assert not crop[2].any()


@pytest.mark.parametrize("seed", range(4))
def test_acut_crop_is_as_exact_as_scipys_linear_one(seed: int) -> None:
    """The truth is SciPy's cubic spline through a smooth volume."""
    rng = np.random.default_rng(seed)
    volume = gaussian_filter(rng.standard_normal((2, 20, 40, 44)), (0, 2, 3, 3))
    volume[:, [0, -1]] = volume[:, :, [0, -1]] = volume[..., [0, -1]] = 0
    turn = _turn(rng, Augmentation(rotation_deg=40, tilt_deg=12, scale=0.2)).astype(float)
    theta = turn * np.array([1, 1, 3]) / np.array([[1], [1], [2]])
    corner = np.array([22, 20, 9.5]) - theta @ ((np.array([30, 28, 12]) - 1) / 2)
    whd = np.stack(np.meshgrid(*map(np.arange, (30, 28, 12)), indexing="ij"))
    at = np.tensordot(theta, whd, 1) + corner[:, None, None, None]
    dhw = at[::-1].transpose(0, 3, 2, 1)
    linear, true = (
        np.stack([map_coordinates(channel, dhw, order=order) for channel in volume])
        for order in (1, 3)
    )
    found = sample_affine(torch.from_numpy(volume).float(), theta, corner, (12, 28, 30)).numpy()
    assert found.shape == true.shape
    assert np.abs(found - true).mean() < 1.1 * np.abs(linear - true).mean()
    outside = ((dhw < -1) | (dhw > np.array([20, 40, 44])[:, None, None, None])).any(axis=0)
    assert outside.any()
    assert np.abs(found[:, outside]).max() < 1e-6  # a column lies on its own place but for rounding


def test_a_mirrored_crop_is_left_for_right() -> None:
    case = make_case().variants[0]
    mirror = np.diag([-1, 1, 1]).astype(np.float32)
    crop = cut_crop(case, ALL, np.array([5.5, 9.5, 11.5]), (4, 8, 8), SPACING_MM, mirror)
    expected = case.image[:, 4:8, 6:14, 8:16][..., ::-1].astype(np.float32)
    assert np.allclose(crop[:-1].numpy(), expected, atol=1e-4)


def test_a_quarter_turn_about_the_long_axis() -> None:
    case = make_case().variants[0]
    quarter = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], dtype=np.float32)
    crop = cut_crop(case, ALL, np.array([5.5, 9.5, 11.5]), (4, 8, 8), SPACING_MM, quarter)
    straight = case.image[:, 4:8, 6:14, 8:16].astype(np.float32)
    # crop offset (w, h) lies at volume offset (-h, w)
    expected = np.flip(straight.transpose(0, 1, 3, 2), axis=2)
    assert np.allclose(crop[:-1].numpy(), expected, atol=1e-4)


def test_a_crop_has_the_voxel_size_asked_for() -> None:
    case = make_case().variants[0]
    still = np.eye(3, dtype=np.float32)
    centre = np.array([5.5, 9.5, 11.5])
    thick = cut_crop(case, ALL, centre, (4, 8, 8), (1.0, 1.0, 6.0), still)
    # every second slice of the volume; the crop's middle lies between two of its slices
    halfway = (case.image[:, 2:9:2, 6:14, 8:16] + case.image[:, 3:10:2, 6:14, 8:16]) / 2
    assert np.allclose(thick[:-1].numpy(), halfway.astype(np.float32), atol=1e-2)


def test_thin_slices_are_seen_thick_as_often_as_asked() -> None:
    thin, thick = (make_case(shape=(n, 20, 24)).variants[0] for n in (24, 12))
    thin.image[2], thick.image[2] = 1, 2
    case = CachedCase("a", "a", [thick, replace(thin, spacing_mm=(1.0, 1.0, 1.5))])
    for chance in (0.0, 0.3, 1.0):
        augmentation = replace(STILL, thickened=chance)
        crops = [draw_crop([case], (2, 4, 4), augmentation, 0, i)[0][2] for i in range(300)]
        share = np.mean([float(crop.median()) > 1.5 for crop in crops])
        assert share == pytest.approx(chance, abs=0.08)  # three standard deviations


def test_crops_are_repeatable_and_differ() -> None:
    cases = [make_case("a"), make_case("bb")]
    first, lesion, name = draw_crop(cases, (8, 16, 16), Augmentation(), seed=1, number=5)
    again, lesion_again, name_again = draw_crop(
        cases, (8, 16, 16), Augmentation(), seed=1, number=5
    )
    other, _, _ = draw_crop(cases, (8, 16, 16), Augmentation(), seed=1, number=6)
    assert torch.equal(first, again)
    assert torch.equal(lesion, lesion_again)
    assert name == name_again
    assert not torch.equal(first, other)


def test_image_and_lesion_are_turned_together() -> None:
    turned = replace(STILL, rotation_deg=40, tilt_deg=10, scale=0.2)
    for number in range(10):
        image, lesion, _ = draw_crop([make_case()], (8, 16, 16), turned, seed=2, number=number)
        assert torch.allclose(image[2], 10 * lesion, atol=1e-3)


def test_most_crops_hold_a_lesion() -> None:
    case = make_case(shape=(40, 120, 120))
    held = [draw_crop([case], (8, 16, 16), STILL, 0, i)[1].any().item() for i in range(60)]
    assert 0.45 < np.mean(held) < 0.85


def test_patients_are_drawn_alike_but_those_of_whom_less_is_wanted() -> None:
    cases = [make_case(name) for name in ("a", "bb", "ccc")]
    less = replace(STILL, rarely=("bb",))
    for augmentation, expected in ((STILL, (1 / 3, 1 / 3, 1 / 3)), (less, (3 / 7, 1 / 7, 3 / 7))):
        names = [draw_crop(cases, (2, 2, 2), augmentation, 0, i)[2] for i in range(700)]
        shares = [names.count(case.name) / len(names) for case in cases]
        assert np.allclose(shares, expected, atol=0.06)  # three standard deviations


def test_a_volume_smaller_than_the_crop_is_filled_with_its_darkest_value() -> None:
    case = make_case(shape=(8, 16, 12))
    image, lesion, _ = draw_crop([case], (8, 32, 32), STILL, 0, 0)
    assert image.shape == (3, 8, 32, 32)
    darkest = case.variants[0].image.astype(np.float32).min(axis=(1, 2, 3))
    assert np.allclose(image[:, :, 0, 0].amin(dim=1).numpy(), darkest, atol=1e-3)
    assert lesion[:, 0].sum() == 0


@pytest.mark.parametrize("number", range(6))
def test_a_dropped_sequence_is_zero_and_the_flair_stays(number: int) -> None:
    drop = Augmentation(drop=1.0)
    image, _, _ = draw_crop([make_case()], (8, 16, 16), drop, 0, number)
    assert not image[:2].any()
    assert image[2].any()


def test_grey_values_change_but_stay_ordered() -> None:
    ramp = torch.linspace(-2, 3, 64).reshape(1, 4, 4, 4).repeat(3, 1, 1, 1)
    strength = Augmentation(thick=0, grey=1.0)
    varied = [vary_grey(ramp, np.random.default_rng(i), strength) for i in range(20)]
    assert all(torch.isfinite(v).all() for v in varied)
    correlation = [np.corrcoef(v[0].ravel(), ramp[0].ravel())[0, 1] for v in varied]
    assert min(correlation) > 0.9
    assert len({round(float(v.sum()), 3) for v in varied}) == len(varied)


def brain_and_lesion() -> tuple[torch.Tensor, torch.Tensor]:
    """Three sequences and a lesion: brain at 0; a cube of 2, 3 and 1 there, lesion."""
    stack, given = torch.zeros(4, 6, 20, 20), torch.zeros(4, 6, 20, 20)
    stack[:3] = given[:3] = 0.1
    given[:, 2:4, 8:12, 8:12] = torch.tensor([2.0, 3.0, 1.0, 1.0])[:, None, None, None]
    return stack, given


def test_grey_matter_by_t1_is_brighter_or_darker_in_flair_alone() -> None:
    """In T1 white matter lies at 0.4, grey at -0.6 and lesions there too; air at -3."""
    t1 = torch.full((3, 16, 16), 0.4)
    t1[:, :, 8:] = -0.6
    t1[:, :, 14:] = -3
    lesion = torch.zeros(3, 16, 16)
    lesion[1, 4:7, 1:4], t1[1, 4:7, 1:4] = 1, -0.6
    lesion[1, 11:13, 8:10] = 1
    flair = torch.linspace(-1, 1, t1.numel()).reshape(t1.shape)
    channels = torch.stack([t1, -t1, flair])
    rng, gains = np.random.default_rng(0), []
    for _ in range(200):
        varied = vary_cortex(channels.clone(), lesion, rng)
        assert torch.equal(varied[:2], channels[:2])
        more = varied[2] - flair
        grey = more[0, :, 8:14]
        assert float(grey.max() - grey.min()) < 1e-6
        gain = float(grey.mean())
        gains.append(gain)
        assert float(more[:, :, 14:].abs().max()) < 1e-6  # air
        assert float(more[0, :, :8].abs().max()) < 0.1 * abs(gain)  # white matter
        assert float(more[1][lesion[1] > 0].abs().max()) < 1e-6
        ring = more[1, 10:14, 8:11] / gain  # a lesion in the cortex
        assert 0.5 < float(ring.max()) < 0.7
        assert float(ring.min()) == 0
        assert float((more[1, 2:8, 8:14] - gain).abs().max()) < 1e-6
    # between -0.1 and 0.8, by 0.6 to 1 of that at -0.6, wherever grey matter is looked for
    assert -0.1 <= min(gains) < -0.06
    assert 0.65 < max(gains) <= 0.8


def test_grey_matter_varies_where_the_exam_has_t1_seen_or_not() -> None:
    case, without = make_case(shape=(12, 40, 40)), make_case("aa", shape=(12, 40, 40))
    without.variants[0].image[0] = 0
    still = replace(STILL, mirror=False, near_lesion=0)

    def crops(drop: float, cortex: float, case: CachedCase = case) -> list[torch.Tensor]:
        augmentation = replace(still, drop=drop, cortex=cortex)
        return [draw_crop([case], (8, 24, 24), augmentation, 3, n)[0] for n in range(12)]

    for before, after in zip(crops(0.6, 0.0), crops(0.6, 1.0), strict=True):
        assert torch.equal(before[:2], after[:2])
        assert not torch.equal(before[2], after[2])
    unvaried, varied = crops(0.6, 0.0, without), crops(0.6, 1.0, without)
    assert all(torch.equal(*both) for both in zip(unvaried, varied, strict=True))
    seen = [bool(crop[0].any()) for crop in crops(0.6, 1.0)]
    assert len(set(seen)) == 2
    changed = [not torch.equal(*both) for both in zip(crops(0, 0.0), crops(0, 0.5), strict=True)]
    assert len(set(changed)) == 2


def test_outside_the_brain_every_sequence_is_brighter_or_darker_by_one_factor() -> None:
    rng = np.random.default_rng(0)
    channels = torch.from_numpy(rng.uniform(-3, 1, (3, 8, 16, 16)).astype(np.float32))
    brain = torch.zeros(8, 16, 16)
    brain[2:6, 4:12, 4:12] = 1
    factors = []
    for _ in range(20):
        varied = vary_outside(channels.clone(), brain, rng)
        assert torch.equal(varied[:, brain == 1], channels[:, brain == 1])
        assert float(varied.max()) <= 5
        lit = (varied < 4.99) & (channels > -2.9) & (brain == 0)
        for one, before, there in zip(varied, channels, lit, strict=True):
            factor = (one[there] + 3) / (before[there] + 3)  # air is at -3
            assert float(factor.std()) < 1e-3
            factors.append(float(factor.mean()))
    assert 0.5 <= min(factors) < 0.8
    assert 4 < max(factors) <= 6


def test_in_a_turned_crop_of_a_case_with_a_brain_mask_the_brain_stays_as_it_is() -> None:
    case = make_case(shape=(12, 40, 40))
    variant = case.variants[0]
    brain = np.zeros(variant.lesion.shape, np.float16)
    brain[2:10, 10:30, 10:30] = 1
    marked = np.stack([brain * 2 - 1, *variant.image[1:]]).astype(np.float16)  # T1: 1 in it, or -1
    headed = replace(case, variants=[replace(variant, image=marked, brain=brain)])
    turned = replace(STILL, rotation_deg=30, tilt_deg=10, scale=0.1)
    changed = 0
    for number in range(10):
        crops = [
            draw_crop([one], (8, 32, 32), replace(turned, outside=outside), 5, number)[0]
            for one, outside in ((headed, 0.0), (headed, 1.0))
        ]
        plain, varied = crops
        inside, far = plain[0] > 0.999, plain[0] < -0.999
        assert torch.allclose(plain[:, inside], varied[:, inside], atol=0.02)
        changed += bool((plain[0][far] - varied[0][far]).abs().max() > 0.1)
    assert changed > 6
    bare = [
        draw_crop([case], (8, 32, 32), replace(turned, outside=outside), 5, 1)[0]
        for outside in (0.0, 1.0)
    ]
    assert torch.equal(*bare)  # without a brain mask nothing is known of it


def test_a_bend_changes_contrast_and_swaps_no_grey_values() -> None:
    ramp = torch.linspace(-3, 4, 700).reshape(1, 1, 7, 100)
    steps = []
    for number in range(30):
        rng, plain = np.random.default_rng(number), replace(PLAIN, bend=0)
        assert torch.allclose(vary_grey(ramp, rng, plain), ramp, atol=1e-4)
        bent = vary_grey(ramp, np.random.default_rng(number), replace(plain, bend=1))
        assert torch.allclose(bent[..., 0, 0], ramp[..., 0, 0], atol=0.01)  # air stays air
        steps.append(bent.flatten().diff() / ramp.flatten().diff())
    slopes = torch.stack(steps)
    assert 0.5 < slopes.min() < 0.8
    assert 1.2 < slopes.max() < 1.5


def test_transplanted_lesions_keep_their_grey_values_and_nothing_far_changes() -> None:
    stack, given = brain_and_lesion()
    mixed = transplant(stack, given)
    assert torch.allclose(mixed[:, 2:4, 8:12, 8:12], given[:, 2:4, 8:12, 8:12])
    far = torch.ones(20, 20, dtype=torch.bool)
    far[6:14, 6:14] = False  # a voxel of rim, and one of its soft edge
    assert torch.equal(mixed[:, :, far], stack[:, :, far])
    assert torch.equal(mixed[:, :2], stack[:, :2])
    assert torch.equal(mixed[3], given[3])


def test_nothing_is_transplanted_into_what_is_not_brain() -> None:
    stack, given = brain_and_lesion()
    stack[2, 2] = -2.5  # a dark slice, as of a ventricle
    stack[3, 3, 10, 10] = 1  # a lesion of its own
    mixed = transplant(stack, given)
    assert torch.equal(mixed[:, 2], stack[:, 2])
    assert mixed[3, 3, 8:12, 8:12].all()


def test_sequences_missing_on_either_side() -> None:
    bare, donor = make_case("a"), make_case("bb")
    bare.variants[0].lesion[:] = 0
    bare.variants[0].image[2] = 0.01
    always = replace(STILL, transplant=1.0, mirror=False, near_lesion=0)

    def crops_of_bare(first: CachedCase, second: CachedCase) -> list[tuple[torch.Tensor, ...]]:
        crops = [draw_crop([first, second], (12, 20, 24), always, 0, i) for i in range(12)]
        return [(image, lesion) for image, lesion, name in crops if name == "a"]

    def without_t1(case: CachedCase) -> CachedCase:
        (variant,) = case.variants
        image = variant.image.copy()
        image[0] = 0
        return replace(case, variants=[replace(variant, image=image)])

    for image, lesion in crops_of_bare(without_t1(bare), donor):
        assert not image[0].any()
        assert lesion.any()
    for _, lesion in crops_of_bare(bare, without_t1(donor)):
        assert not lesion.any()


def test_crops_get_lesions_of_other_patients_only() -> None:
    bare = make_case("a")
    bare.variants[0].lesion[:] = 0
    bare.variants[0].image[2] = 0.01
    donor = make_case("bb")
    always = replace(STILL, transplant=1.0, mirror=False, near_lesion=0)
    crops = [draw_crop([bare, donor], (12, 20, 24), always, 0, i) for i in range(12)]
    lesions = [lesion for _, lesion, name in crops if name == "a"]
    assert lesions
    given = torch.from_numpy(donor.variants[0].lesion > 0.5)  # drawn crops lie half a voxel off
    assert all(2 * ((one > 0.2) & given).sum() / ((one > 0.2) | given).sum() > 1 for one in lesions)
    alone = [draw_crop([bare], (12, 20, 24), always, 0, i)[1] for i in range(4)]
    assert not any(one.any() for one in alone)


def test_only_lesions_fade() -> None:
    fading = replace(STILL, fade=0.5, mirror=False, near_lesion=0)
    case = make_case()
    image, lesion, _ = draw_crop([case], (12, 20, 24), fading, 0, 3)
    plain, _, _ = draw_crop([case], (12, 20, 24), replace(fading, fade=0), 0, 3)
    inside = lesion > 0.999
    factor = image[2][inside] / plain[2][inside]
    assert 0.5 < factor.min() < 1.5
    assert float(factor.std()) < 1e-3
    assert abs(float(factor.mean()) - 1) > 0.01
    assert torch.allclose(image[:, lesion == 0], plain[:, lesion == 0])
