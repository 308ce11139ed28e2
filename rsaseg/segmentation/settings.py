"""What a user may choose, and the network that the choice names."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rsaseg.errors import InputError, WeightsError
from rsaseg.networks.unet import RSANet, fold_norms
from rsaseg.networks.weights import DEFAULT_WEIGHTS, WeightsInfo, find_weights, load_weights
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
        Segment the exam's mirror image too, which takes the network twice as long, and say how
        far both differ.
    """

    weights: str = DEFAULT_WEIGHTS
    device: str = "auto"
    threshold: float | None = None
    min_lesion_mm3: float | None = None
    registration: Engine = "auto"
    force: bool = False
    uncertainty: bool = False


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


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready to use, with what belongs to it, and its partner if it has one.

    Their probabilities are averaged; threshold and smallest lesion are the first's.
    """

    network: RSANet
    info: WeightsInfo
    name: str
    sha256: str
    partner: Model | None = None

    @property
    def members(self) -> tuple[Model, ...]:
        """The networks whose probabilities are averaged."""
        return (self,) if self.partner is None else (self, *self.partner.members)


def load_model(name: str) -> Model:
    """Load weights by shipped name or file.

    Raises
    ------
    WeightsError
        If they are unknown or damaged, or their partner is not the one they were made with.
    """
    path = find_weights(name)
    network, info, sha256 = load_weights(path)
    fold_norms(network)
    partner = load_model(info.partner) if info.partner else None
    if partner and partner.sha256 != info.partner_sha256:
        raise WeightsError(
            f"{path}: its partner {info.partner} is not the one it was made with; install the "
            f"rsaseg that it came with"
        )
    return Model(network, info, path.stem, sha256, partner)
