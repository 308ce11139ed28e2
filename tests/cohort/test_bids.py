"""Derivatives that the BIDS validator accepts, of a data set that it accepts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import pytest

from rsaseg.cohort.exams import find_bids_exams
from rsaseg.cohort.run import Cohort, segment_cohort
from rsaseg.errors import InputError
from rsaseg.scoring.pairing import find_masks

ABOUT = ("dataset_description.json", "README", ".bidsignore")
SESSION = Path("sub-01", "ses-1", "anat")


@pytest.fixture(scope="session")
def bids(flairs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of one subject with two sessions, the second damaged, and one without FLAIR."""
    root = tmp_path_factory.mktemp("bids") / "study"
    for place in (SESSION, Path("sub-01", "ses-2", "anat"), Path("sub-02", "anat")):
        (root / place).mkdir(parents=True)
    shutil.copy(flairs[0], root / SESSION / "sub-01_ses-1_FLAIR.nii.gz")
    damaged = flairs[1].read_bytes()[:5000]
    (root / "sub-01/ses-2/anat/sub-01_ses-2_FLAIR.nii.gz").write_bytes(damaged)
    shutil.copy(flairs[2], root / "sub-02/anat/sub-02_T1w.nii.gz")
    (root / "dataset_description.json").write_text(
        json.dumps({"Name": "Study", "BIDSVersion": "1.10.0", "DatasetType": "raw"})
    )
    return root


@pytest.fixture(scope="session")
def derived(bids: Path, settings: Any) -> Cohort:
    return segment_cohort(bids, bids / "derivatives" / "rsaseg", settings, bids=True)


def test_names_and_failures(derived):
    folder = derived.table.parent
    assert [(one.exam, one.status) for one in derived.outcomes] == [
        ("sub-01_ses-1", "done"),
        ("sub-01_ses-2", "failed"),
        ("sub-02", "failed"),
    ]
    assert "truncated" in derived.outcomes[1].reason
    assert "no sub-02_FLAIR.nii.gz" in derived.outcomes[2].reason
    masks = [path.relative_to(folder) for path in folder.rglob("*.nii.gz")]
    assert masks == [SESSION / "sub-01_ses-1_space-orig_label-L_mask.nii.gz"]
    assert not (folder / "sub-02").exists()


def test_to_list_subjects_takes_no_longer_for_each_the_more_there_are(tmp_path, monkeypatch):
    (tmp_path / "dataset_description.json").write_text("{}")
    n = 50
    for i in range(n):
        anat = tmp_path / f"sub-{i}" / "anat"
        anat.mkdir(parents=True)
        (anat / f"sub-{i}_FLAIR.nii.gz").touch()
    compared = []
    same = Path.__eq__
    monkeypatch.setattr(Path, "__eq__", lambda *two: compared.append(two) or same(*two))
    assert len(find_bids_exams(tmp_path)) == n
    assert len(compared) <= n


def test_evaluate_finds_the_masks_by_subject_and_session(derived):
    assert list(find_masks(derived.table.parent)) == ["sub-01_ses-1"]


def test_a_second_run_finds_the_same_exams(bids, derived, settings):
    folder = derived.table.parent
    before = derived.table.read_bytes()
    again = segment_cohort(bids, folder, settings, bids=True, resume=True)
    assert [one.reused for one in again.outcomes] == [True, False, False]
    assert derived.table.read_bytes() == before


def test_what_people_wrote_about_the_derivatives_is_kept(bids, derived, settings, tmp_path):
    root = Path(shutil.copytree(bids, tmp_path / "study"))
    folder = root / "derivatives" / "rsaseg"
    written = {name: (folder / name).read_bytes() for name in ABOUT}
    (folder / "README").unlink()
    for resume in (True, False):
        segment_cohort(root, folder, settings, bids=True, resume=resume)
        assert {name: (folder / name).read_bytes() for name in ABOUT} == written
    for name in ABOUT:
        (folder / name).write_bytes(written[name] + b"\n")
    for resume in (True, False):
        segment_cohort(root, folder, settings, bids=True, resume=resume)
        assert all((folder / name).read_bytes() == written[name] + b"\n" for name in ABOUT)


def test_the_output_may_lie_in_the_derivatives_only(bids, settings):
    with pytest.raises(InputError, match="derivatives"):
        segment_cohort(bids, bids / "out", settings, bids=True)


def test_a_description_that_is_no_json_is_refused(bids, settings, tmp_path):
    root = Path(shutil.copytree(bids, tmp_path / "study", ignore=shutil.ignore_patterns("deriv*")))
    (root / "dataset_description.json").write_text("{")
    with pytest.raises(InputError, match=r"dataset_description\.json: no JSON"):
        segment_cohort(root, root / "derivatives" / "rsaseg", settings, bids=True)
    assert not (root / "derivatives").exists()


def test_the_bids_validator_finds_no_error(derived):
    assert bids_errors(derived.table.parent) == []


def test_the_bids_validator_sees_a_wrong_name(derived, tmp_path):
    folder = Path(shutil.copytree(derived.table.parent, tmp_path / "wrong"))
    mask = folder / SESSION / "sub-01_ses-1_space-orig_label-L_mask.nii.gz"
    nib.load(mask).to_filename(mask.with_name("sub-01_ses-1_label-L_space-orig_lesions.nii.gz"))
    assert bids_errors(folder)


def bids_errors(folder: Path) -> list[dict[str, Any]]:
    """Return what the official validator calls errors; skip where it is not installed."""
    validator = Path(sys.executable).with_name("bids-validator-deno")
    program = str(validator) if validator.exists() else shutil.which(validator.name)
    if program is None:
        pytest.skip("needs the BIDS validator: pip install bids-validator-deno")
    done = subprocess.run(
        [program, "--format", "json", str(folder)], capture_output=True, text=True, check=False
    )
    issues: list[dict[str, Any]] = json.loads(done.stdout)["issues"]["issues"]
    assert {one["severity"] for one in issues} <= {"error", "warning", "ignore"}
    return [one for one in issues if one["severity"] == "error"]
