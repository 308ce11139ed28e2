"""A whole cohort: every exam segmented here or on a cluster, then the table and the page."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from rsaseg import __version__
from rsaseg.cohort.exams import Exam, find_bids_exams, find_exams
from rsaseg.cohort.one import COHORT_FILE, Job, segment_one
from rsaseg.cohort.outcome import TABLE_COLUMNS, Outcome, cohort_table, failed, index_page
from rsaseg.errors import InputError
from rsaseg.imaging import make_folder
from rsaseg.imaging.files import (
    check_replaceable,
    hashes_of,
    is_own,
    is_seen,
    read_written,
    write_together,
)
from rsaseg.inference.device import choose_device
from rsaseg.predict import Settings
from rsaseg.progress import Progress, untold
from rsaseg.segmentation import check_settings
from rsaseg.segmentation.model import Model, load_model

_TABLE, _PAGE = "cohort.tsv", "index.html"
_FILES = "files_sha256"

AT_ONCE = 2
"""Exams in memory: one in the network, and the next being read and aligned."""

_README = """\
Lesion masks made by rsaseg
===========================

Multiple-sclerosis lesion masks, for research use only: not a medical device; no diagnosis or
treatment may rest on them.

Each mask (label-L: lesion) lies on the grid of the FLAIR it was made from (space-orig). The TSV
file beside it describes each lesion, the HTML page shows it; the JSON file says how the mask was
made, from what, what the table's columns mean, and holds the SHA-256 of every file. cohort.tsv has
a row for each exam, those that failed with their reason; index.html links everything.
"""
_BIDSIGNORE = "cohort.*\nindex.html\n**/*_mask.html\n**/*_mask.tsv\n"


@dataclass(frozen=True)
class Cohort:
    """What came of a cohort.

    Attributes
    ----------
    outcomes : tuple of Outcome
        One for each exam, in order of name.
    table, page : Path
        ``cohort.tsv`` and ``index.html``.
    """

    outcomes: tuple[Outcome, ...]
    table: Path
    page: Path

    @property
    def failures(self) -> list[Outcome]:
        """The exams without a mask."""
        return [one for one in self.outcomes if one.status == "failed"]


def segment_cohort(
    data: Path,
    folder: Path,
    settings: Settings | None = None,
    *,
    bids: bool = False,
    resume: bool = False,
    dask: str | None = None,
    progress: Progress | None = None,
) -> Cohort:
    """Segment every exam of a folder; one that fails stops no other.

    Parameters
    ----------
    data : Path
        A folder per exam, or a BIDS data set.
    folder : Path
        Output: new, empty, or of an earlier run. For ``bids`` it becomes a BIDS derivative.
    settings : Settings, optional
        For each exam.
    bids : bool
        ``data`` is a BIDS data set.
    resume : bool
        Leave masks that are what this run would make, judged by content, as they are.
    dask : str, optional
        Address of a Dask scheduler, or its scheduler file; its workers read and write the same
        paths as this process.
    progress : callable, optional
        Called with "exams", those done, and how many there are; at the first Ctrl-C with a word
        on what is waited for.

    Returns
    -------
    Cohort
        The same, with the same masks, wherever it ran and however often it was taken up again.

    Raises
    ------
    RsasegError
        Before any exam: if a folder, the settings, the weights, the device or the cluster cannot
        be used, or the table or the page of an earlier run was changed since.
    """
    settings = settings or Settings()
    check_settings(settings)
    data, folder = data.absolute(), folder.absolute()
    _check_places(data, folder, bids)
    exams = find_bids_exams(data) if bids else find_exams(data)
    model = load_model(settings.weights)
    job = Job(data, folder, settings, resume)
    outcomes: dict[str, Outcome] = {}
    report = progress or untold
    if dask is None:
        choose_device(settings.device)
        _begin(folder, data, bids)
        running = _run_here(exams, job, model, outcomes, report)
    else:
        from rsaseg.cohort.cluster import connect, run_there

        client = connect(dask)
        _begin(folder, data, bids)
        running = run_there(client, exams, job)
    report("exams", 0, len(exams))
    try:
        with closing(running):
            for count, outcome in enumerate(running, 1):
                outcomes[outcome.exam] = outcome
                report("exams", count, len(exams))
    finally:
        rows = [
            outcomes.get(exam.name) or _not_reached(exam, folder, dask is None) for exam in exams
        ]
        cohort = _write_tables(rows, folder)
    return cohort


def _run_here(
    exams: Sequence[Exam],
    job: Job,
    model: Model,
    outcomes: dict[str, Outcome],
    report: Progress,
) -> Generator[Outcome]:
    """Yield each exam's outcome; ``outcomes`` gets those too that come after an interrupt."""
    turn = Lock()

    def segment(exam: Exam) -> Outcome:
        outcomes[exam.name] = segment_one(exam, job, model, turn)
        return outcomes[exam.name]

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            tasks = [pool.submit(segment, exam) for exam in exams]
            for task in as_completed(tasks):
                yield task.result()
        except KeyboardInterrupt:
            report("stopping: the exams at work are finished first", 0, 0)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _check_places(data: Path, folder: Path, bids: bool) -> None:
    """Refuse an output folder where masks could be taken for input, or lie among other files."""
    inside = folder.resolve().is_relative_to(data.resolve())
    derived = bids and folder.resolve().is_relative_to(data.resolve() / "derivatives")
    if inside and not derived:
        where = f"{data / 'derivatives'}/rsaseg" if bids else "a folder outside it"
        raise InputError(f"{folder}: lies in the data; give {where} for the output")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder for the output")
    if folder.is_dir() and not (folder / COHORT_FILE).exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: holds files of another kind; give a new or empty folder")
    record = folder / COHORT_FILE
    written = read_written(record, _FILES)
    # an earlier version told of no files, or a first run was killed before its table
    known = [folder / name for name in (_TABLE, _PAGE) if name in written]
    check_replaceable(known, record, written)


