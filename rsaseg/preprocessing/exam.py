"""From images on one grid to the network's input, and from its output back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, find_objects, gaussian_filter, label

from rsaseg.imaging import Grid, Volume, crop_grid, ras_grid, resample
from rsaseg.imaging.distance import distance_mm
from rsaseg.preprocessing.units import brain_units, head_units, to_spread

SEQUENCES = ("T1", "T2", "FLAIR")
"""Channel order of every network here; stored with its weights."""


def off_grid(exam: Mapping[str, Volume]) -> Iterator[str]:
    """Yield a line for each image that does not lie on the FLAIR's grid."""
    flair = exam["FLAIR"]
    for name, volume in exam.items():
        if not volume.grid.matches(flair.grid):
            yield (
                f"{volume.name}: {name} is on {volume.grid.describe()}, the FLAIR on "
                f"{flair.grid.describe()}; run rsaseg preprocess first"
            )


@dataclass(frozen=True)
class InputSpec:
    """How an exam becomes a network's input; stored with its weights.

    Attributes
    ----------
    sequences : tuple of str
        Channel order.
    spacing_mm : tuple of float
        Voxel size along R, A and S.
    thin_mm : float
        An exam whose slices are nearer to this than to ``spacing_mm`` along S is seen in slices so
        far apart, each as thick as ``spacing_mm``: they overlap, and the network sees them in
        turns. 0: never.
    mirrored : bool
        An exam seen in one turn is seen mirrored as well, and the mean of both is its probability.
    margin_mm : float
        Room left around the head.
    clip : float
        Intensities beyond this are cut, in the units of ``normalisation``.
    normalisation : str
        "brain" (`brain_units`), or "head" (`head_units`), which the first weights learned with.
    t1_spread : float
        What T1's contrast is brought to, see `to_spread`; 0: it is left as it is.
    """

    sequences: tuple[str, ...] = SEQUENCES
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 3.0)
    thin_mm: float = 1.5
    mirrored: bool = True
    margin_mm: float = 6.0
    clip: float = 5.0
    normalisation: str = "brain"
    t1_spread: float = 0.36

    def turns_of(self, grid: Grid) -> int:
        """Return in how many turns an exam is seen whose FLAIR lies on ``grid``."""
        thick_mm = self.spacing_mm[2]
        thin = self.thin_mm and grid.axial_mm < (self.thin_mm + thick_mm) / 2
        return max(1, round(thick_mm / self.thin_mm)) if thin else 1

    def seen_once(self) -> InputSpec:
        """Return this without overlapping slices in turns and without the mirrored exam."""
        return replace(self, thin_mm=0.0, mirrored=False)


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """What the network sees of an exam.

    Attributes
    ----------
    image : ndarray
        (C, D, H, W) float32: sequences; axial, coronal, sagittal slices. A missing sequence is 0.
    grid : Grid
        Of one sequence, axes in R, A, S order: ``image`` is (C,) + this shape reversed.
    turns : int
        Every so many-th axial slice is seen at a time.
    mirrored : bool
        It is to be seen mirrored as well, left to right.
    """

    image: NDArray[np.float32]
    grid: Grid
    turns: int = 1
    mirrored: bool = False


def to_tensor_axes(data: NDArray[Any]) -> NDArray[Any]:
    """Turn (R, A, S) arrays into (D, H, W) and back: the one place where axes are transposed."""
    return np.ascontiguousarray(data.transpose(2, 1, 0))


def coarse_grid(flair: Grid) -> Grid:
    """Return the grid on which to look at a whole head: R, A, S; 2 mm in plane.

    Axial slices are as thick as those of the FLAIR, 3 mm at least.
    """
    return ras_grid(flair, (2.0, 2.0, max(3.0, flair.axial_mm)))


def otsu_threshold(values: NDArray[np.float32]) -> float:
    """Return the grey value that splits ``values`` with the largest between-class variance.

    Otsu 1979, doi:10.1109/TSMC.1979.4310076, on a histogram of 256 bins.
    """
    counts, edges = np.histogram(values, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sum_below = np.cumsum(counts * centres)
    mean_below = sum_below / np.maximum(below, 1)
    mean_above = (sum_below[-1] - sum_below) / np.maximum(above, 1)
    return float(centres[np.argmax(below * above * (mean_below - mean_above) ** 2)])


def head_mask(data: NDArray[np.float32], spacing_mm: tuple[float, ...]) -> NDArray[np.bool_]:
    """Return the head, or the brain where the skull is stripped: tissue without air or filling.

    The largest connected part over half of Otsu's threshold in an image smoothed by 1.5 mm.

    Parameters
    ----------
    data : ndarray
        One sequence.
    spacing_mm : tuple of float
        Its voxel size.
    """
    low, high = np.percentile(data[::2, ::2], (0.5, 99.5))
    smooth = gaussian_filter(np.clip(data, low, high), [1.5 / s for s in spacing_mm], truncate=2.0)
    tissue = smooth > low + (otsu_threshold(smooth) - low) / 2
    parts, n = label(tissue)
    if n > 1:
        tissue = parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])
    mask: NDArray[np.bool_] = tissue
    return mask


