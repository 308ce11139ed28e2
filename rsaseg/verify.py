"""`rsaseg verify`: make a mask once more from its record, and say whether it is the same."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import numpy as np

from rsaseg import __version__
from rsaseg.errors import InputError, WeightsError
from rsaseg.imaging import read_mask
from rsaseg.imaging.files import sha256_of
from rsaseg.imaging.nifti import SUFFIXES
from rsaseg.metrics import dice
from rsaseg.networks.shipped import find_weights
from rsaseg.predict import Settings, predict, sidecar
from rsaseg.progress import Progress
from rsaseg.registration import Engine
from rsaseg.segmentation.model import Model, load_model


@dataclass(frozen=True)
class Verification:
    """What came of making a mask again.

    Attributes
    ----------
    mask : Path
        The file that was checked.
    same : bool
        Whether the file on disk and the mask made again both have the SHA-256 of the record.
    findings : tuple of str
        What is not as the record says, one sentence each.
    """

    mask: Path
    same: bool
    findings: tuple[str, ...]


def verify(
    record_file: Path,
    inputs: Mapping[str, Path] | None = None,
    weights: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Segment an exam again as the JSON file beside its mask says, and compare the masks.

    Nothing is written beside the mask.

    Parameters
    ----------
    record_file : Path
        ``mask.json``; ``mask.nii.gz`` or ``mask.nii`` stands beside it.
    inputs : mapping, optional
        T1, T2, FLAIR to file. What is left out is looked for beside the record, by content.
    weights : str, optional
        Name or file; by default the name in the record.
    device : str, optional
        By default the one in the record.
    progress : callable, optional
        See `rsaseg.progress.Progress`.

    Raises
    ------
    InputError
        If the record or the mask cannot be used, an input is missing or is another file, or
        the weights are not those of the record.
    RsasegError
        If the exam cannot be segmented here; see `rsaseg.segment`.
    """
    record = read_record(record_file)
    mask = _mask_of(record_file, record)
    files = _find_inputs(record_file, record, dict(inputs or {}))
    model = _load_weights(record_file, record, weights)
    settings = recorded_settings(record)
    settings = replace(settings, device=device or record["device"])
    findings = []
    if sha256_of(mask) != record["output_sha256"]:
        findings.append(f"{mask.name} was changed after it was made")
    with tempfile.TemporaryDirectory(prefix="rsaseg-verify-") as folder:
        again = Path(folder, mask.name)
        predict(
            files["FLAIR"],
            again,
            files.get("T1"),
            files.get("T2"),
            replace(settings, force=True),  # a poor registration then is a poor one now
            progress,
            model=model,
        )
        if sha256_of(again) != record["output_sha256"]:
            findings += [_difference(mask, again), *_other_software(record, sidecar(again))]
    return Verification(mask, not findings, tuple(findings))


def read_record(path: Path) -> dict[str, Any]:
    """Read the JSON file beside a mask.

    Raises
    ------
    InputError
        If it cannot be read or was not written by this program.
    """
    try:
        record = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError:
        raise InputError(f"{path}: no JSON; give the .json file beside a mask") from None
    needed = {
        *("GeneratedBy", "output_sha256", "files_sha256", "input_sha256", "weights", "command"),
        *("threshold", "min_lesion_mm3", "uncertainty", "device", "warnings"),
    }
    if not isinstance(record, dict) or not needed <= record.keys():
        raise InputError(f"{path}: not the record of a mask; give the .json file beside a mask")
    return record


def recorded_settings(record: Mapping[str, Any]) -> Settings:
    """Return the settings a mask was made with, the weights by name."""
    words = list(record["command"])
    asked = dict(pairwise(words))
    engine = asked.get("--registration", "auto")
    return Settings(
        weights=record["weights"]["name"],
        device=asked.get("--device", "auto"),
        threshold=record["threshold"],
        min_lesion_mm3=record["min_lesion_mm3"],
        registration=next((one for one in get_args(Engine) if one == engine), "auto"),
        force="--force" in words,
        uncertainty=record["uncertainty"] is not None,
    )


def _mask_of(record_file: Path, record: Mapping[str, Any]) -> Path:
    names = [record_file.stem + suffix for suffix in SUFFIXES]
    for name in record["files_sha256"]:
        if name[: len(record_file.stem)] + name[len(record_file.stem) :].lower() in names:
            mask = record_file.with_name(name)
            if mask.is_file():
                return mask
            raise InputError(f"{mask}: no such file; put the mask beside its record")
    raise InputError(f"{record_file}: renamed since it was written; give it its mask's name")


def _find_inputs(
    record_file: Path, record: Mapping[str, Any], given: dict[str, Path]
) -> dict[str, Path]:
    """Return sequence to file, each with the content that the record says."""
    wanted: dict[str, str] = record["input_sha256"]
    for name in given.keys() - wanted.keys():
        raise InputError(f"{given[name]}: the mask was made without {name}; leave it out")
    for name, path in given.items():
        if sha256_of(path) != wanted[name]:
            raise InputError(f"{path}: not the {name} the mask was made from; give that file")
    found = dict(given)
    beside = sorted(record_file.parent.iterdir()) if wanted.keys() - given.keys() else []
    images = [path for path in beside if path.name.lower().endswith(SUFFIXES) and path.is_file()]
    of_content = {sha256_of(path): path for path in images}
    found |= {
        name: of_content[sha256]
        for name, sha256 in wanted.items()
        if name not in given and sha256 in of_content
    }
    for name in wanted.keys() - found.keys():
        raise InputError(
            f"{record_file}: its {name} is not beside it; give the file with --{name.lower()}"
        )
    return found


def _load_weights(record_file: Path, record: Mapping[str, Any], weights: str | None) -> Model:
    made_with = record["weights"]
    if weights is None:
        try:
            find_weights(made_with["name"])
        except WeightsError:
            raise InputError(
                f"{record_file}: made with weights {made_with['name']} (SHA-256 "
                f"{made_with['sha256'][:12]}...), which are not shipped; give their file with "
                f"--weights"
            ) from None
    model = load_model(weights or made_with["name"])
    if model.sha256 != record["weights"]["sha256"]:
        raise InputError(
            f"{record_file}: made with other weights than {model.name} here (SHA-256 "
            f"{record['weights']['sha256'][:12]}..., not {model.sha256[:12]}...); give --weights"
        )
    return model


def _difference(mask: Path, again: Path) -> str:
    """Say how far the mask made again lies from the one on disk."""
    (one, grid), (other, other_grid) = read_mask(mask), read_mask(again)
    if one.shape != other.shape or not grid.matches(other_grid):
        return f"the mask made again is on {other_grid.describe()}, the file on {grid.describe()}"
    voxels = int(np.count_nonzero(one != other))
    if voxels == 0:
        return "the file's bytes differ, but every voxel is the same"
    return f"the mask made again differs in {voxels} voxels, Dice {dice(other, one):.4f}"


def _other_software(record: Mapping[str, Any], again: Path) -> list[str]:
    """Say what the two masks were made with, where it differs."""
    now = read_record(again)
    before = {"rsaseg": record["GeneratedBy"][0]["Version"], **record.get("versions", {})}
    after = {"rsaseg": __version__, **now["versions"]}
    for name in ("device", "precision", "platform"):
        before[name], after[name] = record.get(name), now[name]
    return [
        f"{name} was {before[name]}, is {after[name]}"
        for name in before
        if before[name] != after.get(name)
    ]
