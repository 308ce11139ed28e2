"""Exams made to learn from: one patient's scan with the lesions of others."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from crude_exams import write_case

from rsaseg.errors import InputError
from rsaseg.training.cases import find_cases

SHAPE = (40, 44, 36)


@pytest.fixture(scope="module")
def made_by() -> Iterator[ModuleType]:
    place = Path(__file__).parents[1] / "benchmarks"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(place))
        spec = importlib.util.spec_from_file_location("others", place / "lesions_of_others.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module


def ball(centre: tuple[int, int, int], radius: float) -> np.ndarray:
    axes = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    return sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) < radius**2


BRAIN = ball((20, 22, 18), 16)
OWN, OTHER = ball((14, 22, 18), 3), ball((26, 22, 18), 3)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A patient of grey value 100 with one bright lesion, and another patient's lesion mask."""
    rng = np.random.default_rng(1)
    exam = {}
    for name, contrast in (("T1", -30), ("T2", 60), ("FLAIR", 50)):
        grey = BRAIN * (100 + rng.normal(0, 1, SHAPE)) + contrast * OWN
        exam[name] = grey.astype(np.float32)
    write_case(tmp_path / "labelled/anna", exam | {"lesion": OWN.astype(np.uint8)}, (1, 1, 1))
    (tmp_path / "masks").mkdir()
    for number, mask in ((4, OTHER), (7, OTHER | ~BRAIN), (9, OWN)):
        image = nib.Nifti1Image(mask.astype(np.uint8), np.eye(4))
        image.to_filename(tmp_path / f"masks/someone-{number:02d}.nii")
    return tmp_path


def run(made_by: ModuleType, scans: Path, what: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        leave = "--leave-out someone-09"
        given = f"x {what} --masks {scans / 'masks'} {leave} -o {scans / 'made'}"
        patch.setattr(sys, "argv", given.split())
        made_by.main()


def test_lesions_are_painted_where_the_mask_meets_white_matter(
    made_by: ModuleType, scans: Path
) -> None:
    before = {p.name: p.read_bytes() for p in (scans / "labelled/anna").iterdir()}
    run(made_by, scans, f"{scans / 'labelled/anna'}")
    cases = find_cases([scans / "made"])
    assert [case.name for case in cases] == ["anna-made-04", "anna-made-07"]
    assert all(case.made and case.patient == "anna" for case in cases)
    for case in cases:
        lesion = nib.load(case.lesion).get_fdata() > 0.5
        assert (lesion & OWN).sum() == OWN.sum()
        painted = lesion & ~OWN
        assert not (painted & ~BRAIN).any()
        overlap = 2 * (painted & OTHER).sum() / (painted.sum() + OTHER.sum())
        assert overlap > 0.9
        core, far = ball((26, 22, 18), 1.5), BRAIN & ~ball((26, 22, 18), 8)
        for name, sign in (("T1", -1), ("T2", 1), ("FLAIR", 1)):
            new = nib.load(case.sequences[name]).get_fdata()
            old = nib.load(scans / f"labelled/anna/{name}.nii").get_fdata()
            assert sign * (new - old)[core].mean() > 5  # of 100
            assert np.allclose(new[far], old[far], atol=0.01)
            assert not new[~BRAIN].any()
    after = {p.name: p.read_bytes() for p in (scans / "labelled/anna").iterdir()}
    assert before == after


def test_filled_means_without_the_scans_own_lesions(made_by: ModuleType, scans: Path) -> None:
    run(made_by, scans, f"{scans / 'labelled/anna'}=filled")
    case = find_cases([scans / "made"])[0]
    assert not (nib.load(case.lesion).get_fdata()[OWN] > 0).any()
    flair = nib.load(case.sequences["FLAIR"]).get_fdata()
    assert abs(flair[OWN].mean() - 100) < 3  # was 150


def test_a_mask_on_another_grid_is_refused(made_by: ModuleType, scans: Path) -> None:
    nib.Nifti1Image(OTHER.astype(np.uint8), np.diag([2, 2, 2, 1])).to_filename(
        scans / "masks/someone-04.nii"
    )
    with pytest.raises(InputError, match=re.escape("someone-04.nii: not on the grid of")):
        run(made_by, scans, f"{scans / 'labelled/anna'}")


def test_a_folder_that_is_not_there_is_refused(made_by: ModuleType, scans: Path) -> None:
    with pytest.raises(InputError, match="berta: no such folder"):
        run(made_by, scans, f"{scans / 'labelled/berta'}")
