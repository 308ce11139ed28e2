"""Ctrl-C in a cohort: the exams at work are finished, and the table says what became of each."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest

from rsaseg.cohort import one
from rsaseg.cohort.run import segment_cohort
from rsaseg.predict import predict


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C as in a terminal, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_what_is_finished_while_stopping_is_in_the_table(
    here, data, settings, tmp_path, monkeypatch, interrupts
):
    out = Path(shutil.copytree(here.table.parent, tmp_path / "out"))
    both, stopping = Event(), Event()
    told = []

    def interrupted(flair: Path, *others: object) -> object:
        if flair.parent.name == "a":
            both.wait(10)
            time.sleep(0.5)  # until the others are queued
            os.kill(os.getpid(), signal.SIGINT)
        both.set()
        stopping.wait(10)
        return predict(flair, *others)

    def progress(stage: str, steps: int, total: int) -> None:
        told.append(stage)
        if stage.startswith("stopping"):
            stopping.set()

    monkeypatch.setattr(one, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        segment_cohort(data, out, settings, progress=progress)
    lines = [line.split("\t") for line in (out / "cohort.tsv").read_text().splitlines()[1:]]
    table = {line[0]: (line[1], line[-1]) for line in lines}
    left = "not done when the run was stopped; run again with --resume"
    assert table == {
        "a": ("done", "n/a"),
        "b <i>&": ("done", "n/a"),
        "broken": ("failed", left),
        "c": ("failed", f"{left}; c/lesion_mask.nii.gz is not of this run"),
        "empty": ("failed", left),
    }
    assert told == ["exams", "stopping: the exams at work are finished first"]
