"""Preprocessing exams into folders: what is written, what is refused, and what resumes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from weakref import ref

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.affines import apply_affine
from typer.testing import CliRunner

from rsaseg.cli import app
from rsaseg.errors import InputError, RsasegError
from rsaseg.imaging import Grid, read_volume, resample, write_nifti
from rsaseg.phantom import make_phantom, write_phantom
from rsaseg.predict import predict
from rsaseg.preprocess import Choices, preprocess, preprocess_folder
from rsaseg.preprocessing.folder import PICTURE, RECORD
from rsaseg.registration import align_exam
from rsaseg.registration.flirt import ras_from_fsl

NONE = Choices(registration="none")
RAW_SESSIONS = Path(__file__).parents[1] / "../shared/data/raw_sessions"
POSE = np.array([[1, 0, 0, 7], [0, 1, 0, -5], [0, 0, 1, 4], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def raw_files(tmp_path_factory) -> dict[str, Path]:
    """A coarse exam whose T1 lies 9 mm off; in an awkwardly named folder."""
    exam = make_phantom(
        seed=5, shape_vox=(48, 56, 26), spacing_mm=(4.0, 4.0, 6.5), flair_from={"T1": POSE}
    )
    return write_phantom(tmp_path_factory.mktemp("raw 'exam'; $(x)"), exam)


@pytest.fixture
def raw_session() -> Path:
    """A session as it left the scanner, or a skip that names what is missing."""
    session = RAW_SESSIONS / "ljubljana-l01-s1"
    if not session.is_dir():
        pytest.skip(f"needs the raw session in {session}")
    return session.resolve()


@pytest.fixture(scope="module")
def written(raw_files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "exam"
    preprocess(raw_files["FLAIR"], folder, raw_files["T1"], raw_files["T2"])
    return folder


def test_what_is_written(written):
    assert sorted(path.name for path in written.iterdir()) == sorted(
        [
            *("T1.nii.gz", "T2.nii.gz", "FLAIR.nii.gz", PICTURE, RECORD),
            *(f"{t}_to_FLAIR.{kind}" for t in ("T1", "T2") for kind in ("txt", "mat", "tfm")),
        ]
    )


def test_images_are_float32_on_the_flairs_grid_and_the_flair_is_unchanged(written, raw_files):
    flair = nib.load(raw_files["FLAIR"])
    for name in ("T1", "T2", "FLAIR"):
        image = nib.load(written / f"{name}.nii.gz")
        assert image.get_data_dtype() == np.float32
        assert image.shape == flair.shape
        assert np.array_equal(image.affine, flair.affine)
    unchanged = nib.load(written / "FLAIR.nii.gz").get_fdata()
    assert np.array_equal(unchanged, flair.get_fdata())


def test_the_off_sequence_is_moved_and_the_other_is_not(written, raw_files):
    record = json.loads((written / RECORD).read_text())
    assert record["registration"]["T1"]["moved"] is True
    assert record["registration"]["T2"]["moved"] is False
    t2 = nib.load(written / "T2.nii.gz").get_fdata()
    assert np.array_equal(t2, nib.load(raw_files["T2"]).get_fdata())
    pose = np.loadtxt(written / "T1_to_FLAIR.txt")
    assert np.abs(apply_affine(pose, [0, 0, 0]) - POSE[:3, 3]).max() < 1.0


def test_the_three_transform_files_say_the_same(written, raw_files):
    """The T1 resampled by ITK with the .tfm, and by us with the .mat, is the T1 written."""
    t1, flair = read_volume(raw_files["T1"]), read_volume(raw_files["FLAIR"])
    image = read_volume(written / "T1.nii.gz")
    pose = np.loadtxt(written / "T1_to_FLAIR.txt")
    from_fsl = ras_from_fsl(np.loadtxt(written / "T1_to_FLAIR.mat"), t1.grid, flair.grid)
    np.testing.assert_allclose(from_fsl, pose, atol=1e-6)
    read = sitk.ReadTransform(str(written / "T1_to_FLAIR.tfm"))
    for point in flair.grid.corners_mm():
        x, y, z = read.TransformPoint((-point[0], -point[1], point[2]))
        np.testing.assert_allclose((-x, -y, z), apply_affine(np.linalg.inv(pose), point), atol=1e-6)
    assert np.array_equal(image.data, resample(t1.data, t1.grid, flair.grid, pose))


def test_segmenting_what_was_written_sees_the_same_voxels(written, raw_files):
    """What align_exam gives on the raw files equals what it gives on the preprocessed ones."""
    raw, again = (
        align_exam(
            read_volume(folder["FLAIR"]),
            {name: read_volume(folder[name]) for name in ("T1", "T2")},
        )
        for folder in (
            raw_files,
            {name: written / f"{name}.nii.gz" for name in ("T1", "T2", "FLAIR")},
        )
    )
    for name in ("T1", "T2", "FLAIR"):
        assert np.array_equal(raw.images[name].data, again.images[name].data)
        assert np.array_equal(raw.images[name].grid.affine, again.images[name].grid.affine)
    assert not any(alignment.moved for alignment in again.alignments.values())


def test_record_and_picture(written, raw_files):
    text = (written / RECORD).read_text()
    record = json.loads(text)
    assert record["registration"]["T1"]["engine"] in ("flirt", "simpleitk")
    assert record["registration"]["T1"]["version"]
    assert record["choices"] == {"registration": "auto", "n4": False, "force": False}
    assert set(record["input_sha256"]) == {"T1", "T2", "FLAIR"}
    assert str(raw_files["T1"].parent) not in text
    assert (written / PICTURE).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@pytest.mark.parametrize("air", [0.0, -1024.0])
def test_n4_flattens_a_known_shading(phantom, tmp_path, air):
    flair = phantom.images["FLAIR"]
    shade = np.linspace(0.6, 1.6, flair.grid.shape[0], dtype=np.float32)[:, None, None]
    path = tmp_path / "flair.nii.gz"
    write_nifti(path, (flair.data * shade + air).astype(np.float32), flair.header)
    preprocess(path, tmp_path / "flat", choices=Choices(n4=True))
    flat = nib.load(tmp_path / "flat" / "FLAIR.nii.gz").get_fdata() - air
    inside = phantom.brain & (flair.data > 0)
    ratios = [
        np.log(image[inside] / flair.data[inside]).std() for image in (flair.data * shade, flat)
    ]
    assert ratios[1] < 0.5 * ratios[0]


@pytest.mark.parametrize("n4", [False, True])
def test_the_stages_are_told(n4, phantom_files, tmp_path):
    told = []
    preprocess(
        *(phantom_files["FLAIR"], tmp_path / "out", phantom_files["T1"]),
        choices=Choices("none", n4),
        progress=lambda *stage: told.append(stage),
    )
    stages = [(name, done, 1) for name in ("read", "register", "files") for done in (0, 1)]
    assert told == [
        *stages[:4],
        *(("bias field", done, 2) for done in range(3 * n4)),
        *stages[4:],
    ]
    words = ["preprocess", "--flair", str(phantom_files["FLAIR"]), "-o", str(tmp_path / "again")]
    shown = CliRunner().invoke(app, [*words, *(["--n4"] * n4)], catch_exceptions=False)
    lines = ["read", "register", *["bias field"] * n4, "files"]
    assert shown.stderr.splitlines() == lines


# What is wrong with T1, a word of the message, and the exit status.
def _zeros(t1):
    write_nifti(t1, np.zeros((40, 40, 20), np.float32), nib.load(t1).header)


def _nan(t1):
    image = nib.load(t1)
    data = image.get_fdata(dtype=np.float32)
    data[3, 3, 3] = np.nan
    write_nifti(t1, data, image.header)


def _two_slices(t1):
    image = nib.load(t1)
    write_nifti(t1, image.get_fdata(dtype=np.float32)[:, :, :2], image.header)


def _forms(t1):
    image = nib.load(t1)
    image.header.set_qform(np.diag([2.0, 2, 2, 1]), 1)
    image.header.set_sform(np.diag([2.0, 2, 9, 1]), 1)
    nib.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(t1)


def _flat(t1):
    image = nib.load(t1)
    image.header.set_sform(np.diag([2.0, 2, 0, 1]), 1)
    image.header["qform_code"] = 0
    write_nifti(t1, np.asarray(image.dataobj), image.header)


def _other_body_part(t1):
    """Two long cylinders: legs."""
    image = nib.load(t1)
    x, y, _ = np.indices(image.shape)
    legs = (((x - 14) ** 2 + (y - 28) ** 2) < 60) | (((x - 34) ** 2 + (y - 28) ** 2) < 60)
    rng = np.random.default_rng(0)
    write_nifti(t1, (400 * legs + rng.random(image.shape)).astype(np.float32), image.header)


def _truncated(t1):
    t1.write_bytes(t1.read_bytes()[:5000])


BAD: dict[str, tuple[Callable[[Path], None], str, int]] = {
    "all zeros": (_zeros, "every voxel has the same value", 2),
    "NaN": (_nan, "NaN", 2),
    "two slices": (_two_slices, "only 2 slices", 2),
    "forms disagree": (_forms, "sform and qform", 2),
    "no inverse": (_flat, "no inverse", 2),
    "another body part": (_other_body_part, "FLAIR", 1),
    "truncated": (_truncated, "truncated", 2),
    "missing": (lambda t1: t1.unlink(), "no such file", 2),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_clear_line_and_leaves_nothing(what, raw_files, tmp_path):
    spoil, word, status = BAD[what]
    t1 = tmp_path / "T1; rm 'x'.nii.gz"
    shutil.copy(raw_files["T1"], t1)
    spoil(t1)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RsasegError) as raised:
        preprocess(raw_files["FLAIR"], tmp_path / "deep" / "out", t1)
    assert word in str(raised.value)
    assert t1.name in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.exit_code == status
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_never_replaces_an_input(phantom_files):
    folder = phantom_files["FLAIR"].parent
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="is an input"):
        preprocess(phantom_files["FLAIR"], folder, choices=NONE)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_output_that_is_a_file_is_refused(phantom_files, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(InputError, match="is a file"):
        preprocess(phantom_files["FLAIR"], tmp_path / "out", choices=NONE)


def test_a_full_disk_leaves_nothing(phantom_files, tmp_path):
    """No file may grow beyond 100 kB: the first image stops half way."""
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from rsaseg.errors import InputError\n"
        "from rsaseg.preprocess import Choices, preprocess\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    preprocess(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except InputError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", program, phantom_files["FLAIR"], tmp_path / "out"]
    path = os.pathsep.join(sys.path)
    run = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert "cannot be written" in run.stdout
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from rsaseg import preprocess
preprocess._write_picture = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
preprocess.preprocess(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def age(out: Path) -> None:
    """Let what is in the exams' folders be of two hours ago."""
    for place in out.glob("*/.rsaseg-*"):
        os.utime(place, (time.time() - 7200,) * 2)


