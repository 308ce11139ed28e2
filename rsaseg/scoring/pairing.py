"""Which predicted mask belongs to which true one, by the names of their files."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from nibabel.nifti1 import Nifti1Image

from rsaseg.errors import InputError
from rsaseg.imaging import Source

Masks = Source | Mapping[str, Source]
"""A folder of masks, one mask, or masks by the name of their case."""

_NIFTI = re.compile(r"(?P<stem>.+?)\.nii(\.gz)?", re.IGNORECASE)
_MASK_NAME = re.compile(r"lesions?([-_]mask)?|mask", re.IGNORECASE)
_MASK_ENDING = re.compile(r"[-_](mask|lesions?)$", re.IGNORECASE)
_NO_MASK = re.compile(
    r"(^|[-_])(probability|probseg|uncertainty|labels|dseg)$|^(prob|unc)$", re.IGNORECASE
)
_LESION_LABEL = re.compile(r"label-(L|lesions?)", re.IGNORECASE)
_BIDS_KEPT = ("sub-", "ses-", "acq-", "run-")


def _case_of(path: Path, folder: Path, known: Container[str]) -> str | None:
    """Return the case a file is the mask of, or None if it is no mask."""
    match = _NIFTI.fullmatch(path.name)
    if match is None or path.name.startswith("."):
        return None
    stem, inside = match["stem"], path.parent.relative_to(folder).as_posix()
    if inside == "." and stem in known:
        return stem
    if stem.startswith("sub-"):
        return _bids_case(stem.split("_"))
    plain = _MASK_ENDING.sub("", stem)
    if inside == ".":
        return None if _NO_MASK.search(stem) else plain
    return inside if _MASK_NAME.fullmatch(stem) or plain == path.parent.name else None


def _bids_case(parts: list[str]) -> str | None:
    """Return subject, session, acquisition and run of a lesion mask's name, or None for another."""
    is_mask = "-" in parts[-1] or _MASK_NAME.fullmatch(parts[-1])
    other_label = any(p.startswith("label-") and not _LESION_LABEL.fullmatch(p) for p in parts)
    if not is_mask or other_label or "desc-brain" in parts:
        return None
    return "_".join(part for part in parts if part.startswith(_BIDS_KEPT))


def find_masks(folder: Path, known: Container[str] = ()) -> dict[str, Path]:
    """Find the mask of every case in a folder.

    Understood are ``CASE.nii.gz`` (also ``CASE_mask.nii.gz``, ``CASE_lesion.nii.gz``), a folder
    per case with ``lesion.nii.gz``, ``lesion_mask.nii.gz``, ``mask.nii.gz`` or ``CASE.nii.gz`` in
    it, and BIDS names that start with ``sub-``: of those a lesion ``_mask`` (not a ``desc-brain``
    one, nor one of another ``label-``), whose case is its subject, session, acquisition and run.
    ``.nii`` does as well as ``.nii.gz``; anything else is passed over. Of a case that is ``known``
    a file by its very name in the folder is the mask: ``sub-01_t2.nii.gz``, an image by BIDS.

    Raises
    ------
    InputError
        If the folder is missing, holds no mask, or two for one case.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give a folder of masks")
    found: dict[str, Path] = {}
    try:
        paths = sorted(_files_under(folder))
    except OSError as error:
        raise InputError(
            f"{error.filename}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    for path in paths:
        case = _case_of(path, folder, known)
        if case is None:
            continue
        if case in found:
            raise InputError(f"{path}: second mask of case {case}, after {found[case]}; keep one")
        found[case] = path
    if not found:
        raise InputError(f"{folder}: no mask in it; name them CASE.nii.gz or CASE/lesion.nii.gz")
    return found


def _files_under(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Yield the files below a folder, also those in linked folders, but go round no circle."""
    here = folder.resolve()
    if here in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files_under(path, above | {here})
        else:
            yield path


def pair_masks(
    pred: Masks, truth: Masks
) -> tuple[dict[str, tuple[Source | None, Source]], list[str]]:
    """Pair the masks of two sides by case, or take one mask on either side for one case.

    Returns
    -------
    pairs : dict
        Case to predicted (None if missing) and true mask, for every case of ``truth``.
    extra : list of str
        Cases of ``pred`` that ``truth`` lacks.

    Raises
    ------
    InputError
        As `find_masks`, or if no case is on both sides.
    """
    one_pred, one_true = _single(pred), _single(truth)
    if one_pred is not None and one_true is not None:
        return {_name_of(one_pred): (one_pred, one_true)}, []
    true = _by_case(truth, "truth")
    predicted = _by_case(pred, "predictions", true)
    if not predicted.keys() & true.keys():
        here, there = (
            str(masks) if isinstance(masks, str | os.PathLike) else what
            for masks, what in ((pred, "predictions"), (truth, "the truth"))
        )
        raise InputError(
            f"{here}: no case of {there} in it (here {next(iter(predicted))}, "
            f"there {next(iter(true))}); name the masks alike"
        )
    pairs = {case: (predicted.get(case), mask) for case, mask in true.items()}
    return pairs, [case for case in predicted if case not in true]


def _single(masks: Masks) -> Source | None:
    """Return the one mask that this is, or None for a folder or a mapping."""
    if isinstance(masks, str | os.PathLike):
        return masks if Path(masks).is_file() else None
    return masks if isinstance(masks, Nifti1Image) else None


def _name_of(mask: Source) -> str:
    """Return the name of a mask's file without its ending."""
    path = mask if isinstance(mask, str | os.PathLike) else mask.get_filename() or "mask"
    name = Path(path).name
    match = _NIFTI.fullmatch(name)
    return match["stem"] if match else name


def _by_case(masks: Masks, what: str, known: Container[str] = ()) -> Mapping[str, Source]:
    if isinstance(masks, str | os.PathLike):
        return find_masks(Path(masks), known)
    if not isinstance(masks, Mapping):
        raise InputError(
            f"{what}: a {type(masks).__name__}; give a folder, or masks by case, on both sides"
        )
    for case, mask in masks.items():
        if not isinstance(mask, str | os.PathLike | Nifti1Image):
            raise InputError(
                f"{what}: {case} is a {type(mask).__name__}; give a path or a NIfTI image"
            )
    if not masks:
        raise InputError(f"{what}: no mask in it; give masks by the name of their case")
    return masks
