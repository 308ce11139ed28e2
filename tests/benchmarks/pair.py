"""Two trainings on the same folds, averaged: threshold, evaluation and weights of the pair.

Usage: ``python tests/benchmarks/pair.py FIRST SECOND --data labelled --data flair_only -o pair``,
where FIRST and SECOND are folders of ``rsaseg train --folds`` on the same data, whose out-of-fold
probabilities lie there as ``fold-*/CASE.npy``. The first's final weights are to be shipped by the
name ``--partner`` (`rsaseg.networks.weights.WeightsInfo.partner`).

Each case's probability is the mean of the two networks that had not seen it, or the second's alone
where the case lacks a sequence given by ``--needs``; threshold and smallest
lesion are chosen on these, as `rsaseg train` does for one network. With ``--once`` the first sees
each case once, and counts half as much as the second, which sees it twice. With
``--closer 0.85,0.85,2.6`` the second sees each case once more in voxels of that size, which counts
as much as its two other looks together; the pair is then shipped already, by the name
``--partner``. It writes the out-of-fold masks, their evaluation, and ``weights.safetensors``: the
second's final network with the threshold chosen.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rsaseg.imaging import read_mask
from rsaseg.networks.shipped import find_weights
from rsaseg.networks.weights import load_weights, save_weights
from rsaseg.train import write_out_of_fold
from rsaseg.training.cases import CaseFiles, find_cases, read_exam
from rsaseg.training.checkpoint import read_average
from rsaseg.training.recipe import make_recipe
from rsaseg.training.selection import OutOfFold, choose_threshold
from rsaseg.training.unseen import segment_unseen

Spacing = tuple[float, float, float]


def see_once(files: CaseFiles, kept: Path, place: Path, spacing_mm: Spacing | None = None) -> Path:
    """Keep in ``place`` what the network that gave ``kept`` gives for the case in one pass."""
    network, info, _ = load_weights(kept.parents[1] / "weights.safetensors")
    network.load_state_dict(read_average(kept.parent / "checkpoint.safetensors"))
    place = place / kept.parent.name / kept.name
    place.parent.mkdir(parents=True, exist_ok=True)
    spec = replace(info.input.seen_once(), spacing_mm=spacing_mm or info.input.spacing_mm)
    recipe = replace(make_recipe(), crop_vox=info.window_vox)
    segment_unseen(files, network, spec, recipe, torch.device("cpu"), place)
    return place


def average_unseen(files: CaseFiles, asked: argparse.Namespace) -> OutOfFold:
    """Return, and keep, the probability of a case by the networks that had not seen it."""
    output = asked.output
    partner, own = (next(folder.glob(f"fold-*/{files.name}.npy")) for folder in asked.trainings)
    seen = [own]
    if set(asked.needs) <= set(files.sequences):
        seen = [see_once(files, partner, output / "once") if asked.once else partner, own]
    if asked.closer:
        seen.append(see_once(files, own, output / "closer", asked.closer))
    elif asked.once and len(seen) > 1:
        seen.append(own)
    probability = np.mean([np.load(path).astype(np.float32) for path in seen], axis=0)
    half = probability.astype(np.float16)
    place = output / own.parent.name / own.name
    place.parent.mkdir(parents=True, exist_ok=True)
    np.save(place, half)
    truth, _ = read_mask(files.lesion)
    flair = read_exam(files)["FLAIR"]
    return OutOfFold(files.name, files.patient, half, truth, flair)


def read_spacing(text: str) -> Spacing:
    right, anterior, superior = (float(mm) for mm in text.split(","))
    return right, anterior, superior


def main() -> None:
    """Average, choose, evaluate, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trainings", type=Path, nargs=2)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--partner", default="rsa111-v1")
    parser.add_argument("--needs", action="append", default=[], help="Of the partner: T1 or T2.")
    parser.add_argument("--once", action="store_true", help="The partner sees each case once.")
    parser.add_argument("--closer", type=read_spacing, help="Voxels of one look more, mm.")
    parser.add_argument("--version", default="2")
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    unseen = [average_unseen(files, asked) for files in find_cases(asked.data)]
    choice = choose_threshold(unseen)
    evaluation = write_out_of_fold(unseen, choice, asked.output / "out-of-fold")
    network, info, _ = load_weights(asked.trainings[1] / "weights.safetensors")
    sha256 = load_weights(find_weights(asked.partner))[2]
    info = replace(
        info,
        cut=choice.cut,
        contrast_weight=choice.contrast_weight,
        partner=asked.partner,
        partner_sha256=sha256,
        partner_needs=() if asked.closer else tuple(asked.needs),
        partner_once=asked.once and not asked.closer,
        input=replace(info.input.seen_once(), spacing_mm=asked.closer)
        if asked.closer
        else info.input,
        version=asked.version,
    )
    save_weights(asked.output / "weights.safetensors", network.state_dict(), info)
    print(choice)
    for case in evaluation.cases:
        print(f"{case.case:16s} Dice {case.overlap.dice:.3f}")
    for metric in ("dice", "voxel_average_dice", "lesion_f1"):
        one = evaluation.estimate(metric)
        print(f"{metric}: {one.value:.3f} ({one.low:.3f} to {one.high:.3f})")


if __name__ == "__main__":
    main()
