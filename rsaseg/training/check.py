"""What is wrong with a data set, all of it, before any training."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter1d

from rsaseg.errors import InputError
from rsaseg.imaging import Grid, Volume, ras_grid, read_mask, read_volume
from rsaseg.lesions import bounding_box
from rsaseg.preprocessing import SEQUENCES, InputSpec, find_swapped, off_grid
from rsaseg.progress import Progress, told, untold
from rsaseg.training.cases import CaseFiles

FITS = 0.7
"""A mask whose voxels are brighter on FLAIR than those around them less often does not fit. Of 15
public cases of three sites every mask reaches 0.94, none of another patient 0.6."""
CLEARLY_BETTER = 0.12
"""A mask that would fit better by this much the other way round is taken to be flipped. The best
flip of the same masks reaches 0.72, and is 0.26 or more worse than the mask as it is."""
RING_MM = 4.0
DIRECTIONS = ("left-right", "front-back", "up-down")

Mask = NDArray[np.bool_]
Seen = dict[str, tuple[Path, str]]
"""Content of a file to the first that held it, and its patient."""


def check_cases(
    cases: Sequence[CaseFiles],
    spec: InputSpec,
    crop_vox: tuple[int, int, int],
    progress: Progress = untold,
) -> tuple[list[str], list[str]]:
    """Read every file once and return what must be mended, and what one should know.

    Parameters
    ----------
    cases : sequence of CaseFiles
        See `rsaseg.training.cases.scan_cases`.
    spec : InputSpec
        Of the network.
    crop_vox : tuple of int
        (D, H, W) of a training crop on the network's grid.
    progress : callable, optional
        See `rsaseg.progress.Progress`.

    Returns
    -------
    problems, notes : list of str
        One line each: the file, what is wrong, what to do.
    """
    problems: list[str] = []
    notes: list[str] = []
    seen: Seen = {}
    real = [case for case in cases if not case.made]
    visits = Counter(case.patient for case in real)
    if cases and not real:
        problems.append(f"{cases[0].lesion.parent}: made, as all cases are; add real ones")
    elif len({case.patient for case in cases}) == 1:
        problems.append(
            f"{cases[0].lesion.parent}: of the only patient; training needs two or more "
            f"(--patients tells whose cases are, where names do not)"
        )
    elif real and not any(case.table_patient for case in real):
        patient, most = visits.most_common(1)[0]
        visits_of = f", {most} of {patient}" if most > 1 else ""
        notes.append(
            f"{len(real)} cases of {len(visits)} patients by their names{visits_of}; where that is "
            f"wrong, give a table (--patients)"
        )
    for case in told(cases, "check cases", progress):
        wrong, suspicious = check_case(case, spec, crop_vox, seen)
        problems += wrong
        notes += suspicious
        missing = [name for name in SEQUENCES if name not in case.sequences]
        if missing:
            notes.append(f"{case.lesion.parent}: without {' and '.join(missing)}, which is allowed")
    return problems, notes


def check_case(
    case: CaseFiles, spec: InputSpec, crop_vox: tuple[int, int, int], seen: Seen
) -> tuple[list[str], list[str]]:
    """Return a case's problems and notes; ``seen`` keeps each image's content and whose it is."""
    problems: list[str] = []
    volumes: dict[str, Volume] = {}
    for name, path in case.sequences.items():
        try:
            volumes[name] = read_volume(path)
        except InputError as error:
            problems.append(str(error))
        else:
            problems += _seen_before(path, volumes[name].data, case, seen)
    for path in filter(None, (case.lesion, case.brain)):
        try:
            mask, grid = read_mask(path)
        except InputError as error:
            problems.append(str(error))
            continue
        if path == case.lesion and mask.any():
            problems += _seen_before(path, mask, case, seen)
        if "FLAIR" in volumes:
            drawn = path == case.lesion and not case.made  # made ones may be fainter than real ones
            problems += _check_mask(path, mask, grid, volumes["FLAIR"], drawn)
    if "FLAIR" in volumes:
        problems += _check_grids(volumes, spec, crop_vox)
    whole = not case.made and not problems  # made ones may have a contrast that nothing has
    return problems, list(find_swapped(volumes)) if whole else []


def _seen_before(path: Path, data: NDArray[Any], case: CaseFiles, seen: Seen) -> Iterator[str]:
    """Say so if another file holds the same; what is made from a patient's exam may keep some."""
    digest = hashlib.sha256(repr(data.shape).encode())
    digest.update(np.ascontiguousarray(data).data)
    first, patient = seen.setdefault(digest.hexdigest(), (path, case.patient))
    if first != path and not (case.made and case.patient == patient):
        yield f"{path}: holds the same voxels as {first}; keep one of them"


