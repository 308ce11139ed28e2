"""Calibration as a picture and as Markdown."""

from __future__ import annotations

from html import escape

import numpy as np

from rsaseg.scoring.calibration import LEAST_PROBABILITY, N_BINS, Calibration, Reliability

_WIDTH, _HEIGHT, _SIDE, _TOP = 640, 350, 230, 60
_LEFTS = (65, 385)
_LARGEST = 11.0  # radius of the fullest bin's circle


def reliability_svg(calibration: Calibration) -> bytes:
    """Draw what came true against what was said, for voxels and for lesions.

    The area of a circle is what the bin holds; on the diagonal a probability means what it says.

    Returns
    -------
    bytes
        An SVG file that needs nothing else.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_WIDTH / 2}" y="22" text-anchor="middle" font-size="14">'
        "What was lesion, of what was said alike</text>",
        *_panel("voxels", "probability", "ml", calibration.voxels, _LEFTS[0]),
        *_panel("lesions", "confidence", "lesions", calibration.lesions, _LEFTS[1]),
    ]
    return "\n".join([*parts, "</svg>\n"]).encode()


def _panel(title: str, axis: str, unit: str, bins: Reliability, left: int) -> list[str]:
    bottom, middle = _TOP + _SIDE, left + _SIDE / 2

    def text(x: float, y: float, words: str, extra: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle"{extra}>{escape(words)}</text>'

    error = "" if np.isnan(bins.error) else f", expected calibration error {bins.error:.3f}"
    turned = f' transform="rotate(-90 {left - 40} {_TOP + _SIDE / 2:.1f})"'
    parts = [
        text(middle, _TOP - 14, f"{title}{error}"),
        f'<path d="M{left} {_TOP}V{bottom}h{_SIDE}" fill="none" stroke="#222"/>',
        f'<path d="M{left} {bottom}L{left + _SIDE} {_TOP}" stroke="#b3261e" '
        'stroke-dasharray="6 4"/>',
        text(middle, bottom + 38, axis),
        text(left - 40, _TOP + _SIDE / 2, "share that was lesion", turned),
    ]
    for tick in (0.0, 0.5, 1.0):
        x, y = left + tick * _SIDE, bottom - tick * _SIDE
        parts.append(f'<path d="M{x:.1f} {bottom}v5M{left} {y:.1f}h-5" stroke="#222"/>')
        parts.append(text(x, bottom + 19, f"{tick:g}"))
        parts.append(text(left - 16, y + 4, f"{tick:g}"))
    fullest = max(bins.weight)
    for said, was, weight in zip(bins.predicted, bins.observed, bins.weight, strict=True):
        if weight:
            radius = max(1.5, _LARGEST * np.sqrt(weight / fullest))
            parts.append(
                f'<circle cx="{left + said * _SIDE:.1f}" cy="{bottom - was * _SIDE:.1f}" '
                f'r="{radius:.1f}" fill="#1f5fa8" fill-opacity="0.7">'
                f"<title>{weight:.4g} {unit}: said {said:.2f}, was {was:.2f}</title></circle>"
            )
    return parts


def reliability_markdown(calibration: Calibration) -> list[str]:
    """Return the lines of a table of both, the errors, and what the review flag would do."""
    voxels, lesions = calibration.voxels, calibration.lesions
    lines = [
        f"Expected calibration error {voxels.error:.3f} over voxels of probability "
        f"{LEAST_PROBABILITY:g} or more, {lesions.error:.3f} over lesions (a lesion's confidence "
        "is its highest probability; it is right where it overlaps a true one).",
        "",
        "| said | ml of voxels | mean | was lesion | lesions | mean | was lesion |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    columns = [(r.weight, r.predicted, r.observed) for r in (voxels, lesions)]
    for i in range(N_BINS):
        cells = [f"{i / N_BINS:.1f} to {(i + 1) / N_BINS:.1f}"]
        for digits, (weight, said, was) in zip((1, 0), columns, strict=True):
            cells.append(f"{weight[i]:.{digits}f}")
            cells += [f"{x[i]:.2f}" if weight[i] else "" for x in (said, was)]
        lines.append(f"| {' | '.join(cells)} |")
    review = calibration.review
    if review is not None:
        lines += [
            "",
            f"A confidence of {review.below:.2f} parts right lesions from wrong ones best: under "
            f"it are {review.wrong_flagged:.0%} of the wrong and {review.right_flagged:.0%} of "
            f"the right ones, and {review.right_above:.0%} of those over it are right. It was "
            "chosen on these very lesions.",
        ]
    return lines
