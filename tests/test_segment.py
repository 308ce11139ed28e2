"""Segmenting in memory and to files, with a network whose answer a person can work out."""

from __future__ import annotations

import doctest
import hashlib
import importlib
import json
import math
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

import rsaseg
from rsaseg.anatomy import LOCATIONS, Anatomy, brain_region
from rsaseg.errors import InputError, WeightsError
from rsaseg.imaging import Grid, Volume, read_volume
from rsaseg.imaging.files import write_together
from rsaseg.lesions import Cut
from rsaseg.networks.shipped import DEFAULT_WEIGHTS
from rsaseg.networks.unet import NetworkConfig, RSANet
from rsaseg.networks.weights import WeightsInfo, load_weights, save_weights
from rsaseg.phantom import Phantom, make_phantom, write_phantom
from rsaseg.predict import Extras, predict
from rsaseg.preprocessing import InputSpec, prepare, to_flair_grid
from rsaseg.report.lesion_table import LESION_COLUMNS
from rsaseg.segmentation import Settings, threshold_range, volume_at
from rsaseg.segmentation.model import Model, load_model
from rsaseg.segmentation.network import segment_exam
from rsaseg.segmentation.result import entropy, find
from rsaseg.training.cases import CaseFiles
from rsaseg.training.recipe import Recipe
from rsaseg.training.unseen import segment_unseen

SPEC = InputSpec(spacing_mm=(3.0, 3.0, 5.5), mirrored=False)
Exam = dict[str, Path]


class BrightOnFlair(nn.Module):
    """Calls lesion what is bright on the FLAIR, and more so where the tissue to one side is not."""

    def __init__(self, sidedness: float = 0.0) -> None:
        super().__init__()
        self.sidedness = sidedness

    def forward(self, x: Tensor) -> Tensor:
        flair = x[:, 2]
        logit = 3 * (flair - 1.5) + self.sidedness * (flair - flair.roll(1, -1))
        return torch.stack([torch.zeros_like(logit), logit], 1)


def model_of(network: nn.Module) -> Model:
    info = WeightsInfo(input=SPEC, cut=Cut(0.5, min_lesion_mm3=60.0))
    return Model(network, info, "bright", "0" * 64)  # type: ignore[arg-type]


BRIGHT = model_of(BrightOnFlair())
ALIGNED = Settings(registration="none")


@pytest.fixture(scope="module")
def small() -> Phantom:
    return make_phantom(seed=2, shape_vox=(64, 76, 30), spacing_mm=(3.0, 3.0, 5.5))


