"""The result of an evaluation: as tables on the terminal, and as files."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from rsaseg import __version__
from rsaseg.imaging import make_folder, write_atomic
from rsaseg.metrics import LesionCounts
from rsaseg.report.bland_altman import bland_altman_svg
from rsaseg.report.tsv import tsv
from rsaseg.scoring.agreement import Estimate, PairedDifference
from rsaseg.scoring.cases import CASE_METRICS
from rsaseg.scoring.summary import COHORT_METRICS, Evaluation


def write_evaluation(result: Evaluation, folder: Path) -> None:
    """Write ``cases.tsv``, ``summary.tsv``, ``bland_altman.svg`` and ``evaluation.json``.

    With a comparison there is ``comparison.tsv`` too.

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
    names = [score.case for score in result.cases]
    picture = bland_altman_svg(result.volumes, names, "Lesion volume, predicted against true")
    write_atomic(folder / "cases.tsv", case_tsv(result))
    write_atomic(folder / "summary.tsv", estimate_tsv(result))
    write_atomic(folder / "bland_altman.svg", picture)
    if result.other:
        write_atomic(folder / "comparison.tsv", difference_tsv(result))
    write_atomic(folder / "evaluation.json", evaluation_json(result))


def case_rows(result: Evaluation) -> list[dict[str, Any]]:
    """Return one row a case: its scores, lesion counts and whether it failed; extra ones last."""
    rows: list[dict[str, Any]] = []
    for score in result.cases:
        counts = sum(score.lesions, start=LesionCounts())
        status = "missing" if score.missing else "scored"
        row = {"case": score.case, "patient": score.patient, "status": status}
        rows.append(row | dict(score.scores) | asdict(counts))
    nothing = dict.fromkeys((*CASE_METRICS, *asdict(LesionCounts())), float("nan"))
    extra = ({"case": case, "patient": "n/a", "status": "extra"} for case in result.extra)
    return rows + [row | nothing for row in extra]


def case_tsv(result: Evaluation) -> bytes:
    """Return `case_rows` as a TSV file's bytes."""
    rows = case_rows(result)
    return tsv(rows, list(rows[0]))


def estimate_tsv(result: Evaluation) -> bytes:
    """Return the cohort figures as a TSV file's bytes."""
    return tsv([asdict(row) for row in result.estimates], [f.name for f in fields(Estimate)])


def difference_tsv(result: Evaluation) -> bytes:
    """Return the comparison with other predictions as a TSV file's bytes."""
    columns = [field.name for field in fields(PairedDifference)]
    return tsv([asdict(row) for row in result.differences], columns)


def evaluation_json(result: Evaluation) -> bytes:
    """Return the whole result, the rules and the meaning of each column as JSON; NaN is null."""
    content = {
        "rsaseg": __version__,
        "pred": result.pred,
        "truth": result.truth,
        "rules": asdict(result.rules),
        "n_cases": len(result.cases),
        "n_patients": len({score.patient for score in result.cases}),
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
        "differences": [asdict(difference) for difference in result.differences],
        "cases": case_rows(result),
        "columns": {
            "case": "Name the two masks were paired by",
            "patient": "Exams of one patient are drawn together in the bootstrap",
            "status": "scored; missing: no prediction, worst scores; extra: no truth, no scores",
            **CASE_METRICS,
            "n_truth": "True lesions",
            "n_found": "True lesions that a predicted one matches",
            "n_pred": "Predicted lesions",
            "n_right": "Predicted lesions that a true one matches",
        },
        "figures": COHORT_METRICS,
        "intervals": "95 % percentile bootstrap over patients, 2000 draws",
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


def estimate_table(result: Evaluation) -> Table:
    """Return the cohort figures as a rich table."""
    n_patients = len({score.patient for score in result.cases})
    table = Table(title=f"{len(result.cases)} exams of {n_patients} patients")
    for name in ("figure", "value", "95 % interval", "exams"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for estimate in result.estimates:
        interval = f"{_round(estimate.low)} to {_round(estimate.high)}"
        table.add_row(estimate.metric, _round(estimate.value), interval, str(estimate.n))
    return table


def case_table(result: Evaluation) -> Table:
    """Return the scores of each case, and the failures, as a rich table."""
    columns = ("dice", "iou", "lesion_f1", "hd95_mm", "truth_ml", "pred_ml")
    table = Table()
    table.add_column("case")
    for name in columns:
        table.add_column(name, justify="right")
    table.add_column("status")
    for row in case_rows(result):
        values = (_round(row[name]) for name in columns)
        status = {"missing": "no prediction", "extra": "no truth"}.get(row["status"], "")
        table.add_row(row["case"], *values, status, style="red" if status else None)
    return table


def difference_table(result: Evaluation) -> Table:
    """Return the comparison with the other predictions as a rich table."""
    table = Table(title=f"{result.pred} minus {result.other}")
    for name in ("metric", "this", "other", "difference", "95 % interval", "p", "patients"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    for row in result.differences:
        interval = f"{_round(row.low)} to {_round(row.high)}"
        figures = (_round(v) for v in (row.this, row.other, row.difference))
        p_value = "n/a" if math.isnan(row.p_value) else f"{row.p_value:.2g}"
        table.add_row(row.metric, *figures, interval, p_value, str(row.n_patients))
    return table
