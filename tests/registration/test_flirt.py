"""The FLIRT wrapper against a stand-in that acts out every recorded behaviour of FLIRT."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Header
from poses import FLAIR_FROM, random_grid

from rsaseg.errors import InputError, RegistrationError
from rsaseg.imaging import Volume
from rsaseg.registration import flirt

EXCEPTION = "Image Exception : #63 :: No image files match: moving"

# What FLIRT does, and a word of our message. All but the first six exit 0.
FAILURES = {
    "unknown option": ("sys.stderr.write('Unrecognised option\\n'); sys.exit(255)", "exit 255"),
    "no arguments": ("print('Usage: flirt'); sys.exit(2)", "exit 2"),
    "output type unset": (
        "write(eye); sys.stderr.write('ERROR:: FSLOUTPUTTYPE'); sys.exit(1)",
        "1",
    ),
    "segmentation fault": ("write(eye); os.kill(os.getpid(), signal.SIGSEGV)", "exit -11"),
    "abort": ("os.kill(os.getpid(), signal.SIGABRT)", "exit -6"),
    "silent crash": ("sys.exit(1)", "no message"),
    "missing image": (f"sys.stderr.write({EXCEPTION!r})", "No image files match"),
    "exception and a matrix": (f"write(eye); sys.stderr.write({EXCEPTION!r})", "No image files"),
    "exception on stdout": (f"write(eye); print({EXCEPTION!r})", "No image files match"),
    "truncated image": ("print('Image Exception : #22 :: short read')", "short read"),
    "no output folder": ("write(eye); print('Error: cant open file')", "cant open file"),
    "matrix not writable": ("print('Could not open file m.mat for writing')", "Could not open"),
    "empty image": ("write(eye); print('WARNING::in calculating COG, total = 0.0')", "COG"),
    "damaged image": ("write(eye); print('WARNING: Found 0 or less sub-threshold costs')", "sub-"),
    "singular matrix": ("write(eye); sys.stderr.write('inv(): matrix is singular')", "singular"),
    "no matrix, no word": ("pass", "wrote no matrix"),
    "three rows": ("write(eye[:3])", "4x4 finite numbers"),
    "words": ("write([['a', 'b']])", "4x4 finite numbers"),
    "ragged": ("write([[1, 0], [0, 1, 0]])", "4x4 finite numbers"),
    "empty matrix": ("write([])", "4x4 finite numbers"),
    "not a number": ("eye[0][3] = float('nan'); write(eye)", "4x4 finite numbers"),
    "binary": ("open(argument('-omat'), 'wb').write(bytes(range(256)))", "4x4 finite numbers"),
    "scaling": ("eye[0][0] = 1.1; write(eye)", "not a rotation"),
    "mirror": ("eye[0][0] = -1; write(eye)", "not a rotation"),
    "last row": ("eye[3][0] = 1; write(eye)", "not a rotation"),
}


@pytest.fixture(scope="module")
def pair():
    """Two images of noise on grids of different handedness."""
    rng = np.random.default_rng(0)
    grids = random_grid(rng, "RAS"), random_grid(rng, "LPS")
    return tuple(
        Volume(rng.random(grid.shape, np.float32), grid, Nifti1Header(), "noise") for grid in grids
    )


@pytest.fixture(scope="module")
def heads(raw_exam):
    return raw_exam.images["T1"], raw_exam.images["FLAIR"]


@pytest.mark.parametrize("behaviour", FAILURES)
def test_each_failure_is_one_clear_line_and_leaves_nothing(behaviour, act, pair, temporary):
    lines, word = FAILURES[behaviour]
    act(lines)
    with pytest.raises(RegistrationError, match=r"^flirt: ") as raised:
        flirt.estimate(*pair)
    assert word in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 500
    assert list(temporary.iterdir()) == []


def test_its_answer_comes_back_in_world_space(act, pair, temporary):
    matrix = flirt.fsl_from_ras(FLAIR_FROM["T1"], pair[0].grid, pair[1].grid).tolist()
    act(f"write({matrix})")
    np.testing.assert_allclose(flirt.estimate(*pair), FLAIR_FROM["T1"], atol=1e-9)
    assert list(temporary.iterdir()) == []


def test_hexadecimal_matrix_of_old_versions(act, pair):
    matrix = flirt.fsl_from_ras(FLAIR_FROM["T1"], pair[0].grid, pair[1].grid)
    act(f"write({[[float(x).hex() for x in row] for row in matrix]})")
    np.testing.assert_allclose(flirt.estimate(*pair), FLAIR_FROM["T1"], atol=1e-9)


def test_what_it_is_handed(act, pair, tmp_path):
    """Plain float32 copies with one affine in both forms; the arguments that measured best."""
    log = tmp_path / "log"
    log.mkdir()
    act(
        "import shutil\n"
        "for name in ('-in', '-ref'):\n"
        f"    shutil.copy(argument(name), {str(log)!r} + '/' + name)\n"
        f"open({str(log / 'argv')!r}, 'w').write('\\n'.join(sys.argv[1:]))\n"
        f"open({str(log / 'type')!r}, 'w').write(os.environ['FSLOUTPUTTYPE'])\n"
        "write(eye)"
    )
    flirt.estimate(*pair)
    words = (log / "argv").read_text().split("\n")
    assert words[6:] == [
        *("-dof", "6", "-cost", "normmi", "-searchcost", "normmi", "-usesqform", "-nosearch")
    ]
    assert (log / "type").read_text() == "NIFTI"
    for name, volume in zip(("-in", "-ref"), pair, strict=True):
        copy = nib.Nifti1Image.from_bytes((log / name).read_bytes())
        assert copy.get_data_dtype() == np.float32
        assert np.array_equal(copy.get_fdata(dtype=np.float32), volume.data)
        assert int(copy.header["sform_code"]) == int(copy.header["qform_code"]) == 1
        np.testing.assert_allclose(copy.header.get_sform(), volume.grid.affine, atol=1e-4)
        np.testing.assert_allclose(copy.header.get_qform(), volume.grid.affine, atol=1e-3)
        np.testing.assert_allclose(copy.header.get_zooms(), volume.grid.spacing_mm, rtol=1e-5)
    flirt.estimate(*pair, use_headers=False)
    assert "-usesqform" not in (log / "argv").read_text()


def test_a_hang_ends_it_and_its_children(act, pair, temporary, tmp_path):
    child = tmp_path / "child"
    act(
        "import subprocess\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(child)!r}, 'w').write(str(child.pid))\n"
        "time.sleep(60)"
    )
    started = time.monotonic()
    with pytest.raises(RegistrationError, match=r"no answer in 3 s and was stopped"):
        flirt.estimate(*pair, timeout_s=3.0)
    assert time.monotonic() - started < 30
    assert list(temporary.iterdir()) == []
    pid = int(child.read_text())
    for _ in range(50):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or ") Z" in state.read_text():
            break
        time.sleep(0.1)
    else:
        pytest.fail("its child still runs")


def test_a_program_that_cannot_run(act, pair, temporary):
    act("").write_text("#!/no/such/interpreter\n")
    with pytest.raises(RegistrationError, match="cannot be run"):
        flirt.estimate(*pair)
    assert list(temporary.iterdir()) == []


def test_absent_flirt_says_how_to_get_it_and_its_licence(monkeypatch, pair, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("FSLDIR", raising=False)
    with pytest.raises(InputError, match=r"fsl\.fmrib\.ox\.ac\.uk .*non-commercial"):
        flirt.estimate(*pair)


def test_found_on_path_before_fsldir(act, monkeypatch, tmp_path):
    first = act("")
    other = tmp_path / "fsl" / "bin" / "flirt"
    other.parent.mkdir(parents=True)
    shutil.copy(first, other)
    monkeypatch.setenv("FSLDIR", str(tmp_path / "fsl"))
    assert flirt.find_flirt() == first
    monkeypatch.setenv("PATH", str(tmp_path))
    assert flirt.find_flirt() == other


def test_version_is_the_release_where_the_tree_tells_it(act, monkeypatch, tmp_path):
    program = act("")
    assert flirt.version(program) == "FLIRT version 6.0"
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "fslversion").write_text("6.0.7.4\n")
    monkeypatch.setenv("FSLDIR", str(tmp_path))
    assert flirt.version(program) == "FSL 6.0.7.4"


def test_no_temporary_folder(act, pair, monkeypatch, tmp_path):
    act("write(eye)")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(RegistrationError, match="set TMPDIR"):
        flirt.estimate(*pair)


def test_full_temporary_folder(act, pair, temporary):
    act("write(eye)")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # no file may grow beyond it
    try:
        with pytest.raises(RegistrationError, match="set TMPDIR"):
            flirt.estimate(*pair)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(shutil.which("flirt") is None, reason="needs FSL's flirt on PATH")
@pytest.mark.parametrize("use_headers", [True, False])
def test_real_flirt_finds_a_known_pose(heads, temporary, use_headers):
    found = flirt.estimate(*heads, use_headers=use_headers)
    points = heads[1].grid.corners_mm() / 2
    apart = (found - FLAIR_FROM["T1"]) @ np.c_[points, np.ones(8)].T
    assert np.linalg.norm(apart[:3], axis=0).mean() < 1.0
    assert list(temporary.iterdir()) == []


@pytest.mark.skipif(shutil.which("flirt") is None, reason="needs FSL's flirt on PATH")
def test_real_flirt_on_an_unreadable_image(heads, temporary, monkeypatch):
    monkeypatch.setattr(flirt, "_write_copy", lambda path, volume: path.write_bytes(os.urandom(99)))
    with pytest.raises(RegistrationError, match=r"^flirt: "):
        flirt.estimate(*heads)
    assert list(temporary.iterdir()) == []
