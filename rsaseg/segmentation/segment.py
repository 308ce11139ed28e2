"""One exam, from images to lesions: read, align, prepare, run the network, find."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

from rsaseg.errors import GeometryError, InputError
from rsaseg.imaging import Grid, Source, Volume, as_volume, read_volume
from rsaseg.inference.device import choose_device
from rsaseg.inference.probability import Prediction, predict_probability
from rsaseg.preprocessing import NetworkInput, network_input, to_flair_grid, to_working_grid
from rsaseg.registration import align_exam
from rsaseg.segmentation.result import Segmentation, find
from rsaseg.segmentation.settings import Model, Settings, check_settings, load_model

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps of it done, and how many there are."""

_SAGITTAL = -1  # axis of left and right in (C, D, H, W)


def segment(
    t1: Source | None,
    t2: Source | None,
    flair: Source,
    settings: Settings | None = None,
    *,
    model: Model | None = None,
    progress: Progress | None = None,
) -> Segmentation:
    """Segment the lesions of one exam; nothing is written or printed.

    Parameters
    ----------
    t1, t2, flair : path or nibabel image
        3D NIfTI, each on a grid of its own; T1 and T2 may be None.
    settings : Settings, optional
        Weights, device, threshold, registration. Default: ``Settings()``.
    model : Model, optional
        From `load_model`, to load weights once for many exams; ``settings.weights`` is then not
        looked at.
    progress : callable, optional
        See `Progress`.

    Returns
    -------
    Segmentation
        On the FLAIR's own grid.

    Raises
    ------
    InputError
        If an image or a setting cannot be used.
    GeometryError
        If an image's place in space is unclear.
    RegistrationError
        If T1 or T2 could not be aligned with the FLAIR.
    WeightsError
        If the weights are unknown or damaged.
    DeviceError
        If the device cannot be used.

    Examples
    --------
    ``t1``, ``t2`` and ``flair`` are paths or nibabel images.

    >>> import rsaseg
    >>> found = rsaseg.segment(t1, t2, flair)
    >>> found.mask.shape == found.grid.shape
    True
    >>> low, high = found.volume_interval_ml
    >>> low <= found.volume_ml <= high
    True
    >>> sum(lesion.volume_ml for lesion in found.lesions) - found.volume_ml < 1e-6
    True

    Without T1, T2 placed by its header, a threshold of one's own, a map of the uncertainty:

    >>> settings = rsaseg.Settings(threshold=0.4, uncertainty=True, registration="none")
    >>> found = rsaseg.segment(None, t2, flair, settings)
    >>> found.record["missing_sequences"]
    ['T1']
    >>> found.uncertainty.shape == found.mask.shape
    True
    """
    settings = settings or Settings()
    check_settings(settings)
    started = time.perf_counter()
    report = progress or (lambda *_: None)
    seconds: dict[str, float] = {}
    with _timed(seconds, "read", report):
        exam = read_exam(t1, t2, flair)
    if model is None:
        with _timed(seconds, "load weights", report):
            model = load_model(settings.weights)
    with _timed(seconds, "register", report):
        others = {name: volume for name, volume in exam.items() if name != "FLAIR"}
        aligned = align_exam(exam["FLAIR"], others, settings.registration, settings.force)
    result = segment_exam(aligned.images, model, settings, progress)
    record = {
        **result.record,
        "registration": {name: one.as_json() for name, one in aligned.alignments.items()},
        "seconds": {
            **{stage: round(value, 3) for stage, value in seconds.items()},
            **result.record["seconds"],
            "total": round(time.perf_counter() - started, 3),
        },
    }
    return replace(
        result,
        record=record,
        warnings=(*aligned.warnings, *result.warnings),
        alignments=aligned.alignments,
    )


def read_exam(t1: Source | None, t2: Source | None, flair: Source) -> dict[str, Volume]:
    """Read and check the sequences that are there.

    Raises
    ------
    InputError
        If one cannot be used; see `rsaseg.imaging.read_volume`.
    """
    sources = {"T1": t1, "T2": t2, "FLAIR": flair}
    return {name: _read(name, one) for name, one in sources.items() if one is not None}


