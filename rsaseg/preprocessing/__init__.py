"""What happens to an exam between its own grid and the network."""

from rsaseg.preprocessing.exam import (
    SEQUENCES,
    InputSpec,
    NetworkInput,
    head_mask,
    normalise,
    prepare,
    to_flair_grid,
    to_tensor_axes,
)

__all__ = [
    "SEQUENCES",
    "InputSpec",
    "NetworkInput",
    "head_mask",
    "normalise",
    "prepare",
    "to_flair_grid",
    "to_tensor_axes",
]
