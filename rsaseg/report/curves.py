"""A picture of how loss and Dice went, drawn as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from rsaseg.training.log import Row

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _GAP, _TOP, _BOTTOM = 640, 560, 70, 130, 60, 40, 45
_COLOURS = ("#222222", "#1f5fa8", "#b3261e", "#2e7d32", "#8e5bb5", "#c77700", "#00838f")
Points = list[tuple[float, float]]


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Return the mean of each value and up to ``width`` - 1 before it."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    means = (total[ends] - total[starts]) / (ends - starts)
    return [float(mean) for mean in means]


def curves_svg(logs: Mapping[str, Sequence[Row]]) -> bytes:
    """Draw loss above and Dice below over the steps, one colour a network.

    Lines are running means over a fiftieth of the steps, of the training crops; dots are the Dice
    of crops from the cases that the network is tested on.

    Parameters
    ----------
    logs : mapping
        Name of each network to its rows; see `rsaseg.training.log.read_log`.

    Returns
    -------
    bytes
        An SVG file that needs nothing else.
    """
    lines: dict[str, dict[str, Points]] = {"loss": {}, "dice": {}, "held_out_dice": {}}
    for name, rows in logs.items():
        for column, curves in lines.items():
            told = [(int(row["step"]) + 1.0, float(row[column])) for row in rows if row[column]]
            if column != "held_out_dice":
                means = smooth([value for _, value in told], max(1, len(told) // 50))
                told = [(step, mean) for (step, _), mean in zip(told, means, strict=True)]
            curves[name] = told
    steps = max((step for points in lines["loss"].values() for step, _ in points), default=1.0)
    highest = max((loss for points in lines["loss"].values() for _, loss in points), default=1.0)
    half = (_HEIGHT - _TOP - _BOTTOM - _GAP) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        f'<text x="{_WIDTH / 2}" y="22" text-anchor="middle" font-size="14">'
        "Loss and Dice while training</text>",
        *_panel("loss", lines["loss"], {}, (_TOP, half), (steps, max(highest, 1e-6))),
        *_panel(
            "Dice of crops",
            lines["dice"],
            lines["held_out_dice"],
            (_TOP + half + _GAP, half),
            (steps, 1.0),
        ),
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 8}" '
        'text-anchor="middle">step</text>',
    ]
    for i, name in enumerate(logs):
        x, y = _WIDTH - _RIGHT + 14, _TOP + 8.0 + 18 * i
        colour = _COLOURS[i % len(_COLOURS)]
        parts.append(f'<path d="M{x} {y}h18" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 24}" y="{y + 4}">{escape(name)}</text>')
    if any(lines["held_out_dice"].values()):
        y = _TOP + half + _GAP + 12
        parts.append(f'<circle cx="{_WIDTH - _RIGHT + 22}" cy="{y - 4}" r="3" fill="#222"/>')
        parts.append(f'<text x="{_WIDTH - _RIGHT + 38}" y="{y}">left-out cases</text>')
    return "\n".join([*parts, "</svg>\n"]).encode()


def _panel(
    label: str,
    curves: Mapping[str, Points],
    dots: Mapping[str, Points],
    place: tuple[float, float],
    ends: tuple[float, float],
) -> list[str]:
    """Draw one set of axes from ``place`` (top, height), reaching to ``ends`` (steps, value)."""
    (top, height), (steps, highest) = place, ends
    bottom, right = top + height, _WIDTH - _RIGHT

    def at(point: tuple[float, float]) -> str:
        x = _LEFT + point[0] / steps * (right - _LEFT)
        return f"{x:.1f} {bottom - min(point[1], highest) / highest * height:.1f}"

    middle = top + height / 2
    parts = [
        f'<path d="M{_LEFT} {top:.1f}V{bottom:.1f}H{right}" fill="none" stroke="#222"/>',
        f'<text x="16" y="{middle:.1f}" text-anchor="middle" '
        f'transform="rotate(-90 16 {middle:.1f})">{escape(label)}</text>',
    ]
    for share in (0.0, 0.5, 1.0):
        y, x = bottom - share * height, _LEFT + share * (right - _LEFT)
        parts.append(f'<path d="M{_LEFT} {y:.1f}h-5" stroke="#222"/>')
        parts.append(
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share * highest:.3g}</text>'
        )
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{share * steps:g}</text>'
        )
    for i, name in enumerate(curves):
        colour = _COLOURS[i % len(_COLOURS)]
        if curves[name]:
            path = "L".join(at(point) for point in curves[name])
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for point in dots.get(name, []):
            across, down = at(point).split()
            parts.append(f'<circle cx="{across}" cy="{down}" r="3" fill="{colour}"/>')
    return parts
