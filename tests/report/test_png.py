"""PNG files, read back by another program."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from rsaseg.report.png import png_bytes


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (1, 300), (7, 4, 3)])
def test_another_program_reads_the_same_pixels(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    path = tmp_path / "picture.png"
    path.write_bytes(png_bytes(pixels))
    image = sitk.ReadImage(str(path))
    read = sitk.GetArrayFromImage(image)
    np.testing.assert_array_equal(read.reshape(shape), pixels)
