"""An exam onto one grid: who is moved, who is believed, and what is refused."""

from __future__ import annotations

import os
import re
from dataclasses import replace

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header
from poses import FLAIR_FROM, mean_error_mm, rigid

from rsaseg.errors import InputError, RegistrationError
from rsaseg.imaging import Grid, Volume, resample
from rsaseg.phantom import make_phantom
from rsaseg.registration import align, align_exam, flirt, quality, register


@pytest.fixture(scope="module")
def tiny():
    """A coarse exam on one grid."""
    return make_phantom(seed=5, shape_vox=(48, 56, 26), spacing_mm=(4.0, 4.0, 6.5)).images


@pytest.fixture
def found(monkeypatch):
    """Make SimpleITK find this pose at once."""

    def pretend(pose):
        monkeypatch.setattr(align.simpleitk, "estimate", lambda moving, fixed: pose)

    return pretend


def shifted(volume, pose):
    """The same grid, another content."""
    return replace(volume, data=resample(volume.data, volume.grid, volume.grid, pose))


def noise(volume):
    rng = np.random.default_rng(0)
    return replace(volume, data=rng.random(volume.grid.shape, np.float32), name="noise")


def test_a_raw_exam_comes_onto_the_flair_grid(raw_exam, aligned_exam):
    flair = raw_exam.images["FLAIR"]
    assert aligned_exam.images["FLAIR"] is flair
    for name, alignment in aligned_exam.alignments.items():
        image = aligned_exam.images[name]
        assert image.grid.shape == image.data.shape == flair.grid.shape
        assert image.data.dtype == np.float32
        assert alignment.moved
        assert alignment.problem == ""
        assert mean_error_mm(alignment.flair_from_moving, FLAIR_FROM[name]) < 0.4
        once = resample(
            raw_exam.images[name].data,
            raw_exam.images[name].grid,
            flair.grid,
            alignment.flair_from_moving,
        )
        assert np.array_equal(image.data, once)


def test_an_aligned_exam_is_not_moved(aligned_exam):
    others = {name: aligned_exam.images[name] for name in ("T1", "T2")}
    again = align_exam(aligned_exam.images["FLAIR"], others)
    for name, alignment in again.alignments.items():
        assert not alignment.moved
        assert np.array_equal(alignment.flair_from_moving, np.eye(4))
        assert again.images[name].data is others[name].data
        assert alignment.as_json()["moved"] is False


def test_equal_grid_with_other_content_is_registered(tiny):
    pose = rigid((0, 0, 9), (8, -6, 0))
    alignment = register(shifted(tiny["T1"], pose), tiny["FLAIR"], "simpleitk")
    assert alignment.moved
    assert alignment.problem == ""
    assert mean_error_mm(alignment.flair_from_moving, np.linalg.inv(pose)) < 1.0


@pytest.mark.parametrize(
    "pose", [rigid((0, 0, 0), (0, 3, 0)), rigid((5, 0, 0), (0, 0, 0))], ids=["3 mm", "5 degrees"]
)
def test_nearly_aligned_is_polished_without_a_search(raw_exam, aligned_exam, monkeypatch, pose):
    def search(*_):
        raise AssertionError("searched from everywhere")

    monkeypatch.setattr(align.simpleitk, "estimate", search)
    flair, t2 = raw_exam.images["FLAIR"], aligned_exam.images["T2"]
    alignment = register(shifted(t2, pose), flair, "simpleitk")
    assert alignment.moved
    assert alignment.problem == ""
    assert mean_error_mm(alignment.flair_from_moving, np.linalg.inv(pose)) < 0.5


@pytest.mark.parametrize("pose", [np.eye(4), rigid((15, 0, 0), (0, 20, 0))], ids=["noise", "moved"])
def test_a_failed_registration_is_refused_unless_forced(tiny, found, pose):
    found(pose)
    bad = noise(tiny["T1"]) if np.array_equal(pose, np.eye(4)) else tiny["T1"]
    bad = replace(bad, grid=Grid(bad.grid.shape, rigid((0, 0, 0), (1, 0, 0)) @ bad.grid.affine))
    with pytest.raises(RegistrationError, match=f"^{bad.name}: .*FLAIR") as raised:
        align_exam(tiny["FLAIR"], {"T1": bad}, "simpleitk")
    assert "\n" not in str(raised.value)
    forced = align_exam(tiny["FLAIR"], {"T1": bad}, "simpleitk", force=True)
    assert forced.alignments["T1"].problem
    assert "used all the same" in forced.warnings[0]


def test_a_pose_outside_the_flair_is_a_failure(tiny, found):
    found(rigid((0, 0, 0), (900, 0, 0)))
    grid = Grid(tiny["T1"].grid.shape, rigid((0, 0, 0), (5, 0, 0)) @ tiny["T1"].grid.affine)
    alignment = register(replace(tiny["T1"], grid=grid), tiny["FLAIR"], "simpleitk")
    assert "does not match" in alignment.problem


