"""Whose exam it is, by its name: visits of a patient belong together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rsaseg.errors import InputError

_VISIT = re.compile(
    r"[-_/](ses|session|visit|tp|timepoint|t|s)[-_]?\d+$"
    r"|[-_/](ses|session|visit)[-_][a-z0-9]+$"
    r"|[-_/](baseline|bl|follow[-_]?up|fu)[-_]?\d*$"
    r"|[-_/](19|20)\d\d[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])$",
    re.IGNORECASE,
)

_MADE = re.compile(r"[-_]made-?\d+$", re.IGNORECASE)


def without_made(case: str) -> str:
    """Return a case's name without the ``-made-01`` of one that was made from a patient's exam."""
    return _MADE.sub("", case)


def patient_of(case: str) -> str:
    """Return the patient of a case: its BIDS ``sub-`` label, else its name, without the visit.

    Where names say otherwise, a table does, see `read_patients`.

    >>> [patient_of(case) for case in ("sub-07_ses-m12_run-1", "catania-14-t3", "tabriz-03")]
    ['sub-07', 'catania-14', 'tabriz-03']
    >>> [patient_of(case) for case in ("anna_tp2", "anna-2024-03-01", "sub-ms-01", "sub-t1")]
    ['anna', 'anna', 'sub-ms-01', 'sub-t1']
    """
    real = without_made(case)
    subject = re.match(r"(sub-)([^_/]+)", real)
    prefix, label = subject.groups() if subject else ("", real)
    return prefix + _VISIT.sub("", label)


def patient_in(table: Mapping[str, str], case: str) -> str:
    """Return a case's patient by a table, see `read_patients`; empty where that does not tell.

    One that was made goes with the case that it was made from, or with all those whose names,
    but for the visit, are as its own.

    >>> patient_in({"anna-t1": "A", "anna-t2": "A", "b": "B"}, "anna-made-01")
    'A'
    """
    real = without_made(case)
    if row := table.get(case, table.get(real, "")):
        return row
    if real == case:
        return ""
    alike = {patient for other, patient in table.items() if patient_of(other) == patient_of(real)}
    return alike.pop() if len(alike) == 1 else ""


def none_among(table: Mapping[str, str], cases: Iterable[str]) -> str:
    """Return what is wrong with a table of patients that tells of none of the cases."""
    return (
        f"patients: none of the cases is among them (there {next(iter(table))}, here "
        f"{next(iter(cases))}); name the cases alike"
    )


def note_table(table: Mapping[str, str], cases: Iterable[str]) -> list[str]:
    """Return a line for the cases that a table does not tell of, and one for its lines of none."""
    if not table:
        return []
    named = dict.fromkeys(cases)
    untold = [case for case in named if not patient_in(table, case)]
    unused = [case for case in table if case not in named]
    notes = {"not in the table of patients, and told by their names": untold}
    notes |= {"in the table of patients, but no case": unused}
    return [f"{_some(found)}: {what}" for what, found in notes.items() if found]


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def read_patients(path: Path) -> dict[str, str]:
    """Read each case's patient from a TSV file with columns ``case`` and ``patient``.

    Raises
    ------
    InputError
        If the file cannot be read, lacks a column or a value, or has a case twice.
    """
    try:
        lines = [line.split("\t") for line in path.read_text("utf-8-sig").splitlines() if line]
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{path}: cannot be read; give a tab-separated text file") from None
    header = lines[0] if lines else []
    if not {"case", "patient"} <= set(header) or any(len(line) != len(header) for line in lines):
        raise InputError(
            f"{path}: not a table of cases; give tab-separated columns case and patient"
        )
    case, patient = header.index("case"), header.index("patient")
    found = {line[case]: line[patient] for line in lines[1:]}
    if "" in found or "" in found.values():
        raise InputError(f"{path}: a case or a patient is empty; fill both in every line")
    if len(found) < len(lines) - 1:
        raise InputError(f"{path}: a case stands in it twice; give each case one line")
    return found
