"""A synthetic exam: what a scanner makes of the synthetic head, and its truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.orientations import axcodes2ornt
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from rsaseg.errors import InputError
from rsaseg.imaging import Grid, Volume, make_folder
from rsaseg.imaging.files import write_together
from rsaseg.imaging.nifti import nifti_bytes
from rsaseg.phantom.head import TISSUES, Array, Head, make_head, sample_tissues

# Signal of each tissue, in units of the brain's median, in the order of TISSUES.
SIGNAL = {
    "T1": (0.0, 2.1, 0.80, 0.2, 0.35, 0.82, 0.95, 1.13, 0.90),
    "T2": (0.0, 1.0, 0.50, 0.2, 2.70, 1.15, 0.95, 0.80, 1.45),
    "FLAIR": (0.0, 1.9, 0.70, 0.2, 0.20, 1.10, 1.05, 0.92, 1.60),
}
BRAIN_SIGNAL = 400.0  # of the median, as a scanner would store it
NOISE = 0.025  # standard deviation, in units of the brain's median
FOV_CENTRE_MM = (0.0, -2.0, 6.0)


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic exam and its truth.

    Attributes
    ----------
    images : dict
        ``"T1"``, ``"T2"`` and ``"FLAIR"`` volumes.
    lesion, brain : ndarray
        bool, on the FLAIR's grid; the brain holds its sulci and ventricles.
    head : Head
        With the list of lesions.
    """

    images: dict[str, Volume]
    lesion: NDArray[np.bool_]
    brain: NDArray[np.bool_]
    head: Head = field(repr=False)

    @property
    def grid(self) -> Grid:
        """The FLAIR's grid."""
        return self.images["FLAIR"].grid


def phantom_grid(
    shape_vox: tuple[int, int, int] = (192, 224, 54),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 3.0),
    tilt_deg: tuple[float, float, float] = (9.0, -3.0, 4.0),
    orientation: str = "LAS",
) -> Grid:
    """Return a grid centred on the head.

    Parameters
    ----------
    shape_vox, spacing_mm : tuple
        Along the stored axes.
    tilt_deg : tuple of float
        Rotation about the R, A and S axes; (0, 0, 0) is not oblique.
    orientation : str
        Where the stored axes run to, nearest: ``"RAS"``, ``"LPS"``, ``"PIR"`` and so on.
    """
    axis, flip = axcodes2ornt(tuple(orientation)).T
    direction = np.zeros((3, 3))
    direction[axis.astype(int), range(3)] = flip
    affine = np.eye(4)
    tilt = Rotation.from_euler("xyz", tilt_deg, degrees=True).as_matrix()
    affine[:3, :3] = tilt @ direction * spacing_mm
    affine[:3, 3] = FOV_CENTRE_MM - affine[:3, :3] @ (np.array(shape_vox) - 1) / 2
    return Grid(shape_vox, affine)


def sample_sequence(head: Head, sequence: str, mixture: Array) -> NDArray[np.float32]:
    """Return the image of ``sequence`` that a scanner makes of a tissue mixture.

    Signals are added up per voxel, shaded by a smooth field and given Rician noise.
    """
    image = mixture @ np.array(SIGNAL[sequence], np.float32)
    rng = np.random.default_rng([head.seed, sorted(SIGNAL).index(sequence)])
    ramp = [np.linspace(-1, 1, n, dtype=np.float32) for n in image.shape]
    slope = rng.uniform(-0.06, 0.06, 3)
    for axis, line in enumerate(ramp):
        shading = 1 + slope[axis] * line - 0.05 * line**2
        image = image * np.expand_dims(shading, [k for k in range(3) if k != axis])
    noise = rng.normal(0, NOISE, (2, *image.shape)).astype(np.float32)
    magnitude: NDArray[np.float32] = BRAIN_SIGNAL * np.hypot(image + noise[0], noise[1])
    return magnitude.astype(np.float32)


def _header(grid: Grid) -> Nifti1Header:
    """Return a header with sform and qform of ``grid``, code 1, in mm."""
    header = Nifti1Header()
    header.set_data_shape(grid.shape)
    header.set_qform(grid.affine, 1)
    header.set_sform(grid.affine, 1)
    header.set_xyzt_units("mm", "sec")
    return header


def make_phantom(
    seed: int = 0,
    shape_vox: tuple[int, int, int] = (192, 224, 54),
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 3.0),
    tilt_deg: tuple[float, float, float] = (9.0, -3.0, 4.0),
    orientation: str = "LAS",
    lesions: bool = True,
    grids: Mapping[str, Grid] | None = None,
    flair_from: Mapping[str, Array] | None = None,
) -> Phantom:
    """Return a synthetic exam; the same arguments give the same voxels.

    Parameters
    ----------
    seed : int
        Of the head, the lesions and the noise.
    shape_vox, spacing_mm, tilt_deg, orientation
        Of the common grid, see `phantom_grid`.
    lesions : bool
        False for a healthy head.
    grids : mapping, optional
        Another grid for a sequence, by its name.
    flair_from : mapping, optional
        By sequence, (4, 4) RAS mm of its image to RAS mm of the FLAIR: the head that moved.
    """
    head = make_head(seed, lesions)
    common = phantom_grid(shape_vox, spacing_mm, tilt_deg, orientation)
    flair_grid = (grids or {}).get("FLAIR", common)
    sampled = sample_tissues(head, flair_grid)
    images = {}
    for sequence in SIGNAL:
        grid = (grids or {}).get(sequence, common)
        pose = (flair_from or {}).get(sequence)
        own = sampled if grid is flair_grid and pose is None else sample_tissues(head, grid, pose)
        data = sample_sequence(head, sequence, own[0])
        images[sequence] = Volume(data, grid, _header(grid), f"phantom {sequence}")
    return Phantom(images, sampled[0][..., TISSUES.index("lesion")] >= 0.5, sampled[1] >= 0.5, head)


def write_phantom(
    folder: Path, phantom: Phantom | None = None, suffix: str = ".nii.gz"
) -> dict[str, Path]:
    """Write an exam as ``T1``, ``T2``, ``FLAIR`` and its truth as ``lesion`` into a folder.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    phantom : Phantom, optional
        Default: ``make_phantom()``.
    suffix : str
        ``.nii.gz`` or ``.nii``.

    Returns
    -------
    dict
        The files by name.

    Raises
    ------
    InputError
        If one is there already with other content.
    """
    exam = make_phantom() if phantom is None else phantom
    images = {name: np.round(one.data).astype(np.int16) for name, one in exam.images.items()}
    headers = {name: one.header for name, one in exam.images.items()}
    images["lesion"], headers["lesion"] = exam.lesion.astype(np.uint8), headers["FLAIR"]
    files = {name: folder / f"{name}{suffix}" for name in images}
    contents = {files[name]: nifti_bytes(images[name], headers[name], suffix) for name in images}
    for path, content in contents.items():
        if path.exists() and path.read_bytes() != content:
            raise InputError(f"{path}: is there already, and another; choose another folder")
    make_folder(folder)
    write_together(contents)
    return files
