"""What happens to an exam between its own grid and the network."""

from rsaseg.preprocessing.exam import (
    SEQUENCES,
    InputSpec,
    NetworkInput,
    brain_units,
    deep_mask,
    deep_part,
    depth_mm,
    fill_slices,
    head_mask,
    head_units,
    network_input,
    off_grid,
    prepare,
    to_flair_grid,
    to_tensor_axes,
    to_working_grid,
)

__all__ = [
    "SEQUENCES",
    "InputSpec",
    "NetworkInput",
    "brain_units",
    "deep_mask",
    "deep_part",
    "depth_mm",
    "fill_slices",
    "head_mask",
    "head_units",
    "network_input",
    "off_grid",
    "prepare",
    "to_flair_grid",
    "to_tensor_axes",
    "to_working_grid",
]
