"""Which files of a cohort must be the same whichever way it ran."""

from __future__ import annotations

from pathlib import Path


def reproducible_files(folder: Path) -> dict[str, bytes]:
    """Return what must be the same whichever way a cohort ran: all but seconds and memory."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and (path.suffix in (".tsv", ".gz") or path.name in ("index.html", "cohort.json"))
    }
