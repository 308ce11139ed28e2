"""Who learns and who is left out: folds, random splits, and the file that keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from rsaseg.errors import InputError
from rsaseg.imaging import write_atomic
from rsaseg.training.cases import CaseFiles, split_folds

SPLITS_FILE = "splits.json"
"""Written into a training's folder before its first step."""


@dataclass(frozen=True)
class Validation:
    """How patients are left out: not at all, in folds, or in random splits.

    Attributes
    ----------
    folds : int
        Each patient is left out once, in one of this many folds.
    splits : int
        Random splits; the paper takes five.
    train_size : int
        Patients that learn in a random split; all the others are left out.
    patients : mapping
        Case to patient, where names do not tell, see `rsaseg.patients`.
    """

    folds: int = 0
    splits: int = 0
    train_size: int = 20
    patients: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Split:
    """Names of the cases that one network learns from, and of those it is tested on."""

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]


def settle_splits(
    path: Path, cases: Sequence[CaseFiles], validation: Validation, seed: int
) -> tuple[list[Split], list[str]]:
    """Return the splits that a training keeps in a file, else new ones; and what one should know.

    Raises
    ------
    InputError
        If others are asked for than the file has, or it or they cannot be used.
    """
    splits = draw_splits(cases, validation, seed)
    if not path.exists():
        return splits, []
    stored = read_splits(path, cases)
    if [split.name for split in stored] != [split.name for split in splits]:
        raise InputError(
            f"{path}: of a run with {len(stored)} networks on parts of the data, now "
            f"{len(splits)}; give the same --folds and --splits, or choose another folder"
        )
    patient = {case.name: case.patient for case in cases if not case.made}
    sizes = {len({patient[name] for name in s.train if name in patient}) for s in stored}
    if validation.splits and validation.train_size not in sizes:
        raise InputError(
            f"{path}: of a run with {min(sizes)} patients to learn from in a split, not "
            f"{validation.train_size}; give --train-size {min(sizes)}, or choose another folder"
        )
    told = {name for split in stored for name in (*split.train, *split.test)}
    return stored, [
        f"{name}: not in {path}, which was drawn before; only the final network learns from it"
        for name in patient
        if stored and name not in told
    ]


def draw_splits(cases: Sequence[CaseFiles], validation: Validation, seed: int) -> list[Split]:
    """Part the cases by patient; the same patients and seed give the same splits.

    Raises
    ------
    InputError
        If there are too few patients, or folds and splits are both asked for.
    """
    if validation.folds and validation.splits:
        raise InputError("both folds and splits are given; choose one")
    if validation.folds == 1 or min(validation.folds, validation.splits) < 0:
        raise InputError("folds must be 0 or at least 2, and splits 0 or more")
    if validation.folds:
        tests = [{c.patient for c in part} for part in split_folds(cases, validation.folds)]
        return [_part(cases, test, f"fold-{i}") for i, test in enumerate(tests)]
    patients = sorted({case.patient for case in cases if not case.made})
    if validation.splits and not 0 < validation.train_size < len(patients):
        raise InputError(
            f"{validation.train_size} patients to train on leave none to test of "
            f"{len(patients)}; choose --train-size between 1 and {len(patients) - 1}"
        )
    splits = []
    for i in range(validation.splits):
        order = np.random.default_rng((seed, i)).permutation(len(patients))
        test = {patients[k] for k in order[validation.train_size :]}
        splits.append(_part(cases, test, f"split-{i}"))
    return splits


def _part(cases: Sequence[CaseFiles], test: set[str], name: str) -> Split:
    return Split(
        name,
        tuple(case.name for case in cases if case.patient not in test),
        tuple(case.name for case in cases if case.patient in test and not case.made),
    )


def read_splits(path: Path, cases: Sequence[CaseFiles]) -> list[Split]:
    """Read what `write_splits` wrote, or a person.

    Raises
    ------
    InputError
        If it is damaged, names an unknown case, or has a patient on both sides.
    """
    try:
        rows = json.loads(path.read_text())["splits"]
        splits = [Split(row["name"], tuple(row["train"]), tuple(row["test"])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path}: not a file of splits; remove it to draw new ones") from None
    patient = {case.name: case.patient for case in cases}
    for split in splits:
        unknown = [name for name in (*split.train, *split.test) if name not in patient]
        if unknown:
            raise InputError(
                f"{path}: {split.name} names {unknown[0]}, which is not in the data; add the "
                f"case, or choose another output folder"
            )
        both = {patient[n] for n in split.train} & {patient[n] for n in split.test}
        if both or not split.train or not split.test:
            what = f"{min(both)} on both sides" if both else "an empty side"
            raise InputError(
                f"{path}: {split.name} has {what}; choose another output folder to draw new ones "
                f"(--patients tells who is who, where names do not)"
            )
    return splits


def write_splits(path: Path, splits: Sequence[Split]) -> None:
    """Write the splits as JSON."""
    text = json.dumps({"splits": [asdict(split) for split in splits]}, indent=1)
    write_atomic(path, (text + "\n").encode())
