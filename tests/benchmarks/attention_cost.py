"""What attention costs: the RSA block against the non-local block, counted and measured.

    python tests/benchmarks/attention_cost.py [--network paper|default] [--repeat 3] [--threads 2]

Counted: multiply-adds and the bytes of the attention maps, float32, one exam; the non-local block
works on half of the channels, as its authors have it. Measured: seconds
and the memory a block takes at its peak, each in a process of its own; a form that would need
more than 3 GB is not run. A position's time is the sum over its blocks, its memory the largest.
The forms:

- RSA printed: equations (1) and (2) of the paper, each convolution carried out.
- RSA: rsaseg's block, the folded form.
- NL map: the non-local block with its map of voxels by voxels held in memory.
- NL: rsaseg's block, which never holds the map.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import torch
from torch import Tensor, nn

from rsaseg.networks.attention import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    NonLocalBlock,
    RSABlock,
    slice_attention,
)
from rsaseg.networks.unet import DEFAULT, PAPER, NetworkConfig

CROPS = {  # as the paper writes sizes, to (D, H, W)
    "96x128x32": (32, 128, 96),
    "160x160x48": (48, 160, 160),
    "256x256x48": (48, 256, 256),
}
POSITIONS = {"010": (0,), "101": (1, 1), "111": (1, 0, 1)}  # levels above the bottom
LARGEST_BYTES = 3 * 10**9
CLAIMED_MEMORY, CLAIMED_OPERATIONS = 28, 100


@dataclass(frozen=True)
class FeatureMap:
    """Channels and size of what a block attends over."""

    channels: int
    size: tuple[int, int, int]

    @property
    def voxels(self) -> int:
        d, h, w = self.size
        return d * h * w

    def rsa_map_bytes(self) -> int:
        return 4 * sum(n * n for n in self.size)

    def non_local_map_bytes(self) -> int:
        return 4 * self.voxels**2

    def rsa_map_madds(self) -> int:
        """Scores and mixing in the three directions."""
        return 2 * self.channels * self.voxels * sum(self.size)

    def non_local_map_madds(self) -> int:
        """Scores and mixing over half of the channels."""
        return 2 * (self.channels // 2) * self.voxels**2

    def rsa_madds(self, convolutions: int) -> int:
        """Also the 1x1x1 convolutions of each direction: 3 as printed, 2 folded."""
        return self.rsa_map_madds() + 3 * convolutions * self.channels**2 * self.voxels

    def non_local_madds(self) -> int:
        return self.non_local_map_madds() + 4 * (self.channels**2 // 2) * self.voxels


def feature_map(config: NetworkConfig, crop: tuple[int, int, int], above: int) -> FeatureMap:
    """The map ``above`` levels over the bottom."""
    level = len(config.channels) - 1 - above
    size = tuple(ceil(ceil(n / p) / 2**level) for n, p in zip(crop, config.patch_vox, strict=True))
    return FeatureMap(config.channels[level], size)


def rsa_printed(block: RSABlock, m: Tensor) -> Tensor:
    for alpha, axis in zip(block.alpha, (SAGITTAL, CORONAL, AXIAL), strict=True):
        q, k, v = block.query(m), block.key(m), block.value(m)
        m = alpha * slice_attention(q, k, v, axis, block.scaled) + m
    return m


def non_local_held(block: NonLocalBlock, x: Tensor) -> Tensor:
    theta, phi, g = (conv(x).flatten(2) for conv in (block.theta, block.phi, block.g))
    f = torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
    y = (g @ f.transpose(1, 2)).view(*g.shape[:2], *x.shape[2:])
    return block.out(y) + x


FORMS: dict[str, tuple[type[nn.Module], Callable[..., Tensor]]] = {
    "RSA printed": (RSABlock, rsa_printed),
    "RSA": (RSABlock, RSABlock.forward),
    "NL map": (NonLocalBlock, non_local_held),
    "NL": (NonLocalBlock, NonLocalBlock.forward),
}


def peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def run(
    form: str, where: FeatureMap, training: bool, repeat: int, threads: int
) -> tuple[float, int]:
    """Best seconds of one pass, and the bytes it takes beyond the block and its input."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    make, forward = FORMS[form]
    block = make(where.channels)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.02)
    m = torch.randn(1, where.channels, *where.size).relu()
    m = m.contiguous(memory_format=torch.channels_last_3d).requires_grad_(training)
    before, best = peak_bytes(), float("inf")
    for _ in range(repeat + 1):  # the first warms up
        start = time.perf_counter()
        with torch.set_grad_enabled(training):
            found = forward(block, m)
            if training:
                found.sum().backward()
        best = min(best, time.perf_counter() - start)
        del found
    return best, peak_bytes() - before