@pytest.fixture(scope="module")
def files(small: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Exam:
    return write_phantom(tmp_path_factory.mktemp("small"), small)


@pytest.fixture(scope="module")
def found(files: Exam) -> rsaseg.Segmentation:
    return rsaseg.segment(files["T1"], files["T2"], files["FLAIR"], ALIGNED, model=BRIGHT)


def test_swapped_sequences_are_told(found: rsaseg.Segmentation, files: Exam) -> None:
    swapped = rsaseg.segment(files["T1"], files["FLAIR"], files["T2"], ALIGNED, model=BRIGHT)
    told = [text for text in swapped.warnings if "swapped" in text]
    assert len(told) == 2
    assert not [text for text in found.warnings if "swapped" in text]


def test_partners_are_averaged_each_with_its_own_input(
    found: rsaseg.Segmentation, files: Exam
) -> None:
    other = model_of(BrightOnFlair(sidedness=2.0))
    other = replace(other, info=replace(other.info, input=replace(SPEC, normalisation="head")))
    paths = (files["T1"], files["T2"], files["FLAIR"])
    alone = rsaseg.segment(*paths, ALIGNED, model=other)
    pair = rsaseg.segment(*paths, ALIGNED, model=replace(BRIGHT, partner=other))
    expected = (found.probability + alone.probability) / 2
    np.testing.assert_allclose(pair.probability, expected, atol=1e-6)
    assert np.abs(pair.probability - found.probability).max() > 0.1
    assert pair.record["weights"]["partner"]["name"] == other.name


@pytest.mark.parametrize(
    ("weights", "sequences", "members"),
    [
        (DEFAULT_WEIGHTS, ["T1", "T2", "FLAIR"], ["rsa111-v18", "rsa111-v16", "rsa111-v12"]),
        (DEFAULT_WEIGHTS, ["FLAIR"], ["rsa111-v18", "rsa111-v16"]),
        ("rsa111-v19-fast", ["T1", "T2", "FLAIR"], ["rsa111-v19-fast"]),
        ("rsa111-v15", ["T1", "FLAIR"], ["rsa111-v15", "rsa111-v12"]),
        ("rsa111-v14", ["FLAIR"], ["rsa111-v14", "rsa111-v12"]),
        ("rsa111-v4", ["FLAIR"], ["rsa111-v4", "rsa111-v1"]),
    ],
)
def test_the_shipped_weights_have_their_partner(
    weights: str, sequences: list[str], members: list[str]
) -> None:
    assert [one.name for one in load_model(weights).members(sequences)] == members


def test_a_partner_is_not_asked_without_what_it_needs(files: Exam) -> None:
    other = model_of(BrightOnFlair(sidedness=2.0))
    needing = replace(BRIGHT.info, partner_needs=("T1",))
    model = replace(BRIGHT, info=needing, partner=other)
    alone = rsaseg.segment(None, files["T2"], files["FLAIR"], ALIGNED, model=BRIGHT)
    found = rsaseg.segment(None, files["T2"], files["FLAIR"], ALIGNED, model=model)
    assert np.array_equal(found.probability, alone.probability)
    assert "partner" not in found.record["weights"]
    both = rsaseg.segment(files["T1"], None, files["FLAIR"], ALIGNED, model=model)
    assert both.record["weights"]["partner"]["name"] == other.name


def test_a_partner_asked_once_counts_as_one_pass_of_three(upright: dict[str, Volume]) -> None:
    sided, other = (model_of(BrightOnFlair(sidedness=side)) for side in (1.0, 2.0))
    both_ways = replace(SPEC, mirrored=True)
    partner = replace(other, info=replace(other.info, input=both_ways))
    info = replace(sided.info, input=both_ways, partner_once=True)
    result = segment_exam(upright, replace(sided, info=info, partner=partner), Settings())
    straight = segment_exam(upright, sided, Settings()).probability
    exam = {name: mirrored(volume) for name, volume in upright.items()}
    turned = segment_exam(exam, sided, Settings()).probability[::-1]
    once = segment_exam(upright, other, Settings()).probability
    assert np.abs(once - straight).max() > 0.1
    np.testing.assert_allclose(result.probability, (straight + turned + once) / 3, atol=1e-4)


def test_a_network_that_sees_an_exam_once_keeps_its_answer(upright: dict[str, Volume]) -> None:
    sided, other = (model_of(BrightOnFlair(sidedness=side)) for side in (1.0, 2.0))
    both_ways = replace(sided, info=replace(sided.info, input=replace(SPEC, mirrored=True)))
    result = segment_exam(upright, replace(other, partner=both_ways), Settings())
    once = segment_exam(upright, other, Settings()).probability
    twice = segment_exam(upright, both_ways, Settings()).probability
    assert np.abs(once - twice).max() > 0.1
    np.testing.assert_allclose(result.probability, (once + twice) / 2, atol=1e-4)


def test_a_partner_asked_once_sees_slices_that_do_not_overlap() -> None:
    overlapping = replace(SPEC, thin_mm=2.0, mirrored=True)
    model = replace(BRIGHT, info=replace(BRIGHT.info, input=overlapping))
    for once, seen in ((True, replace(SPEC, thin_mm=0.0)), (False, overlapping)):
        pair = replace(model, info=replace(model.info, partner_once=once), partner=model)
        assert [one.info.input for one in pair.members(["FLAIR"])] == [overlapping, seen]


def test_a_partner_is_found_by_name_and_checked_by_hash(tmp_path: Path) -> None:
    network = RSANet(NetworkConfig(channels=(8, 16), groups=0))
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    save_weights(first, network.state_dict(), WeightsInfo(network.config))
    sha256 = load_weights(first)[2]
    info = WeightsInfo(network.config, partner=str(first), partner_sha256=sha256)
    save_weights(second, network.state_dict(), info)
    assert [one.name for one in load_model(str(second)).members(())] == ["second", "first"]
    save_weights(first, network.state_dict(), WeightsInfo(network.config, version="9"))
    with pytest.raises(WeightsError, match=r"second.safetensors: its partner .* install"):
        load_model(str(second))


def test_a_partner_beside_its_file_comes_before_a_shipped_one(tmp_path: Path) -> None:
    network = RSANet(NetworkConfig(channels=(8, 16), groups=0))
    beside = tmp_path / f"{DEFAULT_WEIGHTS}.safetensors"
    save_weights(beside, network.state_dict(), WeightsInfo(network.config, version="own"))
    info = WeightsInfo(
        network.config, partner=DEFAULT_WEIGHTS, partner_sha256=load_weights(beside)[2]
    )
    save_weights(tmp_path / "one.safetensors", network.state_dict(), info)
    members = load_model(str(tmp_path / "one.safetensors")).members(())
    assert [one.info.version for one in members] == [info.version, "own"]


def test_the_mask_is_what_the_network_says(found: rsaseg.Segmentation, files: Exam) -> None:
    flair = read_volume(files["FLAIR"])
    seen = prepare({"FLAIR": flair}, SPEC)
    probability = 1 / (1 + np.exp(-3 * (seen.image[2].astype(np.float64) - 1.5)))
    expected = to_flair_grid(probability.astype(np.float32), seen.grid, flair.grid)
    brain = brain_region({"FLAIR": flair})
    np.testing.assert_allclose(found.probability, expected * brain, atol=1e-5)
    assert found.mask.dtype == np.uint8
    assert found.probability.dtype == np.float32
    assert found.labels.dtype == np.int32
    assert found.mask.any()
    np.testing.assert_array_equal(found.mask == 1, found.labels > 0)
    assert (found.probability[found.mask == 1] > 0.5).all()
    assert found.uncertainty is None
    sizes = np.bincount(found.labels.ravel())[1:] * flair.grid.voxel_mm3
    assert sizes.min() >= 60
    assert [lesion.volume_ml for lesion in found.lesions] == pytest.approx(sizes / 1000)
    assert found.lesion_count == len(sizes) == found.record["lesion_count"]


def test_what_is_called_outside_the_brain_is_left_out_and_told(
    small: Phantom, files: Exam, found: rsaseg.Segmentation
) -> None:
    """The network calls the scalp's bright fat; the phantom's brain is known."""
    flair = read_volume(files["FLAIR"])
    seen = prepare({"FLAIR": flair}, SPEC)
    bright = to_flair_grid((seen.image[2] > 1.5).astype(np.float32), seen.grid, flair.grid) > 0.5
    away = distance_transform_edt(~small.brain, flair.grid.spacing_mm) > 10
    away[..., : away.shape[2] // 2] = False  # the face may count as brain
    assert (found.probability[away] > 0.5).sum() < 0.05 * (bright & away).sum()
    assert (found.mask[small.brain] > 0).any()
    told_ml = found.record["called_outside_brain_ml"]
    assert told_ml > (bright & away).sum() * flair.grid.voxel_mm3 / 1000 > 0.5
    assert f"{told_ml:.1f} ml outside the brain" in " ".join(found.warnings)


def test_without_a_brain_to_be_found_nothing_is_left_out(files: Exam) -> None:
    exam = {"FLAIR": read_volume(files["FLAIR"])}
    probability = np.full(exam["FLAIR"].grid.shape, 0.7, np.float32)
    nothing = Anatomy(exam["FLAIR"].grid)
    everything = find(exam, probability, nothing, BRIGHT.info, ALIGNED)
    assert everything.mask.all()
    assert not everything.warnings


def test_lesions_are_placed(found: rsaseg.Segmentation) -> None:
    assert {lesion.location for lesion in found.lesions} <= LOCATIONS.keys()
    surface_mm = [lesion.surface_mm for lesion in found.lesions]
    known_mm = [mm for mm in surface_mm if not math.isnan(mm)]  # else the image ends nearer
    assert known_mm
    assert all(0 <= mm < 80 for mm in known_mm)


def test_images_in_memory_give_what_files_give(files: Exam, found: rsaseg.Segmentation) -> None:
    t1, flair = nib.load(files["T1"]), nib.load(files["FLAIR"])
    again = rsaseg.segment(t1, str(files["T2"]), flair, ALIGNED, model=BRIGHT)
    np.testing.assert_array_equal(again.probability, found.probability)
    fresh = nib.Nifti1Image(np.asarray(flair.dataobj), flair.affine)
    alone = rsaseg.segment(None, None, fresh, model=BRIGHT)
    assert alone.record["missing_sequences"] == ["T1", "T2"]
    assert alone.record["input_sha256"] == {}
    np.testing.assert_allclose(alone.probability, found.probability, atol=1e-5)


def test_it_writes_and_prints_nothing(
    files: Exam, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in files.values()}
    rsaseg.segment(None, None, files["FLAIR"], model=BRIGHT)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert {path: path.read_bytes() for path in files.values()} == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (Settings(threshold=1.0), "threshold 1.0"),
        (Settings(threshold=float("nan")), "threshold nan"),
        (Settings(min_lesion_mm3=-1), "smallest lesion -1"),
        (Settings(min_lesion_mm3=float("inf")), "smallest lesion inf"),
    ],
)
def test_settings_without_sense(settings: Settings, words: str) -> None:
    with pytest.raises(InputError, match=words):  # before the file is looked for
        rsaseg.segment(None, None, "nowhere.nii", settings, model=BRIGHT)


