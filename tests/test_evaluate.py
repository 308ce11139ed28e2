"""Evaluation of folders: pairing, failures, figures and files."""

from __future__ import annotations

import doctest
import importlib
import json
import math
import os
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from rsaseg import evaluate
from rsaseg.errors import GeometryError, InputError
from rsaseg.imaging import Grid
from rsaseg.patients import note_table, patient_in, patient_of, read_patients
from rsaseg.report.evaluation import (
    case_table,
    case_tsv,
    check_evaluation_folder,
    difference_table,
    estimate_table,
    write_evaluation,
)
from rsaseg.scoring.cases import CASE_METRICS, SIZE_CLASSES_MM3, Rules, score_masks
from rsaseg.scoring.pairing import find_masks, pair_masks
from rsaseg.scoring.summary import COHORT_METRICS
from rsaseg.training.cases import CaseFiles

SHAPE = (12, 10, 8)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def save(path: Path, mask: NDArray[np.bool_], affine: NDArray[np.float64] = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), path)
    return path


def boxes(*corners: tuple[int, int, int], size: int = 2) -> NDArray[np.bool_]:
    mask = np.zeros(SHAPE, dtype=bool)
    for x, y, z in corners:
        mask[x : x + size, y : y + size, z : z + size] = True
    return mask


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders: case a agrees, of case b half is found, case c has nothing on either side."""
    pred, truth = tmp_path / "p", tmp_path / "g"
    save(pred / "a.nii.gz", boxes((1, 1, 1)))
    save(truth / "a.nii.gz", boxes((1, 1, 1)))
    save(pred / "b.nii", boxes((1, 1, 1)))
    save(truth / "b.nii.gz", boxes((1, 1, 1), (8, 6, 4)))
    save(pred / "c.nii.gz", boxes())
    save(truth / "c.nii.gz", boxes())
    return pred, truth


def test_averages_of_the_paper_by_hand(folders: tuple[Path, Path]) -> None:
    result = evaluate(*folders)
    assert [score.case for score in result.cases] == ["a", "b", "c"]
    assert result.n_failed == 0
    assert result.estimate("dice").value == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert result.estimate("iou").value == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert result.estimate("voxel_average_dice").value == pytest.approx(2 * 16 / (16 + 24))
    assert result.estimate("voxel_average_iou").value == pytest.approx(16 / 24)
    assert result.estimate("lesion_tpr").value == pytest.approx((1 + 1 / 2) / 2)
    assert result.estimate("lesion_tpr").n == 2  # c has no lesion to find
    assert result.estimate("pooled_lesion_tpr").value == pytest.approx(2 / 3)
    assert result.estimate("pooled_lesion_tpr_small").value == pytest.approx(2 / 3)
    for rate in ("tpr", "precision", "f1"):
        assert math.isnan(result.estimate(f"pooled_lesion_{rate}_large").value)
    assert result.estimate("volume_difference_ml").value == pytest.approx(-0.016 / 3)
    assert result.estimate("volume_icc").n == 3
    assert {estimate.metric for estimate in result.estimates} == COHORT_METRICS.keys()
    dice = result.estimate("dice")
    assert dice.low <= dice.value <= dice.high


def test_a_missing_prediction_counts_as_the_worst_and_an_extra_one_is_listed(
    folders: tuple[Path, Path],
) -> None:
    pred, truth = folders
    (pred / "a.nii.gz").unlink()
    (pred / "c.nii.gz").unlink()
    save(pred / "z.nii.gz", boxes())
    result = evaluate(pred, truth)
    assert result.missing == ("a", "c")
    assert result.extra == ("z",)
    assert result.n_failed == 3
    assert result.estimate("dice").value == pytest.approx((0 + 2 / 3 + 0) / 3)
    assert result.estimate("voxel_average_dice").value == pytest.approx(2 * 8 / (8 + 24))
    assert result.estimate("pooled_lesion_tpr").value == pytest.approx(1 / 3)
    diagonal_mm = math.sqrt(11**2 + 9**2 + 14**2)
    for case in (result.cases[0], result.cases[2]):  # the empty truth of c does not excuse it
        rates = ("dice", "iou", "lesion_tpr", "lesion_precision", "lesion_f1", "surface_dice")
        assert [case.scores[name] for name in rates] == [0] * len(rates)
        assert case.scores["hd95_mm"] == case.scores["assd_mm"] == pytest.approx(diagonal_mm)
    assert result.estimate("lesion_precision").n == 3  # left out of no average
    assert result.failures[0] == f"a: no prediction in {pred}"
    assert result.failures[2] == f"z: no truth for it, only {pred}"


def test_files_of_an_evaluation(folders: tuple[Path, Path], tmp_path: Path) -> None:
    save(folders[0] / "z.nii.gz", boxes())
    out = tmp_path / "new" / "out"
    result = evaluate(*folders, compare=folders[1])
    write_evaluation(result, out)
    names = {"cases.tsv", "summary.tsv", "evaluation.json", "bland_altman.svg", "comparison.tsv"}
    assert {path.name for path in out.iterdir()} == names
    header, *rows = [line.split("\t") for line in (out / "cases.tsv").read_text().splitlines()]
    assert all(len(row) == len(header) for row in rows)
    assert [row[:3] for row in rows[-2:]] == [["c", "c", "scored"], ["z", "n/a", "extra"]]
    assert rows[1][header.index("dice")] == "0.6666666667"
    assert rows[2][header.index("lesion_tpr")] == "n/a"
    content = json.loads((out / "evaluation.json").read_text())
    assert content["extra"] == ["z"]
    assert content["columns"]["n_truth_large"] == "True lesions; from 500 mm3 on"
    assert not any(" inf " in text for text in content["figures"].values())
    assert content["n_failed"] == 1
    assert set(content["columns"]) == set(header)
    assert content["cases"][2]["lesion_tpr"] is None
    assert content["rules"]["min_lesion_mm3"] == 3.0
    assert {row["metric"] for row in content["estimates"]} == set(content["figures"])
    svg = ElementTree.parse(out / "bland_altman.svg").getroot()
    circles = svg.findall("{http://www.w3.org/2000/svg}circle")
    assert len(circles) == len(result.cases)
    xy = {c[0].text: (float(c.get("cx", "")), float(c.get("cy", ""))) for c in circles}
    assert xy["c"][0] < xy["a"][0] < xy["b"][0]  # mean volumes 0, 16 and 24 mm3
    assert xy["c"][1] == xy["a"][1] < xy["b"][1]  # b's is too small, and y runs downwards


def test_comparison_pairs_patients(folders: tuple[Path, Path]) -> None:
    pred, truth = folders
    (pred / "c.nii.gz").rename(pred / "z.nii.gz")
    result = evaluate(truth, truth, compare=pred)
    assert (result.missing_in_other, result.extra_in_other) == (("c",), ("z",))
    assert (result.missing, result.extra, result.n_failed) == ((), (), 2)
    gain = {row.metric: row for row in result.differences}
    assert gain["dice"].difference == pytest.approx((0 + 1 / 3 + 1) / 3)
    assert gain["dice"].p_value == pytest.approx(0.5)  # two gains, none lost: 2 / 2**2
    assert gain["lesion_tpr"].n_patients == 2


def test_tables_are_readable(folders: tuple[Path, Path]) -> None:
    save(folders[0] / "z.nii.gz", boxes())
    result = evaluate(*folders, compare=folders[1])
    console = Console(width=120, record=True, file=StringIO())
    for table in (case_table(result), estimate_table(result), difference_table(result)):
        console.print(table)
    text = " ".join(console.export_text().split())
    for words in ("3 exams of 3 patients", "extra", "0.667", "voxel_average_dice", "n/a"):
        assert words in text
    assert "counts from 3 mm3; it is matched where the other mask's lesions cover any of it" in text


def test_intervals_over_few_patients_are_told(folders: tuple[Path, Path], tmp_path: Path) -> None:
    few = evaluate(*folders)
    mask = nib.Nifti1Image(boxes((1, 1, 1)).astype(np.uint8), AFFINE)
    enough = evaluate(*[{f"p{i}": mask for i in range(10)}] * 2)
    console = Console(width=120, record=True, file=StringIO())
    for result, told in ((few, True), (enough, False)):
        console.print(estimate_table(result))
        text = " ".join(console.export_text().split())
        assert ("Intervals over 3 patients are too narrow" in text) is told
        write_evaluation(result, tmp_path / str(told))
        content = json.loads((tmp_path / str(told) / "evaluation.json").read_text())
        assert ("too narrow" in content["intervals"]) is told


def test_a_folder_that_is_a_file_is_refused_before_any_work(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="out: is no folder"):
        check_evaluation_folder(tmp_path / "out")
    check_evaluation_folder(tmp_path / "new" / "deeper")
    if os.geteuid():  # root may write anywhere
        folders[0].chmod(0o500)
        with pytest.raises(InputError, match="cannot be written"):
            check_evaluation_folder(folders[0] / "out")


def test_no_name_is_cut_on_a_narrow_screen_or_taken_for_markup(tmp_path: Path) -> None:
    masks = {
        name: nib.Nifti1Image(boxes((1, 1, 1)).astype(np.uint8), AFFINE)
        for name in ("catania-14-t2", "catania-14-t3", "x[red]y", "long-" * 10 + "name")
    }
    result = evaluate(masks, masks, compare=masks)
    console = Console(width=80, record=True, file=StringIO())
    for table in (case_table(result), estimate_table(result), difference_table(result)):
        console.print(table)
    text = console.export_text()
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    for name in ("catania-14-t2", "catania-14-t3", "x[red]y", "absolute_volume_difference_ml"):
        assert name in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_rules_in_words() -> None:
    assert Rules(5, "overlap", 0.1).in_words() == (
        "A lesion is 26-connected and counts from 5 mm3; it is matched where the other mask's "
        "lesions cover more than 10 % of it."
    )
    assert "greatest sum of IoU and counts from over 25 % IoU" in (
        Rules(matching="one-to-one", min_overlap=0.25).in_words()
    )


def test_numbers_in_the_tables_are_those_of_the_json(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    save(folders[0] / "b.nii", boxes((1, 1, 1), (7, 5, 3), (9, 1, 4)))
    write_evaluation(evaluate(*folders, compare=folders[1]), tmp_path / "out")
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    tables = {"cases": "cases", "estimates": "summary", "differences": "comparison"}
    for key, name in tables.items():
        lines = (tmp_path / "out" / f"{name}.tsv").read_text().splitlines()
        header, *rows = [line.split("\t") for line in lines]
        assert len(rows) == len(content[key])
        for row, values in zip(rows, content[key], strict=True):
            for column, text in zip(header, row, strict=True):
                value = values[column]
                if isinstance(value, float):
                    assert float(text) == pytest.approx(value, abs=1e-6)
                else:
                    assert text == ("n/a" if value is None else str(value))


def test_a_comparison_of_an_earlier_run_is_not_left_behind(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    write_evaluation(evaluate(*folders, compare=folders[1]), tmp_path)
    assert (tmp_path / "comparison.tsv").exists()
    write_evaluation(evaluate(*folders), tmp_path)
    assert not (tmp_path / "comparison.tsv").exists()


def test_lesions_of_a_case_by_size(folders: tuple[Path, Path], tmp_path: Path) -> None:
    save(folders[1] / "b.nii.gz", boxes((1, 1, 1)) | boxes((6, 5, 3), size=3))  # 16 and 54 mm3
    write_evaluation(evaluate(*folders), tmp_path)
    case = json.loads((tmp_path / "evaluation.json").read_text())["cases"][1]
    found = {size: (case[f"n_found_{size}"], case[f"n_truth_{size}"]) for size in SIZE_CLASSES_MM3}
    assert found == {"small": (1, 1), "medium": (0, 1), "large": (0, 0)}
    assert (case["n_found"], case["n_truth"], case["n_right_small"]) == (1, 2, 1)


def test_two_files_are_one_case(folders: tuple[Path, Path]) -> None:
    result = evaluate(folders[0] / "b.nii", folders[1] / "b.nii.gz")
    assert [score.case for score in result.cases] == ["b"]
    assert math.isnan(result.estimate("dice").low)  # one patient has no spread


def test_images_in_memory_score_as_their_files_do(folders: tuple[Path, Path]) -> None:
    pred, truth = ({p.name[0]: nib.load(p) for p in folder.iterdir()} for folder in folders)
    of_files, of_images = evaluate(*folders), evaluate(pred, dict(sorted(truth.items())))
    assert case_tsv(of_images) == case_tsv(of_files)
    assert (of_images.pred, of_files.pred) == ("images in memory", str(folders[0]))
    mixed = evaluate(str(folders[0]), {case: folders[1] / f"{case}.nii.gz" for case in "abc"})
    assert case_tsv(mixed) == case_tsv(of_files)
    bare = nib.Nifti1Image(boxes((1, 1, 1)).astype(np.uint8), AFFINE)
    assert [score.case for score in evaluate(bare, folders[1] / "a.nii.gz").cases] == ["mask"]


def test_it_writes_and_prints_nothing(
    folders: tuple[Path, Path], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders[0].parent)
    before = sorted(folders[0].parent.rglob("*"))
    evaluate(*folders, compare=folders[1])
    assert capfd.readouterr() == ("", "")
    assert sorted(folders[0].parent.rglob("*")) == before


def test_the_documented_examples() -> None:
    done = doctest.testmod(importlib.import_module("rsaseg.scoring.evaluate"))
    assert done.attempted > 5
    assert done.failed == 0


@pytest.mark.parametrize(
    ("pred", "truth", "words"),
    [
        ({}, {"a": "a.nii"}, "predictions: no mask in it"),
        ({"a": "a.nii"}, {"a": np.zeros(SHAPE)}, "truth: a is a ndarray; give a path"),
        (np.zeros(SHAPE), {"a": "a.nii"}, "predictions: a ndarray; give a folder"),
        ({"a": "a.nii"}, {"b": "b.nii"}, "predictions: no case of the truth in it"),
        ({"a": "a.nii"}, {"a": "a.nii"}, "a.nii: no such file"),
        (
            {"a": nib.Nifti1Image(np.full(SHAPE, 2, np.uint8), AFFINE)},
            {"a": nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)},
            "predicted mask of a: a mask may hold only 0 and 1",
        ),
        (
            nib.Nifti1Image(np.ones(SHAPE, np.uint8), np.eye(4)),
            nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE),
            "predicted mask of mask: its grid, .* is not that of true mask of mask",
        ),
    ],
)
def test_other_things_than_masks_are_refused(pred: Any, truth: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        evaluate(pred, truth)


@pytest.mark.parametrize(
    ("names", "cases"),
    [
        (["x.nii.gz", "y_mask.nii", "z-lesion.nii.gz", "Z2.NII.GZ"], ["Z2", "x", "y", "z"]),
        (["x/lesion.nii.gz", "x/T1.nii.gz", "x/brain.nii.gz", "y/LESION.nii"], ["x", "y"]),
        (["x/mask.nii.gz", "y/y_mask.nii.gz", "s/z/mask.nii.gz"], ["s/z", "x", "y"]),
        (["x/lesion_mask.nii.gz", "x/lesion_mask.tsv", "y/lesion-mask.nii"], ["x", "y"]),
        (["x/lesion.nii.gz", "x/brain_mask.nii.gz", "y/y.nii"], ["x", "y"]),
        (["x.nii.gz", "x_probability.nii.gz", "x_labels.nii.gz", ".x.nii.gz", "x.json"], ["x"]),
        (
            [
                "sub-1/ses-2/anat/sub-1_ses-2_space-orig_label-L_mask.nii.gz",
                "sub-1/ses-2/anat/sub-1_ses-2_FLAIR.nii.gz",
                "sub-2_run-1_desc-manual_label-L_mask.nii.gz",
            ],
            ["sub-1_ses-2", "sub-2_run-1"],
        ),
        (["sub-3.nii.gz", "sub-4_ses-1_lesion.nii", "sub-5_T1w.nii"], ["sub-3", "sub-4_ses-1"]),
        (
            ["sub-1_acq-x.nii", "sub-1_desc-brain_mask.nii", "sub-1_label-WM_mask.nii"],
            ["sub-1_acq-x"],
        ),
    ],
)
def test_layouts(tmp_path: Path, names: list[str], cases: list[str]) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(find_masks(tmp_path)) == cases


def test_linked_folders_are_looked_into_and_circles_are_not_followed(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere" / "lesion.nii.gz", boxes())
    for case in ("a", "b"):
        (tmp_path / "g").mkdir(exist_ok=True)
        (tmp_path / "g" / case).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "g")
    assert list(find_masks(tmp_path / "g")) == ["a", "b"]


def test_flat_predictions_meet_a_training_folder(tmp_path: Path) -> None:
    pred, truth = save(tmp_path / "p/k.nii", boxes()), save(tmp_path / "g/k/lesion.nii.gz", boxes())
    assert pair_masks(tmp_path / "p", tmp_path / "g") == ({"k": (pred, truth)}, [])


def test_a_prediction_by_the_very_name_of_its_case(tmp_path: Path) -> None:
    pairs = {}
    for case in ("sub-01_t1", "sub-01_t2", "sub-02"):  # t1, t2: images by BIDS, visits in training
        truth = save(tmp_path / "g" / case / "lesion.nii.gz", boxes())
        pairs[case] = (save(tmp_path / "p" / f"{case}.nii.gz", boxes()), truth)
    save(tmp_path / "p" / "sub-02_T2w.nii.gz", boxes())
    assert pair_masks(tmp_path / "p", tmp_path / "g") == (pairs, [])


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("catania-14-t2", "catania-14"),
        ("sub-02_ses-1", "sub-02"),
        ("sub-02_ses-baseline", "sub-02"),
        ("sub-02_ses-01_run-1", "sub-02"),
        ("sub-02-t1", "sub-02"),
        ("sub-ms-02", "sub-ms-02"),
        ("sub-A+1", "sub-A+1"),
        ("sub-t2", "sub-t2"),
        ("p_visit-3", "p"),
        ("p-ses-m12", "p"),
        ("p-tp1", "p"),
        ("p-t-2", "p"),
        ("p-s1", "p"),
        ("p_baseline", "p"),
        ("p_followup2", "p"),
        ("p_2024-03-01", "p"),
        ("p-20240301", "p"),
        ("p-2024", "p-2024"),
        ("p-20241301", "p-20241301"),
        ("MS-20010001", "MS-20010001"),
        ("site/p/ses-01", "site/p"),
        ("tabriz-03", "tabriz-03"),
        ("pat2", "pat2"),
        ("x", "x"),
    ],
)
def test_exams_of_one_patient(name: str, patient: str) -> None:
    assert patient_of(name) == patient
    if "/" not in name:  # training goes by the same rule
        assert CaseFiles(name, {}, Path("x")).patient == patient
        assert CaseFiles(f"{name}-made-07", {}, Path("x")).patient == patient


def test_patients_may_be_given(folders: tuple[Path, Path]) -> None:
    result = evaluate(*folders, patients={"a": "one", "b": "one", "c": "one"})
    assert {score.patient for score in result.cases} == {"one"}
    assert math.isnan(result.estimate("dice").low)
    with pytest.raises(InputError, match=r"none of the cases is among them \(there A, here a\)"):
        evaluate(*folders, patients={"A": "one"})


def test_table_of_patients(tmp_path: Path) -> None:
    table = tmp_path / "patients.tsv"
    table.write_text("patient\tage\tcase\nP1\t30\ta\nP1\t31\tb\n")
    assert read_patients(table) == {"a": "P1", "b": "P1"}
    table.write_text("case\tpatient\na\tP1\na\tP2\n")
    with pytest.raises(InputError, match="a case stands in it twice"):
        read_patients(table)
    for text in ("case,patient\na,P1\n", "case\tpatient\na\n", ""):
        table.write_text(text)
        with pytest.raises(InputError, match="columns case and patient"):
            read_patients(table)
    for text in ("case\tpatient\na\t\n", "case\tpatient\n\tP1\n"):
        table.write_text(text)
        with pytest.raises(InputError, match="a case or a patient is empty"):
            read_patients(table)
    with pytest.raises(InputError, match="cannot be read"):
        read_patients(tmp_path / "none.tsv")


def test_names_that_no_table_can_hold_are_written_by_others(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4))
    names = ["a\tb", os.fsdecode(b"M\xfcller")]
    write_evaluation(evaluate(dict.fromkeys(names, image), dict.fromkeys(names, image)), tmp_path)
    head, *rows = (tmp_path / "cases.tsv").read_text("utf-8").splitlines()
    assert [row.split("\t")[0] for row in rows] == ["a b", "M\\udcfcller"]
    assert {row.count("\t") for row in rows} == {head.count("\t")}
    assert "M\\udcfcller" in (tmp_path / "bland_altman.svg").read_text("utf-8")


def test_a_case_that_a_table_lacks_is_not_held_against_every_line_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("rsaseg.patients.patient_of", lambda case: asked.append(case) or case)
    table = {f"a{n}": "A" for n in range(50)}
    assert not any(patient_in(table, f"b{n}") for n in range(50))
    assert not asked


def test_a_table_of_other_cases_is_told() -> None:
    table = {"a-t1": "A", "B": "B", "d": "D"}
    assert note_table(table, ["a-t1", "a-made-01", "b", "c-t1", "d"]) == [
        "b, c-t1: not in the table of patients, and told by their names",
        "B: in the table of patients, but no case",
    ]
    assert note_table({c: c for c in "abcde"}, "fghij")[0].startswith("f, g, h and 2 more: not in")
    assert note_table({}, ["a"]) == note_table({"a": "A"}, ["a", "a-made-02"]) == []


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"matching": "any"}, "choose overlap or one-to-one"),
        ({"min_overlap": 1.0}, "less than 1"),
        ({"min_overlap": -0.1}, "0 or more"),
        ({"min_lesion_mm3": -1.0}, "volume -1.0"),
        ({"tolerance_mm": math.nan}, "tolerance nan"),
    ],
)
def test_rules_that_make_no_sense_are_refused(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Rules(**rule)


def no_folder(pred: Path, truth: Path) -> str:
    pred.rename(pred.with_name("gone"))
    return "no such folder"


def no_mask(pred: Path, truth: Path) -> str:
    for path in truth.iterdir():
        path.unlink()
    return "no mask in it"


def two_masks(pred: Path, truth: Path) -> str:
    save(pred / "a_mask.nii.gz", boxes())
    return "second mask of case a"


def other_names(pred: Path, truth: Path) -> str:
    for path in list(pred.iterdir()):
        path.rename(pred / f"new-{path.name}")
    return "name the masks alike"


def not_a_mask(pred: Path, truth: Path) -> str:
    nib.save(nib.Nifti1Image(np.full(SHAPE, 7, np.uint8), AFFINE), pred / "b.nii")
    return "only 0 and 1"


@pytest.mark.parametrize("spoil", [no_folder, no_mask, two_masks, other_names, not_a_mask])
def test_bad_folders_are_refused(
    folders: tuple[Path, Path], spoil: Callable[[Path, Path], str]
) -> None:
    words = spoil(*folders)
    with pytest.raises(InputError, match=words) as caught:
        evaluate(*folders)
    assert str(folders[0].parent) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_grids_are_refused_naming_both(folders: tuple[Path, Path]) -> None:
    pred, truth = folders
    save(pred / "b.nii", boxes(), np.diag([1.0, 1.0, 3.0, 1.0]))
    with pytest.raises(GeometryError, match=r"b\.nii.*1x1x3 mm.*b\.nii\.gz.*1x1x2 mm"):
        evaluate(pred, truth)


def test_every_mask_that_cannot_be_used_is_told_at_once(folders: tuple[Path, Path]) -> None:
    not_a_mask(*folders)
    save(folders[0] / "c.nii.gz", boxes(), np.diag([1.0, 1.0, 3.0, 1.0]))
    with pytest.raises(InputError, match=r"b\.nii: .*only 0 and 1.* \(2\) .*c\.nii\.gz: its grid"):
        evaluate(*folders)


def test_a_folder_that_cannot_be_made_is_an_input_error(folders: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="cannot be made"):
        write_evaluation(evaluate(*folders), folders[0] / "a.nii.gz" / "out")


def test_components_below_the_minimum_are_neither_lesions_nor_errors() -> None:
    grid = Grid(SHAPE, AFFINE)  # 2 mm3 a voxel
    truth = boxes((1, 1, 1)) | boxes((6, 1, 1), size=1)  # 16 and 2 mm3
    pred = boxes((1, 1, 1), size=1) | boxes((6, 1, 1)) | boxes((1, 7, 5), size=1)  # 2, 16, 2 mm3
    _, lesions, scores = score_masks(pred, truth, grid, Rules(min_lesion_mm3=4))
    assert (scores["lesion_tpr"], scores["lesion_precision"], scores["lesion_f1"]) == (1, 1, 1)
    assert [(c.n_truth, c.n_pred) for c in lesions] == [(1, 1), (0, 0), (0, 0)]
    _, lesions, scores = score_masks(pred, truth, grid, Rules(min_lesion_mm3=2))
    assert scores["lesion_tpr"] == 1
    assert scores["lesion_precision"] == pytest.approx(2 / 3)
    strict = Rules(min_lesion_mm3=2, matching="one-to-one", min_overlap=0.2)
    assert score_masks(pred, truth, grid, strict)[2]["lesion_f1"] == 0
    assert scores.keys() == CASE_METRICS.keys()


def test_size_classes_meet_at_50_and_500_mm3() -> None:
    mask = np.zeros((40, 40, 3), dtype=bool)
    for x, n in ((0, 49), (10, 50), (20, 499), (30, 500)):  # voxels of 1 mm3
        line = np.zeros((6, 40, 3), dtype=bool)
        line.reshape(-1)[:n] = True
        mask[x : x + 6] = line
    _, lesions, _ = score_masks(mask, mask, Grid((40, 40, 3), np.eye(4)), Rules())
    assert [c.n_truth for c in lesions] == [1, 2, 1]


def test_training_data_as_truth(labelled: Path) -> None:
    result = evaluate(labelled, labelled)
    assert result.n_failed == 0
    assert {score.scores["dice"] for score in result.cases} == {1.0}
    assert {score.scores["hd95_mm"] for score in result.cases} == {0.0}
    assert len({score.patient for score in result.cases}) == len(result.cases) - 1  # catania-14


def test_extra_files_of_a_mask_are_none_by_any_name(tmp_path: Path) -> None:
    mask = save(tmp_path / "lesions_of_a.nii.gz", boxes())
    for name in ("labels", "prob", "unc", "a_probability", "a-uncertainty"):
        save(tmp_path / f"{name}.nii.gz", boxes())
    assert find_masks(tmp_path) == {"lesions_of_a": mask}
    case = save(tmp_path / "02_UNC.nii.gz", boxes())  # of the University of North Carolina
    assert find_masks(tmp_path) == {"lesions_of_a": mask, "02_UNC": case}
