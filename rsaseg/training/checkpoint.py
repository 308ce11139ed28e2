"""Checkpoints: a training run's whole state in one safetensors file, replaced atomically."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from rsaseg.errors import InputError
from rsaseg.imaging import write_atomic
from rsaseg.training.cases import CachedCase

Contents = dict[str, dict[str, Any]]


def save_checkpoint(
    path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer, run: str
) -> None:
    """Write network, averaged network, optimiser state and the description of the run.

    Parameters
    ----------
    path : Path
        Replaced atomically.
    network, average : nn.Module
        Trained network and its running average.
    optimizer : torch.optim.Optimizer
        Adam or AdamW over the network's parameters.
    run : str
        JSON with the step and the configuration.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, module in (("network", network), ("average", average)):
        tensors |= {f"{prefix}.{name}": value for name, value in module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomic(path, save(tensors, {"run": run}))


def read_run(path: Path) -> str:
    """Return the description that `save_checkpoint` stored.

    Raises
    ------
    InputError
        If the file is not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            run = (file.metadata() or {}).get("run")
    except (SafetensorError, OSError):
        run = None
    if run is None:
        raise InputError(f"{path}: not a checkpoint of rsaseg; start again in another folder")
    return str(run)


def contents_of(cases: Iterable[CachedCase]) -> Contents:
    """Return what a checkpoint keeps of each case, by its name, to know it again."""
    return {
        case.name: {"digest": case.digest, "offset": case.offset, "patient": case.patient}
        for case in cases
    }


def check_unchanged(path: Path, contents: Contents) -> None:
    """Refuse to go on with cases that are no longer what they were when a run began.

    Checkpoints of earlier versions do not know; cases that one does not mention pass.

    Raises
    ------
    InputError
        With the name of the first that changed.
    """
    if not path.exists():
        return
    known: Contents = json.loads(read_run(path)).get("contents", {})
    seen = {name: (known[name], now) for name, now in contents.items() if name in known}
    for name, (before, now) in seen.items():
        if before["digest"] != now["digest"]:
            raise InputError(
                f"{path}: {name}: its images or masks are not those this run began with; choose "
                f"another folder to train with the new ones, or put the old ones back"
            )
        if before.get("patient", now["patient"]) != now["patient"]:
            raise InputError(
                f"{path}: {name}: was of {before['patient']} when this run began and is of "
                f"{now['patient']}; give the --patients of then, or choose another folder"
            )
    for name, (before, now) in seen.items():  # last: one changed mask moves every offset
        if before["offset"] != now["offset"]:
            raise InputError(
                f"{path}: {name}: its reader's offset was {before['offset']:+.2f} when this run "
                f"began and is {now['offset']:+.2f}; choose another folder, or give the --init of "
                f"then, unchanged"
            )


def read_average(path: Path) -> dict[str, Tensor]:
    """Return the averaged network's weights."""
    with safe_open(path, framework="pt") as file:
        names = [key for key in file.keys() if key.startswith("average.")]  # noqa: SIM118
        return {name.removeprefix("average."): file.get_tensor(name) for name in names}


def load_checkpoint(
    path: Path, network: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put a checkpoint's state into the given network, average and optimiser."""
    moments: dict[int, dict[str, Any]] = {}
    state: dict[str, Tensor] = {}
    with safe_open(path, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118
            part, name = key.split(".", 1)
            if part == "optimizer":
                index, moment = name.split(".", 1)
                moments.setdefault(int(index), {})[moment] = file.get_tensor(key)
            elif part == "network":
                state[name] = file.get_tensor(key)
    network.load_state_dict(state)
    average.load_state_dict(read_average(path))
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
