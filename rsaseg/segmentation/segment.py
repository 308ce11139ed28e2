"""One exam, from images to lesions: read, align, and all that the network does with it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nibabel.nifti1 import Nifti1Image

from rsaseg.errors import InputError
from rsaseg.imaging import Source, Volume, as_volume, read_volume
from rsaseg.networks.shipped import find_weights
from rsaseg.preprocessing import find_swapped
from rsaseg.progress import Progress, untold
from rsaseg.registration import align_exam
from rsaseg.segmentation.result import Segmentation
from rsaseg.segmentation.settings import Settings, check_settings
from rsaseg.segmentation.stages import add_costs, measured, no_costs

if TYPE_CHECKING:
    from rsaseg.segmentation.model import Model

    SegmentExam = Callable[[dict[str, Volume], Model, Settings, Progress | None], Segmentation]


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
    >>> abs(sum(lesion.volume_ml for lesion in found.lesions) - found.volume_ml) < 1e-6
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
    report = progress or untold
    costs = no_costs()
    if model is None:
        find_weights(settings.weights)
    with ThreadPoolExecutor(1) as pool:
        loaded = pool.submit(_load, settings.weights, model)
        with measured(costs, "read", report):
            exam = read_exam(t1, t2, flair)
        with measured(costs, "register", report):
            others = {name: volume for name, volume in exam.items() if name != "FLAIR"}
            aligned = align_exam(exam["FLAIR"], others, settings.registration, settings.force)
            aligned = replace(aligned, notes=tuple(find_swapped(aligned.images)))
        with measured(costs, "load weights", report):
            model, segment_exam = loaded.result()
    result = segment_exam(aligned.images, model, settings, progress)
    record = {
        **result.record,
        "registration": {name: one.as_json() for name, one in aligned.alignments.items()},
        **add_costs(costs, result.record, started),
    }
    return replace(
        result,
        record=record,
        warnings=(*aligned.warnings, *result.warnings),
        alignments=aligned.alignments,
    )


def _load(weights: str, model: Model | None) -> tuple[Model, SegmentExam]:
    """Return the network and what runs it; to import torch takes longer than to read an exam."""
    from rsaseg.segmentation.model import load_model
    from rsaseg.segmentation.network import segment_exam

    return model or load_model(weights), segment_exam


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
