"""The benchmark that trains without a site: what it learns from, and what it says of the site."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from crude_exams import write_cases

from rsaseg.errors import InputError
from rsaseg.imaging import read_mask
from rsaseg.networks.weights import content_hash
from rsaseg.training.checkpoint import read_average
from rsaseg.training.log import read_log
from rsaseg.training.loop import read_described
from rsaseg.training.recipe import make_recipe


@pytest.fixture(scope="module")
def site_left_out(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("site_left_out")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    names = ("north-1", "north-2-made-01", "south-1", "south-2-made-01", "west-1")
    return write_cases(tmp_path / "data", names, (1.0, 1.0, 3.0))


def run(
    module: ModuleType, data: Path, site: str, results: str = "results", more: str = ""
) -> dict[str, float]:
    """Run with a network's crops of a size for tests."""
    given = f"{data.parent / results} --site {site} --data {data} --steps 6 --device cpu {more}"
    with pytest.MonkeyPatch.context() as patch:
        small = partial(make_recipe, crop_vox=(8, 32, 32), batch=1)
        patch.setattr(module, "make_recipe", small)
        dices: dict[str, float] = module.run(module.read_options(given.split()))
    return dices


def test_nothing_of_the_site_is_learned_and_all_of_it_is_tested(
    site_left_out: ModuleType, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dices = run(site_left_out, data, "north")
    folder = data.parent / "results/north"
    learned = {row["cases"] for row in read_log(folder / "log.csv")}
    assert learned <= {"south-1", "south-2-made-01", "west-1"}
    assert len(learned) > 1
    truth, _ = read_mask(data / "north-1/lesion.nii")
    called = np.load(folder / "north-1.npy") > 0.4
    assert dices == {
        "north-1": pytest.approx(2 * (called & truth).sum() / (called.sum() + truth.sum()))
    }
    out = capsys.readouterr().out
    assert "learns from 3 exams, none of north" in out
    assert f"north-1: {truth.sum() * 3 / 1000:.1f} ml, " in out


def test_it_goes_on_from_an_earlier_runs_network(site_left_out: ModuleType, data: Path) -> None:
    run(site_left_out, data, "north")
    run(site_left_out, data, "north", "second", f"--init {data.parent / 'results'}")
    first, second = (
        data.parent / name / "north/checkpoint.safetensors" for name in ("results", "second")
    )
    begun, _ = read_described(second)
    assert begun["start"] == content_hash(read_average(first), "")


def test_another_seed_is_another_training(site_left_out: ModuleType, data: Path) -> None:
    for seed in ("1", "2"):
        run(site_left_out, data, "north", seed, f"--seed {seed}")
    first, second = (data.parent / seed / "north/checkpoint.safetensors" for seed in ("1", "2"))
    assert content_hash(read_average(first), "") != content_hash(read_average(second), "")


@pytest.mark.parametrize("site", ["east", "south-1"])
def test_a_site_that_is_not_there(site_left_out: ModuleType, data: Path, site: str) -> None:
    with pytest.raises(InputError, match=f"site '{site}': .*there are north, south, west"):
        run(site_left_out, data, site)


def test_a_site_that_is_all_there_is(site_left_out: ModuleType, data: Path) -> None:
    cases = site_left_out.find_cases([data])
    north = [case for case in cases if case.name.startswith("north")]
    with pytest.raises(InputError, match="site 'north'"):
        site_left_out.part(north, "north")
