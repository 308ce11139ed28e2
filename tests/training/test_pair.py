"""The script that averages looks of several trainings, against masks by the weights in use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from crude_exams import CRUDE, make_exam, write_case, write_cases
from scripts import run

from rsaseg import Model, Settings, load_model, segment
from rsaseg.errors import InputError
from rsaseg.networks.shipped import find_weights
from rsaseg.networks.weights import load_weights
from rsaseg.train import train
from rsaseg.training.checkpoint import read_average
from rsaseg.training.splits import Validation

RECIPE = replace(CRUDE, steps=4, batch=1)
FOLD_OF = {"anna": "fold-0", "boris": "fold-1", "carl": "fold-0"}
CLOSER = (0.85, 0.85, 2.6)


@pytest.fixture(scope="module")
def pair(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("pair")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three cases of thin slices, one of them without T1, and two trainings of two folds."""
    place = tmp_path_factory.mktemp("pair")
    write_cases(place / "data", FOLD_OF, (1.2, 1.2, 1.6), {"boris": "T1"})
    for seed, name in ((1, "first"), (2, "second")):
        train([place / "data"], place / name, replace(RECIPE, seed=seed), Validation(2), "cpu")
    return place


def average(module: ModuleType, place: Path, given: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run(module, f"{given} --data {place / 'data'} --partner rsa111-v12")


def in_use(place: Path, training: str, case: str, closer: bool) -> np.ndarray:
    """Return the probability that a fold's network gives, asked once as shipped weights are."""
    network, info, _ = load_weights(place / training / "weights.safetensors")
    network.load_state_dict(
        read_average(place / training / FOLD_OF[case] / "checkpoint.safetensors")
    )
    once = info.input.seen_once()
    spec = replace(once, spacing_mm=CLOSER) if closer else once
    model = Model(network, replace(info, input=spec, contrast_weight=0.0), training, sha256="")
    folder = place / "data" / case
    t1 = None if case == "boris" else folder / "T1.nii"
    settings = Settings(registration="none", device="cpu")
    found = segment(t1, folder / "T2.nii", folder / "FLAIR.nii", settings, model=model)
    return np.asarray(found.probability)


@pytest.mark.parametrize("case", FOLD_OF)
def test_looks_are_averaged_as_the_weights_are_in_use(
    pair: ModuleType, place: Path, case: str, tmp_path: Path
) -> None:
    looks = "first@once second second second@0.85,0.85,2.6"
    average(pair, place, f"{looks} --needs T1 -o {tmp_path}")
    own = np.load(place / "second" / FOLD_OF[case] / f"{case}.npy").astype(np.float32)
    seen = [own, own, in_use(place, "second", case, closer=True)]
    if case != "boris":  # without a T1 the first is not asked
        seen.append(in_use(place, "first", case, closer=False))
    averaged = np.load(tmp_path / FOLD_OF[case] / f"{case}.npy")
    assert np.allclose(averaged, np.mean(seen, axis=0), atol=1e-3)
    assert np.abs(averaged - own).max() > 0.01
    assert (tmp_path / f"out-of-fold/{case}.nii.gz").exists()


def test_weights_are_the_last_looks_and_name_the_partner(
    pair: ModuleType, place: Path, tmp_path: Path
) -> None:
    final = read_average(place / "second/final/checkpoint.safetensors")
    learned = load_weights(place / "second/weights.safetensors")[1].input
    sha256 = load_weights(find_weights("rsa111-v12"))[2]
    for looks, spec, needs, once in (
        ("first second", learned, ("T1",), False),
        ("first@once second second", learned, ("T1",), True),
        ("first@once second second@0.85,0.85,2.6", None, (), False),
    ):
        output = tmp_path / looks.replace(" ", "-")
        average(pair, place, f"{looks} --needs T1 --version 9 -o {output}")
        model = load_model(str(output / "weights.safetensors"))
        info, state = model.info, model.network.state_dict()
        assert (info.partner, info.partner_sha256, info.version) == ("rsa111-v12", sha256, "9")
        assert (info.partner_needs, info.partner_once) == (needs, once)
        assert info.input == (spec or replace(learned.seen_once(), spacing_mm=CLOSER))
        assert model.partner is not None
        assert model.partner.sha256 == sha256
        kernel = next(name for name in final if final[name].dim() > 1)
        assert np.array_equal(state[kernel], final[kernel].half().float())


@pytest.mark.parametrize("bits", [4, 6, 10])
def test_kernels_are_rounded_to_the_nearest_of_fewer_bits(pair: ModuleType, bits: int) -> None:
    values = np.random.default_rng(bits).normal(0, 0.05, 5000).astype(np.float16)
    values = values[np.abs(values) > np.finfo(np.float16).tiny]
    rounded = pair.round_fraction(torch.from_numpy(values), bits).numpy()
    assert not (rounded.view(np.uint16) & (2 ** (10 - bits) - 1)).any()
    steps = np.spacing(np.abs(values)).astype(np.float64) * 2 ** (10 - bits)
    assert (np.abs(rounded.astype(np.float64) - values) <= steps / 2).all()
    assert (rounded == values).all() == (bits == 10)


@pytest.mark.parametrize("bits", [4, 10])
def test_each_network_of_a_training_becomes_weights(
    pair: ModuleType,
    benchmark: Callable[[str], ModuleType],
    place: Path,
    tmp_path: Path,
    bits: int,
) -> None:
    first, data = place / "first", place / "data"
    run(pair, f"{first}@once --version 9 --data {data} -o {tmp_path / 'once'}")
    like, kept = tmp_path / "once/weights.safetensors", tmp_path / "kept"
    once = load_weights(first / "weights.safetensors")[1].input.seen_once()
    chosen = load_weights(like)[1]
    assert (chosen.partner, chosen.partner_sha256, chosen.input) == ("", "", once)
    keep = benchmark("keep_networks")
    run(keep, f"{first} --like {like} --bits {bits} -o {kept}")
    assert {p.stem for p in kept.iterdir()} == {"fold-0", "fold-1", "final"}
    for path in kept.iterdir():
        network, said, _ = load_weights(path)
        assert said == chosen
        learned = read_average(first / path.stem / "checkpoint.safetensors")
        for name, tensor in network.state_dict().items():
            whole = tensor.dim() <= 1
            expected = learned[name] if whole else pair.round_fraction(learned[name], bits)
            assert torch.equal(tensor, expected.float()), name


def test_no_network_of_a_fold_names_a_partner_that_knows_its_patients(
    pair: ModuleType, benchmark: Callable[[str], ModuleType], place: Path, tmp_path: Path
) -> None:
    like, kept = find_weights("rsa111-v13"), tmp_path / "kept"
    with pytest.raises(InputError, match=r"v13.safetensors: its partner rsa111-v12 knows"):
        run(benchmark("keep_networks"), f"{place / 'first'} --like {like} -o {kept}")
    assert not kept.exists()


def test_several_looks_without_a_partner_are_wrong_usage(
    pair: ModuleType, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = f"{place / 'first'}@once {place / 'second'}"
    with pytest.raises(SystemExit) as stop:
        run(pair, f"{looks} --data {place / 'data'} -o {tmp_path / 'out'}")
    assert stop.value.code == 2
    assert "several looks need --partner" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("how", ["twice", "0.85", "1,1,1,1"])
def test_a_look_that_is_none_is_wrong_usage(pair: ModuleType, place: Path, how: str) -> None:
    with pytest.raises(SystemExit) as stop:
        average(pair, place, f"first second@{how} -o {place / 'out'}")
    assert stop.value.code == 2
    assert not (place / "out").exists()


def test_trainings_on_other_cases_are_refused(
    pair: ModuleType, place: Path, tmp_path: Path
) -> None:
    write_case(tmp_path / "more/dora", make_exam(9))
    with pytest.raises(InputError, match=r"first: left out 3 cases, not these: see dora"):
        average(pair, place, f"first second --data {tmp_path / 'more'} -o {tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
