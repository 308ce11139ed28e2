"""Train without a site's patients and segment them: what to expect of a scanner never seen.

    python tests/benchmarks/site_left_out.py RESULTS --site tabriz --data labelled --data flair_only
        [--data made] [--recipe default] [--steps 1500] [--seed 1] [--init EARLIER-RESULTS]
        [--threshold 0.4] [--contrast-weight 2]

The site is a case's name up to its first hyphen. A network learns from nothing of what lies in the
folders but that site's cases, and of those made from their scans; each of the site's own cases is
then segmented as in a training's out-of-fold test. Do not give exams made from the site's lesion
masks. With ``--init`` it goes on from an earlier run's network, by ``--recipe finish`` say. The
same command goes on where it was stopped.

A case's lesion volume and the Dice of what is called are printed, and their mean with the Dice at
other thresholds.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsaseg.errors import InputError, RsasegError
from rsaseg.inference.device import choose_device
from rsaseg.metrics import count_overlap
from rsaseg.preprocessing import InputSpec
from rsaseg.training.cases import CaseFiles, cache_case, find_cases
from rsaseg.training.checkpoint import read_average
from rsaseg.training.loop import fit
from rsaseg.training.recipe import make_recipe
from rsaseg.training.unseen import segment_unseen

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6)


def part(cases: Sequence[CaseFiles], site: str) -> tuple[list[CaseFiles], list[CaseFiles]]:
    """Return the cases of other sites, to learn from, and the site's own, to be tested.

    Raises
    ------
    InputError
        If there are none of either.
    """
    learn = [case for case in cases if case.name.split("-")[0] != site]
    test = [case for case in cases if case.name.split("-")[0] == site and not case.made]
    if not learn or not test:
        sites = sorted({case.name.split("-")[0] for case in cases})
        raise InputError(f"site {site!r}: give one of several sites; there are {', '.join(sites)}")
    return learn, test


def run(options: argparse.Namespace) -> dict[str, float]:
    """Train, or go on, and return each case's Dice at the threshold."""
    learn, test = part(find_cases(options.data), options.site)
    device, spec = choose_device(options.device), InputSpec()
    rarely = tuple(options.rarely)
    recipe = make_recipe(options.recipe, rarely=rarely, steps=options.steps, seed=options.seed)
    print(f"learns from {len(learn)} exams, none of {options.site}", flush=True)
    cases = [cache_case(case, spec, options.results / "cache") for case in learn]
    folder = options.results / options.site

    def progress(done: int, steps: int, loss: float) -> None:
        if done % recipe.checkpoint_every == 0:
            print(f"step {done} of {steps}, loss {loss:.3f}", flush=True)

    earlier = options.init and options.init / options.site / "checkpoint.safetensors"
    start = read_average(earlier) if earlier else None
    network = fit(recipe, cases, folder, device, progress, start)
    at: dict[str, list[float]] = {}
    for case in test:
        kept = folder / f"{case.name}.npy"
        unseen = segment_unseen(case, network, spec, recipe, device, kept).read()
        probability = unseen.weighed(options.contrast_weight)
        called = [probability > t for t in (options.threshold, *THRESHOLDS)]
        at[case.name] = [count_overlap(mask, unseen.truth).dice for mask in called]
        true_ml, called_ml = (
            float(mask.sum()) * unseen.flair.grid.voxel_mm3 / 1000
            for mask in (unseen.truth, called[0])
        )
        print(
            f"{case.name}: {true_ml:.1f} ml, {called_ml:.1f} ml called, Dice {at[case.name][0]:.3f}"
        )
    mean, *others = np.mean(list(at.values()), axis=0)
    told = ", ".join(f"{x:.3f} at {t:g}" for x, t in zip(others, THRESHOLDS, strict=True))
    print(f"mean Dice {mean:.3f}; {told}")
    return {name: dice for name, (dice, *_) in at.items()}


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--site", required=True, help="A case's name up to its first hyphen.")
    parser.add_argument("--data", type=Path, action="append", required=True)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=1, help="As for rsaseg train.")
    parser.add_argument("--init", type=Path, help="RESULTS of an earlier run.")
    parser.add_argument("--rarely", action="append", default=[], help="As for rsaseg train.")
    parser.add_argument("--threshold", type=float, default=0.4)
    parser.add_argument("--contrast-weight", type=float, default=0.0, help="As in the weights.")
    parser.add_argument("--device", default="auto")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        run(read_options(None))
    except RsasegError as error:
        sys.exit(str(error))
