"""Segmenting one exam in memory: images in, lesions out, no file written."""

from rsaseg.imaging import Source
from rsaseg.segmentation.result import Segmentation, threshold_range, volume_at
from rsaseg.segmentation.segment import (
    Progress,
    check_one_grid,
    read_exam,
    segment,
    segment_exam,
)
from rsaseg.segmentation.settings import Model, Settings, check_settings, load_model

__all__ = [
    "Model",
    "Progress",
    "Segmentation",
    "Settings",
    "Source",
    "check_one_grid",
    "check_settings",
    "load_model",
    "read_exam",
    "segment",
    "segment_exam",
    "threshold_range",
    "volume_at",
]
