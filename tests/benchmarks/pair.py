"""Two trainings on the same folds, averaged: threshold, evaluation and weights of the pair.

Usage: ``python tests/benchmarks/pair.py FIRST SECOND --data labelled --data flair_only -o pair``,
where FIRST and SECOND are folders of ``rsaseg train --folds`` on the same data, whose out-of-fold
probabilities lie there as ``fold-*/CASE.npy``. The first's final weights are to be shipped by the
name ``--partner`` (`rsaseg.networks.weights.WeightsInfo.partner`).

Each case's probability is the mean of the two networks that had not seen it, or the second's alone
where the case lacks a sequence given by ``--needs``; threshold and smallest
lesion are chosen on these, as `rsaseg train` does for one network. It writes the out-of-fold masks,
their evaluation, and ``weights.safetensors``: the second's final network with the pair's threshold.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rsaseg.imaging import read_mask
from rsaseg.networks.shipped import find_weights
from rsaseg.networks.weights import load_weights, save_weights
from rsaseg.train import write_out_of_fold
from rsaseg.training.cases import CaseFiles, find_cases, read_exam
from rsaseg.training.selection import OutOfFold, choose_threshold


def average_unseen(
    files: CaseFiles, trainings: Sequence[Path], needs: Sequence[str], output: Path
) -> OutOfFold:
    """Return, and keep, the probability of a case by the networks that had not seen it."""
    if not set(needs) <= set(files.sequences):
        trainings = trainings[1:]
    kept = [next(folder.glob(f"fold-*/{files.name}.npy")) for folder in trainings]
    probability = np.mean([np.load(path).astype(np.float32) for path in kept], axis=0)
    half = probability.astype(np.float16)
    place = output / kept[0].parent.name / kept[0].name
    place.parent.mkdir(parents=True, exist_ok=True)
    np.save(place, half)
    truth, _ = read_mask(files.lesion)
    flair = read_exam(files)["FLAIR"]
    return OutOfFold(files.name, files.patient, half, truth, flair)


def main() -> None:
    """Average, choose, evaluate, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("trainings", type=Path, nargs=2)
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--partner", default="rsa111-v1")
    parser.add_argument("--needs", action="append", default=[], help="Of the partner: T1 or T2.")
    parser.add_argument("--version", default="2")
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    unseen = [
        average_unseen(files, asked.trainings, asked.needs, asked.output)
        for files in find_cases(asked.data)
    ]
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
        partner_needs=tuple(asked.needs),
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