def _read(name: str, source: Source) -> Volume:
    if isinstance(source, str | os.PathLike):
        return read_volume(Path(source))
    if not isinstance(source, Nifti1Image):
        raise InputError(f"{name}: a {type(source).__name__}; give a path or a NIfTI image")
    return as_volume(source, str(source.get_filename() or name))


def check_one_grid(exam: Mapping[str, Volume]) -> None:
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
    """Segment an exam whose images are aligned.

    Parameters
    ----------
    exam : dict
        Sequence name to volume, all on the grid of ``exam["FLAIR"]``.
    model : Model
        See `load_model`.
    settings : Settings
        ``weights`` and ``registration`` are not looked at.
    progress : callable, optional
        See `Progress`.

    Raises
    ------
    InputError
        If a setting makes no sense.
    GeometryError
        If an image is not on the FLAIR's grid.
    DeviceError
        If the device cannot be used.
    """
    check_settings(settings)
    check_one_grid(exam)
    report = progress or (lambda *_: None)
    device = choose_device(settings.device)
    seconds: dict[str, float] = {}
    with _timed(seconds, "prepare", report):
        specs = [member.info.input for member in model.members]
        working = {mm: to_working_grid(exam, mm) for mm in {spec.spacing_mm for spec in specs}}
        seen = [network_input(working[spec.spacing_mm], spec) for spec in specs]
    run = partial(_run, model.members, seen, exam["FLAIR"].grid, device, report)
    with _timed(seconds, "network", report):
        predictions, probability = run()
    mirrored = None
    if settings.uncertainty:
        with _timed(seconds, "mirror image", report):
            mirrored = run(mirror=True)[1]
    with _timed(seconds, "lesions", report):
        result = find(exam, probability, mirrored, model.info, settings)
    notes = [text for volume in exam.values() for text in volume.warnings]
    notes += [one.note for one in predictions if one.note]
    record = {
        **result.record,
        "missing_sequences": [name for name in model.info.input.sequences if name not in exam],
        "weights": _named(model),
        "input_sha256": {name: one.sha256 for name, one in exam.items() if one.sha256},
        **_computation(predictions[0]),
        "seconds": {stage: round(value, 3) for stage, value in seconds.items()},
    }
    return replace(result, record=record, warnings=tuple(notes))


def _run(
    members: Sequence[Model],
    seen: Sequence[NetworkInput],
    flair_grid: Grid,
    device: torch.device,
    report: Progress,
    mirror: bool = False,
) -> tuple[list[Prediction], NDArray[np.float32]]:
    """Return the networks' answers, and the mean probability in them on the FLAIR's grid."""
    stage, predictions, total = "mirror image" if mirror else "network", [], len(members)
    probability = np.zeros(flair_grid.shape, np.float32)
    for number, (member, one) in enumerate(zip(members, seen, strict=True)):
        image = torch.from_numpy(one.image)
        prediction = predict_probability(
            member.network,
            image.flip(_SAGITTAL) if mirror else image,
            member.info.window_vox,
            device,
            progress=lambda done, of, n=number: report(stage, done + n * of, of * total),  # type: ignore[misc]
        )
        predictions.append(prediction)
        answer = prediction.probability
        answer = answer.flip(_SAGITTAL) if mirror else answer
        probability += to_flair_grid(answer.numpy(), one.grid, flair_grid) / total
    return predictions, probability


def _named(model: Model) -> dict[str, Any]:
    """Return what tells these weights from all others."""
    named = {"name": model.name, "version": model.info.version, "sha256": model.sha256}
    return named | ({"partner": _named(model.partner)} if model.partner else {})


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


@contextmanager
def _timed(seconds: dict[str, float], stage: str, report: Progress) -> Iterator[None]:
    report(stage, 0, 1)
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started
    report(stage, 1, 1)