def test_none_believes_the_headers(tiny):
    pose = rigid((0, 0, 20), (30, 0, 0))
    t1 = replace(tiny["T1"], grid=Grid(tiny["T1"].grid.shape, pose @ tiny["T1"].grid.affine))
    exam = align_exam(tiny["FLAIR"], {"T1": t1, "T2": noise(tiny["T2"])}, "none")
    assert np.array_equal(
        exam.images["T1"].data, resample(t1.data, t1.grid, tiny["FLAIR"].grid, np.eye(4))
    )
    assert exam.alignments["T1"].moved
    assert exam.alignments["T1"].quality is None
    assert not exam.alignments["T2"].moved


def test_too_few_slices_are_refused_unless_nothing_is_registered(tiny):
    thin = replace(tiny["T1"], data=tiny["T1"].data[:, :, :2], name="thin.nii")
    thin = replace(thin, grid=Grid(thin.data.shape, thin.grid.affine))
    with pytest.raises(InputError, match=r"thin\.nii: only 2 slices"):
        align_exam(tiny["FLAIR"], {"T1": thin}, "simpleitk")
    align_exam(tiny["FLAIR"], {"T1": thin}, "none")


def test_unknown_engine_is_refused(tiny):
    with pytest.raises(InputError, match="choose auto, flirt, simpleitk or none"):
        align_exam(tiny["FLAIR"], {"T1": tiny["T1"]}, "ants")  # type: ignore[arg-type]


