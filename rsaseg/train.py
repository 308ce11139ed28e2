"""Train a network on the user's own cases: check, leave out, learn, choose, write it all down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rsaseg.imaging import make_folder, write_atomic, write_nifti
from rsaseg.lesions import Cut
from rsaseg.metrics import Overlap, sample_average, voxel_average
from rsaseg.networks.weights import WeightsInfo, load_weights, save_weights
from rsaseg.preprocessing import SEQUENCES
from rsaseg.progress import Progress, told, untold
from rsaseg.report.card import CardFacts, Figure, model_card
from rsaseg.report.curves import curves_svg
from rsaseg.report.evaluation import write_evaluation
from rsaseg.report.reliability import reliability_svg
from rsaseg.report.tsv import tsv
from rsaseg.scoring.calibration import Calibration, calibrate
from rsaseg.scoring.cases import CaseScore, Rules, score_masks
from rsaseg.scoring.summary import Evaluation, summarise
from rsaseg.training import ranks
from rsaseg.training.cases import CachedCase
from rsaseg.training.log import read_log
from rsaseg.training.loop import Teacher, fit
from rsaseg.training.memory import check_memory
from rsaseg.training.plan import Plan, make_plan, read_cases
from rsaseg.training.recipe import Recipe, check_batch
from rsaseg.training.selection import Choice, KeptCase, Unseen, choose_threshold
from rsaseg.training.splits import SPLITS_FILE, Split, Validation, write_splits
from rsaseg.training.unseen import segment_unseen

CARD_METRICS = (
    *("dice", "voxel_average_dice", "iou", "voxel_average_iou"),
    *("lesion_f1", "lesion_tpr", "lesion_precision", "hd95_mm"),
)
HALF = Choice(Cut(0.5))
"""Where nothing was chosen: probability 1/2, as the paper."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training run made.

    Attributes
    ----------
    weights : Path
        The weights file; ``model-card.md`` and ``curves.svg`` lie beside it.
    choice : Choice or None
        Threshold and smallest lesion from the out-of-fold masks; None without any.
    evaluations : dict
        Evaluation of the masks of cases left out: one of all folds, or one a random split.
    notes : tuple of str
        What one should know of the data.
    """

    weights: Path
    choice: Choice | None
    evaluations: dict[str, Evaluation]
    notes: tuple[str, ...] = ()

    @property
    def overlaps(self) -> list[Overlap]:
        """Voxel counts of each mask of a case left out."""
        return [case.overlap for one in self.evaluations.values() for case in one.cases]

    @property
    def sample_average_dice(self) -> float:
        """Mean Dice over cases left out."""
        return sample_average(self.overlaps)[0]

    @property
    def voxel_average_dice(self) -> float:
        """Dice of all left-out cases' voxels pooled."""
        return voxel_average(self.overlaps)[0]


def train(
    data: Sequence[Path],
    output: Path,
    recipe: Recipe,
    validation: Validation | None = None,
    device: str = "auto",
    init: str = "",
    citation: Sequence[str] = (),
    progress: Progress | None = None,
) -> TrainingResult | None:
    """Check the data, train with patients left out, then on all, and write one weights file.

    Each network's state is kept under ``output``; the same call goes on where it was stopped.
    Under torchrun every process makes this call; process 0 alone writes.

    Parameters
    ----------
    data : sequence of Path
        Folders with one folder per case.
    output : Path
        Folder for checkpoints, logs, out-of-fold masks and ``weights.safetensors``.
    recipe : Recipe
        Network and schedule.
    validation : Validation, optional
        How patients are left out. Default: not at all.
    device : str
        auto, cpu, cuda, cuda:1 or mps.
    init : str
        What to start from: shipped weights by name, a weights file, or the folder of an earlier
        training on the same data and folds, each network from the one of its own fold; empty for
        random weights.
    citation : sequence of str
        Training data to cite, kept in the weights.
    progress : callable, optional
        Called with a stage's name, the steps of it done, and how many there are.

    Returns
    -------
    TrainingResult or None
        None in all processes but process 0.

    Raises
    ------
    InputError
        If options, cases or folders cannot be used; before anything is written.
    DeviceError
        If the device cannot be used or has too little memory.
    StoppedError
        If a signal ended the training.
    """
    with ranks.joined(device) as chosen:
        report = progress if progress and ranks.rank() == 0 else untold
        check_batch(recipe, ranks.count())
        plan = make_plan(data, output, recipe, validation or Validation(), init, report)
        return carry_out(plan, chosen, citation)


