"""FSL FLIRT as an external estimator: handed clean copies, never believed on its exit status."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray

from rsaseg.errors import InputError, RegistrationError
from rsaseg.imaging import Grid, Volume, resample
from rsaseg.imaging.nifti import write_nifti

Float = NDArray[np.float64]

TIMEOUT_S = 900.0
_COST = ("-dof", "6", "-cost", "normmi", "-searchcost", "normmi")
_FROM_HEADER = ("-usesqform", "-nosearch")
_COMPLAINTS = (
    *("Exception", "Error", "ERROR", "Could not", "inv():", "COG, total"),
    "sub-threshold costs",  # a damaged image
)


def find_flirt() -> Path | None:
    """Return the ``flirt`` program: on PATH, else under FSLDIR, else None."""
    fsl = os.environ.get("FSLDIR")
    found = shutil.which("flirt") or (fsl and shutil.which("flirt", path=str(Path(fsl) / "bin")))
    return Path(found).absolute() if found else None


def require_flirt() -> Path:
    """Return the ``flirt`` program.

    Raises
    ------
    InputError
        If there is none.
    """
    found = find_flirt()
    if found is None:
        raise InputError(
            "flirt: not found on PATH or under FSLDIR; install FSL from https://fsl.fmrib.ox.ac.uk "
            "(its licence allows non-commercial use only), or choose --registration simpleitk"
        )
    return found


def version(flirt: Path) -> str:
    """Return FSL's release where its tree tells it, else what ``flirt -version`` prints."""
    for root in (os.environ.get("FSLDIR"), str(flirt.resolve().parent.parent)):
        release = Path(root or "") / "etc" / "fslversion"
        if root and release.is_file():
            return f"FSL {release.read_text(errors='replace').strip()}"
    stdout, _, _ = _run([str(flirt), "-version"], 30.0)
    return stdout.strip() or "unknown"


def fsl_from_voxel(grid: Grid) -> Float:
    """Return FSL's scaled-voxel mm of a voxel index, (4, 4).

    Index times spacing, with the first axis reversed where the affine has a positive determinant
    (FSL keeps images in radiological order).
    """
    matrix = np.diag((*grid.spacing_mm, 1.0))
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        matrix[0, 0] *= -1
        matrix[0, 3] = (grid.shape[0] - 1) * grid.spacing_mm[0]
    return matrix


def ras_from_fsl(matrix: Float, moving: Grid, fixed: Grid) -> Float:
    """Return ``fixed_from_moving`` in RAS mm of FLIRT's matrix.

    Parameters
    ----------
    matrix : ndarray
        (4, 4), FSL's scaled-voxel mm of ``moving`` to those of ``fixed``.
    moving, fixed : Grid
        Of the images FLIRT was given as ``-in`` and ``-ref``.
    """
    world_from_fsl = fixed.affine @ np.linalg.inv(fsl_from_voxel(fixed))
    fsl_from_world = fsl_from_voxel(moving) @ np.linalg.inv(moving.affine)
    ras: Float = world_from_fsl @ matrix @ fsl_from_world
    return ras


def fsl_from_ras(fixed_from_moving: Float, moving: Grid, fixed: Grid) -> Float:
    """Return FLIRT's matrix of a RAS mm transform; the inverse of `ras_from_fsl`."""
    fsl_from_world = fsl_from_voxel(fixed) @ np.linalg.inv(fixed.affine)
    world_from_fsl = moving.affine @ np.linalg.inv(fsl_from_voxel(moving))
    fsl: Float = fsl_from_world @ fixed_from_moving @ world_from_fsl
    return fsl


def _number(text: str) -> float:
    """Return a decimal number, or the hexadecimal one that FSL 5.0.7 writes."""
    return float.fromhex(text) if "0x" in text.lower() else float(text)


def read_matrix(path: Path) -> Float:
    """Read FLIRT's matrix file.

    Raises
    ------
    RegistrationError
        If it is missing, not 4x4 finite numbers, or not a rotation and a shift.
    """
    try:
        rows = [[_number(x) for x in line.split()] for line in path.read_text().splitlines()]
        matrix = np.array([row for row in rows if row], dtype=np.float64)
    except FileNotFoundError:
        raise RegistrationError("flirt: ended without an error and wrote no matrix") from None
    except (OSError, ValueError):
        matrix = np.empty(0)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise RegistrationError("flirt: its matrix file does not hold 4x4 finite numbers")
    rotation = matrix[:3, :3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3) and np.linalg.det(rotation) > 0
    if not rigid or not np.allclose(matrix[3], (0, 0, 0, 1), atol=1e-6):
        raise RegistrationError("flirt: its matrix is not a rotation and a shift")
    return matrix


