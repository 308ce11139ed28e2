"""Exams made to learn from: one patient's scan with the lesions of others."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from crude_exams import write_case
from scripts import run

from rsaseg.errors import InputError
from rsaseg.imaging import Grid, resample
from rsaseg.phantom import make_phantom
from rsaseg.training.cases import find_cases

SHAPE = (40, 44, 36)


@pytest.fixture(scope="module")
def made_by(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("lesions_of_others")


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


def paint(made_by: ModuleType, scans: Path, what: str) -> None:
    masks = f"--masks {scans / 'masks'} --leave-out someone-09"
    run(made_by, f"{what} {masks} -o {scans / 'made'}")


def test_lesions_are_painted_where_the_mask_meets_white_matter(
    made_by: ModuleType, scans: Path
) -> None:
    before = {p.name: p.read_bytes() for p in (scans / "labelled/anna").iterdir()}
    paint(made_by, scans, f"{scans / 'labelled/anna'}")
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
    paint(made_by, scans, f"{scans / 'labelled/anna'}=filled")
    case = find_cases([scans / "made"])[0]
    assert not (nib.load(case.lesion).get_fdata()[OWN] > 0).any()
    flair = nib.load(case.sequences["FLAIR"]).get_fdata()
    assert abs(flair[OWN].mean() - 100) < 3  # was 150


@pytest.mark.parametrize("radius_vox", [2, 3, 6])
def test_painted_lesions_are_as_bright_as_the_scans_own(
    made_by: ModuleType, radius_vox: float
) -> None:
    """OWN is 0.5 brighter in FLAIR, 0.6 in T2 and 0.3 darker in T1, by hand."""
    grid = Grid((40, 44, 36), np.eye(4))
    rng = np.random.default_rng(2)
    images = {
        name: (BRAIN * (1 + rng.normal(0, 0.01, SHAPE)) + part * OWN).astype(np.float32)
        for name, part in (("T1", -0.3), ("T2", 0.6), ("FLAIR", 0.5))
    }
    own = made_by.measure_contrast(images, OWN, BRAIN & ~OWN, grid)
    found = (*own.flair, own.spread, *own.t2, *own.t1)
    assert np.allclose(found, (0.5, 0, 0, 0.6, 0, -0.3, 0), atol=0.02)
    painted = []
    other = ball((26, 22, 18), radius_vox)
    for seed in range(40):
        new = made_by.paint_lesions(images, other, own, grid, np.random.default_rng(seed))
        painted.append([(new[name] - images[name])[other].mean() for name in new])
    flair, t2, t1 = np.mean(painted, axis=0)
    assert abs(flair - 0.5) < 0.06
    assert abs(t2 / flair - 1.2) < 0.15
    assert abs(t1 / flair + 0.6) < 0.12


def test_small_lesions_are_painted_as_faint_as_the_scans_small_ones(made_by: ModuleType) -> None:
    """By hand: a lesion of ten times the volume is 0.1 brighter in FLAIR, 0.2 in T2."""
    grid = Grid((90, 90, 40), np.eye(4))
    axes = np.indices(grid.shape)
    lesion, over = np.zeros(grid.shape, bool), np.zeros(grid.shape)
    for i, radius in enumerate((1.3, 1.6, 2.1, 2.9, 3.6, 4.5, 5.5, 6.2, 7.2)):
        centre = (15 + 30 * (i % 3), 15 + 30 * (i // 3), 20)
        one = sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) < radius**2
        lesion |= one
        over += one * np.log10(one.sum() / 100)
    images = {
        name: (1 + lesion * at + rise * over).astype(np.float32)
        for name, at, rise in (("T1", -0.15, -0.05), ("T2", 0.4, 0.2), ("FLAIR", 0.3, 0.1))
    }
    own = made_by.measure_contrast(images, lesion, ~lesion, grid)
    assert np.allclose((own.flair, own.t2, own.t1), ((0.3, 0.1), (0.4, 0.2), (-0.15, -0.05)))
    small, large = ball((10, 22, 18), 1.6), ball((26, 22, 18), 6)
    usual = {part.sum(): np.log10(part.sum() / 100) for part in (small, large)}
    flat = {name: np.ones(SHAPE, np.float32) for name in images}
    painted = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        new = made_by.paint_lesions(flat, small | large, own, Grid(SHAPE, np.eye(4)), rng, 0)
        painted.append([[(new[n] - 1)[part].mean() for n in images] for part in (small, large)])
    for part, found in zip(usual.values(), np.mean(painted, axis=0), strict=True):
        true = (-0.15 - 0.05 * part, 0.4 + 0.2 * part, 0.3 + 0.1 * part)
        assert np.allclose(found, true, rtol=0.2)


def test_a_scan_without_a_lesion_large_enough_is_refused(made_by: ModuleType, scans: Path) -> None:
    few = np.zeros(SHAPE, np.uint8)
    few[14, 22, 18] = 1
    nib.Nifti1Image(few, np.eye(4)).to_filename(scans / "labelled/anna/lesion.nii")
    with pytest.raises(InputError, match=r"lesion\.nii: no lesion over 5 mm3"):
        paint(made_by, scans, f"{scans / 'labelled/anna'}")


def test_a_scan_without_lesions_takes_after_another(made_by: ModuleType, scans: Path) -> None:
    """Anna's lesion is 0.5 brighter in FLAIR; Berta's head has none, and half its grey values."""
    rng = np.random.default_rng(3)
    grey = {name: BRAIN * (50 + rng.normal(0, 0.5, SHAPE)) for name in ("T1", "T2", "FLAIR")}
    exam = {name: data.astype(np.float32) for name, data in grey.items()}
    write_case(scans / "labelled/berta", exam | {"lesion": np.zeros(SHAPE, np.uint8)}, (1, 1, 1))
    like = f"--like {scans / 'labelled/anna'} --spread 0 --add 100"
    paint(made_by, scans, f"{scans / 'labelled/berta'}=filled {like}")
    cases = find_cases([scans / "made"])
    assert [case.name for case in cases] == ["berta-made-104", "berta-made-107"]
    for case in cases:
        lesion = nib.load(case.lesion).get_fdata() > 0
        over = nib.load(case.sequences["FLAIR"]).get_fdata()[lesion].mean() - 50
        assert 0.35 < over / 50 < 0.65


def test_large_lesions_rise_or_fall_to_the_middle(made_by: ModuleType) -> None:
    grid = Grid(SHAPE, np.eye(4))
    flat = {name: BRAIN.astype(np.float32) for name in ("T1", "T2", "FLAIR")}
    own = made_by.Contrast((0.5, 0), (0.5, 0), (-0.25, 0), 0, (100, 100))
    large, middle = ball((20, 22, 18), 8), ball((20, 22, 18), 3)
    means, rises = [], []
    for seed in range(20):
        new = made_by.paint_lesions(flat, large, own, grid, np.random.default_rng(seed), 0)
        over = new["FLAIR"] - 1
        means.append(over[large].mean())
        rises.append(over[middle].mean() - over[large & ~ball((20, 22, 18), 6)].mean())
    assert abs(np.mean(means) - 0.5) < 0.06
    assert min(rises) < -0.05
    assert max(rises) > 0.15


def test_masks_are_dealt_in_turn(made_by: ModuleType, scans: Path) -> None:
    anna = scans / "labelled/anna"
    paint(made_by, scans, f"{anna} {anna}=filled --each 1")
    lesions = {c.name: nib.load(c.lesion).get_fdata() for c in find_cases([scans / "made"])}
    assert sorted(lesions) == ["anna-made-04", "anna-made-07"]
    assert lesions["anna-made-04"][OWN].all()
    assert not lesions["anna-made-07"][OWN].any()


def test_mirrored_masks_lie_on_the_other_side(made_by: ModuleType, scans: Path) -> None:
    paint(made_by, scans, f"{scans / 'labelled/anna'}=filled --mirrored")
    lesions = {c.name: nib.load(c.lesion).get_fdata() > 0 for c in find_cases([scans / "made"])}
    assert sorted(lesions) == ["anna-made-54", "anna-made-57"]
    there = ball((13, 22, 18), 3)  # of 40 voxels, 26 from one side is 13 from the other
    lesion = lesions["anna-made-54"]
    assert 2 * (lesion & there).sum() / (lesion.sum() + there.sum()) > 0.9


def test_an_exam_made_before_is_not_overwritten(made_by: ModuleType, scans: Path) -> None:
    anna = scans / "labelled/anna"
    with pytest.raises(InputError, match="anna-made-04: is there already"):
        paint(made_by, scans, f"{anna} {anna}=filled")


def test_a_template_brings_masks_to_a_scan_of_another_space(
    made_by: ModuleType, tmp_path: Path
) -> None:
    """The template is the same head, stripped, moved, and a tenth smaller: a known transform."""
    scan = make_phantom(3, (96, 112, 24), (2, 2, 6), (0, 0, 0))
    fine = make_phantom(3, (96, 112, 72), (2, 2, 2), (0, 0, 0))
    c, s = np.cos(0.15), np.sin(0.15)
    move = np.array([[c, -s, 0, 12], [s, c, 0, -8], [0, 0, 1, 15], [0, 0, 0, 1]])
    move[:3, :3] *= 0.9
    grid = fine.images["FLAIR"].grid
    moved = Grid(grid.shape, move @ grid.affine)
    for name, phantom, brain, at in (
        ("scan", scan, scan.brain, scan.images["FLAIR"].grid),
        ("template", fine, None, moved),
    ):
        (tmp_path / name).mkdir()
        inside = np.ones(at.shape) if brain is not None else fine.brain
        files = {key: volume.data * inside for key, volume in phantom.images.items()}
        files |= {"lesion": phantom.lesion} | ({} if brain is None else {"brain": brain})
        for key, data in files.items():
            kept = data.astype(np.float32 if key in phantom.images else np.uint8)
            nib.Nifti1Image(kept, at.affine).to_filename(tmp_path / name / f"{key}.nii")
    ((r, a, z),) = np.argwhere(fine.brain).mean(axis=0, keepdims=True)
    there = np.indices(grid.shape)
    other = sum((2 * (i - m)) ** 2 for i, m in zip(there, (r + 12, a, z + 8), strict=True)) < 200
    case = made_by.find_case(tmp_path / "scan")
    exam = made_by.read_exam(case)
    laid = made_by.lay_on(tmp_path / "template", exam, made_by.brain_of(case, exam))
    brought = made_by.bring(other, moved, exam["FLAIR"].grid, laid)
    true = resample(other.astype(np.float32), grid, exam["FLAIR"].grid) > 0.5
    assert 2 * (brought & true).sum() / (brought.sum() + true.sum()) > 0.8
    masks = tmp_path / "of-others" / "masks"  # among the scans they would be taken for a case
    masks.mkdir(parents=True)
    image = nib.Nifti1Image(other.astype(np.uint8), moved.affine)
    image.to_filename(masks / "someone-05.nii")
    template = f"--template {tmp_path / 'template'} -o {tmp_path / 'made'}"
    run(made_by, f"{tmp_path / 'scan'} --masks {masks} {template}")
    (made,) = find_cases([tmp_path / "made"])
    new = (nib.load(made.lesion).get_fdata() > 0) & ~scan.lesion
    assert new.sum() > 10
    assert (new & true).sum() / new.sum() > 0.8
    assert made.brain is not None


def test_a_mask_on_another_grid_is_refused(made_by: ModuleType, scans: Path) -> None:
    nib.Nifti1Image(OTHER.astype(np.uint8), np.diag([2, 2, 2, 1])).to_filename(
        scans / "masks/someone-04.nii"
    )
    with pytest.raises(InputError, match=re.escape("someone-04.nii: not on the grid of")):
        paint(made_by, scans, f"{scans / 'labelled/anna'}")


def test_a_folder_that_is_not_there_is_refused(made_by: ModuleType, scans: Path) -> None:
    with pytest.raises(InputError, match="berta: no such folder"):
        paint(made_by, scans, f"{scans / 'labelled/berta'}")
