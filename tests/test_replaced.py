"""Files that are there already: this program's own are replaced, anybody else's never are."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from rsaseg.cli import app
from rsaseg.cohort.run import segment_cohort
from rsaseg.demo import demo
from rsaseg.errors import InputError
from rsaseg.imaging.files import is_seen
from rsaseg.lesions import Cut
from rsaseg.networks.weights import WeightsInfo
from rsaseg.phantom import make_phantom, write_phantom
from rsaseg.predict import Extras, predict
from rsaseg.preprocess import Choices, preprocess, preprocess_folder
from rsaseg.preprocessing import InputSpec
from rsaseg.preprocessing.folder import RECORD
from rsaseg.segmentation import Settings
from rsaseg.segmentation.model import Model

NONE = Choices(registration="none")
Exam = dict[str, Path]


class BrightOnFlair(nn.Module):
    """Calls lesion what is bright on the FLAIR."""

    def forward(self, x: Tensor) -> Tensor:
        logit = 3 * (x[:, 2] - 1.5)
        return torch.stack([torch.zeros_like(logit), logit], 1)


SPEC = InputSpec(spacing_mm=(3.0, 3.0, 5.5), mirrored=False)
BRIGHT = Model(BrightOnFlair(), WeightsInfo(input=SPEC, cut=Cut(0.5)), "bright", "0" * 64)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> Exam:
    small = make_phantom(seed=2, shape_vox=(48, 56, 26), spacing_mm=(4.0, 4.0, 6.5))
    return write_phantom(tmp_path_factory.mktemp("small"), small)


def segment(exam: Exam, folder: Path, threshold: float = 0.5) -> None:
    extras = Extras(folder / "labels.nii.gz", folder / "p.nii.gz", report=folder / "r.html")
    settings = Settings(threshold=threshold, registration="none")
    predict(exam["FLAIR"], folder / "mask.nii.gz", settings=settings, extras=extras, model=BRIGHT)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_this_program_wrote_is_replaced(exam: Exam, tmp_path: Path) -> None:
    (tmp_path / "mask.nii.gz").touch()  # as tempfile leaves one
    segment(exam, tmp_path)
    first = contents(tmp_path)
    segment(exam, tmp_path, threshold=0.9)
    second = contents(tmp_path)
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] == second[name]} <= {"p.nii.gz"}
    assert (
        hashlib.sha256(second["mask.nii.gz"]).hexdigest()
        == json.loads(second["mask.json"])["output_sha256"]
    )


def corrected(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.fixture(scope="module")
def segmented(exam: Exam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmented")
    segment(exam, folder)
    return folder


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.tsv", "labels.nii.gz", "p.nii.gz", "r.html"])
def test_what_was_changed_since_is_kept(
    name: str, segmented: Path, exam: Exam, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(segmented, tmp_path / "copy"))
    corrected(folder / name)
    before = contents(folder)
    with pytest.raises(InputError, match=rf"{name}: was changed after rsaseg wrote it; move it"):
        segment(exam, folder, threshold=0.9)
    assert contents(folder) == before


def test_what_was_moved_away_is_made_anew(segmented: Path, exam: Exam, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(segmented, tmp_path / "copy"))
    corrected(folder / "mask.nii.gz")
    (folder / "mask.nii.gz").rename(folder / "corrected.nii.gz")
    segment(exam, folder)
    assert (folder / "mask.nii.gz").read_bytes() == (segmented / "mask.nii.gz").read_bytes()


@pytest.mark.parametrize(
    ("name", "record"),
    [
        *(("mask.json", text) for text in (b"{}", b"[]", b"\xff")),
        *((name, b"") for name in ("mask.nii.gz", "mask.tsv", "labels.nii.gz")),
        ("mask.nii.gz", b'{"files_sha256": {"mask.tsv": ""}}'),
    ],
)
def test_what_this_program_did_not_write_is_kept(
    name: str, record: bytes, exam: Exam, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"mine")
    (tmp_path / "mask.json").write_bytes(record)
    before = contents(tmp_path)
    with pytest.raises(InputError, match=f"{name}: is there already, and not known"):
        segment(exam, tmp_path)
    assert contents(tmp_path) == before


def test_a_mask_corrected_in_a_cohort_is_kept(exam: Exam, tmp_path: Path, monkeypatch) -> None:
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        shutil.copy(exam["FLAIR"], tmp_path / "data" / name)
    monkeypatch.setattr("rsaseg.cohort.run.load_model", lambda name: BRIGHT)
    settings = Settings(registration="none")
    out = tmp_path / "out"
    segment_cohort(tmp_path / "data", out, settings)
    mask = out / "a" / "lesion_mask.nii.gz"
    corrected(mask)
    before = mask.read_bytes()
    for resume in (False, True):
        again = segment_cohort(tmp_path / "data", out, settings, resume=resume)
        assert [one.exam for one in again.failures] == ["a"]
        assert again.failures[0].reason == (
            "a/lesion_mask.nii.gz: was changed after rsaseg wrote it; "
            "move it, or choose another output"
        )
        assert mask.read_bytes() == before


def test_a_mask_drawn_in_a_preprocessed_folder_is_kept(exam: Exam, tmp_path: Path) -> None:
    preprocess(exam["FLAIR"], tmp_path, exam["T1"], choices=NONE)
    drawn = tmp_path / "lesion.nii.gz"
    shutil.copy(exam["lesion"], drawn)
    preprocess(exam["FLAIR"], tmp_path, exam["T1"], choices=replace(NONE, force=True))
    assert drawn.read_bytes() == exam["lesion"].read_bytes()
    preprocess(exam["FLAIR"], tmp_path, choices=NONE)
    assert {path.name for path in tmp_path.iterdir()} == {"FLAIR.nii.gz", "lesion.nii.gz", RECORD}


@pytest.mark.parametrize("ours", [False, True])
def test_other_images_in_a_folder_are_kept(ours: bool, exam: Exam, tmp_path: Path) -> None:
    if ours:
        preprocess(exam["FLAIR"], tmp_path, exam["T1"], exam["T2"], choices=NONE)
    for name in ("FLAIR.nii.gz", "T2.nii.gz", "T1_to_FLAIR.txt"):
        place = tmp_path / name
        kept = place.read_bytes() if ours else b""
        place.write_bytes(kept + b"mine")
        before = contents(tmp_path)
        with pytest.raises(InputError, match=rf"{name}: .* rsaseg.*; move it, or choose"):
            preprocess(exam["FLAIR"], tmp_path, exam["T1"], choices=NONE)
        assert contents(tmp_path) == before
        place.write_bytes(kept)


def test_a_copied_mask_that_was_corrected_since_is_kept(exam: Exam, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(exam["FLAIR"].parent, data / "a")
    assert [one.status for one in preprocess_folder(data, out, NONE)] == ["done"]
    corrected(out / "a" / "lesion.nii.gz")
    before = contents(out)
    again = preprocess_folder(data, out, NONE)
    assert [one.status for one in again] == ["failed"]
    assert "lesion.nii.gz: was changed after rsaseg wrote it" in again[0].message
    assert contents(out) == before


def evaluated(masks: Path, folder: Path, *more: str) -> int:
    asked = ["evaluate", "--pred", str(masks), "--gt", str(masks), "-o", str(folder), *more]
    return CliRunner().invoke(app, asked, standalone_mode=False, catch_exceptions=False).exit_code


@pytest.fixture
def masks(exam: Exam, tmp_path: Path) -> Path:
    (tmp_path / "masks").mkdir()
    shutil.copy(exam["lesion"], tmp_path / "masks" / "a.nii.gz")
    return tmp_path / "masks"


def test_an_evaluation_replaces_an_earlier_one(masks: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert evaluated(masks, out, "--compare", str(masks)) == 0
    kept = (out / "comparison.tsv").read_bytes()
    assert evaluated(masks, out, "--min-lesion-mm3", "1000") == 0
    assert json.loads((out / "evaluation.json").read_text())["rules"]["min_lesion_mm3"] == 1000
    assert not (out / "comparison.tsv").exists()
    (out / "comparison.tsv").write_bytes(kept)  # which the last record does not tell of
    with pytest.raises(InputError, match=r"comparison.tsv: is there already, and not known"):
        evaluated(masks, out)


@pytest.mark.parametrize("name", ["cases.tsv", "comparison.tsv", "bland_altman.svg"])
def test_an_evaluation_keeps_tables_of_others_and_those_changed(
    name: str, masks: Path, tmp_path: Path
) -> None:
    alone, out = tmp_path / "alone", tmp_path / "out"
    alone.mkdir()
    (alone / name).write_bytes(b"mine")
    evaluated(masks, out, "--compare", str(masks))
    corrected(out / name)
    for folder, how in ((alone, "is there already"), (out, "was changed after")):
        before = contents(folder)
        with pytest.raises(InputError, match=f"{name}: {how}"):
            evaluated(masks, folder)
        assert contents(folder) == before


def test_the_demo_keeps_an_exam_of_others(tmp_path: Path) -> None:
    (tmp_path / "exam").mkdir()
    (tmp_path / "exam" / "T2.nii.gz").write_bytes(b"mine")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"T2.nii.gz: is there already, and another; choose"):
        demo(tmp_path)
    assert contents(tmp_path) == before


def test_what_belongs_to_the_mask_before_goes_with_it(exam: Exam, tmp_path: Path) -> None:
    segment(exam, tmp_path)
    corrected(tmp_path / "labels.nii.gz")
    settings = Settings(threshold=0.9, registration="none")
    predict(exam["FLAIR"], tmp_path / "mask.nii.gz", settings=settings, model=BRIGHT)
    left = {"mask.nii.gz", "mask.tsv", "mask.json", "labels.nii.gz"}  # the changed one is kept
    assert {path.name for path in tmp_path.iterdir()} == left
    (tmp_path / "labels.nii.gz").unlink()
    segment(exam, tmp_path)


def test_two_outputs_of_one_name_are_refused(exam: Exam, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "labels").mkdir()
    extras = Extras(labels=tmp_path / "labels" / "a.nii.gz")
    with pytest.raises(InputError, match=r"labels/a.nii.gz: two outputs have this name"):
        predict(exam["FLAIR"], tmp_path / "masks" / "a.nii.gz", extras=extras, model=BRIGHT)
    assert contents(tmp_path) == {}


def test_a_mask_with_another_ending_and_a_file_emptied_since_are_kept(
    exam: Exam, tmp_path: Path
) -> None:
    segment(exam, tmp_path)
    first = (tmp_path / "mask.nii.gz").read_bytes()
    (tmp_path / "labels.nii.gz").write_bytes(b"")
    settings = Settings(threshold=0.9, registration="none")
    predict(exam["FLAIR"], tmp_path / "mask.nii", settings=settings, model=BRIGHT)
    left = {"mask.nii", "mask.nii.gz", "mask.tsv", "mask.json", "labels.nii.gz"}
    assert {path.name for path in tmp_path.iterdir()} == left
    assert (tmp_path / "mask.nii.gz").read_bytes() == first


def test_a_report_in_another_folder_is_known_again(exam: Exam, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    (tmp_path / "reports").mkdir()
    mask, extras = tmp_path / "masks" / "a.nii.gz", Extras(report=tmp_path / "reports" / "a.html")
    plain = Settings(registration="none")
    (tmp_path / "masks" / "a.html").write_bytes(b"mine")
    for asked in (extras, Extras(), Extras(), extras):  # forgotten twice
        predict(exam["FLAIR"], mask, settings=plain, extras=asked, model=BRIGHT)
    assert (tmp_path / "masks" / "a.html").read_bytes() == b"mine"
    corrected(tmp_path / "reports" / "a.html")
    with pytest.raises(InputError, match=r"a.html: was changed after rsaseg wrote it"):
        predict(exam["FLAIR"], mask, settings=plain, extras=extras, model=BRIGHT)


def test_tables_are_written_whoever_reads_them(masks: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rsaseg", "evaluate", "--pred", masks, "--gt", masks]
    with subprocess.Popen([*command, "-o", tmp_path / "out"], stdout=subprocess.PIPE) as process:
        process.stdout.close()  # as head does
    assert (tmp_path / "out" / "evaluation.json").is_file()


def test_a_file_that_may_not_be_looked_at_is_not_seen(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    assert is_seen(tmp_path / "a")
    assert not is_seen(tmp_path)
    assert not is_seen(tmp_path / ("x" * 300))  # is_file() raises: the name is too long
