"""The benchmark against nnU-Net: the same folds and minutes for all, and a run that resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
from crude_exams import write_cases

from rsaseg.errors import InputError
from rsaseg.metrics import Overlap
from rsaseg.training.recipe import make_recipe


@pytest.fixture(scope="module")
def peers(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("peers")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    names = ("anna-t1", "anna-t2", "boris", "ewa")
    return write_cases(tmp_path / "data", names, (1.0, 1.0, 3.0), {"ewa": "T2"})


def run(
    peers: ModuleType, data: Path, systems: str, minutes: float = 0.003, memory_gb: int = 1
) -> dict[str, list]:
    """Run with networks of a size for tests."""
    given = f"{data.parent / 'results'} --data {data} --folds 2 --threads 1 --device cpu"
    options = f"{given} --systems {systems} --minutes {minutes} --memory-gb {memory_gb}".split()
    with pytest.MonkeyPatch.context() as patch:
        small = partial(make_recipe, crop_vox=(8, 32, 32), batch=1)
        patch.setattr(peers, "make_recipe", small)
        return peers.run(peers.read_options(options))


def test_each_patient_is_left_out_once_and_the_minutes_set_the_steps(
    peers: ModuleType, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = run(peers, data, "unet")["unet"]
    tested = sorted(name for job in jobs for name in job["cases"])
    assert tested == ["anna-t1", "anna-t2", "boris"]  # ewa has no T2
    assert {"anna-t1", "anna-t2"} in [set(job["cases"]) for job in jobs]
    assert all(job["steps"] >= 1 for job in jobs)
    assert "| unet |" in capsys.readouterr().out
    kept = data.parent / "results/fold-0/unet.json"
    told = json.loads(kept.read_text())
    told["steps"] = 77
    kept.write_text(json.dumps(told))
    assert run(peers, data, "unet")["unet"][0]["steps"] == 77  # a finished job is not done again
    with pytest.raises(InputError, match=r"unet\.json: of another budget"):
        run(peers, data, "unet", minutes=0.004)


def test_nnunet_is_trained_and_tested_by_its_own_package(peers: ModuleType, data: Path) -> None:
    pytest.importorskip("nnunetv2", reason="needs nnunetv2")
    jobs = run(peers, data, "nnunet")["nnunet"]
    assert sorted(name for job in jobs for name in job["cases"]) == ["anna-t1", "anna-t2", "boris"]
    with pytest.raises(InputError, match=r"nnunet\.json: of another budget"):
        run(peers, data, "nnunet", memory_gb=2)


def test_the_table_has_sites_and_both_averages(
    peers: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    folds = [
        {"a-1": asdict(Overlap(1, 1, 1)), "b-1": asdict(Overlap(3, 0, 0))},
        {"a-2": asdict(Overlap(0, 1, 1))},
    ]
    peers.print_table({"x": [{"steps": 5 + i, "cases": cases} for i, cases in enumerate(folds)]})
    row = capsys.readouterr().out.splitlines()[-1]  # 1/2 and 0; 1; 8 / 12 voxels
    assert row == "| x | 5 to 6 | 0.250 | 1.000 | 0.500 | 0.667 |"
