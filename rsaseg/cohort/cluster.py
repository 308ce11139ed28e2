"""Exams on a Dask cluster: the weights travel once, a lost worker's exams are done again."""

from __future__ import annotations

import json
import pkgutil
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from rsaseg import __version__
from rsaseg.cohort.exams import Exam
from rsaseg.cohort.one import Job, segment_one
from rsaseg.cohort.outcome import Outcome, failed
from rsaseg.errors import InputError
from rsaseg.networks.shipped import find_partner, find_weights
from rsaseg.networks.weights import load_weights
from rsaseg.segmentation.model import load_model

try:
    from distributed import Client, Future, KilledWorker, WorkerPlugin, as_completed, get_worker
except ModuleNotFoundError:
    raise InputError("--dask needs Dask; install it with: pip install 'rsaseg[cluster]'") from None

SECONDS_TO_CONNECT = 30
SECONDS_FOR_A_WORKER = 60


class WeightsOnWorker(WorkerPlugin):
    """The weights' files, sent once to each worker, to those too that join later.

    Parameters
    ----------
    path : Path
        The weights, on the machine that sends them; their partners' files go along.
    """

    def __init__(self, path: Path) -> None:
        self.file_name = path.name
        self.contents = {file.name: file.read_bytes() for file in _with_partners(path)}

    def setup(self, worker: Any) -> None:  # noqa: ARG002
        """Load the network, on the worker."""
        with tempfile.TemporaryDirectory(prefix="rsaseg-") as folder:
            for name, content in self.contents.items():
                Path(folder, name).write_bytes(content)
            self.model = load_model(str(Path(folder, self.file_name)))
        self.turn = Lock()


def _with_partners(path: Path) -> list[Path]:
    """Return the weights' file, their partner's, its partner's, and so on."""
    files = [path]
    while partner := load_weights(files[-1])[1].partner:
        files.append(find_partner(files[-1], partner))
    return files


def connect(address: str, seconds_for_a_worker: float = SECONDS_FOR_A_WORKER) -> Client:
    """Return a client of a running cluster whose workers have this version of rsaseg.

    Parameters
    ----------
    address : str
        Of the scheduler, such as ``tcp://node01:8786``, or its scheduler file.
    seconds_for_a_worker : float
        How long to wait for the first worker.

    Raises
    ------
    InputError
        If no scheduler answers, no worker joins, or a worker lacks rsaseg or has another version.
    """
    scheduler = _address_in(Path(address)) if ":" not in address else address
    try:
        client = Client(scheduler, timeout=SECONDS_TO_CONNECT)
    except (OSError, ValueError):
        raise InputError(
            f"{address}: no Dask scheduler answers there; start it with: dask scheduler"
        ) from None
    try:
        client.wait_for_workers(1, timeout=seconds_for_a_worker)
        _check_workers(address, client)
    except TimeoutError:
        client.close()
        raise InputError(
            f"{address}: no worker has joined; start some with: dask worker --nthreads 2 {address}"
        ) from None
    except InputError:
        client.close()
        raise
    return client


def _address_in(scheduler_file: Path) -> str:
    try:
        return str(json.loads(scheduler_file.read_text("utf-8"))["address"])
    except OSError as error:
        raise InputError(
            f"{scheduler_file}: cannot be read ({error.strerror}); give the scheduler's file, "
            "or its address with a port"
        ) from None
    except (ValueError, TypeError, KeyError):
        raise InputError(
            f"{scheduler_file}: no Dask scheduler file; start dask scheduler --scheduler-file FILE"
        ) from None


def _check_workers(address: str, client: Client) -> None:
    """Ask each worker for its version, by functions that a worker without rsaseg has too."""
    found = client.run(pkgutil.resolve_name, "rsaseg:__version__", on_error="return")
    for worker, version in sorted(found.items()):
        if isinstance(version, ModuleNotFoundError):
            raise InputError(
                f"{address}: worker {worker} is without rsaseg; "
                f"install rsaseg {__version__} where the workers run"
            )
        if version != __version__:
            raise InputError(
                f"{address}: worker {worker} has rsaseg {version}, here it is {__version__}; "
                "install the same everywhere"
            )


def run_there(client: Client, exams: Sequence[Exam], job: Job) -> Generator[Outcome]:
    """Yield each exam's outcome as it comes, and close the client.

    Parameters
    ----------
    client : Client
        See `connect`.
    exams : sequence of Exam
        Their paths hold on the workers too.
    job : Job
        The same for all.
    """
    path = find_weights(job.settings.weights)
    plugin = f"rsaseg-{id(client)}-{path.name}"
    with client:
        client.register_plugin(WeightsOnWorker(path), name=plugin)
        try:
            futures = client.map(segment_on_worker, exams, job=job, plugin=plugin, pure=False)
            name_of = {future.key: exam.name for future, exam in zip(futures, exams, strict=True)}
            waiting = as_completed(futures, raise_errors=False)
            del futures  # a result that was read is forgotten by the cluster
            for future in waiting:
                yield _outcome_of(future, name_of[future.key])
        finally:
            client.unregister_worker_plugin(plugin)


def segment_on_worker(exam: Exam, job: Job, plugin: str) -> Outcome:
    """Segment an exam in a worker's process, with the network that is there."""
    held: Any = get_worker().plugins[plugin]
    return segment_one(exam, job, held.model, held.turn)


def _outcome_of(future: Future[Outcome], exam: str) -> Outcome:
    if future.status == "finished":
        return future.result()
    if future.status == "cancelled":
        return failed(exam, "the cluster was lost before it was done; run again with --resume")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return failed(
            exam,
            f"{error.allowed_failures + 1} workers died of it one after the other; "
            "give them more memory, or segment it by itself",
        )
    return failed(exam, f"its worker failed: {type(error).__name__}: {error}")
