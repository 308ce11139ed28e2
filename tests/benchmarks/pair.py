"""Networks of several trainings on the same folds, averaged: threshold, evaluation, weights.

    python tests/benchmarks/pair.py FIRST@once SECOND SECOND@0.85,0.85,2.6 --needs T1
        --partner rsa111-v16 --data labelled --data flair_only -o pair

Each argument is a look at an exam: a folder of ``rsaseg train --folds`` on the same data, whose
out-of-fold probabilities lie there as ``fold-*/CASE.npy``; with ``@once`` what the same networks
give in one pass, with ``@`` and voxels in mm what they give in one pass in these voxels. All looks
count alike, one that is named twice counts twice; the first is left out where a case lacks a
sequence of ``--needs``. Threshold and smallest lesion are chosen on their mean, as `rsaseg train`
does for one network.

It writes the out-of-fold masks, their evaluation, and ``weights.safetensors``: the final network of
the last look, with the threshold chosen, which names ``--partner``
(`rsaseg.networks.weights.WeightsInfo.partner`) for the looks before. With voxels of its own it is
one look beside those of the partner; without, it sees each exam twice, and the partner, the first
look, as often or once. One look needs no partner. ``--bits`` rounds its kernels, so that the file
packs smaller: of the ten bits of a half-precision number's fraction six are kept, say.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsaseg.errors import InputError, RsasegError
from rsaseg.imaging import make_folder, read_mask, write_array
from rsaseg.networks.shipped import find_weights
from rsaseg.networks.weights import WeightsInfo, load_weights, save_weights
from rsaseg.preprocessing import InputSpec
from rsaseg.train import write_out_of_fold
from rsaseg.training.cases import CaseFiles, find_cases, read_exam
from rsaseg.training.checkpoint import read_average
from rsaseg.training.recipe import make_recipe
from rsaseg.training.selection import Choice, OutOfFold, choose_threshold
from rsaseg.training.unseen import segment_unseen


@dataclass(frozen=True)
class Look:
    """A way to see an exam: a training's networks, and in one pass, in which voxels.

    Attributes
    ----------
    training : Path
        Folder of the training.
    once : bool
        In one pass, not as the training kept it.
    spacing_mm : tuple of float, optional
        Of the voxels of that pass. Default: those that the networks learned in.
    """

    training: Path
    once: bool = False
    spacing_mm: tuple[float, float, float] | None = None

    def __str__(self) -> str:
        how = ",".join(f"{mm:g}" for mm in self.spacing_mm or ()) or ("once" if self.once else "")
        return self.training.name + (f"@{how}" if how else "")

    @property
    def kept(self) -> list[Path]:
        """The probabilities that the training kept, one a case."""
        return sorted(self.training.glob("fold-*/*.npy"))

    def spec(self, learned: InputSpec) -> InputSpec:
        """Return how exams are seen, by networks that learned from what ``learned`` says."""
        if not self.once:
            return learned
        return replace(learned.seen_once(), spacing_mm=self.spacing_mm or learned.spacing_mm)


def read_look(text: str) -> Look:
    training, _, how = text.partition("@")
    if how in ("", "once"):
        return Look(Path(training), once=bool(how))
    right, anterior, superior = (float(mm) for mm in how.split(","))
    return Look(Path(training), once=True, spacing_mm=(right, anterior, superior))


def see(look: Look, cases: dict[str, CaseFiles], place: Path) -> dict[str, Path]:
    """Return files with each case's probability by the look; new ones are kept in ``place``.

    Raises
    ------
    InputError
        If the training left out other cases than these.
    """
    kept = {path.stem: path for path in look.kept}
    if kept.keys() != cases.keys():
        other = min(kept.keys() ^ cases.keys())
        raise InputError(f"{look.training}: left out {len(kept)} cases, not these: see {other}")
    if not look.once:
        return kept
    network, info, _ = load_weights(look.training / "weights.safetensors")
    recipe, spec = replace(make_recipe(), crop_vox=info.window_vox), look.spec(info.input)
    seen = {name: place / f"{name}.npy" for name in kept}
    make_folder(place)
    for fold, paths in groupby(kept.values(), lambda path: path.parent):
        network.load_state_dict(read_average(fold / "checkpoint.safetensors"))
        for name in (path.stem for path in paths):
            segment_unseen(cases[name], network, spec, recipe, torch.device("cpu"), seen[name])
    return seen


def average(files: CaseFiles, looks: list[Path], place: Path) -> OutOfFold:
    """Return, and keep, the mean of a case's probabilities."""
    mean: NDArray[np.float32] = np.mean([np.load(p).astype(np.float32) for p in looks], axis=0)
    half = mean.astype(np.float16)
    make_folder(place.parent)
    write_array(place, half)
    truth, _ = read_mask(files.lesion)
    return OutOfFold(files.name, files.patient, half, truth, read_exam(files)["FLAIR"])


