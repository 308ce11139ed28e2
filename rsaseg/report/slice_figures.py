"""The slices of a report as HTML: sequences side by side, lesions outlined over the FLAIR."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from nibabel.affines import apply_affine
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from rsaseg.imaging import Grid, Volume
from rsaseg.preprocessing import deep_mask, head_mask
from rsaseg.report.png import png_bytes
from rsaseg.report.slices import (
    View,
    choose_slices,
    crop_to,
    grey_levels,
    home_slices,
    lesion_areas,
    outline,
    shrink,
    view_of,
)

_ORDER = ("FLAIR", "T1", "T2")
_MARGIN_VOX = 4
_APART_MM = 4.0
_BUDGET_BYTES = 4_000_000


@dataclass(frozen=True)
class SliceFigures:
    """The slices, drawn.

    Attributes
    ----------
    html : str
        A section for each slice shown, ``id="slice-12"``; a lesion's outline on the slice where
        it is largest has ``id="lesion-3"``.
    homes : dict
        Label to that slice; small lesions may lie on no slice shown.
    shown, with_lesions : int
        Slices shown, and slices that have lesions.
    """

    html: str
    homes: Mapping[int, int]
    shown: int
    with_lesions: int


def image_html(png: bytes, alt: str) -> str:
    """Return a picture as an HTML element that holds all of it."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{b64encode(png).decode()}">'


def draw_slices(
    exam: Mapping[str, Volume], labels: NDArray[np.int32], review: Sequence[int] = ()
) -> SliceFigures:
    """Draw the slices that matter.

    Parameters
    ----------
    exam : mapping
        Sequence name to volume, all on the grid of ``exam["FLAIR"]``.
    labels : ndarray
        (X, Y, Z) numbered lesions on that grid.
    review : sequence of int
        Labels to outline as doubtful.
    """
    flair = exam["FLAIR"]
    view = view_of(flair.grid)
    head = head_mask(flair.data, flair.grid.spacing_mm)
    deep = _some_of_the_deep(head, flair.grid)
    crop = crop_to(view.show(head), _MARGIN_VOX)
    lesions = view.show(labels)[crop]
    areas = lesion_areas(lesions)
    greys = {
        name: view.show(grey_levels(exam[name].data, head, deep))[crop]
        for name in _ORDER
        if name in exam
    }

    def draw(k: int, at_home: set[int]) -> str:
        contours = _contours(lesions[k], view, at_home, set(review))
        pictures = {name: grey[k] for name, grey in greys.items()}
        return _section(k, _place(flair.grid, view, k), pictures, view, contours)

    large = int(view.show(head).sum(axis=(1, 2)).argmax())
    shown = choose_slices(areas, most=_BUDGET_BYTES // len(draw(large, set())))
    homes = home_slices(areas, shown)
    sections = [draw(k, {n for n in homes if homes[n] == k}) for k in shown]
    with_lesions = int(np.count_nonzero(areas[1:].any(axis=0)))
    return SliceFigures("\n".join(sections), homes, len(shown), with_lesions)


def _some_of_the_deep(head: NDArray[np.bool_], grid: Grid) -> NDArray[np.bool_]:
    """Return voxels about 4 mm apart that lie deep in the head."""
    steps = [max(1, round(_APART_MM / mm)) for mm in grid.spacing_mm]
    thin = tuple(slice(None, None, step) for step in steps)
    deep = np.zeros_like(head)
    spacing_mm = tuple(step * mm for step, mm in zip(steps, grid.spacing_mm, strict=True))
    deep[thin] = deep_mask(head[thin], spacing_mm)
    return deep


def _place(grid: Grid, view: View, k: int) -> str:
    """Return where a slice lies, in words."""
    middle = (np.array(grid.shape) - 1) / 2
    middle[view.axes[0]] = k
    world = int(np.argmax(np.abs(grid.affine[:3, view.axes[0]])))
    mm = float(apply_affine(grid.affine, middle)[world])
    plane = ("sagittal", "coronal", "axial")[world]
    return f"{plane}, {'RAS'[world]} {mm:+.0f} mm"


def _section(
    k: int, place: str, pictures: Mapping[str, NDArray[np.uint8]], view: View, contours: str
) -> str:
    """Return a slice: its sequences side by side, the outlines over the first."""
    figures = []
    for name, grey in pictures.items():
        height_mm, width_mm = (n * mm for n, mm in zip(grey.shape, view.spacing_mm, strict=True))
        picture = image_html(png_bytes(shrink(grey)), f"{name}, slice {k}")
        over = ""
        if name == "FLAIR":
            over = (
                f'<svg class="contours" viewBox="0 0 {width_mm:.2f} {height_mm:.2f}" '
                f'aria-hidden="true">{contours}</svg>'
            )
        letters = "".join(
            f'<span class="{side}">{letter}</span>'
            for side, letter in zip(("up", "down", "left", "right"), view.edges, strict=True)
        )
        figures.append(
            f'<figure><div class="frame" style="aspect-ratio: {width_mm:.2f} / {height_mm:.2f}">'
            f"{picture}{over}{letters}</div><figcaption>{escape(name)}</figcaption></figure>"
        )
    return (
        f'<section class="slice" id="slice-{k}"><h3>Slice {k} <small>({place})</small></h3>'
        f'<div class="row">{"".join(figures)}</div></section>'
    )


def _contours(labels: NDArray[np.int32], view: View, at_home: set[int], review: set[int]) -> str:
    """Return the outlines and numbers of the lesions on a slice, in mm from its upper left."""
    down_mm, across_mm = view.spacing_mm
    parts = []
    for label, box in enumerate(find_objects(labels), start=1):
        if box is None:
            continue
        rows, columns = box
        mask = labels[box] == label
        path = outline(mask, rows.start, columns.start)
        row = rows.start + int(np.argmax(mask[:, -1]))  # of the voxel furthest to the right
        name = f' id="lesion-{label}"' if label in at_home else ""
        kind = "lesion review" if label in review else "lesion"
        parts.append(
            f'<g{name} class="{kind}">'
            f'<path transform="scale({across_mm:.6g} {down_mm:.6g})" d="{path}"/>'
            f'<text x="{columns.stop * across_mm + 0.8:.1f}" y="{(row + 0.5) * down_mm + 2:.1f}">'
            f"{label}</text></g>"
        )
    return "".join(parts)