def _check_grids(
    volumes: dict[str, Volume], spec: InputSpec, crop_vox: tuple[int, int, int]
) -> Iterator[str]:
    flair = volumes["FLAIR"]
    yield from off_grid(volumes)
    network_vox = ras_grid(flair.grid, spec.spacing_mm).shape[::-1]
    if any(crop > have for crop, have in zip(crop_vox, network_vox, strict=True)):
        yield (
            f"{flair.name}: {_by(network_vox)} voxels on the network's grid, fewer than the "
            f"crop's {_by(crop_vox)}; choose a smaller --crop or leave the case out"
        )


def _by(sizes: Iterable[int]) -> str:
    return "x".join(str(size) for size in sizes)


def _check_mask(path: Path, mask: Mask, grid: Grid, flair: Volume, drawn: bool) -> Iterator[str]:
    if not grid.matches(flair.grid):
        yield f"{path}: not on the FLAIR's grid; draw the mask on the FLAIR"
        return
    if not mask.any():
        yield f"{path}: marks no voxel; fill it, or leave the case out"
        return
    if not drawn:
        return
    often = brighter_than_around(mask, flair)
    own = often.pop(())
    best, axes = max((share, axes) for axes, share in often.items())
    if best > max(own + CLEARLY_BETTER, FITS):
        yield (
            f"{path}: fits its FLAIR better when flipped {_directions(axes, grid)} (brighter than "
            f"what is around {best:.0%} of the time, now {own:.0%}); flip it, or check both files"
        )
    elif own < FITS:
        yield (
            f"{path}: does not fit its FLAIR, where marked voxels are brighter than those around "
            f"them only {own:.0%} of the time; is it another patient's mask?"
        )


def _directions(axes: tuple[int, ...], grid: Grid) -> str:
    """Name array axes in the patient's directions."""
    return " and ".join(
        DIRECTIONS[int(np.argmax(np.abs(grid.affine[:3, axis]) / grid.spacing_mm[axis]))]
        for axis in axes
    )


def brighter_than_around(mask: Mask, flair: Volume) -> dict[tuple[int, ...], float]:
    """Return how often a voxel of the mask is brighter on FLAIR than one close around the mask.

    The area under the ROC curve of FLAIR brightness between the mask and a ring of 4 mm about
    it: near 1 for lesions, about 1/2 for a mask that lies anywhere in the brain. Voxels as dark
    as air are left out of the ring, so the edge of the head says nothing.

    Parameters
    ----------
    mask : ndarray
        (X, Y, Z) bool, not empty, on the grid of ``flair``.
    flair : Volume
        The FLAIR.

    Returns
    -------
    dict
        Array axes along which the mask is flipped, () for none, to the share.
    """
    box = bounding_box(mask)
    reach = [max(1, round(RING_MM / size)) for size in flair.grid.spacing_mm]
    room = tuple(
        slice(max(0, span.start - n), span.stop + n)
        for span, n in zip(box or (), reach, strict=True)
    )
    inside = mask[room]
    near = inside.astype(np.uint8)
    for axis, n in enumerate(reach):
        near = maximum_filter1d(near, 2 * n + 1, axis=axis)
    ring = (near > 0) & ~inside
    low, high = np.percentile(flair.data[::4, ::4, ::2], (1, 99))
    shares = {}
    for flips in product((False, True), repeat=3):
        axes = tuple(axis for axis, flip in enumerate(flips) if flip)
        data = np.flip(flair.data, axes)[room]  # flips image instead of mask: all the same
        around = np.sort(data[ring])
        around = around[np.searchsorted(around, low + 0.1 * (high - low)) :]
        lesion = data[inside]
        below = np.searchsorted(around, lesion, "left") + np.searchsorted(around, lesion, "right")
        shares[axes] = float(below.mean() / (2 * around.size)) if around.size else 0.5
    return shares