def test_other_things_than_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"T1: a ndarray; give a path"):
        rsaseg.segment(np.zeros((3, 3, 3)), None, "x.nii", model=BRIGHT)


def mirrored(volume: Volume) -> Volume:
    return replace(volume, data=np.ascontiguousarray(volume.data[::-1]))


@pytest.fixture(scope="module")
def upright(small: Phantom) -> dict[str, Volume]:
    """An exam whose first axis runs straight to the right."""
    grid = Grid((64, 76, 30), np.diag([3.0, 3.0, 5.5, 1.0]))
    return {name: replace(volume, grid=grid) for name, volume in small.images.items()}


def test_entropy_by_hand() -> None:
    """A fair coin is 1 bit; of one in four, 1/4 log2 4 + 3/4 log2 4/3 = 0.811."""
    p = np.array([0, 1e-9, 0.25, 0.5, 0.75, 1], np.float32)
    np.testing.assert_allclose(entropy(p), [0, 0, 0.8113, 1, 0.8113, 0], atol=1e-4)
    assert entropy(p).dtype == np.float32


@pytest.mark.parametrize("contrast_weight", [0.0, 2.0])
def test_uncertainty_is_the_entropy_of_the_probability(
    contrast_weight: float, upright: dict[str, Volume]
) -> None:
    model = model_of(BrightOnFlair(sidedness=1.0))
    model = replace(model, info=replace(model.info, contrast_weight=contrast_weight))
    result = segment_exam(upright, model, Settings(uncertainty=True))
    assert result.uncertainty is not None
    p = result.probability.astype(np.float64)
    np.testing.assert_allclose(result.uncertainty, stats.entropy([p, 1 - p], base=2), atol=1e-5)
    assert result.record["uncertainty"] == "entropy"
    plain = segment_exam(upright, model, Settings())
    assert plain.uncertainty is None
    np.testing.assert_array_equal(result.mask, plain.mask)
    assert result.lesions == plain.lesions


