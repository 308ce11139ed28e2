"""Weights on disk: one safetensors file with everything needed to use it rightly."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rsaseg.errors import WeightsError
from rsaseg.imaging import write_atomic
from rsaseg.lesions import Cut
from rsaseg.networks.unet import NetworkConfig, RSANet
from rsaseg.preprocessing import InputSpec


@dataclass(frozen=True)
class WeightsInfo:
    """What stands in a weights file beside the numbers.

    Attributes
    ----------
    network : NetworkConfig
        The layers.
    input : InputSpec
        Sequence order, spacing, normalisation.
    window_vox : tuple of int
        Training crop (D, H, W), and the window where the whole volume does not fit.
    cut : Cut
        What makes a lesion of the probability; chosen on out-of-fold predictions.
    contrast_weight : float
        How much a voxel's brightness, measured by the exam's own lesions, adds to its probability
        before that, see `rsaseg.inference.contrast`; chosen with it.
    partner, partner_sha256 : str
        Name and content hash of shipped weights with whose probability these were chosen to be
        averaged; empty for a network that stands alone.
    partner_needs : tuple of str
        Sequences without which the partner is not asked, which does worse without them.
    partner_once : bool
        The partner sees an exam once where the other sees it twice, in turns or mirrored, and its
        answer counts half as much.
    version, licence : str
        Of the weights; no licence where nobody chose one.
    training_data : tuple of str
        Citations of the data they learned from.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    input: InputSpec = field(default_factory=InputSpec)
    window_vox: tuple[int, int, int] = (32, 128, 96)
    cut: Cut = field(default_factory=lambda: Cut(0.5))
    contrast_weight: float = 0.0
    partner: str = ""
    partner_sha256: str = ""
    partner_needs: tuple[str, ...] = ()
    partner_once: bool = False
    version: str = "0"
    licence: str = ""
    training_data: tuple[str, ...] = ()


def _tupled(value: Any) -> Any:
    return tuple(_tupled(v) for v in value) if isinstance(value, list) else value


def info_from_json(text: str) -> WeightsInfo:
    """Rebuild the information that `info_to_json` wrote."""
    values = {key: _tupled(value) for key, value in json.loads(text).items()}
    network = {key: _tupled(value) for key, value in values.pop("network").items()}
    inputs = {key: _tupled(value) for key, value in values.pop("input").items()}
    # all there was, before there was a choice
    inputs = {"normalisation": "head", "thin_mm": 0.0, "mirrored": False, "t1_spread": 0.0} | inputs
    alone = {"threshold": "threshold", "lesion_peak": "peak", "min_lesion_mm3": "min_lesion_mm3"}
    cut = {name: values.pop(key) for key, name in alone.items() if key in values}  # to version 9
    cut |= values.pop("cut", {})
    return WeightsInfo(NetworkConfig(**network), InputSpec(**inputs), cut=Cut(**cut), **values)


def info_to_json(info: WeightsInfo) -> str:
    """Return ``info`` as JSON with sorted keys."""
    return json.dumps(asdict(info), sort_keys=True)


def content_hash(tensors: Mapping[str, Tensor], info_json: str) -> str:
    """Return the SHA-256 over the information and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(info_json.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_weights(path: Path, state: Mapping[str, Tensor], info: WeightsInfo) -> None:
    """Write weights in half precision, atomically; all but kernels in single.

    A variance of batch normalisation may be over 65504, the largest number of half precision.
    """
    tensors = {
        name: (tensor.half() if tensor.dim() > 1 else tensor.float()).detach().cpu().contiguous()
        for name, tensor in state.items()
    }
    text = info_to_json(info)
    # one entry: safetensors writes several in no fixed order, and equal weights are equal bytes
    entry = {"info": text, "sha256": content_hash(tensors, text)}
    write_atomic(path, save(tensors, {"rsaseg": json.dumps(entry, sort_keys=True)}))


def load_weights(path: Path) -> tuple[RSANet, WeightsInfo, str]:
    """Read a weights file and check its hash.

    Returns
    -------
    network : RSANet
        In evaluation mode, float32, on the CPU.
    info : WeightsInfo
        See there.
    sha256 : str
        Content hash, also a name for these very weights.

    Raises
    ------
    WeightsError
        If the file is damaged, changed, or not of this program.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError):
        raise WeightsError(f"{path}: damaged or not a safetensors file; copy it again") from None
    try:
        entry = json.loads(metadata["rsaseg"])
        text, stored = str(entry["info"]), entry["sha256"]
    except (KeyError, TypeError, ValueError):
        raise WeightsError(f"{path}: not written by rsaseg; train or copy rsaseg weights") from None
    sha256 = content_hash(tensors, text)
    if sha256 != stored:
        raise WeightsError(f"{path}: its content does not match its SHA-256; copy it again")
    try:
        info = info_from_json(text)
        network = RSANet(info.network)
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except (TypeError, KeyError, ValueError, RuntimeError):
        raise WeightsError(f"{path}: made for another version of rsaseg; get its weights") from None
    return network.eval(), info, sha256
