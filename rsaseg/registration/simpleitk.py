"""Rigid registration with SimpleITK: many coarse starts, the same bits every run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.affines import apply_affine
from numpy.typing import NDArray

from rsaseg.imaging import Grid, Volume, ras_grid, resample
from rsaseg.registration.itk import LPS_FROM_RAS, euler_from_ras, itk_image, ras_from_euler

Float = NDArray[np.float64]

_SEED = 20160617
_START_ANGLES_DEG = (-60, -30, 0, 30, 60)
_STARTS_KEPT = 6
_BINS = 32
_HEAD = 0.1  # of the clamped range; cerebrospinal fluid below it lies inside the head's outline
_EDGE_VOX = 2  # at 2 mm, left out at the head's rim: sequences are cut and stripped differently
_SAMPLES_AT_2_MM = 20_000
_SAMPLES_IN_FULL = 40_000
_MIN_HEAD_ML = 20.0


def version() -> str:
    """Return the version of SimpleITK that runs."""
    return str(sitk.Version.VersionString())


@dataclass(frozen=True, eq=False)
class Side:
    """One image of a pair, with the copies that registration looks at, made when first asked for.

    Intensities are clamped to their 1st and 99.5th percentiles.
    """

    volume: Volume

    @cached_property
    def _range(self) -> tuple[float, float]:
        low, high = np.percentile(self.volume.data[::2, ::2, ::2], (1, 99.5))
        return float(low), float(high)

    @cached_property
    def _cubes(self) -> tuple[NDArray[np.float32], Grid]:
        grid = ras_grid(self.volume.grid, (2.0, 2.0, 2.0))
        return np.clip(resample(self.volume.data, self.volume.grid, grid), *self._range), grid

    @cached_property
    def full(self) -> Any:
        """At the image's own spacing."""
        return itk_image(np.clip(self.volume.data, *self._range), self.volume.grid)

    @cached_property
    def middle(self) -> Any:
        """On cubes of 2 mm."""
        return itk_image(*self._cubes)

    @cached_property
    def coarse(self) -> Any:
        """On cubes of 4 mm."""
        return self._at(4.0)

    @cached_property
    def start(self) -> Any:
        """On cubes of 8 mm."""
        return self._at(8.0)

    def _at(self, spacing_mm: float) -> Any:
        data, grid = self._cubes
        cubes = ras_grid(grid, (spacing_mm, spacing_mm, spacing_mm))
        return itk_image(resample(data, grid, cubes), cubes)

    @cached_property
    def head(self) -> Any:
        """What is no background, on cubes of 2 mm: uint8, 0 and 1."""
        data, _ = self._cubes
        low, high = float(data.min()), float(data.max())
        return sitk.BinaryFillhole(sitk.Greater(self.middle, low + _HEAD * (high - low)))

    @cached_property
    def moments_mm(self) -> Float:
        """Centre of mass, LPS mm."""
        data, grid = self._cubes
        mass = data - data.min()
        if not mass.any():
            return self.centre_mm
        others = ((1, 2), (0, 2), (0, 1))
        moments_vox = [
            np.average(np.arange(n), weights=mass.sum(axis=axes, dtype=np.float64))
            for n, axes in zip(grid.shape, others, strict=True)
        ]
        moments: Float = apply_affine(LPS_FROM_RAS @ grid.affine, moments_vox)
        return moments

    @cached_property
    def centre_mm(self) -> Float:
        """Middle of the field of view, LPS mm."""
        grid = self.volume.grid
        centre: Float = apply_affine(LPS_FROM_RAS @ grid.affine, (np.array(grid.shape) - 1) / 2)
        return centre


def core(moving: Side, fixed: Side, fixed_from_moving: Float) -> Any:
    """Return the inside of both heads, without its rim: uint8, 0 and 1, on ``fixed.middle``.

    Empty where they share less than 20 ml.
    """
    pose = euler_from_ras(fixed_from_moving, fixed.moments_mm)
    head = sitk.Resample(moving.head, fixed.head, pose, sitk.sitkNearestNeighbor, 0)
    inside = sitk.BinaryErode(sitk.And(fixed.head, head), (_EDGE_VOX,) * 3)
    return inside if _volume_ml(inside) >= _MIN_HEAD_ML else inside * 0


