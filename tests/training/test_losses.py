"""Losses against their formulas written out voxel by voxel."""

from __future__ import annotations

import math

import pytest
import torch

from rsaseg.training.losses import (
    LOSSES,
    dice_cross_entropy,
    dice_loss,
    exponential_weights,
    small_lesion_weight,
    weighted_cross_entropy,
)


def test_weighted_cross_entropy_is_the_formula() -> None:
    torch.manual_seed(0)
    logits, lesion = torch.randn(2, 2, 2, 3, 2), torch.rand(2, 2, 3, 2)
    weight = 0.7
    total, voxels = 0.0, 0
    for n in range(2):
        for place in ((d, h, w) for d in range(2) for h in range(3) for w in range(2)):
            background, tissue = (float(logits[(n, c, *place)]) for c in (0, 1))
            p = 1 / (1 + math.exp(background - tissue))
            y = float(lesion[(n, *place)])
            total -= weight * y * math.log(p) + (1 - weight) * (1 - y) * math.log(1 - p)
            voxels += 1
    assert float(weighted_cross_entropy(logits, lesion, weight)) == pytest.approx(total / voxels)


def test_dice_loss_of_perfect_and_opposite_masks() -> None:
    lesion = torch.zeros(1, 4, 4, 4)
    lesion[:, 1:3, 1:3, 1:3] = 1
    sure = 40 * (2 * lesion - 1)
    right, wrong = torch.stack([-sure, sure], 1), torch.stack([sure, -sure], 1)
    assert float(dice_loss(right, lesion)) == pytest.approx(0, abs=1e-6)
    # no overlap: (0 + 1) / (56 + 8 + 1) of the smoothed ratio remains
    assert float(dice_loss(wrong, lesion)) == pytest.approx(1 - 1 / 65, abs=1e-6)


def test_dice_loss_pools_the_batch() -> None:
    torch.manual_seed(1)
    logits, lesion = torch.randn(2, 2, 3, 3, 3), (torch.rand(2, 3, 3, 3) > 0.5).float()
    joined = dice_loss(logits.transpose(0, 1).reshape(1, 2, 6, 3, 3), lesion.reshape(1, 6, 3, 3))
    assert float(dice_loss(logits, lesion)) == pytest.approx(float(joined), abs=1e-6)


def test_voxels_of_small_lesions_weigh_more_counted_by_hand() -> None:
    lesion = torch.zeros(1, 7, 24, 24)
    lesion[0, 3, 4, 4] = 1  # alone: 1 of 243 voxels around
    lesion[0, 3, 12:16, 12:17] = 1  # 20 voxels, all within 9 x 9 of its middle: 8.2 %
    lesion[0, 2:5, 18:24, 0:20] = 1  # over 30 % of what is around its middle
    weight = small_lesion_weight(lesion)
    assert float(weight[0, 3, 4, 4]) == pytest.approx(4)
    assert float(weight[0, 3, 13, 14]) == pytest.approx(0.3 / (20 / 243))
    assert float(weight[0, 3, 21, 4]) == pytest.approx(1)
    assert (weight[lesion == 0] == 1).all()
    lesion[0, 3, 4, 4] = 0.5  # half of the voxel
    assert float(small_lesion_weight(lesion)[0, 3, 4, 4]) == pytest.approx(1 + 0.5 * 3)


def test_weighted_voxels_count_as_so_many_voxels() -> None:
    """A voxel of weight 2 is that voxel twice."""
    torch.manual_seed(2)
    logits, lesion = torch.randn(1, 2, 1, 1, 6), torch.rand(1, 1, 1, 6)
    weight = torch.tensor([1.0, 1, 2, 1, 2, 1]).view(1, 1, 1, 6)
    place = torch.tensor([0, 1, 2, 2, 3, 4, 4, 5])
    twice = logits[..., place], lesion[..., place]
    assert float(dice_loss(logits, lesion, weight)) == pytest.approx(float(dice_loss(*twice)))
    expected = dice_loss(*twice) + 2 * weighted_cross_entropy(*twice) * 8 / 6  # a mean of 6
    found = dice_cross_entropy(logits, lesion, weight)
    assert float(found) == pytest.approx(float(expected))


def test_the_papers_weights_are_the_printed_ones() -> None:
    r = 5.15e-4  # the paper's
    rare, common = exponential_weights(r)
    total = math.exp(r) + math.exp(1 - r)
    assert common == pytest.approx(math.exp(r) / total)
    assert rare == pytest.approx(math.exp(1 - r) / total)
    assert rare > 0.73
    torch.manual_seed(3)
    logits, lesion = torch.randn(1, 2, 2, 3, 2), torch.rand(1, 2, 3, 2)
    for name, weight in (("exponential-ce", rare), ("exponential-ce-as-printed", common)):
        expected = weighted_cross_entropy(logits, lesion, weight)
        assert float(LOSSES[name](logits, lesion, r)) == pytest.approx(float(expected))


def test_where_each_weighting_begins_to_say_lesion() -> None:
    """Trained to the end on voxels that are lesion with probability q, by gradient descent."""
    q = torch.linspace(0.05, 0.95, 19)
    for name, begins in (("exponential-ce", 0.27), ("exponential-ce-as-printed", 0.73)):
        logits = torch.zeros(1, 2, 19, 1, 1, requires_grad=True)
        optimizer = torch.optim.Adam([logits], lr=0.1)
        for _ in range(400):
            optimizer.zero_grad()
            LOSSES[name](logits, q.view(1, 19, 1, 1), 5.15e-4).backward()
            optimizer.step()
        says_lesion = logits.detach().softmax(1)[0, 1, :, 0, 0] > 0.5
        assert torch.equal(says_lesion, q > begins), name
