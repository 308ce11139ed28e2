"""A cohort of tiny exams and what one run here makes of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from rsaseg.cohort.run import Cohort, segment_cohort
from rsaseg.lesions import Cut
from rsaseg.networks.unet import NetworkConfig, RSANet
from rsaseg.networks.weights import WeightsInfo, save_weights
from rsaseg.phantom import make_phantom, write_phantom
from rsaseg.predict import Settings

EXAMS = ("a", "b <i>&", "c")


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Small weights that nobody trained, on the CPU."""
    torch.manual_seed(0)
    config = NetworkConfig(channels=(8, 16), patch_vox=(1, 2, 2))
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    info = WeightsInfo(network=config, cut=Cut(0.55), window_vox=(64, 224, 192))
    save_weights(path, RSANet(config).state_dict(), info)
    return Settings(weights=str(path), device="cpu")


@pytest.fixture(scope="session")
def flairs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three FLAIR images."""
    folder = tmp_path_factory.mktemp("flairs")
    paths = []
    for seed in range(len(EXAMS)):
        place = folder / str(seed)
        place.mkdir()
        phantom = make_phantom(seed=seed, shape_vox=(44, 52, 20), spacing_mm=(4.2, 4.2, 8.0))
        paths.append(write_phantom(place, phantom)["FLAIR"])
    return paths


@pytest.fixture(scope="session")
def data(flairs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three exams, one that is damaged, and one without FLAIR; do not change them."""
    folder = tmp_path_factory.mktemp("data")
    for name, flair in zip(EXAMS, flairs, strict=True):
        (folder / name).mkdir()
        shutil.copy(flair, folder / name / "flair.nii.gz")
    (folder / "broken").mkdir()
    (folder / "broken" / "FLAIR.nii").write_bytes(flairs[0].read_bytes()[:5000])
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="session")
def here(data: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """What a run of this process makes of ``data``; do not change its files."""
    return segment_cohort(data, tmp_path_factory.mktemp("out"), settings)