def test_thick_slices_are_seen_mirrored_too(upright: dict[str, Volume]) -> None:
    one_way = model_of(BrightOnFlair(sidedness=1.0))
    both_ways = replace(one_way, info=replace(one_way.info, input=replace(SPEC, mirrored=True)))
    plain = segment_exam(upright, one_way, Settings())
    turned = segment_exam({k: mirrored(v) for k, v in upright.items()}, one_way, Settings())
    back = turned.probability[::-1]
    result = segment_exam(upright, both_ways, Settings())
    np.testing.assert_allclose(result.probability, (plain.probability + back) / 2, atol=1e-4)
    assert result.mask.sum() > 0
    for lesion in result.lesions:
        assert lesion.confidence == lesion.max_probability


def test_a_case_left_out_of_training_is_seen_as_any_exam(files: Exam, tmp_path: Path) -> None:
    model = model_of(BrightOnFlair(sidedness=1.0))
    model = replace(model, info=replace(model.info, input=replace(SPEC, mirrored=True)))
    used = rsaseg.segment(files["T1"], files["T2"], files["FLAIR"], ALIGNED, model=model)
    images = {name: files[name] for name in ("T1", "T2", "FLAIR")}
    case = CaseFiles("anna", images, files["lesion"])
    cpu, kept = torch.device("cpu"), tmp_path / "anna.npy"
    unseen = segment_unseen(case, model.network, model.info.input, Recipe(), cpu, kept).read()
    np.testing.assert_allclose(unseen.probability, used.probability, atol=1e-3)
    weighing = replace(model, info=replace(model.info, contrast_weight=2.0))
    weighed = rsaseg.segment(files["T1"], files["T2"], files["FLAIR"], ALIGNED, model=weighing)
    np.testing.assert_allclose(unseen.weighed(2.0), weighed.probability, atol=2e-3)
    assert np.abs(weighed.probability - used.probability).max() > 0.1
    assert weighed.record["contrast_weight"] == 2.0
    for lesion in weighed.lesions:
        assert lesion.confidence == lesion.max_probability


