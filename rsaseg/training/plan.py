"""What is settled, and refused, before the first step of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from rsaseg.errors import InputError
from rsaseg.networks.shipped import find_weights
from rsaseg.networks.weights import load_weights
from rsaseg.preprocessing import InputSpec
from rsaseg.training import ranks
from rsaseg.training.cases import CachedCase, CaseFiles, DataSetError, cache_case, scan_cases
from rsaseg.training.check import check_cases
from rsaseg.training.loop import check_resume, describe
from rsaseg.training.recipe import Recipe
from rsaseg.training.splits import Split, Validation, draw_splits, read_splits

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Plan:
    """All that is settled before the first step."""

    output: Path
    recipe: Recipe
    spec: InputSpec
    start: Mapping[str, Tensor] | None
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
    spec, start = InputSpec(), None
    if init:
        path = find_weights(init)
        network, info, _ = load_weights(path)
        spec, start = info.input, network.state_dict()
        if info.network != recipe.network:
            raise InputError(
                f"{path}: weights of another network than the one to train; choose its --model "
                f"and --recipe, or other weights"
            )
    files, problems = scan_cases(data)
    found = ranks.alone(
        partial(_check, files, problems, spec, recipe, partial(report, "check cases"))
    )
    splits = draw_splits(files, validation, recipe.seed)
    kept = output / "splits.json"
    if kept.exists():
        stored = read_splits(kept, files)
        if [split.name for split in stored] != [split.name for split in splits]:
            raise InputError(
                f"{kept}: of a run with {len(stored)} networks on parts of the data, now "
                f"{len(splits)}; give the same --folds and --splits, or choose another folder"
            )
        splits = stored
    for split in (*splits, Split("final", tuple(case.name for case in files), ())):
        check_resume(output / split.name, describe(recipe, split.train, start))
    weights = output / "weights.safetensors"
    if weights.exists() and not (output / "final" / "checkpoint.safetensors").exists():
        raise InputError(f"{weights}: would be overwritten; choose another folder")
    return Plan(output, recipe, spec, start, files, splits, tuple(found or ()), report)


def _check(
    files: Sequence[CaseFiles],
    problems: Sequence[str],
    spec: InputSpec,
    recipe: Recipe,
    progress: Callable[[int, int], None],
) -> list[str]:
    """Raise all problems at once; return the notes."""
    more, notes = check_cases(files, spec, recipe.crop_vox, progress)
    if problems or more:
        raise DataSetError([*problems, *more])
    return notes


def read_cases(plan: Plan) -> dict[str, CachedCase]:
    """Prepare each case, or map what was prepared before."""
    cached = {}
    for i, case in enumerate(plan.files):
        cached[case.name] = cache_case(case, plan.spec, plan.output / "cache")
        plan.report("read cases", i + 1, len(plan.files))
    return cached
