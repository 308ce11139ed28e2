"""What a user may choose."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rsaseg.errors import InputError
from rsaseg.lesions import Cut
from rsaseg.networks.shipped import DEFAULT_WEIGHTS
from rsaseg.registration import Engine


@dataclass(frozen=True)
class Settings:
    """What a user may choose; the default of each ``None`` stands in the weights.

    Attributes
    ----------
    weights : str
        Name of shipped weights, or a file.
    device : str
        auto, cpu, cuda, cuda:1 or mps.
    threshold : float, optional
        Lesion where the probability is over this.
    min_lesion_mm3 : float, optional
        Smaller lesions are left out.
    registration : str
        auto, flirt, simpleitk or none; see `rsaseg.registration.align_exam`.
    force : bool
        Go on, with a warning, where a registration failed.
    uncertainty : bool
        Say how unsure each voxel is, see `rsaseg.segmentation.result.entropy`.
    """

    weights: str = DEFAULT_WEIGHTS
    device: str = "auto"
    threshold: float | None = None
    min_lesion_mm3: float | None = None
    registration: Engine = "auto"
    force: bool = False
    uncertainty: bool = False

    def cut(self, default: Cut) -> Cut:
        """Return what makes a lesion, by the user's numbers where there are some."""
        asked = {"threshold": self.threshold, "min_lesion_mm3": self.min_lesion_mm3}
        return replace(default, **{name: n for name, n in asked.items() if n is not None})


def check_settings(settings: Settings) -> None:
    """Refuse numbers that make no sense, before any work.

    Raises
    ------
    InputError
        Naming the setting.
    """
    threshold, smallest = settings.threshold, settings.min_lesion_mm3
    if threshold is not None and not 0 < threshold < 1:
        raise InputError(f"threshold {threshold}: give a number between 0 and 1")
    if smallest is not None and not 0 <= smallest < math.inf:
        raise InputError(f"smallest lesion {smallest} mm3: give 0 or more")
