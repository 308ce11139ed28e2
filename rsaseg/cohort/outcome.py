"""What came of each exam: the cohort table and the page that links the masks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from rsaseg import __version__
from rsaseg.cohort.exams import Exam
from rsaseg.report.tsv import in_a_line, tsv

TABLE_COLUMNS = {
    "exam": {"Description": "Name of the exam's folder, or its BIDS subject and session"},
    "status": {
        "Description": "What came of it",
        "Levels": {"done": "There is a mask", "failed": "This run made none; see reason"},
    },
    "lesion_count": {"Description": "How many lesions the mask holds"},
    "lesion_volume_ml": {"Description": "Volume of all of them", "Units": "mL"},
    "missing_sequences": {"Description": "Sequences that the exam lacks"},
    "mask": {"Description": "Its lesion mask, relative to this table"},
    "mask_sha256": {"Description": "SHA-256 of the mask's file"},
    "warnings": {"Description": "What to look at"},
    "reason": {"Description": "Why it failed"},
}
"""Columns of ``cohort.tsv``, as a BIDS data dictionary."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
  color: #1a1a1a; background: #fff }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid #ddd }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums }
.failed { color: #a40000 }
.note { color: #555 }
"""


@dataclass(frozen=True)
class Outcome:
    """What came of one exam; ``TABLE_COLUMNS`` says what each value is.

    ``reused`` is no column: whether a mask was made in this run or in an earlier one leaves the
    table as it is.
    """

    exam: str
    status: Literal["done", "failed"]
    lesion_count: int | str = "n/a"
    lesion_volume_ml: float | str = "n/a"
    missing_sequences: str = "n/a"
    mask: str = "n/a"
    mask_sha256: str = "n/a"
    warnings: str = "n/a"
    reason: str = "n/a"
    reused: bool = False

    @property
    def failure(self) -> str:
        """The exam and why it failed, in a line that names the exam once."""
        named = self.reason.startswith((f"{self.exam}:", f"{self.exam}/"))
        return self.reason if named else f"{self.exam}: {self.reason}"


def done(exam: Exam, record: Mapping[str, Any], reused: bool = False) -> Outcome:
    """Return the outcome that a mask's record tells of; ``reused``: made in an earlier run."""
    return Outcome(
        exam.name,
        "done",
        int(record["lesion_count"]),
        float(record["lesion_volume_ml"]),
        ", ".join(record["missing_sequences"]) or "n/a",
        exam.mask.as_posix(),
        str(record["output_sha256"]),
        "; ".join([*exam.warnings, *record["warnings"]]) or "n/a",
        reused=reused,
    )


def failed(exam: str, reason: str) -> Outcome:
    """Return the outcome of an exam without a mask."""
    return Outcome(exam, "failed", reason=in_a_line(reason).rstrip() or "no reason given")


def cohort_table(outcomes: Sequence[Outcome]) -> bytes:
    """Return the cohort table as a TSV file's bytes."""
    return tsv([asdict(one) for one in outcomes], list(TABLE_COLUMNS))


def index_page(outcomes: Sequence[Outcome], folder: Path) -> bytes:
    """Return the HTML page that links what is there of every exam, failures first.

    Parameters
    ----------
    outcomes : sequence of Outcome
        In the order of the table.
    folder : Path
        Where the page goes; reports and lesion tables are looked for beside the masks in it.
    """
    bad = [one for one in outcomes if one.status == "failed"]
    good = [one for one in outcomes if one.status == "done"]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Lesion masks of {len(outcomes)} exams</title><style>{_STYLE}</style></head><body>",
        f"<h1>Lesion masks of {len(outcomes)} exams</h1>",
        f"<p>{len(good)} done, {len(bad)} failed; the same as a table: "
        '<a href="cohort.tsv">cohort.tsv</a>. <strong>For research use only.</strong></p>',
    ]
    if bad:
        parts += ["<h2>Failed</h2>", "<table><tr><th>exam</th><th>reason</th></tr>"]
        parts += [
            f'<tr class="failed"><td>{html.escape(one.exam)}</td>'
            f"<td>{html.escape(one.reason)}</td></tr>"
            for one in bad
        ]
        parts += ["</table>"]
    if good:
        parts += [
            "<h2>Done</h2>",
            '<table><tr><th>exam</th><th class="number">lesions</th><th class="number">volume, ml'
            "</th><th>files</th><th>without</th><th>warnings</th></tr>",
            *(_row(one, folder) for one in good),
            "</table>",
        ]
    parts += [f'<p class="note">rsaseg {__version__}</p>', "</body></html>", ""]
    return "\n".join(parts).encode()


def _row(one: Outcome, folder: Path) -> str:
    stem = one.mask.removesuffix(".gz").removesuffix(".nii")
    beside = {"report": f"{stem}.html", "mask": one.mask, "lesions": f"{stem}.tsv"}
    beside["record"] = f"{stem}.json"
    links = ", ".join(
        f'<a href="{quote(path)}">{name}</a>'
        for name, path in beside.items()
        if (folder / path).is_file()
    )
    missing, warnings = (
        html.escape("" if text == "n/a" else text) for text in (one.missing_sequences, one.warnings)
    )
    return (
        f'<tr><td>{html.escape(one.exam)}</td><td class="number">{one.lesion_count}</td>'
        f'<td class="number">{one.lesion_volume_ml:.2f}</td><td>{links}</td>'
        f"<td>{missing}</td><td>{warnings}</td></tr>"
    )
