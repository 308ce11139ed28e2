"""The result of an evaluation: as tables on the terminal, and as files."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rsaseg import __version__
from rsaseg.errors import InputError
from rsaseg.imaging import make_folder
from rsaseg.imaging.files import check_replaceable, hashes_of, read_written, write_together
from rsaseg.metrics import LesionCounts
from rsaseg.report.bland_altman import bland_altman_svg
from rsaseg.report.tsv import tsv
from rsaseg.scoring.agreement import Estimate, PairedDifference
from rsaseg.scoring.cases import CASE_METRICS, SIZE_CLASSES_MM3, SIZES_IN_WORDS
from rsaseg.scoring.summary import AVERAGED, COHORT_METRICS, Evaluation

RECORD, COMPARISON = "evaluation.json", "comparison.tsv"
_DIGITS = 10
_COUNTS = {
    "n_truth": "True lesions",
    "n_found": "True lesions that a predicted one matches",
    "n_pred": "Predicted lesions",
    "n_right": "Predicted lesions that a true one matches",
}
_COUNTS_BY_SIZE = {
    f"{name}_{size}": f"{meaning}; {in_words}"
    for size, in_words in SIZES_IN_WORDS.items()
    for name, meaning in _COUNTS.items()
}

_FEW_PATIENTS = 10


def write_evaluation(result: Evaluation, folder: Path) -> None:
    """Write ``cases.tsv``, ``summary.tsv``, ``bland_altman.svg`` and ``evaluation.json``.

    With a comparison there is ``comparison.tsv`` too; without, that of an earlier evaluation is
    removed. What is there already is replaced, see `check_evaluation_folder`.

    Parameters
    ----------
    result : Evaluation
        Of `rsaseg.evaluate`.
    folder : Path
        Made if missing.

    Raises
    ------
    InputError
        If the folder cannot be made or written.
    """
    make_folder(folder)
    files = {
        folder / name: content_of(result)
        for name, content_of in _CONTENTS.items()
        if result.other or name != COMPARISON
    }
    record = evaluation_json(result, hashes_of(files))
    write_together({folder / RECORD: record, **files})  # by the record the others are known
    if not result.other:
        (folder / COMPARISON).unlink(missing_ok=True)  # of an earlier evaluation


def check_evaluation_folder(folder: Path) -> None:
    """Check that `write_evaluation` can write, and replace nothing but an earlier evaluation.

    Raises
    ------
    InputError
        Naming the folder, or the first file that would be lost.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is no folder; choose another")
    if not os.access(next(place for place in (folder, *folder.parents) if place.exists()), os.W_OK):
        raise InputError(f"{folder}: cannot be written; choose another folder")
    record = folder / RECORD
    paths = [*(folder / name for name in _CONTENTS), record]
    check_replaceable(paths, record, read_written(record, "files_sha256"))


def case_rows(result: Evaluation) -> list[dict[str, Any]]:
    """Return one row a case: its scores, lesion counts and whether it failed; extra ones last."""
    rows: list[dict[str, Any]] = []
    for score in result.cases:
        counts = sum(score.lesions, start=LesionCounts())
        status = "missing" if score.missing else "scored"
        row = {"case": score.case, "patient": score.patient, "status": status}
        by_size = zip(SIZE_CLASSES_MM3, score.lesions, strict=True)
        sizes = {f"{k}_{size}": n for size, one in by_size for k, n in asdict(one).items()}
        rows.append(row | dict(score.scores) | asdict(counts) | sizes)
    nothing = dict.fromkeys((*CASE_METRICS, *_COUNTS, *_COUNTS_BY_SIZE), float("nan"))
    extra = ({"case": case, "patient": "n/a", "status": "extra"} for case in result.extra)
    return rows + [row | nothing for row in extra]


def case_tsv(result: Evaluation) -> bytes:
    """Return `case_rows` as a TSV file's bytes."""
    rows = case_rows(result)
    return tsv(rows, list(rows[0]), _DIGITS)


def estimate_tsv(result: Evaluation) -> bytes:
    """Return the cohort figures as a TSV file's bytes."""
    columns = [field.name for field in fields(Estimate)]
    return tsv([asdict(row) for row in result.estimates], columns, _DIGITS)


def difference_tsv(result: Evaluation) -> bytes:
    """Return the comparison with other predictions as a TSV file's bytes."""
    columns = [field.name for field in fields(PairedDifference)]
    return tsv([asdict(row) for row in result.differences], columns, _DIGITS)


def _picture(result: Evaluation) -> bytes:
    names = [score.case for score in result.cases]
    return bland_altman_svg(result.volumes, names, "Lesion volume, predicted against true")


