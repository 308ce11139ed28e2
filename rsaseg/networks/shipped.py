"""Where weights lie: shipped ones by name, the user's own by path."""

from __future__ import annotations

from pathlib import Path

from rsaseg.errors import WeightsError

DEFAULT_WEIGHTS = "rsa111-v18"
_FOLDERS = (Path(__file__).parents[1] / "weights", Path(__file__).parents[2] / "weights")


def find_weights(name_or_path: str) -> Path:
    """Return the file of shipped weights by name, or of the user's own by path.

    A path may be that of a training's folder.

    Raises
    ------
    WeightsError
        If there is none.
    """
    path = Path(name_or_path)
    if path.is_file():
        return path
    if path.suffix == ".safetensors":
        raise WeightsError(f"{path}: no such weights file; check the path")
    shipped = sorted(p for folder in _FOLDERS for p in folder.glob("*.safetensors"))
    for file in shipped:
        if file.stem == name_or_path:
            return file
    if (trained := path / "weights.safetensors").is_file():
        return trained
    names = sorted({p.stem for p in shipped}, key=lambda name: (len(name), name))  # v2 before v10
    known = ", ".join(names) or "none shipped"
    raise WeightsError(f"{name_or_path}: unknown weights; known are: {known}; or give a file")


def find_partner(path: Path, name: str) -> Path:
    """Return the file of the partner of the weights at ``path``: beside them, or shipped."""
    beside = path.parent / f"{name}.safetensors"
    return beside if beside.is_file() else find_weights(name)
