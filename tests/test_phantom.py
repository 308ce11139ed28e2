"""The phantom: one head on every grid, contrasts as in real exams, lesions where they belong."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import label
from scipy.spatial.transform import Rotation

from rsaseg.imaging import Grid, read_mask, read_volume, resample
from rsaseg.phantom import Phantom, make_head, make_phantom, phantom_grid, write_phantom
from rsaseg.phantom.exam import SIGNAL
from rsaseg.phantom.head import TISSUES, sample_tissues

SMALL = ((84, 96, 40), (2.2, 2.2, 4.0))


@pytest.fixture(scope="module")
def tissues(phantom: Phantom):
    mixture, brain = sample_tissues(phantom.head, phantom.grid)
    return mixture, brain


def pure(tissues, name: str) -> np.ndarray:
    """Return the voxels that hold little but one tissue of the brain."""
    mixture, brain = tissues
    return (mixture[..., TISSUES.index(name)] > 0.9) & ((brain > 0.9) | (name in {"air", "fat"}))


def medians(phantom: Phantom, tissues, sequence: str) -> dict[str, float]:
    data = phantom.images[sequence].data
    return {name: float(np.median(data[pure(tissues, name)])) for name in TISSUES if name != "bone"
            and name != "soft"}  # fmt: skip


def test_fractions_of_tissue_add_up_to_one(tissues):
    mixture, brain = tissues
    assert np.abs(mixture.sum(axis=-1) - 1).max() < 1e-4
    assert mixture.min() >= 0
    assert brain.min() >= 0
    assert brain.max() <= 1 + 1e-5


def test_contrasts_have_the_order_that_real_exams_have(phantom, tissues):
    flair, t1, t2 = (medians(phantom, tissues, name) for name in ("FLAIR", "T1", "T2"))
    order = ("air", "csf", "white", "deep", "lesion", "fat")
    assert sorted(order, key=flair.__getitem__) == list(order)
    assert flair["white"] < flair["grey"] < flair["lesion"]
    order = ("air", "csf", "grey", "deep", "white", "fat")
    assert sorted(order, key=t1.__getitem__) == list(order)
    assert t1["csf"] < t1["lesion"] < t1["white"]
    order = ("air", "white", "grey", "lesion", "csf")
    assert sorted(order, key=t2.__getitem__) == list(order)


def test_the_lesion_mask_is_where_the_lesions_were_put(phantom):
    """Every listed centre is lesion, and every lesion voxel is within reach of a centre."""
    world = apply_affine(phantom.grid.affine, np.argwhere(phantom.lesion))
    centres = np.array([lesion.centre_mm for lesion in phantom.head.lesions])
    reach = np.array([1.5 * max(lesion.radius_mm) for lesion in phantom.head.lesions])
    distance = np.linalg.norm(world[:, None] - centres, axis=-1)
    assert (distance < reach + max(phantom.grid.spacing_mm)).any(axis=1).all()
    large = np.array([min(lesion.radius_mm) > 3.5 for lesion in phantom.head.lesions])
    assert large.sum() > 5
    assert (distance[:, large].min(axis=0) < 3).all()
    assert (phantom.brain | ~phantom.lesion).all()


def test_lesions_are_of_three_kinds_and_lie_where_their_kind_does():
    head = make_head(3)
    kinds = [lesion.kind for lesion in head.lesions]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "periventricular": 9,
        "deep white": 8,
        "juxtacortical": 5,
    }
    healthy = make_head(3, lesions=False)
    for lesion in head.lesions:
        affine = np.eye(4)
        affine[:3, 3] = np.array(lesion.centre_mm) - 5
        mixture, _ = sample_tissues(healthy, Grid((11, 11, 11), affine))
        near = dict(zip(TISSUES, mixture.max(axis=(0, 1, 2)), strict=True))
        assert mixture[5, 5, 5, TISSUES.index("white")] > 0.5
        if lesion.kind == "periventricular":
            assert near["csf"] > 0.5
        if lesion.kind == "juxtacortical":
            assert near["grey"] > 0.5


def test_heads_differ_in_size():
    grid = phantom_grid((60, 70, 50), (4.0, 4.0, 4.0), (0, 0, 0))
    volumes = []
    for seed in range(4):
        head = make_head(seed, lesions=False)
        volumes.append(sample_tissues(head, grid)[1].sum() * grid.voxel_mm3 / head.size**3)
    assert np.ptp(volumes) < 0.02 * np.mean(volumes)
    assert 1.1e6 < np.mean(volumes) < 1.7e6  # mm3, with sulci and ventricles


def test_lesions_do_not_touch_each_other():
    grid = phantom_grid((90, 110, 60), (1.4, 1.4, 2.0), (0, 0, 0))
    lesion = sample_tissues(make_head(1), grid)[0][..., TISSUES.index("lesion")] >= 0.5
    _, count = label(lesion, np.ones((3, 3, 3)))
    volume_ml = lesion.sum() * grid.voxel_mm3 / 1000
    assert 18 <= count <= 24
    assert 4 < volume_ml < 25


def test_a_healthy_head_has_no_lesion_and_is_otherwise_the_same(phantom):
    healthy = make_phantom(0, *SMALL, lesions=False)
    assert not healthy.lesion.any()
    assert healthy.head.lesions == ()
    away = ~(sample_tissues(phantom.head, phantom.grid)[0][..., TISSUES.index("lesion")] > 1e-6)
    for name, volume in healthy.images.items():
        assert_allclose(volume.data[away], phantom.images[name].data[away], atol=0.01)


def test_the_same_seed_gives_the_same_exam_and_another_seed_another():
    shape, spacing_mm = (50, 60, 30), (2.0, 2.0, 2.0)
    one, again, other = (make_phantom(seed, shape, spacing_mm) for seed in (0, 0, 1))
    for name, volume in one.images.items():
        assert_array_equal(again.images[name].data, volume.data)
        assert (other.images[name].data != volume.data).mean() > 0.9
    assert (other.lesion != one.lesion).any()


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR"])
def test_a_head_is_the_same_on_every_grid(orientation):
    head = make_head(0)
    one = phantom_grid((70, 70, 60), (2.0, 2.0, 2.0), (0, 0, 0), "RAS")
    other = phantom_grid((60, 60, 50), (2.0, 2.0, 2.0), (14, -9, 6), orientation)
    direct, _ = sample_tissues(head, other)
    moved, seen = (
        resample(data, one, other)
        for data in (sample_tissues(head, one)[0][..., TISSUES.index("white")], np.ones(one.shape))
    )
    white = direct[..., TISSUES.index("white")]
    assert np.abs(moved - white)[seen == 1].mean() < 0.05
    assert np.corrcoef(moved[seen == 1], white[seen == 1])[0, 1] > 0.9


def test_thick_slices_hold_the_mean_of_the_thin_ones():
    head = make_head(0)
    thin = phantom_grid((60, 40, 72), (1.4, 1.4, 1.5), (5, 0, 0), "RAS")
    thick = phantom_grid((60, 40, 18), (1.4, 1.4, 6.0), (5, 0, 0), "RAS")
    fine = sample_tissues(head, thin)[0]
    mean = fine.reshape(60, 40, 18, 4, len(TISSUES)).mean(axis=3)
    assert np.abs(sample_tissues(head, thick)[0] - mean).max() < 1e-3


def test_a_moved_t1_comes_back_by_its_transform(phantom):
    flair_from_t1 = np.eye(4)
    flair_from_t1[:3, :3] = Rotation.from_euler("xyz", (6, -4, 9), degrees=True).as_matrix()
    flair_from_t1[:3, 3] = (7, -5, 4)
    moved = make_phantom(0, *SMALL, flair_from={"T1": flair_from_t1})
    assert_array_equal(moved.images["FLAIR"].data, phantom.images["FLAIR"].data)
    t1, truth = moved.images["T1"], phantom.images["T1"].data
    back = resample(t1.data, t1.grid, phantom.grid, flair_from_t1)
    wrong = resample(t1.data, t1.grid, phantom.grid, np.linalg.inv(flair_from_t1))
    inside = phantom.brain
    assert np.corrcoef(back[inside], truth[inside])[0, 1] > 0.75
    assert np.corrcoef(wrong[inside], truth[inside])[0, 1] < 0.5


def test_a_sequence_may_have_a_grid_of_its_own():
    grid = phantom_grid((60, 70, 50), (2, 2, 2), (0, 0, 20), "PIR")
    phantom = make_phantom(0, (50, 60, 10), (2, 2, 2), grids={"T2": grid})
    assert phantom.images["T2"].grid is grid
    assert phantom.images["T2"].data.shape == grid.shape
    assert phantom.grid is phantom.images["T1"].grid


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "PIR"])
def test_the_grid_is_what_was_asked_for(orientation):
    grid = phantom_grid((10, 20, 30), (1, 2, 3), (8, -5, 3), orientation)
    assert grid.shape == (10, 20, 30)
    assert grid.spacing_mm == pytest.approx((1, 2, 3))
    assert "".join(nib.aff2axcodes(grid.affine)) == orientation
    assert np.abs(grid.affine[:3, :3]).astype(bool).all()  # oblique


def test_files_are_an_exam_that_reads_back(tmp_path, phantom):
    files = write_phantom(tmp_path / "new" / "exam", phantom, ".nii")
    assert sorted(path.name for path in (tmp_path / "new" / "exam").iterdir()) == [
        "FLAIR.nii", "T1.nii", "T2.nii", "lesion.nii",
    ]  # fmt: skip
    for name in SIGNAL:
        volume = read_volume(files[name])
        assert volume.grid.matches(phantom.grid)
        assert volume.warnings == ()
    mask, _ = read_mask(files["lesion"])
    assert_array_equal(mask, phantom.lesion)
    assert nib.load(files["lesion"]).get_data_dtype() == np.uint8


def test_no_tissue_of_a_real_patient_is_far_from_the_phantom(phantom, labelled):
    """Lesions stand out of the brain on FLAIR as much as in labelled patients, 1.1 to 1.9 times."""

    def contrast(flair: np.ndarray, lesion: np.ndarray, brain: np.ndarray) -> float:
        return float(np.median(flair[lesion]) / np.median(flair[brain & ~lesion]))

    real = []
    for case in sorted(labelled.glob("tabriz-*")):
        lesion, _ = read_mask(case / "lesion.nii.gz")
        brain, _ = read_mask(case / "brain.nii.gz")
        real.append(contrast(read_volume(case / "FLAIR.nii.gz").data, lesion, brain))
    ours = contrast(phantom.images["FLAIR"].data, phantom.lesion, phantom.brain)
    assert min(real) - 0.1 < ours < max(real) + 0.1