def fill_slices(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return (R, A, S) with the holes of each axial slice filled."""
    return np.stack([binary_fill_holes(mask[:, :, k]) for k in range(mask.shape[2])], axis=2)


def depth_mm(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, ...], ends: tuple[int, int] = (0, 0)
) -> NDArray[np.float32]:
    """Return the distance to the nearest voxel outside ``mask``, 0 there.

    Parameters
    ----------
    mask : ndarray
        (R, A, S).
    spacing_mm : tuple of float
        Voxel size.
    ends : tuple of int
        Whether what lies below the first and above the last slice is outside, 1, or not, 0.
    """
    low, high = ends
    padded = np.pad(mask, ((1, 1), (1, 1), ends))
    depth = distance_mm(~padded, spacing_mm)
    return depth[1:-1, 1:-1, low : depth.shape[2] - high]


def deep_part(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return what is deeper than 0.4 of the deepest voxel."""
    deep: NDArray[np.bool_] = depth > 0.4 * depth.max()
    return deep


def deep_mask(head: NDArray[np.bool_], spacing_mm: tuple[float, ...]) -> NDArray[np.bool_]:
    """Return the part of a head, or of a stripped brain, that lies deep below its surface.

    See `deep_part`: nearly all of it is brain, skull or not. The first and the last axial slice
    do not count as surface, since scans end in the neck and the crown.

    Parameters
    ----------
    head : ndarray
        (R, A, S) from `head_mask`.
    spacing_mm : tuple of float
        Its voxel size.
    """
    return deep_part(depth_mm(fill_slices(head), spacing_mm))


@dataclass(frozen=True, eq=False)
class WorkingExam:
    """An exam at a network's spacing, grey values as they were.

    Attributes
    ----------
    images : dict
        Sequence name to (R, A, S) data.
    grid : Grid
        Of all of them.
    head : ndarray
        (R, A, S) from `head_mask` of the FLAIR.
    turns : int
        Slices are so many times as thick as they are apart.
    """

    images: dict[str, NDArray[np.float32]]
    grid: Grid
    head: NDArray[np.bool_]
    turns: int = 1


def to_working_grid(
    exam: dict[str, Volume], spacing_mm: tuple[float, float, float], turns: int = 1
) -> WorkingExam:
    """Resample an exam, all on the grid of ``exam["FLAIR"]``, to a spacing along R, A and S.

    In several turns its slices are that thick, and there are as many times more of them.
    """
    flair_grid = exam["FLAIR"].grid
    first = ras_grid(flair_grid, spacing_mm)
    n_r, n_a, n_s = first.shape
    step = first.affine[:, 2] / turns
    affine = np.column_stack([first.affine[:, :2], step, first.affine[:, 3]])
    grid = Grid((n_r, n_a, n_s * turns), affine)

    def overlapping(volume: Volume) -> NDArray[np.float32]:
        slices = np.empty(grid.shape, np.float32)
        for turn in range(turns):
            moved = first.affine.copy()
            moved[:, 3] += turn * step
            seen = Grid(first.shape, moved)
            slices[:, :, turn::turns] = resample(volume.data, flair_grid, seen, fill=volume.air)
        return slices

    with ThreadPoolExecutor() as pool:
        resampled = dict(zip(exam, pool.map(overlapping, exam.values()), strict=True))
    return WorkingExam(resampled, grid, head_mask(resampled["FLAIR"], grid.spacing_mm), turns)


def prepare(exam: dict[str, Volume], spec: InputSpec) -> NetworkInput:
    """Resample, crop to the head and normalise an exam.

    Parameters
    ----------
    exam : dict
        Sequence name to volume, all on the grid of ``exam["FLAIR"]``; others may be missing.
    spec : InputSpec
        Of the weights.
    """
    turns = spec.turns_of(exam["FLAIR"].grid)
    return network_input(to_working_grid(exam, spec.spacing_mm, turns), spec)


def network_input(exam: WorkingExam, spec: InputSpec) -> NetworkInput:
    """Crop an exam to the head and normalise it; a sequence that is not there is 0."""
    box = find_objects(exam.head.astype(np.int8))[0]
    spacing_mm = exam.grid.spacing_mm
    margin = np.ceil(spec.margin_mm / np.array(spacing_mm) - 1e-6).astype(int)
    start = np.maximum(0, np.array([s.start for s in box]) - margin)
    stop = np.minimum(exam.grid.shape, np.array([s.stop for s in box]) + margin)
    crop = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    by_brain = spec.normalisation == "brain"
    deep = deep_mask(exam.head[crop], spacing_mm) if by_brain else None

    def channel(name: str) -> NDArray[np.float32]:
        if name not in exam.images:
            return np.zeros(tuple(stop - start)[::-1], dtype=np.float32)
        data = exam.images[name]
        if deep is not None:
            scaled = brain_units(data[crop], deep)
            if name == "T1" and spec.t1_spread:
                scaled = to_spread(scaled, deep, spec.t1_spread)
            scaled = scaled.clip(-3, spec.clip)  # below air is ripple
        else:
            head = exam.head if name == "FLAIR" else head_mask(data, spacing_mm)
            scaled = head_units(data[crop], head[crop]).clip(-spec.clip, spec.clip)
        return to_tensor_axes(scaled)

    with ThreadPoolExecutor() as pool:
        channels = list(pool.map(channel, spec.sequences))
    image = np.stack(channels).astype(np.float32)
    mirrored = spec.mirrored and exam.turns == 1
    return NetworkInput(image, crop_grid(exam.grid, start, stop), exam.turns, mirrored)


def to_flair_grid(
    probability: NDArray[np.float32], grid: Grid, flair_grid: Grid
) -> NDArray[np.float32]:
    """Bring a probability (D, H, W) on ``grid`` back to the FLAIR's own grid, 0 outside."""
    back = resample(to_tensor_axes(probability), grid, flair_grid)
    return np.clip(back, 0.0, 1.0)
