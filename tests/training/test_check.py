"""The check of a data set: every fault is found, and good data have none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from crude_exams import SPACING_MM, make_exam, write_case
from nibabel.nifti1 import Nifti1Header

from rsaseg.imaging import Grid, Volume, read_mask, read_volume, write_nifti
from rsaseg.phantom import Phantom
from rsaseg.preprocessing import InputSpec
from rsaseg.training.cases import DataSetError, find_cases, scan_cases
from rsaseg.training.check import FITS, brighter_than_around, check_cases

CROP = (8, 32, 32)


def problems_of(folder: Path, crop: tuple[int, int, int] = CROP) -> list[str]:
    cases, problems = scan_cases([folder])
    return problems + check_cases(cases, InputSpec(), crop)[0]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for seed in (1, 2):
        write_case(tmp_path / f"p{seed}", make_exam(seed))
    return tmp_path


def change(path: Path, how: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(path)
    data = how(np.asarray(image.dataobj).copy())
    nib.Nifti1Image(data, image.affine).to_filename(path)


def test_good_data_have_no_problems_and_a_missing_sequence_is_noted(data: Path) -> None:
    (data / "p2" / "T2.nii").unlink()
    problems, notes = check_cases(find_cases([data]), InputSpec(), CROP)
    assert problems == []
    by_name, without = notes
    assert re.fullmatch(r"\d cases of \d patients by their names.*; .* \(--patients\)", by_name)
    assert without == f"{data / 'p2'}: without T2, which is allowed"


def test_swapped_sequences_are_noted_but_for_made_exams(tmp_path: Path, phantom: Phantom) -> None:
    others = {"FLAIR": "T2", "T2": "FLAIR"}
    for number, name in enumerate(("p1", "p2", "p2-made-01")):
        (tmp_path / name).mkdir()
        lesion = np.roll(phantom.lesion, number, axis=0).astype(np.uint8)
        write_nifti(tmp_path / name / "lesion.nii", lesion, phantom.images["T1"].header)
        for sequence, image in phantom.images.items():
            given = image if name == "p1" else phantom.images[others.get(sequence, sequence)]
            data = given.data + number  # no two files hold the same
            write_nifti(tmp_path / name / f"{sequence}.nii", data, image.header)
    _, notes = check_cases(find_cases([tmp_path]), InputSpec(), CROP)
    told = [note for note in notes if "swapped" in note]
    assert [note.split(":")[0] for note in told] == [
        str(tmp_path / "p2" / f"{name}.nii") for name in ("T2", "FLAIR")
    ]


FAULTS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], str]] = {
    "flipped": ("lesion", lambda a: a[::-1].copy(), "better when flipped left-right"),
    "upside down": ("lesion", lambda a: a[:, ::-1].copy(), "better when flipped front-back"),
    "elsewhere": ("lesion", lambda a: np.roll(a, (9, -12), (0, 1)), "does not fit its FLAIR"),
    "labels": ("lesion", lambda a: 2 * a, "only 0 and 1"),
    "empty": ("lesion", np.zeros_like, "marks no voxel"),
    "other shape": ("lesion", lambda a: a[:-1], "not on the FLAIR's grid"),
    "NaN": ("FLAIR", lambda a: np.where(a > 150, np.nan, a), "NaN"),
    "constant": ("T1", np.ones_like, "same value"),
    "T1 of other shape": ("T1", lambda a: a[:, :-1], "T1 is on"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_the_file_named(fault: str, data: Path) -> None:
    name, how, words = FAULTS[fault]
    path = data / "p1" / f"{name}.nii"
    change(path, how)
    found = problems_of(data)
    assert len(found) == 1, found
    assert words in found[0]
    assert str(path) in found[0]


def test_copies_are_found_by_content(data: Path) -> None:
    image = nib.load(data / "p1" / "FLAIR.nii")
    image.to_filename(data / "p2" / "T1.nii.gz")  # packed otherwise, same voxels
    (data / "p2" / "T1.nii").unlink()
    found = problems_of(data)
    assert len(found) == 1
    assert "same voxels" in found[0]
    assert str(data / "p1" / "FLAIR.nii") in found[0]


def test_what_is_made_from_a_patients_exam_may_keep_some_of_it(data: Path) -> None:
    for seed, name in ((3, "p1-made-01"), (4, "p1-made-02"), (5, "p2-made-01")):
        kept = nib.load(data / "p1" / "T1.nii")
        kept.to_filename(write_case(data / name, make_exam(seed)) / "T1.nii")
    found = problems_of(data)
    assert len(found) == 1, found
    assert str(data / "p2-made-01" / "T1.nii") in found[0]
    assert "same voxels" in found[0]


def test_made_lesions_need_not_be_brighter_than_what_is_around(data: Path) -> None:
    for seed, name in ((3, "p1-made-01"), (4, "p3")):
        write_case(data / name, make_exam(seed))
        change(data / name / "lesion.nii", FAULTS["elsewhere"][1])
    found = problems_of(data)
    assert len(found) == 1, found
    assert str(data / "p3" / "lesion.nii") in found[0]


def test_all_problems_at_once(data: Path) -> None:
    (data / "p3").mkdir()
    nib.load(data / "p1" / "FLAIR.nii").to_filename(data / "p3" / "FLAIR.nii")
    change(data / "p1" / "lesion.nii", np.zeros_like)
    change(data / "p2" / "T2.nii", lambda a: a[:-2])
    found = problems_of(data)
    assert len(found) == 3, found
    error = DataSetError(found)
    assert "\n" not in str(error)
    assert all(problem in str(error) for problem in found)


def test_one_patient_and_a_crop_larger_than_the_volume(data: Path) -> None:
    found = problems_of(data, (8, 32, 145))  # 36 voxels of 4 mm are 144 of 1 mm
    assert ["fewer than the crop's 8x32x145" in one for one in found] == [True, True]
    (data / "p2").rename(data / "p1-t2")
    assert any("only patient" in one for one in problems_of(data))


def test_how_often_a_lesion_is_brighter_counted_pair_by_pair() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(100, 110, (7, 6, 5)).astype(np.float32)
    image[0, 0, 0] = 0
    mask = np.zeros(image.shape, bool)
    mask[3, 3, 2] = mask[4, 3, 2] = True
    volume = Volume(image, Grid((7, 6, 5), np.diag([*SPACING_MM, 1.0])), Nifti1Header(), "x")
    near = [(x, y, z) for x in range(2, 6) for y in (2, 3, 4) for z in (1, 2, 3)]
    for axes, share in brighter_than_around(mask, volume).items():
        data = np.flip(image, axes)
        pairs = [
            float(data[a] > data[b]) + 0.5 * float(data[a] == data[b])
            for a in map(tuple, np.argwhere(mask))
            for b in near
            if not mask[b]
        ]
        assert share == pytest.approx(np.mean(pairs)), axes


def test_masks_of_patients_fit_and_those_of_others_do_not(labelled: Path) -> None:
    cases = [labelled / name for name in ("tabriz-05", "tabriz-06")]
    flairs = [read_volume(case / "FLAIR.nii.gz") for case in cases]
    masks = [read_mask(case / "lesion.nii.gz")[0] for case in cases]
    for i in range(2):
        own = brighter_than_around(masks[i], flairs[i])
        assert own[()] > 0.9
        assert max(own, key=lambda axes: own[axes]) == ()
    assert brighter_than_around(masks[0], flairs[1])[()] < FITS
