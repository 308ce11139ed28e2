"""Writing files so that all of them are there in the end, whole, or none."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsaseg.errors import InputError


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside ``path``, then rename it.

    Raises
    ------
    InputError
        If the folder is missing or cannot be written.
    """
    write_together({path: content})


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write an array as ``.npy``, like `write_atomic`: who has mapped an earlier one keeps that.

    Raises
    ------
    InputError
        If the folder is missing or cannot be written.
    """
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write_atomic(path, content.getvalue())


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write every file under a temporary name beside its path, then rename them all, in order.

    Raises
    ------
    InputError
        If one cannot be written; none of them is then.
    """
    staged: dict[Path, Path] = {}
    path = Path()
    try:
        for path, content in files.items():
            staged[path] = _stage(path, content)
        for path, part in staged.items():
            part.replace(path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free some space or choose another name"
        ) from None
    finally:
        for part in staged.values():
            part.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder, or say in one line why it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be made ({error.strerror}); choose another folder"
        ) from None


def _stage(path: Path, content: bytes) -> Path:
    """Write ``content`` in full under a temporary name in the folder of ``path``."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        part.chmod(0o666 & ~umask)
    except BaseException:
        part.unlink()
        raise
    return part