def test_the_folder_of_a_run_at_work_is_left_to_it(phantom_files, tmp_path):
    at_work = tmp_path / ".rsaseg-12ab_xyz"
    at_work.mkdir()
    preprocess(phantom_files["FLAIR"], tmp_path, choices=NONE)
    assert at_work.is_dir()


def test_what_a_killed_run_left_is_removed_by_the_next(phantom_files, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    for name in ("a", "b"):
        (data / name).mkdir(parents=True)
        shutil.copy(phantom_files["FLAIR"], data / name)
    (data / "b" / "FLAIR.nii.gz").write_bytes(b"x")
    left = {}
    for again in ("made", "skipped"):
        for name in ("a", "b"):
            command = [sys.executable, "-c", KILLED, phantom_files["FLAIR"], out / name]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            assert subprocess.run(command, check=False, env=environment).returncode < 0
        age(out)
        (out / "a" / ".rsaseg-notes").mkdir(exist_ok=True)
        preprocess_folder(data, out, NONE)
        left[again] = sorted(path.name for path in out.glob("*/*"))
    assert left == {key: [".rsaseg-notes", "FLAIR.nii.gz", RECORD] for key in left}
    (out / "a" / ".rsaseg-12ab_xyz").mkdir()
    age(out)
    preprocess(phantom_files["FLAIR"], out / "a", choices=NONE)
    assert sorted(path.name for path in out.glob("*/*")) == left["made"]


def test_a_second_run_clears_what_the_first_wrote_of_other_inputs(phantom_files, tmp_path):
    preprocess(phantom_files["FLAIR"], tmp_path, phantom_files["T1"], choices=NONE)
    (tmp_path / "notes.txt").write_text("mine")
    preprocess(phantom_files["FLAIR"], tmp_path, choices=NONE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("FLAIR.nii.gz", "notes.txt", RECORD)
    ]


@pytest.fixture
def many(phantom_files, tmp_path) -> Path:
    """Three exams, the second without a readable T1, and a folder that is no exam."""
    data = tmp_path / "data"
    for name in ("a", "b", "c"):
        shutil.copytree(phantom_files["FLAIR"].parent, data / name)
    (data / "b" / "T1.nii.gz").write_bytes(b"x")
    (data / "papers").mkdir()
    return data


def test_a_broken_exam_does_not_stop_the_others_and_a_rerun_resumes(many, tmp_path):
    out = tmp_path / "out"
    first = preprocess_folder(many, out, NONE)
    assert [(one.name, one.status) for one in first] == [
        *(("a", "done"), ("b", "failed"), ("c", "done"))
    ]
    assert "b/T1.nii.gz" in first[1].message
    assert sorted(path.name for path in out.iterdir()) == ["a", "c"]
    stamp = (out / "a" / RECORD).stat().st_mtime_ns
    shutil.copy(many / "a" / "T1.nii.gz", many / "b")
    (out / "c" / "T2.nii.gz").unlink()
    second = preprocess_folder(many, out, NONE)
    assert [one.status for one in second] == ["skipped", "done", "done"]
    assert (out / "a" / RECORD).stat().st_mtime_ns == stamp
    t2 = nib.load(many / "a" / "T2.nii.gz")
    brighter = nib.Nifti1Image(np.asarray(t2.dataobj) + 1, t2.affine, t2.header)
    brighter.to_filename(many / "a" / "T2.nii.gz")
    third = preprocess_folder(many, out, NONE)
    assert [one.status for one in third] == ["done", "skipped", "skipped"]
    fourth = preprocess_folder(many, out, replace(NONE, force=True))
    assert [one.status for one in fourth] == ["done"] * 3


@pytest.mark.parametrize("name", [".", "a", "out", "link"])
def test_output_in_the_data_is_refused(name, phantom_files, tmp_path):
    data = tmp_path / "data"
    (data / "a").mkdir(parents=True)
    flair = nib.load(phantom_files["FLAIR"])
    flair.to_filename(data / "a" / "flair.nii")
    (tmp_path / "link").symlink_to(data)
    folder = tmp_path / "link" if name == "link" else data / name
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="lies in the data; give a folder outside it"):
        preprocess_folder(data, folder, NONE)
    assert sorted(tmp_path.rglob("*")) == before


