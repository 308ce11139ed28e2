"""Slow shading of the image by the receive coil, and its correction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import SimpleITK as sitk

from rsaseg.errors import InputError
from rsaseg.imaging import Volume
from rsaseg.preprocessing.exam import head_mask

_WORK_SPACING_MM = 4.0


def correct_bias(volume: Volume) -> Volume:
    """Divide out the bias field that N4 finds (Tustison 2010, doi:10.1109/TMI.2010.2046908).

    Parameters
    ----------
    volume : Volume
        The field is estimated inside the head, at about 4 mm, and divides every voxel's value over
        air.

    Raises
    ------
    InputError
        If the image is too thin for a field: one voxel along an axis, at about 4 mm.
    """
    over_air = volume.data - np.float32(volume.air)
    image = sitk.GetImageFromArray(over_air.T)
    image.SetSpacing(volume.grid.spacing_mm)
    mask = sitk.GetImageFromArray(head_mask(volume.data, volume.grid.spacing_mm).T.astype(np.uint8))
    mask.CopyInformation(image)
    shrink = [max(1, round(_WORK_SPACING_MM / step)) for step in volume.grid.spacing_mm]
    small = sitk.Shrink(image, shrink)
    if min(small.GetSize()) < 2:
        voxels = " x ".join(map(str, volume.grid.shape))
        raise InputError(f"{volume.name}: too thin for N4 ({voxels} voxels); leave --n4 out")
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetNumberOfWorkUnits(1)  # the same bits every run
    n4.Execute(small, sitk.Shrink(mask, shrink))
    field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).T)
    return replace(volume, data=(over_air / field + volume.air).astype(np.float32))
