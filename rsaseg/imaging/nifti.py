"""Reading and writing NIfTI: every check on the way in, nothing half-written on the way out."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from rsaseg.errors import GeometryError, InputError
from rsaseg.imaging.files import write_atomic
from rsaseg.imaging.grid import Grid

Source = str | os.PathLike[str] | Nifti1Image
"""A NIfTI file's path, or an image that nibabel has loaded or made."""

SUFFIXES = (".nii.gz", ".nii")
_NOT_MM = {1: "metres", 3: "micrometres"}
"""Codes of NIfTI's spatial units; 0, unknown, is taken for mm as everywhere."""
_RIPPLE, _DARKEST = 0.05, 0.3
"""Of the range of grey values: as far under 0 resampled air may lie, and so far over 0 the darkest
tissue of an image without air."""
_GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


@dataclass(frozen=True, eq=False)
class Volume:
    """A 3D image in memory.

    Attributes
    ----------
    data : ndarray
        float32, scaling applied, in the file's own axis order.
    grid : Grid
        Where its voxels lie.
    header : Nifti1Header
        Geometry fields of the file, and no other text or number of it.
    name : str
        What to call it in messages: its path.
    sha256 : str
        Of the file's bytes.
    warnings : tuple of str
        What a user should know of its header.
    """

    data: NDArray[np.float32]
    grid: Grid
    header: Nifti1Header
    name: str
    sha256: str = ""
    warnings: tuple[str, ...] = ()

    @cached_property
    def air(self) -> float:
        """Grey value of air: 0, or in a file with an offset its darkest value."""
        low, high = np.percentile(self.data[::2, ::2, ::2], (0.5, 99.5))
        span = high - low
        return 0.0 if -_RIPPLE * span <= low <= _DARKEST * span else float(low)


def check_suffix(path: Path) -> str:
    """Return ``.nii`` or ``.nii.gz``, whichever ``path`` ends in.

    Raises
    ------
    InputError
        If it ends in neither.
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise InputError(
        f"{path}: not a NIfTI name; give a file that ends in .nii or .nii.gz (dcm2niix makes it "
        f"from DICOM)"
    )


def _read_bytes(path: Path) -> tuple[bytes, str]:
    """Return the file's unpacked bytes and the SHA-256 of its packed ones."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; check the path")
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a .nii or .nii.gz file")
        check_suffix(path)
        packed = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    sha256 = hashlib.sha256(packed).hexdigest()
    if packed[:2] != b"\x1f\x8b":
        return packed, sha256
    try:
        return gzip.decompress(packed), sha256  # also checks the CRC
    except (OSError, EOFError, zlib.error):
        raise InputError(f"{path}: damaged or truncated gzip file; copy it again") from None


def _open(path: Path, raw: bytes) -> Any:
    """Return the nibabel image in ``raw``."""
    nifti2 = raw[:4] in ((540).to_bytes(4, "little"), (540).to_bytes(4, "big"))
    image_class: Any = nib.Nifti2Image if nifti2 else nib.Nifti1Image
    try:
        with np.errstate(all="ignore"):
            image: Any = image_class.from_bytes(raw)
    except (ImageFileError, HeaderDataError, WrapStructError, ValueError, OSError):
        raise InputError(
            f"{path}: not a NIfTI image; convert it, for example with dcm2niix"
        ) from None
    shape = [int(n) for n in image.shape]
    end = image.dataobj.offset + math.prod(shape) * image.get_data_dtype().itemsize
    if min(shape, default=0) < 0 or not 0 <= image.dataobj.offset <= end <= len(raw):
        raise InputError(f"{path}: fewer voxels than its header says; copy it again")
    return image


def _check_grid(path: Path, image: Any, what: str) -> Grid:
    """Return the grid of an image of one 3D volume of plain numbers; ``what`` to ask for."""
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise InputError(f"{path}: a {len(shape)}D image; give one 3D {what}")
    if image.get_data_dtype().kind not in "iufb":
        raise InputError(f"{path}: voxels are not plain numbers; give a grey-value image")
    unit = _NOT_MM.get(int(image.header["xyzt_units"]) & 7)
    if unit:
        raise GeometryError(f"{path}: its header is in {unit}; rewrite it in mm")
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or not abs(np.linalg.det(affine[:3, :3])) > 1e-9:
        raise GeometryError(
            f"{path}: its affine has no inverse; repair the header's sform or qform"
        )
    return Grid((shape[0], shape[1], shape[2]), affine)


