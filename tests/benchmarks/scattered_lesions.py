"""Draw lesion masks of nobody, to be painted by ``lesions_of_others.py``: small ones, anywhere.

    python tests/benchmarks/scattered_lesions.py labelled/catania-14-t3 --count 20 -o scattered

The masks of few patients hold few small lesions, and a network knows those it was shown. Here the
number of lesions is drawn evenly from 20 to 119 for a mask, each one's volume from a log-normal
distribution with a median of 25 mm3, its middle evenly from the scan's white matter. A lesion is
the white matter nearest to its middle, by a distance that smooth noise bends, so that none is
round and some fall in pieces.

The masks, ``scattered-01.nii.gz`` and on, lie on the scan's own grid.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from lesions_of_others import Mask, read_head, texture
from numpy.random import Generator

from rsaseg.errors import RsasegError
from rsaseg.imaging import Grid, make_folder, write_nifti

N_LESIONS = (20, 120)
"""From so many to one less than so many in a mask."""
MEDIAN_MM3, LARGEST_MM3 = 25.0, 3000.0
SPREAD = 1.3
"""Standard deviation of the logarithm of a lesion's volume."""


def scatter_lesions(white: Mask, grid: Grid, rng: Generator) -> Mask:
    """Return a mask of lesions in ``white``, both (X, Y, Z) bool on ``grid``."""
    vox = np.argwhere(white)
    place_mm = vox * grid.spacing_mm
    bend = np.exp(0.3 * texture(rng, grid, 1.5)[white])
    mask = np.zeros_like(white)
    for _ in range(rng.integers(*N_LESIONS)):
        volume_mm3 = min(MEDIAN_MM3 * np.exp(rng.normal(0, SPREAD)), LARGEST_MM3)
        n_vox = min(max(round(volume_mm3 / grid.voxel_mm3), 1), len(vox) - 1)
        middle_mm = place_mm[rng.integers(len(vox))]
        away_mm = np.linalg.norm(place_mm - middle_mm, axis=1) * bend
        nearest = vox[np.argpartition(away_mm, n_vox)[:n_vox]]
        mask[tuple(nearest.T)] = True
    return mask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scan", type=Path, help="A case folder.")
    parser.add_argument("--count", type=int, default=20, help="Masks to draw.")
    parser.add_argument("--seed", type=int, default=1, help="Of these masks; another draws others.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    head = read_head(options.scan, filled=True)
    make_folder(options.output)
    for number in range(1, options.count + 1):
        rng = np.random.default_rng((options.seed, number))
        mask = scatter_lesions(head.white, head.grid, rng)
        place = options.output / f"scattered-{number:02d}.nii.gz"
        write_nifti(place, mask.astype(np.uint8), head.exam["FLAIR"].header)


if __name__ == "__main__":
    try:
        main()
    except RsasegError as error:
        sys.exit(str(error))
