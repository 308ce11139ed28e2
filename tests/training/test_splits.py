"""Random splits by patient, and the file that keeps them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsaseg.errors import InputError
from rsaseg.training.cases import CaseFiles
from rsaseg.training.splits import Validation, draw_splits, read_splits, write_splits


def cases_of(visits: list[int]) -> list[CaseFiles]:
    names = [f"p{i:02}-t{v}" for i, n in enumerate(visits) for v in range(1, n + 1)]
    return [CaseFiles(name, {}, Path("x")) for name in names]


@given(visits=st.lists(st.integers(1, 3), min_size=4, max_size=12), seed=st.integers(0, 99))
def test_random_splits_part_the_patients(visits: list[int], seed: int) -> None:
    cases = cases_of(visits)
    splits = draw_splits(cases, Validation(splits=5, train_size=3), seed)
    assert [split.name for split in splits] == [f"split-{i}" for i in range(5)]
    assert splits == draw_splits(cases[::-1][::-1], Validation(splits=5, train_size=3), seed)
    for split in splits:
        assert sorted((*split.train, *split.test)) == [case.name for case in cases]
        patients = [{name[:3] for name in side} for side in (split.train, split.test)]
        assert not patients[0] & patients[1]
        assert len(patients[0]) == 3


def test_splits_differ_from_each_other_and_with_the_seed() -> None:
    cases, five = cases_of([1] * 43), Validation(splits=5, train_size=20)
    splits = [split.test for seed in (1, 2) for split in draw_splits(cases, five, seed)]
    assert len(set(splits)) == 10
    assert {len(test) for test in splits} == {23}


def test_made_exams_are_learned_from_with_their_patient_and_never_tested() -> None:
    made = [CaseFiles(f"p{i:02}-made-{k:02}", {}, Path("x")) for i in (0, 2) for k in (1, 2)]
    cases = [*cases_of([1, 2, 1, 1]), *made]
    first, second = draw_splits(cases, Validation(folds=2), 1)
    assert first.test == ("p00-t1", "p02-t1")  # both patients of whom there are made exams
    assert not any("made" in name for name in first.train)
    assert not any("made" in name for name in second.test)
    assert {"p00-made-01", "p00-made-02", "p02-made-01", "p02-made-02"} <= set(second.train)
    random = draw_splits(cases, Validation(splits=8, train_size=2), 1)
    for split in random:
        patients = [{name[:3] for name in side} for side in (split.train, split.test)]
        assert not patients[0] & patients[1]
        assert not any("made" in name for name in split.test)
    assert any("p00-made-01" in split.train for split in random)


def test_folds_leave_each_patient_out_once() -> None:
    splits = draw_splits(cases_of([1, 2, 1, 1]), Validation(folds=2), 1)
    assert [split.name for split in splits] == ["fold-0", "fold-1"]
    tested = [name for split in splits for name in split.test]
    assert sorted(tested) == ["p00-t1", "p01-t1", "p01-t2", "p02-t1", "p03-t1"]
    assert draw_splits(cases_of([1, 1]), Validation(), 1) == []


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        (Validation(splits=2, train_size=4), "leave none to test of 4"),
        (Validation(splits=2, train_size=0), "between 1 and 3"),
        (Validation(folds=2, splits=2), "choose one"),
        (Validation(folds=1), "0 or at least 2"),
        (Validation(folds=5), "5 folds need 5 patients"),
    ],
)
def test_splits_that_cannot_be(validation: Validation, words: str) -> None:
    with pytest.raises(InputError, match=words):
        draw_splits(cases_of([1, 1, 1, 1]), validation, 1)


def test_the_file_gives_back_the_splits_and_refuses_others(tmp_path: Path) -> None:
    cases, path = cases_of([1, 2, 1, 1]), tmp_path / "splits.json"
    splits = draw_splits(cases, Validation(splits=3, train_size=2), 1)
    write_splits(path, splits)
    assert read_splits(path, cases) == splits
    with pytest.raises(InputError, match="not in the data"):
        read_splits(path, cases[1:])
    content = json.loads(path.read_text())
    content["splits"][1]["test"].append(content["splits"][1]["train"][0])
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"split-1 has p0. on both sides"):
        read_splits(path, cases)
    path.write_text("{")
    with pytest.raises(InputError, match="not a file of splits"):
        read_splits(path, cases)
