"""Random training crops: where they lie, how they are turned, how their grey values vary.

Every crop is a function of (seed, its number in the run) alone, so a resumed run, or one spread
over several processes, sees the very same crops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool3d, interpolate, pad

from rsaseg.training.cases import CachedCase, Variant
from rsaseg.training.cut import cut_crop

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Augmentation:
    """How strongly crops vary; probabilities are per crop.

    Attributes
    ----------
    rotation_deg, tilt_deg : float
        Largest turn about the head's long axis, and about the two others.
    scale : float
        Largest relative change of size.
    stripped : float
        Probability of the brain alone, for cases with a brain mask.
    drop : float
        Probability that T1 is left out, and that T2 is.
    outside : float
        Probability that what lies outside the brain is brighter or darker, as fat is with and
        without its suppression; for cases with the skull on and a brain mask.
    thickened : float
        Probability that an exam of thin slices is seen at the voxel size of thick ones, as in use.
    thick : float
        Probability of thicker slices, two to three times the grid's.
    cortex : float
        Probability that grey matter, as T1 tells it, is brighter or darker in FLAIR; for exams with
        T1, whether the crop shows it or not.
    grey : float
        Strength of contrast, brightness, gamma, bias field and noise; 0 turns them off.
    bend : float
        Probability that a sequence's grey values are bent: more contrast at some, less at others.
    mirror : bool
        Swap left and right in every second crop.
    near_lesion : float
        Probability that a crop is centred near a lesion voxel; the others lie anywhere.
    transplant : float
        Probability that another patient's lesions are put where they lie in that head.
    fade : float
        Largest relative loss of the lesions' own contrast; they gain up to half of it.
    rarely : tuple of str
        Patients drawn a third as often as the others: of a kind of which there are too many, or
        whose masks follow another definition.
    """

    rotation_deg: float = 15.0
    tilt_deg: float = 6.0
    scale: float = 0.15
    stripped: float = 0.5
    outside: float = 0.0
    drop: float = 0.2
    thickened: float = 0.7
    thick: float = 0.2
    cortex: float = 0.0
    grey: float = 1.0
    bend: float = 0.0
    mirror: bool = True
    near_lesion: float = 0.6
    transplant: float = 0.4
    fade: float = 0.5
    rarely: tuple[str, ...] = ()


def draw_crop(
    cases: Sequence[CachedCase],
    crop_vox: tuple[int, int, int],
    augmentation: Augmentation,
    seed: int,
    number: int,
) -> tuple[Tensor, Tensor, str]:
    """Return crop ``number`` of the run ``seed``: image (C, D, H, W), lesion (D, H, W), case name.

    The patient is drawn first, then the visit, so that no patient counts twice.
    """
    rng = np.random.default_rng((seed, number))
    patients = sorted({case.patient for case in cases})
    chances = np.array([1 / 3 if name in augmentation.rarely else 1.0 for name in patients])
    patient = patients[rng.choice(len(patients), p=chances / chances.sum())]
    visits = [case for case in cases if case.patient == patient]
    case = visits[rng.integers(len(visits))]
    stripped, thickened = rng.random(2) < (augmentation.stripped, augmentation.thickened)
    variant = _variant(case, stripped, thickened)
    left_out = rng.random(len(variant.image)) < augmentation.drop
    left_out[-1] = False  # FLAIR is always there
    seen = variant.present & ~left_out
    there = np.flatnonzero(variant.present if augmentation.cortex else seen)  # T1 tells cortex
    lesion_vox, shape = variant.lesion_vox, np.array(variant.lesion.shape)
    if rng.random() < augmentation.near_lesion and len(lesion_vox):
        centre = lesion_vox[rng.integers(len(lesion_vox))] + rng.uniform(-0.25, 0.25, 3) * crop_vox
    else:
        centre = rng.uniform(0, 1, 3) * shape
    half = np.array(crop_vox) / 2
    centre = np.where(shape > 2 * half, np.clip(centre, half, shape - half), shape / 2)
    spacing_mm = variant.spacing_mm
    turn = _turn(rng, augmentation)
    stack = cut_crop(variant, there, centre, crop_vox, spacing_mm, turn)
    if augmentation.outside and variant.brain is not None and rng.random() < augmentation.outside:
        known = replace(variant, image=variant.brain[None])
        brain = cut_crop(known, np.array([0]), centre, crop_vox, spacing_mm, turn)[0]
        stack[:-1] = vary_outside(stack[:-1], brain, rng)
    others = [other for other in cases if other.patient != patient]
    if others and rng.random() < augmentation.transplant:
        donor = _variant(others[rng.integers(len(others))], False, thickened)
        place, turn = centre / shape * donor.lesion.shape, _turn(rng, augmentation)
        if donor.present[there].all():
            stack = transplant(stack, cut_crop(donor, there, place, crop_vox, spacing_mm, turn))
    channels, target = stack[:-1], stack[-1].clamp(0, 1)
    channels = channels * (1 + float(rng.uniform(-1, 0.5)) * augmentation.fade * target)
    if augmentation.cortex and 0 in there[:-1] and rng.random() < augmentation.cortex:
        channels = vary_cortex(channels, target, rng)  # T1 tells where, seen or not
    image = torch.zeros(len(variant.image), *crop_vox)
    image[seen] = vary_grey(channels[seen[there]], rng, augmentation)
    return image, target, case.name


def _variant(case: CachedCase, stripped: bool, thickened: bool) -> Variant:
    """Return the one with or without the skull, of the thickest slices or of the thinnest."""
    fitting = [variant for variant in case.variants if variant.stripped == stripped]
    return (fitting or case.variants)[0 if thickened else -1]


def _turn(rng: Generator, augmentation: Augmentation) -> Array:
    """Return a random (3, 3) map from the crop's mm offsets to the volume's, axes W, H, D."""
    rotation = augmentation.rotation_deg
    tilt = augmentation.tilt_deg
    yaw, pitch, roll = np.deg2rad(rng.uniform(-1, 1, 3) * (rotation, tilt, tilt))
    c, s = np.cos(yaw), np.sin(yaw)
    about_d = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    c, s = np.cos(pitch), np.sin(pitch)
    about_w = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    c, s = np.cos(roll), np.sin(roll)
    about_h = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    size = 1 + rng.uniform(-augmentation.scale, augmentation.scale)
    side = rng.choice([-1.0, 1.0]) if augmentation.mirror else 1.0
    mirror = np.diag([side, 1.0, 1.0])  # left and right
    turn: Array = (about_d @ about_w @ about_h @ mirror * size).astype(np.float32)
    return turn


def transplant(stack: Tensor, given: Tensor) -> Tensor:
    """Put the lesions of one crop, with a rim of what surrounds them, into the brain of another.

    After CarveMix (Zhang et al. 2023, doi:10.1016/j.neuroimage.2023.120041), with a soft rim, and
    only where the receiving crop looks like brain in FLAIR (0.6 to 1.4 of the brain's median).

    Parameters
    ----------
    stack, given : Tensor
        (C + 1, D, H, W): sequences in the units of `rsaseg.preprocessing.brain_units`, FLAIR the
        last of them, then the lesion.
    """
    brain = (stack[-2].abs() < 1.2).float()
    share = _with_rim(given[-1:]) * brain
    mixed = torch.lerp(stack, given, share)
    mixed[-1] = torch.maximum(stack[-1], given[-1] * brain)
    return mixed


def _with_rim(lesion: Tensor) -> Tensor:
    """Return (D, H, W) of a lesion (1, D, H, W), wider by a voxel and with a soft edge."""
    wide = _widen(lesion)
    return avg_pool3d(wide, (1, 3, 3), stride=1, padding=(0, 1, 1))[0].clamp(0, 1)


def _widen(lesion: Tensor) -> Tensor:
    """Return the largest of 3x3 voxels within axial slices, several times faster than a pooling."""
    x = pad(lesion, (1, 1, 1, 1))
    x = torch.maximum(torch.maximum(x[..., :-2], x[..., 1:-1]), x[..., 2:])
    return torch.maximum(torch.maximum(x[..., :-2, :], x[..., 1:-1, :]), x[..., 2:, :])


def vary_outside(channels: Tensor, brain: Tensor, rng: Generator) -> Tensor:
    """Return (C, D, H, W) with another brightness outside the brain, where ``brain`` is 0.

    From half to six times, drawn for each sequence: FLAIR without fat suppression shows the scalp
    several times brighter than with it.
    """
    gain = np.exp(rng.uniform(np.log(0.5), np.log(6), (len(channels), 1, 1, 1)))
    over_air = (channels / 3 + 1).clamp_min_(0)
    there = over_air.mul_(torch.from_numpy(gain.astype(np.float32))).sub_(1).mul_(3)
    return torch.lerp(there.clamp_max_(5), channels, brain)


def vary_cortex(channels: Tensor, lesion: Tensor, rng: Generator) -> Tensor:
    """Return (C, D, H, W) with another brightness of grey matter in FLAIR, the last sequence.

    What is as dark as grey matter in T1, the first, gains or loses brightness: over white matter,
    cortex is 5 to 8 % brighter in some sites' FLAIR and 17 % in others', more near a coil.
    Lesions, as dark in T1, keep theirs, with a soft rim: brightness alone does not tell cortex
    from lesion.
    """
    middle, width, gain = rng.uniform((-0.8, 0.3, -0.1), (-0.4, 0.5, 0.8))
    grey = channels[0].sub(middle).div_(width).square_().neg_().exp_()
    varied = channels.clone()
    varied[-1].addcmul_(grey, 1 - _with_rim(lesion[None]), value=gain)
    return varied


def vary_grey(image: Tensor, rng: Generator, augmentation: Augmentation) -> Tensor:
    """Return (C, D, H, W) with contrast, bias field, noise and slice thickness changed.

    In the units of `rsaseg.preprocessing.brain_units`; the brain's median stays about 0.
    """
    if rng.random() < augmentation.thick and image.shape[1] > 3:
        factor = int(rng.integers(2, 4))
        thick = avg_pool3d(image[None], (factor, 1, 1), ceil_mode=True)
        image = interpolate(thick, size=image.shape[1:], mode="trilinear")[0]
    if rng.random() < 0.3 * augmentation.grey:  # bias field: a smooth factor of the distance to air
        coarse = torch.from_numpy(rng.normal(0, 0.12, (1, 1, 2, 3, 3)).astype(np.float32))
        field = interpolate(coarse, size=image.shape[1:], mode="trilinear")[0].exp()
        floor = image.amin(dim=(1, 2, 3), keepdim=True)
        image = (image - floor) * field + floor
    varied = []
    for channel in image:
        gamma = float(np.exp(rng.normal(0, 0.25 * augmentation.grey)))
        gain = float(np.exp(rng.normal(0, 0.25 * augmentation.grey)))
        shift = float(rng.normal(0, 0.15 * augmentation.grey))
        # air 0, the brain's median 1; the logarithm of 0 itself takes fifty times as long
        over_air = (channel / 3 + 1).clamp_min_(1e-9)
        power = over_air.log_().mul_(gamma).exp_()  # ** takes five times as long
        channel = power.sub_(1).mul_(3 * gain).add_(shift)  # noqa: PLW2901
        noise = rng.uniform(0, 0.15) * augmentation.grey * (rng.random() < 0.4)
        if noise:
            drawn = rng.standard_normal(tuple(channel.shape), dtype=np.float32)
            channel.add_(torch.from_numpy(drawn), alpha=noise)
        if augmentation.bend and rng.random() < augmentation.bend:
            middle, width = rng.uniform(-0.6, 1.0), rng.uniform(0.4, 0.8)
            height = width * rng.uniform(-0.5, 0.5)  # its slope stays over 0.5: nothing swaps
            hump = channel.sub(middle).div_(width).square_().neg_().exp_()
            channel.add_(hump, alpha=height)
        varied.append(channel)
    return torch.stack(varied)