def _single_slice(source: Path, path: Path) -> None:
    image = nib.load(source)
    middle = image.shape[2] // 2
    data = image.get_fdata(dtype=np.float32)[:, :, middle : middle + 1]
    nib.Nifti1Image(data, image.affine).to_filename(path)


def test_an_exam_of_one_slice_stops_no_other_under_n4(phantom_files, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
    _single_slice(phantom_files["FLAIR"], tmp_path / "data" / "a" / "FLAIR.nii")
    shutil.copy(phantom_files["FLAIR"], tmp_path / "data" / "b")
    outcomes = preprocess_folder(tmp_path / "data", tmp_path / "out", Choices("none", n4=True))
    assert [one.status for one in outcomes] == ["failed", "done"]
    flair = tmp_path / "data" / "a" / "FLAIR.nii"
    assert outcomes[0].message == f"{flair}: too thin for N4 (84 x 96 x 1 voxels); leave --n4 out"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "ran out of memory"),
        (RuntimeError("of\nITK"), "RuntimeError: of ITK; preprocess it alone with --debug"),
    ],
)
def test_an_unforeseen_error_is_an_exams_own(error, words, many, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("rsaseg.preprocess.align_exam", fail)
    outcomes = preprocess_folder(many, tmp_path / "out", NONE)
    assert [one.status for one in outcomes] == ["failed"] * 3
    assert f"{many / 'a'}: {words}" in outcomes[0].message


def test_no_image_of_an_exam_is_kept_while_the_next_ones_are_made(many, tmp_path, monkeypatch):
    aligned = []

    def watched(*args: object) -> object:
        exam = align_exam(*args)
        aligned.append(ref(exam))
        return exam

    monkeypatch.setattr("rsaseg.preprocess.align_exam", watched)
    outcomes = preprocess_folder(many, tmp_path / "out", NONE)
    assert aligned
    assert [kept() for kept in aligned] == [None] * len(aligned)
    assert {outcome.status for outcome in outcomes} >= {"done"}


def test_a_folder_that_cannot_be_read_stops_no_other(many, tmp_path, monkeypatch):
    inside = Path.iterdir

    def deny(folder: Path) -> Iterator[Path]:
        if folder in denied:
            raise PermissionError(13, "Permission denied")
        return inside(folder)

    monkeypatch.setattr(Path, "iterdir", deny)
    denied = [many / "b"]
    outcomes = preprocess_folder(many, tmp_path / "out", NONE)
    assert [one.status for one in outcomes] == ["done", "failed", "done"]
    assert outcomes[1].message.startswith(f"{many / 'b'}: cannot be read (Permission denied); ")
    denied = [many]
    with pytest.raises(InputError, match="data: cannot be read"):
        preprocess_folder(many, tmp_path / "out", NONE)


def test_images_that_are_no_exam_are_told_as_failed(phantom_files, tmp_path):
    data, flair = tmp_path / "data", phantom_files["FLAIR"]
    for name in (
        *("a/FLAIR.nii.gz", "b/b_FLAIR.nii.gz", "site/d/FLAIR.nii.gz", "e/lesion.nii.gz"),
        *("loose.NII.gz", ".hidden/FLAIR.nii.gz", ".hidden.nii", "papers/._x.nii"),
        *("papers/a.pdf", "papers/.old/x.nii", "notes.txt"),
    ):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(flair, data / name)
    (data / "site" / "again").symlink_to(data / "site")
    missing = "has no FLAIR NIfTI file; add or rename it, or move the folder"
    told = [(one.name, one.message) for one in preprocess_folder(data, tmp_path / "out", NONE)]
    assert told == [
        ("a", ""),
        ("b", f"{data / 'b'}: {missing}"),
        ("e", f"{data / 'e'}: {missing}"),
        ("site", f"{data / 'site'}: its images lie deeper; give --data {data / 'site'}"),
        (
            "loose.NII.gz",
            f"{data / 'loose.NII.gz'}: in no exam's folder; put it into one, or elsewhere",
        ),
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    shutil.rmtree(data / "a")
    told = preprocess_folder(data, tmp_path / "out", NONE)
    assert [one.status for one in told] == ["failed"] * 4


def test_lesion_masks_come_along_for_training(many, tmp_path, phantom):
    preprocess_folder(many, tmp_path / "out", NONE)
    lesion = nib.load(tmp_path / "out" / "a" / "lesion.nii.gz")
    assert np.array_equal(np.asarray(lesion.dataobj), phantom.lesion)
    grid = Grid(phantom.grid.shape, phantom.grid.affine @ np.diag([1, 1, 2, 1.0]))
    header = nib.load(many / "a" / "lesion.nii.gz").header
    header.set_sform(grid.affine, 1)
    header.set_qform(grid.affine, 1)
    write_nifti(many / "a" / "lesion.nii.gz", phantom.lesion.astype(np.uint8), header)
    outcome = preprocess_folder(many, tmp_path / "out", NONE)[0]
    assert outcome.status == "failed"
    assert "lesion.nii.gz" in outcome.message


def test_a_folder_without_exams_is_refused(tmp_path):
    with pytest.raises(InputError, match="no exams found"):
        preprocess_folder(tmp_path, tmp_path / "out")
    with pytest.raises(InputError, match="no such folder"):
        preprocess_folder(tmp_path / "gone", tmp_path / "out")


def test_a_failed_registration_is_written_when_forced_and_says_so(raw_files, tmp_path):
    t1 = tmp_path / "T1.nii.gz"
    shutil.copy(raw_files["T1"], t1)
    _other_body_part(t1)
    exam = preprocess(raw_files["FLAIR"], tmp_path / "out", t1, choices=Choices(force=True))
    assert "used all the same" in exam.warnings[0]
    record = json.loads((tmp_path / "out" / RECORD).read_text())
    assert record["registration"]["T1"]["problem"]


def test_swapped_sequences_are_told_and_kept_in_the_record(phantom_files, tmp_path):
    folder = tmp_path / "out"
    flair, t2 = (str(phantom_files[name]) for name in ("FLAIR", "T2"))
    words = ["preprocess", "--flair", t2, "--t2", flair, "-o", str(folder)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert f"warning: {t2}: fluid is bright in it, as in no FLAIR" in done.stderr
    assert "swapped" in " ".join(json.loads((folder / RECORD).read_text())["warnings"])


@pytest.mark.parametrize("option", ["--flair", "--data"])
def test_warnings_are_printed_and_a_picture_named_where_there_is_one(option, raw_files, tmp_path):
    """The truth: a FLAIR whose header was stripped of its orientation, and a T1 of legs."""
    place, out = tmp_path / "data" / "p1", tmp_path / "out"
    place.mkdir(parents=True)
    flair, t1 = place / "FLAIR.nii.gz", place / "T1.nii.gz"
    image = nib.load(raw_files["FLAIR"])
    image.header["sform_code"] = image.header["qform_code"] = 0
    nib.Nifti1Image(np.asarray(image.dataobj), None, image.header).to_filename(flair)
    given = [flair] if option == "--flair" else [place.parent]
    words = ["preprocess", option, *map(str, given), "-o", str(out), "--force"]
    alone = CliRunner().invoke(app, words, catch_exceptions=False)
    assert f"warning: {flair}: no orientation in the header" in alone.stderr
    assert PICTURE not in alone.stdout
    shutil.copy(raw_files["T1"], t1)
    _other_body_part(t1)
    words += ["--t1", str(t1)] if option == "--flair" else []
    both = CliRunner().invoke(app, words, catch_exceptions=False)
    assert (alone.exit_code, both.exit_code) == (0, 0)
    assert f"warning: {flair}: no orientation in the header" in both.stderr
    assert re.search(rf"warning: {re.escape(str(t1))}: .*; used all the same", both.stderr)
    assert (PICTURE in both.stdout) == (option == "--flair")


def test_predict_after_preprocess_is_predict_on_the_raw_files(raw_session, tmp_path):
    """Voxel for voxel: what preprocess wrote lies on one grid and is not moved again."""
    raw = {name.lower(): raw_session / f"{name}.nii.gz" for name in ("T1", "T2", "FLAIR")}
    preprocess(raw["flair"], tmp_path / "aligned", raw["t1"], raw["t2"])
    aligned = {name: tmp_path / "aligned" / path.name for name, path in raw.items()}
    at_once = predict(output=tmp_path / "raw.nii.gz", **raw)
    after = predict(output=tmp_path / "after.nii.gz", **aligned)
    assert all(one["moved"] for one in at_once.record["registration"].values())
    assert not any(one["moved"] for one in after.record["registration"].values())
    one, other = (nib.load(tmp_path / f"{name}.nii.gz") for name in ("raw", "after"))
    assert np.array_equal(one.affine, other.affine)
    assert np.asarray(one.dataobj).any()
    assert np.array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))
