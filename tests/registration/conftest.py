"""A stand-in flirt, an exam with a known pose, and the raw sessions."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from poses import FLAIR_FROM

from rsaseg.phantom import Phantom, make_phantom, phantom_grid
from rsaseg.registration import AlignedExam, align_exam

RAW_SESSIONS = Path(__file__).parents[2] / "../shared/data/raw_sessions"
SMALL = {"shape_vox": (64, 76, 30), "spacing_mm": (3.0, 3.0, 5.5)}


@pytest.fixture(scope="session")
def raw_exam() -> Phantom:
    """An exam on three grids of different handedness, T1 and T2 moved by ``FLAIR_FROM``."""
    grids = {
        "T1": phantom_grid((70, 80, 40), (2.6, 2.6, 4.4), (0, 0, 0), "RAS"),
        "T2": phantom_grid((88, 70, 34), (2.4, 2.8, 5.0), (4, 0, -6), "PLS"),
    }
    return make_phantom(seed=3, grids=grids, flair_from=FLAIR_FROM, **SMALL)


@pytest.fixture(scope="session")
def aligned_exam(raw_exam: Phantom) -> AlignedExam:
    """The raw exam as SimpleITK aligns it."""
    others = {name: raw_exam.images[name] for name in ("T1", "T2")}
    return align_exam(raw_exam.images["FLAIR"], others, "simpleitk")


@pytest.fixture(scope="session")
def raw_sessions() -> Path:
    """The folder of raw sessions, or a skip that names it."""
    if not RAW_SESSIONS.is_dir():
        pytest.skip(f"needs raw sessions in {RAW_SESSIONS}")
    return RAW_SESSIONS.resolve()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An awkwardly named folder that takes the place of /tmp; must be empty after each test."""
    folder = tmp_path / "tmp 'quoted\"; touch $(x) é"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path) -> Callable[[str], Path]:
    """Put a flirt on PATH that runs the given Python lines; ``argument("-omat")`` reads options."""

    def build(lines: str) -> Path:
        folder = tmp_path / "fsl; 'bin' é"
        folder.mkdir(exist_ok=True)
        program = folder / "flirt"
        program.write_text(
            f"#!{sys.executable}\n"
            "import os, signal, sys, time\n"
            "def argument(name):\n    return sys.argv[sys.argv.index(name) + 1]\n"
            "def write(rows):\n"
            "    text = ''.join('  '.join(map(str, row)) + '  \\n' for row in rows)\n"
            "    open(argument('-omat'), 'w').write(text)\n"
            "eye = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]\n"
            f"if '-version' in sys.argv:\n    print('FLIRT version 6.0')\n    sys.exit()\n{lines}\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.delenv("FSLDIR", raising=False)
        return program

    return build
