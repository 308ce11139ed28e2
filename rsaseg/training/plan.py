"""What is settled, and refused, before the first step of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from rsaseg.errors import InputError
from rsaseg.networks.shipped import find_weights
from rsaseg.networks.weights import load_weights
from rsaseg.patients import note_table
from rsaseg.preprocessing import InputSpec
from rsaseg.progress import Progress, told
from rsaseg.training import ranks
from rsaseg.training.cases import CachedCase, CaseFiles, DataSetError, cache_case, scan_cases
from rsaseg.training.check import check_cases
from rsaseg.training.checkpoint import read_average
from rsaseg.training.loop import check_resume, describe, read_described
from rsaseg.training.readers import note_readers, note_untold, read_offsets
from rsaseg.training.recipe import Recipe
from rsaseg.training.splits import SPLITS_FILE, Split, Validation, settle_splits


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is settled before the first step.

    ``starts`` holds the weights that a network starts from, by the name of its split; those not
    there start from random ones. ``offsets`` holds what is learned with of the readers' offsets, by
    the name of a case; those not there have none.
    """

    output: Path
    recipe: Recipe
    init: str
    spec: InputSpec
    starts: Mapping[str, Mapping[str, Tensor]]
    offsets: Mapping[str, float]
    files: list[CaseFiles]
    splits: list[Split]
    notes: tuple[str, ...]
    report: Progress


def make_plan(
    data: Sequence[Path],
    output: Path,
    recipe: Recipe,
    validation: Validation,
    init: str,
    report: Progress,
) -> Plan:
    """Find everything that would stop the training later, and write nothing."""
    spec, start, offsets = InputSpec(), None, {}
    earlier = Path(init) if init and Path(init).is_dir() else None
    if init and recipe.anew and not earlier:
        raise InputError(f"{init}: not a folder; give that of an earlier training, for its readers")
    if init and not earlier:
        spec, start = _read_weights(find_weights(init), recipe)
    files, problems = scan_cases(data, validation.patients)
    found = ranks.alone(partial(_check, files, problems, spec, recipe, report))
    unknown = set(recipe.augmentation.rarely) - {case.drawn_as for case in files}
    if unknown:
        raise InputError(f"{min(unknown)}: to be drawn rarely, but no patient in the data")
    splits, outside = settle_splits(output / SPLITS_FILE, files, validation, recipe.seed)
    final = Split("final", tuple(case.name for case in files), ())
    starts = {split.name: start for split in (*splits, final)} if start else {}
    if earlier:
        made = {case.name for case in files if case.made}
        known = _read_training(earlier, splits, final, recipe, made)
        starts = {} if recipe.anew else known
    for split in (*splits, final):
        check_resume(output / split.name, describe(recipe, split.train, starts.get(split.name)))
    weights = output / "weights.safetensors"
    if weights.exists() and not (output / "final" / "checkpoint.safetensors").exists():
        raise InputError(f"{weights}: would be overwritten; choose another folder")
    notes = [*(found or ()), *outside]
    notes += note_table(validation.patients, [case.name for case in files])
    if earlier and recipe.readers:
        measured = read_offsets(earlier, splits, files, report)
        offsets = {name: recipe.readers * offset for name, offset in measured.items()}
        notes += note_readers(measured)
    if recipe.readers and not offsets:
        notes.append(note_untold(random=not starts and not recipe.anew))
    return Plan(output, recipe, init, spec, starts, offsets, files, splits, tuple(notes), report)


def _read_weights(path: Path, recipe: Recipe) -> tuple[InputSpec, Mapping[str, Tensor]]:
    """Return what the network of weights saw when it learned, and its numbers."""
    network, info, _ = load_weights(path)
    if info.network != recipe.network:
        raise InputError(
            f"{path}: weights of another network than the one to train; choose its --model and "
            f"--recipe, or other weights"
        )
    seen, usual = info.input, InputSpec()
    if seen.spacing_mm != usual.spacing_mm:  # a look in finer voxels, in which nothing learns
        seen = replace(
            seen, spacing_mm=usual.spacing_mm, thin_mm=usual.thin_mm, mirrored=usual.mirrored
        )
    return seen, network.state_dict()


def _read_training(
    folder: Path, splits: Sequence[Split], final: Split, recipe: Recipe, made: Set[str]
) -> dict[str, Mapping[str, Tensor]]:
    """Return the weights of each network of an earlier training on the same parts of the data."""
    starts: dict[str, Mapping[str, Tensor]] = {}
    for split in (*splits, final):
        path = folder / split.name / "checkpoint.safetensors"
        if not path.exists():
            raise InputError(f"{path}: missing; give the folder of a training with these folds")
        run, _ = read_described(path)
        if set(run["cases"]) - made != set(split.train) - made:
            raise InputError(
                f"{path}: learned from other cases than {split.name} does now, and may know those "
                f"left out; give a training with the same data and folds"
            )
        if run["network"] != describe(recipe, ())["network"]:
            raise InputError(
                f"{path}: another network than the one to train; choose its --model and --recipe"
            )
        starts[split.name] = read_average(path)
    return starts


def _check(
    files: Sequence[CaseFiles],
    problems: Sequence[str],
    spec: InputSpec,
    recipe: Recipe,
    progress: Progress,
) -> list[str]:
    """Raise all problems at once; return the notes."""
    more, notes = check_cases(files, spec, recipe.crop_vox, progress)
    if problems or more:
        raise DataSetError([*problems, *more])
    return notes


def read_cases(plan: Plan) -> dict[str, CachedCase]:
    """Prepare each case, or map what was prepared before."""
    cached = {}
    for case in told(plan.files, "read cases", plan.report):
        prepared = cache_case(case, plan.spec, plan.output / "cache")
        cached[case.name] = replace(prepared, offset=plan.offsets.get(case.name, 0.0))
    return cached
