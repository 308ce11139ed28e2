"""Which processor to compute on, and with which numbers."""

from __future__ import annotations

import warnings

import torch
from torch.nn.functional import conv3d

from rsaseg.errors import DeviceError, InputError

PRECISIONS = ("auto", "float32", "bfloat16")


def choose_device(name: str = "auto") -> torch.device:
    """Return a processor that computed a small 3D convolution rightly just now.

    Parameters
    ----------
    name : str
        "auto" (CUDA, else MPS, else the CPU), "cuda", "cuda:1", "mps" or "cpu".

    Raises
    ------
    DeviceError
        If a named device is unknown, missing or computes wrongly. "auto" passes such a one over.
    """
    if name == "auto":
        accelerators = (torch.device("cuda"), torch.device("mps"))
        return next((d for d in accelerators if device_fault(d) is None), torch.device("cpu"))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise DeviceError(f"device {name!r} is unknown: use auto, cpu, cuda, cuda:1 or mps")
    if fault := device_fault(device):
        raise DeviceError(f"device {name!r} cannot be used: {fault}; use --device cpu or auto")
    return device


def device_fault(device: torch.device) -> str | None:
    """Return what keeps a device from computing, on one line; None if it works."""
    missing = _missing(device)
    if missing:
        return missing
    x = torch.linspace(-1, 1, 2 * 3 * 4 * 5).view(1, 2, 3, 4, 5)
    kernel = torch.linspace(1, -1, 3 * 2 * 27).view(3, 2, 3, 3, 3)
    expected = conv3d(x, kernel, padding=1)
    try:
        with warnings.catch_warnings(action="ignore"):
            result = conv3d(x.to(device), kernel.to(device), padding=1).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        return str(error).strip().split("\n")[0] or type(error).__name__
    if not torch.allclose(result, expected, rtol=0.01, atol=0.02):  # TF32 keeps 10 bits
        return "a test convolution came out wrong on it"
    return None


def _missing(device: torch.device) -> str | None:
    with warnings.catch_warnings(action="ignore"):
        if device.type == "cuda" and not torch.cuda.is_available():
            built = torch.version.cuda
            return "no working NVIDIA GPU or driver" if built else "this PyTorch is without CUDA"
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            return f"there are {torch.cuda.device_count()} CUDA devices, counted from 0"
        if device.type == "mps" and not torch.backends.mps.is_available():
            return "no Apple GPU, or this PyTorch is without MPS"
    return None


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """Return the number type for convolutions: bfloat16 where the processor is faster with it.

    On a CPU that takes AMX: with AVX-512 alone the shipped network took as long in bfloat16 as in
    float32.

    Parameters
    ----------
    name : str
        One of `PRECISIONS`.
    device : torch.device
        Where the network runs.

    Raises
    ------
    InputError
        If the name is unknown.
    """
    if name not in PRECISIONS:
        raise InputError(f"precision {name!r} is unknown: use one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        fast = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    else:
        fast = False
    return torch.bfloat16 if fast else torch.float32
