"""Verifying a mask, and what it rests on: the same bytes from the same inputs, every time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from rsaseg.errors import InputError
from rsaseg.lesions import Cut
from rsaseg.networks.unet import NetworkConfig, RSANet
from rsaseg.networks.weights import WeightsInfo, save_weights
from rsaseg.phantom import make_phantom, write_phantom
from rsaseg.predict import Settings, predict
from rsaseg.verify import read_record, recorded_settings, verify


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights, T1 and FLAIR on grids of their own, and a mask; do not change it."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    config = NetworkConfig(channels=(8, 16), patch_vox=(1, 2, 2))
    info = WeightsInfo(network=config, cut=Cut(0.55), window_vox=(64, 224, 192))
    weights = folder / "small.safetensors"
    save_weights(weights, RSANet(config).state_dict(), info)
    phantom = make_phantom(seed=1, shape_vox=(44, 52, 20), spacing_mm=(4.2, 4.2, 8.0))
    exam = write_phantom(folder, phantom)
    image = nib.load(exam["T1"])
    affine = image.affine.copy()
    affine[:3, 3] += (3.0, -2.0, 1.5)
    nib.Nifti1Image(np.asarray(image.dataobj), affine).to_filename(folder / "T1.nii.gz")
    for name, path in exam.items():
        if name != "FLAIR" and path.name != "T1.nii.gz":
            path.unlink()
    settings = Settings(str(weights), "cpu", 0.52, 2.0, "none")
    found = predict(exam["FLAIR"], folder / "mask.nii.gz", folder / "T1.nii.gz", settings=settings)
    assert found.lesion_count > 0
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def check(folder: Path, **options: object) -> object:
    return verify(folder / "mask.json", weights=str(folder / "small.safetensors"), **options)


def test_the_same_mask_comes_out_of_inputs_found_by_content(copy):
    (copy / "FLAIR.nii.gz").rename(copy / "renamed.nii.gz")
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    result = check(copy)
    assert result.findings == ()
    assert result.same
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


def test_a_changed_mask_and_other_software_are_told(copy, tmp_path):
    image = nib.load(copy / "mask.nii.gz")
    data = np.asarray(image.dataobj).copy()
    data[0, 0, :3] = 1 - data[0, 0, :3]
    nib.Nifti1Image(data, None, image.header).to_filename(copy / "mask.nii.gz")
    record = json.loads((copy / "mask.json").read_text())
    record["output_sha256"] = hashlib.sha256((copy / "mask.nii.gz").read_bytes()).hexdigest()
    record["versions"]["torch"] = "1.0"
    (copy / "mask.json").write_text(json.dumps(record))
    (copy / "FLAIR.nii.gz").rename(tmp_path / "elsewhere.nii.gz")
    result = check(copy, inputs={"FLAIR": tmp_path / "elsewhere.nii.gz"})
    assert not result.same
    assert "differs in 3 voxels" in result.findings[0]
    assert "torch was 1.0" in result.findings[1]


def test_a_record_tells_the_settings(made):
    settings = recorded_settings(read_record(made / "mask.json"))
    assert settings == Settings("small", "cpu", 0.52, 2.0, "none")


# what is done to the folder, and words of the one line that says it
BAD = {
    "record missing": (lambda d: (d / "mask.json").unlink(), "cannot be read"),
    "no json": (lambda d: (d / "mask.json").write_text("mask"), "no JSON"),
    "other json": (lambda d: (d / "mask.json").write_text("{}"), "not the record of a mask"),
    "mask missing": (lambda d: (d / "mask.nii.gz").unlink(), "no such file"),
    "input missing": (lambda d: (d / "FLAIR.nii.gz").unlink(), "give the file with --flair"),
    "input changed": (
        lambda d: (d / "FLAIR.nii.gz").write_bytes((d / "FLAIR.nii.gz").read_bytes() + b"\0"),
        "FLAIR is not beside it",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_verified_is_one_line(kind, copy):
    change, words = BAD[kind]
    change(copy)
    with pytest.raises(InputError, match=words):
        check(copy)


def test_weights_that_are_not_shipped_are_asked_for(copy):
    record = json.loads((copy / "mask.json").read_text())
    record["weights"]["name"] = "weights"
    (copy / "mask.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"mask.json: made with weights weights .* --weights"):
        verify(copy / "mask.json")


def test_a_mask_whose_ending_is_in_capitals_is_found(copy):
    record = json.loads((copy / "mask.json").read_text())
    record["files_sha256"]["mask.NII.GZ"] = record["files_sha256"].pop("mask.nii.gz")
    (copy / "mask.json").write_text(json.dumps(record))
    (copy / "mask.nii.gz").rename(copy / "mask.NII.GZ")
    assert check(copy).mask == copy / "mask.NII.GZ"


def test_other_inputs_and_other_weights_are_refused(copy):
    with pytest.raises(InputError, match="not the FLAIR the mask was made from"):
        check(copy, inputs={"FLAIR": copy / "T1.nii.gz"})
    with pytest.raises(InputError, match="made without T2"):
        check(copy, inputs={"T2": copy / "T1.nii.gz"})
    torch.manual_seed(1)
    config = NetworkConfig(channels=(8, 16), patch_vox=(1, 2, 2))
    save_weights(copy / "small.safetensors", RSANet(config).state_dict(), WeightsInfo(config))
    with pytest.raises(InputError, match="made with other weights"):
        check(copy)
    record = copy / "mask.json"
    record.rename(copy / "other.json")
    with pytest.raises(InputError, match="renamed"):
        verify(copy / "other.json", weights=str(copy / "small.safetensors"))


PROGRAM = """
import hashlib, sys
from pathlib import Path
import torch
from rsaseg.predict import Settings, predict
folder, threads = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
settings = Settings(str(folder / "small.safetensors"), "cpu", 0.52, 2.0, "simpleitk", force=True)
mask = folder / "again.nii.gz"
found = predict(folder / "FLAIR.nii.gz", mask, folder / "T1.nii.gz", settings=settings)
assert torch.get_num_threads() == threads
assert found.record["registration"]["T1"]["moved"]
print(hashlib.sha256(found.probability.tobytes()).hexdigest())
print(hashlib.sha256(mask.read_bytes()).hexdigest())
"""


def test_the_same_bytes_whatever_the_thread_count_and_run_after_run(copy):
    printed = set()
    for threads in (1, 2):
        variables = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(copy), str(threads)],
            env={**os.environ, **dict.fromkeys(variables, str(threads))},
            capture_output=True,
            text=True,
            check=True,
        )
        printed.add(done.stdout)
    assert len(printed) == 1
    assert hashlib.sha256((copy / "again.nii.gz").read_bytes()).hexdigest() in printed.pop()
