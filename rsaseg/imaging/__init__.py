"""Images in memory and on disk."""

from rsaseg.imaging.files import make_folder, write_array, write_atomic
from rsaseg.imaging.grid import Grid, crop_grid, ras_grid, resample
from rsaseg.imaging.nifti import (
    Source,
    Volume,
    as_mask,
    as_volume,
    check_suffix,
    read_mask,
    read_volume,
    write_nifti,
)

__all__ = [
    "Grid",
    "Source",
    "Volume",
    "as_mask",
    "as_volume",
    "check_suffix",
    "crop_grid",
    "make_folder",
    "ras_grid",
    "read_mask",
    "read_volume",
    "resample",
    "write_array",
    "write_atomic",
    "write_nifti",
]
