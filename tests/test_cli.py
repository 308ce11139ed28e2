"""The command line as its users meet it: every bad input is one line, exit 2, and no file."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from rsaseg import cli
from rsaseg.errors import GeometryError
from rsaseg.networks.unet import NetworkConfig, RSANet
from rsaseg.networks.weights import WeightsInfo, save_weights
from rsaseg.training.stop import StoppedError

Exam = dict[str, Path]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small weights that nobody trained."""
    torch.manual_seed(0)
    config = NetworkConfig(channels=(8, 16), patch_vox=(1, 2, 2))
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_weights(path, RSANet(config).state_dict(), WeightsInfo(network=config))
    return path


def rsaseg(
    *arguments: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rsaseg", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=env,
    )


def write_like(source: Path, path: Path, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    image = nib.load(source)
    nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine).to_filename(path)
    return path


def with_voxel(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data = data.astype(np.float32)
        data[3, 4, 5] = value
        return data

    return change


def spoil_bytes(source: Path, path: Path, change: Callable[[bytes], bytes]) -> Path:
    path.write_bytes(change(source.read_bytes()))
    return path


def other_grid(exam: Exam, folder: Path) -> Path:
    image = nib.load(exam["T1"])
    affine = image.affine.copy()
    affine[:3, 3] += 7
    path = folder / "shifted.nii.gz"
    nib.Nifti1Image(np.asarray(image.dataobj), affine).to_filename(path)
    return path


# name: what is put in place of the FLAIR (or of another option), and words of the message
BAD_FLAIR: dict[str, tuple[Callable[[Exam, Path], Path], str]] = {
    "missing": (lambda e, d: d / "nowhere.nii.gz", "no such file"),
    "folder": (lambda e, d: d, "is a folder"),
    "not nifti": (
        lambda e, d: spoil_bytes(e["FLAIR"], d / "x.nii", lambda _: b"text" * 200),
        "not a NIfTI",
    ),
    "other format": (
        lambda e, d: spoil_bytes(e["FLAIR"], d / "x.mgz", lambda b: b),
        "not a NIfTI name",
    ),
    "truncated": (
        lambda e, d: spoil_bytes(e["FLAIR"], d / "x.nii.gz", lambda b: b[: len(b) // 2]),
        "truncated",
    ),
    "short": (
        lambda e, d: spoil_bytes(e["FLAIR"], d / "x.nii", lambda b: gzip.decompress(b)[:5000]),
        "fewer voxels",
    ),
    "4d": (lambda e, d: write_like(e["FLAIR"], d / "x.nii", lambda a: np.stack([a, a], 3)), "4D"),
    "2d": (lambda e, d: write_like(e["FLAIR"], d / "x.nii", lambda a: a[:, :, 9]), "2D"),
    "nan": (lambda e, d: write_like(e["FLAIR"], d / "x.nii", with_voxel(np.nan)), "NaN"),
    "infinite": (lambda e, d: write_like(e["FLAIR"], d / "x.nii", with_voxel(np.inf)), "infinite"),
    "constant": (lambda e, d: write_like(e["FLAIR"], d / "x.nii", np.ones_like), "same value"),
    "mask": (lambda e, _: e["lesion"], "as a mask does"),
}


def only_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the error line, after checking that it is one and that there is no traceback."""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


@pytest.mark.parametrize("kind", BAD_FLAIR)
def test_bad_flair(kind: str, phantom_files: Exam, weights: Path, tmp_path: Path) -> None:
    make, words = BAD_FLAIR[kind]
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    outputs.mkdir()
    flair = make(phantom_files, inputs)
    result = rsaseg("predict", "--flair", flair, "-o", outputs / "m.nii", "--weights", weights)
    line = only_line(result)
    assert result.returncode == 2
    assert words in line
    assert str(flair) in line
    assert not list(outputs.iterdir())


def bad_options(exam: Exam, folder: Path, weights: Path) -> dict[str, tuple[list[str | Path], str]]:
    good: list[str | Path] = ["--flair", exam["FLAIR"], "--weights", weights]
    damaged = spoil_bytes(
        weights, folder / "damaged.safetensors", lambda b: b[:-9] + bytes([b[-9] ^ 255]) + b[-8:]
    )
    cut = spoil_bytes(weights, folder / "cut.safetensors", lambda b: b[: len(b) // 2])
    out = ["-o", folder / "out" / "m.nii.gz"]
    copy = spoil_bytes(exam["FLAIR"], folder / "copy.nii.gz", lambda b: b)
    return {
        "other grid": (
            [*good, "--t1", other_grid(exam, folder), *out, "--registration", "none"],
            "",
        ),
        "output is an input": (["--flair", copy, "--weights", weights, "-o", copy], "is an input"),
        "output is no nifti": ([*good, "-o", folder / "out" / "m.png"], "not a NIfTI name"),
        "output is a folder": ([*good, "-o", folder / "out"], "not a NIfTI name"),
        "no output folder": ([*good, "-o", folder / "none" / "m.nii"], "does not exist"),
        "unknown weights": (
            ["--flair", exam["FLAIR"], "--weights", "best", *out],
            "unknown weights",
        ),
        "missing weights": (
            ["--flair", exam["FLAIR"], "--weights", folder / "w.safetensors", *out],
            "no such weights",
        ),
        "changed weights": (["--flair", exam["FLAIR"], "--weights", damaged, *out], "SHA-256"),
        "cut weights": (["--flair", exam["FLAIR"], "--weights", cut, *out], "damaged"),
        "unknown device": ([*good, *out, "--device", "tpu"], "unknown"),
        "absent device": ([*good, *out, "--device", "cuda:7"], "cannot be used"),
        "threshold of 2": ([*good, *out, "--threshold", "2"], "threshold"),
    }


OPTIONS = (
    *("output is an input", "output is no nifti", "output is a folder", "no output folder"),
    *("unknown weights", "missing weights", "changed weights", "cut weights"),
    *("unknown device", "absent device", "threshold of 2"),
)


@pytest.mark.parametrize("kind", OPTIONS)
def test_bad_option(kind: str, phantom_files: Exam, weights: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    arguments, words = bad_options(phantom_files, tmp_path, weights)[kind]
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    result = rsaseg("predict", *arguments)
    line = only_line(result)
    assert result.returncode == 2
    assert words in line
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_paths_without_permission(phantom_files: Exam, weights: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    good = ["--flair", phantom_files["FLAIR"], "--weights", weights]
    result = rsaseg("predict", *good, "-o", closed / "m.nii")
    assert result.returncode == 2
    assert "cannot be written" in only_line(result)
    secret = spoil_bytes(phantom_files["FLAIR"], tmp_path / "secret.nii.gz", lambda b: b)
    secret.chmod(0)
    result = rsaseg("predict", "--flair", secret, "--weights", weights, "-o", tmp_path / "m.nii")
    assert result.returncode == 2
    assert "cannot be read" in only_line(result)


def test_a_mask_on_the_flair_grid_with_its_record(
    phantom_files: Exam, weights: Path, tmp_path: Path
) -> None:
    mask = tmp_path / "mask.nii"
    before = {name: path.read_bytes() for name, path in phantom_files.items()}
    result = rsaseg(
        *("predict", "--t1", phantom_files["T1"], "--flair", phantom_files["FLAIR"]),
        *("-o", mask, "--weights", weights, "--device", "cpu"),
    )
    assert result.returncode == 0, result.stderr
    summary = result.stdout.strip()
    assert "\n" not in summary
    assert "without T2" in summary
    assert "ml" in summary
    assert "cpu" in summary
    image, flair = nib.load(mask), nib.load(phantom_files["FLAIR"])
    data = np.asarray(image.dataobj)
    assert data.dtype == np.uint8
    assert set(np.unique(data)) <= {0, 1}
    assert image.shape == flair.shape
    for form in ("sform", "qform"):
        assert image.header[f"{form}_code"] == flair.header[f"{form}_code"]
    assert np.array_equal(image.get_sform(), flair.get_sform())
    assert np.array_equal(image.get_qform(), flair.get_qform())
    assert image.header.get_xyzt_units() == flair.header.get_xyzt_units()
    record = json.loads((tmp_path / "mask.json").read_text())
    assert record["missing_sequences"] == ["T2"]
    assert record["lesion_volume_ml"] == pytest.approx(
        data.sum() * abs(np.linalg.det(flair.affine[:3, :3])) / 1000, abs=1e-3
    )
    assert set(record["input_sha256"]) == {"T1", "FLAIR"}
    assert str(tmp_path) not in (tmp_path / "mask.json").read_text()
    names = {"mask.nii", "mask.json", "mask.tsv"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert {name: path.read_bytes() for name, path in phantom_files.items()} == before


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PermissionError(13, "Permission denied", "a/b.nii"), 2, "a/b.nii: Permission denied"),
        (OSError(28, "No space left on device", "a.nii"), 2, "a.nii: No space left on device"),
        (MemoryError(), 2, "error: not enough memory; close"),
        (
            MemoryError("Unable to allocate 9 TiB"),
            2,
            "not enough memory (Unable to allocate 9 TiB)",
        ),
        (GeometryError("two  spaces/a.nii:\n  no"), 2, "error: two  spaces/a.nii: no"),
    ],
)
def test_any_error_of_the_machine_is_one_line(
    error: Exception, code: int, words: str, monkeypatch, capsys
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_name_too_long_or_not_for_this_terminal_is_told(tmp_path: Path) -> None:
    latin = os.environ | {"PYTHONIOENCODING": "latin-1"}
    for name, words in (("x" * 300, "File name too long"), ("\u8def", "no such file")):
        flair = tmp_path / f"{name}.nii"
        result = rsaseg("predict", "--flair", flair, "-o", tmp_path / "m.nii", env=latin)
        assert result.returncode == 2
        assert words in only_line(result)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    arguments = ["predict", "--flair", tmp_path / "no.nii", "-o", tmp_path / "m.nii"]
    assert "Traceback" in rsaseg("--debug", *arguments).stderr


def test_resume_begins_no_training(tmp_path: Path) -> None:
    folder, data = tmp_path / "training", tmp_path / "data"
    data.mkdir()
    resume = ["train", "--data", data, "-o", folder, "--resume"]
    assert f"{folder}: no training to go on with" in only_line(rsaseg(*resume))
    assert not folder.exists()
    folder.mkdir()
    (folder / "splits.json").write_text('{"splits": []}')
    assert "1 problem in the data" in only_line(rsaseg(*resume))


def test_ctrl_c_is_told_once(phantom_files: Exam, tmp_path: Path) -> None:
    """In a process of its own, which waits for a table of patients when it is interrupted."""
    table = tmp_path / "patients.tsv"
    os.mkfifo(table)
    masks = phantom_files["FLAIR"].parent
    also_in_background = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import signal; {also_in_background}; from rsaseg.cli import main; main()"
    command = ["evaluate", "--pred", masks, "--gt", masks, "--patients", table]
    with subprocess.Popen(
        [sys.executable, "-c", code, *map(str, command)], stderr=subprocess.PIPE, text=True
    ) as process:
        writer = table.open("w")  # as soon as it is opened there
        process.send_signal(signal.SIGINT)
        writer.close()  # a read that began just after the signal ends too
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == ["stopped"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_has_its_own_line_and_code(number: int, monkeypatch, capsys) -> None:
    def stop() -> None:
        raise StoppedError("stopped after step 5", number)

    monkeypatch.setattr(cli, "app", stop)
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 128 + number
    assert capsys.readouterr().err == "error: stopped after step 5\n"
