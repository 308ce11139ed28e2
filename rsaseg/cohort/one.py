"""One exam of a cohort: segmented, or found complete, or failed with its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

from rsaseg import __version__
from rsaseg.cohort.exams import Exam
from rsaseg.cohort.outcome import Outcome, done, failed
from rsaseg.errors import InputError, RsasegError
from rsaseg.imaging import make_folder, write_atomic
from rsaseg.imaging.files import has_sha256, is_seen
from rsaseg.predict import Extras, Settings, beside, predict, sidecar
from rsaseg.progress import Progress
from rsaseg.segmentation.model import Model
from rsaseg.verify import read_record, recorded_settings

COHORT_FILE = "cohort.json"
"""Written into the output folder before any exam; where it is missing, the folder is another."""


@dataclass(frozen=True)
class Job:
    """What is the same for every exam of a cohort.

    Attributes
    ----------
    data : Path
        The folder the exams are in; cut from messages.
    folder : Path
        Where masks go.
    settings : Settings
        For each exam.
    resume : bool
        Leave a mask that is there and is what this job would make.
    version : str
        Of this program; another version does not take the job.
    """

    data: Path
    folder: Path
    settings: Settings
    resume: bool = False
    version: str = __version__


def segment_one(exam: Exam, job: Job, model: Model, turn: Lock) -> Outcome:
    """Segment an exam and write its files; whatever goes wrong is its outcome.

    Parameters
    ----------
    exam : Exam
        See `rsaseg.cohort.exams`.
    job : Job
        See there.
    model : Model
        Shared by all threads.
    turn : Lock
        Held while this exam is in the network, so that others are read and aligned meanwhile.
    """
    try:
        return _segment_one(exam, job, model, turn)
    except RsasegError as error:
        reason = str(error)
    except MemoryError:
        reason = "ran out of memory; segment it where there is more"
    except Exception as error:  # no exam may stop the others
        reason = f"{type(error).__name__}: {error}; segment it by itself with --debug to see more"
    mask = job.folder / exam.mask
    if is_seen(mask) and str(mask) not in reason:
        reason += f"; {exam.mask.as_posix()} is not of this run"
    for place in (job.data, job.folder):
        reason = reason.replace(f"{place}/", "")
    return failed(exam.name, reason)


def _segment_one(exam: Exam, job: Job, model: Model, turn: Lock) -> Outcome:
    if exam.problem:
        raise InputError(exam.problem)
    if job.version != __version__:
        raise InputError(f"this worker has rsaseg {__version__}, not {job.version}; update it")
    mask = job.folder / exam.mask
    before = record_of(mask) if job.resume else None
    if before and is_complete(before, exam, job, model):
        return done(exam, before, reused=True)
    if not (job.folder / COHORT_FILE).is_file():
        raise InputError(
            f"{job.folder}: not to be seen here; share it, by this path, with all workers"
        )
    make_folder(mask.parent)
    try:
        with one_in_the_network(turn) as progress:
            found = predict(
                exam.sequences["FLAIR"],
                mask,
                exam.sequences.get("T1"),
                exam.sequences.get("T2"),
                job.settings,
                progress,
                replace(report_beside(mask), title=exam.name),  # files are named alike in all
                model,
            )
    except BaseException:
        _drop_empty(mask.parent, job.folder)
        raise
    if exam.about:
        text = json.dumps({**found.record, **exam.about}, indent=2) + "\n"
        write_atomic(sidecar(mask), text.encode())
    return done(exam, found.record)


@contextmanager
def one_in_the_network(turn: Lock) -> Iterator[Progress]:
    """Yield a progress function that waits, before the network, until no other exam is in it."""
    inside = False

    def wait(stage: str, steps: int, total: int) -> None:  # noqa: ARG001
        nonlocal inside
        if stage == "network" and not inside:
            inside = turn.acquire()
        elif stage == "lesions" and inside:
            turn.release()
            inside = False

    try:
        yield wait
    finally:
        if inside:
            turn.release()


def report_beside(mask: Path) -> Extras:
    """Return what is written for each exam besides the mask, its record and its table."""
    return Extras(report=sidecar(mask, ".html"))


def record_of(mask: Path) -> dict[str, Any] | None:
    """Return the record of a mask that is there; None if there is none, or no whole one."""
    try:
        return read_record(sidecar(mask))
    except InputError:
        return None


def is_complete(record: dict[str, Any], exam: Exam, job: Job, model: Model) -> bool:
    """Return whether a mask and all beside it are what this job would make of this exam.

    By content: version, settings, weights, each input, and each file that was written.
    """
    cut = job.settings.cut(model.info.cut)
    resolved = replace(
        job.settings,
        weights=model.name,
        threshold=cut.threshold,
        min_lesion_mm3=cut.min_lesion_mm3,
    )
    mask = job.folder / exam.mask
    written: dict[str, str] = record["files_sha256"]
    wanted = {*beside(mask), *report_beside(mask).paths().values()} - {sidecar(mask)}
    return (
        record["GeneratedBy"][0]["Version"] == __version__
        and all(record.get(key) == value for key, value in exam.about.items())
        and record["weights"]["sha256"] == model.sha256
        and recorded_settings(record) == resolved
        and written.keys() >= {path.name for path in wanted}
        and all(has_sha256(mask.with_name(name), sha256) for name, sha256 in written.items())
        and record["input_sha256"].keys() == exam.sequences.keys()
        and all(has_sha256(p, record["input_sha256"][name]) for name, p in exam.sequences.items())
    )


def _drop_empty(folder: Path, top: Path) -> None:
    """Remove the folders that were made for an exam and stayed empty."""
    with suppress(OSError):
        while folder != top:
            folder.rmdir()
            folder = folder.parent
