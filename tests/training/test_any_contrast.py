"""Exams whose tissues have another contrast."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest
from crude_exams import write_case
from numpy.typing import NDArray
from scipy.stats import norm
from scripts import run

from rsaseg.errors import InputError
from rsaseg.imaging import Grid
from rsaseg.training.cases import find_cases

FLUID, GREY, DEEP_GREY, WHITE, SKULL = range(1, 6)
"""Tissues as the module numbers them."""
T1_T2_FLAIR = {
    FLUID: (30, 220, 40),
    GREY: (60, 120, 120),
    DEEP_GREY: (85, 100, 105),
    WHITE: (110, 85, 100),
}
OUTSIDE = {5: (20, 20, 25), 6: (180, 60, 90), 7: (60, 40, 50), 8: (120, 150, 160)}
BRIGHT, FAINT = slice(29, 33), slice(7, 11)
"""Along the first axis, where two lesions lie in white matter."""

Array = NDArray[np.floating]


@pytest.fixture(scope="module")
def contrast(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("any_contrast")


def crude_head(skull: bool) -> tuple[dict[str, Array], NDArray[np.int16]]:
    """Fluid and deep grey matter, white matter, cortex, and a skull of four tissues."""
    away = np.sqrt(sum((i - 19.5) ** 2 for i in np.indices((40, 40, 40))))
    tissue = np.zeros(away.shape, np.int16)
    for number, most in ((GREY, 17), (WHITE, 14), (DEEP_GREY, 7), (FLUID, 5)):
        tissue[away < most] = number
    if skull:
        x, y, _ = np.indices(tissue.shape) > 19
        rim = (away >= 17) & (away < 19.5)
        tissue[rim] = (SKULL + x + 2 * y)[rim]
    rng = np.random.default_rng(1)
    exam = {}
    for i, name in enumerate(("T1", "T2", "FLAIR")):
        grey = np.zeros(tissue.shape)
        for number, values in (T1_T2_FLAIR | OUTSIDE).items():
            grey[tissue == number] = values[i]
        exam[name] = (grey + (grey > 0) * rng.normal(0, 2, grey.shape)).astype(np.float32)
    lesion = np.zeros(tissue.shape, np.uint8)
    for where, more in ((BRIGHT, 60), (FAINT, 20)):
        lesion[where, 18:22, 18:22] = 1
        exam["FLAIR"][where, 18:22, 18:22] += more
        exam["T2"][where, 18:22, 18:22] += more
        exam["T1"][where, 18:22, 18:22] -= more / 2
    brain = (tissue > 0) & (tissue < SKULL)
    return exam | {"lesion": lesion, "brain": brain.astype(np.uint8)}, tissue


@pytest.mark.parametrize("skull", [False, True])
def test_tissues_are_told_apart(contrast: ModuleType, skull: bool) -> None:
    exam, tissue = crude_head(skull)
    lesion = exam["lesion"] > 0
    images = {name: exam[name] / np.float32(100) for name in ("T1", "T2", "FLAIR")}
    told = contrast.tell_tissues(images, exam["brain"] > 0, lesion, np.random.default_rng(3))
    inside = (tissue < SKULL) & ~lesion
    assert (told == tissue)[inside].mean() > 0.999
    assert not told[lesion].any()
    if skull:
        outside = tissue >= SKULL
        pairs = np.unique(np.stack([told, tissue])[:, outside], axis=1)
        assert pairs.shape[1] == 4  # each tissue by a number of its own
        assert {*pairs[0]} == {5, 6, 7, 8}


def test_contrast_changes_and_lesions_stay_lesions(
    contrast: ModuleType, benchmark: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    exam, tissue = crude_head(skull=False)
    scan = write_case(tmp_path / "labelled/anna", exam, (1, 1, 1))
    head = benchmark("lesions_of_others").read_head(scan)
    lesion = exam["lesion"] > 0
    deep = {FLUID: tissue == FLUID, GREY: tissue == GREY, WHITE: (tissue == WHITE) & ~lesion}
    grey_over_white = {name: [] for name in head.images}
    for seed in range(12):
        made = contrast.change_contrast(head, np.random.default_rng(seed))
        for name, image in made.items():
            white = np.median(image[deep[WHITE]])
            assert white == pytest.approx(np.median(head.images[name][deep[WHITE]]), rel=0.05)
            grey_over_white[name].append(np.median(image[deep[GREY]]) / white)
            bright, faint = (image[where, 19:21, 19:21].mean() - white for where in (BRIGHT, FAINT))
            assert abs(faint) < abs(bright)
            assert (bright < 0.02) if name == "T1" else (bright > 0.03)
    for name, (_, (least, most), _) in contrast.OVER_WHITE.items():
        ratios = grey_over_white[name]
        assert least - 0.08 < min(ratios) < max(ratios) < most + 0.08
        assert max(ratios) - min(ratios) > 0.4 * (most - least)


def test_lesions_differ_from_white_matter_by_what_was_drawn(contrast: ModuleType) -> None:
    grid = Grid((30, 30, 30), np.eye(4))
    image, lesion = np.ones(grid.shape, np.float32), np.zeros(grid.shape, bool)
    for corner, more in ((4, 0.4), (20, 0.1)):
        box = (slice(corner, corner + 4),) * 3
        image[box] += more
        lesion[box] = True
    share = contrast.blur(lesion, contrast.BLUR_MM, grid)
    redrawn = contrast.redraw_lesions(image, 1.0, lesion, share, 0.6)
    assert redrawn[lesion].mean() == pytest.approx(1.6)
    assert redrawn[4, 4, 4] - 1 == pytest.approx(4 * (redrawn[20, 20, 20] - 1))
    edge = norm.cdf(0.5 / 0.6)  # half a voxel of 1 mm within, blurred by 0.6 mm
    assert share[4, 5, 5] == pytest.approx(edge, abs=0.05)
    assert share[3, 5, 5] == pytest.approx(1 - edge, abs=0.05)
    flat = contrast.redraw_lesions(np.ones_like(image), 1.0, lesion, share, 0.6)
    assert np.allclose(flat, 1 + 0.6 * share)


def test_exams_are_cases_of_their_patient_and_come_again(
    contrast: ModuleType, tmp_path: Path
) -> None:
    exam, _ = crude_head(skull=True)
    scan = write_case(tmp_path / "made/anna-made-03", exam, (1, 1, 1))
    for folder in ("once", "again"):
        run(contrast, f"{scan} --add 500 -o {tmp_path / folder}")
    run(contrast, f"{scan} --add 500 --seed 8 -o {tmp_path / 'others'}")
    (case,) = find_cases([tmp_path / "once"])
    assert (case.name, case.patient, case.made) == ("anna-made-503", "anna", True)

    def read(folder: str, name: str) -> Array:
        values: Array = nib.load(tmp_path / folder / case.name / f"{name}.nii.gz").get_fdata()
        return values

    for name in ("T1", "T2", "FLAIR"):
        assert np.array_equal(read("once", name), read("again", name))
        assert np.abs(read("once", name) - read("others", name)).max() > 5
        assert not read("once", name)[exam[name] == 0].any()
    assert np.array_equal(read("once", "lesion"), exam["lesion"])
    assert np.array_equal(read("once", "brain"), exam["brain"])
    with pytest.raises(InputError, match=r"anna-made-503: is there already"):
        run(contrast, f"{scan} --add 500 -o {tmp_path / 'once'}")
