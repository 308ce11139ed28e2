"""Which exams a folder holds, in this program's own layout or as a BIDS data set."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsaseg.errors import InputError
from rsaseg.imaging.listing import images_among, listed
from rsaseg.training.cases import find_files

SEQUENCE_OF = {"T1w": "T1", "T2w": "T2", "FLAIR": "FLAIR"}
"""BIDS suffix to sequence."""

_BIDS_NAME = re.compile(
    r"(?P<entities>sub-[A-Za-z0-9+]+(_[a-z]+-[A-Za-z0-9+]+)*)_(?P<suffix>T1w|T2w|FLAIR)\.nii(\.gz)?"
)
_DESCRIPTION = "dataset_description.json"


@dataclass(frozen=True)
class Exam:
    """One exam of a cohort.

    Attributes
    ----------
    name : str
        Its folder's name, or its BIDS subject and session.
    sequences : dict
        T1, T2, FLAIR to file; T1 and T2 may be missing.
    mask : Path
        Where its mask goes, relative to the output folder.
    problem : str
        Why it cannot be segmented; empty where it can.
    warnings : tuple of str
        What was chosen for the user.
    about : dict
        What a BIDS sidecar file says beside this program's own record.
    """

    name: str
    sequences: dict[str, Path] = field(default_factory=dict)
    mask: Path = Path()
    problem: str = ""
    warnings: tuple[str, ...] = ()
    about: dict[str, Any] = field(default_factory=dict)


def find_exams(data: Path) -> list[Exam]:
    """Return the exams of a folder with a folder per exam, by name.

    An exam's folder holds FLAIR, and T1 and T2 where there are any, as ``.nii`` or ``.nii.gz``,
    names in any case. A folder that is no usable exam is returned with its problem, and so is an
    image that lies in no exam's folder.

    Raises
    ------
    InputError
        If there is no such folder, it holds no folder, or is laid out in another way.
    """
    places = _folders(data)
    if (data / _DESCRIPTION).exists():
        raise InputError(f"{data}: a BIDS data set; use --bids instead of --data")
    if "flair" in find_files(data):
        raise InputError(f"{data}: itself an exam; give the folder above it, or use --flair")
    if not places:
        raise InputError(f"{data}: no exams in it; give a folder with a folder per exam")
    same = Counter(place.name.lower() for place in places)
    exams = [_folder_exam(place, same[place.name.lower()] > 1) for place in places]
    exams += [
        Exam(image.name, problem=f"{image}: in no exam's folder; put it into one, or elsewhere")
        for image in _images(data)
    ]
    return [_named(exam) for exam in exams]


def _named(exam: Exam) -> Exam:
    """Return the exam; one whose name no table can hold by another name, as a problem."""
    name = exam.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if name == exam.name:
        return exam
    return Exam(name, problem=f"{name}: its name is not UTF-8 text; rename it")


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones."""
    return [path for path in _inside(folder) if path.is_dir()]


def _images(folder: Path) -> list[Path]:
    """Return the NIfTI files in a folder, without hidden ones; links that lead nowhere too."""
    return images_among(_inside(folder))


