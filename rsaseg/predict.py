"""`rsaseg predict`: segment an exam and write the mask, and all that stands beside it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsaseg import __version__
from rsaseg.errors import InputError
from rsaseg.imaging import check_suffix
from rsaseg.imaging.files import (
    check_replaceable,
    has_sha256,
    hashes_of,
    read_written,
    write_together,
)
from rsaseg.imaging.nifti import SUFFIXES, nifti_bytes
from rsaseg.progress import Progress, untold
from rsaseg.report.lesion_table import LESION_COLUMNS, lesion_tsv
from rsaseg.report.page import report_html
from rsaseg.segmentation import Segmentation, Settings, segment
from rsaseg.segmentation.stages import add_costs, measured, no_costs

if TYPE_CHECKING:
    from rsaseg.segmentation.model import Model

__all__ = ["Extras", "Progress", "Segmentation", "Settings", "predict", "sidecar"]


_ELSEWHERE = "elsewhere_sha256"
"""In a record: files in other folders, of this mask or one before, to know them again."""


@dataclass(frozen=True)
class Extras:
    """Files to write on request, each a path or None, and what a page calls the exam.

    Attributes
    ----------
    labels : Path, optional
        NIfTI, int32: each lesion's voxels hold its number in the lesion table.
    probability : Path, optional
        NIfTI, float32: lesion probability, 0 to 1.
    uncertainty : Path, optional
        NIfTI, float32: see `Segmentation.uncertainty`; turns ``Settings.uncertainty`` on.
    report : Path, optional
        HTML: one page for reading and printing, see `rsaseg.report.page`.
    title : str, optional
        What it calls the exam; the FLAIR's file name if empty.
    """

    labels: Path | None = None
    probability: Path | None = None
    uncertainty: Path | None = None
    report: Path | None = None
    title: str = ""

    def paths(self) -> dict[str, Path]:
        """Return what was asked for, by name."""
        asked = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: path for name, path in asked.items() if isinstance(path, Path)}


def predict(
    flair: Path,
    output: Path,
    t1: Path | None = None,
    t2: Path | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    extras: Extras | None = None,
    model: Model | None = None,
) -> Segmentation:
    """Segment an exam and write the mask; all its files are written in the end, or none.

    Beside ``mask.nii.gz`` stand the lesion table ``mask.tsv`` and ``mask.json``, which says how the
    mask was made and what the table's columns mean.

    Parameters
    ----------
    flair, t1, t2 : Path
        NIfTI files; T1 and T2 may be missing.
    output : Path
        Mask to write, ``.nii`` or ``.nii.gz``: uint8, 0 and 1, on the FLAIR's own grid.
    settings : Settings, optional
        Weights, device, threshold.
    progress : callable, optional
        See `Progress`.
    extras : Extras, optional
        More files to write.
    model : Model, optional
        See `rsaseg.segment`.

    Raises
    ------
    InputError
        If a file cannot be written or would replace an input, one that this program did not write
        or one that was changed since; before any work.
    RsasegError
        Before anything is written; see `rsaseg.segment`.
    """
    started, costs = time.perf_counter(), no_costs()
    settings, extras = settings or Settings(), extras or Extras()
    settings = replace(settings, uncertainty=settings.uncertainty or extras.uncertainty is not None)
    inputs = [path for path in (t1, t2, flair) if path is not None]
    check_extras(extras)
    outputs = [*beside(output), *extras.paths().values()]
    check_outputs(outputs, [*inputs, Path(settings.weights)])
    earlier = read_written(sidecar(output), "files_sha256")
    elsewhere = read_written(sidecar(output), _ELSEWHERE)
    check_replaceable(outputs, sidecar(output), elsewhere | earlier)
    found = segment(t1, t2, flair, settings, model=model, progress=progress)
    record = {
        "Description": "Multiple-sclerosis lesion mask. For research use only.",
        "GeneratedBy": [{"Name": "rsaseg", "Version": __version__}],
        **found.record,
        "warnings": [_without_folders(text, inputs) for text in found.warnings],
        "command": _command({"t1": t1, "t2": t2, "flair": flair}, output, settings, extras),
    }
    with measured(costs, "files", progress or untold):
        files = _contents(replace(found, record=record), output, extras)
    record |= add_costs(record, costs, started)
    hashes = hashes_of(files)
    record |= {"output_sha256": hashes[output.name], "files_sha256": hashes, **LESION_COLUMNS}
    here = {path.name for path in files if path.parent.resolve() == output.parent.resolve()}
    if elsewhere := {n: sha for n, sha in (elsewhere | hashes).items() if n not in here}:
        record[_ELSEWHERE] = elsewhere
    text = json.dumps(record, indent=2) + "\n"
    write_together({sidecar(output): text.encode(), **files})  # no mask ever lacks its record
    _remove_extras(output, {n: sha for n, sha in earlier.items() if n not in hashes})
    return replace(found, record=record)


def sidecar(mask: Path, suffix: str = ".json") -> Path:
    """Return the path of a file that stands beside a mask: its name with another ending."""
    return mask.with_name(mask.name[: -len(check_suffix(mask))] + suffix)


def beside(mask: Path) -> list[Path]:
    """Return the mask's path and those of the files that always stand beside it."""
    return [mask, sidecar(mask), sidecar(mask, ".tsv")]


