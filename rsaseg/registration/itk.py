"""ITK's conventions: LPS mm, transforms from fixed points to moving points, images as z, y, x."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from rsaseg.imaging import Grid

Float = NDArray[np.float64]

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def itk_from_ras(fixed_from_moving: Float) -> Float:
    """Return ITK's matrix of a transform: LPS mm, and from fixed points to moving points.

    Parameters
    ----------
    fixed_from_moving : ndarray
        (4, 4), RAS mm to RAS mm.
    """
    matrix: Float = LPS_FROM_RAS @ np.linalg.inv(fixed_from_moving) @ LPS_FROM_RAS
    return matrix


def tfm_text(fixed_from_moving: Float) -> str:
    """Return the text of an ITK transform file (``.tfm``) that resamples moving onto fixed."""
    matrix = itk_from_ras(fixed_from_moving)
    numbers = " ".join(repr(float(x)) for x in (*matrix[:3, :3].ravel(), *matrix[:3, 3]))
    return (
        "#Insight Transform File V1.0\n#Transform 0\n"
        f"Transform: AffineTransform_double_3_3\nParameters: {numbers}\nFixedParameters: 0 0 0\n"
    )


def itk_image(data: NDArray[Any], grid: Grid) -> Any:
    """Return a SimpleITK image of ``data``; the grid's axes must be perpendicular."""
    lps = LPS_FROM_RAS @ grid.affine
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T, dtype=np.float32))
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(tuple(lps[:3, 3]))
    image.SetDirection(tuple((lps[:3, :3] / grid.spacing_mm).ravel()))
    return image


def euler_from_ras(fixed_from_moving: Float, centre_mm: Float) -> Any:
    """Return ITK's Euler transform of a rigid RAS matrix, turning about ``centre_mm`` (LPS)."""
    matrix = itk_from_ras(fixed_from_moving)
    transform = sitk.Euler3DTransform()
    transform.SetCenter(tuple(centre_mm))
    transform.SetMatrix(tuple(matrix[:3, :3].ravel()), 1e-6)
    transform.SetTranslation(tuple(apply_affine(matrix, centre_mm) - centre_mm))
    return transform


def ras_from_euler(euler: Any) -> Float:
    """Return the RAS mm matrix, fixed from moving, of ITK's Euler transform."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(euler.GetMatrix(), (3, 3))
    centre_mm = np.array(euler.GetCenter())
    matrix[:3, 3] = centre_mm + euler.GetTranslation() - matrix[:3, :3] @ centre_mm
    return itk_from_ras(matrix)  # its own inverse
