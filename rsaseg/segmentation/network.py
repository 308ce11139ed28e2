"""An aligned exam through the network: prepare, run, find."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rsaseg.anatomy import find_anatomy
from rsaseg.errors import GeometryError
from rsaseg.imaging import Grid, Volume
from rsaseg.inference.device import choose_device
from rsaseg.inference.probability import Prediction, predict_in_turns, predict_mirrored
from rsaseg.preprocessing import (
    NetworkInput,
    network_input,
    off_grid,
    to_flair_grid,
    to_working_grid,
)
from rsaseg.progress import Progress, untold
from rsaseg.segmentation.model import Model
from rsaseg.segmentation.result import Segmentation, find
from rsaseg.segmentation.settings import Settings, check_settings
from rsaseg.segmentation.stages import measured, no_costs

Probability = NDArray[np.float32]


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
    if problem := next(off_grid(exam), ""):
        raise GeometryError(problem)
    report = progress or untold
    device = choose_device(settings.device)
    costs = no_costs()
    with measured(costs, "prepare", report):
        members = model.members(exam)
        specs = [member.info.input for member in members]
        grids = [(spec.spacing_mm, spec.turns_of(exam["FLAIR"].grid)) for spec in specs]
        with ThreadPoolExecutor() as pool:
            different = sorted(set(grids))
            made = pool.map(lambda grid: to_working_grid(exam, *grid), different)
            working = dict(zip(different, made, strict=True))
            seen = list(pool.map(network_input, (working[grid] for grid in grids), specs))
    run = partial(_run, flair_grid=exam["FLAIR"].grid, device=device, report=report)
    counts = [1.0] + [0.5 if model.info.partner_once else 1.0] * (len(members) - 1)
    shares = [count / sum(counts) for count in counts]
    with ThreadPoolExecutor(1) as pool:
        anatomy = pool.submit(find_anatomy, exam["FLAIR"])  # beside the network, which leaves room
        with measured(costs, "network", report):
            predictions, answers = run(members, seen)
            probability = _mean(answers, shares)
        if turning := [i for i, one in enumerate(seen) if one.mirrored]:
            with measured(costs, "mirror image", report):
                its = [members[i] for i in turning], [seen[i] for i in turning]
                _, turned = run(*its, mirror=True)
                for i, answer in zip(turning, turned, strict=True):
                    answers[i] = answer  # the others saw the exam once, and keep theirs
                both_ways = (probability, _mean(answers, shares))
                probability = np.mean(both_ways, axis=0, dtype=np.float32)
        with measured(costs, "lesions", report):
            place = anatomy.result()
            result = find(exam, probability, place, model.info, settings)
    notes = [text for volume in exam.values() for text in volume.warnings]
    notes += [one.note for one in predictions if one.note]
    record = {
        **result.record,
        "missing_sequences": [name for name in model.info.input.sequences if name not in exam],
        "weights": _named(members),
        "input_sha256": {name: one.sha256 for name, one in exam.items() if one.sha256},
        **_computation(predictions[0]),
        **costs,
    }
    return replace(result, record=record, warnings=(*notes, *result.warnings))


def _run(
    members: Sequence[Model],
    seen: Sequence[NetworkInput],
    flair_grid: Grid,
    device: torch.device,
    report: Progress,
    mirror: bool = False,
) -> tuple[list[Prediction], list[Probability]]:
    """Return the networks' answers, and the probability in each on the FLAIR's grid."""
    stage, total = "mirror image" if mirror else "network", len(members)
    predictions, answers = [], []
    for number, (member, one) in enumerate(zip(members, seen, strict=True)):
        image = torch.from_numpy(one.image)
        predict = partial(
            predict_in_turns,
            member.network,
            turns=one.turns,
            window_vox=member.info.window_vox,
            device=device,
            progress=lambda done, of, n=number: report(stage, done + n * of, of * total),  # type: ignore[misc]
        )
        prediction = predict_mirrored(predict, image) if mirror else predict(image)
        predictions.append(prediction)
        answers.append(to_flair_grid(prediction.probability.numpy(), one.grid, flair_grid))
    return predictions, answers


def _mean(answers: Sequence[Probability], shares: Sequence[float]) -> Probability:
    mean = np.zeros_like(answers[0])
    for answer, share in zip(answers, shares, strict=True):
        mean += answer * np.float32(share)
    return mean


def _named(members: Sequence[Model]) -> dict[str, Any]:
    """Return what tells these weights from all others."""
    model, *others = members
    named = {"name": model.name, "version": model.info.version, "sha256": model.sha256}
    return named | ({"partner": _named(others)} if others else {})


def _computation(prediction: Prediction) -> dict[str, Any]:
    """Return where and with what the network ran."""
    return {
        "device": prediction.device,
        "precision": prediction.precision,
        "window_vox": prediction.window_vox,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "scipy", "nibabel")},
        },
        "platform": platform.platform(),
    }
