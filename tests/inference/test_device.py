from __future__ import annotations

import pytest
import torch
from torch.nn.functional import conv3d

from rsaseg.errors import DeviceError, InputError
from rsaseg.inference import device as under_test
from rsaseg.inference.device import choose_device, choose_precision, device_fault

CPU = torch.device("cpu")


def test_the_cpu_works():
    assert choose_device("cpu") == CPU
    assert device_fault(CPU) is None


@pytest.mark.parametrize("name", ["gpu", "meta", "", "cuda:x", "xpu"])
def test_an_unknown_device_is_refused_with_the_ones_there_are(name):
    with pytest.raises(DeviceError, match="is unknown: use auto, cpu, cuda, cuda:1 or mps"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:77", "mps"])
def test_a_named_device_that_is_missing_is_refused_with_the_fix(name):
    if device_fault(torch.device(name)) is None:
        pytest.skip(f"{name} works here")
    with pytest.raises(DeviceError, match=f"device '{name}' cannot be used: .*use --device cpu"):
        choose_device(name)


@pytest.mark.parametrize(
    ("working", "chosen"), [({"cuda", "mps"}, "cuda"), ({"mps"}, "mps"), (set(), "cpu")]
)
def test_auto_takes_the_first_that_works(monkeypatch, working, chosen):
    monkeypatch.setattr(
        under_test, "device_fault", lambda d: None if d.type in working else "broken"
    )
    assert choose_device("auto").type == chosen


def test_a_device_that_computes_wrongly_is_not_trusted(monkeypatch):
    calls = iter([1.0, 1.5])  # the reference, then the device's own
    monkeypatch.setattr(under_test, "conv3d", lambda *a, **k: conv3d(*a, **k) * next(calls))
    with pytest.raises(DeviceError, match="came out wrong"):
        choose_device("cpu")


def test_a_device_that_fails_in_a_kernel_is_not_trusted(monkeypatch):
    def failing(x, *args, **kwargs):
        if next(calls):
            raise RuntimeError("no kernel image is available\nmore lines")
        return conv3d(x, *args, **kwargs)

    calls = iter([False, True])
    monkeypatch.setattr(under_test, "conv3d", failing)
    with pytest.raises(DeviceError, match=r"no kernel image is available; use --device cpu or"):
        choose_device("cpu")


def test_precision_named_and_unknown():
    assert choose_precision("float32", CPU) is torch.float32
    assert choose_precision("bfloat16", CPU) is torch.bfloat16
    assert choose_precision("auto", torch.device("mps")) is torch.float32
    with pytest.raises(InputError, match="float16"):
        choose_precision("float16", CPU)


@pytest.mark.parametrize(
    ("has", "dtype"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_bfloat16_only_where_the_cpu_is_faster_with_it(monkeypatch, has, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert choose_precision("auto", CPU) is dtype
