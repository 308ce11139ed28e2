"""Finding cases, splitting them by patient, and the cache."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsaseg.errors import GeometryError, InputError
from rsaseg.imaging import read_mask, write_nifti
from rsaseg.phantom import Phantom, make_phantom, write_phantom
from rsaseg.preprocessing import InputSpec
from rsaseg.training.cases import (
    CaseFiles,
    cache_case,
    find_cases,
    read_exam,
    scan_cases,
    split_folds,
)

SPEC = InputSpec(spacing_mm=(3.0, 3.0, 4.0))


@pytest.fixture
def data(phantom: Phantom, tmp_path: Path) -> Path:
    write_phantom(tmp_path / "p1-t1", phantom)
    write_phantom(tmp_path / "p2", phantom, suffix=".nii")
    (tmp_path / "p2" / "T1.nii").rename(tmp_path / "p2" / "t1.NII")
    (tmp_path / "p2" / "T2.nii").unlink()
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_cases_are_found_in_any_spelling(data: Path) -> None:
    cases = find_cases([data])
    assert [case.name for case in cases] == ["p1-t1", "p2"]
    assert list(cases[0].sequences) == ["T1", "T2", "FLAIR"]
    assert list(cases[1].sequences) == ["T1", "FLAIR"]
    assert cases[1].sequences["T1"].name == "t1.NII"
    assert cases[0].brain is None


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("catania-14-t2", "catania-14"),
        ("ljubljana-l01-s1", "ljubljana-l01"),
        ("sub-03_ses-12", "sub-03"),
        ("tabriz-07", "tabriz-07"),
        ("anna-visit-3", "anna"),
        ("anna-made-03", "anna"),
        ("anna-t2_made-3", "anna"),
        ("home-made-pie", "home-made-pie"),
    ],
)
def test_a_visit_belongs_to_its_patient(name: str, patient: str) -> None:
    case = CaseFiles(name, {}, Path("x"))
    assert case.patient == patient
    assert case.made == ("made" in name and name[-1] == "3")


def test_exams_made_from_a_patients_count_as_another_patients(data: Path, tmp_path: Path) -> None:
    (data / "p2").rename(data / "p1-made-01")
    cached = [cache_case(files, InputSpec(), tmp_path / "cache") for files in find_cases([data])]
    assert [(case.name, case.patient) for case in cached] == [
        ("p1-t1", "p1"),
        ("p1-made-01", "p1 made"),
    ]


@given(
    visits=st.lists(st.integers(1, 4), min_size=3, max_size=12),
    folds=st.integers(2, 3),
)
def test_folds_part_the_cases_and_never_a_patient(visits: list[int], folds: int) -> None:
    names = [f"p{i:02}-t{v}" for i, n in enumerate(visits) for v in range(1, n + 1)]
    cases = [CaseFiles(name, {}, Path("x")) for name in names]
    parts = split_folds(cases, folds)
    assert sorted(case.name for part in parts for case in part) == sorted(names)
    patients = [{case.patient for case in part} for part in parts]
    assert sum(len(p) for p in patients) == len(set().union(*patients)) == len(visits)
    assert max(len(p) for p in patients) - min(len(p) for p in patients) <= 1


def test_patients_of_made_exams_alone_are_in_no_fold() -> None:
    names = ["anna", "berta", "carla-made-01", "dora", "emma-made-02", "anna-made-01"]
    cases = [CaseFiles(name, {}, Path("lesion.nii")) for name in names]
    parts = split_folds(cases, 3)
    found = [[case.name for case in part] for part in parts]
    assert found == [["anna", "anna-made-01"], ["berta"], ["dora"]]


def test_bad_folders(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_cases([data / "nowhere"])
    with pytest.raises(InputError, match="no cases found"):
        find_cases([data / "notes"])
    with pytest.raises(InputError, match="second case of this name"):
        find_cases([data, data])
    with pytest.raises(InputError, match="5 folds need 5 patients; there are 2"):
        split_folds(find_cases([data]), 5)
    (data / "p2" / "lesion.nii").unlink()
    with pytest.raises(InputError, match="p2: has no lesion"):
        find_cases([data])


def test_a_folder_of_images_by_other_names_is_a_problem_and_a_hidden_one_is_none(
    data: Path,
) -> None:
    (data / "p1-t1").rename(data / ".p1")
    (data / "p3").mkdir()
    shutil.copy(data / "p2" / "FLAIR.nii", data / "p3" / "p3_FLAIR.nii")
    (data / "notes" / "._FLAIR.nii").write_bytes(b"x")
    (data / "notes" / "read.me").write_bytes(b"x")
    (data / "p2" / "p2_FLAIR.nii").write_bytes(b"x")
    cases, problems = scan_cases([data])
    assert [case.name for case in cases] == ["p2"]
    assert problems == [
        f"{data / 'p3'}: no FLAIR and no lesion by these names in it; rename its files or move it"
    ]


def test_two_files_of_one_sequence(data: Path) -> None:
    source = data / "p1-t1" / "FLAIR.nii.gz"
    nib.load(source).to_filename(data / "p1-t1" / "flair.nii")
    with pytest.raises(InputError, match="keep one of them"):
        find_cases([data])


def test_sequences_on_other_grids_are_refused(data: Path) -> None:
    path = data / "p1-t1" / "T1.nii.gz"
    image = nib.load(path)
    affine = image.affine.copy()
    affine[0, 3] += 5
    nib.Nifti1Image(np.asarray(image.dataobj), affine).to_filename(path)
    with pytest.raises(GeometryError, match="T1 is on"):
        read_exam(find_cases([data])[0])


def test_what_another_process_reads_of_the_cache_is_never_rewritten(
    data: Path, tmp_path: Path
) -> None:
    """Two runs on one cache: the second writes a case that the first has just mapped."""
    files = find_cases([data])[0]
    first = cache_case(files, SPEC, tmp_path / "cache").variants[0]
    (place,) = (tmp_path / "cache").iterdir()
    mapped = {path.name: path.stat().st_ino for path in place.glob("*.npy")}
    held = [path.open("rb") for path in place.glob("*.npy")]  # or a number could be given again
    (place / "done").unlink()
    second = cache_case(files, SPEC, tmp_path / "cache").variants[0]
    assert len(mapped) >= 2
    assert all((place / name).stat().st_ino != number for name, number in mapped.items())
    assert np.array_equal(first.image, second.image)
    for file in held:
        file.close()


def test_cache_holds_exam_and_mask_and_follows_its_files(data: Path, tmp_path: Path) -> None:
    case, cache = find_cases([data])[0], tmp_path / "cache"
    cached = cache_case(case, SPEC, cache)
    (variant,) = cached.variants
    assert variant.image.shape[1:] == variant.lesion.shape
    assert not variant.stripped
    mask, grid = read_mask(case.lesion)
    volume = float(variant.lesion.astype(np.float32).sum()) * 36
    assert volume == pytest.approx(mask.sum() * grid.voxel_mm3, rel=0.05)
    again = cache_case(case, replace(SPEC, mirrored=False), cache)  # seen once: prepared alike
    assert len(list(cache.iterdir())) == 1
    assert np.array_equal(again.variants[0].image, variant.image)
    header = nib.load(case.lesion).header
    write_nifti(case.lesion, np.zeros(mask.shape, np.uint8), header)
    empty = cache_case(case, SPEC, cache)
    assert len(list(cache.iterdir())) == 2
    assert not empty.variants[0].lesion.any()
    assert len(empty.variants[0].lesion_vox) == 0


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs Linux to count open files")
def test_a_case_keeps_no_file_open(data: Path, tmp_path: Path) -> None:
    opened = len(list(Path("/proc/self/fd").iterdir()))
    cases = [cache_case(files, InputSpec(), tmp_path / "cache") for files in find_cases([data])]
    assert len(list(Path("/proc/self/fd").iterdir())) == opened
    assert all(case.variants[0].image.any() for case in cases)


def test_thin_slices_are_kept_thin_and_made_thick(tmp_path: Path) -> None:
    thin = make_phantom(seed=4, shape_vox=(48, 56, 60), spacing_mm=(4.0, 4.0, 2.5))
    write_phantom(tmp_path / "p1", thin)
    spec = InputSpec(spacing_mm=(4.0, 4.0, 5.0), thin_mm=2.5)
    cached = cache_case(find_cases([tmp_path])[0], spec, tmp_path / "cache")
    assert [variant.spacing_mm[2] for variant in cached.variants] == [5.0, 2.5]
    for variant in cached.variants:
        ml = variant.lesion.astype(float).sum() * np.prod(variant.spacing_mm) / 1000
        assert ml == pytest.approx(thin.lesion.sum() * thin.grid.voxel_mm3 / 1000, rel=0.03)
    depth = [variant.lesion.shape[0] for variant in cached.variants]
    assert depth[1] == pytest.approx(2 * depth[0], abs=4)


def test_a_brain_mask_adds_the_stripped_exam(data: Path, phantom: Phantom, tmp_path: Path) -> None:
    header = phantom.images["FLAIR"].header
    write_nifti(data / "p1-t1" / "Brain.nii.gz", phantom.brain.astype(np.uint8), header)
    cached = cache_case(find_cases([data])[0], SPEC, tmp_path / "cache")
    assert [variant.stripped for variant in cached.variants] == [False, True]
    flair = cached.variants[1].image[2]
    darkest = flair == flair.min()
    assert darkest.mean() > 0.3  # everything outside the brain has one value
    whole, stripped = cached.variants
    assert stripped.brain is None
    assert whole.brain is not None
    assert whole.brain.shape == whole.lesion.shape
    ml = whole.brain.astype(float).sum() * np.prod(whole.spacing_mm) / 1000
    assert ml == pytest.approx(phantom.brain.sum() * phantom.grid.voxel_mm3 / 1000, rel=0.01)
    assert whole.brain[np.asarray(whole.lesion) > 0.5].min() > 0.9
    without = replace(find_cases([data])[0], brain=None)
    assert cache_case(without, SPEC, tmp_path / "cache").variants[0].brain is None


def test_patients_by_a_table(data: Path) -> None:
    for name in (
        "p1-2019",
        "p1-2021",
        "p1-2019-made-01",
        "p1-made-02",
        "p3-t1-made-04",
        "p3-made-05",
    ):
        shutil.copytree(data / "p2", data / name)
    table = {"p1-2019": "one", "p1-2021": "one", "p3-t1": "three", "p3-t2": "four"}
    table |= {"p1-t1": "one", "p3-made-05": "four"}
    cases, problems = scan_cases([data], table)
    assert not problems
    assert {case.name: case.patient for case in cases} == {
        "p1-t1": "one",
        "p1-2019": "one",
        "p1-2021": "one",
        "p2": "p2",
        "p1-2019-made-01": "one",  # of that case
        "p1-made-02": "one",  # of the only case whose name tells p1
        "p3-t1-made-04": "three",
        "p3-made-05": "four",  # a line of its own
    }
    _, (problem,) = scan_cases([data], {"q": "one"})
    assert problem.startswith("patients: none of the cases is among them (there q, here ")
