"""Segmenting one exam in memory: images in, lesions out, no file written.

What needs torch stands in `rsaseg.segmentation.model` and `rsaseg.segmentation.network`.
"""

from rsaseg.imaging import Source
from rsaseg.progress import Progress
from rsaseg.segmentation.result import Segmentation, threshold_range, volume_at
from rsaseg.segmentation.segment import read_exam, segment
from rsaseg.segmentation.settings import Settings, check_settings

__all__ = [
    "Progress",
    "Segmentation",
    "Settings",
    "Source",
    "check_settings",
    "read_exam",
    "segment",
    "threshold_range",
    "volume_at",
]