def measure(
    form: str, where: FeatureMap, training: bool, repeat: int, threads: int
) -> tuple[float, int] | None:
    """`run` in a process of its own; None where it would take too much memory."""
    held = 3 if training else 2  # scores and softmax, and the gradient of one of them
    if form == "NL map" and held * where.non_local_map_bytes() > LARGEST_BYTES:
        return None
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(run, (form, where, training, repeat, threads))


def table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, ["-" * n for n in widths], *rows):
        print("| " + " | ".join(c.rjust(n) for c, n in zip(row, widths, strict=True)) + " |")
    print(flush=True)


def holds(ratio: float, claim: float) -> str:
    return f"{ratio:,.1f} {'yes' if ratio >= claim else 'NO'}"


def counted(config: NetworkConfig) -> None:
    print("Counted, RSA against non-local; yes: what the paper claims holds")
    rows = []
    for crop, size in CROPS.items():
        for position, levels in POSITIONS.items():
            maps = [feature_map(config, size, above) for above in levels]
            memory = [sum(m.rsa_map_bytes() for m in maps)]
            memory.append(sum(m.non_local_map_bytes() for m in maps))
            operations = [sum(m.rsa_map_madds() for m in maps)]
            operations.append(sum(m.non_local_map_madds() for m in maps))
            whole = [sum(m.rsa_madds(n) for m in maps) for n in (3, 2)]
            whole.append(sum(m.non_local_madds() for m in maps))
            rows.append(
                [
                    *(crop, position),
                    *(f"{n / 1e6:,.3f}" for n in memory),
                    holds(memory[1] / memory[0], CLAIMED_MEMORY),
                    *(f"{n / 1e6:,.1f}" for n in operations),
                    holds(operations[1] / operations[0], CLAIMED_OPERATIONS),
                    *(f"{n / 1e6:,.0f}" for n in whole),
                    f"{whole[2] / whole[1]:.2f}",
                ]
            )
    claims = [f">= {CLAIMED_MEMORY}x", f">= {CLAIMED_OPERATIONS}x"]
    head = ["crop", "place", "maps MB RSA", "NL", claims[0], "maps Mmadd RSA", "NL", claims[1]]
    table([*head, "block Mmadd RSA printed", "RSA", "NL", "NL / RSA"], rows)
    cubes = [FeatureMap(2, (n, n, n)) for n in range(1, 100)]
    small = next(c for c in cubes if c.non_local_map_bytes() >= CLAIMED_MEMORY * c.rsa_map_bytes())
    quick = next(
        c for c in cubes if c.non_local_map_madds() >= CLAIMED_OPERATIONS * c.rsa_map_madds()
    )
    print(
        f"In a cube the memory claim holds from {small.size[0]} positions a side on, the", end=" "
    )
    print(f"operations claim from {quick.size[0]}.\n")


def measured(config: NetworkConfig, training: bool, repeat: int, threads: int) -> None:
    print("Measured,", "training (forward and backward)" if training else "inference")
    done: dict[tuple[str, FeatureMap], tuple[float, int] | None] = {}
    rows = []
    for crop, size in CROPS.items():
        for position, levels in POSITIONS.items():
            maps = [feature_map(config, size, above) for above in levels]
            seconds: dict[str, float | None] = {}
            peak: dict[str, int | None] = {}
            for form in FORMS:
                for where in maps:
                    if (form, where) not in done:
                        done[form, where] = measure(form, where, training, repeat, threads)
                found = [done[form, where] for where in maps]
                fits = [f for f in found if f is not None]
                complete = len(fits) == len(found)
                seconds[form] = sum(f[0] for f in fits) if complete else None
                peak[form] = max(f[1] for f in fits) if complete else None
            times = [f"{1e3 * s:,.1f}" if s else "> 3 GB" for s in seconds.values()]
            peaks = [f"{b / 1e6:,.1f}" if b is not None else "> 3 GB" for b in peak.values()]
            faster = (seconds["RSA printed"] or 0) / (seconds["RSA"] or 1)
            rows.append([crop, position, *times, f"{faster:.2f}", *peaks])
    head = [*(f"{form} ms" for form in FORMS), "printed / RSA", *(f"{form} MB" for form in FORMS)]
    table(["crop", "place", *head], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=["paper", "default"], default="paper")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    config = PAPER if options.network == "paper" else DEFAULT
    load = os.getloadavg()[0]
    print(f"{options.network}: channels {config.channels}, patch {config.patch_vox}; ", end="")
    print(f"{options.threads} threads, load {load:.1f} before the start\n")
    counted(config)
    for training in (False, True):
        measured(config, training, options.repeat, options.threads)


if __name__ == "__main__":
    main()