def test_lesions_without_a_peak_are_left_out(found: rsaseg.Segmentation, files: Exam) -> None:
    peaks = sorted(lesion.max_probability for lesion in found.lesions)
    middle = peaks[len(peaks) // 2]
    strict = replace(BRIGHT, info=replace(BRIGHT.info, cut=replace(BRIGHT.info.cut, peak=middle)))
    result = rsaseg.segment(files["T1"], files["T2"], files["FLAIR"], ALIGNED, model=strict)
    left = sorted(lesion.max_probability for lesion in result.lesions)
    assert 0 < len(left) < len(peaks)
    assert left == [peak for peak in peaks if peak > middle]
    assert result.volume_interval_ml[1] < found.volume_interval_ml[1]
    assert result.record["lesion_peak"] == middle


def test_volume_falls_as_the_threshold_rises(found: rsaseg.Segmentation) -> None:
    low, high = found.volume_interval_ml
    assert low < found.volume_ml < high
    thresholds = np.linspace(0.05, 0.95, 10)
    volumes = [volume_at(found.probability, found.grid, Cut(t, 0.0, 60.0)) for t in thresholds]
    assert volumes == sorted(volumes, reverse=True)
    assert found.record["interval_thresholds"] == [0.65, 0.35]
    assert low == volume_at(found.probability, found.grid, Cut(0.65, 0.0, 60.0))


def test_sensible_thresholds_stay_between_0_and_1() -> None:
    assert threshold_range(0.5) == pytest.approx((0.35, 0.65))
    assert threshold_range(0.1) == pytest.approx((0.05, 0.25))
    assert threshold_range(0.9) == pytest.approx((0.75, 0.95))


def all_outputs(folder: Path) -> tuple[Path, Extras]:
    names = {
        "labels": "l.nii",
        "probability": "p.nii.gz",
        "uncertainty": "u.nii.gz",
        "report": "r.html",
    }
    return folder / "m.nii.gz", Extras(**{key: folder / name for key, name in names.items()})


def test_every_file_is_written_and_none_without_its_hash(
    files: Exam, found: rsaseg.Segmentation, tmp_path: Path
) -> None:
    mask, extras = all_outputs(tmp_path)
    predict(files["FLAIR"], mask, files["T1"], files["T2"], ALIGNED, extras=extras, model=BRIGHT)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    record = json.loads(written.pop("m.json"))
    assert written.keys() == {"m.nii.gz", "m.tsv", "l.nii", "p.nii.gz", "u.nii.gz", "r.html"}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in written.items()}
    assert record["files_sha256"] == hashes
    assert record["output_sha256"] == hashes["m.nii.gz"]
    images = {name: nib.load(tmp_path / name) for name in written if ".nii" in name}
    flair = nib.load(files["FLAIR"])
    types = {"m.nii.gz": "uint8", "l.nii": "int32", "p.nii.gz": "float32", "u.nii.gz": "float32"}
    for name, image in images.items():
        assert image.get_data_dtype() == types[name]
        np.testing.assert_array_equal(image.affine, flair.affine)
    np.testing.assert_array_equal(images["l.nii"].dataobj, found.labels)
    np.testing.assert_array_equal(images["p.nii.gz"].dataobj, found.probability)
    header, *rows = written["m.tsv"].decode().splitlines()
    columns = header.split("\t")
    assert columns == list(record)[-len(columns) :]  # where none has another entry's name
    assert [record[column] for column in columns] == list(LESION_COLUMNS.values())
    assert len(rows) == found.lesion_count
    assert_costs_by_stage(record)
    assert "--uncertainty u.nii.gz" in " ".join(record["command"])
    again = tmp_path / "again"
    again.mkdir()
    mask, extras = all_outputs(again)
    predict(files["FLAIR"], mask, files["T1"], files["T2"], ALIGNED, extras=extras, model=BRIGHT)
    assert {p.name: p.read_bytes() for p in again.iterdir() if p.name != "m.json"} == written


