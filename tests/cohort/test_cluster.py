"""A cohort on a real Dask cluster of two workers, one of which is killed in the middle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from reproducible import reproducible_files

from rsaseg.cohort.run import segment_cohort
from rsaseg.errors import InputError
from rsaseg.networks.weights import load_weights, save_weights

pytest.importorskip("distributed", reason="needs Dask: pip install 'rsaseg[cluster]'")

from distributed import Client
from distributed.scheduler import KilledWorker

from rsaseg.cohort import cluster

PATIENCE_S = 240
WORKER = "import sys; {}from distributed.cli.dask_worker import main; main()"


class Processes:
    """A scheduler and its workers, ended with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "scheduler.json"
        self.running: list[subprocess.Popen[bytes]] = []
        self.start(
            "from distributed.cli.dask_scheduler import main; main()",
            *("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show"),
        )
        wait_until(lambda: self.file.is_file() and self.address)

    def start(self, program: str, *options: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "false",
        }
        log = (self.folder / f"log-{len(self.running)}").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--scheduler-file", str(self.file), *options],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
        )
        log.close()
        self.running.append(process)
        return process

    def start_worker(self, name: str, before: str = "") -> subprocess.Popen[bytes]:
        return self.start(
            WORKER.format(before),
            *("--name", name, "--nthreads", "1", "--no-nanny", "--no-dashboard"),
            *("--local-directory", str(self.folder)),
        )

    @property
    def address(self) -> str:
        try:
            return str(json.loads(self.file.read_text())["address"])
        except ValueError:
            return ""

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


def wait_until(done: object) -> None:
    end = time.monotonic() + PATIENCE_S
    while not done():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    running = Processes(tmp_path)
    yield running
    running.end()


def test_a_worker_killed_in_the_middle_changes_nothing(processes, data, here, settings, tmp_path):
    for name in ("one", "two"):
        processes.start_worker(name)
    out = tmp_path / "out"
    with Client(processes.address) as watch, ThreadPoolExecutor(1) as pool:
        watch.wait_for_workers(2, timeout=PATIENCE_S)
        pids = watch.run(os.getpid)
        run = pool.submit(segment_cohort, data, out, settings, dask=str(processes.file))
        lost = stop_a_busy_worker(watch, pids)
        assert not run.done()
        os.kill(lost, signal.SIGKILL)
        cohort = run.result(PATIENCE_S)
        assert watch.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)) == 0
        left = watch.run(lambda dask_worker: [p for p in dask_worker.plugins if "rsaseg" in p])
        assert list(left.values()) == [[]]
    assert reproducible_files(out) == reproducible_files(here.table.parent)
    assert [outcome.status for outcome in cohort.outcomes] == [o.status for o in here.outcomes]


def test_the_users_own_partner_goes_along(processes, data, settings, tmp_path):
    """Weights a asks b and b asks c, each of them beside the other and none of them shipped."""
    network, info, sha256 = load_weights(Path(settings.weights))
    partner = ""
    for name in ("c", "b", "a"):
        named = replace(info, partner=partner, partner_sha256=sha256 if partner else "")
        path, partner = tmp_path / "weights" / f"own-{name}.safetensors", f"own-{name}"
        path.parent.mkdir(exist_ok=True)
        save_weights(path, network.state_dict(), replace(named, version=name))
        sha256 = load_weights(path)[2]
    shutil.copytree(data / "a", tmp_path / "data" / "a")
    own = replace(settings, weights=str(path))
    processes.start_worker("one")
    scheduler = str(processes.file)
    there = segment_cohort(tmp_path / "data", tmp_path / "there", own, dask=scheduler)
    assert [(one.status, one.reason) for one in there.outcomes] == [("done", "n/a")]
    segment_cohort(tmp_path / "data", tmp_path / "here", own)
    assert reproducible_files(tmp_path / "there") == reproducible_files(tmp_path / "here")


def stop_a_busy_worker(watch: Client, pids: dict[str, int]) -> int:
    """Stop a worker's process while it has an exam, so that it cannot finish it; return its id."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        for address, keys in watch.processing().items():
            exams = {key for key in keys if "segment_on_worker" in str(key)}
            if exams:
                os.kill(pids[address], signal.SIGSTOP)
                if exams & {*watch.processing()[address]}:
                    return pids[address]
                os.kill(pids[address], signal.SIGCONT)
        time.sleep(0.02)
    raise AssertionError("no worker was given an exam")


def test_a_worker_without_the_package_and_one_of_another_version(processes, tmp_path):
    bare = processes.start_worker("bare", before="sys.modules['rsaseg'] = None; ")
    with pytest.raises(InputError, match=r"worker tcp://\S+ is without rsaseg; install rsaseg"):
        cluster.connect(str(processes.file), PATIENCE_S)
    bare.kill()
    bare.wait()
    old = "import types; m = sys.modules['rsaseg'] = types.ModuleType('rsaseg'); "
    processes.start_worker("old", before=f"{old}m.__version__ = '0.0.1'; ")
    with pytest.raises(InputError, match=r"has rsaseg 0\.0\.1, here it is"):
        cluster.connect(processes.address, PATIENCE_S)


def test_no_worker_and_no_scheduler(processes, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="no worker has joined"):
        cluster.connect(processes.address, 0.2)
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 0.5)
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        cluster.connect("tcp://127.0.0.1:9")
    with pytest.raises(InputError, match="cannot be read"):
        cluster.connect(str(tmp_path / "nowhere.json"))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match="no Dask scheduler file"):
        cluster.connect(str(tmp_path / "other.json"))


class EndedTask:
    def __init__(self, status: str, error: BaseException | None = None) -> None:
        self.status = status
        self.error = error

    def exception(self) -> BaseException | None:
        return self.error


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (EndedTask("cancelled"), "the cluster was lost"),
        (EndedTask("error", KilledWorker("x", None, 3)), "4 workers died of it"),
        (EndedTask("error", ModuleNotFoundError("No module 'x'")), "ModuleNotFoundError: No mod"),
    ],
)
def test_an_exam_that_the_cluster_gave_up_is_told(task, words):
    outcome = cluster._outcome_of(task, "a")
    assert (outcome.exam, outcome.status) == ("a", "failed")
    assert words in outcome.reason


def test_dask_missing_is_one_line(data, settings, tmp_path, monkeypatch):
    blocked: Sequence[str] = ("rsaseg.cohort.cluster", "distributed")
    for name in blocked:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"pip install 'rsaseg\[cluster\]'"):
        segment_cohort(data, tmp_path / "out", settings, dask="tcp://127.0.0.1:9")
    assert not (tmp_path / "out").exists()
