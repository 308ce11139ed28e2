"""Arrays that stay on disk until they are looked at, without a file held open for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.lib.format import read_array_header_1_0, read_magic
from numpy.typing import NDArray


def map_array(path: Path) -> NDArray[Any]:
    """Map an array that `rsaseg.imaging.write_array` wrote.

    PyTorch closes the file, which NumPy holds open as long as the array lives: of some hundred
    cases that is more than a process may.
    """
    import torch  # here, for `rsaseg preprocess` finds cases without it

    with path.open("rb") as file:
        read_magic(file)
        shape, _, dtype = read_array_header_1_0(file)
        start = file.tell()
    content = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8).numpy()
    mapped: NDArray[Any] = content[start:].view(dtype).reshape(shape)
    mapped.flags.writeable = False
    return mapped