def _run(command: list[str], timeout_s: float) -> tuple[str, str, int]:
    """Run a program in its own process group; return stdout, stderr and exit status."""
    environment = {**os.environ, "FSLOUTPUTTYPE": "NIFTI", "LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        raise RegistrationError(
            f"flirt: {command[0]} cannot be run ({error.strerror}); check the FSL installation"
        ) from None
    with process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
        except BaseException as stopped:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(stopped, subprocess.TimeoutExpired):
                raise RegistrationError(
                    f"flirt: gave no answer in {timeout_s:.0f} s and was stopped; "
                    "choose --registration simpleitk"
                ) from None
            raise
    return stdout, stderr, process.returncode


def _quote(text: str) -> str:
    """Return a program's message on one line, its first 300 characters."""
    return " ".join(text.split())[:300] or "no message"


def _write_copy(path: Path, volume: Volume) -> None:
    """Write a plain float32 NIfTI-1 copy whose sform and qform are one affine."""
    header = Nifti1Header()
    header.set_data_shape(volume.data.shape)
    header.set_sform(volume.grid.affine, code=1)
    header.set_qform(volume.grid.affine, code=1)
    header.set_xyzt_units("mm")
    write_nifti(path, volume.data, header)


def _perpendicular(volume: Volume) -> Volume:
    """Return the volume, resampled where its axes are sheared: a qform cannot say that."""
    axes = volume.grid.affine[:3, :3] / volume.grid.spacing_mm
    if np.allclose(axes.T @ axes, np.eye(3), atol=1e-4):
        return volume
    corners = volume.grid.corners_mm()
    step_mm = min(volume.grid.spacing_mm)
    x, y, z = (int(n) for n in np.ceil(np.ptp(corners, axis=0) / step_mm) + 1)
    affine = np.diag([step_mm, step_mm, step_mm, 1.0])
    affine[:3, 3] = corners.min(axis=0)
    grid = Grid((x, y, z), affine)
    data = resample(volume.data, volume.grid, grid, fill=volume.air)
    return replace(volume, data=data, grid=grid)


def estimate(
    moving: Volume, fixed: Volume, use_headers: bool = True, timeout_s: float = TIMEOUT_S
) -> Float:
    """Find the rigid transform between two images with FLIRT (doi:10.1006/nimg.2002.1132).

    FLIRT only estimates; nothing it writes but the matrix is read, and its exit status 0 is not
    believed without a clean error stream and a rigid matrix.

    Parameters
    ----------
    moving, fixed : Volume
        Three-dimensional images.
    use_headers : bool
        Start from where the headers place the images; else match centres and search all angles.
    timeout_s : float
        Seconds after which FLIRT is stopped.

    Returns
    -------
    ndarray
        (4, 4) ``fixed_from_moving``, RAS mm, six degrees of freedom.

    Raises
    ------
    InputError
        If there is no FLIRT.
    RegistrationError
        If it crashed, hung, complained or left no rigid matrix, or the temporary folder is
        read-only or full.
    """
    flirt = require_flirt()
    moving, fixed = _perpendicular(moving), _perpendicular(fixed)
    try:
        folder = tempfile.TemporaryDirectory(prefix="rsaseg-flirt-", ignore_cleanup_errors=True)
    except OSError as error:
        raise RegistrationError(
            f"flirt: no temporary folder can be made ({error.strerror}); set TMPDIR to one that can"
        ) from None
    with folder as name:
        paths = {part: Path(name) / part for part in ("moving.nii", "fixed.nii", "matrix.mat")}
        try:
            _write_copy(paths["moving.nii"], moving)
            _write_copy(paths["fixed.nii"], fixed)
        except InputError as error:
            raise RegistrationError(f"flirt: {error}; or set TMPDIR to a larger place") from None
        command = [str(flirt), "-in", str(paths["moving.nii"]), "-ref", str(paths["fixed.nii"])]
        command += ["-omat", str(paths["matrix.mat"]), *_COST]
        command += _FROM_HEADER if use_headers else ()
        stdout, stderr, status = _run(command, timeout_s)
        text = f"{stderr}\n{stdout}"
        if status != 0 or any(complaint in text for complaint in _COMPLAINTS):
            raise RegistrationError(
                f"flirt: failed (exit {status}): {_quote(text)}; "
                "check the image, or choose --registration simpleitk"
            )
        return ras_from_fsl(read_matrix(paths["matrix.mat"]), moving.grid, fixed.grid)
