"""The script that teaches one network what several answer together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from crude_exams import CRUDE, write_cases
from scripts import run
from torch import Tensor, nn

from rsaseg.errors import InputError
from rsaseg.networks.weights import load_weights
from rsaseg.preprocessing import InputSpec, prepare
from rsaseg.train import train
from rsaseg.training.cases import find_cases, read_exam
from rsaseg.training.checkpoint import read_average
from rsaseg.training.splits import Validation

RECIPE = replace(CRUDE, steps=6, batch=2)
DEVICE = torch.device("cpu")


class OneSide(nn.Module):
    """Logit of lesion: FLAIR, and more of ``lean`` the further from the first sagittal slice."""

    def __init__(self, lean: float = 0.0) -> None:
        super().__init__()
        self.lean = lean

    def forward(self, x: Tensor) -> Tensor:
        lesion = x[:, 2] + self.lean * torch.linspace(0, 1, x.shape[4])
        return torch.stack([torch.zeros_like(lesion), lesion], dim=1)


@pytest.fixture(scope="module")
def distil(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("distil")


def ramps() -> Tensor:
    """Two crops whose FLAIR rises along each axis; the second shows no T1."""
    d, h, w = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in (8, 16, 24)), indexing="ij")
    images = torch.stack([d, h, d + h + 2 * w])[None].repeat(2, 1, 1, 1, 1)
    images[1, 0] = 0
    return images


def ask(module: ModuleType, given: str, networks: dict[str, nn.Module], needs: str = "") -> Tensor:
    looks = [module.read_look(text) for text in given.split()]
    by_folder = {Path(name): network for name, network in networks.items()}
    exact = replace(RECIPE, crop_vox=(4, 32, 32))  # a level two slices deep: in float32
    mean: Tensor = module.mean_of_looks(ramps(), looks, by_folder, needs.split(), exact, DEVICE)
    return mean


def test_the_mean_of_looks_by_hand(distil: ModuleType) -> None:
    networks = {"a": OneSide(3.0), "e": OneSide(1.0)}
    x = ramps()
    lean = torch.linspace(0, 1, 24)
    a = torch.sigmoid(x[:, 2] + 3 * lean)
    e = (torch.sigmoid(x[:, 2] + lean) + torch.sigmoid(x[:, 2] + lean.flip(0))) / 2
    mean = ask(distil, "a@once e e", networks, "T1")
    assert torch.allclose(mean[0], (a + 2 * e)[0] / 3, atol=1e-5)
    assert torch.allclose(mean[1], e[1], atol=1e-5)  # without T1 the first is not asked
    assert torch.allclose(ask(distil, "a@once e e", networks), (a + 2 * e) / 3, atol=1e-5)
    assert (a - e).abs().max() > 0.1


def test_what_needs_no_surroundings_is_the_same_in_finer_voxels(distil: ModuleType) -> None:
    closer = ask(distil, "e@0.85,0.85,2.6", {"e": OneSide()})
    once = ask(distil, "e@once", {"e": OneSide()})
    middle = (slice(None), slice(1, -1), slice(1, -1), slice(1, -1))
    assert torch.allclose(closer[middle], once[middle], atol=5e-3)
    assert once.std() > 0.1


def test_finer_voxels_are_more_along_each_axis(distil: ModuleType) -> None:
    sizes = []

    class Noting(OneSide):
        def forward(self, x: Tensor) -> Tensor:
            sizes.append(tuple(x.shape[2:]))
            return super().forward(x)

    images, (look,) = torch.zeros(1, 3, 26, 17, 34), [distil.read_look("e@0.85,0.5,2.6")]
    answer = distil.look_at(look, Noting(), images, InputSpec())
    assert sizes == [(30, 34, 40)]  # of 3, 1 and 1 mm: axial, coronal, sagittal slices
    assert answer.shape == (1, 26, 17, 34)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("distil")
    write_cases(place / "data", ["anna", "boris", "carl"], (1.2, 1.2, 1.6))
    for seed, name in ((1, "first"), (2, "second")):
        train([place / "data"], place / name, replace(RECIPE, seed=seed), Validation(2), "cpu")
    return place


def teach(module: ModuleType, place: Path, steps: int, output: str) -> Path:
    given = f"first@once second --needs T1 --data {place / 'data'} --folds 2"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run(module, f"{given} --steps {steps} -o {output}")
    return place / output


def test_the_taught_comes_nearer_to_its_teachers_and_goes_on(
    distil: ModuleType, place: Path
) -> None:
    taught = teach(distil, place, 40, "taught")
    network, info, _ = load_weights(taught / "weights.safetensors")
    exam = read_exam(find_cases([place / "data"])[0])
    images = torch.from_numpy(prepare(exam, info.input).image)[None]
    for split in ("fold-0", "fold-1", "final"):
        here, mirrored = {}, {}
        for name in ("first", "second", "taught"):
            network.load_state_dict(read_average(place / name / split / "checkpoint.safetensors"))
            with torch.no_grad():
                here[name] = distil.answer(network.eval(), images)
                mirrored[name] = distil.answer(network, images.flip(4)).flip(3)
        mean = here["first"] / 2 + (here["second"] + mirrored["second"]) / 4
        before, after = ((here[name] - mean).abs().mean() for name in ("second", "taught"))
        assert after < 0.9 * before, split
    cases = {path.name for path in (taught / "out-of-fold").glob("*.nii.gz")}
    assert cases == {"anna.nii.gz", "boris.nii.gz", "carl.nii.gz"}
    weights = (taught / "weights.safetensors").read_bytes()
    (taught / "weights.safetensors").unlink()
    teach(distil, place, 40, "taught")
    assert (taught / "weights.safetensors").read_bytes() == weights


def test_nothing_else_goes_on_where_networks_taught(distil: ModuleType, place: Path) -> None:
    taught = teach(distil, place, 2, "short")
    (taught / "final" / "checkpoint.safetensors").unlink()
    (taught / "weights.safetensors").unlink()
    recipe = replace(distil.TAUGHT, network=RECIPE.network, crop_vox=RECIPE.crop_vox, steps=2)
    recipe = replace(recipe, teachers=("first@once", "second"))
    with pytest.raises(InputError, match="final: taught by other networks"):
        train([place / "data"], taught, recipe, Validation(2), "cpu", str(place / "second"))
