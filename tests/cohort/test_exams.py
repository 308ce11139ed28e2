"""Exams in folders and BIDS data sets, against lists written by hand."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from errno import EACCES
from pathlib import Path

import pytest

from rsaseg.cohort.exams import find_bids_exams, find_exams
from rsaseg.errors import InputError


def make_files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def make_bids(root: Path, *names: str) -> Path:
    make_files(root, *names)
    text = json.dumps({"Name": "x", "BIDSVersion": "1.10.0"})
    (root / "dataset_description.json").write_text(text)
    return root


def test_a_folder_per_exam(tmp_path):
    make_files(tmp_path, "b/FLAIR.nii", "b/notes.txt", "a/t1.nii.gz", "a/T2.nii", "a/Flair.nii.gz")
    make_files(tmp_path, ".hidden/FLAIR.nii", "readme.txt", "a/lesion.nii.gz")
    first, second = find_exams(tmp_path)
    assert (first.name, second.name) == ("a", "b")
    names = {sequence: path.name for sequence, path in first.sequences.items()}
    assert names == {"T1": "t1.nii.gz", "T2": "T2.nii", "FLAIR": "Flair.nii.gz"}
    assert first.mask == Path("a/lesion_mask.nii.gz")
    assert list(second.sequences) == ["FLAIR"]
    assert not first.problem + second.problem


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["x/T1.nii"], "no FLAIR.nii.gz or FLAIR.nii"),
        (["x/fler.nii.gz"], "no FLAIR.nii.gz or FLAIR.nii"),
        (["x/FLAIR.nii", "x/flair.nii.gz"], "FLAIR.nii is there too"),
        (["x/anat/x_FLAIR.nii.gz"], "use --bids"),
        (["x_FLAIR.NII.gz", "notes.txt", ".x.nii"], "in no exam's folder"),
    ],
)
def test_an_unusable_exam_is_listed_with_its_problem(tmp_path, files, words):
    good, bad = find_exams(make_files(tmp_path, "a/FLAIR.nii", *files))
    assert not good.problem
    assert words in bad.problem
    assert str(tmp_path / "x") in bad.problem


def test_a_link_that_leads_nowhere_is_an_image(tmp_path):
    make_bids(tmp_path, "sub-1/anat/sub-1_FLAIR.json")
    flair = tmp_path / "sub-1/anat/sub-1_FLAIR.nii.gz"
    flair.symlink_to(tmp_path / ".git/annex/not-fetched")
    assert [exam.sequences for exam in find_bids_exams(tmp_path)] == [{"FLAIR": flair}]


def test_names_that_differ_in_capitals_only_are_both_refused(tmp_path):
    make_files(tmp_path, "p1/FLAIR.nii", "P1/FLAIR.nii", "p2/FLAIR.nii")
    if len(list(tmp_path.iterdir())) < 3:
        pytest.skip("needs a file system that tells capitals from small letters")
    assert [bool(exam.problem) for exam in find_exams(tmp_path)] == [True, True, False]


LATIN_1 = os.fsdecode(b"M\xfcller")  # as an old disk or archive has it


@pytest.mark.parametrize(
    "bad", [f"{LATIN_1}/FLAIR.nii", f"{LATIN_1}/T1.nii", f"{LATIN_1}/anat/x.nii", f"{LATIN_1}.nii"]
)
def test_a_name_that_is_not_utf_8_is_an_exams_own_problem(tmp_path, bad):
    found = {exam.name: exam for exam in find_exams(make_files(tmp_path, "a/FLAIR.nii", bad))}
    name = bad.partition("/")[0].replace("\udcfc", r"\xfc")
    assert found.keys() == {"a", name}
    assert not found["a"].problem
    assert found[name].problem == f"{name}: its name is not UTF-8 text; rename it"


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        (f"sub-{LATIN_1}/anat/sub-{LATIN_1}_FLAIR.nii", r"sub-M\xfcller"),
        (f"sub-2/ses-{LATIN_1}/anat/sub-2_FLAIR.nii", r"sub-2_ses-M\xfcller"),
        (f"{LATIN_1}/FLAIR.nii", r"M\xfcller"),
    ],
)
def test_a_bids_name_that_is_not_utf_8_is_an_exams_own_problem(tmp_path, bad, name):
    root = make_bids(tmp_path, "sub-1/anat/sub-1_FLAIR.nii.gz", bad)
    found = {exam.name: exam.problem for exam in find_bids_exams(root)}
    assert found == {
        "sub-1": "",
        name: f"{name}: its name is not UTF-8 text; rename it",
    }


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], "no exams in it"),
        (["FLAIR.nii.gz", "T1.nii.gz"], "itself an exam"),
        (["dataset_description.json", "sub-1/anat/sub-1_FLAIR.nii"], "use --bids"),
    ],
)
def test_a_folder_of_another_layout_is_refused(tmp_path, files, words):
    with pytest.raises(InputError, match=words):
        find_exams(make_files(tmp_path, *files))


def test_a_missing_folder_is_refused(tmp_path):
    for find in (find_exams, find_bids_exams):
        with pytest.raises(InputError, match="no such folder"):
            find(tmp_path / "nowhere")


def test_bids_subjects_and_sessions(tmp_path):
    make_bids(
        tmp_path,
        "sub-02/ses-B/anat/sub-02_ses-B_FLAIR.nii.gz",
        "sub-02/ses-B/anat/sub-02_ses-B_T1w.nii",
        "sub-02/ses-A/anat/sub-02_ses-A_acq-3d_run-1_FLAIR.nii.gz",
        "sub-02/ses-A/anat/sub-02_ses-A_T2w.nii.gz",
        "sub-02/ses-A/anat/sub-02_ses-A_T2w.json",
        "sub-02/ses-A/func/sub-02_ses-A_task-rest_bold.nii.gz",
        "sub-01/anat/sub-01_FLAIR.nii.gz",
        "sub-03/func/sub-03_task-rest_bold.nii.gz",
        "derivatives/other/sub-01/anat/sub-01_FLAIR.nii.gz",
    )
    found = {exam.name: exam for exam in find_bids_exams(tmp_path)}
    assert list(found) == ["sub-01", "sub-02_ses-A", "sub-02_ses-B"]
    assert {name: sorted(exam.sequences) for name, exam in found.items()} == {
        "sub-01": ["FLAIR"],
        "sub-02_ses-A": ["FLAIR", "T2"],
        "sub-02_ses-B": ["FLAIR", "T1"],
    }
    assert [exam.mask.as_posix() for exam in found.values()] == [
        "sub-01/anat/sub-01_space-orig_label-L_mask.nii.gz",
        "sub-02/ses-A/anat/sub-02_ses-A_acq-3d_run-1_space-orig_label-L_mask.nii.gz",
        "sub-02/ses-B/anat/sub-02_ses-B_space-orig_label-L_mask.nii.gz",
    ]
    assert not any(exam.problem or exam.warnings for exam in found.values())


def test_of_several_bids_images_one_without_contrast_of_the_same_acquisition(tmp_path):
    make_bids(
        tmp_path,
        "sub-1/anat/sub-1_acq-3d_FLAIR.nii.gz",
        "sub-1/anat/sub-1_acq-2d_T1w.nii.gz",
        "sub-1/anat/sub-1_acq-3d_run-1_T1w.nii.gz",
        "sub-1/anat/sub-1_acq-3d_ce-gd_T1w.nii.gz",
        "sub-1/anat/sub-1_run-2_T2w.nii.gz",
        "sub-1/anat/sub-1_run-1_T2w.nii.gz",
    )
    (exam,) = find_bids_exams(tmp_path)
    assert exam.sequences["T1"].name == "sub-1_acq-3d_run-1_T1w.nii.gz"
    assert exam.sequences["T2"].name == "sub-1_run-1_T2w.nii.gz"
    assert exam.warnings == (
        "3 T1w images; used sub-1_acq-3d_run-1_T1w.nii.gz",
        "2 T2w images; used sub-1_run-1_T2w.nii.gz",
    )


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("sub-2/anat/sub-2_T1w.nii.gz", "no sub-2_FLAIR"),
        ("sub-2/anat/sub-1_FLAIR.nii.gz", "another subject or session"),
        ("sub-2/ses-1/anat/sub-2_ses-2_FLAIR.nii.gz", "another subject or session"),
        ("sub-2/anat/sub-22_FLAIR.nii.gz", "another subject or session"),
        ("sub-2/anat/sub-2_flair.nii.gz", "no sub-2_FLAIR"),
        ("sub-2/ses-1/anat/FLAIR.nii", "no sub-2_ses-1_FLAIR"),
        ("patient-2/FLAIR.nii", "not laid out as BIDS; use --data"),
    ],
)
def test_an_unusable_bids_exam_is_listed_with_its_problem(tmp_path, file, words):
    good, bad = find_bids_exams(make_bids(tmp_path, "sub-1/anat/sub-1_FLAIR.nii.gz", file))
    assert not good.problem
    assert words in bad.problem


def test_a_subject_that_cannot_be_read_stops_no_other(tmp_path, monkeypatch):
    make_bids(tmp_path, "sub-1/anat/sub-1_FLAIR.nii.gz", "sub-2/anat/sub-2_FLAIR.nii.gz")
    inside = Path.iterdir

    def deny(folder: Path) -> Iterator[Path]:
        if "sub-1" in folder.parts:
            raise PermissionError(13, "Permission denied")
        return inside(folder)

    monkeypatch.setattr(Path, "iterdir", deny)
    assert [
        (exam.name, "cannot be read" in exam.problem) for exam in find_bids_exams(tmp_path)
    ] == [
        ("sub-1", True),
        ("sub-2", False),
    ]


def test_what_is_no_bids_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="no BIDS data set"):
        find_bids_exams(make_files(tmp_path, "sub-1/anat/sub-1_FLAIR.nii.gz"))
    with pytest.raises(InputError, match="with a FLAIR in it"):
        find_bids_exams(make_bids(tmp_path / "other", "x/FLAIR.nii"))


@pytest.mark.parametrize("bids", [True, False])
def test_a_folder_that_may_be_listed_but_not_entered_stops_no_other(bids, tmp_path, monkeypatch):
    for name in ("sub-1", "sub-2"):
        anat = tmp_path / name / "anat"
        anat.mkdir(parents=True)
        (anat / f"{name}_FLAIR.nii.gz").touch()
    (tmp_path / "sub-2" / "FLAIR.nii.gz").touch()
    if bids:
        (tmp_path / "dataset_description.json").write_text("{}")
    is_dir = Path.is_dir

    def refused(path: Path) -> bool:  # as after chmod 644 sub-1
        if path.parent.name == "sub-1":
            raise PermissionError(EACCES, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", refused)
    bad, good = (find_bids_exams if bids else find_exams)(tmp_path)
    assert bad.problem == (
        f"{tmp_path / 'sub-1'}: cannot be read (Permission denied); check its permissions"
    )
    assert (bad.name, good.name, good.problem) == ("sub-1", "sub-2", "")
