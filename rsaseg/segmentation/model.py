"""A network ready to use, by the name of its weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from rsaseg.errors import WeightsError
from rsaseg.networks.shipped import find_partner, find_weights
from rsaseg.networks.unet import RSANet
from rsaseg.networks.weights import WeightsInfo, load_weights


@dataclass(frozen=True, eq=False)
class Model:
    """A network ready to use, with what belongs to it, and its partner if it has one.

    Their probabilities are averaged, each network counting the same but a partner asked once, which
    counts half; threshold and smallest lesion are the first's.
    """

    network: RSANet
    info: WeightsInfo
    name: str
    sha256: str
    partner: Model | None = None

    def members(self, sequences: Collection[str]) -> tuple[Model, ...]:
        """Return the networks whose probabilities are averaged for an exam of these sequences."""
        if self.partner is None or not set(self.info.partner_needs) <= set(sequences):
            return (self,)
        partner = self.partner
        if self.info.partner_once:
            once = replace(partner.info, input=partner.info.input.seen_once())
            partner = replace(partner, info=once)
        return (self, *partner.members(sequences))


def load_model(name: str) -> Model:
    """Load weights by shipped name or file; a partner beside its file comes before a shipped one.

    Raises
    ------
    WeightsError
        If they are unknown or damaged, or their partner is not the one they were made with.
    """
    path = find_weights(name)
    network, info, sha256 = load_weights(path)
    partner = None
    if info.partner:
        partner = load_model(str(find_partner(path, info.partner)))
    if partner and partner.sha256 != info.partner_sha256:
        raise WeightsError(
            f"{path}: its partner {info.partner} is not the one it was made with; install the "
            f"rsaseg that it came with"
        )
    return Model(network, info, path.stem, sha256, partner)
