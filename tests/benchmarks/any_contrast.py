"""Make exams to learn from whose tissues have a contrast of nobody's scanner.

    python tests/benchmarks/any_contrast.py made/ljubljana-07-made-01 made/ljubljana-07-made-04
        --add 500 -o any-contrast

A network learns the contrast of the scanners it was shown. Here the tissues of an exam are told
apart, four in the brain and four outside it, and each gets another brightness in T1, T2 and FLAIR,
drawn from all that a protocol may give: fluid from nearly black to as bright as in T2, cortex from
darker to much brighter than white matter, what lies outside the brain from a third to three times
as bright. White matter keeps its own, lesions stay brighter in FLAIR and T2 and no brighter in T1,
by more or less, and each as faint beside the others as it was. What is left of the texture within a
tissue stays, weaker or as strong. After Billot et al. 2023, doi:10.1016/j.media.2023.102789, who
draw every tissue's brightness evenly and keep no texture.

An exam is called by its patient and ``-made-`` with its number, higher by ``--add``.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from lesion_free import Mask
from lesions_of_others import Array, Head, Images, blur, read_head, write_exam
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from rsaseg.errors import RsasegError
from rsaseg.preprocessing import SEQUENCES

FLUID, GREY, BETWEEN, WHITE = 1, 2, 3, 4
"""Tissues of the brain; those outside it come after them. Air and lesions are 0."""
N_TISSUES = 4
"""In the brain, and outside it."""
AIR = 0.08
"""Brightness in FLAIR, in medians of the deep brain, under which there is nothing."""
LEAST_OUTSIDE_VOX = 5000
"""So few voxels outside are a stripped exam's rim."""
BLUR_MM = 0.6
FAINT = 0.03
"""Lesions that differ so little from white matter have no contrast to change."""

OVER_WHITE = {
    "T1": ((0.1, 0.6), (0.5, 1.05), (-0.4, 0.0)),
    "T2": ((1.2, 3.0), (0.9, 1.6), (0.1, 1.2)),
    "FLAIR": ((0.1, 0.8), (0.85, 1.3), (0.2, 0.8)),
}
"""Brightness of fluid and grey matter, as parts of white matter's, and how much of it is added in
lesions: from, to."""


def cluster(
    values: Array, highest: float, n_sample: int, rng: Generator
) -> tuple[NDArray[np.floating[Any]], NDArray[np.intp]]:
    """Return the middles of `N_TISSUES` clusters of values (n, sequences), and each one's."""
    sample = values[rng.choice(len(values), min(len(values), n_sample), replace=False)]
    middles, _ = kmeans2(np.clip(sample, 0, highest), N_TISSUES, minit="++", seed=rng)
    nearest = np.stack([((values - middle) ** 2).sum(axis=1) for middle in middles]).argmin(axis=0)
    return middles, nearest


def tell_tissues(images: Images, brain: Mask, lesion: Mask, rng: Generator) -> NDArray[np.int16]:
    """Return (X, Y, Z) the tissue of each voxel: `FLUID` to `WHITE`, those outside, or 0."""
    tissue = np.zeros(brain.shape, np.int16)
    values = np.stack([images[name] for name in SEQUENCES], axis=-1)
    inside = brain & ~lesion
    middles, nearest = cluster(values[inside], 4, 40_000, rng)
    fluid = int(middles[:, 1].argmax())  # the brightest in T2
    others = [i for i in range(N_TISSUES) if i != fluid]
    white = max(others, key=lambda i: middles[i, 0])  # the brightest in T1
    others.remove(white)
    n_vox = np.bincount(nearest, minlength=N_TISSUES)
    grey = max(others, key=lambda i: n_vox[i])
    others.remove(grey)
    number = dict(zip((fluid, grey, *others, white), (FLUID, GREY, BETWEEN, WHITE), strict=True))
    tissue[inside] = np.array([number[i] for i in range(N_TISSUES)])[nearest]
    outside = ~brain & (images["FLAIR"] > AIR)
    if outside.sum() > LEAST_OUTSIDE_VOX:
        tissue[outside] = WHITE + 1 + cluster(values[outside], 6, 20_000, rng)[1]
    return tissue


def draw_brightness(name: str, old: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """Return another brightness for each tissue but white matter, in the order of its number."""
    fluid, grey, _ = OVER_WHITE[name]
    white, new = old[WHITE - 1], old.copy()
    new[FLUID - 1] = white * rng.uniform(*fluid)
    new[GREY - 1] = white * rng.uniform(*grey)
    share = rng.uniform()
    other = new[FLUID - 1] if rng.random() < 0.4 else white
    new[BETWEEN - 1] = share * new[GREY - 1] + (1 - share) * other
    new[WHITE:] = old[WHITE:] * np.exp(rng.uniform(np.log(0.3), np.log(3), len(old) - WHITE))
    return new


def redraw_lesions(image: Array, white: float, lesion: Mask, share: Array, added: float) -> Array:
    """Return what lesions, whose share of each voxel is given, are with ``added`` on average."""
    over = image[lesion].mean() - white
    if abs(over) <= FAINT:
        return white + added * share
    return white + (image - white) * np.clip(added / over, -3, 3)


def change_contrast(head: Head, rng: Generator) -> Images:
    """Return a head's images, in units of its medians, by another contrast of tissues."""
    grid, lesion = head.grid, head.own
    tissue = tell_tissues(head.images, head.brain, lesion, rng)
    there = [tissue == n for n in range(1, int(tissue.max()) + 1)]
    share = np.stack([blur(one, BLUR_MM, grid) for one in there])
    share /= np.maximum(share.sum(axis=0) + blur((tissue == 0) & ~lesion, BLUR_MM, grid), 1e-3)
    part = blur(lesion, BLUR_MM, grid)
    changed = {}
    for name in SEQUENCES:
        image = head.images[name]
        old = np.array([image[one].mean() if one.any() else 0.0 for one in there])
        new = draw_brightness(name, old, rng)
        texture = image - np.tensordot(old, share, 1)
        redrawn = np.tensordot(new, share, 1) + rng.uniform(0.4, 1.1) * texture
        if lesion.any():
            white = old[WHITE - 1]
            added = white * rng.uniform(*OVER_WHITE[name][2])
            inside = redraw_lesions(image, white, lesion, part, added)
            redrawn = redrawn * (1 - part) + inside * part
        changed[name] = redrawn
    return changed


def make_exam(place: Path, options: argparse.Namespace) -> None:
    """Write one exam by another contrast."""
    head = read_head(place)
    number = int((re.findall(r"\d+$", head.case.name) or ["0"])[0]) + options.add
    changed = change_contrast(head, np.random.default_rng((options.seed, number)))
    print(write_exam(head, changed, head.own, number, options.output), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scans", nargs="+", type=Path, help="Case folders.")
    parser.add_argument("--add", type=int, default=0, help="To each exam's number.")
    parser.add_argument("--seed", type=int, default=7, help="Another draws other contrasts.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    for place in options.scans:
        make_exam(place, options)


if __name__ == "__main__":
    try:
        main()
    except RsasegError as error:
        sys.exit(str(error))
