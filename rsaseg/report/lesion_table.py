"""The lesion table: one row a lesion, as TSV, and what its columns mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist

from rsaseg.anatomy import LOCATIONS, Anatomy, Place, locate
from rsaseg.imaging import Grid
from rsaseg.report.tsv import tsv

_CORNERS = np.array(list(np.ndindex(2, 2, 2)))  # half a voxel off, which changes no distance

REVIEW_BELOW = 0.92
"""Lesions of a lower confidence are marked for review.

Of 362 lesions that version 15's fold networks found in patients they had not learned from, 94 % of
the wrong and 44 % of the right ones lie under it, and 98 % of the others are right. Under 0.84,
where Youden's index is best, would lie 79 % of the wrong (``tests/benchmarks/calibration.py``).
"""

LESION_COLUMNS: dict[str, dict[str, Any]] = {
    "label": {"Description": "Number of the lesion in the label map, 1 is the largest"},
    "volume_ml": {"Description": "Volume of its voxels", "Units": "mL"},
    "diameter_mm": {
        "Description": "Greatest distance between two corners of its voxels, in any direction",
        "Units": "mm",
    },
    "centroid_r_mm": {"Description": "Mean position, towards the right", "Units": "mm"},
    "centroid_a_mm": {"Description": "Mean position, towards the front", "Units": "mm"},
    "centroid_s_mm": {"Description": "Mean position, towards the head", "Units": "mm"},
    "centroid_i_vox": {"Description": "Mean position along the first array axis, from 0"},
    "centroid_j_vox": {"Description": "Mean position along the second array axis, from 0"},
    "centroid_k_vox": {"Description": "Mean position along the third array axis, from 0"},
    "first_slice": {"Description": "First slice it lies on, from 0, along the slice axis"},
    "last_slice": {"Description": "Last slice it lies on"},
    "n_slices": {"Description": "Slices from the first to the last, both included"},
    "ventricle_mm": {
        "Description": "Distance to the bodies and upper horns of the lateral ventricles, between "
        "the nearest voxels' centres; n/a where these were not found, or the lesion lies below",
        "Units": "mm",
    },
    "surface_mm": {
        "Description": "Distance to the brain's outer surface, which does not follow the sulci, "
        "estimated from the FLAIR; with the skull on some mm too long; n/a where the image ends "
        "nearer",
        "Units": "mm",
    },
    "location": {
        "Description": "Where it lies, by its distances to the ventricles and the surface",
        "Levels": LOCATIONS,
    },
    "mean_probability": {"Description": "Mean lesion probability of its voxels, 0 to 1"},
    "max_probability": {"Description": "Greatest lesion probability of its voxels, 0 to 1"},
    "confidence": {
        "Description": "How likely there is a lesion, 0 to 1: the greatest lesion probability of "
        "its voxels; the model card says what came true of it"
    },
    "review": {
        "Description": "Whether a person should look twice: the confidence is low",
        "Levels": {
            "yes": f"confidence under {REVIEW_BELOW}",
            "no": f"confidence of {REVIEW_BELOW} or more",
        },
    },
}
"""Columns of the lesion table, as a BIDS data dictionary."""


@dataclass(frozen=True)
class Lesion:
    """One lesion; ``LESION_COLUMNS`` says what each number is. What is unknown is NaN."""

    label: int
    volume_ml: float
    diameter_mm: float
    centroid_r_mm: float
    centroid_a_mm: float
    centroid_s_mm: float
    centroid_i_vox: float
    centroid_j_vox: float
    centroid_k_vox: float
    first_slice: int
    last_slice: int
    n_slices: int
    ventricle_mm: float = math.nan
    surface_mm: float = math.nan
    location: str = "unknown"
    mean_probability: float = math.nan
    max_probability: float = math.nan
    confidence: float = math.nan

    @property
    def review(self) -> bool:
        """Whether a person should look twice: the confidence is low."""
        return self.confidence < REVIEW_BELOW

    def row(self) -> dict[str, Any]:
        """Return the value of every column of ``LESION_COLUMNS``."""
        return asdict(self) | {"review": "yes" if self.review else "no"}


def slice_axis(grid: Grid) -> int:
    """Return the array axis that counts slices: the coarsest; if two are alike, the most upright.

    Axes alike to a tenth count as equally coarse, so 1 mm isotropic volumes have axial slices.
    """
    spacing_mm = np.array(grid.spacing_mm)
    coarse = spacing_mm > spacing_mm.max() / 1.1
    up = np.abs(grid.affine[2, :3]) / spacing_mm
    return int(np.argmax(np.where(coarse, up, -1.0)))


def diameter_mm(voxels: NDArray[np.integer[Any]], grid: Grid) -> float:
    """Return the greatest distance between two corners of a set of voxels.

    Parameters
    ----------
    voxels : ndarray
        (n, 3) array indices on ``grid``, n > 0.
    grid : Grid
        Turns them into mm.
    """
    # only the first and the last voxel of each line along the third axis can be outermost
    order = np.lexsort(voxels.T[::-1])
    lines = voxels[order]
    new_line = np.any(np.diff(lines[:, :2], axis=0) != 0, axis=1)
    ends = lines[np.append(True, new_line) | np.append(new_line, True)]
    corners = np.unique((ends[:, None] + _CORNERS).reshape(-1, 3), axis=0)
    corners_mm = apply_affine(grid.affine, corners)
    return float(pdist(corners_mm[ConvexHull(corners_mm).vertices]).max())


def describe_lesions(
    labels: NDArray[np.integer[Any]],
    grid: Grid,
    probability: NDArray[np.floating[Any]] | None = None,
    anatomy: Anatomy | None = None,
) -> list[Lesion]:
    """Measure every lesion of a label map.

    Parameters
    ----------
    labels : ndarray
        (X, Y, Z) on ``grid``, as `rsaseg.lesions.find_lesions` numbers them.
    grid : Grid
        Of ``labels``.
    probability : ndarray, optional
        (X, Y, Z) lesion probability on ``grid``.
    anatomy : Anatomy, optional
        Of the same exam: gives distances and locations.

    Returns
    -------
    list of Lesion
        By label.
    """
    axis = slice_axis(grid)
    lesions = []
    for label, box in enumerate(find_objects(labels), start=1):
        if box is None:
            continue
        inside = labels[box] == label
        voxels = np.argwhere(inside) + [span.start for span in box]
        centroid_vox = voxels.mean(axis=0)
        r_mm, a_mm, s_mm = (float(mm) for mm in apply_affine(grid.affine, centroid_vox))
        i_vox, j_vox, k_vox = (float(vox) for vox in centroid_vox)
        seen = np.array(math.nan) if probability is None else probability[box][inside]
        place = Place() if anatomy is None else locate(anatomy, apply_affine(grid.affine, voxels))
        lesions.append(
            Lesion(
                label=label,
                volume_ml=len(voxels) * grid.voxel_mm3 / 1000,
                diameter_mm=diameter_mm(voxels, grid),
                centroid_r_mm=r_mm,
                centroid_a_mm=a_mm,
                centroid_s_mm=s_mm,
                centroid_i_vox=i_vox,
                centroid_j_vox=j_vox,
                centroid_k_vox=k_vox,
                first_slice=box[axis].start,
                last_slice=box[axis].stop - 1,
                n_slices=box[axis].stop - box[axis].start,
                ventricle_mm=place.ventricle_mm,
                surface_mm=place.surface_mm,
                location=place.location,
                mean_probability=float(seen.mean(dtype=np.float64)),
                max_probability=float(seen.max()),
                confidence=float(seen.max()),
            )
        )
    return lesions


def lesion_tsv(lesions: Sequence[Lesion]) -> bytes:
    """Return the lesion table as a TSV file's bytes."""
    return tsv([lesion.row() for lesion in lesions], list(LESION_COLUMNS))
