"""`rsaseg evaluate`: predicted masks against true ones, a case at a time and all together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from rsaseg.errors import GeometryError, InputError
from rsaseg.imaging import read_mask, write_atomic
from rsaseg.report.bland_altman import bland_altman_svg
from rsaseg.report.evaluation import case_tsv, difference_tsv, estimate_tsv, evaluation_json
from rsaseg.scoring.agreement import bland_altman
from rsaseg.scoring.cases import CaseScore, Rules, score_masks, worst_scores
from rsaseg.scoring.pairing import pair_masks, patient_of
from rsaseg.scoring.summary import Evaluation, compare_all, estimate_all, score_columns

Progress = Callable[[str, int, int], None]


def evaluate(
    pred: Path,
    truth: Path,
    out: Path | None = None,
    *,
    compare: Path | None = None,
    rules: Rules | None = None,
    patients: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Compare predicted lesion masks with true ones.

    A case without a prediction counts with the worst scores there are, and a prediction without
    a truth is listed; both are failures.

    Parameters
    ----------
    pred, truth : Path
        Folders of masks, paired by name (see `rsaseg.scoring.pairing.find_masks`), or two files.
    out : Path, optional
        Folder to write ``cases.tsv``, ``summary.tsv``, ``evaluation.json``, ``bland_altman.svg``
        and, with ``compare``, ``comparison.tsv`` to; it is made if missing.
    compare : Path, optional
        Other predictions of the same cases; they are compared patient by patient.
    rules : Rules, optional
        Smallest lesion, matching and surface tolerance. Default: ``Rules()``.
    patients : mapping, optional
        Case to patient, where names do not tell (see `rsaseg.scoring.pairing.patient_of`;
        `read_patients` there reads a table).
    progress : callable, optional
        Called with the stage's name, exams done and exams to do.

    Raises
    ------
    InputError
        If a folder or mask cannot be used, or no case is in both folders.
    GeometryError
        If two masks of a case do not lie on one grid; it names both.
    """
    rules = rules or Rules()
    cases, extra = _score_folder(pred, truth, rules, patients or {}, progress)
    volumes = score_columns(cases)
    result = Evaluation(
        pred=str(pred),
        truth=str(truth),
        cases=cases,
        extra=extra,
        estimates=estimate_all(cases),
        volumes=bland_altman(volumes["pred_ml"], volumes["truth_ml"]),
        rules=rules,
    )
    if compare is not None:
        others, _ = _score_folder(compare, truth, rules, patients or {}, progress)
        result = replace(
            result,
            other=str(compare),
            differences=compare_all(cases, others),
            missing_in_other=tuple(score.case for score in others if score.missing),
        )
    if out is not None:
        write_evaluation(result, out)
    return result


def write_evaluation(result: Evaluation, out: Path) -> None:
    """Write an evaluation's tables and its picture into the folder ``out``.

    Raises
    ------
    InputError
        If the folder cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{out}: cannot be made ({error.strerror}); choose another folder"
        ) from None
    names = [score.case for score in result.cases]
    picture = bland_altman_svg(result.volumes, names, "Lesion volume, predicted against true")
    write_atomic(out / "cases.tsv", case_tsv(result))
    write_atomic(out / "summary.tsv", estimate_tsv(result))
    write_atomic(out / "bland_altman.svg", picture)
    if result.other:
        write_atomic(out / "comparison.tsv", difference_tsv(result))
    write_atomic(out / "evaluation.json", evaluation_json(result))


def _score_folder(
    pred: Path,
    truth: Path,
    rules: Rules,
    patients: Mapping[str, str],
    progress: Progress | None,
) -> tuple[tuple[CaseScore, ...], tuple[str, ...]]:
    """Score every case of ``truth``; return also the cases that only ``pred`` has."""
    pairs, extra = pair_masks(pred, truth)
    scores = []
    for case, (pred_path, truth_path) in pairs.items():
        patient = patients.get(case) or patient_of(case)
        scores.append(_score_case(case, patient, pred_path, truth_path, rules))
        if progress is not None:
            progress(f"score {pred.name}", len(scores), len(pairs))
    return tuple(scores), tuple(extra)


def _score_case(
    case: str, patient: str, pred_path: Path | None, truth_path: Path, rules: Rules
) -> CaseScore:
    """Read and compare one pair."""
    truth, grid = read_mask(truth_path)
    if pred_path is None:
        overlap, lesions, _ = score_masks(np.zeros_like(truth), truth, grid, rules)
        worst = worst_scores(truth, grid, rules)
        return CaseScore(case, patient, True, overlap, lesions, worst)
    pred, pred_grid = read_mask(pred_path)
    if not pred_grid.matches(grid):
        raise GeometryError(
            f"{pred_path}: its grid, {pred_grid.describe()}, is not that of {truth_path}, "
            f"{grid.describe()}; evaluate masks on one grid"
        )
    return CaseScore(case, patient, False, *score_masks(pred, truth, grid, rules))
