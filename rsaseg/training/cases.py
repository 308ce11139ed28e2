"""Training cases: finding them, and keeping what the network sees in memory-mapped files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsaseg.errors import GeometryError, InputError
from rsaseg.imaging import (
    Volume,
    make_folder,
    read_mask,
    read_volume,
    resample,
    write_array,
    write_atomic,
)
from rsaseg.imaging.listing import images_among, listed
from rsaseg.patients import none_among, patient_in, patient_of, without_made
from rsaseg.preprocessing import (
    SEQUENCES,
    InputSpec,
    network_input,
    off_grid,
    to_tensor_axes,
    to_working_grid,
)
from rsaseg.training.mapped import map_array


@dataclass(frozen=True)
class CaseFiles:
    """The files of one case.

    Attributes
    ----------
    name : str
    sequences : dict
        Sequence name to file.
    lesion : Path
        Its mask.
    brain : Path, optional
        Mask of the brain.
    table_patient : str
        The patient as a table tells; empty where the name does.
    """

    name: str
    sequences: dict[str, Path]
    lesion: Path
    brain: Path | None = None
    table_patient: str = ""

    @property
    def made(self) -> bool:
        """Whether it was made from a patient's exam: ``-made-01`` at the end of its name.

        Such an exam is learned from with its patient, and never tested on.
        """
        return without_made(self.name) != self.name

    @property
    def patient(self) -> str:
        """As the table tells, or the name, see `rsaseg.patients`."""
        return self.table_patient or patient_of(self.name)

    @property
    def drawn_as(self) -> str:
        """The patient it counts as when crops are drawn: all made of one count as one more."""
        return f"{self.patient} made" if self.made else self.patient


def find_files(folder: Path) -> dict[str, Path]:
    """Return ``t1``, ``t2``, ``flair``, ``lesion``, ``brain`` to NIfTI file, names in any case."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        stem = re.sub(r"\.nii(\.gz)?$", "", path.name.lower())
        if stem == path.name.lower() or stem not in {"t1", "t2", "flair", "lesion", "brain"}:
            continue
        if stem in found:
            raise InputError(f"{path}: {found[stem].name} is there too; keep one of them")
        found[stem] = path
    return found


