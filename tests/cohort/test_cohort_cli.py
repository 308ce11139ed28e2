"""Cohorts on the command line: exit codes and the one line of each wrong use."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from rsaseg.cli import main
from rsaseg.cohort import one
from rsaseg.errors import RegistrationError


def rsaseg(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    """Run the command line here and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["rsaseg", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_failures_are_told_and_exit_1(here, data, settings, tmp_path, monkeypatch, capsys):
    out = Path(shutil.copytree(here.table.parent, tmp_path / "out"))
    words = ("predict", "--data", data, "-o", out, "--weights", settings.weights)
    assert rsaseg(monkeypatch, *words, "--device", "cpu", "--resume") == 1
    printed = capsys.readouterr()
    assert "3 of 5 exams done, 3 of them before, 2 failed" in printed.out
    assert [line.split(":")[:2] for line in printed.err.splitlines() if "failed" in line] == [
        ["failed", " broken/FLAIR.nii"],
        ["failed", " empty"],
    ]


def test_exit_0_when_all_are_done(here, data, settings, tmp_path, monkeypatch, capsys):
    out = Path(shutil.copytree(here.table.parent, tmp_path / "out"))
    good = tmp_path / "good"
    for name in ("a", "c"):
        shutil.copytree(data / name, good / name)
    words = ("predict", "--data", good, "-o", out, "--weights", settings.weights)
    assert rsaseg(monkeypatch, *words, "--device", "cpu", "--resume") == 0
    assert "2 of 2 exams done" in capsys.readouterr().out


def test_every_exam_failed_is_exit_1_with_a_table(data, settings, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise RegistrationError("no")

    monkeypatch.setattr(one, "predict", fail)
    words = ("predict", "--data", data, "-o", tmp_path / "out", "--weights", settings.weights)
    assert rsaseg(monkeypatch, *words) == 1
    assert (tmp_path / "out" / "cohort.tsv").read_text().count("failed") == 5


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-o", "x"], "give --flair for one exam, or --data or --bids"),
        (["-o", "x", "--resume", "--flair", "y.nii"], "give --flair for one exam, or --data"),
        (["-o", "x", "--data", "d", "--bids", "d"], "give one of them"),
        (["-o", "x", "--data", "d", "--flair", "y.nii"], "--flair: is for one exam"),
        (["-o", "x", "--bids", "d", "--report", "r.html"], "--report: is for one exam"),
        (["-o", "x", "--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(words, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert rsaseg(monkeypatch, "predict", *words) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert line in errors[0]
    assert not list(tmp_path.iterdir())


def test_verify_of_a_record_that_is_none(tmp_path, monkeypatch, capsys):
    (tmp_path / "mask.json").write_text("{}")
    assert rsaseg(monkeypatch, "verify", tmp_path / "mask.json") == 2
    assert "not the record of a mask" in capsys.readouterr().err
