"""The folder that a preprocessed exam is written into: all of it or nothing, and nobody's work."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rsaseg.errors import InputError
from rsaseg.imaging.files import check_replaceable, is_own
from rsaseg.preprocessing import SEQUENCES

RECORD = "preprocess.json"
PICTURE = "registration.png"
MASKS = ("lesion", "brain")
WRITTEN = (
    *(f"{name}.nii.gz" for name in (*SEQUENCES, *MASKS)),
    *(f"{name}_to_FLAIR.{kind}" for name in ("T1", "T2") for kind in ("txt", "mat", "tfm")),
    PICTURE,
    RECORD,
)
_TEMPORARY = ".rsaseg-"
_LEFT_S = 3600


def check_outputs(folder: Path, files: dict[str, Path], written: dict[str, str]) -> None:
    """Refuse a folder that is a file, or where an output would replace an input or others' work.

    Parameters
    ----------
    folder : Path
        To be written into; may be missing.
    files : dict
        What is read: T1, T2, FLAIR, lesion, brain to file.
    written : dict
        What an earlier run wrote there, see `rsaseg.imaging.files.read_written`.

    Raises
    ------
    InputError
        Naming the folder, or the file that would be lost.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder")
    for place in (folder / name for name in WRITTEN):
        if any(place.exists() and p.exists() and place.samefile(p) for p in files.values()):
            raise InputError(f"{place}: is an input; choose another output folder")
    kept = {f"{name}.nii.gz" for name in MASKS if name not in files}
    paths = (folder / name for name in WRITTEN if name not in kept)
    check_replaceable(paths, folder / RECORD, written)


def clear_leftovers(folder: Path) -> None:
    """Remove what a run that was killed over an hour ago left in a folder, which may be missing.

    Parameters
    ----------
    folder : Path
        Of one exam's output.
    """
    for left in folder.glob(f"{_TEMPORARY}????????"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _LEFT_S:  # else a run may be at work in it
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def all_or_nothing(folder: Path, written: dict[str, str]) -> Iterator[Path]:
    """Yield a temporary folder whose files move to ``folder`` if nothing goes wrong.

    What an earlier run wrote there and this one did not is removed: it belongs to other inputs.
    A mask of the user's own, or one that was changed since, stays.

    Parameters
    ----------
    folder : Path
        Made if it is missing.
    written : dict
        See `check_outputs`.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=folder, prefix=_TEMPORARY)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    try:
        with temporary as name:
            yield Path(name)
            for old in WRITTEN:
                if not (Path(name) / old).exists() and is_own(folder / old, written):
                    (folder / old).unlink(missing_ok=True)
            # the record first: by it the others are known as this program's, whatever comes
            for path in sorted(Path(name).iterdir(), key=lambda path: path.name != RECORD):
                path.replace(folder / path.name)
    except BaseException:
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        raise