def _begin(folder: Path, data: Path, bids: bool) -> None:
    """Make the output folder what it is, before any mask is in it; what people changed stays."""
    files: dict[Path, bytes] = {}
    if bids:
        description = {
            "Name": f"Lesion masks of {_bids_name(data)}",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "rsaseg", "Version": __version__}],
            "DatasetLinks": {"raw": Path(os.path.relpath(data, folder)).as_posix()},
        }
        files = {
            folder / "dataset_description.json": _json(description),
            folder / "README": _README.encode(),
            folder / ".bidsignore": _BIDSIGNORE.encode(),
        }
    written = read_written(folder / COHORT_FILE, _FILES)
    make_folder(folder)
    _write(folder, {p: b for p, b in files.items() if not written or is_own(p, written)})


def _write(folder: Path, files: Mapping[Path, bytes]) -> None:
    """Write files of the whole cohort, and their SHA-256 beside the meaning of the columns."""
    record = folder / COHORT_FILE
    written = read_written(record, _FILES)
    written |= hashes_of(files)
    write_together({record: _json({**TABLE_COLUMNS, _FILES: written}), **files})


def _bids_name(data: Path) -> str:
    """Return the name that a BIDS data set gives itself."""
    path = data / "dataset_description.json"
    try:
        description = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check its permissions"
        ) from None
    except ValueError:
        raise InputError(f"{path}: no JSON; mend it") from None
    named = isinstance(description, dict) and description.get("Name")
    return str(named or data.name)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _not_reached(exam: Exam, folder: Path, here: bool) -> Outcome:
    """Return the outcome of an exam when the run was stopped; workers elsewhere may go on."""
    reason = "not done when the run was stopped; run again with --resume"
    if is_seen(folder / exam.mask):
        reason += f"; {exam.mask.as_posix()} {'is not' if here else 'may not be'} of this run"
    return failed(exam.name, reason)


def _write_tables(rows: Sequence[Outcome], folder: Path) -> Cohort:
    table, page = folder / _TABLE, folder / _PAGE
    _write(folder, {table: cohort_table(rows), page: index_page(rows, folder)})
    return Cohort(tuple(rows), table, page)