def test_flirt_is_never_replaced_silently(tiny, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("FSLDIR", raising=False)
    with pytest.raises(InputError, match="not found on PATH or under FSLDIR"):
        align_exam(tiny["FLAIR"], {"T1": tiny["T1"]}, "flirt")
    assert align.choose_engine("auto")[0] == "simpleitk"


def flirt_says(pose, moving, flair):
    matrix = flirt.fsl_from_ras(pose, moving.grid, flair.grid).tolist()
    return f"write({matrix})"


@pytest.mark.parametrize(
    ("apart_mm", "warned", "refused"), [(0.5, False, False), (2.0, True, False), (5.0, True, True)]
)
def test_flirt_is_checked_against_simpleitk(act, found, tiny, apart_mm, warned, refused):
    grid = Grid(tiny["T1"].grid.shape, rigid((0, 0, 0), (6, 0, 0)) @ tiny["T1"].grid.affine)
    moving, flair = replace(tiny["T1"], grid=grid, name="t1.nii"), tiny["FLAIR"]
    truth = rigid((0, 0, 0), (-6, 0, 0))
    found(truth)
    act(flirt_says(rigid((0, 0, 0), (0, apart_mm, 0)) @ truth, moving, flair))
    alignment = register(moving, flair, "auto")
    assert alignment.engine == "flirt"
    assert alignment.version == "FLIRT version 6.0"
    assert bool(alignment.warnings) == warned
    assert ("mm apart" in alignment.problem) == refused


def test_a_wrong_header_gives_flirt_a_second_attempt(act, found, tiny, tmp_path):
    grid = Grid(tiny["T1"].grid.shape, rigid((0, 0, 0), (6, 0, 0)) @ tiny["T1"].grid.affine)
    moving, flair = replace(tiny["T1"], grid=grid), tiny["FLAIR"]
    truth = rigid((0, 0, 0), (-6, 0, 0))
    found(truth)
    act(
        f"if '-usesqform' in sys.argv:\n    {flirt_says(np.eye(4), moving, flair)}\n"
        f"else:\n    {flirt_says(truth, moving, flair)}"
    )
    alignment = register(moving, flair, "flirt")
    np.testing.assert_allclose(alignment.flair_from_moving, truth, atol=1e-9)
    assert alignment.warnings == ()
    assert alignment.problem == ""


def test_flirts_failure_names_the_file(act, tiny):
    grid = Grid(tiny["T1"].grid.shape, rigid((0, 0, 0), (6, 0, 0)) @ tiny["T1"].grid.affine)
    act("sys.exit(3)")
    with pytest.raises(RegistrationError, match=r"^t1; 'x'\.nii: flirt: failed \(exit 3\)"):
        align_exam(tiny["FLAIR"], {"T1": replace(tiny["T1"], grid=grid, name="t1; 'x'.nii")})


def test_forced_an_exam_goes_on_where_flirt_failed(act, found, tiny):
    grid = Grid(tiny["T1"].grid.shape, rigid((0, 0, 0), (6, 0, 0)) @ tiny["T1"].grid.affine)
    truth = rigid((0, 0, 0), (-6, 0, 0))
    found(truth)
    act("sys.exit(3)")
    exam = align_exam(tiny["FLAIR"], {"T1": replace(tiny["T1"], grid=grid)}, "flirt", force=True)
    np.testing.assert_allclose(exam.alignments["T1"].flair_from_moving, truth)
    assert exam.alignments["T1"].engine == "simpleitk"
    (warning,) = exam.warnings
    assert re.fullmatch(r".*: flirt: failed \(exit 3\).*; used all the same", warning)


def test_sheared_image_is_handed_to_flirt_straight(act, tiny, tmp_path):
    """The stand-in finds the centre of mass of what it is given; shear must not have moved it."""
    shear = np.eye(4)
    shear[0, 1] = 0.2
    sheared = Grid(tiny["T1"].grid.shape, shear @ tiny["T1"].grid.affine)
    data = resample(tiny["T1"].data, tiny["T1"].grid, sheared)
    act(f"import shutil; shutil.copy(argument('-in'), {str(tmp_path)!r}); write(eye)")
    flirt.estimate(replace(tiny["T1"], data=data, grid=sheared), tiny["FLAIR"])
    import nibabel as nib

    copy = nib.load(os.fspath(tmp_path / "moving.nii"))
    np.testing.assert_allclose(copy.header.get_qform(), copy.header.get_sform(), atol=1e-4)
    seen = Grid(copy.shape, copy.affine)
    back = resample(np.asarray(copy.dataobj), seen, tiny["FLAIR"].grid)
    inside = back > 0
    assert np.corrcoef(back[inside], tiny["T1"].data[inside])[0, 1] > 0.95


def box(shape, corner_mm=(0.0, 0.0, 0.0), spacing_mm=(2.0, 2.0, 2.0)):
    affine = np.diag((*spacing_mm, 1.0))
    affine[:3, 3] = corner_mm
    data = np.ones(shape, np.float32)
    data[: shape[0] // 2] = 3  # the lower half of x is head
    return Volume(data, Grid(shape, affine), Nifti1Header(), "box.nii")


@pytest.mark.parametrize(
    ("shape", "corner_mm", "share"),
    [
        ((40, 40, 40), (0, 0, 0), 1.0),
        ((40, 40, 20), (0, 0, 0), 0.5),
        ((40, 40, 40), (0, 40, 0), 0.5),
        ((40, 40, 40), (16, 0, 0), 0.6),
        ((20, 40, 40), (0, 0, 0), 1.0),
        ((20, 40, 40), (40, 0, 0), 0.0),
        ((40, 40, 40), (0, 0, 600), 0.0),
    ],
)
def test_how_much_of_the_head_an_image_covers(shape, corner_mm, share):
    flair, away = box((40, 40, 40)), rigid((5, -7, 9), (30, -20, 10))
    grid = box(shape, corner_mm).grid
    assert quality.coverage(grid, flair, np.eye(4)) == pytest.approx(share, abs=0.02)
    moved = Grid(shape, np.linalg.inv(away) @ grid.affine)
    assert quality.coverage(moved, flair, away) == pytest.approx(share, abs=0.02)


def test_an_image_that_covers_nothing_is_refused_and_one_that_covers_half_is_told(tiny):
    flair, t1 = tiny["FLAIR"], tiny["T1"]
    shift = np.eye(4)
    shift[2, 3] = 600
    far = replace(t1, grid=Grid(t1.grid.shape, shift @ t1.grid.affine), name="far.nii")
    with pytest.raises(RegistrationError, match=r"far.nii: does not cover any of the FLAIR"):
        align_exam(flair, {"T1": far}, "none")
    (warning,) = align_exam(flair, {"T1": far}, "none", force=True).warnings
    assert "used all the same" in warning
    lower = Grid((*t1.grid.shape[:2], 13), t1.grid.affine)
    half = replace(t1, grid=lower, data=t1.data[..., :13], name="half.nii")
    (warning,) = align_exam(flair, {"T1": half}, "none").warnings
    assert re.fullmatch(r"half.nii: covers only \d\d% of the FLAIR's head; .*", warning)


@pytest.mark.parametrize("air", [0.0, -1024.0, 1000.0])
def test_beyond_its_field_of_view_an_image_is_air(tiny, air):
    t1 = tiny["T1"]
    lower = replace(
        t1,
        data=t1.data[..., :13] + np.float32(air),
        grid=Grid((*t1.grid.shape[:2], 13), t1.grid.affine),
    )
    seen = align_exam(tiny["FLAIR"], {"T1": lower}, "none").images["T1"].data
    np.testing.assert_allclose(seen[..., 13:], air, atol=0.02 * np.ptp(t1.data))


def test_one_file_for_two_sequences_is_refused(tiny):
    flair = replace(tiny["FLAIR"], sha256="a")
    copy, t2 = replace(flair, name="t1.nii"), replace(tiny["T2"], sha256="b")
    with pytest.raises(InputError, match=r"the same as the T1; give the FLAIR itself"):
        align_exam(flair, {"T1": copy, "T2": t2}, "none")
    in_memory = {name: replace(volume, sha256="") for name, volume in tiny.items()}
    align_exam(in_memory.pop("FLAIR"), in_memory, "none")
