"""Synthetic exams with a known truth, for the demo and the tests."""

from rsaseg.phantom.exam import Phantom, make_phantom, phantom_grid, write_phantom
from rsaseg.phantom.head import Head, Lesion, make_head

__all__ = [
    "Head",
    "Lesion",
    "Phantom",
    "make_head",
    "make_phantom",
    "phantom_grid",
    "write_phantom",
]
