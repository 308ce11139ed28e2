"""Bring raw exams onto one grid each: `preprocess` for one, `preprocess_folder` for many."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsaseg import __version__
from rsaseg.errors import GeometryError, InputError, RsasegError
from rsaseg.imaging import Grid, Volume, read_mask, read_volume, write_atomic, write_nifti
from rsaseg.imaging.files import read_written, sha256_of
from rsaseg.imaging.listing import images_among, images_below, listed
from rsaseg.preprocessing import SEQUENCES, find_swapped
from rsaseg.preprocessing.bias import correct_bias
from rsaseg.preprocessing.folder import (
    MASKS,
    PICTURE,
    RECORD,
    all_or_nothing,
    check_outputs,
    clear_leftovers,
)
from rsaseg.progress import Progress, staged, told, untold
from rsaseg.registration import AlignedExam, Alignment, Engine, align_exam
from rsaseg.registration.flirt import fsl_from_ras
from rsaseg.registration.itk import tfm_text
from rsaseg.report.registration_picture import registration_picture
from rsaseg.training.cases import find_files


@dataclass(frozen=True)
class Choices:
    """What a user may choose.

    Attributes
    ----------
    registration : str
        auto, flirt, simpleitk or none; see `rsaseg.registration.align_exam`.
    n4 : bool
        Correct the bias field of every sequence after alignment.
    force : bool
        Go on, with a warning, where a registration failed.
    """

    registration: Engine = "auto"
    n4: bool = False
    force: bool = False


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one exam of a folder, in words: its images would fill the memory.

    Attributes
    ----------
    name : str
        Of the exam's folder.
    status : str
        done, skipped or failed.
    message : str
        Why it failed.
    warnings : tuple of str
        See `warnings_of`.
    """

    name: str
    status: Literal["done", "skipped", "failed"]
    message: str = ""
    warnings: tuple[str, ...] = ()


def preprocess(
    flair: Path,
    folder: Path,
    t1: Path | None = None,
    t2: Path | None = None,
    choices: Choices = Choices(),
    progress: Progress | None = None,
) -> AlignedExam:
    """Align one exam and write it, its transforms, a record and a picture into a folder.

    Written are ``T1``, ``T2`` and ``FLAIR`` as float32 ``.nii.gz`` on the FLAIR's grid (each
    resampled once, the FLAIR as it was); ``T1_to_FLAIR`` and ``T2_to_FLAIR`` as ``.txt`` (4x4, RAS
    mm), ``.mat`` (FSL) and ``.tfm`` (ITK); ``registration.png``; ``preprocess.json``. All appear
    together at the end, or none does.

    Parameters
    ----------
    flair, t1, t2 : Path
        NIfTI files, each on any grid; T1 and T2 may be missing.
    folder : Path
        Made if it is missing.
    choices : Choices
        Engine, N4, force.
    progress : callable, optional
        See `Progress`.

    Raises
    ------
    InputError
        If a file or the folder cannot be used, or an output would replace an input, or a file that
        this program did not write or that was changed since.
    RegistrationError
        If an image cannot be aligned well enough; see `rsaseg.registration.align_exam`.
    """
    files = {name: path for name, path in zip(SEQUENCES, (t1, t2, flair), strict=True) if path}
    clear_leftovers(folder)
    return _preprocess(files, folder, choices, progress or untold)


