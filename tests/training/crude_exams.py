"""Crude exams for the tests of training: a bright ball with brighter lesions, quick to make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from rsaseg.networks.unet import NetworkConfig
from rsaseg.training.recipe import Recipe

CRUDE = Recipe(
    network=NetworkConfig(channels=(8, 16), patch_vox=(1, 2, 2)),
    crop_vox=(8, 32, 32),
    learning_rate=1e-2,
)
"""Of a network that learns from them in no time."""
SHAPE, SPACING_MM = (36, 44, 16), (4.0, 4.0, 8.0)


def make_exam(seed: int) -> dict[str, np.ndarray]:
    """Return T1, T2, FLAIR and lesion; the lesions lie left of the middle and in front."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    head = x**2 + y**2 + z**2 < 0.85
    lesion = np.zeros(SHAPE, bool)
    for _ in range(4):
        cx, cy, cz = rng.uniform((6, 24, 6), (14, 32, 10)).astype(int)
        lesion[cx : cx + 3, cy : cy + 3, cz : cz + 2] = True
    exam = {}
    for name, contrast in (("T1", -40.0), ("T2", 60.0), ("FLAIR", 90.0)):
        noise = rng.normal(0, 6, SHAPE)
        exam[name] = (100 * head + contrast * lesion + noise + 10).astype(np.float32)
    return exam | {"lesion": lesion.astype(np.uint8)}


def write_case(
    folder: Path,
    exam: dict[str, np.ndarray],
    spacing_mm: tuple[float, float, float] = SPACING_MM,
) -> Path:
    """Write an exam into a folder, on one grid."""
    folder.mkdir(parents=True)
    affine = np.diag([*spacing_mm, 1.0])
    for name, data in exam.items():
        nib.Nifti1Image(data, affine).to_filename(folder / f"{name}.nii")
    return folder


def write_cases(
    folder: Path,
    names: Iterable[str],
    spacing_mm: tuple[float, float, float] = SPACING_MM,
    without: Mapping[str, str] | None = None,
) -> Path:
    """Write a case for each name, of seeds 0, 1 and so on; ``without``: name to a lost sequence."""
    lost = without or {}
    for seed, name in enumerate(names):
        exam = make_exam(seed)
        if name in lost:
            del exam[lost[name]]
        write_case(folder / name, exam, spacing_mm)
    return folder