class DataSetError(InputError):
    """All that is wrong with a data set.

    Attributes
    ----------
    problems : list of str
        One line each.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        numbered = [f"({i}) {problem}" for i, problem in enumerate(problems, 1)]
        super().__init__(problems[0] if len(problems) == 1 else " ".join(numbered))


def find_cases(folders: Sequence[Path]) -> list[CaseFiles]:
    """Return the cases under ``folders``, a folder each, sorted by name, made ones last.

    Raises
    ------
    DataSetError
        If a folder or a case's FLAIR or lesion mask is missing, or a name appears twice.
    """
    cases, problems = scan_cases(folders)
    if problems:
        raise DataSetError(problems)
    return cases


def scan_cases(
    folders: Sequence[Path], patients: Mapping[str, str] | None = None
) -> tuple[list[CaseFiles], list[str]]:
    """Return the cases under ``folders`` that can be read, and what is wrong with the others.

    ``patients`` are those of cases whose names do not tell, see `rsaseg.patients.patient_in`.
    """
    told = patients or {}
    cases: dict[str, CaseFiles] = {}
    problems: list[str] = []
    for folder in folders:
        if not folder.is_dir():
            problems.append(f"{folder}: no such folder; give a folder with one folder per case")
            continue
        for place in (path for path in listed(folder) if path.is_dir()):
            try:
                files = find_files(place)
                unnamed = not files and images_among(listed(place))
            except (InputError, OSError) as error:
                problems.append(str(error))
                continue
            missing = [needed for needed in ("flair", "lesion") if needed not in files]
            if unnamed:
                what = "no FLAIR and no lesion by these names in it"
                problems.append(f"{place}: {what}; rename its files or move it")
            elif not files:
                continue
            elif missing:
                names = " and no ".join(missing)
                problems.append(f"{place}: has no {names} NIfTI file; add it or move the case")
            elif place.name in cases:
                problems.append(f"{place}: a second case of this name; rename one")
            else:
                sequences = {n: files[n.lower()] for n in SEQUENCES if n.lower() in files}
                patient = patient_in(told, place.name)
                cases[place.name] = CaseFiles(
                    place.name, sequences, files["lesion"], files.get("brain"), patient
                )
    if not cases and not problems:
        names = ", ".join(str(folder) for folder in folders)
        problems = [f"{names}: no cases found; put T1, T2, FLAIR and lesion in a folder each"]
    if told and cases and not any(case.table_patient for case in cases.values()):
        problems.append(none_among(told, cases))
    ordered = sorted(cases.values(), key=lambda case: (case.made, case.name))
    return ordered, problems


def split_folds(cases: Sequence[CaseFiles], folds: int) -> list[list[CaseFiles]]:
    """Deal the patients, in order of name, to ``folds`` folds; a patient's visits stay together.

    Patients of whom there are made exams alone have nothing to test, and are in no fold.

    Raises
    ------
    InputError
        If there are fewer patients than folds.
    """
    patients = sorted({case.patient for case in cases if not case.made})
    if len(patients) < folds:
        raise InputError(f"{folds} folds need {folds} patients; there are {len(patients)}")
    fold_of = {patient: i % folds for i, patient in enumerate(patients)}
    return [[case for case in cases if fold_of.get(case.patient) == i] for i in range(folds)]


@dataclass(frozen=True, eq=False)
class Variant:
    """One way in which the network sees a case, memory-mapped.

    Attributes
    ----------
    image : ndarray
        (C, D, H, W) float16.
    lesion : ndarray
        (D, H, W) float16, 0..1: fraction of the voxel that is lesion.
    spacing_mm : tuple of float
        Voxel size along W, H, D.
    stripped : bool
        The brain alone, by a brain mask.
    brain : ndarray, optional
        (D, H, W) float16, 0..1: fraction of the voxel that is brain; with the skull on, where there
        is a brain mask.
    """

    image: NDArray[np.float16]
    lesion: NDArray[np.float16]
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 3.0)
    stripped: bool = False
    brain: NDArray[np.float16] | None = None

    @cached_property
    def present(self) -> NDArray[np.bool_]:
        """(C,) whether there is such a sequence; one that is missing is 0 throughout."""
        return np.array([bool(channel.any()) for channel in self.image])

    @cached_property
    def lesion_vox(self) -> NDArray[np.intp]:
        """(n, 3) D, H, W indices of the voxels over half lesion."""
        return np.argwhere(np.asarray(self.lesion) > 0.5)


@dataclass(frozen=True, eq=False)
class CachedCase:
    """What the network sees of a case.

    Attributes
    ----------
    name, patient : str
        Of the case. Exams made from a patient's count as another patient's, drawn as often.
    variants : list of Variant
        The first is what it sees in use. The others: the brain alone where there is a brain mask,
        and thin slices where there are any.
    offset : float
        Of its reader, added to the lesion's logit before the loss; see `rsaseg.training.readers`.
    digest : str
        Of its files and how they were prepared.
    """

    name: str
    patient: str
    variants: list[Variant]
    offset: float = 0.0
    digest: str = ""


def read_exam(files: CaseFiles) -> dict[str, Volume]:
    """Read a case's sequences and check that they lie on the FLAIR's grid."""
    exam = {name: read_volume(path) for name, path in files.sequences.items()}
    if problem := next(off_grid(exam), ""):
        raise GeometryError(problem)
    return exam


def cache_case(files: CaseFiles, spec: InputSpec, folder: Path) -> CachedCase:
    """Prepare a case once and keep it under ``folder``; later calls only map the files.

    The key is the content of the files and what ``spec`` says of preparing them, so a changed mask
    is prepared again.
    """
    paths = [*files.sequences.values(), files.lesion, *([files.brain] if files.brain else [])]
    prepared = asdict(spec)
    del prepared["mirrored"]  # says how often an exam is seen
    content = hashlib.sha256(json.dumps([7, prepared, sorted(files.sequences)]).encode())
    for path in paths:
        content.update(path.read_bytes())
    digest = content.hexdigest()
    place = folder / f"{files.name}-{digest[:12]}"
    if not (place / "done").exists():
        make_folder(place)
        written = _write_variants(files, spec, place)
        write_atomic(place / "done", json.dumps(written).encode())
    variants = []
    for i, (spacing_mm, stripped) in enumerate(json.loads((place / "done").read_text())):
        image, lesion = (map_array(place / f"{name}-{i}.npy") for name in ("image", "lesion"))
        told = place / f"brain-{i}.npy"
        brain = map_array(told) if told.exists() else None
        variants.append(Variant(image, lesion, tuple(spacing_mm), stripped, brain))
    return CachedCase(files.name, files.drawn_as, variants, digest=digest)


def _write_variants(
    files: CaseFiles, spec: InputSpec, place: Path
) -> list[tuple[tuple[float, float, float], bool]]:
    """Write image and lesion of each variant, and return their spacings and if stripped."""
    exam = read_exam(files)
    grid = exam["FLAIR"].grid
    lesion, lesion_grid = read_mask(files.lesion)
    if not lesion_grid.matches(grid):
        raise GeometryError(f"{files.lesion}: not on the FLAIR's grid; draw the mask on the FLAIR")
    exams = {False: exam}
    if files.brain is not None:
        brain, _ = read_mask(files.brain)
        exams[True] = {
            name: replace(volume, data=volume.data * brain) for name, volume in exam.items()
        }
    spacings = [spec.spacing_mm]
    if spec.turns_of(grid) > 1:
        spacings.append((*spec.spacing_mm[:2], spec.thin_mm))
    kinds = [(spacing_mm, stripped) for spacing_mm in spacings for stripped in exams]
    for i, (spacing_mm, stripped) in enumerate(kinds):
        seen = network_input(to_working_grid(exams[stripped], spacing_mm), spec)
        write_array(place / f"image-{i}.npy", seen.image.astype(np.float16))
        masks = {"lesion": lesion} | ({"brain": brain} if files.brain and not stripped else {})
        for name, mask in masks.items():
            share = to_tensor_axes(resample(mask, grid, seen.grid))
            write_array(place / f"{name}-{i}.npy", share.astype(np.float16))
    return kinds
