"""The paper's exponentially weighted cross-entropy on real cases, both ways round.

    python tests/benchmarks/paper_loss.py [--steps 150] [--data ../shared/data/labelled]

A small network learns from every case but the last two patients, with the larger weight on the
lesions and with the weights as printed; then the Dice of the left-out patients at probability 1/2,
where the paper cuts.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from rsaseg.inference.probability import predict_probability
from rsaseg.metrics import count_overlap
from rsaseg.networks.unet import NetworkConfig
from rsaseg.preprocessing import InputSpec
from rsaseg.training.cases import cache_case, find_cases
from rsaseg.training.loop import fit
from rsaseg.training.losses import exponential_weights
from rsaseg.training.recipe import RECIPES

SMALL = NetworkConfig(channels=(8, 16, 32), patch_vox=(1, 2, 2), flat_levels=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).parents[2]
    parser.add_argument("--data", type=Path, default=root / "../shared/data/labelled")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--cache", type=Path, help="Folder for prepared cases.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or Path(folder) / "cache"
        cases = [cache_case(case, InputSpec(), cache) for case in find_cases([options.data])]
        tested = sorted({case.patient for case in cases})[-2:]
        learn = [case for case in cases if case.patient not in tested]
        r = float(np.mean([case.variants[0].lesion.mean(dtype=np.float64) for case in learn]))
        print(f"r = {r:.2e}, weights {exponential_weights(r)[0]:.3f} and the rest")
        for loss in ("exponential-ce", "exponential-ce-as-printed"):
            recipe = replace(
                RECIPES["paper"],
                network=SMALL,
                loss=loss,
                steps=options.steps,
                crop_vox=(16, 96, 96),
                checkpoint_every=options.steps,
            )
            network = fit(recipe, learn, Path(folder) / loss, torch.device("cpu"))
            for case in (case for case in cases if case.patient in tested):
                image = torch.from_numpy(np.asarray(case.variants[0].image, dtype=np.float32))
                p = predict_probability(network, image, recipe.crop_vox, torch.device("cpu"))
                truth = np.asarray(case.variants[0].lesion) > 0.5
                probability = p.probability.numpy()
                counts = count_overlap(probability > 0.5, truth)
                best = max(
                    (count_overlap(probability > t, truth).dice, t)
                    for t in np.arange(0.1, 0.9, 0.1)
                )
                print(
                    f"{loss:<26} {case.name:<14} Dice at 0.5: {counts.dice:.3f}, lesion voxels "
                    f"{counts.both_vox + counts.only_pred_vox} of {truth.sum()}; best Dice "
                    f"{best[0]:.3f} at {best[1]:.1f}"
                )


if __name__ == "__main__":
    main()
