"""A cohort run here: nothing stops it, nothing is done twice, nothing foreign is touched."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from threading import Event, Lock
from types import SimpleNamespace
from urllib.parse import unquote

import nibabel as nib
import pytest
from reproducible import reproducible_files

from rsaseg.cohort import one
from rsaseg.cohort.exams import find_exams
from rsaseg.cohort.outcome import TABLE_COLUMNS, cohort_table, failed
from rsaseg.cohort.run import Cohort, segment_cohort
from rsaseg.errors import DeviceError, InputError, WeightsError
from rsaseg.networks.weights import load_weights, save_weights
from rsaseg.predict import Settings, predict
from rsaseg.scoring.pairing import find_masks
from rsaseg.segmentation.model import load_model

GOOD = ("a", "b <i>&", "c")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(cohort: Cohort) -> dict[str, dict[str, str]]:
    lines = [line.split("\t") for line in cohort.table.read_text().splitlines()]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[1:]}


def test_bad_exams_are_told_and_stop_no_other(here, data):
    table = rows(here)
    assert list(table) == ["a", "b <i>&", "broken", "c", "empty"]
    assert {name for name, row in table.items() if row["status"] == "done"} == set(GOOD)
    assert table["broken"]["reason"].startswith("broken/FLAIR.nii: ")
    assert table["empty"]["reason"].startswith("empty: no FLAIR")
    assert not any(str(data) in value for row in table.values() for value in row.values())
    assert [outcome.exam for outcome in here.failures] == ["broken", "empty"]
    assert {p.name for p in here.table.parent.iterdir() if p.is_dir()} == set(GOOD)
    record = json.loads(here.table.with_suffix(".json").read_text())
    hashes = record.pop("files_sha256")
    assert record == TABLE_COLUMNS
    assert hashes == {path.name: sha256(path) for path in (here.table, here.page)}
    assert set(table["a"]) == set(TABLE_COLUMNS)


def test_a_page_says_which_exam_it_is_of(here):
    for name in GOOD:
        page = (here.table.parent / name / "lesion_mask.html").read_text()
        assert f"<h1>Lesions in {escape(name)}</h1>" in page
        assert f"<title>Lesions in {escape(name)}</title>" in page


def test_the_table_says_what_the_masks_are(here):
    counts = set()
    for name in GOOD:
        row = rows(here)[name]
        mask = here.table.parent / row["mask"]
        image = nib.load(mask)
        voxel_ml = abs(float(nib.affines.voxel_sizes(image.affine).prod())) / 1000
        assert row["mask_sha256"] == sha256(mask)
        volume_ml = (image.get_fdata() > 0).sum() * voxel_ml
        assert float(row["lesion_volume_ml"]) == pytest.approx(volume_ml, rel=1e-3)
        assert row["missing_sequences"] == "T1, T2"
        counts.add(int(row["lesion_count"]))
    assert max(counts) > 0


def test_a_cohort_gives_the_masks_that_predict_gives(here, data, settings, tmp_path):
    alone = tmp_path / "lesion_mask.nii.gz"
    predict(data / "a" / "flair.nii.gz", alone, settings=settings)
    assert alone.read_bytes() == (here.table.parent / "a" / alone.name).read_bytes()


def test_evaluate_finds_the_masks_by_exam(here):
    assert list(find_masks(here.table.parent)) == list(GOOD)


class Links(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_the_page_links_every_mask_and_report_and_nothing_outside(here):
    page = Links(here.page.read_text())
    links = [unquote(link) for link in page.links]
    expected = {f"{name}/lesion_mask{end}" for name in GOOD for end in (".nii.gz", ".html", ".tsv")}
    assert expected <= set(links)
    assert all((here.page.parent / link).is_file() for link in links)
    assert "i" not in page.tags
    assert "broken/FLAIR.nii: " in here.page.read_text()


def test_a_run_taken_up_again_computes_nothing(here, data, settings, tmp_path, monkeypatch):
    out = Path(shutil.copytree(here.table.parent, tmp_path / "moved"))
    monkeypatch.setattr(one, "predict", forbidden)
    again = segment_cohort(data, out, settings, resume=True)
    assert [outcome.reused for outcome in again.outcomes] == [True, True, False, True, False]
    assert reproducible_files(out) == reproducible_files(here.table.parent)


def forbidden(flair: Path, *others: object) -> None:
    if flair.parent.name in GOOD:
        raise InputError("was not complete")
    predict(flair, *others)


def append_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def edit_record(path: Path, change: Callable[[str], str]) -> None:
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))


# what is done to exam "a" of a finished run: none of it leaves the exam complete
CHANGES: dict[str, Callable[[Path, Path], None]] = {
    "mask changed": lambda exam, out: append_byte(out / "lesion_mask.nii.gz"),
    "mask gone": lambda exam, out: (out / "lesion_mask.nii.gz").unlink(),
    "report gone": lambda exam, out: (out / "lesion_mask.html").unlink(),
    "table changed": lambda exam, out: append_byte(out / "lesion_mask.tsv"),
    "record gone": lambda exam, out: (out / "lesion_mask.json").unlink(),
    "record cut": lambda exam, out: edit_record(out / "lesion_mask.json", lambda t: t[:500]),
    "input changed": lambda exam, out: append_byte(exam / "flair.nii.gz"),
    "input added": lambda exam, out: shutil.copy(exam / "flair.nii.gz", exam / "T1.nii.gz"),
    "other version": lambda exam, out: edit_record(
        out / "lesion_mask.json", lambda t: re.sub('"Version": "[^"]*"', '"Version": "0.0.0"', t)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_complete_by_hash_is_done_again(
    change, here, data, settings, tmp_path, monkeypatch
):
    out = Path(shutil.copytree(here.table.parent, tmp_path / "out"))
    inputs = Path(shutil.copytree(data, tmp_path / "data"))
    CHANGES[change](inputs / "a", out / "a")
    monkeypatch.setattr(one, "predict", forbidden)
    again = segment_cohort(inputs, out, settings, resume=True)
    assert [one.exam for one in again.outcomes if one.reused] == ["b <i>&", "c"]
    assert again.outcomes[0].reason.startswith("was not complete")


@pytest.mark.parametrize(
    "change",
    [{"threshold": 0.6}, {"min_lesion_mm3": 9.0}, {"registration": "none"}, {"device": "auto"}],
)
def test_other_settings_make_everything_anew(change, here, data, settings, tmp_path, monkeypatch):
    out = Path(shutil.copytree(here.table.parent, tmp_path / "out"))
    monkeypatch.setattr(one, "predict", forbidden)
    again = segment_cohort(data, out, replace(settings, **change), resume=True)
    assert not any(outcome.reused for outcome in again.outcomes)


def test_a_setting_given_as_the_weights_have_it_is_the_same_setting(
    here, data, settings, tmp_path, monkeypatch
):
    out = Path(shutil.copytree(here.table.parent, tmp_path / "out"))
    monkeypatch.setattr(one, "predict", forbidden)
    again = segment_cohort(data, out, replace(settings, threshold=0.55), resume=True)
    assert sum(outcome.reused for outcome in again.outcomes) == len(GOOD)


def test_other_weights_of_the_same_name_make_everything_anew(
    here, data, settings, tmp_path, monkeypatch
):
    out = Path(shutil.copytree(here.table.parent, tmp_path / "out"))
    network, info, _ = load_weights(Path(settings.weights))
    path = tmp_path / Path(settings.weights).name
    save_weights(path, network.state_dict(), replace(info, version="2"))
    monkeypatch.setattr(one, "predict", forbidden)
    again = segment_cohort(data, out, replace(settings, weights=str(path)), resume=True)
    assert not any(outcome.reused for outcome in again.outcomes)


def test_the_next_exam_is_read_while_one_is_in_the_network(data, settings, tmp_path, monkeypatch):
    """An exam leaves the network only when the next has been read; more than one never is in it."""
    read = {name: Event() for name in (*GOOD, "broken")}
    inside: list[str] = []
    order: list[str] = []

    def pretended(flair, mask, t1, t2, settings, progress, extras, model):
        name = flair.parent.name
        progress("read", 0, 1)
        read[name].set()
        progress("network", 0, 1)
        inside.append(name)
        order.append(name)
        assert len(inside) == 1
        if len(order) < len(read):
            end = time.monotonic() + 30
            while not any(read[other].is_set() for other in read if other not in order):
                assert time.monotonic() < end
                time.sleep(0.01)
        inside.remove(name)
        progress("lesions", 0, 1)
        record = {"lesion_count": 0, "lesion_volume_ml": 0, "missing_sequences": []}
        return SimpleNamespace(record={**record, "output_sha256": "", "warnings": []})

    monkeypatch.setattr(one, "predict", pretended)
    cohort = segment_cohort(data, tmp_path / "out", settings)
    assert [outcome.exam for outcome in cohort.failures] == ["empty"]
    assert sorted(order) == sorted(read)


class CountedLock:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def acquire(self) -> bool:
        self.calls.append("acquire")
        return True

    def release(self) -> None:
        self.calls.append("release")


def test_the_network_is_taken_and_given_back_once_also_after_a_failure():
    turn = CountedLock()
    with one.one_in_the_network(turn) as progress:
        for stage in ("read", "network", "network", "network", "lesions", "lesions"):
            progress(stage, 0, 1)
    assert turn.calls == ["acquire", "release"]
    with suppress(MemoryError), one.one_in_the_network(turn) as progress:
        progress("network", 0, 1)
        raise MemoryError
    assert turn.calls == ["acquire", "release"] * 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "ran out of memory"),
        (ZeroDivisionError("by\nzero"), "ZeroDivisionError: by zero; segment it by itself"),
    ],
)
def test_an_unforeseen_error_is_an_exams_own(error, words, data, settings, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(one, "predict", fail)
    cohort = segment_cohort(data, tmp_path / "out", settings)
    assert len(cohort.failures) == len(cohort.outcomes)
    assert words in cohort.outcomes[0].reason
    assert not [path for path in (tmp_path / "out").iterdir() if path.is_dir()]


def test_an_output_folder_that_a_worker_does_not_share_is_told(data, settings, tmp_path):
    model, (exam, *_) = load_model(settings.weights), find_exams(data)
    outcome = one.segment_one(exam, one.Job(data, tmp_path / "out", settings), model, Lock())
    assert "not to be seen here; share it" in outcome.reason
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_leaves_a_table_of_what_was_done(data, settings, tmp_path, monkeypatch):
    def stop(stage: str, steps: int, total: int) -> None:
        if steps == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(one, "predict", forbidden)
    with pytest.raises(KeyboardInterrupt):
        segment_cohort(data, tmp_path / "out", settings, progress=stop)
    table = (tmp_path / "out" / "cohort.tsv").read_text()
    assert table.count("run again with --resume") <= len(table.splitlines()) - 1 - 2


def test_spaces_in_a_name_stay_as_they_are(data, settings, tmp_path):
    names = ["Jane  Doe", " x"]
    for name in names:
        shutil.copytree(data / "a", tmp_path / "data" / name)
    (tmp_path / "data" / "Jane  Roe").mkdir()
    cohort = segment_cohort(tmp_path / "data", tmp_path / "out", settings)
    table = rows(cohort)
    assert sorted(table) == sorted([*names, "Jane  Roe"])
    assert all((tmp_path / "out" / table[name]["mask"]).is_file() for name in names)
    assert table["Jane  Roe"]["reason"].startswith("Jane  Roe: no FLAIR")
    assert cohort.failures[0].failure == table["Jane  Roe"]["reason"]


def test_tabs_and_line_ends_in_a_name_stay_out_of_the_table():
    table = cohort_table([failed("a\tb\r\nc", "no\nmore\tto say\n")]).decode()
    assert table.splitlines()[1] == "\t".join(["a b c", "failed", *["n/a"] * 6, "no more to say"])


def test_a_name_that_is_not_utf_8_stops_no_other(here, data, settings, tmp_path):
    out = Path(shutil.copytree(here.table.parent, tmp_path / "out"))
    inputs = Path(shutil.copytree(data, tmp_path / "data"))
    for name in (b"M\xfcller", b"M\xf6ller"):
        shutil.copytree(data / "a", inputs / os.fsdecode(name))
    cohort = segment_cohort(inputs, out, settings, resume=True)
    table = rows(cohort)
    assert {name for name, row in table.items() if row["status"] == "done"} == set(GOOD)
    for name in (r"M\xfcller", r"M\xf6ller"):
        assert table[name]["reason"] == f"{name}: its name is not UTF-8 text; rename it"
        assert name in cohort.page.read_text()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("name", ["cohort.tsv", "index.html"])
def test_a_table_or_page_with_remarks_is_kept(name, resume, here, data, settings, tmp_path):
    out = Path(shutil.copytree(here.table.parent, tmp_path / "out"))
    edit_record(out / name, lambda text: text + "seen by Dr X\n")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=f"{name}: was changed after rsaseg wrote it; move it"):
        segment_cohort(data, out, settings, resume=resume)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    (out / name).rename(out / "remarks")
    segment_cohort(data, out, settings, resume=True)
    assert (out / name).read_bytes() == (here.table.parent / name).read_bytes()


def test_a_folder_of_an_earlier_version_is_taken_up_again(here, data, settings, tmp_path):
    out = Path(shutil.copytree(here.table.parent, tmp_path / "out"))
    for table in ("of version 0.8", "with remarks"):
        (out / "cohort.json").write_text(json.dumps(TABLE_COLUMNS, indent=2) + "\n")
        (out / "cohort.tsv").write_text(table)
        segment_cohort(data, out, settings, resume=True)
        assert reproducible_files(out) == reproducible_files(here.table.parent)


def test_a_run_killed_before_its_table_is_taken_up_again(
    here, data, settings, tmp_path, monkeypatch
):
    """Whether it was a folder's first run, a later one, or the first of this version."""
    with monkeypatch.context() as patch:
        patch.setattr("rsaseg.cohort.run._run_here", killed)
        patch.setattr("rsaseg.cohort.run._write_tables", killed)
        for name in ("first", "later", "earlier"):
            out = tmp_path / name
            if name != "first":
                shutil.copytree(here.table.parent, out)
            if name == "earlier":
                (out / "cohort.json").write_text(json.dumps(TABLE_COLUMNS))
            with pytest.raises(SystemExit):
                segment_cohort(data, out, settings, resume=True)
    for name in ("first", "later", "earlier"):
        segment_cohort(data, tmp_path / name, settings, resume=True)
        assert reproducible_files(tmp_path / name) == reproducible_files(here.table.parent)


def killed(*_: object) -> None:
    raise SystemExit


def test_folders_that_cannot_be_the_output_are_refused(data, settings, tmp_path):
    data = Path(shutil.copytree(data, tmp_path / "data"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for folder, words in {
        data: "lies in the data",
        data / "a": "lies in the data",
        data / "out": "lies in the data",
        tmp_path / "full": "new or empty folder",
        tmp_path / "file": "is a file",
        tmp_path / "file" / "out": "cannot be made",
    }.items():
        with pytest.raises(InputError, match=words):
            segment_cohort(data, folder, settings)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (Settings(weights="best"), WeightsError),
        (Settings(threshold=2.0), InputError),
        (Settings(device="tpu"), DeviceError),
    ],
)
def test_what_no_exam_could_do_with_is_refused_before_any(bad, error, data, settings, tmp_path):
    bad = bad if bad.weights == "best" else replace(bad, weights=settings.weights)
    with pytest.raises(error):
        segment_cohort(data, tmp_path / "out", bad)
    assert not (tmp_path / "out").exists()
