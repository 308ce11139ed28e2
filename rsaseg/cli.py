"""The command line: parse, one call, show."""

from __future__ import annotations

import re
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rsaseg import __version__
from rsaseg.console import output, say, show_progress, warn
from rsaseg.errors import InputError, RsasegError

if TYPE_CHECKING:
    from rsaseg.predict import Segmentation, Settings

app = typer.Typer(
    help="Segment multiple-sclerosis lesions on T1, T2 and T2-FLAIR. For research use only.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Flair = Annotated[Path | None, typer.Option(help="T2-FLAIR, .nii or .nii.gz.")]
T1 = Annotated[Path | None, typer.Option(help="T1; may be missing.")]
T2 = Annotated[Path | None, typer.Option(help="T2; may be missing.")]
Registration = Annotated[
    Literal["auto", "flirt", "simpleitk", "none"],
    typer.Option(help="How T1 and T2 are aligned with the FLAIR."),
]
Force = Annotated[bool, typer.Option(help="Go on where a registration failed.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]


def _show_version(wanted: bool) -> None:
    if wanted:
        say(f"rsaseg {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option(help="Show a traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say it.")
    ] = False,
) -> None:
    """Options of every command; `main` looks for --debug itself."""


@app.command()
def predict(
    mask: Annotated[
        Path, typer.Option("-o", "--output", help="Lesion mask to write; for many exams a folder.")
    ],
    flair: Flair = None,
    t1: T1 = None,
    t2: T2 = None,
    weights: Annotated[
        str | None, typer.Option(help="Shipped weights by name, or a .safetensors file.")
    ] = None,
    device: Device = "auto",
    threshold: Annotated[
        float | None, typer.Option(help="Probability over which a voxel is lesion.")
    ] = None,
    min_lesion_mm3: Annotated[float | None, typer.Option(help="Smallest lesion kept.")] = None,
    registration: Registration = "auto",
    force: Force = False,
    report: Annotated[Path | None, typer.Option(help="Page to write, .html.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Map of numbered lesions to write, .nii or .nii.gz.")
    ] = None,
    probability: Annotated[
        Path | None, typer.Option(help="Lesion probability to write, .nii or .nii.gz.")
    ] = None,
    uncertainty: Annotated[
        Path | None,
        typer.Option(help="How unsure each voxel is, 0 to 1: its entropy in bits."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Many exams: a folder with a folder per exam.")
    ] = None,
    bids: Annotated[Path | None, typer.Option(help="Many exams: a BIDS data set.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Many exams: leave those that are complete by hash.")
    ] = False,
    dask: Annotated[
        str | None, typer.Option(help="Many exams: Dask scheduler, its address or file.")
    ] = None,
) -> None:
    """Segment an exam, or many, and write lesion masks with a table and a record beside each."""
    from rsaseg.networks.shipped import DEFAULT_WEIGHTS
    from rsaseg.predict import Extras, Settings
    from rsaseg.predict import predict as run

    settings = Settings(
        weights or DEFAULT_WEIGHTS, device, threshold, min_lesion_mm3, registration, force
    )
    extras = Extras(labels, probability, uncertainty, report)
    if data is not None or bids is not None:
        of_one = {"flair": flair, "t1": t1, "t2": t2, **extras.paths()}
        _check_many(data, bids, [name for name, path in of_one.items() if path is not None])
        _predict_many(data or bids or Path(), mask, settings, bids is not None, resume, dask)
        return
    if flair is None or resume or dask:
        raise InputError("give --flair for one exam, or --data or --bids for many")
    with show_progress() as progress:
        result = run(flair, mask, t1, t2, settings, progress, extras)
    for warning in result.warnings:
        warn(f"warning: {warning}")
    say(f"{mask}: {_summary(result)}. Research use only.")


def _summary(result: Segmentation) -> str:
    """Return an exam's lesions, their volume, and how they were come by, in a line."""
    record = result.record
    engines = {a["engine"] for a in record["registration"].values() if a["moved"]} - {"none"}
    aligned = f", aligned by {' and '.join(sorted(engines))}" if engines else ""
    missing = record["missing_sequences"]
    without = f", without {' and '.join(missing)}" if missing else ""
    (low, high), (strict, lax) = result.volume_interval_ml, record["interval_thresholds"]
    return (
        f"{result.lesion_count} lesions, {result.volume_ml:.2f} ml "
        f"({low:.2f} to {high:.2f} ml at thresholds {strict:g} to {lax:g}){without}{aligned}; "
        f"{record['seconds']['total']:.1f} s on {record['device']}"
    )


def _check_many(data: Path | None, bids: Path | None, of_one: list[str]) -> None:
    if data is not None and bids is not None:
        raise InputError("--data and --bids: give one of them")
    if of_one:
        raise InputError(f"--{of_one[0]}: is for one exam; leave it out with --data or --bids")


def _predict_many(
    data: Path, folder: Path, settings: Settings, bids: bool, resume: bool, dask: str | None
) -> None:
    from rsaseg.cohort.run import segment_cohort

    with show_progress() as progress:
        result = segment_cohort(
            data, folder, settings, bids=bids, resume=resume, dask=dask, progress=progress
        )
    failures = result.failures
    for one in failures[:20]:
        warn(f"failed: {one.failure}")
    left = sum(one.reused for one in result.outcomes)
    say(
        f"{result.table}: {len(result.outcomes) - len(failures)} of {len(result.outcomes)} exams "
        f"done{f', {left} of them before' if left else ''}, {len(failures)} failed. "
        f"Open {result.page}. Research use only."
    )
    if failures:
        raise typer.Exit(1)


@app.command()
def preprocess(
    folder: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    flair: Flair = None,
    t1: T1 = None,
    t2: T2 = None,
    data: Annotated[
        Path | None, typer.Option(help="Many exams: a folder with a folder per exam.")
    ] = None,
    registration: Registration = "auto",
    n4: Annotated[bool, typer.Option("--n4", help="Correct the bias field.")] = False,
    force: Force = False,
) -> None:
    """Align T1 and T2 with the FLAIR; write images, transforms, a record and a picture."""
    from rsaseg.preprocess import Choices, preprocess_folder, warnings_of
    from rsaseg.preprocess import preprocess as run
    from rsaseg.preprocessing.folder import PICTURE

    choices = Choices(registration, n4, force)
    if (flair is None) == (data is None) or (data is not None and (t1 or t2)):
        raise InputError("give --flair, with --t1 and --t2, for one exam, or --data for many")
    if flair is not None:
        with show_progress() as progress:
            exam = run(flair, folder, t1, t2, choices, progress)
        for warning in warnings_of(exam):
            warn(f"warning: {warning}")
        for name, one in exam.alignments.items():
            engine = "its header" if one.engine == "none" else one.engine
            how = f"aligned by {engine}" if one.moved else "already aligned"
            say(f"{name}: {how}")
        say(f"{folder}: written{f'; look at {PICTURE}' if exam.alignments else ''}")
        return
    with show_progress() as progress:
        outcomes = preprocess_folder(data or Path(), folder, choices, progress)
    for outcome in outcomes:
        for warning in outcome.warnings:
            warn(f"warning: {warning}")
        line = f"{outcome.name}: {outcome.status} {outcome.message}".strip()
        say(line)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


@app.command()
def verify(
    record: Annotated[Path, typer.Argument(help="The .json file beside a mask.")],
    t1: Annotated[Path | None, typer.Option(help="T1; else looked for beside it.")] = None,
    t2: Annotated[Path | None, typer.Option(help="T2; else looked for beside it.")] = None,
    flair: Annotated[Path | None, typer.Option(help="FLAIR; else looked for beside it.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="The same weights, where they lie elsewhere now.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Instead of the one it was made on.")] = None,
) -> None:
    """Segment an exam again as a mask's record says, and tell whether the same mask comes out."""
    from rsaseg.verify import verify as run

    given = {"T1": t1, "T2": t2, "FLAIR": flair}
    inputs = {name: path for name, path in given.items() if path is not None}
    with show_progress() as progress:
        result = run(record, inputs, weights, device, progress)
    for finding in result.findings:
        warn(f"differs: {finding}")
    verdict = "the same mask comes out" if result.same else "not verified, see above"
    say(f"{result.mask}: {verdict}")
    if not result.same:
        raise typer.Exit(1)


@app.command()
def train(
    data: Annotated[list[Path], typer.Option(help="Folder with a folder per case; repeatable.")],
    folder: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for checkpoints, logs and weights.")
    ] = Path("rsaseg-training"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Begin nothing: a training must be there to go on.")
    ] = False,
    model: Annotated[
        Literal["unet", "ncl-010", "ncl-101", "ncl-111", "rsa-010", "rsa-101", "rsa-111"],
        typer.Option(help="Network of the paper's Table 1."),
    ] = "rsa-111",
    recipe: Annotated[
        Literal["default", "finish", "again", "paper"],
        typer.Option(help="Width, loss, schedule and crops; finish and again go with --init."),
    ] = "default",
    init: Annotated[
        str,
        typer.Option(
            help="Start from shipped weights, by name, a .safetensors file, or the folder of an "
            "earlier training with the same folds."
        ),
    ] = "",
    folds: Annotated[int, typer.Option(help="Cross-validation folds by patient; 0: none.")] = 0,
    splits: Annotated[int, typer.Option(help="Random splits by patient; 0: none.")] = 0,
    train_size: Annotated[int, typer.Option(help="Patients to learn from in a split.")] = 20,
    patients: Annotated[
        Path | None, typer.Option(help="TSV of case and patient, where names do not tell.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps of each network.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Crops in each step.")] = None,
    crop: Annotated[
        tuple[int, int, int] | None,
        typer.Option(help="Crop: axial, coronal, sagittal slices of the 1x1x3 mm grid."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest.")] = None,
    rarely: Annotated[
        list[str] | None,
        typer.Option(help="Patient to draw a third as often as the others; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Fixes every random draw.")] = 1,
    citation: Annotated[
        list[str] | None, typer.Option(help="Data to cite, kept in the weights; repeatable.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Train on your own cases; the same command goes on where it was stopped."""
    from rsaseg.patients import read_patients
    from rsaseg.train import HALF
    from rsaseg.train import train as run
    from rsaseg.training.cases import DataSetError
    from rsaseg.training.recipe import make_recipe
    from rsaseg.training.splits import SPLITS_FILE, Validation

    if resume and not (folder / SPLITS_FILE).exists():
        raise InputError(
            f"{folder}: no training to go on with; check the path, or leave out --resume to begin"
        )
    chosen = make_recipe(
        recipe,
        model,
        steps=steps,
        batch=batch,
        crop_vox=crop,
        learning_rate=learning_rate,
        seed=seed,
        rarely=tuple(rarely or ()),
    )
    table = read_patients(patients) if patients else {}
    validation = Validation(folds, splits, train_size, table)
    try:
        with show_progress() as progress:
            result = run(data, folder, chosen, validation, device, init, citation or (), progress)
    except DataSetError as error:
        for problem in error.problems:
            warn(problem)
        many = "1 problem" if len(error.problems) == 1 else f"{len(error.problems)} problems"
        raise InputError(f"{many} in the data, see above; mend them first") from error
    if result is None:  # one of several processes, not the one that reports
        return
    if result.choice:
        say(
            f"left out of training, {len(result.overlaps)} masks: sample-average Dice "
            f"{result.sample_average_dice:.3f}, voxel-average Dice "
            f"{result.voxel_average_dice:.3f} at threshold "
            f"{(HALF if splits else result.choice).cut.threshold}"
        )
    say(f"{result.weights}: written")


@app.command()
def evaluate(
    pred: Annotated[
        Path, typer.Option(help="Predicted masks: CASE.nii.gz, a folder per case, or BIDS.")
    ],
    gt: Annotated[Path, typer.Option(help="True masks, named alike; or training cases.")],
    folder: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for tables and a picture.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Other predictions of the same cases.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="TSV of case and patient, where names do not tell.")
    ] = None,
    matching: Annotated[
        Literal["overlap", "one-to-one"], typer.Option(help="When a lesion counts as found.")
    ] = "overlap",
    min_overlap: Annotated[
        float, typer.Option(help="More than this share of a lesion, or IoU of a pair, must match.")
    ] = 0.0,
    min_lesion_mm3: Annotated[float, typer.Option(help="Smallest lesion counted.")] = 3.0,
    tolerance_mm: Annotated[float, typer.Option(help="Of the surface Dice.")] = 1.0,
) -> None:
    """Compare lesion masks with the truth, case by case and pooled."""
    from rsaseg import Rules
    from rsaseg import evaluate as run
    from rsaseg.patients import note_table, read_patients
    from rsaseg.report.evaluation import (
        case_table,
        check_evaluation_folder,
        difference_table,
        estimate_table,
        write_evaluation,
    )

    if folder is not None:
        check_evaluation_folder(folder)
    table = read_patients(patients) if patients else {}
    rules = Rules(min_lesion_mm3, matching, min_overlap, tolerance_mm)
    with show_progress() as progress:
        result = run(
            pred,
            gt,
            compare=compare,
            rules=rules,
            patients=table,
            progress=progress,
        )
    if folder is not None:  # before the tables, which may go to a program that ends early
        write_evaluation(result, folder)
    output.print(case_table(result))
    output.print(estimate_table(result))
    if compare is not None:
        output.print(difference_table(result))
    for note in note_table(table, [case.case for case in result.cases]):
        warn(f"note: {note}")
    for line in result.failures:
        warn(f"failed: {line}")
    if result.failures:
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the exam and its mask.")
    ] = Path("rsaseg-demo"),
    device: Device = "auto",
) -> None:
    """Make a synthetic exam, segment it and compare the mask with the truth."""
    from rsaseg.demo import demo as run
    from rsaseg.predict import Settings

    with show_progress() as progress:
        result = run(folder, Settings(device=device), progress)
    say(
        f"{result.mask}: {result.segmentation.lesion_count} lesions, "
        f"{result.segmentation.volume_ml:.2f} ml; Dice {result.dice:.3f} with the truth "
        f"{result.files['lesion']}. Open it over {result.files['FLAIR']}."
    )


def main() -> None:
    """Run the command line; the one place where errors become a line and an exit code."""
    debug = "--debug" in sys.argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a name that the terminal cannot show stops nothing
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (RsasegError, OSError, MemoryError) as error:
        if debug:
            raise
        warn(f"error: {_line(error)}")
        sys.exit(error.exit_code if isinstance(error, RsasegError) else 2)
    except (KeyboardInterrupt, SystemExit) as stop:  # typer makes the one the other, code 130
        code = 130 if isinstance(stop, KeyboardInterrupt) else stop.code
        if code == 130:
            warn("stopped")
        sys.exit(code)


def _line(error: Exception) -> str:
    """Return an error as one line."""
    if isinstance(error, MemoryError):
        told = f" ({error})" if str(error) else ""
        text = f"not enough memory{told}; close other programs, or use a machine with more"
    elif isinstance(error, OSError) and error.filename is not None:
        path = isinstance(error, PermissionError | FileNotFoundError | NotADirectoryError)
        advice = "; check the path and its permissions" if path else ""
        text = f"{error.filename}: {error.strerror}{advice}"
    else:
        text = str(error)
    return re.sub(r"\s*[\r\n]\s*", " ", text.strip())
