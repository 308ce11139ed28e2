"""Writing files so that all of them are there in the end, whole, or none."""

from __future__ import annotations

import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from glob import escape
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


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def hashes_of(contents: Mapping[Path, bytes]) -> dict[str, str]:
    """Return the SHA-256 of files to be written, by name, as a record keeps them."""
    return {path.name: hashlib.sha256(content).hexdigest() for path, content in contents.items()}


def read_written(record: Path, key: str) -> dict[str, str]:
    """Return the SHA-256 of each name that a record says this program wrote; {} without a record.

    Parameters
    ----------
    record : Path
        JSON, which may be missing or anybody's.
    key : str
        Under which it holds name to SHA-256.
    """
    try:
        return dict(json.loads(record.read_text("utf-8"))[key])
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def is_seen(path: Path) -> bool:
    """Return whether there is such a file; False, too, where it may not be looked at."""
    try:
        return path.is_file()
    except OSError:
        return False


def has_sha256(path: Path, sha256: str) -> bool:
    """Return whether there is a file, and of this SHA-256."""
    return path.is_file() and sha256_of(path) == sha256


def is_own(path: Path, written: Mapping[str, str]) -> bool:
    """Return whether nothing would be lost with a file: it is missing, empty, or as it was written.

    So it is, too, where a run was killed when it had renamed the record, but not yet this file.

    Parameters
    ----------
    path : Path
        A file, which may be missing.
    written : mapping
        Name to SHA-256, as the record of what this program wrote there says.
    """
    lost = path.is_file() and path.stat().st_size > 0
    sha256 = written.get(path.name, "")
    return not lost or has_sha256(path, sha256) or _was_to_be_replaced(path, sha256)


def _was_to_be_replaced(path: Path, sha256: str) -> bool:
    """Return whether a file of this SHA-256 was staged for the path, which is as it was then."""
    changed_ns = path.stat().st_ctime_ns  # unlike the time of its content, nobody can set it back
    staged = path.parent.glob(f".{escape(path.name)}.????????.part")
    return any(p.stat().st_ctime_ns > changed_ns and has_sha256(p, sha256) for p in staged)


def check_replaceable(paths: Iterable[Path], record: Path, written: Mapping[str, str]) -> None:
    """Check that nobody's work would be lost where files are written, see `is_own`.

    Parameters
    ----------
    paths : iterable of Path
        To be written.
    record : Path
        One of them, perhaps; where it tells of others, it is this program's.
    written : mapping
        What it tells, see `read_written`.

    Raises
    ------
    InputError
        Naming the first file that this program did not write, or that was changed since: a mask
        corrected by hand, say.
    """
    for path in paths:
        if not (is_own(path, written) or (written and path == record)):
            ours = "was changed after rsaseg wrote it"
            how = ours if path.name in written else "is there already, and not known as rsaseg's"
            raise InputError(f"{path}: {how}; move it, or choose another output")


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
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    file = part.open("xb")  # with the permissions that the user's umask gives any new file
    try:
        with file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        part.unlink()
        raise
    return part
