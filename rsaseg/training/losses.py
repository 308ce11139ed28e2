"""Losses on soft targets: each voxel's target is the fraction of it that is lesion."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from rsaseg.training.ranks import pooled


def weighted_cross_entropy(
    logits: Tensor, lesion: Tensor, lesion_weight: float = 0.5, voxel_weight: Tensor | float = 1.0
) -> Tensor:
    """Cross-entropy with weights that sum to one (paper, section 3.1), averaged over voxels.

    Parameters
    ----------
    logits : Tensor
        (N, 2, D, H, W): background, lesion.
    lesion : Tensor
        (N, D, H, W), 0..1.
    lesion_weight : float
        Weight of the lesion class; the background has one minus it.
    voxel_weight : Tensor or float
        (N, D, H, W), of each voxel besides; or of all.
    """
    log_p = torch.log_softmax(logits.float(), dim=1)
    loss = lesion_weight * lesion * log_p[:, 1] + (1 - lesion_weight) * (1 - lesion) * log_p[:, 0]
    return -(voxel_weight * loss).mean()


def dice_loss(logits: Tensor, lesion: Tensor, voxel_weight: Tensor | float = 1.0) -> Tensor:
    """One minus the soft Dice of the lesion class, voxels of all processes' batch pooled.

    Milletari et al. 2016, doi:10.1109/3DV.2016.79, with the squared denominator.
    """
    p = torch.softmax(logits.float(), dim=1)[:, 1]
    overlap = pooled((voxel_weight * (2 * p * lesion)).sum())
    both = pooled((voxel_weight * (p.square() + lesion.square())).sum())
    return 1 - (overlap + 1.0) / (both + 1.0)


def dice_cross_entropy(
    logits: Tensor, lesion: Tensor, voxel_weight: Tensor | float = 1.0
) -> Tensor:
    """Dice loss plus plain cross-entropy."""
    cross_entropy = weighted_cross_entropy(logits, lesion, voxel_weight=voxel_weight)
    return dice_loss(logits, lesion, voxel_weight) + 2 * cross_entropy


def small_lesion_weight(lesion: Tensor, most: float = 4.0) -> Tensor:
    """Return a weight for each voxel, larger in small lesions, 1 outside of lesions.

    In Dice and cross-entropy a lesion counts by its volume: one of 10 mm3 next to nothing beside
    one of 10 ml, and networks give it up. Here a lesion voxel counts the more, the fewer voxels
    of the 3 slices x 9 x 9 around it are lesion: fourfold below 7.5 %, as one from 30 % on. After
    Shirokikh et al. 2020, doi:10.1007/978-3-030-59719-1_51, who weigh by the inverse of a lesion's
    volume; the share of surroundings needs no connected components of soft targets.

    Parameters
    ----------
    lesion : Tensor
        (N, D, H, W), 0..1.
    most : float
        Largest weight.
    """
    share = lesion[:, None]
    for box in ((3, 1, 1), (1, 9, 1), (1, 1, 9)):  # one axis at a time takes a quarter of the time
        half = tuple(n // 2 for n in box)
        share = avg_pool3d(share, box, stride=1, padding=half)
    return 1 + lesion * ((0.3 / share[:, 0].clamp_min(1e-3)).clamp(1, most) - 1)


def exponential_weights(lesion_fraction: float) -> tuple[float, float]:
    """Return the two weights of the paper's exponentially weighted cross-entropy, larger first.

    With r the portion of lesion in the training images they are e^(1-r) / (e^r + e^(1-r)) and
    e^r / (e^r + e^(1-r)): 0.73 and 0.27 for a small r. Section 3.1 gives the first to "others"
    and the second, the smaller one, to the lesions, while it means to balance a rare class.

    A network trained with weight w on lesions reaches probability 1/2, where it says lesion,
    once the true probability is over 1 - w: 0.73 as printed, 0.27 the other way round. The best
    Dice is had at half its own value (Lipton et al. 2014, doi:10.1007/978-3-662-44851-9_15),
    about 0.35 here. A logistic regression on voxels of three public cases marks on two others
    1.1 and 3.8 times the true volume (Dice 0.17, 0.15) with the larger weight on lesions, and 0.03
    and 0.00 times (Dice 0.04, 0.00) as printed. So ``exponential-ce`` gives the larger weight to
    lesions; ``exponential-ce-as-printed`` is there to compare.
    """
    r = lesion_fraction
    rare = 1 / (1 + math.exp(2 * r - 1))
    return rare, 1 - rare


Loss = Callable[[Tensor, Tensor, float], Tensor]

LOSSES: dict[str, Loss] = {
    "dice-ce": lambda logits, lesion, _: dice_cross_entropy(logits, lesion),
    "small-lesions": lambda logits, lesion, _: dice_cross_entropy(
        logits, lesion, small_lesion_weight(lesion)
    ),
    "exponential-ce": lambda logits, lesion, r: weighted_cross_entropy(
        logits, lesion, exponential_weights(r)[0]
    ),
    "exponential-ce-as-printed": lambda logits, lesion, r: weighted_cross_entropy(
        logits, lesion, exponential_weights(r)[1]
    ),
}
"""Losses of logits (N, 2, D, H, W), lesions (N, D, H, W) and the training lesions' portion r."""