def preprocess_folder(
    data: Path,
    folder: Path,
    choices: Choices = Choices(),
    progress: Progress | None = None,
) -> list[Outcome]:
    """Preprocess every exam under ``data``, a folder each, into a folder of its name each.

    A broken exam does not stop the others. An exam whose record stands in its output folder, made
    from the same files with the same choices, is skipped. ``lesion`` and ``brain`` masks, which lie
    on the FLAIR's grid, are copied along for training. A folder that holds images but no exam has
    failed, and so has an image in no exam's folder; hidden files and folders are passed over.

    Returns
    -------
    list of Outcome
        By name, images in no exam's folder last; the caller decides what a failed one means.

    Raises
    ------
    InputError
        If ``data`` is no folder, cannot be read or holds no exam, or the output lies in it.
    """
    if not data.is_dir():
        raise InputError(f"{data}: no such folder; give a folder with one folder per exam")
    try:
        inside = listed(data)
        folders, loose = [path for path in inside if path.is_dir()], images_among(inside)
    except OSError as error:
        raise _unreadable(data, error) from None
    places = [place for place in folders if _holds_images(place)]
    if not places and not loose:
        raise InputError(f"{data}: no exams found; put T1, T2 and FLAIR in a folder each")
    if folder.resolve().is_relative_to(data.resolve()):  # FLAIR.nii.gz would lie beside flair.nii
        raise InputError(f"{folder}: lies in the data; give a folder outside it for the output")
    outcomes, report = [], progress or untold
    for done, place in enumerate(places):
        report("exams", done, len(places))
        outcomes.append(_one_of_many(place, folder / place.name, choices))
    report("exams", len(places), len(places))
    where = "in no exam's folder; put it into one, or elsewhere"
    return outcomes + [Outcome(path.name, "failed", f"{path}: {where}") for path in loose]


def _unreadable(place: Path, error: OSError) -> InputError:
    return InputError(f"{place}: cannot be read ({error.strerror}); check its permissions")


def _holds_images(place: Path) -> bool:
    """Whether it holds any, or remains of an exam, or cannot be read: its outcome tells then."""
    names = ("t1.nii", "t2.nii", "flair.nii")
    try:
        named = any(path.name.lower().startswith(names) for path in place.iterdir())
        return named or bool(images_below(place))
    except OSError:
        return True


def _one_of_many(place: Path, folder: Path, choices: Choices) -> Outcome:
    try:
        clear_leftovers(folder)
        files = _files_of(place)
        if _is_done(files, folder, choices):
            return Outcome(place.name, "skipped")
        exam = _preprocess(files, folder, choices)
        return Outcome(place.name, "done", warnings=tuple(warnings_of(exam)))
    except RsasegError as error:
        reason = str(error)
    except MemoryError:
        reason = f"{place}: ran out of memory; preprocess it where there is more"
    except Exception as error:  # no exam may stop the others
        text = " ".join(str(error).split())
        reason = f"{place}: {type(error).__name__}: {text}; preprocess it alone with --debug"
    return Outcome(place.name, "failed", reason)


def _files_of(place: Path) -> dict[str, Path]:
    """Return the files of an exam's folder by the name that they are written under."""
    try:
        found = find_files(place)
        images = [] if "flair" in found else images_below(place)
    except OSError as error:
        raise _unreadable(Path(error.filename or place), error) from None
    if images and place not in (path.parent for path in images):
        raise InputError(f"{place}: its images lie deeper; give --data {images[0].parent.parent}")
    if "flair" not in found:
        raise InputError(f"{place}: has no FLAIR NIfTI file; add or rename it, or move the folder")
    names = {"t1": "T1", "t2": "T2", "flair": "FLAIR"}
    return {names.get(name, name): path for name, path in found.items()}