_CONTENTS = {
    "cases.tsv": case_tsv,
    "summary.tsv": estimate_tsv,
    "bland_altman.svg": _picture,
    COMPARISON: difference_tsv,
}
"""What `write_evaluation` writes beside the record, and what makes it."""


def evaluation_json(result: Evaluation, files_sha256: Mapping[str, str]) -> bytes:
    """Return the whole result, the rules and the meaning of each column as JSON; NaN is null.

    ``files_sha256`` are those of the files beside it, by name.
    """
    content = {
        "rsaseg": __version__,
        "pred": result.pred,
        "truth": result.truth,
        "rules": asdict(result.rules),
        "lesions": result.rules.in_words(),
        "n_cases": len(result.cases),
        "n_patients": _n_patients(result),
        "n_failed": result.n_failed,
        "missing": result.missing,
        "extra": result.extra,
        "estimates": [asdict(estimate) for estimate in result.estimates],
        "volume_bland_altman_ml": {
            "bias": result.volumes.bias,
            "limits_of_agreement": [result.volumes.low, result.volumes.high],
        },
        "compared_with": result.other or None,
        "missing_in_other": result.missing_in_other,
        "extra_in_other": result.extra_in_other,
        "differences": [asdict(difference) for difference in result.differences],
        "cases": case_rows(result),
        "files_sha256": dict(files_sha256),
        "columns": {
            "case": "Name the two masks were paired by",
            "patient": "Exams of one patient are drawn together in the bootstrap",
            "status": "scored; missing: no prediction, worst scores; extra: no truth, no scores",
            **CASE_METRICS,
            **_COUNTS,
            **_COUNTS_BY_SIZE,
        },
        "figures": COHORT_METRICS,
        "intervals": " ".join(
            ["95 % percentile bootstrap over patients, 2000 draws.", *_note_few(result)]
        ),
        "test": "Wilcoxon signed-rank over patients, two-sided, not corrected for many metrics",
    }
    return (json.dumps(_finite(content), indent=2, allow_nan=False) + "\n").encode()


def _finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _round(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def _table(title: str, *columns: str, caption: str = "") -> Table:
    """Return an empty table whose first column is folded, not cut, where the screen is narrow."""
    table = Table(title=title, caption=caption, caption_justify="left", box=box.SIMPLE_HEAD)
    table.padding, table.collapse_padding, table.show_edge = (0, 1), True, False
    first, *others = columns
    table.add_column(first, overflow="fold")
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def case_table(result: Evaluation) -> Table:
    """Return the scores of each case, and the failures, as a rich table."""
    names = ("dice", "iou", "lesion_f1", "hd95_mm", "truth_ml", "pred_ml")
    table = _table("", "case", *names, "status")
    for row in case_rows(result):
        values = (_round(row[name]) for name in names)
        status = "" if row["status"] == "scored" else row["status"]
        table.add_row(Text(row["case"]), *values, status, style="red" if status else None)
    return table


def _n_patients(result: Evaluation) -> int:
    return len({score.patient for score in result.cases})


def _note_few(result: Evaluation) -> list[str]:
    """Return what to know of intervals over so many patients, if anything."""
    n = _n_patients(result)
    few = f"Intervals over {n} patients are too narrow: draws from so few hardly differ."
    return [few] if n < _FEW_PATIENTS else []


def estimate_table(result: Evaluation) -> Table:
    """Return the cohort figures, and the rules they follow, as a rich table."""
    table = _table(
        f"{len(result.cases)} exams of {_n_patients(result)} patients",
        *("figure", "value", "95 % interval", "exams"),
        caption=" ".join([result.rules.in_words(), *_note_few(result)]),
    )
    headings = {AVERAGED[0]: "Sample average: mean over exams", "voxel_average_dice": "All pooled"}
    for estimate in result.estimates:
        if heading := headings.get(estimate.metric):
            table.add_row(heading, style="bold")
        interval = f"{_round(estimate.low)} to {_round(estimate.high)}"
        table.add_row(estimate.metric, _round(estimate.value), interval, str(estimate.n))
    return table


def difference_table(result: Evaluation) -> Table:
    """Return the comparison with the other predictions as a rich table."""
    table = _table(
        escape(f"{result.pred} minus {result.other}"),
        *("metric", "this", "other", "difference", "95 % interval", "p", "patients"),
        caption="p: Wilcoxon signed-rank test over patients, not corrected for many metrics.",
    )
    for row in result.differences:
        interval = f"{_round(row.low)} to {_round(row.high)}"
        figures = (_round(v) for v in (row.this, row.other, row.difference))
        p_value = "n/a" if math.isnan(row.p_value) else f"{row.p_value:.2g}"
        table.add_row(row.metric, *figures, interval, p_value, str(row.n_patients))
    return table
