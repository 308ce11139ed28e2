"""What several tests share."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from rsaseg.phantom import Phantom, make_phantom, write_phantom

# Two processes run the tests: each, and each program that it runs, computes on one core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, however slow the machine.
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")

LABELLED = Path(__file__).parents[1] / "../shared/data/labelled"


@pytest.fixture(scope="session")
def phantom() -> Phantom:
    """A small exam, oblique and anisotropic; do not change its arrays."""
    return make_phantom(seed=0, shape_vox=(84, 96, 40), spacing_mm=(2.2, 2.2, 4.0))


@pytest.fixture(scope="session")
def phantom_files(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """T1, T2, FLAIR and lesion files of the small exam; do not change them."""
    return write_phantom(tmp_path_factory.mktemp("exam"), phantom)


@pytest.fixture(scope="session")
def benchmark() -> Iterator[Callable[[str], ModuleType]]:
    """Import a script of ``tests/benchmarks`` by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
        yield importlib.import_module


@pytest.fixture(scope="session")
def labelled() -> Path:
    """The folder of labelled patients, or a skip that names it."""
    if not LABELLED.is_dir():
        pytest.skip(f"needs labelled patients in {LABELLED}")
    return LABELLED.resolve()
