"""Predicted masks against true ones, a case at a time and all together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from rsaseg.errors import GeometryError, InputError
from rsaseg.imaging import Grid, Source, as_mask, read_mask
from rsaseg.patients import none_among, patient_in, patient_of
from rsaseg.progress import Progress, told, untold
from rsaseg.scoring.cases import CaseScore, Mask, Rules, score_masks, worst_scores
from rsaseg.scoring.pairing import Masks, pair_masks
from rsaseg.scoring.summary import Evaluation, compare_all, summarise


def evaluate(
    pred: Masks,
    truth: Masks,
    *,
    compare: Masks | None = None,
    rules: Rules | None = None,
    patients: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare predicted lesion masks with true ones; nothing is written or printed.

    A case without a prediction counts with the worst scores there are, and a prediction without
    a truth is listed; both are failures. Masks that cannot be used are refused, all at once.

    Parameters
    ----------
    pred, truth : path, nibabel image, or mapping of case to either
        Folders of masks, paired by name (see `rsaseg.scoring.pairing.find_masks`); or one mask
        each; or masks by the name of their case. The two masks of a case lie on one grid.
    compare : path, nibabel image or mapping, optional
        Other predictions of the same cases; they are compared patient by patient.
    rules : Rules, optional
        Smallest lesion, matching and surface tolerance. Default: ``Rules()``.
    patients : mapping, optional
        Case to patient, where names do not tell (see `rsaseg.patients.patient_of`;
        `read_patients` there reads a table).
    progress : callable, optional
        See `Progress`.

    Returns
    -------
    Evaluation
        Scores of each case, and cohort figures with 95 % intervals over patients;
        `rsaseg.report.evaluation.write_evaluation` makes files of it.

    Raises
    ------
    InputError
        If a folder or mask cannot be used, or no case is on both sides.
    GeometryError
        If two masks of a case do not lie on one grid; it names both.

    Examples
    --------
    The prediction has half of the true lesion; lesions count from 3 mm3.

    >>> import nibabel as nib
    >>> import numpy as np
    >>> import rsaseg
    >>> truth = np.zeros((10, 10, 10), np.uint8)
    >>> truth[2:4, 2:4, 2:4] = 1
    >>> pred = truth.copy()
    >>> pred[2] = 0
    >>> masks = [nib.Nifti1Image(mask, np.eye(4)) for mask in (pred, truth)]
    >>> result = rsaseg.evaluate(*masks)
    >>> round(result.estimate("dice").value, 3)
    0.667
    >>> result.cases[0].scores["lesion_tpr"]
    1.0

    Many cases, by name; one has no prediction:

    >>> result = rsaseg.evaluate({"anna": masks[0]}, {"anna": masks[1], "ben": masks[1]})
    >>> result.missing, round(result.estimate("dice").value, 3)
    (('ben',), 0.333)
    """
    rules = rules or Rules()
    cases, extra = _score_all(pred, truth, rules, patients or {}, progress)
    result = summarise(_place(pred), _place(truth), cases, extra, rules)
    if compare is None:
        return result
    others, extra_in_other = _score_all(compare, truth, rules, patients or {}, progress)
    return replace(
        result,
        other=_place(compare),
        differences=compare_all(cases, others),
        missing_in_other=tuple(score.case for score in others if score.missing),
        extra_in_other=extra_in_other,
    )


def _place(masks: Masks) -> str:
    """Return where masks lie, in words."""
    return str(masks) if isinstance(masks, str | os.PathLike) else "images in memory"


def _score_all(
    pred: Masks,
    truth: Masks,
    rules: Rules,
    patients: Mapping[str, str],
    progress: Progress | None,
) -> tuple[tuple[CaseScore, ...], tuple[str, ...]]:
    """Score every case of ``truth``; return also the cases that only ``pred`` has."""
    pairs, extra = pair_masks(pred, truth)
    if patients and not patients.keys() & pairs.keys():
        raise InputError(none_among(patients, pairs))
    scores: list[CaseScore] = []
    problems: list[InputError] = []
    stage = f"score {Path(_place(pred)).name}"
    for case, (predicted, true) in told(pairs.items(), stage, progress or untold):
        patient = patient_in(patients, case) or patient_of(case)
        try:
            scores.append(_score_case(case, patient, predicted, true, rules))
        except InputError as error:
            problems.append(error)
    if problems:
        others = " ".join(f"({n}) {problem}" for n, problem in enumerate(problems[1:], 2))
        raise type(problems[0])(f"{problems[0]} {others}".strip())
    return tuple(scores), tuple(extra)


def _score_case(
    case: str, patient: str, predicted: Source | None, true: Source, rules: Rules
) -> CaseScore:
    """Read and compare one pair."""
    truth, grid, true_name = _read(true, f"true mask of {case}")
    if predicted is None:
        overlap, lesions, _ = score_masks(np.zeros_like(truth), truth, grid, rules)
        worst = worst_scores(truth, grid, rules)
        return CaseScore(case, patient, True, overlap, lesions, worst)
    pred, pred_grid, name = _read(predicted, f"predicted mask of {case}")
    if not pred_grid.matches(grid):
        raise GeometryError(
            f"{name}: its grid, {pred_grid.describe()}, is not that of {true_name}, "
            f"{grid.describe()}; evaluate masks on one grid"
        )
    return CaseScore(case, patient, False, *score_masks(pred, truth, grid, rules))


def _read(source: Source, what: str) -> tuple[Mask, Grid, str]:
    """Return a mask, its grid, and what to call it in messages."""
    if isinstance(source, str | os.PathLike):
        return *read_mask(Path(source)), str(source)
    name = str(source.get_filename() or what)
    return *as_mask(source, name), name
