"""What lies in a folder."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rsaseg.imaging.nifti import SUFFIXES


def listed(folder: Path) -> list[Path]:
    """Return what lies in a folder, by name, without what is hidden.

    Raises
    ------
    OSError
        If the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if path.name[0] != ".")


def images_among(paths: Iterable[Path]) -> list[Path]:
    """Return the NIfTI files among paths, by any name; links that lead nowhere too."""
    return [path for path in paths if path.name.lower().endswith(SUFFIXES) and not path.is_dir()]


def images_below(folder: Path) -> list[Path]:
    """Return the NIfTI files in a folder, then those in the folders below it, none hidden.

    Links to folders are not followed.

    Raises
    ------
    OSError
        If a folder cannot be read.
    """
    paths = listed(folder)
    found = images_among(paths)
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            found += images_below(path)
    return found
