"""What happens to an exam between its own grid and the network."""

from rsaseg.preprocessing.exam import (
    SEQUENCES,
    InputSpec,
    NetworkInput,
    coarse_grid,
    deep_mask,
    deep_part,
    depth_mm,
    fill_slices,
    head_mask,
    network_input,
    off_grid,
    prepare,
    to_flair_grid,
    to_tensor_axes,
    to_working_grid,
)
from rsaseg.preprocessing.swapped import find_swapped
from rsaseg.preprocessing.units import brain_units, head_units, to_spread

__all__ = [
    "SEQUENCES",
    "InputSpec",
    "NetworkInput",
    "brain_units",
    "coarse_grid",
    "deep_mask",
    "deep_part",
    "depth_mm",
    "fill_slices",
    "find_swapped",
    "head_mask",
    "head_units",
    "network_input",
    "off_grid",
    "prepare",
    "to_flair_grid",
    "to_spread",
    "to_tensor_axes",
    "to_working_grid",
]
