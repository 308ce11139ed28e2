"""Threshold and smallest lesion, on probabilities made so that the best ones are known."""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header

from rsaseg.imaging import Grid, Volume, make_folder, read_volume, write_array
from rsaseg.training.cases import CaseFiles
from rsaseg.training.selection import KeptCase, OutOfFold, by_patient, choose_threshold


def make(name: str, patient: str, probability: np.ndarray, truth: np.ndarray) -> OutOfFold:
    x, y, z = truth.shape
    grid = Grid((x, y, z), np.diag([2.0, 1.0, 1.0, 1.0]))
    flair = Volume(probability.astype(np.float32), grid, Nifti1Header(), name)
    return OutOfFold(name, patient, probability, truth, flair)


def soft_case(name: str, patient: str) -> OutOfFold:
    """A cube of 64 voxels at 0.42 with a rim at 0.33, a lesion of 6 and a speck of 2 mm3 at 0.6."""
    truth = np.zeros((12, 12, 12), bool)
    truth[3:7, 3:7, 3:7] = True
    probability = np.full(truth.shape, 0.02)
    probability[2:8, 2:8, 2:8] = 0.33
    probability[truth] = 0.42
    truth[10, 1:4, 10] = True
    probability[10, 1:4, 10] = 0.6
    probability[10, 10, 10] = 0.6
    return make(name, patient, probability, truth)


def test_the_best_threshold_and_size_are_found() -> None:
    choice = choose_threshold([soft_case("a", "a"), soft_case("b", "b")])
    assert choice.cut.threshold == 0.35
    assert choice.cut.min_lesion_mm3 == 5.0  # 3 mm3 is as good
    assert choice.dice == 1.0


def test_patients_count_once() -> None:
    cases = [soft_case("a-t1", "a"), soft_case("a-t2", "a"), soft_case("b", "b")]
    assert by_patient(cases, [0.2, 0.4, 0.9]) == pytest.approx([0.3, 0.9])
    assert by_patient(cases, [[1, 2], [3, 2], [5, 8]]).tolist() == [[2, 2], [5, 8]]


def blurred_case(name: str, patient: str) -> OutOfFold:
    """A cube whose probability falls slowly over its sides, and whose FLAIR shows its edges."""
    truth = np.zeros((24, 16, 16), bool)
    truth[8:16, 4:12, 4:12] = True
    steps = {7: 0.45, 8: 0.42, 15: 0.45, 16: 0.42}
    probability = np.where(truth, 0.9, 0.02)
    for place, value in steps.items():
        probability[place, 4:12, 4:12] = value
    case = make(name, patient, probability, truth)
    return replace(case, flair=replace(case.flair, data=np.where(truth, 200.0, 100.0)))


def test_contrast_is_weighed_where_it_tells_more() -> None:
    cases = [blurred_case("a", "a"), blurred_case("b", "b")]
    choice = choose_threshold(cases)
    assert choice.contrast_weight == 2.0
    assert choice.dice == choice.nested_dice == 1.0
    np.testing.assert_array_equal(choice.mask(cases[0]), cases[0].truth)
    alone = replace(choice, contrast_weight=0.0).mask(cases[0])
    assert (alone != cases[0].truth).any()


def test_contrast_that_tells_nothing_is_left_alone() -> None:
    noise = np.random.default_rng(0).normal(100, 20, (12, 12, 12))
    cases = [soft_case("a", "a"), soft_case("b", "b")]
    shown = [replace(one, flair=replace(one.flair, data=noise)) for one in cases]
    assert choose_threshold(shown).contrast_weight == 0.0


def test_a_peak_that_costs_nothing_is_asked_for() -> None:
    case = soft_case("a", "a")
    probability = case.probability.copy()
    probability[case.truth] = 0.8
    probability[10, 6:10, 10] = 0.6  # a speck larger than the lesion of 6 mm3
    choice = choose_threshold([replace(case, probability=probability)])
    assert choice.cut.min_lesion_mm3 == 5.0
    assert choice.cut.peak == 0.75
    np.testing.assert_array_equal(choice.mask(replace(case, probability=probability)), case.truth)


def test_a_small_lesion_is_not_given_up_where_it_costs_no_dice() -> None:
    truth = np.zeros((30, 30, 30), bool)
    truth[2:26, 2:26, 2:26] = True
    probability = np.where(truth, 0.95, 0.02)
    truth[28, 2:5, 28] = True
    probability[28, 2:5, 28] = 0.72
    probability[28, 20:24, 28] = 0.62  # none, and the larger of the two
    choice = choose_threshold([make("a", "a", probability, truth)])
    assert (choice.cut.peak, choice.cut.min_lesion_mm3) == (0.7, 5.0)


@pytest.mark.parametrize(("thick", "peak"), [(3, 0.6), (6, 0.9)])
def test_small_lesions_are_kept_for_a_little_dice(thick: int, peak: float) -> None:
    """The wrong call, brighter than two small lesions, costs 0.0015 of Dice; 0.0033 if thicker."""
    truth = np.zeros((40, 30, 30), bool)
    truth[2:26, 2:26, 2:26] = True
    probability = np.where(truth, 0.95, 0.02)
    probability[2, 2:26, 2:26] = 0.45  # so that no higher threshold does
    truth[28, 2:5, 28] = truth[28, 12:15, 28] = True
    probability[28, 2:5, 28] = probability[28, 12:15, 28] = 0.62
    probability[32 : 32 + thick, 4:8, 4:8] = 0.62
    case = make("a", "a", probability, truth)
    flat = replace(case, flair=replace(case.flair, data=np.ones(truth.shape, np.float32)))
    assert choose_threshold([flat]).cut.peak == peak


def test_every_look_at_a_case_is_told() -> None:
    looks: list[tuple[str, int, int]] = []
    cases = [soft_case("a", "a"), soft_case("b", "b")]
    choose_threshold(cases, lambda *look: looks.append(look))
    stages = ("threshold", "peak", "smallest lesion")
    assert looks == [(stage, done, 2) for stage in stages for done in (1, 2)]


def test_a_case_on_disk_is_read_at_each_look_and_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, kept = [soft_case(name, name) for name in "abcd"], []
    for case in cases:
        place = tmp_path / case.name
        make_folder(place)
        for name, data in (("flair", case.flair.data), ("lesion", case.truth.astype(np.uint8))):
            nib.Nifti1Image(data, case.flair.grid.affine).to_filename(place / f"{name}.nii")
        write_array(place / "kept.npy", case.probability)
        files = CaseFiles(case.name, {"FLAIR": place / "flair.nii"}, place / "lesion.nii")
        kept.append(KeptCase(files, place / "kept.npy"))
    read: list[weakref.ref[Volume]] = []

    def look(path: Path) -> Volume:
        assert sum(volume() is not None for volume in read) < 2
        volume = read_volume(path)
        read.append(weakref.ref(volume))
        return volume

    monkeypatch.setattr("rsaseg.training.selection.read_volume", look)
    assert choose_threshold(kept) == choose_threshold([case.read() for case in cases])
    assert len(read) == 3 * len(cases)
