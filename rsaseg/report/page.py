"""The report: one web page of an exam, for reading and printing, with nothing outside it.

It holds no script, and its content security policy forbids the browser to fetch anything. The same
exam gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsaseg.imaging import Volume
from rsaseg.report.lesion_table import LESION_COLUMNS, Lesion
from rsaseg.report.registration_picture import registration_picture
from rsaseg.report.slice_figures import SliceFigures, draw_slices, image_html

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_NOTICE = "For research use only. Not a medical device; not for diagnosis or treatment."
_HEADS = {
    "label": "No.",
    "volume_ml": "Volume (ml)",
    "diameter_mm": "Diameter (mm)",
    "centroid_r_mm": "R (mm)",
    "centroid_a_mm": "A (mm)",
    "centroid_s_mm": "S (mm)",
    "first_slice": "Slices",
    "ventricle_mm": "To ventr. (mm)",
    "surface_mm": "To surface (mm)",
    "location": "Location",
    "mean_probability": "Mean prob.",
    "confidence": "Confidence",
    "review": "Review",
}
_DIGITS = {"volume_ml": 3, "mean_probability": 2, "confidence": 2}


def report_html(
    exam: Mapping[str, Volume],
    labels: NDArray[np.int32],
    lesions: Sequence[Lesion],
    record: Mapping[str, Any],
    registered: Mapping[str, bool],
    title: str = "",
) -> bytes:
    """Return the page.

    Parameters
    ----------
    exam : mapping
        Sequence name to volume, all on the grid of ``exam["FLAIR"]``.
    labels : ndarray
        (X, Y, Z) numbered lesions on that grid.
    lesions : sequence of Lesion
        What stands in the table.
    record : mapping
        What stands in the file beside the mask; see `rsaseg.predict.predict`.
    registered : mapping
        Sequence name to whether its registration passed, for all but the FLAIR.
    title : str, optional
        What the exam is called; the FLAIR's file name, without its folder, if empty.
    """
    drawn = draw_slices(exam, labels, [lesion.label for lesion in lesions if lesion.review])
    name = title or Path(exam["FLAIR"].name).name
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    parts = (
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<link rel="icon" href="data:,">',
        f"<title>Lesions in {escape(name)}</title><style>{style}</style></head><body>",
        '<input type="checkbox" id="show-contours" checked>'
        '<label for="show-contours">Lesion outlines</label>',
        '<input type="checkbox" id="show-numbers" checked>'
        '<label for="show-numbers">Numbers</label>',
        f"<header><h1>Lesions in {escape(name)}</h1><p class=notice>{_NOTICE}</p></header><main>",
        _totals(lesions, record),
        _warnings(record),
        _table(lesions, drawn),
        _slices(drawn),
        _registration(exam, record, registered),
        _provenance(record),
        f'</main><footer class="notice">{_NOTICE}</footer></body></html>',
    )
    return "\n".join(parts).encode(errors="backslashreplace")  # a name may be no UTF-8


def _facts(facts: Mapping[str, str]) -> str:
    """Return names and values as a list; both are escaped."""
    rows = (f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f"<dl>{''.join(rows)}</dl>"


def _totals(lesions: Sequence[Lesion], record: Mapping[str, Any]) -> str:
    low, high = record["lesion_volume_interval_ml"]
    strict, lax = record["interval_thresholds"]
    largest = max((lesion.volume_ml for lesion in lesions), default=0.0)
    facts = {
        "Lesions": str(record["lesion_count"]),
        "Total volume": f"{record['lesion_volume_ml']:.2f} ml",
        "Volume over sensible thresholds": f"{low:.2f} to {high:.2f} ml ({strict:g} to {lax:g})",
        "Largest lesion": f"{largest:.2f} ml",
        "To review": str(record["lesions_to_review"]),
        "Threshold": f"{record['threshold']:g}",
        "Smallest lesion kept": f"{record['min_lesion_mm3']:g} mm³",
        "Missing sequences": ", ".join(record["missing_sequences"]) or "none",
    }
    return f'<section id="totals"><h2>Totals</h2>{_facts(facts)}</section>'


def _warnings(record: Mapping[str, Any]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in record["warnings"])
    body = f"<ul>{items}</ul>" if items else "<p>None.</p>"
    kind = "warned" if items else "quiet"
    return f'<section id="warnings" class="{kind}"><h2>Warnings</h2>{body}</section>'


def _table(lesions: Sequence[Lesion], drawn: SliceFigures) -> str:
    if not lesions:
        return '<section id="lesions"><h2>Lesions</h2><p>No lesion was found.</p></section>'
    heads = "".join(
        f'<th scope="col" title="{escape(LESION_COLUMNS[key]["Description"])}">{head}</th>'
        for key, head in _HEADS.items()
    )
    rows = "".join(_row(lesion, drawn.homes) for lesion in lesions)
    return (
        '<section id="lesions"><h2>Lesions</h2><p>Follow a number to the slice where the lesion is '
        "largest. Slices count from 0; R, A and S are mm to the right, front and head.</p>"
        f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        "</div></section>"
    )


def _row(lesion: Lesion, homes: Mapping[int, int]) -> str:
    values = lesion.row()
    cells = []
    for key in _HEADS:
        value = values[key]
        text = f"{value:z.{_DIGITS.get(key, 1)}f}" if isinstance(value, float) else str(value)
        text = "n/a" if text == "nan" else text
        if key == "first_slice" and lesion.n_slices > 1:
            text = f"{lesion.first_slice} to {lesion.last_slice}"
        if key == "label" and lesion.label in homes:
            text = f'<a href="#lesion-{lesion.label}">{text}</a>'
        cells.append(f"<td>{text}</td>")
    kind = ' class="review"' if lesion.review else ""
    return f"<tr{kind}>{''.join(cells)}</tr>"


def _slices(drawn: SliceFigures) -> str:
    note = (
        f"{drawn.shown} of the {drawn.with_lesions} slices with lesions."
        if drawn.with_lesions
        else "No lesion was found; these slices are spread over the head."
    )
    return (
        f'<section id="slices"><h2>Slices</h2><p>{note} Letters say which side is which: R and L '
        "are the patient's. Broken outlines are lesions to review.</p>"
        f"{drawn.html}</section>"
    )


def _registration(
    exam: Mapping[str, Volume], record: Mapping[str, Any], registered: Mapping[str, bool]
) -> str:
    others = {name: exam[name] for name in registered}
    if not others:
        return ""
    lines = "".join(
        f"<li>{escape(name)}: {escape(_how_aligned(one))}</li>"
        for name, one in record["registration"].items()
    )
    picture = registration_picture(exam["FLAIR"], others, registered)
    alt = "The FLAIR's edges over " + " and ".join(others)
    return (
        f'<section id="registration"><h2>Registration</h2><ul>{lines}</ul>'
        "<p>The FLAIR's edges over the other sequences: they should follow the same borders.</p>"
        f"{image_html(picture, alt)}</section>"
    )


def _how_aligned(one: Mapping[str, Any]) -> str:
    if one["problem"]:
        return str(one["problem"])
    if one["engine"] == "none" and one["moved"]:
        return "placed by its header, not registered"
    text = f"registered by {one['engine']} {one['version']}"
    if not one["moved"]:
        text = "already on the FLAIR's grid, used as it is"
    residual_mm = one.get("residual_mm")
    return text if residual_mm is None else f"{text}, residual {residual_mm:.2f} mm"


def _partners(weights: Mapping[str, Any]) -> list[str]:
    """Return the names of the weights averaged with these; a partner may have one itself."""
    partner = weights.get("partner")
    return [_named(partner), *_partners(partner)] if partner else []


def _provenance(record: Mapping[str, Any]) -> str:
    weights = record["weights"]
    facts = {
        "Program": ", ".join(f"{one['Name']} {one['Version']}" for one in record["GeneratedBy"]),
        "Weights": _named(weights),
        **({"Averaged with": "; ".join(partners)} if (partners := _partners(weights)) else {}),
        **{f"{k} SHA-256": sha256 for k, sha256 in record["input_sha256"].items()},
        "Grid": _grid(record["grid"]),
        "Device": f"{record['device']}, {record['precision']}",
        "Versions": ", ".join(f"{name} {number}" for name, number in record["versions"].items()),
        "Platform": record["platform"],
        "Command": " ".join(record["command"]),
    }
    return f'<section id="provenance"><h2>Provenance</h2>{_facts(facts)}</section>'


def _named(weights: Mapping[str, Any]) -> str:
    return f"{weights['name']}, version {weights['version']}, SHA-256 {weights['sha256']}"


def _grid(grid: Mapping[str, Any]) -> str:
    shape = " x ".join(str(n) for n in grid["shape"])
    return f"{shape} voxels of {' x '.join(f'{mm:.3g}' for mm in grid['spacing_mm'])} mm"