def assert_costs_by_stage(record: dict[str, Any]) -> None:
    stages = {"read", "register", "load weights", "prepare", "network", "lesions"}
    peaks_mb, seconds = record["peak_memory_mb"], dict(record["seconds"])
    assert peaks_mb.keys() == stages | {"files"}
    total = seconds.pop("total")
    assert seconds.keys() == peaks_mb.keys()
    assert 0.7 * total < sum(seconds.values()) <= total + 0.01
    most_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert list(peaks_mb.values()) == sorted(peaks_mb.values())
    assert 50 < peaks_mb["read"] <= peaks_mb["files"] <= most_mb


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"labels": "l.png"}, "l.png: not a NIfTI name"),
        ({"report": "r.pdf"}, "r.pdf: the report is a web page"),
        ({"report": "none/r.html"}, "r.html: its folder does not exist"),
        ({"probability": "m.nii.gz"}, "m.nii.gz: two outputs"),
        ({"labels": "u.nii.gz"}, "u.nii.gz: two outputs"),
        ({"uncertainty": "flair.nii.gz"}, "flair.nii.gz: is an input"),
        ({"report": "folder.html"}, "folder.html: is a folder"),
    ],
)
def test_a_bad_output_is_refused_before_any_work(
    changed: dict[str, str], words: str, files: Exam, tmp_path: Path
) -> None:
    (tmp_path / "folder.html").mkdir()
    flair = tmp_path / "flair.nii.gz"
    flair.write_bytes(files["FLAIR"].read_bytes())
    mask, extras = all_outputs(tmp_path)
    extras = replace(extras, **{key: tmp_path / name for key, name in changed.items()})
    stages: list[str] = []
    with pytest.raises(InputError, match=words):
        predict(
            flair,
            mask,
            extras=extras,
            model=BRIGHT,
            progress=lambda stage, *_: stages.append(stage),
        )
    assert stages == []
    assert {path.name for path in tmp_path.iterdir()} == {"folder.html", "flair.nii.gz"}


def test_the_lesion_table_may_not_replace_an_input(files: Exam, tmp_path: Path) -> None:
    weights = tmp_path / "m.tsv"
    weights.write_text("{}")
    with pytest.raises(InputError, match=r"m\.tsv: is an input"):
        predict(files["FLAIR"], tmp_path / "m.nii", settings=Settings(weights=str(weights)))


def test_files_are_written_together_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "a"
    old.write_text("old")
    with pytest.raises(InputError, match="b: cannot be written"):
        write_together({old: b"new", tmp_path / "missing" / "b": b"new"})
    assert old.read_text() == "old"

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"a: cannot be written .*No space"):
        write_together({old: b"new", tmp_path / "b": b"new"})
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    write_together({old: b"new", tmp_path / "b": b"more"})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"new", "b": b"more"}


def test_the_documented_examples(files: Exam, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("rsaseg.segmentation.segment")
    monkeypatch.setattr("rsaseg.segmentation.model.load_model", lambda name: BRIGHT)
    paths = {"t1": files["T1"], "t2": files["T2"], "flair": files["FLAIR"]}
    done = doctest.testmod(module, extraglobs=paths)
    assert done.attempted > 5
    assert done.failed == 0


def test_the_package_offers_what_its_stub_says() -> None:
    stub = (Path(rsaseg.__file__).parent / "__init__.pyi").read_text()
    names = {line.split(" as ")[1] for line in stub.splitlines() if " as " in line}
    assert names <= set(dir(rsaseg))
    assert all(callable(getattr(rsaseg, name)) for name in names)
    with pytest.raises(AttributeError, match="no attribute 'segmant'"):
        rsaseg.segmant  # noqa: B018