def _is_done(files: dict[str, Path], folder: Path, choices: Choices) -> bool:
    """Whether the folder's record is of these files, these choices and this version."""
    try:
        record = json.loads((folder / RECORD).read_text())
        made_of = {name: sha256_of(path) for name, path in files.items()}
        wrote = record["output_sha256"].items()
        intact = all(sha256_of(folder / name) == sha256 for name, sha256 in wrote)
        return bool(
            intact
            and record["input_sha256"] == made_of
            and record["choices"] == asdict(choices)
            and record["GeneratedBy"][0]["Version"] == __version__
        )
    except (InputError, OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _preprocess(
    files: dict[str, Path], folder: Path, choices: Choices, report: Progress = untold
) -> AlignedExam:
    started = time.perf_counter()
    written = read_written(folder / RECORD, "output_sha256")
    check_outputs(folder, files, written)
    with staged("read", report):
        raw = {name: read_volume(files[name]) for name in SEQUENCES if name in files}
    others = {name: volume for name, volume in raw.items() if name != "FLAIR"}
    with staged("register", report):
        exam = align_exam(raw["FLAIR"], others, choices.registration, choices.force)
        exam = replace(exam, notes=tuple(find_swapped(exam.images)))
    images = _without_bias(exam.images, report) if choices.n4 else exam.images
    with staged("files", report), all_or_nothing(folder, written) as place:
        for name, volume in images.items():
            write_nifti(place / f"{name}.nii.gz", volume.data, exam.images[name].header)
        for name, alignment in exam.alignments.items():
            _write_transforms(place, name, alignment, raw[name].grid, raw["FLAIR"].grid)
        for name in set(files) & set(MASKS):
            mask = _read_mask(files[name], raw["FLAIR"])
            write_nifti(place / f"{name}.nii.gz", mask, raw["FLAIR"].header)
        _write_picture(place / PICTURE, exam)
        record = {
            "Description": "T1, T2 and FLAIR on the FLAIR's grid. For research use only.",
            "GeneratedBy": [{"Name": "rsaseg", "Version": __version__}],
            "choices": asdict(choices),
            "registration": {name: one.as_json() for name, one in exam.alignments.items()},
            "warnings": [_without_folders(text, files) for text in warnings_of(exam)],
            "input_sha256": {name: sha256_of(path) for name, path in files.items()},
            "output_sha256": {path.name: sha256_of(path) for path in sorted(place.iterdir())},
            "seconds": round(time.perf_counter() - started, 2),
        }
        write_atomic(place / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    return exam


def _without_bias(images: dict[str, Volume], report: Progress) -> dict[str, Volume]:
    report("bias field", 0, len(images))
    each = told(images.items(), "bias field", report)
    return {name: correct_bias(volume) for name, volume in each}


def _read_mask(path: Path, flair: Volume) -> NDArray[np.uint8]:
    """Return a mask's voxels, which must lie on the FLAIR's grid."""
    mask, grid = read_mask(path)
    if not grid.matches(flair.grid):
        raise GeometryError(
            f"{path}: is on {grid.describe()}, the FLAIR on {flair.grid.describe()}; "
            "draw it on the FLAIR"
        )
    return mask.astype(np.uint8)


def _write_transforms(
    place: Path, name: str, alignment: Alignment, moving: Grid, flair: Grid
) -> None:
    """Write the transform in RAS mm, for FSL and for ITK."""
    pose = alignment.flair_from_moving
    matrices = {"txt": pose, "mat": fsl_from_ras(pose, moving, flair)}
    for kind, matrix in matrices.items():
        text = "".join("  ".join(repr(float(x)) for x in row) + "\n" for row in matrix)
        write_atomic(place / f"{name}_to_FLAIR.{kind}", text.encode())
    write_atomic(place / f"{name}_to_FLAIR.tfm", tfm_text(pose).encode())


def _write_picture(path: Path, exam: AlignedExam) -> None:
    others = {name: exam.images[name] for name in exam.alignments}
    if others:
        good = {name: not one.problem for name, one in exam.alignments.items()}
        write_atomic(path, registration_picture(exam.images["FLAIR"], others, good))


def warnings_of(exam: AlignedExam) -> list[str]:
    """Return what the user should know of an exam: headers, registration, swapped sequences."""
    of_headers = (text for volume in exam.images.values() for text in volume.warnings)
    return [*of_headers, *exam.warnings]


def _without_folders(text: str, files: dict[str, Path]) -> str:
    """Cut folders from a message: they may hold a patient's name."""
    for path in files.values():
        text = text.replace(str(path), path.name)
    return text
