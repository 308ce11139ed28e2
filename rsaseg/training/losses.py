"""Losses on soft targets: each voxel's target is the fraction of it that is lesion."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_cross_entropy(logits: Tensor, lesion: Tensor, lesion_weight: float = 0.5) -> Tensor:
    """Cross-entropy with weights that sum to one (paper, section 3.1), averaged over voxels.

    Parameters
    ----------
    logits : Tensor
        (N, 2, D, H, W): background, lesion.
    lesion : Tensor
        (N, D, H, W), 0..1.
    lesion_weight : float
        Weight of the lesion class; the background has one minus it.
    """
    log_p = torch.log_softmax(logits.float(), dim=1)
    loss = lesion_weight * lesion * log_p[:, 1] + (1 - lesion_weight) * (1 - lesion) * log_p[:, 0]
    return -loss.mean()


def dice_loss(logits: Tensor, lesion: Tensor) -> Tensor:
    """One minus the soft Dice of the lesion class, voxels of the whole batch pooled.

    Milletari et al. 2016, doi:10.1109/3DV.2016.79, with the squared denominator.
    """
    p = torch.softmax(logits.float(), dim=1)[:, 1]
    overlap = 2 * (p * lesion).sum()
    return 1 - (overlap + 1.0) / (p.square().sum() + lesion.square().sum() + 1.0)


def dice_cross_entropy(logits: Tensor, lesion: Tensor) -> Tensor:
    """Dice loss plus plain cross-entropy."""
    return dice_loss(logits, lesion) + 2 * weighted_cross_entropy(logits, lesion)