def _check_forms(path: Path, header: Nifti1Header, grid: Grid) -> tuple[str, ...]:
    """Compare sform and qform; return warnings."""
    if not header["sform_code"] and not header["qform_code"]:
        return (f"{path}: no orientation in the header (sform and qform codes are 0)",)
    if header["sform_code"] and header["qform_code"]:
        try:
            other = Grid(grid.shape, header.get_qform())
        except ValueError:
            raise GeometryError(
                f"{path}: its qform is no rotation; "
                "copy the sform over it, for example with fslorient -copysform2qform"
            ) from None
        apart_mm = np.linalg.norm(grid.corners_mm() - other.corners_mm(), axis=1).max()
        if not apart_mm <= 1.0:
            raise GeometryError(
                f"{path}: sform and qform place the image {apart_mm:.3g} mm apart; "
                "make them agree, for example with fslorient -copysform2qform"
            )
    return ()


def geometry_header(source: Nifti1Header) -> Nifti1Header:
    """Return a fresh header with only the geometry of ``source``."""
    header = type(source)()
    for field in _GEOMETRY_FIELDS:
        header[field] = source[field]
    header["pixdim"][4:] = 0
    return header


def as_volume(image: Any, name: str, sha256: str = "") -> Volume:
    """Check a nibabel image and return it as a volume.

    Raises
    ------
    InputError
        If it is not 3D, has NaN or infinite voxels, is constant, a mask or not of real numbers.
    GeometryError
        If its affine cannot be inverted, or sform and qform disagree by over 1 mm.
    """
    path = Path(name)
    with np.errstate(all="ignore"):
        grid = _check_grid(path, image, "volume")
        warnings = _check_forms(path, image.header, grid)
        data = np.asarray(image.dataobj, dtype=np.float32).reshape(grid.shape)
    if not np.isfinite(data).all():
        raise InputError(f"{path}: has NaN or infinite voxels; replace them, for example by 0")
    if data.size == 0 or (low := data.min()) == (high := data.max()):
        raise InputError(f"{path}: every voxel has the same value; give a real image")
    if ((data == low) | (data == high)).all():
        raise InputError(f"{path}: holds two values only, as a mask does; give a real image")
    return Volume(data, grid, geometry_header(image.header), name, sha256, warnings)


def read_volume(path: Path) -> Volume:
    """Read one 3D NIfTI file in full and check it.

    Parameters
    ----------
    path : Path
        ``.nii`` or ``.nii.gz``, NIfTI-1 or -2, any data type, scaling and orientation.

    Raises
    ------
    InputError
        If the file is missing, unreadable, damaged, not NIfTI, or see `as_volume`.
    """
    raw, sha256 = _read_bytes(path)
    return as_volume(_open(path, raw), str(path), sha256)


def as_mask(image: Any, name: str) -> tuple[NDArray[np.bool_], Grid]:
    """Check a nibabel image of zeros and ones, and return it as a mask; it may be empty.

    Raises
    ------
    InputError
        If it is not 3D, or a value is neither 0 nor 1.
    GeometryError
        If its affine cannot be inverted.
    """
    path = Path(name)
    with np.errstate(all="ignore"):
        grid = _check_grid(path, image, "mask")
        data = np.asarray(image.dataobj).reshape(grid.shape)
    mask = np.abs(data - 1) < 1e-3 if data.dtype.kind == "f" else data == 1
    if not (mask | (np.abs(data) < 1e-3 if data.dtype.kind == "f" else data == 0)).all():
        raise InputError(f"{path}: a mask may hold only 0 and 1; binarise it first")
    return mask, grid


def read_mask(path: Path) -> tuple[NDArray[np.bool_], Grid]:
    """Read a mask of zeros and ones; an empty one is allowed.

    Raises
    ------
    InputError
        As `read_volume`, or if a value is neither 0 nor 1.
    """
    return as_mask(_open(path, _read_bytes(path)[0]), str(path))


def nifti_bytes(data: NDArray[Any], header: Nifti1Header, suffix: str) -> bytes:
    """Return a NIfTI file's bytes: ``data`` in its own type on the geometry of ``header``.

    The same data give the same bytes: a ``.nii.gz`` carries no time and no name.
    """
    header = geometry_header(header)
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    image_class: Any = nib.Nifti2Image if header["sizeof_hdr"] == 540 else nib.Nifti1Image
    raw: bytes = image_class(data, None, header).to_bytes()
    return gzip.compress(raw, compresslevel=6, mtime=0) if suffix == ".nii.gz" else raw


def write_nifti(path: Path, data: NDArray[Any], header: Nifti1Header) -> None:
    """Write an image atomically on the geometry (sform, qform, codes, units) of ``header``.

    Parameters
    ----------
    path : Path
        Ends in ``.nii`` or ``.nii.gz``.
    data : ndarray
        Written in its own data type, unscaled.
    header : Nifti1Header
        Of the volume whose grid ``data`` lies on.
    """
    write_atomic(path, nifti_bytes(data, header, check_suffix(path)))
