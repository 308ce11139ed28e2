"""A run that was killed between the renames of its files."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from rsaseg.errors import InputError
from rsaseg.imaging.files import check_replaceable, hashes_of, read_written, write_together


class Killed(BaseException):
    """Ends a run without its last words."""


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    contents = {folder / name: content for name, content in files.items()}
    record = json.dumps({"files_sha256": hashes_of(contents)}).encode()
    write_together({folder / "record.json": record, **contents})


def check(folder: Path) -> None:
    record = folder / "record.json"
    paths = [folder / "mask.nii", folder / "table.tsv"]
    check_replaceable(paths, record, read_written(record, "files_sha256"))


@pytest.fixture
def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The new record beside the old mask and table, whose successors lie there unnamed."""
    write(tmp_path, {"mask.nii": b"old", "table.tsv": b"old"})
    time.sleep(0.05)  # a file system tells times to a few milliseconds
    replace = Path.replace

    def renamed(part: Path, path: Path) -> Path:
        if path.name != "record.json":
            raise Killed
        return replace(part, path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", renamed)
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        with pytest.raises(Killed):
            write(tmp_path, {"mask.nii": b"new", "table.tsv": b"new"})
    return tmp_path


def test_the_next_run_goes_on(killed: Path) -> None:
    check(killed)


def test_what_a_person_changed_since_stays(killed: Path) -> None:
    time.sleep(0.05)
    (killed / "mask.nii").write_bytes(b"by hand")
    with pytest.raises(InputError, match="was changed after rsaseg wrote it"):
        check(killed)