def check_extras(extras: Extras) -> None:
    """Check that the files asked for end as their kind does.

    Raises
    ------
    InputError
        Naming the path.
    """
    for name, path in extras.paths().items():
        if name != "report":
            check_suffix(path)
        elif path.suffix.lower() not in (".html", ".htm"):
            raise InputError(f"{path}: the report is a web page; give a name that ends in .html")


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Check, before any work, that every file can be written and is none of the inputs.

    Raises
    ------
    InputError
        Saying what is wrong with the first path that is.
    """
    taken: set[str] = set()
    for output in outputs:
        if output.is_dir():
            raise InputError(f"{output}: is a folder; give a file name in it")
        if not output.parent.is_dir():
            raise InputError(f"{output}: its folder does not exist; make it first")
        if not os.access(output.parent, os.W_OK):
            raise InputError(f"{output}: its folder cannot be written; choose another")
        if any(p.exists() and output.exists() and p.samefile(output) for p in inputs):
            raise InputError(f"{output}: is an input; choose another output name")
        if output.name in taken:  # also in two folders: the record tells files by their names
            raise InputError(f"{output}: two outputs have this name; give each its own")
        taken.add(output.name)


def _remove_extras(mask: Path, earlier: Mapping[str, str]) -> None:
    """Remove the report, the labels and so on of the mask before, where they are as written."""
    masks = {sidecar(mask, suffix).name.lower() for suffix in SUFFIXES}
    for name, sha256 in earlier.items():
        path = mask.with_name(name)
        if name.lower() not in masks and has_sha256(path, sha256):
            path.unlink()


def _contents(found: Segmentation, output: Path, extras: Extras) -> dict[Path, bytes]:
    """Return every file to write but the sidecar."""
    images = {
        output: found.mask,
        extras.labels: found.labels,
        extras.probability: found.probability,
        extras.uncertainty: found.uncertainty,
    }
    files = {
        path: nifti_bytes(data, found.header, check_suffix(path))
        for path, data in images.items()
        if path is not None and data is not None
    }
    files[sidecar(output, ".tsv")] = lesion_tsv(found.lesions)
    if extras.report is not None:
        good = {name: not one.problem for name, one in found.alignments.items()}
        files[extras.report] = report_html(
            found.images, found.labels, found.lesions, found.record, good, extras.title
        )
    return files


def _without_folders(text: str, inputs: Sequence[Path]) -> str:
    """Cut folders from a message: they may hold a patient's name, and differ between machines."""
    for path in inputs:
        text = text.replace(str(path), path.name)
    return text


def _command(
    inputs: dict[str, Path | None], output: Path, settings: Settings, extras: Extras
) -> list[str]:
    """Return the command that makes these files, file names without their folders."""
    paths = {**inputs, "output": output, **extras.paths()}
    options: dict[str, Any] = {name: path.name for name, path in paths.items() if path is not None}
    options |= {"weights": Path(settings.weights).name, "device": settings.device}
    options |= {"threshold": settings.threshold, "min-lesion-mm3": settings.min_lesion_mm3}
    options["registration"] = settings.registration
    words = ["rsaseg", "predict"]
    for name, value in options.items():
        words += [f"--{name}", str(value)] if value is not None else []
    return words + (["--force"] if settings.force else [])
