"""Rigid alignment of T1 and T2 with the FLAIR."""

from rsaseg.registration.align import (
    AlignedExam,
    Alignment,
    Engine,
    align_exam,
    choose_engine,
    register,
)
from rsaseg.registration.quality import Quality

__all__ = [
    "AlignedExam",
    "Alignment",
    "Engine",
    "Quality",
    "align_exam",
    "choose_engine",
    "register",
]
