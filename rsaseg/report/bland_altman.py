"""A Bland-Altman picture of two volumes, drawn as SVG."""

from __future__ import annotations

from html import escape

import numpy as np

from rsaseg.scoring.agreement import BlandAltman

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 420, 70, 110, 40, 55


def _ticks(low: float, high: float) -> list[float]:
    """Return four to eight round numbers from ``low`` to ``high``."""
    raw = (high - low) / 8
    power = 10.0 ** np.floor(np.log10(raw))
    step = power * min((m for m in (1, 2, 5, 10) if m * power >= raw), default=10)
    return [
        float(step * k) for k in range(int(np.ceil(low / step)), int(np.floor(high / step)) + 1)
    ]


def _span(values: list[float]) -> tuple[float, float]:
    """Return a range that holds all values and zero, with a margin."""
    finite = [v for v in values if np.isfinite(v)]
    low, high = min(0.0, *finite), max(0.0, *finite)
    margin = 0.06 * (high - low) or 1.0
    return low - margin, high + margin


def bland_altman_svg(agreement: BlandAltman, names: list[str], title: str) -> bytes:
    """Draw differences against means, with the bias and the 95 % limits of agreement.

    Parameters
    ----------
    agreement : BlandAltman
        Of volumes in ml, predicted minus true.
    names : list of str
        Of each point; shown when the pointer rests on it.
    title : str
        Above the picture.

    Returns
    -------
    bytes
        An SVG file that needs nothing else.
    """
    x_low, x_high = _span(agreement.mean.tolist())
    lines = {"bias": agreement.bias, "-1.96 SD": agreement.low, "+1.96 SD": agreement.high}
    y_low, y_high = _span([*agreement.difference.tolist(), *lines.values()])
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def x_of(ml: float) -> float:
        return _LEFT + (ml - x_low) / (x_high - x_low) * (right - _LEFT)

    def y_of(ml: float) -> float:
        return bottom - (ml - y_low) / (y_high - y_low) * (bottom - _TOP)

    def text(x: float, y: float, words: str, extra: str = "") -> str:
        return f'<text x="{x:.1f}" y="{y:.1f}" {extra}>{escape(words)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        text(_WIDTH / 2, 22, title, 'text-anchor="middle" font-size="14"'),
        f'<path d="M{_LEFT} {_TOP}V{bottom}H{right}" fill="none" stroke="#222"/>',
        text((_LEFT + right) / 2, _HEIGHT - 12, "mean volume (ml)", 'text-anchor="middle"'),
        text(
            *(18, (_TOP + bottom) / 2, "predicted - true volume (ml)"),
            f'text-anchor="middle" transform="rotate(-90 18 {(_TOP + bottom) / 2:.1f})"',
        ),
    ]
    for tick in _ticks(x_low, x_high):
        parts.append(f'<path d="M{x_of(tick):.1f} {bottom}v5" stroke="#222"/>')
        parts.append(text(x_of(tick), bottom + 19, f"{tick:g}", 'text-anchor="middle"'))
    for tick in _ticks(y_low, y_high):
        parts.append(f'<path d="M{_LEFT} {y_of(tick):.1f}h-5" stroke="#222"/>')
        parts.append(text(_LEFT - 9, y_of(tick) + 4, f"{tick:g}", 'text-anchor="end"'))
    for name, ml in lines.items():
        if not np.isfinite(ml):
            continue
        dash = "" if name == "bias" else ' stroke-dasharray="6 4"'
        parts.append(f'<path d="M{_LEFT} {y_of(ml):.1f}H{right}" stroke="#b3261e"{dash}/>')
        parts.append(text(right + 6, y_of(ml) + 4, f"{name} {ml:.2f}"))
    for mean, difference, name in zip(agreement.mean, agreement.difference, names, strict=True):
        parts.append(
            f'<circle cx="{x_of(float(mean)):.1f}" cy="{y_of(float(difference)):.1f}" r="4" '
            f'fill="#1f5fa8" fill-opacity="0.7"><title>{escape(name)}</title></circle>'
        )
    return "\n".join([*parts, "</svg>\n"]).encode(errors="backslashreplace")
