"""The hallway stays one-way: who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "rsaseg"

# Rooms from the lowest floor to the highest. A room imports from floors below its own, and from
# no other room of its floor.
FLOORS = (
    ("__init__", "errors", "progress"),
    ("imaging", "patients"),
    ("lesions",),
    ("metrics",),
    ("registration", "preprocessing", "scoring"),
    ("networks", "anatomy"),
    ("inference",),
    ("training",),
    ("report", "phantom"),
    ("segmentation",),
    ("predict", "preprocess", "train"),
    ("demo", "verify"),
    ("cohort",),
    ("console",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MAY_USE_TORCH = {"networks", "inference", "training", "segmentation", "train"}
NEVER = ("pickle", "socket", "ssl", "urllib.request", "http", "ftplib", "requests")


def read_imports(package: Path) -> dict[str, set[str]]:
    """Return each module of ``package`` with the modules it imports anywhere in its text."""
    paths = {module_name(package, path): path for path in sorted(package.rglob("*.py"))}
    imports: dict[str, set[str]] = {}
    for name, path in paths.items():
        here = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = here.split(".")[: len(here.split(".")) - node.level + 1]
                parts = [*(above if node.level else []), *filter(None, [node.module])]
                base = ".".join(parts)
                inside = {f"{base}.{alias.name}" for alias in node.names}
                found |= inside | ({base} if inside - paths.keys() else set())
        imports[name] = found
    return imports


def module_name(package: Path, path: Path) -> str:
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


def upward_imports(imports: dict[str, set[str]]) -> list[str]:
    return [
        f"{module} imports {target}"
        for module, targets in sorted(imports.items())
        for target in sorted(targets & imports.keys())
        if room_of(target) != room_of(module)
        and FLOOR_OF[room_of(target)] >= FLOOR_OF[room_of(module)]
    ]


def check_for_cycles(imports: dict[str, set[str]]) -> None:
    TopologicalSorter({name: found & imports.keys() for name, found in imports.items()}).prepare()


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    found = read_imports(PACKAGE)
    assert "rsaseg.imaging.grid" in found["rsaseg.imaging.nifti"]
    return found


def test_every_room_has_a_floor(imports):
    assert {room_of(module) for module in imports} <= FLOOR_OF.keys()


def test_no_room_imports_upwards_or_sideways(imports):
    assert upward_imports(imports) == []


def test_no_module_imports_in_a_circle(imports):
    check_for_cycles(imports)


def test_torch_stays_in_its_rooms(imports):
    users = {
        room_of(module)
        for module, targets in imports.items()
        if any(target.split(".")[0] == "torch" for target in targets)
    }
    assert users <= MAY_USE_TORCH


def test_no_module_reaches_for_the_network_or_pickle(imports):
    assert {
        (module, target)
        for module, targets in imports.items()
        for target in targets
        if any(f"{target}.".startswith(f"{never}.") for never in NEVER)
    } == set()


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("imaging/grid.py", "from rsaseg.metrics import dice"),
        ("imaging/grid.py", "import rsaseg.metrics"),
        ("imaging/grid.py", "from .. import metrics"),
        ("imaging/grid.py", "from rsaseg import metrics"),
        ("imaging/grid.py", "def later():\n    from ..metrics import dice"),
        ("preprocessing/exam.py", "from rsaseg.registration import align"),
    ],
)
def test_an_import_in_the_wrong_direction_is_found(tmp_path, importer, statement):
    package = make_package(tmp_path, {importer: statement})
    assert len(upward_imports(read_imports(package))) == 1


@pytest.mark.parametrize(
    ("grid", "nifti"),
    [
        ("from rsaseg.imaging import nifti", "from . import grid"),
        ("from .nifti import read_volume", "import rsaseg.imaging.grid"),
    ],
)
def test_a_circle_inside_a_room_is_found(tmp_path, grid, nifti):
    package = make_package(tmp_path, {"imaging/grid.py": grid, "imaging/nifti.py": nifti})
    with pytest.raises(CycleError):
        check_for_cycles(read_imports(package))


def make_package(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "rsaseg"
    names = ("imaging/grid", "imaging/nifti", "preprocessing/exam", "registration/align", "metrics")
    for name in names:
        path = package / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(files.get(f"{name}.py", ""))
    return package


def loaded_modules(*arguments: str) -> tuple[set[str], str]:
    """Return the modules that a fresh interpreter loads, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True
    )
    rows = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {row.rpartition("|")[2].strip() for row in rows}, done.stdout


@pytest.mark.parametrize("module", ["rsaseg", "rsaseg.predict", "rsaseg.preprocess"])
def test_importing_leaves_torch_alone(module):
    """An exam is read and aligned without torch, or while it, which takes longer, is imported."""
    modules, _ = loaded_modules("-c", f"import {module}")
    assert module in modules
    assert "torch" not in modules


@pytest.mark.parametrize("command", [[], ["predict"], ["train"], ["demo"]])
def test_asking_for_help_leaves_torch_alone(command):
    modules, text = loaded_modules("-m", "rsaseg", *command, "--help")
    assert "Usage" in text
    assert "rsaseg.cli" in modules
    assert "torch" not in modules