def carry_out(
    plan: Plan,
    device: torch.device,
    citation: Sequence[str],
    teachers: Callable[[str], Teacher] | None = None,
) -> TrainingResult | None:
    """Do what is planned, see `train`; ``teachers`` gives that of a split by the split's name."""
    for note in plan.notes:
        plan.report(f"note: {note}", 0, 0)
    check_memory(plan.recipe, plan.recipe.batch // ranks.count(), device)
    make_folder(plan.output)
    ranks.alone(partial(write_splits, plan.output / SPLITS_FILE, plan.splits))
    ranks.alone(partial(read_cases, plan))
    cached = read_cases(plan)
    unseen: dict[str, list[KeptCase]] = {}
    for split in plan.splits:
        network = _run(plan, cached, split, device, teachers)
        done = sum(map(len, unseen.values()))
        segment = partial(_segment_split, plan, split, network, device, done)
        unseen[split.name] = ranks.alone(segment) or []
    final = _run(plan, cached, Split("final", tuple(cached), ()), device, teachers)
    return ranks.alone(partial(_finish, plan, cached, unseen, final, citation))


def _run(
    plan: Plan,
    cached: Mapping[str, CachedCase],
    split: Split,
    device: torch.device,
    teachers: Callable[[str], Teacher] | None,
) -> nn.Module:
    """Train one network, or take up what is left to do."""
    return fit(
        plan.recipe,
        [cached[name] for name in split.train],
        plan.output / split.name,
        device,
        lambda done, total, _: plan.report(split.name, done, total),
        plan.starts.get(split.name),
        [cached[name] for name in split.test],
        teachers(split.name) if teachers else None,
    )


def _segment_split(
    plan: Plan, split: Split, network: nn.Module, device: torch.device, done: int
) -> list[KeptCase]:
    """Segment the cases left out of a split."""
    files = {case.name: case for case in plan.files}
    total = sum(len(one.test) for one in plan.splits)
    unseen = []
    for name in split.test:
        kept = plan.output / split.name / f"{name}.npy"
        unseen.append(segment_unseen(files[name], network, plan.spec, plan.recipe, device, kept))
        plan.report("left out", done + len(unseen), total)
    return unseen


def _finish(
    plan: Plan,
    cached: Mapping[str, CachedCase],
    unseen: Mapping[str, list[KeptCase]],
    final: nn.Module,
    citation: Sequence[str],
) -> TrainingResult:
    """Choose the threshold, evaluate, and write weights, model card and curves."""
    output, recipe = plan.output, plan.recipe
    everyone = [case for cases in unseen.values() for case in cases]
    choice = choose_threshold(everyone, plan.report) if everyone else None
    way = choice or HALF
    evaluations = _evaluate(output / "out-of-fold", unseen, choice, plan.report) if choice else {}
    calibration = _calibrate(everyone, choice) if choice else None
    info = WeightsInfo(
        network=recipe.network,
        input=plan.spec,
        window_vox=recipe.crop_vox,
        cut=way.cut,
        contrast_weight=way.contrast_weight,
        training_data=tuple(citation),
    )
    weights = output / "weights.safetensors"
    save_weights(weights, final.state_dict(), info)
    real = [case for case in plan.files if not case.made]
    volumes = [
        np.sum(seen.lesion, dtype=np.float64) * np.prod(seen.spacing_mm) / 1000
        for seen in (cached[case.name].variants[0] for case in real)
    ]
    folds = f"{len(unseen)}-fold cross-validation by patient"
    splits = (
        f"{len(unseen)} random splits by patient. The table is of the first's masks, cut at "
        f"probability {HALF.cut.threshold:g} and not as chosen"
    )
    earlier = Path(plan.init).resolve().name if plan.init else ""
    facts = CardFacts(
        sha256=load_weights(weights)[2],
        start="" if recipe.anew else earlier,
        readers=earlier if plan.offsets else "",
        n_cases=len(real),
        n_patients=len({case.patient for case in real}),
        n_made=len(plan.files) - len(real),
        missing={n: sum(n not in c.sequences for c in real) for n in SEQUENCES},
        lesion_ml=(float(min(volumes)), float(np.median(volumes)), float(max(volumes))),
        tested=folds if "folds" in evaluations else splits,
        choice=choice,
        figures=_figures(next(iter(evaluations.values()))) if evaluations else (),
        calibration=calibration,
    )
    names = [*(split.name for split in plan.splits), "final"]
    logs = {name: read_log(output / name / "log.csv") for name in names}
    write_atomic(output / "model-card.md", model_card(info, recipe, facts))
    write_atomic(output / "curves.svg", curves_svg(logs))
    if calibration is not None:
        write_atomic(output / "calibration.svg", reliability_svg(calibration))
    return TrainingResult(weights, choice, evaluations, plan.notes)


def _figures(evaluation: Evaluation) -> list[Figure]:
    chosen = [evaluation.estimate(metric) for metric in CARD_METRICS]
    return [Figure(e.metric, e.value, e.low, e.high) for e in chosen]


def _calibrate(cases: Sequence[KeptCase], choice: Choice) -> Calibration:
    weight, read = choice.contrast_weight, (case.read() for case in cases)
    exams = ((case.weighed(weight), case.truth, case.flair.grid) for case in read)
    return calibrate(exams, choice.cut)


def _evaluate(
    folder: Path, unseen: Mapping[str, Sequence[KeptCase]], choice: Choice, progress: Progress
) -> dict[str, Evaluation]:
    """Write masks and evaluation of the cases left out: all folds' together, or each split's.

    The masks of random splits are cut at probability 1/2, as the paper's: a case may be in
    several, and their thresholds are not the network's.
    """
    if all(name.startswith("fold-") for name in unseen):
        together = [case for cases in unseen.values() for case in cases]
        return {"folds": write_out_of_fold(together, choice, folder, progress)}
    evaluations = {
        name: write_out_of_fold(cases, HALF, folder / name, progress)
        for name, cases in unseen.items()
    }
    columns = ("dice", "voxel_average_dice", "iou", "voxel_average_iou")
    rows = [
        {"split": name} | {column: one.estimate(column).value for column in columns}
        for name, one in evaluations.items()
    ]
    values = np.array([[row[column] for column in columns] for row in rows], dtype=np.float64)
    for what, row in (("mean", values.mean(axis=0)), ("spread", values.std(axis=0))):
        rows.append({"split": what} | dict(zip(columns, row.tolist(), strict=True)))
    write_atomic(folder / "splits.tsv", tsv(rows, ("split", *columns)))
    return evaluations


def write_out_of_fold(
    cases: Sequence[Unseen], choice: Choice, folder: Path, progress: Progress = untold
) -> Evaluation:
    """Write each case's out-of-fold mask and the evaluation of all of them into a folder."""
    make_folder(folder)
    rules, scores = Rules(), []
    for one in told(cases, "evaluate", progress):
        case = one.read()
        grid = case.flair.grid
        mask = choice.mask(case)
        write_nifti(folder / f"{case.name}.nii.gz", mask.astype(np.uint8), case.flair.header)
        scored = score_masks(mask, case.truth, grid, rules)
        scores.append(CaseScore(case.name, case.patient, False, *scored))
    truth = "lesion masks of the training cases"
    result = summarise(folder.name, truth, tuple(scores), (), rules)
    write_evaluation(result, folder)
    return result
