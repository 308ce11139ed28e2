"""Several processes as one: torchrun starts them, each computes its part of every batch.

Outside torchrun there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rsaseg.errors import InputError, RsasegError
from rsaseg.inference.device import choose_device

T = TypeVar("T")


def rank() -> int:
    """Return the number of this process; process 0 alone writes and reports."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def joined(device: str) -> Iterator[torch.device]:
    """Join the other processes if torchrun started this one, and yield the device to use.

    On GPUs each process of a machine takes its own, and they talk over NCCL; on CPUs over gloo.

    Parameters
    ----------
    device : str
        As `rsaseg.inference.device.choose_device`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield choose_device(device)
        return
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(chosen)
    # DDP imports this. Imported once there is a group, it would hold the group in defaults of its
    # functions, and the group's threads would outlive Python, which now and then aborts on them.
    import_module("torch._dynamo")

    # others wait while process 0 reads and segments cases, hours perhaps
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(days=2))
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def spread(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network, its gradients averaged over all processes where there are several."""
    if count() == 1:
        return network
    return DistributedDataParallel(network, [device] if device.type == "cuda" else None)


class _Sum(torch.autograd.Function):
    """Sum over processes, forwards and backwards."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def pooled(value: Tensor) -> Tensor:
    """Return the sum of ``value`` over processes; gradients flow to all of them.

    A loss of pooled sums has the gradient, averaged over processes, of one process with the whole
    batch.
    """
    if count() == 1:
        return value
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total


def gathered(value: Any) -> list[Any]:
    """Return every process's ``value``, a small thing, in order of rank."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def alone(work: Callable[[], T]) -> T | None:
    """Let process 0 do a piece of work while the others wait.

    Returns
    -------
    object or None
        What the work returned, in process 0; None in the others.

    Raises
    ------
    RsasegError
        In every process, if the work raised one.
    """
    result, failure = None, ""
    if rank() == 0:
        try:
            result = work()
        except RsasegError as error:
            if count() > 1:
                gathered(str(error))
            raise
    failure = gathered(failure)[0]
    if failure:
        raise InputError(failure)
    return result