def _inside(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; check the path")
    try:
        return listed(folder)
    except OSError as error:
        raise InputError(_unreadable(folder, error)) from None


def _unreadable(folder: Path, error: OSError) -> str:
    return f"{folder}: cannot be read ({error.strerror}); check its permissions"


def _folder_exam(place: Path, same_name: bool) -> Exam:
    mask = Path(place.name, "lesion_mask.nii.gz")
    try:
        files, bids = find_files(place), (place / "anat").is_dir()
    except InputError as error:
        return Exam(place.name, mask=mask, problem=str(error))
    except OSError as error:
        return Exam(place.name, mask=mask, problem=_unreadable(place, error))
    sequences = {
        name: files[name.lower()] for name in ("T1", "T2", "FLAIR") if name.lower() in files
    }
    problem = ""
    if same_name:
        problem = f"{place}: another exam's name differs from it in capitals only; rename one"
    elif "FLAIR" not in sequences and bids:
        problem = f"{place}: laid out as BIDS; use --bids for the data set it is of"
    elif "FLAIR" not in sequences:
        problem = f"{place}: no FLAIR.nii.gz or FLAIR.nii in it; add or rename it"
    return Exam(place.name, sequences, mask, problem)


def find_bids_exams(root: Path) -> list[Exam]:
    """Return the exams of a BIDS data set, by subject and session.

    Of several images of one kind, one without contrast agent (``ce-``) goes first, then one of
    the FLAIR's ``acq-``, then the first by name; the exam's warnings say which was taken. A
    session without images in ``anat`` is no exam; one without FLAIR is returned as a problem, and
    so is a folder beside the subjects that holds an exam in the other layout.

    Raises
    ------
    InputError
        If it is no BIDS data set, or no exam is in it.
    """
    folders = _folders(root)
    if not (root / _DESCRIPTION).exists():
        raise InputError(
            f"{root}: no BIDS data set ({_DESCRIPTION} is missing); add it or use --data"
        )
    subjects = [place for place in folders if place.name.startswith("sub-")]
    exams = [exam for subject in subjects for exam in _subject_exams(root, subject)]
    if not exams:
        raise InputError(f"{root}: no sub-*/[ses-*/]anat with a FLAIR in it; check the data set")
    strangers = [place for place in folders if not place.name.startswith("sub-")]
    exams += [
        Exam(place.name, problem=f"{place}: an exam, but not laid out as BIDS; use --data for it")
        for place in strangers
        if any(image.name.lower().startswith("flair.nii") for image in _images(place))
    ]
    return [_named(exam) for exam in exams]


def _subject_exams(root: Path, subject: Path) -> list[Exam]:
    """Return the exams of a subject; one that cannot be read is one of them, with its problem."""
    try:
        sessions = [place for place in _folders(subject) if place.name.startswith("ses-")]
        found = [_bids_exam(root, place) for place in (subject, *sessions)]
    except InputError as error:
        return [Exam(subject.name, problem=str(error))]
    except OSError as error:
        return [Exam(subject.name, problem=_unreadable(subject, error))]
    return [exam for exam in found if exam]


def _bids_exam(root: Path, place: Path) -> Exam | None:
    name = "_".join(place.relative_to(root).parts)
    anat = place / "anat"
    everything = _images(anat) if anat.is_dir() else []
    if not everything:
        return None
    images: dict[str, list[Path]] = {}
    for path in everything:
        if match := _BIDS_NAME.fullmatch(path.name):
            images.setdefault(match["suffix"], []).append(path)
    named = [path for paths in images.values() for path in paths]
    strangers = [path for path in named if not path.name.startswith(f"{name}_")]
    if strangers:
        return Exam(
            name, problem=f"{strangers[0]}: named for another subject or session; rename it"
        )
    if "FLAIR" not in images:
        return Exam(name, problem=f"{anat}: no {name}_FLAIR.nii.gz; add it")
    flair = min(images["FLAIR"], key=lambda path: _rank(path, ""))
    chosen = {
        suffix: min(paths, key=lambda path: _rank(path, _acquisition(flair)))
        for suffix, paths in {**images, "FLAIR": [flair]}.items()
    }
    warnings = tuple(
        f"{len(paths)} {suffix} images; used {chosen[suffix].name}"
        for suffix, paths in sorted(images.items())
        if len(paths) > 1
    )
    stem = flair.name.partition("_FLAIR.nii")[0]
    mask = place.relative_to(root) / "anat" / f"{stem}_space-orig_label-L_mask.nii.gz"
    sequences = {SEQUENCE_OF[suffix]: chosen[suffix] for suffix in SEQUENCE_OF if suffix in chosen}
    uri = {key: f"bids:raw:{path.relative_to(root).as_posix()}" for key, path in sequences.items()}
    about = {"Type": "Lesion", "Sources": list(uri.values()), "SpatialReference": uri["FLAIR"]}
    return Exam(name, sequences, mask, warnings=warnings, about=about)


def _acquisition(path: Path) -> str:
    """Return a BIDS name's ``acq-`` label, empty without one."""
    return next((part for part in path.name.split("_") if part.startswith("acq-")), "")


def _rank(path: Path, acquisition: str) -> tuple[bool, bool, str]:
    return "_ce-" in path.name, _acquisition(path) != acquisition, path.name