def _volume_ml(mask: Any) -> float:
    return float(sitk.GetArrayViewFromImage(mask).sum() * np.prod(mask.GetSpacing()) / 1000)


def _metric() -> Any:
    """Return a registration with Mattes mutual information."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)  # one order of summing: the same bits every run
    method.SetMetricAsMattesMutualInformation(_BINS)
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


def _descend(method: Any, fixed: Any, moving: Any, start: Any) -> tuple[Any, float]:
    """Follow the metric's gradient from ``start``; return the pose and its metric, lower better.

    A start without overlap comes back as it was, with an infinite metric.
    """
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=0.01, numberOfIterations=60, relaxationFactor=0.8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    pose = sitk.Euler3DTransform(start)
    method.SetInitialTransform(pose, inPlace=True)
    try:
        method.Execute(fixed, moving)
    except RuntimeError:
        return start, np.inf
    return pose, float(method.GetMetricValue())


def estimate(moving: Side, fixed: Side) -> Float:
    """Find the rigid transform between two images, wherever their headers place them.

    Returns
    -------
    ndarray
        (4, 4) ``fixed_from_moving``, RAS mm, six degrees of freedom.

    Notes
    -----
    Mattes mutual information (doi:10.1109/TMI.2003.809072): 251 poses judged at 8 mm, the header's
    and the six best descended there, the two best of those at 4 mm, and the better one polished.

    ``python tests/benchmarks/registration.py accuracy moves headers``, on four raw sessions: 0.25
    to 0.44 mm from the publisher's (affine) transforms, 0.14 mm mean and 0.24 mm worst over 20
    moves of the head (up to 20 degrees and 25 mm), at most 0.14 mm over 16 headers wrong by 25
    degrees and 40 mm or 45 degrees and 60 mm; 6 to 7 s of one core an image, judged.
    """
    starts = _starts(fixed, moving)[: 1 + _STARTS_KEPT]
    at_8_mm = [_descend(_metric(), fixed.start, moving.start, s) for s in starts]
    best = sorted(at_8_mm, key=_by_metric)[:2]
    at_4_mm = [_descend(_metric(), fixed.coarse, moving.coarse, s) for s, _ in best]
    pose = ras_from_euler(min(at_4_mm, key=_by_metric)[0])
    return polish(moving, fixed, refine(moving, fixed, pose, core(moving, fixed, pose)))


def _by_metric(pose_and_metric: tuple[Any, float]) -> float:
    return pose_and_metric[1]


def polish(moving: Side, fixed: Side, fixed_from_moving: Float) -> Float:
    """Return the best pose near one that `refine` found, down to the images' own spacing."""
    inside = core(moving, fixed, fixed_from_moving)
    return _settle(moving.full, fixed.full, inside, fixed_from_moving, _SAMPLES_IN_FULL)


def refine(moving: Side, fixed: Side, fixed_from_moving: Float, inside: Any) -> Float:
    """Return the best pose near ``fixed_from_moving``, from a short descent at 2 mm in a `core`."""
    return _settle(moving.middle, fixed.middle, inside, fixed_from_moving, _SAMPLES_AT_2_MM)


def _settle(moving: Any, fixed: Any, inside: Any, fixed_from_moving: Float, samples: int) -> Float:
    """Descend on about so many seeded samples of the fixed image, all ``inside`` both heads."""
    inside_mm3 = 1000 * _volume_ml(inside)
    if inside_mm3 == 0:
        return fixed_from_moving
    method = _metric()
    method.SetMetricFixedMask(inside)
    method.SetMetricSamplingStrategy(method.RANDOM)
    share = samples * float(np.prod(fixed.GetSpacing())) / inside_mm3
    method.SetMetricSamplingPercentage(min(1.0, share), _SEED)
    start = euler_from_ras(fixed_from_moving, _middle_mm(inside))
    pose, _ = _descend(method, fixed, moving, start)
    return ras_from_euler(pose)


def _middle_mm(mask: Any) -> Float:
    """Return a mask's centre of mass, LPS mm: about it, turns and shifts hardly mix."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(mask)
    return np.array(shape.GetCentroid(1))
