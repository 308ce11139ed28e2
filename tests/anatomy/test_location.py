"""Where lesions lie: on heads whose parts are known, and on patients with hand-checked masks."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from rsaseg.anatomy import LOCATIONS, Anatomy, brain_region, find_anatomy, locate
from rsaseg.anatomy.brain import to_grid
from rsaseg.anatomy.location import name_location
from rsaseg.anatomy.surface import fill_surface, fit_surface, unit_sphere
from rsaseg.imaging import Grid, Volume, crop_grid, read_mask, read_volume
from rsaseg.metrics import dice
from rsaseg.phantom import Phantom

SPACING_MM = (2.0, 2.0, 3.0)


def ball(radius_mm: float, shape: tuple[int, int, int] = (80, 80, 54)) -> NDArray[np.bool_]:
    middle = (np.array(shape) - 1) / 2
    away_mm = (np.indices(shape).T - middle) * SPACING_MM
    inside: NDArray[np.bool_] = (np.linalg.norm(away_mm, axis=-1) <= radius_mm).T
    return inside


@pytest.mark.parametrize("subdivisions", [0, 1, 3])
def test_a_sphere_of_triangles_is_closed_and_faces_outwards(subdivisions: int) -> None:
    points, faces = unit_sphere(subdivisions)
    assert len(faces) == 20 * 4**subdivisions
    edges = {(a, b) for f in faces.tolist() for a, b in zip(f, [*f[1:], f[0]], strict=True)}
    assert len(edges) == 3 * len(faces)  # each edge once in each direction
    assert {(b, a) for a, b in edges} == edges
    assert len(points) - len(edges) // 2 + len(faces) == 2
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1)
    volume = np.linalg.det(points[faces]).sum() / 6  # divergence theorem
    assert 2.5 < volume < 4 / 3 * math.pi


def test_a_surface_is_filled_to_its_volume() -> None:
    points, _ = unit_sphere(3)
    shape = (80, 80, 54)
    middle_mm = (np.array(shape) - 1) / 2 * SPACING_MM
    filled = fill_surface(middle_mm + 60 * points, shape, SPACING_MM)
    assert filled[ball(59)].all()
    assert not filled[~ball(62.5)].any()  # voxels that it cuts count: half a diagonal more


def test_the_surface_comes_to_rest_on_the_border_of_the_bright() -> None:
    points, _ = unit_sphere(3)
    middle_mm = (np.array([80, 80, 54]) - 1) / 2 * SPACING_MM
    fitted = fit_surface(ball(60).astype(float), SPACING_MM, middle_mm + 35 * points)
    radii_mm = np.linalg.norm(fitted - middle_mm, axis=1)
    assert abs(np.median(radii_mm) - 60) < 3
    assert np.ptp(radii_mm) < 8


@pytest.mark.parametrize(
    ("ventricle_mm", "surface_mm", "location"),
    [
        (0.0, 30.0, "periventricular"),
        (3.0, 2.0, "periventricular"),
        (3.1, 6.0, "juxtacortical"),
        (20.0, 6.1, "unknown"),
        (8.1, 10.1, "deep white"),
        (8.0, 30.0, "unknown"),
        (30.0, 10.0, "unknown"),
        (math.nan, 2.0, "unknown"),
        (30.0, math.nan, "unknown"),
    ],
)
def test_the_rule(ventricle_mm: float, surface_mm: float, location: str) -> None:
    assert name_location(ventricle_mm, surface_mm) == location
    assert location in LOCATIONS


def test_distances_measured_by_hand() -> None:
    grid = Grid((40, 40, 30), np.diag([-1.0, 1.0, 2.0, 1.0]))
    brain = np.zeros(grid.shape, dtype=bool)
    brain[2:38, 2:38, 1:29] = True
    ventricles = np.zeros(grid.shape, dtype=bool)
    ventricles[18:22, 18:22, 14:16] = True
    anatomy = Anatomy(grid, brain, ventricles, np.array([0, 0, 0.5, -12.5]))  # from slice 12.5 up
    beside = locate(anatomy, apply_affine(grid.affine, np.array([[15, 20, 14], [12, 20, 14]])))
    assert (beside.ventricle_mm, beside.surface_mm) == (3, 10)
    assert beside.location == "periventricular"
    above = locate(anatomy, apply_affine(grid.affine, np.array([[20, 20, 19]])))
    assert (above.ventricle_mm, above.surface_mm) == (8, 17)
    within = locate(anatomy, apply_affine(grid.affine, np.array([[19, 20, 14]])))
    assert within.ventricle_mm == 0
    low = locate(anatomy, apply_affine(grid.affine, np.array([[18, 18, 12]])))  # 4 mm under them
    assert math.isnan(low.ventricle_mm)
    assert low.surface_mm == 16
    assert low.location == "unknown"
    nothing = locate(Anatomy(grid), apply_affine(grid.affine, np.array([[18, 18, 12]])))
    assert math.isnan(nothing.surface_mm)
    assert nothing.location == "unknown"


@pytest.mark.parametrize(
    ("j", "k", "surface_mm", "location"),
    [
        (30, 39, math.nan, "unknown"),  # 28 mm away to the side, or just above
        (30, 25, math.nan, "deep white"),  # 14 mm away at least
        (8, 38, math.nan, "juxtacortical"),  # 6 mm away at most
        (4, 37, 2, "juxtacortical"),
    ],
)
def test_where_the_image_cuts_the_brain_is_no_surface(
    j: int, k: int, surface_mm: float, location: str
) -> None:
    grid = Grid((60, 60, 40), np.eye(4))
    brain, ventricles = np.zeros(grid.shape, dtype=bool), np.zeros(grid.shape, dtype=bool)
    brain[2:58, 2:58, 8:] = True  # and on above the last slice
    ventricles[28:32, 28:32, 10:13] = True
    place = locate(Anatomy(grid, brain, ventricles), np.array([[30, j, k]]))
    assert place.surface_mm == pytest.approx(surface_mm, nan_ok=True)
    assert place.location == location


@pytest.mark.parametrize(
    ("r_mm", "a_mm", "s_mm", "infratentorial"),
    [
        (0, -20, -58, True),
        (0, -20, -56, False),  # midbrain
        (15, -12, -70, True),
        (-15, -38, -70, True),
        (18, -20, -60, False),  # temporal lobe
        (0, -4, -60, False),  # sella
        (0, -46, -60, False),  # occipital lobe of a tilted head
    ],
)
def test_low_behind_and_in_the_middle_is_infratentorial(
    r_mm: float, a_mm: float, s_mm: float, infratentorial: bool
) -> None:
    affine = np.array([[2.0, 0, 0, 9], [0, 2, 0, 8], [0, 0, 2, 7], [0, 0, 0, 1]])
    grid = Grid((60, 80, 60), affine)
    ventricles = np.zeros(grid.shape, dtype=bool)
    ventricles[20:41, 30:51, 45:51] = True  # middle 30, 40, top 50
    anatomy = Anatomy(grid, np.ones(grid.shape, dtype=bool), ventricles, np.array([0, 0, 0.5, -48]))
    top_mm = apply_affine(grid.affine, [30, 40, 50])
    points_mm = top_mm + np.array([[r_mm - 3, a_mm, s_mm], [r_mm + 3, a_mm, s_mm]])
    assert (locate(anatomy, points_mm).location == "infratentorial") is infratentorial


def stripped(phantom: Phantom) -> Volume:
    flair = phantom.images["FLAIR"]
    return replace(flair, data=np.where(phantom.brain, flair.data, 0).astype(np.float32))


@pytest.mark.parametrize("skull", [True, False])
@pytest.mark.parametrize("narrow", [0, 8], ids=["brain alone", "narrower"])
def test_the_brain_reaches_to_the_sides_of_a_cropped_image(
    phantom: Phantom, skull: bool, narrow: int
) -> None:
    box = np.argwhere(phantom.brain)
    start, stop = box.min(axis=0), box.max(axis=0) + 1
    start[0], stop[0] = start[0] + narrow, stop[0] - narrow
    crop = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    whole = phantom.images["FLAIR"] if skull else stripped(phantom)
    flair = replace(whole, data=whole.data[crop], grid=crop_grid(whole.grid, start, stop))
    brain = brain_region({"FLAIR": flair})
    assert brain is not None
    assert brain[phantom.brain[crop]].mean() > 0.98
    assert brain[phantom.lesion[crop]].all()


@pytest.mark.parametrize("skull", [True, False])
def test_the_brain_of_a_synthetic_head(phantom: Phantom, skull: bool) -> None:
    flair = phantom.images["FLAIR"] if skull else stripped(phantom)
    brain = brain_region({"FLAIR": flair})
    assert brain is not None
    assert brain.shape == flair.grid.shape
    near = distance_transform_edt(~brain, flair.grid.spacing_mm) <= 2
    assert near[phantom.brain].mean() > 0.99
    assert dice(brain, phantom.brain) > 0.85
    again = brain_region({"FLAIR": flair})
    np.testing.assert_array_equal(brain, again)


def test_what_is_no_head_has_no_anatomy() -> None:
    rng = np.random.default_rng(0)
    grid = Grid((20, 24, 8), np.diag([1.0, 1.0, 3.0, 1.0]))
    noise = Volume(rng.random(grid.shape, dtype=np.float32), grid, None, "noise")  # type: ignore[arg-type]
    assert brain_region({"FLAIR": noise}) is None
    found = find_anatomy(noise)
    assert (found.brain, found.ventricles) == (None, None)


def test_a_surface_that_never_comes_to_rest_encloses_no_brain(phantom: Phantom) -> None:
    flair = phantom.images["FLAIR"]
    negative = replace(flair, data=-flair.data)
    tracemalloc.start()
    brain = brain_region({"FLAIR": negative})
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert brain is None
    assert peak_bytes < 2**29  # its triangles, filled, took gigabytes


def test_a_brain_without_ventricles_has_none() -> None:
    solid = np.where(ball(70), 100.0, 0).astype(np.float32)
    grid = Grid((80, 80, 54), np.diag([*SPACING_MM, 1.0]))
    found = find_anatomy(Volume(solid, grid, None, "ball"))  # type: ignore[arg-type]
    assert found.ventricles is None
    assert found.brain is not None
    assert dice(to_grid(found.brain, found.grid, grid), ball(70)) > 0.95


@pytest.mark.parametrize("skull", [True, False])
def test_a_patients_ventricles_and_brain(labelled: Path, skull: bool) -> None:
    folder = labelled / "tabriz-02"
    flair, (brain, grid) = read_volume(folder / "FLAIR.nii.gz"), read_mask(folder / "brain.nii.gz")
    if not skull:
        flair = replace(flair, data=np.where(brain, flair.data, 0))
    found = find_anatomy(flair)
    assert found.brain is not None
    assert found.ventricles is not None
    ventricles = to_grid(found.ventricles, found.grid, grid)
    assert dice(ventricles, read_mask(folder / "ventricles.nii.gz")[0]) > 0.7
    region = to_grid(found.brain, found.grid, grid)
    near = distance_transform_edt(~region, grid.spacing_mm) <= 2
    assert near[brain].mean() > 0.99
