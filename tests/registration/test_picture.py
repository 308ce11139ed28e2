"""The registration picture: valid PNG, edges where the FLAIR's are, right on the left."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header

from rsaseg.imaging import Grid, Volume
from rsaseg.report.png import png_bytes
from rsaseg.report.registration_picture import EDGE_RGB, registration_picture


def decode(png: bytes) -> np.ndarray:
    image = pytest.importorskip("PIL.Image", reason="needs Pillow to read the PNG back")
    return np.asarray(image.open(io.BytesIO(png)).convert("RGB"))


@pytest.fixture(scope="module")
def ball():
    """A ball of 30 mm in a box of 100 mm, stored LPS, brighter inside on the patient's right."""
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    affine[:3, 3] = (49, 49, -49)
    grid = Grid((50, 50, 50), affine)
    x, y, z = (np.indices(grid.shape).T @ affine[:3, :3].T + affine[:3, 3]).T
    data = 100.0 * (x**2 + y**2 + z**2 < 30**2) + 100.0 * ((x - 10) ** 2 + y**2 + z**2 < 12**2)
    return Volume(data.astype(np.float32), grid, Nifti1Header(), "ball")


def test_png_is_what_another_reader_sees():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)
    assert np.array_equal(decode(png_bytes(pixels)), pixels)


def test_edges_of_the_flair_lie_on_the_balls_rim(ball):
    pixels = decode(registration_picture(ball, {"T1": ball}, {"T1": True}))
    axial = pixels[4:104, 4:104]
    edge = (axial == EDGE_RGB).all(axis=-1)
    radius = np.hypot(*(np.argwhere(edge) - 49.5).T)
    assert edge.sum() > 100
    outer = radius[radius > 24]
    assert np.abs(outer - 30).max() < 2.5
    assert outer.size > 0.6 * edge.sum()


@pytest.mark.parametrize("air", [-1024.0, 1000.0])
def test_the_edges_are_the_same_in_a_file_with_an_offset(ball, air):
    offset = replace(ball, data=ball.data + np.float32(air))
    pictures = [registration_picture(flair, {"T1": ball}, {"T1": True}) for flair in (ball, offset)]
    assert pictures[0] == pictures[1]


def test_fat_does_not_leave_the_brain_dark(ball):
    data = np.where(ball.data > 0, 100.0, 0.0).astype(np.float32)
    data[4:9, 20:30, 20:30] = data[41:46, 20:30, 20:30] = 2000
    pixels = decode(registration_picture(ball, {"T1": replace(ball, data=data)}, {"T1": True}))
    assert tuple(pixels[70, 54]) == (round(255 / 2.2 - 0.5),) * 3


def test_edges_stay_when_the_other_image_moves(ball):
    moved = replace(ball, data=np.roll(ball.data, 6, axis=0))
    both = decode(registration_picture(ball, {"T1": ball, "T2": moved}, {"T1": True, "T2": False}))
    first, second = both[4:104], both[4 + 108 : 104 + 108]
    assert np.array_equal((first == EDGE_RGB).all(-1), (second == EDGE_RGB).all(-1))
    assert not np.array_equal(first, second)
    assert tuple(both[0, 0]) != tuple(both[-1, -1])


def test_the_patients_right_is_on_the_left(ball):
    pixels = decode(registration_picture(ball, {"T1": ball}, {"T1": True}))[4:104, 4:104]
    grey = (pixels[..., 0] == pixels[..., 2]) & (pixels[..., 0] > 230)
    assert np.argwhere(grey[20:80])[:, 1].mean() < 45
