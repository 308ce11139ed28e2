"""What a whole evaluation says: cohort figures with intervals, and paired comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from rsaseg.metrics import LesionCounts, Overlap
from rsaseg.scoring.agreement import (
    BlandAltman,
    Estimate,
    PairedDifference,
    Statistic,
    bland_altman,
    intraclass_correlation,
    mean_defined,
    paired_difference,
    pearson,
    percentile_interval,
    resample_patients,
)
from rsaseg.scoring.cases import CASE_METRICS, SIZE_CLASSES_MM3, SIZES_IN_WORDS, CaseScore, Rules

AVERAGED = tuple(name for name in CASE_METRICS if name not in ("truth_ml", "pred_ml"))
_POOLED = {
    "pooled_lesion_tpr": "True lesions found / true lesions, of all exams pooled; undefined "
    "without true lesions",
    "pooled_lesion_precision": "Predicted lesions right / predicted lesions, of all exams pooled; "
    "undefined without predicted lesions",
    "pooled_lesion_f1": "Harmonic mean of the two pooled rates; 0 without lesions on one side, "
    "undefined without lesions on either",
}
COHORT_METRICS = {
    **{name: f"Mean over exams (sample average). {CASE_METRICS[name]}" for name in AVERAGED},
    "voxel_average_dice": "Dice of the voxels of all exams pooled",
    "voxel_average_iou": "Intersection over union of the voxels of all exams pooled",
    **_POOLED,
    **{
        f"{name}_{size}": f"{meaning}; lesions {in_words}"
        for size, in_words in SIZES_IN_WORDS.items()
        for name, meaning in _POOLED.items()
    },
    "volume_pearson": "Pearson correlation of predicted and true volume over exams",
    "volume_icc": "ICC(2,1), absolute agreement, of predicted and true volume over exams",
}


@dataclass(frozen=True)
class Evaluation:
    """What `rsaseg.evaluate` found.

    Attributes
    ----------
    pred, truth : str
        Where the masks lie; "images in memory" for others.
    cases : tuple of CaseScore
        Every case of ``truth``, by name.
    extra : tuple of str
        Predictions without a truth: listed and counted as failures, not scored.
    estimates : tuple of Estimate
        Cohort figures with intervals over patients.
    volumes : BlandAltman
        Predicted against true volume, ml.
    rules : Rules
        The rules used.
    other : str
        Predictions compared with, if any.
    differences : tuple of PairedDifference
        ``pred`` minus ``other``.
    missing_in_other, extra_in_other : tuple of str
        As ``missing`` and ``extra``, of ``other``.
    """

    pred: str
    truth: str
    cases: tuple[CaseScore, ...]
    extra: tuple[str, ...]
    estimates: tuple[Estimate, ...]
    volumes: BlandAltman
    rules: Rules
    other: str = ""
    differences: tuple[PairedDifference, ...] = field(default=())
    missing_in_other: tuple[str, ...] = field(default=())
    extra_in_other: tuple[str, ...] = field(default=())

    @property
    def missing(self) -> tuple[str, ...]:
        """Cases without a prediction."""
        return tuple(score.case for score in self.cases if score.missing)

    @property
    def failures(self) -> tuple[str, ...]:
        """A line for each case without a prediction and each prediction without a truth."""
        missing = ((self.missing, self.pred), (self.missing_in_other, self.other))
        extra = ((self.extra, self.pred), (self.extra_in_other, self.other))
        return (
            *(f"{case}: no prediction in {place}" for cases, place in missing for case in cases),
            *(f"{case}: no truth for it, only {place}" for cases, place in extra for case in cases),
        )

    @property
    def n_failed(self) -> int:
        """How many ``failures`` there are."""
        return len(self.failures)

    def estimate(self, metric: str) -> Estimate:
        """Return one of ``COHORT_METRICS``."""
        return next(estimate for estimate in self.estimates if estimate.metric == metric)


def summarise(
    pred: str, truth: str, cases: tuple[CaseScore, ...], extra: tuple[str, ...], rules: Rules
) -> Evaluation:
    """Return what scored cases say together; see `Evaluation` for each."""
    volumes = score_columns(cases)
    return Evaluation(
        pred=pred,
        truth=truth,
        cases=cases,
        extra=extra,
        estimates=estimate_all(cases),
        volumes=bland_altman(volumes["pred_ml"], volumes["truth_ml"]),
        rules=rules,
    )


def score_columns(cases: Sequence[CaseScore]) -> dict[str, NDArray[np.float64]]:
    """Return each of ``CASE_METRICS`` as an array over the cases."""
    return {name: np.array([score.scores[name] for score in cases]) for name in CASE_METRICS}


def _statistics(cases: Sequence[CaseScore]) -> dict[str, Statistic]:
    """Return each of the cohort figures as a function of positions in ``cases``."""
    columns = score_columns(cases)
    volumes = np.stack([columns["pred_ml"], columns["truth_ml"]], axis=1)
    voxels = np.array([list(asdict(score.overlap).values()) for score in cases])
    lesions = np.array([[list(asdict(c).values()) for c in score.lesions] for score in cases])

    def average(name: str) -> Statistic:
        return lambda draw: mean_defined(columns[name][draw])

    def voxel_average(name: str) -> Statistic:
        return lambda draw: float(getattr(Overlap(*voxels[draw].sum(axis=0).tolist()), name))

    def lesion_average(name: str, sizes: slice) -> Statistic:
        def pooled(draw: NDArray[np.intp]) -> float:
            counts = LesionCounts(*lesions[draw, sizes].sum(axis=(0, 1)).tolist())
            any_lesion = counts.n_truth or counts.n_pred
            return float(getattr(counts, name)) if any_lesion else float("nan")

        return pooled

    statistics = {name: average(name) for name in AVERAGED}
    statistics |= {f"voxel_average_{name}": voxel_average(name) for name in ("dice", "iou")}
    sizes = {f"_{name}": slice(i, i + 1) for i, name in enumerate(SIZE_CLASSES_MM3)}
    for ending, size in {"": slice(None), **sizes}.items():
        for name in ("tpr", "precision", "f1"):
            statistics[f"pooled_lesion_{name}{ending}"] = lesion_average(name, size)
    statistics["volume_pearson"] = lambda draw: pearson(*volumes[draw].T)
    statistics["volume_icc"] = lambda draw: intraclass_correlation(volumes[draw])
    return statistics


def estimate_all(cases: Sequence[CaseScore]) -> tuple[Estimate, ...]:
    """Return every cohort figure with its 95 % bootstrap interval over patients."""
    draws = resample_patients([score.patient for score in cases])
    everyone = np.arange(len(cases))
    columns = score_columns(cases)
    estimates = []
    for metric, statistic in _statistics(cases).items():
        n = int(np.isfinite(columns[metric]).sum()) if metric in columns else len(cases)
        low, high = percentile_interval(statistic, draws)
        estimates.append(Estimate(metric, statistic(everyone), low, high, n))
    return tuple(estimates)


def compare_all(
    these: Sequence[CaseScore], others: Sequence[CaseScore]
) -> tuple[PairedDifference, ...]:
    """Compare two predictions of the same cases, in the same order, on every averaged metric."""
    patients = [score.patient for score in these]
    this, other = score_columns(these), score_columns(others)
    return tuple(paired_difference(name, this[name], other[name], patients) for name in AVERAGED)