def round_fraction(tensor: Tensor, bits: int) -> Tensor:
    """Return half-precision numbers with so many bits of their fraction, to the nearest."""
    mantissa, exponent = torch.frexp(tensor.float())  # 1/2 <= mantissa < 1: its first bit is 1
    return torch.ldexp((mantissa * 2 ** (bits + 1)).round() / 2 ** (bits + 1), exponent).half()


def round_kernels(state: Mapping[str, Tensor], bits: int) -> dict[str, Tensor]:
    """Return a network's numbers, with so many bits of the fraction of its kernels'."""
    return {
        name: round_fraction(tensor, bits) if tensor.dim() > 1 else tensor
        for name, tensor in state.items()
    }


def describe(info: WeightsInfo, asked: argparse.Namespace, choice: Choice) -> WeightsInfo:
    """Return what the new weights say of themselves, beside what the training said."""
    first, last = asked.looks[0], asked.looks[-1]
    return replace(
        info,
        cut=choice.cut,
        contrast_weight=choice.contrast_weight,
        partner=asked.partner,
        partner_sha256=load_weights(find_weights(asked.partner))[2] if asked.partner else "",
        partner_needs=() if last.once else tuple(asked.needs),
        partner_once=first.once and not last.once,
        input=last.spec(info.input),
        version=asked.version,
        licence="CC BY 4.0",
    )


def main() -> None:
    """Average, choose, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("looks", type=read_look, nargs="+", help="FOLDER, FOLDER@once, @mm,mm,mm.")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--partner", default="", help="Name of the shipped weights before.")
    parser.add_argument("--needs", action="append", default=[], help="Of the first: T1 or T2.")
    parser.add_argument("--bits", type=int, default=10, help="Of the fraction of its kernels.")
    parser.add_argument("--version", default="2")
    parser.add_argument("-o", "--output", type=Path, required=True)
    asked = parser.parse_args()
    if len(asked.looks) > 1 and not asked.partner:
        parser.error("several looks need --partner, which stands for those before the last")
    cases = {case.name: case for case in find_cases(asked.data) if not case.made}
    seen = [see(look, cases, asked.output / f"look-{i}") for i, look in enumerate(asked.looks)]
    unseen = []
    for path in asked.looks[-1].kept:
        files = cases[path.stem]
        whole = set(asked.needs) <= set(files.sequences)
        by_look = [look[files.name] for look in (seen if whole else seen[1:])]
        unseen.append(average(files, by_look, asked.output / path.parent.name / path.name))
    choice = choose_threshold(unseen)
    evaluation = write_out_of_fold(unseen, choice, asked.output / "out-of-fold")
    network, info, _ = load_weights(asked.looks[-1].training / "weights.safetensors")
    state = round_kernels(network.state_dict(), asked.bits)
    save_weights(asked.output / "weights.safetensors", state, describe(info, asked, choice))
    print(choice)
    for case in evaluation.cases:
        print(f"{case.case:16s} Dice {case.overlap.dice:.3f}")
    for metric in ("dice", "voxel_average_dice", "lesion_f1"):
        one = evaluation.estimate(metric)
        print(f"{metric}: {one.value:.3f} ({one.low:.3f} to {one.high:.3f})")


if __name__ == "__main__":
    try:
        main()
    except RsasegError as error:
        sys.exit(str(error))
