"""Segment one exam: `segment` gives arrays, `predict` writes files."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.nifti1 import Nifti1Header
from numpy.typing import NDArray

from rsaseg import __version__
from rsaseg.errors import GeometryError, InputError
from rsaseg.imaging import Grid, Volume, check_suffix, read_volume, write_atomic
from rsaseg.imaging.nifti import nifti_bytes
from rsaseg.inference.device import choose_device
from rsaseg.inference.probability import Prediction, predict_probability
from rsaseg.lesions import find_lesions
from rsaseg.networks.unet import RSANet
from rsaseg.networks.weights import DEFAULT_WEIGHTS, WeightsInfo, find_weights, load_weights
from rsaseg.preprocessing import prepare, to_flair_grid
from rsaseg.registration import Engine, align_exam

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps of it done, and how many there are."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready to use, with what belongs to it."""

    network: RSANet
    info: WeightsInfo
    name: str
    sha256: str


@dataclass(frozen=True)
class Settings:
    """What a user may choose; the default of each ``None`` stands in the weights.

    Attributes
    ----------
    weights : str
        Name of shipped weights, or a file.
    device : str
        auto, cpu, cuda, cuda:1 or mps.
    threshold : float, optional
        Lesion where the probability is over this.
    min_lesion_mm3 : float, optional
        Smaller lesions are left out.
    registration : str
        auto, flirt, simpleitk or none; see `rsaseg.registration.align_exam`.
    force : bool
        Go on, with a warning, where a registration failed.
    """

    weights: str = DEFAULT_WEIGHTS
    device: str = "auto"
    threshold: float | None = None
    min_lesion_mm3: float | None = None
    registration: Engine = "auto"
    force: bool = False


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What was found in an exam, on the FLAIR's grid.

    Attributes
    ----------
    mask : ndarray
        uint8, 0 or 1.
    probability : ndarray
        float32, 0 to 1.
    labels : ndarray
        int32: 0, or the number of the lesion.
    lesion_count : int
        Highest label.
    volume_ml : float
        Of all lesions.
    grid : Grid
        The FLAIR's.
    header : Nifti1Header
        Its geometry as the file stores it.
    record : dict
        Settings, versions, hashes and seconds, for the file beside the mask.
    warnings : tuple of str
        What the user should know.
    """

    mask: NDArray[np.uint8]
    probability: NDArray[np.float32]
    labels: NDArray[np.int32]
    lesion_count: int
    volume_ml: float
    grid: Grid
    header: Nifti1Header
    record: dict[str, Any] = field(repr=False)
    warnings: tuple[str, ...] = ()


def load_model(name: str) -> Model:
    """Load weights by shipped name or file.

    Raises
    ------
    WeightsError
        If they are unknown or damaged.
    """
    path = find_weights(name)
    network, info, sha256 = load_weights(path)
    return Model(network, info, path.stem, sha256)


def read_exam(t1: Path | None, t2: Path | None, flair: Path) -> dict[str, Volume]:
    """Read the sequences that are there.

    Raises
    ------
    InputError
        If a file cannot be used; see `rsaseg.imaging.read_volume`.
    """
    paths = {"T1": t1, "T2": t2, "FLAIR": flair}
    return {name: read_volume(path) for name, path in paths.items() if path is not None}


def check_one_grid(exam: dict[str, Volume]) -> None:
    """Refuse an exam whose images do not lie on the FLAIR's grid.

    Raises
    ------
    GeometryError
        Naming both grids.
    """
    flair = exam["FLAIR"]
    for name, volume in exam.items():
        if not volume.grid.matches(flair.grid):
            raise GeometryError(
                f"{volume.name}: {name} is on {volume.grid.describe()}, the FLAIR on "
                f"{flair.grid.describe()}; align them first, see align_exam"
            )


def segment_exam(
    exam: dict[str, Volume], model: Model, settings: Settings, progress: Progress | None = None
) -> Segmentation:
    """Segment an exam in memory.

    Parameters
    ----------
    exam : dict
        Sequence name to volume, all on the grid of ``exam["FLAIR"]``.
    model : Model
        See `load_model`.
    settings : Settings
        ``weights`` is not looked at.
    progress : callable, optional
        See `Progress`.

    Raises
    ------
    GeometryError
        If an image is not on the FLAIR's grid.
    DeviceError
        If the device cannot be used.
    """
    check_one_grid(exam)
    info, report = model.info, progress or (lambda *_: None)
    device = choose_device(settings.device)
    threshold = info.threshold if settings.threshold is None else settings.threshold
    smallest = info.min_lesion_mm3 if settings.min_lesion_mm3 is None else settings.min_lesion_mm3
    if not 0 < threshold < 1:
        raise InputError(f"threshold {threshold}: give a number between 0 and 1")
    seconds: dict[str, float] = {}
    flair = exam["FLAIR"]
    with _timed(seconds, "prepare", report):
        seen = prepare(exam, info.input)
    with _timed(seconds, "network", report):
        prediction = predict_probability(
            model.network,
            torch.from_numpy(seen.image),
            info.window_vox,
            device,
            progress=lambda done, total: report("network", done, total),
        )
    with _timed(seconds, "lesions", report):
        probability = to_flair_grid(prediction.probability.numpy(), seen.grid, flair.grid)
        labels, count = find_lesions(probability > threshold, flair.grid, smallest)
    mask = (labels > 0).astype(np.uint8)
    volume_ml = float(mask.sum() * flair.grid.voxel_mm3 / 1000)
    missing = [name for name in info.input.sequences if name not in exam]
    warnings = [text for volume in exam.values() for text in volume.warnings]
    warnings += [prediction.note] if prediction.note else []
    record = {
        "lesion_count": count,
        "lesion_volume_ml": round(volume_ml, 4),
        "missing_sequences": missing,
        "threshold": threshold,
        "min_lesion_mm3": smallest,
        "grid": {
            "shape": flair.grid.shape,
            "spacing_mm": [round(s, 6) for s in flair.grid.spacing_mm],
            "affine": flair.grid.affine.tolist(),
        },
        "weights": {"name": model.name, "version": info.version, "sha256": model.sha256},
        "input_sha256": {name: volume.sha256 for name, volume in exam.items()},
        **_computation(prediction),
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }
    return Segmentation(
        mask=mask,
        probability=probability,
        labels=labels,
        lesion_count=count,
        volume_ml=volume_ml,
        grid=flair.grid,
        header=flair.header,
        record=record,
        warnings=tuple(warnings),
    )


def predict(
    flair: Path,
    output: Path,
    t1: Path | None = None,
    t2: Path | None = None,
    settings: Settings = Settings(),
    progress: Progress | None = None,
) -> Segmentation:
    """Segment an exam and write the mask, with a JSON file of how it was made beside it.

    Parameters
    ----------
    flair, t1, t2 : Path
        NIfTI files; T1 and T2 may be missing.
    output : Path
        Mask to write, ``.nii`` or ``.nii.gz``: uint8, 0 and 1, on the FLAIR's own grid.
    settings : Settings
        Weights, device, threshold.
    progress : callable, optional
        See `Progress`.

    Raises
    ------
    RsasegError
        Before anything is written; see `segment_exam` and `read_exam`.
    """
    started = time.perf_counter()
    inputs = [path for path in (t1, t2, flair) if path is not None]
    check_output(output, inputs)
    report = progress or (lambda *_: None)
    seconds: dict[str, float] = {}
    with _timed(seconds, "read", report):
        exam = read_exam(t1, t2, flair)
    with _timed(seconds, "load weights", report):
        model = load_model(settings.weights)
    with _timed(seconds, "register", report):
        others = {name: volume for name, volume in exam.items() if name != "FLAIR"}
        aligned = align_exam(exam["FLAIR"], others, settings.registration, settings.force)
    result = segment_exam(aligned.images, model, settings, progress)
    mask = nifti_bytes(result.mask, result.header, check_suffix(output))
    result.record["seconds"] = {
        **{stage: round(value, 3) for stage, value in seconds.items()},
        **result.record["seconds"],
        "total": round(time.perf_counter() - started, 3),
    }
    warnings = (*aligned.warnings, *result.warnings)
    record = {
        "Description": "Multiple-sclerosis lesion mask. For research use only.",
        "GeneratedBy": [{"Name": "rsaseg", "Version": __version__}],
        "output_sha256": hashlib.sha256(mask).hexdigest(),
        **result.record,
        "registration": {name: one.as_json() for name, one in aligned.alignments.items()},
        "warnings": [_without_folders(text, inputs) for text in warnings],
        "command": _command(t1, t2, flair, output, settings),
    }
    write_atomic(output, mask)
    write_atomic(sidecar(output), (json.dumps(record, indent=2) + "\n").encode())
    return replace(result, record=record, warnings=warnings)


def sidecar(mask: Path, suffix: str = ".json") -> Path:
    """Return the path of a file that stands beside a mask: its name with another ending."""
    return mask.with_name(mask.name[: -len(check_suffix(mask))] + suffix)


def check_output(output: Path, inputs: list[Path]) -> None:
    """Check, before any work, that the mask can be written and is none of the inputs.

    Raises
    ------
    InputError
        Saying what is wrong with the path.
    """
    check_suffix(output)
    if output.is_dir():
        raise InputError(f"{output}: is a folder; give a file name in it")
    if not output.parent.is_dir():
        raise InputError(f"{output}: its folder does not exist; make it first")
    if not os.access(output.parent, os.W_OK):
        raise InputError(f"{output}: its folder cannot be written; choose another")
    for path in inputs:
        for written in (output, sidecar(output)):
            if written.exists() and path.exists() and written.samefile(path):
                raise InputError(f"{written}: is an input; choose another output name")


def _computation(prediction: Prediction) -> dict[str, Any]:
    """Return where and with what the network ran."""
    return {
        "device": prediction.device,
        "precision": prediction.precision,
        "window_vox": prediction.window_vox,
        "peak_memory_mb": _peak_memory_mb(),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "scipy", "nibabel")},
        },
        "platform": platform.platform(),
    }


def _peak_memory_mb() -> int:
    """Return the most memory this process has held so far."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit)


def _without_folders(text: str, inputs: list[Path]) -> str:
    """Cut folders from a message: they may hold a patient's name, and differ between machines."""
    for path in inputs:
        text = text.replace(str(path), path.name)
    return text


def _command(
    t1: Path | None, t2: Path | None, flair: Path, output: Path, settings: Settings
) -> list[str]:
    """Return the command that makes this mask, file names without their folders."""
    files = {"--t1": t1, "--t2": t2, "--flair": flair, "-o": output}
    words = ["rsaseg", "predict"]
    for option, path in files.items():
        words += [option, path.name] if path is not None else []
    words += ["--weights", Path(settings.weights).name, "--device", settings.device]
    for option, value in (
        ("--threshold", settings.threshold),
        ("--min-lesion-mm3", settings.min_lesion_mm3),
    ):
        words += [option, str(value)] if value is not None else []
    words += ["--registration", settings.registration]
    return words + (["--force"] if settings.force else [])


@contextmanager
def _timed(seconds: dict[str, float], stage: str, report: Progress) -> Iterator[None]:
    report(stage, 0, 1)
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started
    report(stage, 1, 1)
