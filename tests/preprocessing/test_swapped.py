"""Sequences given for one another, in the phantom and in every real exam that is at hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest

from rsaseg.imaging import Volume, read_volume
from rsaseg.phantom import Phantom
from rsaseg.preprocessing import SEQUENCES, find_swapped

Exam = dict[str, Volume]
OTHER_ORDERS = [order for order in permutations(SEQUENCES) if order != SEQUENCES]


def given_as(exam: Exam, order: tuple[str, ...]) -> list[str]:
    """Return what is said where the files of ``order`` are given as T1, T2 and FLAIR."""
    return list(
        find_swapped({n: replace(exam[o], name=o) for n, o in zip(SEQUENCES, order, strict=True)})
    )


def test_a_good_exam_is_none_with_any_of_its_sequences(phantom: Phantom) -> None:
    exam = phantom.images
    for names in (SEQUENCES, ("T1", "FLAIR"), ("T2", "FLAIR"), ("FLAIR",)):
        assert list(find_swapped({name: exam[name] for name in names})) == []


@pytest.mark.parametrize("order", OTHER_ORDERS, ids="-".join)
def test_every_wrong_order_of_three_is_told(phantom: Phantom, order: tuple[str, ...]) -> None:
    told = given_as(phantom.images, order)
    assert told
    wrong = [o for name, o in zip(SEQUENCES, order, strict=True) if name != o]
    for line in told:
        files = line.split(":")[0].split(", ")
        assert set(files) <= set(wrong)
        assert line.endswith("check that the files were not swapped")


def test_a_t2_alone_is_no_flair(phantom: Phantom) -> None:
    (line,) = find_swapped({"FLAIR": replace(phantom.images["T2"], name="b.nii")})
    assert line.startswith("b.nii: fluid is bright in it, as in no FLAIR;")


def test_of_a_few_voxels_nothing_is_told(phantom: Phantom) -> None:
    t2 = phantom.images["T2"]
    small = replace(t2.grid, shape=(60, 60, 1))
    middle = t2.data[12:72, 18:78, 20:21]
    assert list(find_swapped({"FLAIR": replace(t2, data=middle, grid=small)})) == []


@pytest.mark.parametrize("flair_alone", [False, True])
def test_real_exams(labelled: Path, flair_alone: bool) -> None:
    folders = [*labelled.iterdir(), *(labelled.parent / "flair_only").iterdir()]
    for folder in sorted(folders):
        exam = {
            name: read_volume(folder / f"{name}.nii.gz")
            for name in SEQUENCES
            if (folder / f"{name}.nii.gz").exists() and (name == "FLAIR" or not flair_alone)
        }
        assert list(find_swapped(exam)) == [], folder
        if len(exam) == len(SEQUENCES):
            silent = [order for order in OTHER_ORDERS if not given_as(exam, order)]
            assert silent == [], folder
