"""Rigid registration with SimpleITK: many coarse starts, the same bits every run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from rsaseg.imaging import Grid, Volume, ras_grid, resample

Float = NDArray[np.float64]

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SEED = 20160617
_START_ANGLES_DEG = (-60, -30, 0, 30, 60)
_STARTS_KEPT = 6
_BINS = 32
_SAMPLING = 0.05  # of the voxels, at the fine levels
_SAMPLES = 80_000  # when judging, at 2 mm
_FINE_LEVELS = ((4, 3.0), (2, 1.5), (1, 0.0))  # shrink factor, smoothing mm


def version() -> str:
    """Return the version of SimpleITK that runs."""
    return str(sitk.Version.VersionString())


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


@dataclass(frozen=True, eq=False)
class Side:
    """One image prepared for registration.

    Attributes
    ----------
    full, middle, coarse, start : SimpleITK.Image
        Clamped intensities: at the image's own spacing, 2 mm, 4 mm and 8 mm.
    moments_mm, centre_mm : ndarray
        Centre of mass and middle of the field of view, LPS mm.
    """

    full: Any
    middle: Any
    coarse: Any
    start: Any
    moments_mm: Float
    centre_mm: Float


def prepare(volume: Volume) -> Side:
    """Clamp intensities to their 1st and 99.5th percentiles and build the coarse copies."""
    grid = volume.grid
    low, high = np.percentile(volume.data, (1, 99.5))
    data = np.clip(volume.data, low, high, order="C")  # sums must not depend on the file's order
    lps = LPS_FROM_RAS @ grid.affine
    mass = data - low
    centre_vox = moments_vox = (np.array(grid.shape) - 1) / 2
    if mass.any():
        others = ((1, 2), (0, 2), (0, 1))
        moments_vox = np.array(
            [
                np.average(np.arange(n), weights=mass.sum(axis=axes, dtype=np.float64))
                for n, axes in zip(grid.shape, others, strict=True)
            ]
        )
    return Side(
        itk_image(data, grid),
        _cubes(data, grid, 2.0),
        _cubes(data, grid, 4.0),
        _cubes(data, grid, 8.0),
        apply_affine(lps, moments_vox),
        apply_affine(lps, centre_vox),
    )


def _cubes(data: NDArray[Any], grid: Grid, spacing_mm: float) -> Any:
    """Return the image on cubic voxels."""
    cubes = ras_grid(grid, (spacing_mm, spacing_mm, spacing_mm))
    return itk_image(resample(data, grid, cubes), cubes)


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


def _metric(sampling: float | None = None) -> Any:
    """Return a registration with Mattes mutual information on all voxels or a seeded share."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)  # one order of summing: the same bits every run
    method.SetMetricAsMattesMutualInformation(_BINS)
    if sampling is not None:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(sampling, _SEED)
    method.MetricUseFixedImageGradientFilterOff()  # on, thick slices end 0.2 to 0.7 mm off
    method.MetricUseMovingImageGradientFilterOff()
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _starts(fixed: Side, moving: Side) -> list[Any]:
    """Return the header's pose and 250 others, best first by the metric at 8 mm."""
    header = euler_from_ras(np.eye(4), fixed.moments_mm)
    starts = [header]
    shifts_mm = (moving.moments_mm - fixed.moments_mm, moving.centre_mm - fixed.moments_mm)
    for angles_deg in itertools.product(_START_ANGLES_DEG, repeat=3):
        for shift_mm in shifts_mm:
            start = sitk.Euler3DTransform(header)
            start.SetRotation(*(float(a) for a in np.deg2rad(angles_deg)))
            start.SetTranslation(tuple(shift_mm))
            starts.append(start)
    metric = _metric()
    values = []
    for start in starts:
        metric.SetInitialTransform(start)
        try:
            values.append(metric.MetricEvaluate(fixed.start, moving.start))
        except RuntimeError:  # hardly any overlap
            values.append(np.inf)
    order = np.argsort(values, kind="stable")
    return [header, *(starts[i] for i in order if i != 0)]


def mutual_information(moving: Side, fixed: Side, poses: Sequence[Float]) -> Float:
    """Return Mattes mutual information inside the fixed head, at 2 mm, of each pose.

    Parameters
    ----------
    moving, fixed : Side
        From `prepare`.
    poses : sequence of ndarray
        (4, 4) ``fixed_from_moving``, RAS mm; one without overlap gets 0.
    """
    metric = _metric(_sampling(fixed.middle))
    head = sitk.BinaryDilate(sitk.OtsuThreshold(fixed.middle, 0, 1), (1, 1, 1))
    metric.SetMetricFixedMask(head)
    values = []
    for pose in poses:
        metric.SetInitialTransform(euler_from_ras(pose, fixed.moments_mm))
        try:
            values.append(-float(metric.MetricEvaluate(fixed.middle, moving.middle)))
        except RuntimeError:
            values.append(0.0)
    return np.array(values)


def _descend(
    fixed: Any,
    moving: Any,
    start: Any,
    levels: Sequence[tuple[int, float]],
    iterations: int,
    sampling: float | None = None,
) -> tuple[Any, float]:
    """Follow the metric's gradient from ``start``; return the pose and its metric, lower better.

    ``levels`` are shrink factors and smoothing sigmas in mm. A start without overlap comes back
    as it was, with an infinite metric.
    """
    method = _metric(sampling)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=iterations, relaxationFactor=0.8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([shrink for shrink, _ in levels])
    method.SetSmoothingSigmasPerLevel([sigma_mm for _, sigma_mm in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    pose = sitk.Euler3DTransform(start)
    method.SetInitialTransform(pose, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:
        return start, np.inf
    return pose, float(method.GetMetricValue())


def estimate(moving: Side, fixed: Side) -> Float:
    """Find the rigid transform between two images, wherever their headers place them.

    Parameters
    ----------
    moving, fixed : Side
        From `prepare`.

    Returns
    -------
    ndarray
        (4, 4) ``fixed_from_moving``, RAS mm, six degrees of freedom.

    Notes
    -----
    Mattes mutual information (doi:10.1109/TMI.2003.809072): 251 poses judged at 8 mm, the header's
    and the six best descended there, the two best of those at 4 mm, and the better one refined
    down to the image's own spacing.
    """
    starts = _starts(fixed, moving)[: 1 + _STARTS_KEPT]
    at_8_mm = [_descend(fixed.start, moving.start, s, ((1, 0.0),), 60) for s in starts]
    best = sorted(at_8_mm, key=_by_metric)[:2]
    at_4_mm = [_descend(fixed.coarse, moving.coarse, s, ((1, 0.0),), 60) for s, _ in best]
    start, _ = min(at_4_mm, key=_by_metric)
    pose, _ = _descend(fixed.full, moving.full, start, _FINE_LEVELS, 200, _SAMPLING)
    return ras_from_euler(pose)


def _by_metric(pose_and_metric: tuple[Any, float]) -> float:
    return pose_and_metric[1]


def refine(moving: Side, fixed: Side, fixed_from_moving: Float) -> Float:
    """Return the best pose near ``fixed_from_moving``, from a short descent at 2 mm."""
    start = euler_from_ras(fixed_from_moving, fixed.moments_mm)
    sampling = _sampling(fixed.middle)
    pose, _ = _descend(fixed.middle, moving.middle, start, ((1, 0.0),), 60, sampling)
    return ras_from_euler(pose)


def _sampling(image: Any) -> float:
    """Return the share of voxels that makes `_SAMPLES`."""
    return float(min(1.0, _SAMPLES / image.GetNumberOfPixels()))
